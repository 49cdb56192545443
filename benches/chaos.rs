//! What clients notice of backends that die, hang, crawl, talk nonsense or are full: nothing.
//!
//! The gateway as a process in front of three scripted ones, under steady load of streamed and whole answers, plain ones
//! and ones with hidden executions. First one backend after the other is killed with SIGKILL and started again, at least two
//! being up at any time. Then one that is bad in some way stands beside two healthy ones. Every answer has to be what
//! an undisturbed run gives, character by character. Exits with 1 when a bar is missed.
//!
//! `cargo bench --bench chaos -- [--seconds N] [--fault-seconds N] [--clients N] [--log]`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first trouble"
)]

mod stage;

use futures_util::future::join_all;
use serde_json::{Value, json};
use stage::{Failed, Gateway, Mock, Reply, cores, flag, percentile};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

/// How long backends are killed, and how long each bad one is looked at.
const SECONDS: u64 = 300;
const FAULT_SECONDS: u64 = 8;
/// Clients at a time, each with one request after the other. Chosen: several on each backend whenever one dies.
const CLIENTS: u64 = 12;
/// From one kill to the next, and how long the victim is dead. Chosen: long answers are cut more than once now and then.
const KILL_EVERY: Duration = Duration::from_secs(3);
const DEAD: Duration = Duration::from_secs(1);
/// When a backend is frozen that has been healthy until then.
const FREEZE_AFTER: Duration = Duration::from_secs(1);

/// How healthy backends speak: long answers take seconds, so that kills meet them in their middle.
const PACED: &[&str] = &["--ttft-ms", "30", "--pace-us", "3000"];
/// The same for backends beside a bad one: whole answers must come before `first_byte_ms` is over.
const BRISK: &[&str] = &["--ttft-ms", "30", "--pace-us", "1000"];
/// The gateway's patience with one that hangs in its answers and does all else as it should: probes say nothing of that, and
/// minutes are more than a bench can wait.
const IMPATIENT: &[&str] = &["--first-byte-ms", "4000", "--idle-ms", "1000"];

/// A backend that is bad in some way.
struct Bad {
    name: &'static str,
    /// Of the bad one, beside what all have.
    flags: &'static [&'static str],
    gateway: &'static [&'static str],
    freezes: bool,
}

