//! Runs against a scripted server of our own, in processes of their own: the cookbook's three, direct and through the
//! gateway, and what the bench itself costs.

use super::{Backend, DataSet, Failed, Plan, Report, Target, Tell, Wanted, measure};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// This program, also when its file was replaced.
const PROGRAM: &str = "/proc/self/exe";
/// No request of a scenario takes longer, nor is silent for longer. Chosen.
const PATIENCE: Duration = Duration::from_mins(10);

/// The cookbook's runs: requests, and how many at once.
pub const RUNS: [(u32, u32); 3] = [(10, 1), (80, 16), (320, 64)];
/// The server behind the page, 8 MI300X, as far as its figures tell it. A token takes 17.06 ms alone, and 0.8 ms more for
/// each other request: 27.3 ms beside 12.8, 63.4 ms beside 57.9 others, where the page has 29.4 and 63.0 on average.
const PACE_US: f64 = 17_060.0;
const PACE_BATCH_US: f64 = 800.0;
/// What a first token takes besides: with 500 tokens of prompt, and the pace, the page's medians are 126, 157 and 182 ms.
const TTFT_US: f64 = 91_000.0;
const PREFILL_US: f64 = 36.0;

/// Requests of the cost run, how many at once, and tokens of each: some seconds. Chosen.
const COST_RUN: (u32, u32, u32) = (640, 64, 256);
/// Its server: 64 streams of a token each 2.5 ms are 25,600 a second.
const COST_SERVER: [&str; 4] = ["--ttft-ms", "50", "--pace-us", "2500"];
/// The bars: events for a second of processor time, and by how much a first token may be seen later than it was written.
const EVENTS_MIN: f64 = 20_000.0;
const BEYOND_P50_MS_MAX: f64 = 2.0;

/// A run of the cookbook's, twice; once if it was stopped in between.
#[derive(Debug)]
pub struct Pair {
    /// Requests.
    pub prompts: u32,
    /// So many at once.
    pub at_once: u32,
    /// Straight to the server.
    pub direct: Report,
    /// Through the gateway.
    pub gateway: Option<Report>,
}

/// Why a scenario ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A process of ours.
    #[error("`loopgate {0}` does not start: {1}")]
    Start(&'static str, String),
    /// A folder for the gateway's files.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bench.
    #[error(transparent)]
    Bench(#[from] Failed),
}

/// What the bench itself costs, against its bars.
#[derive(Debug)]
pub struct Cost {
    /// Events that a core reads in a second.
    pub events_per_cpu_s: f64,
    /// Median of how much later a first token was seen than the server's own clock has it, in milliseconds.
    pub beyond_p50_ms: f64,
    /// The same of 99 of 100.
    pub beyond_p99_ms: f64,
    /// Every bar is met.
    pub met: bool,
}

/// The cookbook's three runs, with all times of the modelled server divided by `speed`. With `stop`, those that have begun
/// by then. `ready` hears of each that begins.
///
/// # Errors
/// When a process does not start or answers nothing, or when none has begun.
pub async fn cookbook(
    speed: f64,
    stop: &CancellationToken,
    mut ready: impl FnMut(&str, usize) -> Tell,
) -> Result<Vec<Pair>, Broken> {
    let flags = [("--pace-us", PACE_US), ("--pace-batch-us", PACE_BATCH_US), ("--prefill-us", PREFILL_US)];
    let mut command: Vec<_> = flags.into_iter().flat_map(|(flag, us)| [flag.to_owned(), scaled(us, speed)]).collect();
    command.extend(["--ttft-ms".to_owned(), scaled(TTFT_US / 1e3, speed)]);
    let server = Process::start("mock", command, Path::new("."))?;
    let folder = Folder::new()?;
    let gateway = gateway(&server, &folder.0)?;
    let mut pairs = Vec::new();
    for (prompts, at_once) in RUNS {
        let mut run = async |name: &str, process: &Process| {
            let plan = plan(process, prompts, at_once, 1000, 0.0)?;
            measure(plan, stop, |requests| ready(&format!("{at_once} at once, {name}"), requests))
                .await
                .map_err(Broken::Bench)
        };
        let direct = match run("direct", &server).await {
            Err(Broken::Bench(Failed::Stopped)) if !pairs.is_empty() => break,
            direct => direct?,
        };
        let gateway = match run("through the gateway", &gateway).await {
            Err(Broken::Bench(Failed::Stopped)) => None,
            gateway => Some(gateway?),
        };
        pairs.push(Pair { prompts, at_once, direct, gateway });
    }
    Ok(pairs)
}

/// What the bench costs, with a server that has something to say all the time.
///
/// # Errors
/// When the server does not start or does not answer.
pub async fn cost(stop: &CancellationToken, ready: impl FnOnce(usize) -> Tell) -> Result<(Report, Cost), Broken> {
    let server = Process::start("mock", COST_SERVER.map(str::to_owned).to_vec(), Path::new("."))?;
    let (prompts, at_once, tokens) = COST_RUN;
    let report = measure(plan(&server, prompts, at_once, tokens, 1.0)?, stop, ready).await?;
    let figure = |name| report.cost(name).unwrap_or(f64::NAN);
    let (events_per_cpu_s, beyond_p50_ms) = (figure("events_per_cpu_s"), figure("ttft_beyond_server_p50_ms"));
    let met = report.is_whole() && events_per_cpu_s >= EVENTS_MIN && beyond_p50_ms <= BEYOND_P50_MS_MAX;
    let cost = Cost { events_per_cpu_s, beyond_p50_ms, beyond_p99_ms: figure("ttft_beyond_server_p99_ms"), met };
    Ok((report, cost))
}

impl std::fmt::Display for Cost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { events_per_cpu_s, beyond_p50_ms, beyond_p99_ms, .. } = self;
        let word = |met: bool| if met { "met" } else { "MISSED" };
        writeln!(
            out,
            "events for a second of processor time: {events_per_cpu_s:.0}, bar {EVENTS_MIN}: {}",
            word(*events_per_cpu_s >= EVENTS_MIN)
        )?;
        write!(
            out,
            "first tokens seen later than written: median {beyond_p50_ms:.2} ms, bar {BEYOND_P50_MS_MAX} ms: {}; 99 of 100 within {beyond_p99_ms:.2} ms",
            word(*beyond_p50_ms <= BEYOND_P50_MS_MAX),
        )
    }
}

