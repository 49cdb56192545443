//! What a program costs in the sandbox, as a turn sees it, against the bars that `docs/sandbox.md` states.

use super::native::Native;
use super::statistics::{Spread, geometric_mean};
use crate::policy::{self, Permit};
use crate::sandbox::{Sandbox, SessionKey, Settings, Spoiled, StartError, Timed};
use futures_util::future::try_join_all;
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

/// The program whose cost is the sandbox's own.
const PRINT: &str = "print(1+1)";
/// Runs that are not counted, after which caches are warm. Chosen.
const WARM_UP: usize = 30;
/// Between two runs that find an interpreter ready: time enough to make one.
const PAUSE: Duration = Duration::from_millis(5);
/// Runs of `python3 -c`, each some 20 ms. Chosen.
const NATIVE_RUNS: usize = 21;

/// Functions of `workloads.py`.
const WORKLOADS: [&str; 13] = [
    "counting",
    "conditions",
    "dictionaries",
    "texts",
    "json_texts",
    "floats",
    "permutations",
    "objects",
    "calls",
    "sorting",
    "patterns",
    "big_numbers",
    "exceptions",
];
const WORKLOADS_TEXT: &str = include_str!("workloads.py");
/// Times that each is run at once, of which the fastest counts.
const WORKLOAD_TIMES: usize = 3;
/// Rounds of what is compared with each other, in turns and of each the best: what else the machine does, and the speed that
/// it has at the moment, is not to fall on one side only.
const ROUNDS: usize = 4;

/// Gives leave to run a program, or says why not.
pub type Leave = Box<dyn Fn(&str) -> Result<Permit, String> + Send + Sync>;

/// What is to be measured.
pub struct Plan {
    /// Programs one by one, for percentiles.
    pub runs: usize,
    /// How long programs are run one after another, for how many there are in a second.
    pub busy: Duration,
    /// The most workers side by side.
    pub workers: u32,
    /// The Python to compare with.
    pub python: OsString,
    /// The sandbox.
    pub settings: Settings,
    /// Leave to run a program.
    pub permit: Leave,
    /// For sessions.
    pub rules: policy::Sessions,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is no sandbox.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The caller may not run programs.
    #[error("{0}")]
    Permit(String),
    /// A program did something else.
    #[error(transparent)]
    Spoiled(#[from] Spoiled),
    /// The native Python did.
    #[error("the native Python failed: {0}")]
    Native(#[from] io::Error),
    /// There is nothing to tell.
    #[error("no runs, no percentiles; ask for at least one")]
    NoRuns,
}

/// What was measured. Times are milliseconds.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// [`PRINT`] in a fresh interpreter, until its outcome is there.
    pub fresh: Spread,
    /// Of it the program itself.
    pub program: Spread,
    /// The same without a pause between two, in which a processor forgets what it had at hand.
    pub in_a_row: Spread,
    /// The same in a session that goes on, restored for each.
    pub session: Spread,
    /// An interpreter's way into rest.
    pub park: Spread,
    /// And back.
    pub restore: Spread,
    /// Bytes that it takes at rest.
    pub parked_bytes: usize,
    /// Fresh interpreters a second, with one worker, with two, and so on.
    pub throughput: Vec<Throughput>,
    /// Beside this machine's own Python, if it has one.
    pub native: Option<Beside>,
    /// Why there is none.
    pub no_native: Option<String>,
    /// What it is to be.
    pub bars: Vec<Bar>,
}

/// How much workers do side by side.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Throughput {
    /// So many.
    pub workers: u32,
    /// Programs, each in a fresh interpreter.
    pub per_second: f64,
}

/// The sandbox beside a native Python.
#[derive(Debug, Serialize)]
pub struct Beside {
    /// Of the native one.
    pub version: String,
    /// `python3 -c` of the same program, from its start to its end.
    pub print: Spread,
    /// What computes.
    pub workloads: Vec<Workload>,
    /// Of their ratios.
    pub geometric_mean: f64,
}

/// A program that computes: the fastest of many runs.
#[derive(Debug, Serialize)]
pub struct Workload {
    /// Its name in `workloads.py`.
    pub name: &'static str,
    /// Here.
    pub sandbox_ms: f64,
    /// There.
    pub native_ms: f64,
    /// How many times as long it takes here.
    pub ratio: f64,
}

/// What a figure is to be.
#[derive(Debug, Serialize)]
pub struct Bar {
    /// Which.
    pub what: &'static str,
    /// What it is. Nothing where it could not be measured: then it is not met.
    pub is: Option<f64>,
    /// The most or the least that it may be.
    pub limit: f64,
    /// Whether it is.
    pub met: bool,
}

