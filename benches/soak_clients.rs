//! Hundreds of streaming clients at once, each with a hidden execution in its turn, against the built binary in front of
//! `loopgate mock`: does every one get its answer, do heartbeats come in time, and what does a waiting stream weigh?
//!
//! The gateway and the scripted model are processes of their own, so that memory is the gateway's alone. Exits with 1 when
//! a bar is missed.
//!
//! `cargo bench --bench soak_clients -- [--clients N] [--waves N] [--interpreters N]`

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at the first trouble")]

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What the policy promises. Chosen: a tenth of the default, so that a wave has thousands of heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What each model call takes to begin: long enough for all clients to wait at the same time. Chosen.
const TTFT: Duration = Duration::from_secs(6);
/// Turns before the first that counts: the guest is loaded, threads and connections are there. Chosen.
const WARM_UP: usize = 8;
/// A client that waits longer has failed. Chosen: many times what a turn takes.
const PATIENCE: Duration = Duration::from_mins(2);

/// The bar for the 99th of 100 gaps that end in a heartbeat.
const GAP_P99_MAX: Duration = Duration::from_millis(1_200);
/// The bar for memory per waiting stream, in kilobytes.
const STREAM_KB_MAX: f64 = 60.0;

const POLICY: &str = "callers = ['*']\nsilence = { heartbeat_ms = 1000, commit_after_ms = 1000 }\n\
                      [[grants]]\ntools = ['execute_code']\nwhy = 'the bench runs it'\n";

fn main() -> ExitCode {
    let (clients, waves) = (flag("--clients").unwrap_or(500), flag("--waves").unwrap_or(3));
    let ttft = TTFT.as_millis().to_string();
    let mock = Server::start(&["mock", "--listen", "127.0.0.1:0", "--ttft-ms", &ttft]);
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(&mock, folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let soak = Soak { gateway: Arc::new(gateway), mock: mock.address.clone() };
    runtime.block_on(soak.wave(WARM_UP));
    let waves: Vec<Wave> = (0..waves).map(|_| runtime.block_on(soak.wave(clients))).collect();
    if report(clients, &waves) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn flag(name: &str) -> Option<usize> {
    let value = std::env::args().skip_while(|argument| argument != name).nth(1)?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {value:?}")))
}

fn gateway(mock: &Server, folder: &Path) -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let policies = folder.join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("default.toml"), POLICY).unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let backend = format!("http://{}", mock.address);
    let mut command = vec!["serve".to_owned()];
    for (flag, value) in [
        ("--listen", "127.0.0.1:0"),
        ("--backend", &backend),
        ("--tools-dir", root.join("tools").to_str().unwrap()),
        ("--policy-dir", policies.to_str().unwrap()),
        ("--cache-dir", cache.to_str().unwrap()),
        ("--audit", folder.join("audit.jsonl").to_str().unwrap()),
        ("--memory", folder.join("memory.redb").to_str().unwrap()),
    ] {
        command.extend([flag.to_owned(), value.to_owned()]);
    }
    if let Some(interpreters) = flag("--interpreters") {
        command.extend(["--interpreters-max".to_owned(), interpreters.to_string()]);
    }
    Server::start(&command.iter().map(String::as_str).collect::<Vec<_>>())
}

// === processes ===

/// A process's memory, in kilobytes.
#[derive(Clone, Copy)]
struct Memory {
    /// Pages that are mapped and in memory. A page that several interpreters share counts for each of them.
    resident_kb: usize,
    /// Pages that it has for itself.
    own_kb: usize,
}

