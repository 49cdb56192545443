//! What it costs to stand in the way: nginx and the built binary in one run, before the same backend, with plain chat
//! requests. Exits with 1 when a bar is missed or there is no nginx to compare with.
//!
//! `cargo bench --bench proxy -- [--quick] [--binary PATH] [--only ROW]`; with `--only`, rows whose names have that in them,
//! and nothing else.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at the first trouble")]

mod backend;
mod load;
mod proxies;

use load::{Client, Question};
use proxies::Proxy;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::{self, Runtime};

/// Connections at once, but for what is said otherwise. Chosen: a small team.
const CONNECTIONS: usize = 16;
/// Of a short answer.
const EVENTS: u64 = 32;
/// Between two events where latency is measured. Chosen: the shortest that timers keep.
const PAUSE_US: u64 = 1_000;
/// Answers of each way of which latency is the median. Chosen: a minute and a half in all.
const LATENCIES: usize = 600;
/// Memory is looked at after this, and then again. Chosen: buffers have filled by then.
const SETTLE: Duration = Duration::from_secs(2);
const SLOW_READERS: usize = 4;
const IDLE_STREAMS: usize = 1000;

/// The bars. The first four are multiples of nginx.
const SHORT_MAX: f64 = 3.5;
const LONG_MAX: f64 = 2.5;
const EVENT_MAX: f64 = 2.2;
const ADDED_P50_MAX: Duration = Duration::from_micros(100);
const SLOW_KB_MAX: f64 = 5_000.0;
const IDLE_KB_MAX: f64 = 30.0;

const GRANT: &str = "[[grants]]\ntools = ['execute_code']\nwhy = 'the bench does not run it'\n";

/// What is done over and over: its CPU time is divided by `count * per`.
struct Row {
    name: &'static str,
    question: Question,
    connections: usize,
    count: usize,
    /// Things of one request that are counted.
    per: usize,
    max: f64,
}