/// Measures everything, one after another. `say` hears what is being done.
///
/// # Errors
/// When the sandbox cannot start, or a program does not run to its end.
pub async fn measure(plan: Plan, mut say: impl FnMut(&str) + Send + 'static) -> Result<Figures, Failed> {
    let print = (plan.permit)(PRINT).map_err(Failed::Permit)?;
    let sandbox = start(&plan.settings)?;
    say("print(1+1), each in a fresh interpreter");
    let (fresh, program) = fresh(&sandbox, &print, plan.runs, PAUSE).await?;
    let (in_a_row, _) = self::fresh(&sandbox, &print, plan.runs, Duration::ZERO).await?;
    say("print(1+1) in a session");
    let session = session(&sandbox, &print, &plan).await?;
    say("parking and restoring");
    let mut rests = Vec::new();
    for _ in 0..plan.runs {
        rests.push(sandbox.time_rest(&print).await?);
    }
    let parked_bytes = rests.iter().map(|rest| rest.bytes).max().unwrap_or_default();
    let park = spread(rests.iter().map(|rest| rest.park).collect())?;
    let restore = spread(rests.iter().map(|rest| rest.restore).collect())?;
    say(&format!("print(1+1), as many as there are in a second, with 1 to {} workers", plan.workers));
    let throughput = throughput(&plan, &print).await?;
    let (native, no_native) = match Native::find(&plan.python) {
        Ok(native) => (Some(beside(&sandbox, &native, &plan, &mut say).await?), None),
        Err(error) => (None, Some(format!("{}: {error}; name one with --python", plan.python.display()))),
    };
    let mut figures = Figures {
        fresh,
        program,
        in_a_row,
        session,
        park,
        restore,
        parked_bytes,
        throughput,
        native,
        no_native,
        bars: Vec::new(),
    };
    figures.bars = bars(&figures);
    Ok(figures)
}

fn start(settings: &Settings) -> Result<Sandbox, StartError> {
    tokio::task::block_in_place(|| Sandbox::start(settings))
}

fn spread(times: Vec<Duration>) -> Result<Spread, Failed> {
    Spread::of(times).ok_or(Failed::NoRuns)
}

/// Each a while after the one before, as turns come to a gateway that has something to spare.
async fn fresh(sandbox: &Sandbox, print: &Permit, runs: usize, pause: Duration) -> Result<(Spread, Spread), Failed> {
    let mut timed: Vec<Timed> = Vec::new();
    for _ in 0..WARM_UP.min(runs) + runs {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        timed.push(sandbox.time_fresh(print).await?);
    }
    let timed = timed.split_off(WARM_UP.min(runs));
    let program = spread(timed.iter().map(|timed| timed.program).collect())?;
    Ok((spread(timed.iter().map(|timed| timed.whole).collect())?, program))
}

async fn session(sandbox: &Sandbox, print: &Permit, plan: &Plan) -> Result<Spread, Failed> {
    let Ok(key) = SessionKey::new(print.caller(), "bench") else { return Err(Failed::Permit("no session".into())) };
    let mut times = Vec::new();
    // The first one begins it.
    for _ in 0..=plan.runs {
        tokio::time::sleep(PAUSE).await;
        times.push(sandbox.time_in_session(print, key.clone(), plan.rules).await?.whole);
    }
    sandbox.end_session(key, plan.rules).await;
    spread(times.split_off(1))
}

/// With each number of workers, the most.
async fn throughput(plan: &Plan, print: &Permit) -> Result<Vec<Throughput>, Failed> {
    let mut most: Vec<_> = (1..=plan.workers).map(|workers| Throughput { workers, per_second: 0.0 }).collect();
    for _ in 0..ROUNDS.min(plan.runs) {
        for most in &mut most {
            most.per_second = busy(plan, print, most.workers).await?.max(most.per_second);
        }
    }
    Ok(most)
}

/// How many programs there are in a second, with workers side by side, each program after the one before.
async fn busy(plan: &Plan, print: &Permit, workers: u32) -> Result<f64, Failed> {
    let sandbox = start(&Settings { interpreters_max: workers, ready: workers, ..plan.settings.clone() })?;
    let began = Instant::now();
    let one_after_another = || async {
        let mut count = 0.0;
        while began.elapsed() < plan.busy {
            sandbox.time_fresh(print).await?;
            count += 1.0;
        }
        Ok::<f64, Spoiled>(count)
    };
    let counts = try_join_all((0..workers).map(|_| one_after_another())).await?;
    Ok(counts.iter().sum::<f64>() / began.elapsed().as_secs_f64())
}

