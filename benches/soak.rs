//! What no short test shows: programs without number through worker processes, hostile ones among them. Does memory grow,
//! do descriptors or processes, and how long do well-behaved programs wait beside hostile ones?
//!
//! This process is the gateway, as far as the sandbox knows. Exits with 1 when a bar is missed.
//!
//! `cargo bench --bench soak -- [--runs N] [--rounds N]`

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at the first trouble")]

#[expect(dead_code, reason = "the tests read more of it")]
#[path = "../tests/corpus/load.rs"]
mod load;

use futures_util::{StreamExt, stream};
use loopgate::access::{ANONYMOUS, Access, Caller, Settings as Callers};
use loopgate::chat::RawCall;
use loopgate::policy::{self, Permit, Policies};
use loopgate::sandbox::{Isolation, Outcome, Run, Sandbox, Settings};
use loopgate::tools::Tools;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// Programs one after another, each in a fresh interpreter, and rounds of the corpora among them.
const RUNS: usize = 100_000;
const ROUNDS: usize = 3;
/// Programs before the figures that later ones are held against: allocators and pools have then what they keep. Chosen.
const WARM_UP: usize = 500;
/// Programs at a time. As many as there are workers waiting by default.
const SIDE_BY_SIDE: usize = 2;
/// Well-behaved programs for each percentile, and the pause in which their interpreters are made.
const NEIGHBOURS: usize = 1000;
const PAUSE: Duration = Duration::from_millis(5);
/// Hostile programs that run beside them at all times.
const HOSTILE: usize = 8;

/// Bars. Of the gateway: less than 100 bytes for each of the runs, which is less than any trace of one would take.
const GATEWAY_KB_MAX: usize = 8 * 1024;
/// Of a worker: half of what one interpreter has for itself at rest, so that none is left behind.
const WORKER_KB_MAX: usize = 1400;
/// How much longer 99 of 100 well-behaved programs may take beside hostile ones.
const P99_RATIO_MAX: f64 = 1.5;

/// Limits of programs that shall end by themselves, and of those that never do.
const PATIENT: &str = "{ wall_ms = 60000, memory_mib = 128, recursion = 100000 }";
const HASTY: &str = "{ wall_ms = 300, memory_mib = 128, recursion = 100000 }";
/// The time that a program has where nobody says otherwise.
const USUAL: &str = "{ memory_mib = 128, recursion = 100000 }";

