//! What the benches of several backends have in common: the built binary's processes, and a client that sees what
//! clients see.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use loopgate::sse::{DONE, Frames};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

/// A client that waits longer has failed. Chosen: the gateway lets nobody wait for room in a cache for over three minutes.
const PATIENCE: Duration = Duration::from_mins(5);
/// A gateway that has not seen its backends by then never does. Chosen: several probes.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at the metrics.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The value of a flag of the bench's own.
pub fn flag(name: &str) -> Option<u64> {
    let value = std::env::args().skip_while(|argument| argument != name).nth(1)?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {value:?}")))
}

/// Whether a flag without a value is there.
pub fn has_flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// How many processors there are.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The duration below which so many of a hundred stayed.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

// === processes ===

/// A process of the built binary's, which is killed when this is dropped.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Process {
    /// Starts one and waits until it listens.
    pub fn start<'a>(command: impl IntoIterator<Item = &'a str>) -> Self {
        let command: Vec<_> = command.into_iter().collect();
        let mut child = Command::new(env!("CARGO_BIN_EXE_loopgate"))
            .args(&command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // `mock` says where it listens as a command's output, `serve` as a line of its log.
        let (out, log) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let said: Box<dyn Read + Send> = if command[0] == "mock" { Box::new(out) } else { Box::new(log) };
        let mut said = BufReader::new(said).lines().map_while(Result::ok);
        let mut before = Vec::new();
        let address = said.by_ref().find_map(|line| {
            let address = line.split_once(" on http://").map(|(_, rest)| rest.split_whitespace().next());
            before.push(line.clone());
            Some(address??.to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("{command:?} did not start:\n{}", before.join("\n")));
        // What it says later must not fill the pipe.
        let shown = command[0] == "serve" && has_flag("--log");
        std::thread::spawn(move || {
            for line in said.filter(|_| shown) {
                eprintln!("{line}");
            }
        });
        Self { child, address }
    }

    /// Has it stand still as if it hung: connections are taken by the kernel, and nothing is ever answered.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A scripted backend that keeps its port while it is dead.
pub struct Mock {
    process: Option<Process>,
    flags: Vec<String>,
    pub address: SocketAddr,
    /// Bound, so that the system gives the port to nobody, and not listening, so that whoever names it can have it.
    _kept: TcpSocket,
}

impl Mock {
    pub fn start(flags: &[&str]) -> Self {
        let kept = TcpSocket::new_v4().unwrap();
        kept.set_reuseaddr(true).unwrap();
        kept.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut mock = Self { process: None, flags, address: kept.local_addr().unwrap(), _kept: kept };
        mock.revive();
        mock
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn revive(&mut self) {
        let address = self.address.to_string();
        let command = ["mock", "--listen", &address].into_iter().chain(self.flags.iter().map(String::as_str));
        self.process = Some(Process::start(command));
    }

    pub fn freeze(&self) {
        self.process.iter().for_each(Process::freeze);
    }
}

/// The gateway in front of backends, in a folder of its own.
pub struct Gateway {
    process: Process,
    client: Http<HttpConnector, Full<Bytes>>,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts it and waits until it has found all backends up.
    pub async fn start(backends: &[Mock], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut command: Vec<_> = ["serve", "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
        for (flag, value) in [
            ("--tools-dir", path(&root.join("tools"))),
            ("--policy-dir", path(&root.join("policies"))),
            ("--cache-dir", path(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))),
            ("--audit", path(&folder.path().join("audit.jsonl"))),
            ("--memory", path(&folder.path().join("memory.redb"))),
        ] {
            command.extend([flag.to_owned(), value]);
        }
        command.extend(backends.iter().flat_map(|mock| ["--backend".to_owned(), format!("http://{}", mock.address)]));
        let process = Process::start(command.iter().map(String::as_str).chain(flags.iter().copied()));
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Http::builder(TokioExecutor::new()).build(connector);
        let gateway = Self { process, client, _folder: folder };
        let begun = Instant::now();
        while gateway.count("loopgate_backend_up{").await < backends.len() as u64 {
            assert!(begun.elapsed() < READY, "the gateway does not find its backends");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        gateway
    }

    /// The sum of all metrics whose line begins so.
    pub async fn count(&self, name: &str) -> u64 {
        self.metrics(name).await.into_iter().sum()
    }

    /// The values of all metrics whose line begins so.
    pub async fn metrics(&self, name: &str) -> Vec<u64> {
        let url = format!("http://{}/metrics", self.process.address).parse().unwrap();
        let body = self.client.get(url).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    }

    /// Asks for a chat completion.
    pub async fn ask(&self, body: &Value) -> Result<Reply, Failed> {
        let asking = self.ask_patiently(body);
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(Failed::new("no end", "")))
    }

    async fn ask_patiently(&self, body: &Value) -> Result<Reply, Failed> {
        let begun = Instant::now();
        let request = http::Request::post(format!("http://{}/v1/chat/completions", self.process.address))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .unwrap();
        let response = self.client.request(request).await.map_err(|error| Failed::new("no answer", error))?;
        let (status, mut body) = (response.status(), response.into_body());
        let (mut heard, mut reply) = (Heard::default(), Reply::default());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| reply.broken("cut", error))?;
            let Ok(data) = frame.into_data() else { continue };
            let was_silent = reply.is_silent();
            heard.feed(&data, &mut reply)?;
            reply.took = begun.elapsed();
            if was_silent && !reply.is_silent() {
                reply.first_word = reply.took;
            }
        }
        heard.end(status, &mut reply)?;
        Ok(reply)
    }
}

// === answers ===

/// An answer as a client sees it.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub text: String,
    /// Names and arguments of its calls.
    pub calls: String,
    pub finish: String,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    /// How long the first of its text or its calls took. Signs of life are none of it.
    pub first_word: Duration,
    pub took: Duration,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// In few words, the same for all of a kind.
    pub how: String,
    pub why: String,
}

impl Failed {
    pub fn new(how: impl Display, why: impl Display) -> Self {
        Self { how: how.to_string(), why: why.to_string() }
    }
}

impl Reply {
    /// Whether these say the same.
    pub fn says(&self, other: &Self) -> bool {
        (&self.text, &self.calls, &self.finish) == (&other.text, &other.calls, &other.finish)
    }

    fn is_silent(&self) -> bool {
        self.text.is_empty() && self.calls.is_empty()
    }

    /// It came so far and then ended otherwise than in the answer's end.
    fn broken(&self, how: impl Display, why: impl Display) -> Failed {
        Failed::new(format!("{how}, {}", if self.is_silent() { "before its first word" } else { "in its middle" }), why)
    }

    /// A chunk's delta or a whole answer's message.
    fn hear(&mut self, value: &Value, message: &str) -> Result<(), Failed> {
        if let Some(error) = value.get("error") {
            return Err(self.broken(error["code"].as_str().unwrap_or("an error without a code"), error));
        }
        let choice = &value["choices"][0];
        self.text.push_str(choice[message]["content"].as_str().unwrap_or_default());
        for call in choice[message]["tool_calls"].as_array().into_iter().flatten() {
            self.calls.push_str(call["function"]["name"].as_str().unwrap_or_default());
            self.calls.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        self.finish.push_str(choice["finish_reason"].as_str().unwrap_or_default());
        let usage = &value["usage"];
        self.prompt_tokens += usage["prompt_tokens"].as_u64().unwrap_or_default();
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_default();
        Ok(())
    }
}

/// An answer's bytes so far.
struct Heard {
    all: Vec<u8>,
    frames: Frames,
    done: bool,
}

impl Default for Heard {
    fn default() -> Self {
        Self { all: Vec::new(), frames: Frames::new(usize::MAX), done: false }
    }
}

impl Heard {
    fn feed(&mut self, data: &[u8], reply: &mut Reply) -> Result<(), Failed> {
        self.all.extend_from_slice(data);
        if !self.is_stream() {
            return Ok(());
        }
        self.frames.feed(data);
        while let Ok(Some(frame)) = self.frames.next_frame() {
            if frame == DONE {
                self.done = true;
                continue;
            }
            let chunk =
                serde_json::from_slice(&frame).map_err(|_| Failed::new("no chunk", String::from_utf8_lossy(&frame)))?;
            reply.hear(&chunk, "delta")?;
        }
        Ok(())
    }

    fn is_stream(&self) -> bool {
        self.all.starts_with(b"data: ")
    }

    fn end(self, status: StatusCode, reply: &mut Reply) -> Result<(), Failed> {
        if self.is_stream() {
            return if self.done { Ok(()) } else { Err(reply.broken("cut", "no [DONE]")) };
        }
        let text = String::from_utf8_lossy(&self.all);
        let whole = serde_json::from_str(&text).map_err(|_| Failed::new(format!("{status}, no JSON"), text))?;
        reply.hear(&whole, "message")
    }
}