async fn beside(
    sandbox: &Sandbox,
    native: &Native<'_>,
    plan: &Plan,
    say: &mut impl FnMut(&str),
) -> Result<Beside, Failed> {
    say(&format!("print(1+1) by {}", native.version));
    let run = |program: &str| tokio::task::block_in_place(|| native.run(program));
    let times: Vec<Duration> = (0..NATIVE_RUNS.min(plan.runs)).map(|_| Ok(run(PRINT)?.1)).collect::<io::Result<_>>()?;
    let mut workloads = Vec::new();
    for name in WORKLOADS {
        say(&format!("{name}, in the sandbox and by {}", native.version));
        let times = WORKLOAD_TIMES.min(plan.runs);
        let program = format!("{WORKLOADS_TEXT}\nprint(best({name:?}, {times}))");
        let permit = (plan.permit)(&program).map_err(Failed::Permit)?;
        let (mut sandbox_ms, mut native_ms) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..ROUNDS.min(plan.runs) {
            sandbox_ms = sandbox_ms.min(number(&sandbox.time_fresh(&permit).await?.stdout)?);
            native_ms = native_ms.min(number(&run(&program)?.0)?);
        }
        workloads.push(Workload { name, sandbox_ms, native_ms, ratio: sandbox_ms / native_ms });
    }
    let ratios: Vec<f64> = workloads.iter().map(|workload| workload.ratio).collect();
    let geometric_mean = geometric_mean(&ratios).ok_or(Failed::NoRuns)?;
    Ok(Beside { version: native.version.clone(), print: spread(times)?, workloads, geometric_mean })
}

fn number(text: &str) -> io::Result<f64> {
    text.trim().parse().map_err(|_| io::Error::other(format!("a workload printed {text:?}")))
}

/// What was promised. What could not be measured is not met.
fn bars(figures: &Figures) -> Vec<Bar> {
    let at_most = |what, is: Option<f64>, limit| Bar { what, is, limit, met: is.is_some_and(|is| is <= limit) };
    let at_least = |what, is: Option<f64>, limit| Bar { what, is, limit, met: is.is_some_and(|is| is >= limit) };
    #[expect(clippy::cast_precision_loss, reason = "a size in bytes, to be compared with a round one")]
    let parked_mb = figures.parked_bytes as f64 / 1e6;
    let one = figures.throughput.first().map(|one| one.per_second);
    let two = figures.throughput.get(1).map(|two| two.per_second);
    let native = figures.native.as_ref();
    vec![
        at_most("print(1+1), p50 in ms", Some(figures.fresh.p50_ms), 0.5),
        at_most("print(1+1), p99 in ms", Some(figures.fresh.p99_ms), 2.0),
        at_most("restoring, p50 in ms", Some(figures.restore.p50_ms), 1.0),
        at_most("parked, in MB", Some(parked_mb), 1.0),
        at_least("a second, with one worker", one, 1400.0),
        at_least("with two workers, over one", two.zip(one).map(|(two, one)| two / one), 1.8),
        at_most(
            "print(1+1), over python3 -c",
            native.map(|native| figures.fresh.p50_ms / native.print.p50_ms),
            1.0 / 20.0,
        ),
        at_most("workloads, over native Python", native.map(|native| native.geometric_mean), 2.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_a_function_of_the_file() {
        for name in WORKLOADS {
            assert!(WORKLOADS_TEXT.contains(&format!("\ndef {name}():\n")), "{name}");
        }
    }

    #[test]
    fn a_bar_is_missed_on_its_wrong_side_only() {
        let spread = |ms| Spread { runs: 1, p50_ms: ms, p90_ms: ms, p99_ms: ms };
        let figures = |ms, bytes, per_second: f64, mean| Figures {
            fresh: spread(ms),
            program: spread(ms),
            in_a_row: spread(ms),
            session: spread(ms),
            park: spread(ms),
            restore: spread(ms),
            parked_bytes: bytes,
            throughput: vec![
                Throughput { workers: 1, per_second },
                Throughput { workers: 2, per_second: 2.0 * per_second },
            ],
            native: Some(Beside {
                version: String::new(),
                print: spread(20.0),
                workloads: Vec::new(),
                geometric_mean: mean,
            }),
            no_native: None,
            bars: Vec::new(),
        };
        let missed = |figures: &Figures| bars(figures).iter().filter(|bar| !bar.met).count();
        assert_eq!(missed(&figures(0.5, 1_000_000, 1400.0, 2.0)), 0);
        assert_eq!(missed(&figures(2.1, 1_000_001, 1399.0, 2.1)), 7, "all but what two workers bring");
        let mut unmeasured = figures(0.5, 1_000_000, 1400.0, 2.0);
        (unmeasured.native, unmeasured.throughput) = (None, unmeasured.throughput.split_off(1));
        assert_eq!(missed(&unmeasured), 3, "what is not measured is not met");
    }
}