/// A process of the built binary's, which ends when this is dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(command: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_loopgate"))
            .args(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // `mock` says where it listens as a command's output, `serve` as a line of its log.
        let (out, log) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let said: Box<dyn Read + Send> = if command[0] == "mock" { Box::new(out) } else { Box::new(log) };
        let mut said = BufReader::new(said).lines();
        let address = said.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once(" on http://")?;
            Some(address.split_whitespace().next()?.to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("`loopgate {}` did not start", command[0]));
        // What it says later must not fill the pipe.
        std::thread::spawn(move || said.for_each(drop));
        Self { process, address }
    }

    /// Memory now, from /proc.
    fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let kb = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Memory { resident_kb: kb("VmRSS:"), own_kb: kb("RssAnon:") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// === clients ===

struct Soak {
    gateway: Arc<Server>,
    mock: String,
}

/// All clients once.
struct Wave {
    took: Duration,
    /// Why turns failed, one entry each.
    failed: Vec<String>,
    /// Silence before each heartbeat.
    gaps: Vec<Duration>,
    /// Memory before, while all wait for their first model call, and at most.
    before: Memory,
    waiting: Memory,
    most: Memory,
}

impl Soak {
    async fn wave(&self, clients: usize) -> Wave {
        let (start, before) = (Instant::now(), self.gateway.memory());
        let opened = Arc::new(AtomicUsize::new(0));
        let mut turns = JoinSet::new();
        for number in 0..clients {
            let (gateway, opened) = (self.gateway.clone(), opened.clone());
            turns.spawn(async move {
                let turn = turn(&gateway.address, number, &opened);
                tokio::time::timeout(PATIENCE, turn).await.unwrap_or_else(|_| Err(format!("no end in {PATIENCE:?}")))
            });
        }
        // A wave that fails early has an end, too.
        while opened.load(Ordering::Relaxed) < clients || self.running().await < clients {
            if start.elapsed() > TTFT {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let waiting = self.gateway.memory();
        let mut wave =
            Wave { took: Duration::ZERO, failed: Vec::new(), gaps: Vec::new(), before, waiting, most: waiting };
        while let Some(turn) = turns.join_next().await {
            match turn.unwrap() {
                Ok(gaps) => wave.gaps.extend(gaps),
                Err(why) => wave.failed.push(why),
            }
            let now = self.gateway.memory();
            wave.most.resident_kb = wave.most.resident_kb.max(now.resident_kb);
            wave.most.own_kb = wave.most.own_kb.max(now.own_kb);
        }
        wave.took = start.elapsed();
        wave
    }

    /// Requests that the scripted model is busy with.
    async fn running(&self) -> usize {
        let mut stream = TcpStream::connect(&self.mock).await.unwrap();
        stream.write_all(b"GET /v1/loads HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (_, count) = answer.split_once("\"num_running_reqs\":").unwrap();
        count.split(',').next().unwrap().trim().parse().unwrap()
    }
}

/// One turn as a client sees it: the silence before each heartbeat, or what was wrong.
async fn turn(gateway: &str, number: usize, opened: &AtomicUsize) -> Result<Vec<Duration>, String> {
    let body = format!(
        r#"{{"model":"qwen3-coder","stream":true,"messages":[{{"role":"user","content":"What is {number} + 100000?"}}]}}"#
    );
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let broken = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(gateway).await.map_err(broken)?;
    stream.write_all((head + &body).as_bytes()).await.map_err(broken)?;
    // Each event is well below this.
    let mut lines = tokio::io::BufReader::with_capacity(2048, stream).lines();
    let (mut text, mut gaps, mut last) = (String::new(), Vec::new(), None);
    while let Some(line) = lines.next_line().await.map_err(broken)? {
        let Some(event) = line.strip_prefix("data: ") else { continue };
        let now = Instant::now();
        if event == "[DONE]" {
            let wanted = format!("The result is {}.", number + 100_000);
            return if text == wanted { Ok(gaps) } else { Err(format!("{text:?} instead of {wanted:?}")) };
        }
        let chunk: serde_json::Value = serde_json::from_str(event).map_err(|_| format!("no chunk: {event}"))?;
        if chunk["error"].is_object() {
            return Err(chunk["error"].to_string());
        }
        let choice = &chunk["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        let silent = choice["delta"].as_object().is_some_and(serde_json::Map::is_empty) && chunk["loopgate"].is_null();
        match last.replace(now) {
            None => drop(opened.fetch_add(1, Ordering::Relaxed)),
            Some(last) if silent && choice["finish_reason"].is_null() => gaps.push(now - last),
            Some(_) => {}
        }
    }
    Err("the stream ended without [DONE]".to_owned())
}

// === the report ===

/// Prints the table. True: every bar is met.
#[expect(clippy::cast_precision_loss, reason = "kilobytes and counts are far below 2^52")]
fn report(clients: usize, waves: &[Wave]) -> bool {
    println!("{clients} streaming clients at once, a hidden execution each, on {} cores", cores());
    println!("                              RSS (MB)                  own (MB)               gaps (ms)");
    println!("  wave  good  failed   took   before  waiting  at most   at most   heartbeats    p50    p99    max");
    let mut gaps = Vec::new();
    for (number, wave) in (1..).zip(waves) {
        let mut own = wave.gaps.clone();
        own.sort();
        let megabytes = |kb: usize| kb as f64 / 1e3;
        println!(
            "  {number:<4} {:>5}  {:>6}  {:>3.0} s  {:>7.1}  {:>7.1}  {:>7.0}   {:>7.0}   {:>10}  {:>5}  {:>5}  {:>5}",
            clients - wave.failed.len(),
            wave.failed.len(),
            wave.took.as_secs_f64(),
            megabytes(wave.before.resident_kb),
            megabytes(wave.waiting.resident_kb),
            megabytes(wave.most.resident_kb),
            megabytes(wave.most.own_kb),
            own.len(),
            percentile(&own, 50).as_millis(),
            percentile(&own, 99).as_millis(),
            percentile(&own, 100).as_millis(),
        );
        gaps.extend(own);
    }
    gaps.sort();
    let failed: Vec<&String> = waves.iter().flat_map(|wave| &wave.failed).collect();
    let p99 = percentile(&gaps, 99);
    // Of the first wave: later ones find memory that the first has left.
    let grown_kb = |wave: &Wave| wave.waiting.resident_kb.saturating_sub(wave.before.resident_kb);
    let stream_kb = waves.first().map_or(0, grown_kb) as f64 / clients as f64;
    let bar = |met: bool| if met { "met" } else { "MISSED" };
    let met = [failed.is_empty(), !gaps.is_empty() && p99 <= GAP_P99_MAX, stream_kb <= STREAM_KB_MAX];
    println!("  no error: {} failed turns: {}", failed.len(), bar(met[0]));
    println!("  heartbeats every {HEARTBEAT:?}: p99 of gaps {p99:.3?}, bar {GAP_P99_MAX:?}: {}", bar(met[1]));
    println!("  a stream that waits for the model: {stream_kb:.1} KB, bar {STREAM_KB_MAX} KB: {}", bar(met[2]));
    println!(
        "  No interpreter is at work while all wait for their first model call; \"at most\" has all of them in it. They"
    );
    println!("  share most of their pages, which RSS counts for each of them; \"own\" counts what is no other's.");
    for why in failed.iter().take(5) {
        println!("  failed: {why}");
    }
    met.iter().all(|met| *met)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