const fn bad(name: &'static str, flags: &'static [&'static str]) -> Bad {
    Bad { name, flags, gateway: &[], freezes: false }
}

const BAD: &[Bad] = &[
    Bad { gateway: IMPATIENT, ..bad("hangs in its answers", &["--fault", "stall-after=5"]) },
    // With the usual patience: probes find that out, within their time.
    Bad { freezes: true, ..bad("stands still", &[]) },
    bad("is slow", &["--ttft-ms", "1000", "--pace-us", "8000"]),
    bad("sends garbage at once", &["--fault", "garbage-after=0"]),
    bad("sends garbage in its answers", &["--fault", "garbage-after=5"]),
    bad("sends errors in its answers", &["--fault", "error-after=5"]),
    bad("dies in its answers", &["--fault", "die-after=5"]),
    bad("ends its answers early", &["--fault", "end-after=5"]),
    bad("says nothing", &["--fault", "empty-body"]),
    bad("is full", &["--running-max", "1", "--queue-max", "0"]),
];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(run()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True: every bar is met.
async fn run() -> bool {
    let clients = flag("--clients").unwrap_or(CLIENTS);
    println!("{clients} clients, three scripted backends, on {} cores", cores());
    println!("  one backend …                  requests  streamed  executed  failed  retries  continued   p50    p99");
    let killing = Duration::from_secs(flag("--seconds").unwrap_or(SECONDS));
    let mut met = killed(clients, killing).await;
    let looking = Duration::from_secs(flag("--fault-seconds").unwrap_or(FAULT_SECONDS));
    for bad in BAD {
        met &= beside(bad, clients, looking).await;
    }
    println!("  no request fails, and all answers are those of an undisturbed run: {}", bar(met));
    met
}

fn bar(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// One after another is killed.
async fn killed(clients: u64, time: Duration) -> bool {
    let mut mocks: Vec<_> = (0..3).map(|_| Mock::start(PACED)).collect();
    let gateway = Arc::new(Gateway::start(&mocks, &[]).await);
    let load = Load::start(gateway.clone(), clients, &undisturbed(&gateway).await);
    let (begun, mut kills) = (tokio::time::Instant::now(), 0);
    while begun.elapsed() + KILL_EVERY <= time {
        let victim = kills % mocks.len();
        kills += 1;
        sleep_until(begun + KILL_EVERY * u32::try_from(kills).unwrap()).await;
        mocks[victim].kill();
        sleep(DEAD).await;
        mocks[victim].revive();
    }
    let outcome = load.stop().await;
    let continued = outcome.report(&format!("is killed ({kills} times)")).await;
    if continued == 0 {
        println!("    missed: no kill met a stream in its middle, or none was continued");
    }
    outcome.failed.is_empty() && continued > 0
}

/// One is bad.
async fn beside(bad: &Bad, clients: u64, time: Duration) -> bool {
    // The last of two same flags is not taken by the command line, so a bad one has its own.
    let flags = if bad.flags.contains(&"--pace-us") { bad.flags.to_vec() } else { [BRISK, bad.flags].concat() };
    let mocks = [Mock::start(&flags), Mock::start(BRISK), Mock::start(BRISK)];
    let healthy = Gateway::start(&mocks[1..], &[]).await;
    let wanted = undisturbed(&healthy).await;
    drop(healthy);
    let gateway = Arc::new(Gateway::start(&mocks, bad.gateway).await);
    let load = Load::start(gateway.clone(), clients, &wanted);
    if bad.freezes {
        sleep(FREEZE_AFTER).await;
        mocks[0].freeze();
    }
    sleep(time).await;
    let outcome = load.stop().await;
    outcome.report(bad.name).await;
    let asked = gateway.metrics("loopgate_backend_tries_total{").await[0];
    if asked == 0 {
        println!("    missed: it was never asked, so this says nothing");
    }
    outcome.failed.is_empty() && asked > 0
}

// === questions ===

/// What is asked, without what makes each request another.
struct Question {
    body: Value,
    /// The gateway runs a program for it.
    executed: bool,
}

/// Everything that is asked, each streamed and whole.
fn questions() -> Vec<Question> {
    let program = "for number in range(150):\n    print('line', number)";
    let program = format!("```python\n{program}\n```");
    let read_file = json!({"type": "function", "function": {"name": "read_file", "parameters": {
        "type": "object", "properties": {"path": {"type": "string"}}}}});
    let path = format!("{}.txt", "a/long/path/".repeat(20));
    let call = format!("Use the tool read_file with {{\"path\": \"{path}\"}}");
    let both = format!("Use read_file with {{\"path\": \"{path}\"}} and run 6 * 7");
    let code = json!({"type": "code_interpreter"});
    // Without tools the gateway offers its own, with an empty list it hands the request on.
    // With a schema of its own it is the client's.
    let same_name = json!({"type": "function", "function": {"name": "execute_code", "parameters": {
        "type": "object", "properties": {"code": {"type": "string"}, "why": {"type": "string"}}}}});
    let asked = [
        ("Count aloud from 1 to 200", Some(json!([])), false),
        ("Count aloud from 1 to 200", None, false),
        ("Write a binary search", Some(json!([])), false),
        ("What is 6 * 7 + 100000?", None, true),
        (&program, None, true),
        ("First compute 12 + 30, then multiply the result by 5", None, true),
        (&call, Some(json!([read_file])), false),
        (&both, Some(json!([same_name, read_file])), false),
        (&both, Some(json!([code, read_file])), true),
    ];
    let bodies = asked.into_iter().flat_map(|(user, tools, executed)| {
        [true, false].map(|stream| {
            let mut body =
                json!({"model": "qwen3-coder", "stream": stream, "messages": [{"role": "user", "content": user}]});
            if let Some(tools) = &tools {
                body["tools"] = tools.clone();
            }
            Question { body, executed }
        })
    });
    bodies.collect()
}

impl Question {
    /// A body that nobody has sent before: a re-send would join the turn that it repeats.
    fn numbered(&self, number: usize) -> Value {
        let mut body = self.body.clone();
        body["seed"] = number.into();
        body
    }

    fn is_streamed(&self) -> bool {
        self.body["stream"] == true
    }
}

/// Every question with its answer while all is well.
async fn undisturbed(gateway: &Gateway) -> Arc<Vec<(Question, Reply)>> {
    let questions = questions();
    let replies = questions.iter().enumerate().map(async |(number, question)| {
        let reply = gateway.ask(&question.numbered(number)).await;
        reply.unwrap_or_else(|failed| panic!("{} fails undisturbed: {failed:?}", question.body))
    });
    let replies = join_all(replies).await;
    for ways in replies.chunks(2) {
        // Between two calls SGLang streams a stray line break, which is no part of a whole answer.
        let said = |reply: &Reply| (reply.text.trim().to_owned(), reply.calls.clone(), reply.finish.clone());
        assert_eq!(said(&ways[0]), said(&ways[1]), "streamed and whole");
    }
    Arc::new(questions.into_iter().zip(replies).collect())
}

// === load ===

/// Clients at work.
struct Load {
    gateway: Arc<Gateway>,
    stopped: Arc<AtomicBool>,
    clients: JoinSet<Vec<Asked>>,
}

/// A request that has ended.
struct Asked {
    streamed: bool,
    executed: bool,
    outcome: Result<Duration, Failed>,
}

/// What came of all of them.
struct Outcome {
    gateway: Arc<Gateway>,
    asked: Vec<Asked>,
    failed: BTreeMap<String, Vec<String>>,
}

impl Load {
    fn start(gateway: Arc<Gateway>, clients: u64, questions: &Arc<Vec<(Question, Reply)>>) -> Self {
        let (stopped, numbers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(questions.len())));
        let mut load = Self { gateway, stopped, clients: JoinSet::new() };
        for _ in 0..clients {
            let (gateway, stopped) = (load.gateway.clone(), load.stopped.clone());
            let (questions, numbers) = (Arc::clone(questions), numbers.clone());
            load.clients.spawn(async move {
                let mut asked = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let (question, wanted) = &questions[number % questions.len()];
                    asked.push(ask(&gateway, question, number, wanted).await);
                }
                asked
            });
        }
        load
    }

    /// Has every client end with the request that it is at.
    async fn stop(mut self) -> Outcome {
        self.stopped.store(true, Ordering::Relaxed);
        let mut outcome = Outcome { gateway: self.gateway, asked: Vec::new(), failed: BTreeMap::new() };
        while let Some(asked) = self.clients.join_next().await {
            outcome.asked.extend(asked.unwrap());
        }
        for failed in outcome.asked.iter().filter_map(|asked| asked.outcome.as_ref().err()) {
            outcome.failed.entry(failed.how.clone()).or_default().push(failed.why.clone());
        }
        outcome
    }
}

async fn ask(gateway: &Gateway, question: &Question, number: usize, wanted: &Reply) -> Asked {
    let begun = Instant::now();
    let outcome = match gateway.ask(&question.numbered(number)).await {
        Ok(reply) if reply.says(wanted) => Ok(begun.elapsed()),
        Ok(reply) => Err(Failed::new("another answer", difference(&reply, wanted))),
        Err(failed) => Err(failed),
    };
    let of = |failed: Failed| Failed { why: format!("{} ← {}", failed.why, question.body), ..failed };
    Asked { streamed: question.is_streamed(), executed: question.executed, outcome: outcome.map_err(of) }
}

fn difference(reply: &Reply, wanted: &Reply) -> String {
    let (got, want) = (format!("{}{}", reply.text, reply.calls), format!("{}{}", wanted.text, wanted.calls));
    let same = got.chars().zip(want.chars()).take_while(|(got, want)| got == want).count();
    let rest = |text: &str| text.chars().skip(same.saturating_sub(10)).take(60).collect::<String>();
    format!(
        "after {same} characters {:?} ({}) instead of {:?} ({})",
        rest(&got),
        reply.finish,
        rest(&want),
        wanted.finish
    )
}

impl Outcome {
    /// Prints a row and what failed; how many answers were continued.
    async fn report(&self, name: &str) -> u64 {
        let count = |of: fn(&Asked) -> bool| self.asked.iter().filter(|asked| of(asked)).count();
        let mut times: Vec<_> = self.asked.iter().filter_map(|asked| asked.outcome.as_ref().ok().copied()).collect();
        times.sort();
        let continued = self.gateway.count("loopgate_answers_continued_total").await;
        println!(
            "  {name:<30} {:>8}  {:>8}  {:>8}  {:>6}  {:>7}  {continued:>9}  {:>4.1} s {:>4.1} s",
            self.asked.len(),
            count(|asked| asked.streamed),
            count(|asked| asked.executed),
            count(|asked| asked.outcome.is_err()),
            self.gateway.count("loopgate_backend_retries_total").await,
            percentile(&times, 50).as_secs_f64(),
            percentile(&times, 99).as_secs_f64(),
        );
        for (how, why) in &self.failed {
            println!("    {} × {how}, such as", why.len());
            why.iter().take(2).for_each(|why| println!("      {why}"));
        }
        continued
    }
}
