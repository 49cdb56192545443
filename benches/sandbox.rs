//! What a program costs in the sandbox: a fresh interpreter for each, and the CPU against the machine's own Python.
//!
//! With the interpreter's start in it (`ready = 0`), and as a turn sees it when one is ready and the machine has a pause
//! between two turns. A program given as argument (`cargo bench --bench sandbox -- FILE`), which prints a JSON object of
//! times in milliseconds, is run here and by this machine's `python3`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at the first trouble")]

use loopgate::access::{ANONYMOUS, Access, Settings as Callers};
use loopgate::chat::RawCall;
use loopgate::policy::{self, Permit, Policies};
use loopgate::sandbox::{Outcome, Sandbox, Settings};
use loopgate::tools::Tools;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const WARM_UP: usize = 30;
const RUNS: usize = 500;
/// Between two runs that find an interpreter ready: time enough to start it.
const PAUSE: Duration = Duration::from_millis(5);

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings =
        Settings::new(root.join("tools/execute_code/guest/build/python.wasm"), root.join("target/sandbox-cache"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let print = permit(root, "print(1+1)");

    let sandbox = Sandbox::start(&Settings { ready: 0, threads: 1, ..settings.clone() }).unwrap();
    let times = runtime.block_on(fresh(&sandbox, &print, Duration::ZERO));
    report("fresh print(1+1), start and end of the interpreter in it", times);

    let sandbox = Sandbox::start(&settings).unwrap();
    let times = runtime.block_on(fresh(&sandbox, &print, PAUSE));
    report("fresh print(1+1), an interpreter ready", times);

    // Cargo says `--bench` to every benchmark.
    if let Some(program) = std::env::args().skip(1).find(|argument| argument != "--bench") {
        let code = std::fs::read_to_string(&program).unwrap();
        let outcome = runtime.block_on(run(&sandbox, &permit(root, &code)));
        let native = Command::new("python3").arg(program).output().unwrap();
        compare(&outcome.stdout, &String::from_utf8(native.stdout).unwrap());
    }
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
    let outcome = sandbox.interpreter().run(permit, |_, _| {}).await;
    assert_eq!(outcome.error, None);
    outcome
}

async fn fresh(sandbox: &Sandbox, permit: &Permit, pause: Duration) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..WARM_UP + RUNS {
        tokio::time::sleep(pause).await;
        let places = sandbox.free();
        let began = Instant::now();
        run(sandbox, permit).await;
        if pause.is_zero() {
            // Dropped interpreters end on the sandbox's own threads.
            while sandbox.free() < places {
                std::thread::yield_now();
            }
        }
        times.push(began.elapsed());
    }
    times.split_off(WARM_UP)
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let percentile = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{what}, {} runs", times.len());
    println!("  p50 {:.3} ms   p90 {:.3} ms   p99 {:.3} ms", percentile(50), percentile(90), percentile(99));
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