/// Whole units of a flag, at least one.
fn scaled(units: f64, speed: f64) -> String {
    format!("{:.0}", (units / speed).max(1.0))
}

fn plan(process: &Process, prompts: u32, at_once: u32, tokens: u32, range_ratio: f64) -> Result<Plan, Broken> {
    let target = Target::new(&format!("http://{}", process.address), None, PATIENCE, PATIENCE);
    let wanted = Wanted {
        data_set: DataSet::Random,
        path: None,
        prompts,
        input_len: tokens,
        output_len: tokens,
        range_ratio,
        seed: 1,
        tokenizer: None,
        as_ids: false,
        request_rate: None,
    };
    Ok(Plan {
        target: target.map_err(|why| Broken::Start("mock", why))?,
        backend: Backend::Sglang,
        model: None,
        wanted,
        at_once: Some(at_once as usize),
        warm_ups: 1,
    })
}

/// A gateway with the tools and policies that are here, but with files of its own: this folder's configuration may ask
/// for keys, or have other backends.
fn gateway(server: &Process, folder: &Path) -> Result<Process, Broken> {
    let backend = format!("http://{}", server.address);
    let (audit, config) = (folder.join("audit.jsonl"), folder.join("loopgate.toml"));
    std::fs::write(&config, "")?;
    let (audit, config) = (audit.display().to_string(), config.display().to_string());
    let flags = [("--config", config.as_str()), ("--backend", &backend), ("--audit", &audit), ("--memory", ":memory:")];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
    Process::start("serve", flags.collect(), Path::new("."))
}

/// A folder that goes when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("loopgate-bench-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// This program with another command, killed when this is dropped.
struct Process {
    child: Child,
    /// Where it listens.
    address: String,
}

impl Process {
    /// Starts it, and waits until it says where it listens.
    fn start(command: &'static str, flags: Vec<String>, folder: &Path) -> Result<Self, Broken> {
        let child = Command::new(PROGRAM)
            .args([command, "--listen", "127.0.0.1:0"])
            .args(flags)
            .current_dir(folder)
            // Ctrl-C is the bench's: what it measures must not end before its report.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut process = Self { child, address: String::new() };
        // The scripted server says where it listens on stdout, the gateway in its log.
        let (out, log) = (process.child.stdout.take(), process.child.stderr.take());
        let out = out.into_iter().map(|out| Box::new(out) as Box<dyn Read + Send>);
        let log = log.into_iter().map(|log| Box::new(log) as Box<dyn Read + Send>);
        let said: Vec<_> = if command == "mock" { out.chain(log).collect() } else { log.chain(out).collect() };
        let mut lines =
            said.into_iter().map(|said| BufReader::new(said).lines().map_while(Result::ok)).collect::<Vec<_>>();
        let mut before = Vec::new();
        let found = lines.first_mut().and_then(|lines| {
            lines.by_ref().find_map(|line| {
                let address = line.split_once(" on http://").and_then(|(_, rest)| rest.split_whitespace().next());
                let address = address.map(str::to_owned);
                before.push(line);
                address
            })
        });
        if found.is_none() {
            before.extend(lines.into_iter().flatten());
            return Err(Broken::Start(command, before.join("\n")));
        }
        process.address = found.unwrap_or_default();
        // What it says later must not fill the pipes.
        for said in lines {
            std::thread::spawn(move || said.for_each(drop));
        }
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