fn main() -> ExitCode {
    let (runs, rounds) = (flag("--runs").unwrap_or(RUNS), flag("--rounds").unwrap_or(ROUNDS));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guest = root.join("tools/execute_code/guest/build/python.wasm");
    let settings = Settings::new(guest, Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    let program = env!("CARGO_BIN_EXE_loopgate").into();
    let sandbox = Sandbox::start(&Settings { isolation: Isolation::Process, program, ..settings }).unwrap();
    let soak = Arc::new(Soak { sandbox, desk: Desk::new(root) });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let met = runtime.block_on(async { soak.endures(runs, rounds).await & soak.neighbours_wait_no_longer().await });
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn flag(name: &str) -> Option<usize> {
    let value = std::env::args().skip_while(|argument| argument != name).nth(1)?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {value:?}")))
}

fn bar(what: &str, is: f64, most: f64) -> bool {
    let met = is <= most;
    println!("  {what}: {is:.2}, bar {most:.2}: {}", if met { "met" } else { "MISSED" });
    met
}

// === permits ===

/// Makes permits such as a model's calls get.
struct Desk {
    tools: Tools,
    caller: Caller,
    patient: Policies,
    hasty: Arc<Policies>,
    usual: Arc<Policies>,
}

impl Desk {
    fn new(root: &Path) -> Self {
        let tools = Tools::load(&loopgate::tools::Settings { dir: root.join("tools") }).unwrap();
        let policies = |limits: &str| {
            let folder = tempfile::tempdir().unwrap();
            let grant = "[[grants]]\ntools = ['execute_code']\nwhy = 'the bench runs it'\n";
            fs::write(folder.path().join("a.toml"), format!("callers = ['*']\nlimits = {limits}\n{grant}")).unwrap();
            Policies::load(&policy::Settings { dir: folder.path().to_owned() }, &tools, &[]).unwrap()
        };
        let (patient, hasty, usual) = (policies(PATIENT), policies(HASTY).into(), policies(USUAL).into());
        let caller = Access::new(&Callers::default()).named(ANONYMOUS).unwrap().clone();
        Self { tools, caller, patient, hasty, usual }
    }

    /// Nothing for a program that does not fit the tool's schema.
    fn permit(&self, code: &str, policies: &Policies) -> Option<Permit> {
        let arguments = serde_json::json!({ "code": code }).to_string();
        let call = RawCall { id: "bench".into(), name: "execute_code".into(), arguments };
        let checked = self.tools.check(&call).ok()?;
        Some(policy::decide(policies.of(&self.caller), &self.caller, checked).unwrap())
    }
}

// === programs ===

struct Soak {
    sandbox: Sandbox,
    desk: Desk,
}

impl Soak {
    async fn run(&self, permit: &Permit) -> Outcome {
        self.sandbox.interpreter().run(permit, Run::new(0), |_, _| {}).await
    }

    /// A sum whose answer is known.
    async fn sum(&self, number: usize) -> Duration {
        let permit = self.desk.permit(&format!("print({number} + 1)"), &self.desk.patient).unwrap();
        let began = Instant::now();
        let outcome = self.run(&permit).await;
        let took = began.elapsed();
        assert_eq!((outcome.stdout, outcome.error), (format!("{}\n", number + 1), None));
        took
    }

    async fn sums(&self, count: usize) {
        stream::iter(0..count)
            .for_each_concurrent(SIDE_BY_SIDE, async |number| {
                self.sum(number).await;
            })
            .await;
    }

    /// `impatient` is for what never ends.
    async fn hostile(&self, program: &load::Hostile, impatient: &Policies) {
        let policies = if program.status == "timeout" { impatient } else { &self.desk.patient };
        if let Some(permit) = self.desk.permit(&program.code(), policies) {
            let outcome = self.run(&permit).await;
            assert_eq!(outcome.status().as_str(), program.status, "{}: {:?}", program.name, outcome.error);
        }
    }

    async fn human_eval(&self, task: &load::Task) {
        let program = task.program(&task.canonical_solution);
        let outcome = self.run(&self.desk.permit(&program, &self.desk.patient).unwrap()).await;
        assert_eq!(outcome.stdout.trim_end(), task.sentinel(), "{:?}", outcome.error);
    }

    /// All kinds of programs, and what is left of them. True: every bar is met.
    #[expect(clippy::cast_precision_loss, reason = "kilobytes and counts are far below 2^52")]
    async fn endures(&self, runs: usize, rounds: usize) -> bool {
        let (hostile, tasks) = (load::hostile(), load::human_eval());
        self.sums(WARM_UP).await;
        stream::iter(&hostile)
            .for_each_concurrent(SIDE_BY_SIDE, |program| self.hostile(program, &self.desk.hasty))
            .await;
        let (before, began) = (self.figures().await, Instant::now());
        for _ in 0..rounds {
            self.sums(runs / rounds).await;
            stream::iter(&hostile)
                .for_each_concurrent(SIDE_BY_SIDE, |program| self.hostile(program, &self.desk.hasty))
                .await;
            stream::iter(&tasks).for_each_concurrent(SIDE_BY_SIDE, |task| self.human_eval(task)).await;
        }
        let (after, took) = (self.figures().await, began.elapsed());
        let all = runs + rounds * (hostile.len() + tasks.len());
        println!("{all} programs in fresh interpreters of worker processes, {SIDE_BY_SIDE} at a time, in {took:.0?}");
        println!("  before: {before:?}\n  after:  {after:?}");
        let grown = |before: usize, after: usize| after as f64 - before as f64;
        bar("gateway's memory, KB more", grown(before.gateway_kb, after.gateway_kb), GATEWAY_KB_MAX as f64)
            & bar("a worker's memory, KB more", grown(before.worker_kb, after.worker_kb), WORKER_KB_MAX as f64)
            & bar("descriptors more", grown(before.descriptors, after.descriptors), 0.0)
            & bar("processes more", grown(before.processes, after.processes), 0.0)
    }

    /// How long sums take beside programs that run on and on, and beside ones that come and go. True: the bar is met.
    async fn neighbours_wait_no_longer(self: &Arc<Self>) -> bool {
        let alone = self.p99().await;
        let (endless, all): (Vec<_>, Vec<_>) = (load::hostile(), load::hostile());
        let endless = endless.into_iter().filter(|program| program.status == "timeout").collect();
        let beside = self.p99_beside(endless, &self.desk.usual).await;
        let churned = self.p99_beside(all, &self.desk.hasty).await;
        println!("p99 of {NEIGHBOURS} sums: {alone:.3} ms alone");
        println!("  {beside:.3} ms beside {HOSTILE} hostile programs that never end");
        println!("  {churned:.3} ms beside the whole corpus, {HOSTILE} at a time, one upon the other");
        bar("beside endless ones over alone", beside / alone, P99_RATIO_MAX)
    }

    /// In milliseconds, with so many of `hostile` at work at all times.
    async fn p99_beside(self: &Arc<Self>, hostile: Vec<load::Hostile>, policies: &Arc<Policies>) -> f64 {
        let hostile = Arc::new(hostile);
        let at_work: Vec<_> = (0..HOSTILE)
            .map(|which| {
                let (soak, hostile, policies) = (Arc::clone(self), Arc::clone(&hostile), Arc::clone(policies));
                AbortOnDropHandle::new(tokio::spawn(async move {
                    // Each begins elsewhere in the list.
                    for program in hostile.iter().cycle().skip(which * hostile.len() / HOSTILE) {
                        soak.hostile(program, &policies).await;
                    }
                }))
            })
            .collect();
        let p99 = self.p99().await;
        // They never end by themselves: without one of them there was less to stand beside.
        assert!(at_work.iter().all(|task| !task.is_finished()), "a task that runs hostile programs has ended");
        p99
    }

    /// Of sums with a pause after each, in milliseconds.
    async fn p99(&self) -> f64 {
        let mut times = Vec::new();
        for number in 0..NEIGHBOURS {
            tokio::time::sleep(PAUSE).await;
            times.push(self.sum(number).await);
        }
        times.sort();
        times[NEIGHBOURS * 99 / 100].as_secs_f64() * 1e3
    }

    /// What there is when nothing runs.
    async fn figures(&self) -> Figures {
        // Workers are given back and made anew after their run is over.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let workers = children();
        Figures {
            gateway_kb: own_kb("self"),
            worker_kb: workers.iter().map(|worker| own_kb(worker)).max().unwrap_or_default(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            processes: workers.len(),
        }
    }
}

// === what the kernel knows ===

#[derive(Debug)]
struct Figures {
    /// Memory that is no file's.
    gateway_kb: usize,
    /// The same, of the largest worker.
    worker_kb: usize,
    descriptors: usize,
    processes: usize,
}

fn own_kb(process: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
}

fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}
