//! What a program costs in the sandbox, against its bars: a fresh interpreter for each as a turn sees it, how many a second,
//! the machine's own Python beside it, and CPU-bound programs.
//!
//! A program given as argument (`cargo bench --bench sandbox -- FILE`), which prints a JSON object of times in
//! milliseconds, is run here and by this machine's `python3`. Exits with 1 when a bar is missed.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at the first trouble")]

use futures_util::future::join_all;
use loopgate::access::{ANONYMOUS, Access, Settings as Callers};
use loopgate::chat::RawCall;
use loopgate::policy::{self, Permit, Policies};
use loopgate::sandbox::{Isolation, Outcome, Run, Sandbox, Settings};
use loopgate::tools::Tools;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const WARM_UP: usize = 30;
const RUNS: usize = 500;
/// Between two runs that find an interpreter ready: time enough to make one.
const PAUSE: Duration = Duration::from_millis(5);
/// How long programs are run one after another, for how many there are in a second.
const BUSY: Duration = Duration::from_secs(3);

/// Bars: milliseconds as a turn sees them, a share of `python3 -c`, programs a second, and what a second worker brings.
const P50_MS_MAX: f64 = 0.5;
const P99_MS_MAX: f64 = 2.0;
const SHARE_MAX: f64 = 1.0 / 20.0;
const A_SECOND_MIN: f64 = 1400.0;
const TWO_WORKERS_MIN: f64 = 1.8;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guest = root.join("tools/execute_code/guest/build/python.wasm");
    let thread = Settings::new(guest, Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let program = env!("CARGO_BIN_EXE_loopgate").into();
    let process = Settings { isolation: Isolation::Process, program, ..thread.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let print = permit(root, "print(1+1)");
    let mut met = true;

    let sandbox = Sandbox::start(&thread).unwrap();
    report("print(1+1) in a ready interpreter, isolation = \"thread\"", &runtime.block_on(fresh(&sandbox, &print)));
    drop(sandbox);
    let sandbox = Sandbox::start(&process).unwrap();
    let times = runtime.block_on(fresh(&sandbox, &print));
    let (p50, p99) = report("print(1+1) in a ready interpreter, isolation = \"process\"", &times);
    met &= bar("p50, ms", p50, p50 <= P50_MS_MAX, P50_MS_MAX) & bar("p99, ms", p99, p99 <= P99_MS_MAX, P99_MS_MAX);
    let share = p50 / native("print(1+1)");
    met &= bar("share of `python3 -c`", share, share <= SHARE_MAX, SHARE_MAX);
    drop(sandbox);

    let [one, two] = [1, 2].map(|workers| {
        let sandbox =
            Sandbox::start(&Settings { interpreters_max: workers, ready: workers, ..process.clone() }).unwrap();
        runtime.block_on(a_second(&sandbox, &print, workers))
    });
    println!(
        "print(1+1) in a fresh interpreter each, one after another for {BUSY:?}: {one:.0} a second, two workers {two:.0}"
    );
    met &= bar("a second", one, one >= A_SECOND_MIN, A_SECOND_MIN);
    met &= bar("two workers over one", two / one, two / one >= TWO_WORKERS_MIN, TWO_WORKERS_MIN);

    // Cargo says `--bench` to every benchmark.
    if let Some(program) = std::env::args().skip(1).find(|argument| argument != "--bench") {
        let code = std::fs::read_to_string(&program).unwrap();
        let outcome = runtime.block_on(run(&Sandbox::start(&process).unwrap(), &permit(root, &code)));
        let native = Command::new("python3").arg(program).output().unwrap();
        compare(&outcome.stdout, &String::from_utf8(native.stdout).unwrap());
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bar(what: &str, is: f64, met: bool, bar: f64) -> bool {
    println!("  {what}: {is:.3}, bar {bar:.3}: {}", if met { "met" } else { "MISSED" });
    met
}

/// Milliseconds that this machine's own Python takes, the median of some.
fn native(code: &str) -> f64 {
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            let began = Instant::now();
            Command::new("python3").args(["-c", code]).output().unwrap();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[10].as_secs_f64() * 1e3
}

/// Programs a second, `side_by_side` at a time.
async fn a_second(sandbox: &Sandbox, permit: &Permit, side_by_side: u32) -> f64 {
    let began = Instant::now();
    let one_after_another = || async {
        let mut count = 0.0;
        while began.elapsed() < BUSY {
            run(sandbox, permit).await;
            count += 1.0;
        }
        count
    };
    let counts: Vec<f64> = join_all((0..side_by_side).map(|_| one_after_another())).await;
    counts.iter().sum::<f64>() / began.elapsed().as_secs_f64()
}

/// A permit such as a model's call gets, but with time enough.
fn permit(root: &Path, code: &str) -> Permit {
    let tools = Tools::load(&loopgate::tools::Settings { dir: root.join("tools") }).unwrap();
    let policies = Policies::load(&policy::Settings { dir: root.join("policies") }, &tools, &[]).unwrap();
    let access = Access::new(&Callers::default());
    let caller = access.named(ANONYMOUS).unwrap();
    let arguments = serde_json::json!({ "code": code }).to_string();
    let call = RawCall { id: "bench".into(), name: "execute_code".into(), arguments };
    policy::decide(policies.of(caller), caller, tools.check(&call).unwrap()).unwrap()
}

async fn run(sandbox: &Sandbox, permit: &Permit) -> Outcome {
    let outcome = sandbox.interpreter().run(permit, Run::new(0), |_, _| {}).await;
    assert_eq!(outcome.error, None);
    outcome
}

/// What a turn waits for, each time a while after the one before.
async fn fresh(sandbox: &Sandbox, permit: &Permit) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut inside = Vec::new();
    for _ in 0..WARM_UP + RUNS {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        inside.push(run(sandbox, permit).await.duration);
        times.push(began.elapsed());
    }
    report("  of it the program itself", &inside.split_off(WARM_UP));
    times.split_off(WARM_UP)
}

/// p50 and p99.
fn report(what: &str, times: &[Duration]) -> (f64, f64) {
    let mut times = times.to_vec();
    times.sort();
    let percentile = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{what}, {} runs", times.len());
    println!("  p50 {:.3} ms   p90 {:.3} ms   p99 {:.3} ms", percentile(50), percentile(90), percentile(99));
    (percentile(50), percentile(99))
}

fn compare(here: &str, native: &str) {
    let [here, native] = [here, native].map(|text| serde_json::from_str::<BTreeMap<String, f64>>(text).unwrap());
    println!("CPU-bound programs, best of six each: sandbox ms, native ms, ratio");
    let (mut product, mut count) = (1.0_f64, 0.0);
    for (name, native) in &native {
        let ratio = here[name] / native;
        product *= ratio;
        count += 1.0;
        println!("  {name:10} {:8.1} {native:8.1} {ratio:6.2}", here[name]);
    }
    println!("  geometric mean of the ratios {:.2}", product.powf(1.0 / count));
}
