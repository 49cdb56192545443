//! Runs against a scripted server of our own, in processes of their own: the cookbook's three, direct and through the
//! gateway, and what the bench itself costs.

mod model;
mod process;

use super::{Backend, DataSet, Failed, Plan, Report, Tell, Wanted, measure};
use crate::client::{Patience, Target};
use process::Process;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// No request of a scenario takes longer. Chosen.
const PATIENCE: Patience = Patience::of(Duration::from_mins(10));

/// The cookbook's runs: requests, and how many at once.
pub const RUNS: [(u32, u32); 3] = [(10, 1), (80, 16), (320, 64)];
/// Tokens of its prompts and answers at most.
const TOKENS_MAX: u32 = 1000;

/// Requests of the cost run, how many at once, and tokens of each: some seconds. Chosen.
const COST_RUN: (u32, u32, u32) = (640, 64, 256);
/// Its server: 64 streams of a token each 2.5 ms are 25,600 a second.
const COST_SERVER: [&str; 4] = ["--ttft-ms", "50", "--pace-us", "2500"];
/// The bars: events for a second of processor time, and by how much a first token may be seen later than it was written. Two
/// idle cores showed 71,000 to 77,000 events, 1.3 to 1.5 ms in the median and 2.7 to 4.7 ms for 99 of 100, with all 64
/// streams begun at once; the last is about twice the largest.
const EVENTS_MIN: f64 = 20_000.0;
const BEYOND_P50_MS_MAX: f64 = 2.0;
const BEYOND_P99_MS_MAX: f64 = 10.0;

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
    /// The gateway's files.
    #[error("{0}: {1}; the gateway's files go where TMPDIR says")]
    Files(PathBuf, #[source] io::Error),
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
    /// Every request was answered.
    pub whole: bool,
}

impl Cost {
    /// Every bar is met.
    pub fn met(&self) -> bool {
        self.whole && self.bars().iter().all(|(_, met)| *met)
    }

    /// What is held against each bar, and whether it is met. What could not be measured is not.
    fn bars(&self) -> [(String, bool); 3] {
        let Self { events_per_cpu_s: events, beyond_p50_ms: p50, beyond_p99_ms: p99, .. } = *self;
        [
            (format!("events for a second of processor time: {events:.0}, bar {EVENTS_MIN}"), events >= EVENTS_MIN),
            (
                format!("first tokens seen later than written: median {p50:.2} ms, bar {BEYOND_P50_MS_MAX} ms"),
                p50 <= BEYOND_P50_MS_MAX,
            ),
            (
                format!(
                    "first tokens seen later than written: 99 of 100 within {p99:.2} ms, bar {BEYOND_P99_MS_MAX} ms"
                ),
                p99 <= BEYOND_P99_MS_MAX,
            ),
        ]
    }
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
    let parent = std::env::temp_dir();
    let folder = tempfile::Builder::new().prefix("loopgate-bench-").tempdir_in(&parent);
    // Goes when the processes have gone, which are dropped before it.
    let folder = folder.map_err(|error| Broken::Files(parent, error))?;
    let started = async {
        let server = Process::start("mock", model::flags(speed)).await?;
        let gateway = gateway(&server, folder.path()).await?;
        Ok::<_, Broken>((server, gateway))
    };
    let started = stop.run_until_cancelled(started).await;
    let (server, gateway) = started.unwrap_or(Err(Broken::Bench(Failed::Stopped)))?;
    let mut pairs = Vec::new();
    for (prompts, at_once) in RUNS {
        let mut run = async |name: &str, process: &Process| {
            let plan = plan(process, prompts, at_once, TOKENS_MAX, 0.0)?;
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
    let started = stop.run_until_cancelled(Process::start("mock", COST_SERVER.map(str::to_owned).to_vec())).await;
    let server = started.unwrap_or(Err(Broken::Bench(Failed::Stopped)))?;
    let (prompts, at_once, tokens) = COST_RUN;
    let report = measure(plan(&server, prompts, at_once, tokens, 1.0)?, stop, ready).await?;
    let figure = |name| report.cost(name).unwrap_or(f64::NAN);
    let (events_per_cpu_s, beyond_p50_ms) = (figure("events_per_cpu_s"), figure("ttft_beyond_server_p50_ms"));
    let beyond_p99_ms = figure("ttft_beyond_server_p99_ms");
    let cost = Cost { whole: report.is_whole(), events_per_cpu_s, beyond_p50_ms, beyond_p99_ms };
    Ok((report, cost))
}

impl std::fmt::Display for Cost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.bars().map(|(line, met)| format!("{line}: {}", if met { "met" } else { "MISSED" }));
        out.write_str(&lines.join("\n"))
    }
}

fn plan(process: &Process, prompts: u32, at_once: u32, tokens: u32, range_ratio: f64) -> Result<Plan, Broken> {
    let target = Target::new(&format!("http://{}", process.address), None, PATIENCE);
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
async fn gateway(server: &Process, folder: &Path) -> Result<Process, Broken> {
    let (audit, config) = (folder.join("audit.jsonl"), folder.join("loopgate.toml"));
    std::fs::write(&config, "").map_err(|error| Broken::Files(config.clone(), error))?;
    let flags = [
        ("--config", config.display().to_string()),
        ("--backend", format!("http://{}", server.address)),
        ("--audit", audit.display().to_string()),
        ("--memory", ":memory:".to_owned()),
        // It says in its log where it listens.
        ("--log", "info".to_owned()),
        ("--log-format", "text".to_owned()),
    ];
    Process::start("serve", flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_missed_by_what_is_worse_and_by_what_was_not_measured() {
        let good = || Cost { whole: true, events_per_cpu_s: 20_000.0, beyond_p50_ms: 2.0, beyond_p99_ms: 10.0 };
        assert!(good().met());
        for cost in [
            Cost { whole: false, ..good() },
            Cost { events_per_cpu_s: 19_999.0, ..good() },
            Cost { beyond_p50_ms: 2.1, ..good() },
            Cost { beyond_p99_ms: 10.1, ..good() },
            Cost { beyond_p99_ms: f64::NAN, ..good() },
        ] {
            assert!(!cost.met(), "{cost}");
        }
    }
}
