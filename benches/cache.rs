//! How much of their prompts coding sessions find in the backends' KV caches when these are too small for all of them:
//! the balance policies over HTTP, in front of two scripted backends that keep a cache as SGLang's.
//!
//! The sessions are `loopgate simulate`'s, and so is what a token costs. Time passes as in life, as some of what the
//! gateway goes by are seconds; the policies are looked at side by side, since nearly all of it is waiting. Only the
//! default policy has bars. Exits with 1 when it misses one.
//!
//! `cargo bench --bench cache -- [--seconds N] [--sessions N] [--log]`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first trouble"
)]

#[expect(dead_code, reason = "the other bench kills what it has started")]
mod stage;

use loopgate::backend::balance::Lots;
use serde_json::{Value, json};
use stage::{Failed, Gateway, Mock, Reply, cores, flag, percentile};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long the policies are looked at, of which the first part is not counted: caches fill.
const SECONDS: u64 = 600;
const WARM_UP: f64 = 0.2;
const SESSIONS: u64 = 40;
/// Which policies; the first is the default, and has the bars.
const POLICIES: [&str; 3] = ["least-wait", "consistent-hash", "least-requests"];
/// 10,000 tokens of prompts a second, and 12 ms for a token of an answer.
const BACKEND: &[&str] =
    &["--kv-tokens", "200000", "--enable-cache-report", "--prefill-us", "100", "--pace-us", "12000", "--ttft-ms", "12"];