fn rows() -> Vec<Row> {
    let row = |name, question, count, max| Row { name, question, connections: CONNECTIONS, count, per: 1, max };
    let streamed = |bytes| Question::new(bytes, Some(EVENTS), 0);
    let events =
        |name, question, connections, count, per| Row { name, question, connections, count, per, max: EVENT_MAX };
    vec![
        row("request, short, whole answer", Question::new(0, None, 0), 20_000, SHORT_MAX),
        row("request, short, 32 tokens streamed", streamed(0), 10_000, SHORT_MAX),
        row("request, 32 KB, 32 tokens streamed", streamed(32 << 10), 6_000, LONG_MAX),
        row("request, 256 KB, 32 tokens streamed", streamed(256 << 10), 2_000, LONG_MAX),
        events("event, one after another", Question::new(0, Some(2_000), 0), 4, 200, 2_000),
        events("event, 64 streams, each every 5 ms", Question::new(0, Some(200), 5_000), 64, 64, 200),
    ]
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let value = |flag| std::env::args().skip_while(move |it| it != flag).nth(1);
    let (binary, only) = (value("--binary"), value("--only"));
    let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_loopgate").to_owned());
    let folder = tempfile::tempdir().unwrap();
    let backend = backend::start();
    let Some(nginx) = Proxy::nginx(backend, folder.path()) else {
        println!("there is no nginx to compare with; on Debian: apt install nginx-light");
        return ExitCode::FAILURE;
    };
    let start = |name, offer| {
        let policy = format!("callers = ['*']\noffer = '{offer}'\n{GRANT}");
        Proxy::loopgate(name, &binary, &policy, backend, folder.path())
    };
    let bench = Bench {
        runtime: runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        backend,
        nginx,
        plain: start("plain", "never"),
        offering: start("offering", "when-no-tools"),
        rounds: if quick { 2 } else { 3 },
        part: if quick { 5 } else { 1 },
        slow: Duration::from_secs(if quick { 10 } else { 60 }),
    };
    let met = match only {
        Some(only) => vec![bench.costs(&only)],
        None => vec![bench.costs(""), bench.latency(), bench.memory()],
    };
    if met.iter().all(|met| *met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Bench {
    runtime: Runtime,
    backend: SocketAddr,
    nginx: Proxy,
    plain: Proxy,
    /// It offers a tool that no answer calls.
    offering: Proxy,
    rounds: usize,
    /// One of so many requests is made.
    part: usize,
    slow: Duration,
}

impl Bench {
    /// Microseconds of CPU.
    fn costs(&self, only: &str) -> bool {
        println!("CPU, µs, the least of {} rounds      nginx     plain     ×     bar   offering     ×", self.rounds);
        let mut all_met = true;
        for row in rows().into_iter().filter(|row| row.name.contains(only)) {
            let mut least = [f64::MAX; 3];
            for _ in 0..self.rounds {
                for (proxy, least) in [&self.nginx, &self.plain, &self.offering].into_iter().zip(&mut least) {
                    *least = least.min(self.cost(proxy, &row));
                }
            }
            let [nginx, plain, offering] = least;
            let met = plain / nginx <= row.max;
            all_met &= met;
            println!(
                "  {:<35} {nginx:>6.2}  {plain:>8.2}  {:>4.2}   {:>4.1}   {offering:>8.2}  {:>4.2}  {}",
                row.name,
                plain / nginx,
                row.max,
                offering / nginx,
                word(met)
            );
        }
        all_met
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn cost(&self, proxy: &Proxy, row: &Row) -> f64 {
        let count = (row.count / self.part).max(row.connections);
        // Connections are open and pages are there when it counts.
        self.runtime.block_on(load::ask(proxy.address, &row.question, row.connections, row.connections));
        let before = proxy.cpu();
        self.runtime.block_on(load::ask(proxy.address, &row.question, row.connections, count));
        proxy.cpu().saturating_sub(before).as_secs_f64() * 1e6 / (count * row.per) as f64
    }

    /// Time to the first byte of one client alone, in turns so that all see the same machine. The backend pauses between
    /// events, as a model does. One that does not keeps its processor for a whole answer, and whoever has just woken it
    /// there and was pushed aside waits for the end of that: it would measure the scheduler.
    fn latency(&self) -> bool {
        let question = Question::new(0, Some(EVENTS), PAUSE_US);
        let ways = [self.backend, self.nginx.address, self.plain.address, self.offering.address];
        let mut took: [Vec<Duration>; 4] = Default::default();
        self.runtime.block_on(async {
            let mut clients = Vec::new();
            for way in ways {
                clients.push(Client::new(way).await);
            }
            for _ in 0..LATENCIES / self.part {
                for (client, took) in clients.iter_mut().zip(&mut took) {
                    took.push(client.ask(&question).await);
                }
            }
        });
        let [direct, nginx, plain, offering] = took.map(|mut took| {
            took.sort();
            took[took.len() / 2]
        });
        let added = |way: Duration| way.saturating_sub(direct);
        let met = added(plain) <= ADDED_P50_MAX;
        println!(
            "time to the first byte, p50: direct {direct:.0?}; added by nginx {:.0?}, by plain {:.0?}, by offering {:.0?}; \
             bar of plain {ADDED_P50_MAX:?}: {}",
            added(nginx),
            added(plain),
            added(offering),
            word(met)
        );
        met
    }

    /// Slow readers first: idle streams leave memory behind that they would use.
    fn memory(&self) -> bool {
        let address = self.plain.address;
        let (slow, idle) = self.runtime.block_on(async {
            let readers: Vec<_> = (0..SLOW_READERS).map(|_| tokio::spawn(load::read_slowly(address))).collect();
            tokio::time::sleep(SETTLE).await;
            let before = self.plain.resident_kb();
            tokio::time::sleep(self.slow).await;
            let slow = self.plain.resident_kb() - before;
            for reader in readers {
                assert!(!reader.is_finished(), "a slow reader was cut off");
                reader.abort();
            }
            let before = self.plain.resident_kb();
            let streams = load::idle(address, IDLE_STREAMS).await;
            tokio::time::sleep(SETTLE).await;
            let idle = (self.plain.resident_kb() - before) / f64::from(u32::try_from(streams.len()).unwrap());
            (slow, idle)
        });
        let (slow_met, idle_met) = (slow <= SLOW_KB_MAX, idle <= IDLE_KB_MAX);
        println!(
            "memory with {SLOW_READERS} slow readers for {:?}: {slow:+.0} KB, bar {SLOW_KB_MAX:.0} KB: {}",
            self.slow,
            word(slow_met)
        );
        println!(
            "memory per idle stream, {IDLE_STREAMS} of them: {idle:.1} KB, bar {IDLE_KB_MAX} KB: {}",
            word(idle_met)
        );
        slow_met && idle_met
    }
}

fn word(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