/// The bars.
const HIT_RATE_MIN: f64 = 0.70;
const IMBALANCE_MAX: f64 = 1.2;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(run()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True: every bar is met.
async fn run() -> bool {
    let (sessions, time) = (flag("--sessions").unwrap_or(SESSIONS), flag("--seconds").unwrap_or(SECONDS));
    println!(
        "{sessions} coding sessions, two scripted backends with 200,000 KV tokens each, {time} s, {} cores",
        cores()
    );
    println!("  policy             hit rate    turns  failed  requests of each  imbalance  TTFT p50     p90     p99");
    let measured = POLICIES.map(|policy| tokio::spawn(measure(policy, sessions, Duration::from_secs(time))));
    let mut met = true;
    for (policy, measured) in POLICIES.into_iter().zip(measured) {
        let measured = measured.await.unwrap();
        measured.report(policy);
        if policy == POLICIES[0] {
            met = measured.meets_the_bars();
        }
    }
    met
}

async fn measure(policy: &str, sessions: u64, time: Duration) -> Measured {
    let mocks = [Mock::start(BACKEND), Mock::start(BACKEND)];
    let gateway = Arc::new(Gateway::start(&mocks, &["--balance", policy]).await);
    let counts_from = Instant::now() + time.mul_f64(WARM_UP);
    let turns = Arc::new(Mutex::new(Vec::new()));
    let mut seats = JoinSet::new();
    for number in 0..sessions {
        let (gateway, turns) = (gateway.clone(), turns.clone());
        seats.spawn(async move {
            Seat::new(number)
                .work(&gateway, |turn| {
                    if Instant::now() >= counts_from {
                        turns.lock().unwrap().push(turn);
                    }
                })
                .await;
        });
    }
    sleep(time).await;
    let turns = std::mem::take(&mut *turns.lock().unwrap());
    let by_backend = gateway.metrics("loopgate_backend_tries_total{").await;
    Measured { turns, by_backend }
}

// === what came of it ===

struct Measured {
    /// Those that have ended after the warm-up.
    turns: Vec<Result<Reply, Failed>>,
    by_backend: Vec<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts of two minutes are far below 2^52")]
impl Measured {
    fn replies(&self) -> impl Iterator<Item = &Reply> {
        self.turns.iter().filter_map(|turn| turn.as_ref().ok())
    }

    fn failures(&self) -> impl Iterator<Item = &Failed> {
        self.turns.iter().filter_map(|turn| turn.as_ref().err())
    }

    /// The share of all prompts that was cached.
    fn hit_rate(&self) -> f64 {
        let sum = |of: fn(&Reply) -> u64| self.replies().map(of).sum::<u64>() as f64;
        sum(|reply| reply.cached_tokens) / sum(|reply| reply.prompt_tokens).max(1.0)
    }

    /// Requests of the busier backend for one of the idler.
    fn imbalance(&self) -> f64 {
        let (most, least) = (self.by_backend.iter().max(), self.by_backend.iter().min());
        *most.unwrap() as f64 / (*least.unwrap()).max(1) as f64
    }

    fn report(&self, policy: &str) {
        let mut waits: Vec<_> = self.replies().map(|reply| reply.first_word).collect();
        waits.sort();
        let wait = |percent| percentile(&waits, percent).as_secs_f64();
        println!(
            "  {policy:<16} {:>8.1} % {:>8}  {:>6}  {:>16}  {:>9.2}  {:>6.2} s {:>5.2} s {:>5.2} s",
            100.0 * self.hit_rate(),
            self.replies().count(),
            self.failures().count(),
            self.by_backend.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
            self.imbalance(),
            wait(50),
            wait(90),
            wait(99),
        );
        self.failures().take(3).for_each(|failed| println!("    {}: {}", failed.how, failed.why));
    }

    /// Says which.
    fn meets_the_bars(&self) -> bool {
        let (hit_rate, imbalance, failed) = (self.hit_rate(), self.imbalance(), self.failures().count());
        let met = [hit_rate >= HIT_RATE_MIN, imbalance <= IMBALANCE_MAX, failed == 0];
        let word = |met: bool| if met { "met" } else { "MISSED" };
        println!("    cached {:.1} %, bar {:.0} %: {}", 100.0 * hit_rate, 100.0 * HIT_RATE_MIN, word(met[0]));
        println!("    requests of each backend within {imbalance:.2}, bar {IMBALANCE_MAX}: {}", word(met[1]));
        println!("    no request fails: {}", word(met[2]));
        met.iter().all(|met| *met)
    }
}

// === sessions ===

/// Tokens of what a team's sessions begin with, of which there are three.
const HEAD_TOKENS: (f64, f64) = (8_000.0, 16_000.0);
const FAMILIES: u64 = 3;
/// The share of sessions that are of the first.
const FIRST_FAMILY: f64 = 0.6;
/// A context that would be longer is compacted to its beginning and so many tokens.
const CONTEXT_TOKENS_MAX: u64 = 120_000;
const COMPACTED_TOKENS: f64 = 4_000.0;
/// Everybody has come by then.
const STARTS_S: f64 = 60.0;

/// A person whose sessions follow each other, each with one turn after the other.
struct Seat {
    lots: Lots,
    messages: Vec<Value>,
    context: u64,
}

impl Seat {
    fn new(number: u64) -> Self {
        Self { lots: Lots::new(1_000_003 + (number << 32)), messages: Vec::new(), context: 0 }
    }

    /// Has no end.
    async fn work(mut self, gateway: &Gateway, mut tell: impl FnMut(Result<Reply, Failed>)) {
        self.pass(self.lots.unit() * STARTS_S).await;
        loop {
            let family = if self.lots.unit() < FIRST_FAMILY { 0 } else { 1 + self.lots.draw() % (FAMILIES - 1) };
            self.begin(family, self.lognormal(1_200.0, 0.8));
            let turns = 2.0 + self.exponential(30.0);
            let mut done = 0.0;
            while done < turns {
                done += 1.0;
                let turn = gateway.ask(&self.request()).await;
                if let Ok(reply) = &turn {
                    self.go_on(family, reply);
                }
                tell(turn);
                let thinks = self.lots.unit() < 0.12;
                self.pass(if thinks { self.exponential(90.0) } else { 0.3 + self.exponential(3.0) }).await;
            }
            self.pass(self.exponential(20.0)).await;
        }
    }

    /// A conversation that shares only its beginning with others.
    fn begin(&mut self, family: u64, tokens: f64) {
        let lots = Lots::new(family);
        let head = HEAD_TOKENS.0 + lots.unit() * (HEAD_TOKENS.1 - HEAD_TOKENS.0);
        self.messages = vec![json!({"role": "system", "content": text(&lots, head)})];
        self.say(tokens);
    }

    /// The next question, after the answer to the last one.
    fn go_on(&mut self, family: u64, reply: &Reply) {
        self.context = reply.prompt_tokens;
        self.messages.push(json!({"role": "assistant", "content": reply.text}));
        let result = self.lognormal(900.0, 1.1).clamp(30.0, 12_000.0);
        if self.context >= CONTEXT_TOKENS_MAX {
            self.begin(family, COMPACTED_TOKENS);
        } else {
            self.say(result);
        }
    }

    fn say(&mut self, tokens: f64) {
        self.messages.push(json!({"role": "user", "content": text(&self.lots, tokens)}));
    }

    /// Coding agents bring their own tools, or none are wanted: the gateway hands the request on.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped before")]
    fn request(&self) -> Value {
        let answer = self.lognormal(180.0, 0.9).clamp(20.0, 4_000.0) as u64;
        json!({
            "model": "qwen3-coder", "stream": true, "stream_options": {"include_usage": true}, "tools": [],
            "ignore_eos": true, "max_tokens": answer, "messages": self.messages,
        })
    }

    async fn pass(&self, seconds: f64) {
        sleep(Duration::from_secs_f64(seconds)).await;
    }

    fn exponential(&self, mean: f64) -> f64 {
        -(1.0 - self.lots.unit()).ln() * mean
    }

    fn lognormal(&self, median: f64, sigma: f64) -> f64 {
        // Box and Muller's way to a normal variable.
        let radius = (-2.0 * (1.0 - self.lots.unit()).ln()).sqrt();
        median * (sigma * radius * (std::f64::consts::TAU * self.lots.unit()).cos()).exp()
    }
}

/// So many tokens: words of three letters, each with the blank before it.
fn text(lots: &Lots, tokens: f64) -> String {
    let mut text = String::new();
    let mut left = tokens;
    while left > 0.0 {
        let lot = lots.draw();
        text.push(' ');
        text.extend(
            (0..3).map(|letter| char::from(b'a' + u8::try_from((lot >> (8 * letter)) % 26).unwrap_or_default())),
        );
        left -= 1.0;
    }
    text
}
