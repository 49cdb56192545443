//! Counters for Prometheus. Label values come from bounded sets: a client cannot make a new series.

use crate::chat::{Event, Status};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    stop: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Executed {
    tool: String,
    status: &'static str,
}

/// What `/metrics` shows of the gateway itself.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    turns: Family<Ended, Counter>,
    turns_running: Gauge,
    turn_rounds: Histogram,
    time_to_first_token: Histogram,
    executions: Family<Executed, Counter>,
    execution_seconds: Histogram,
    tokens: Family<Kind, Counter>,
    audit_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("loopgate");
        // 0.1 ms to 52 s, 1 ms to 524 s: what a call and a first token take, from a mock to a full queue.
        let execution_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 20));
        let time_to_first_token = Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let metrics = Self {
            requests: Family::default(),
            turns: Family::default(),
            turns_running: Gauge::default(),
            turn_rounds: Histogram::new([1.0, 2.0, 3.0, 5.0, 10.0, 20.0]),
            time_to_first_token,
            executions: Family::default(),
            execution_seconds,
            tokens: Family::default(),
            audit_failures: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests answered, by route and status", metrics.requests.clone());
        registry.register("turns", "Turns in which the gateway acts, by how they ended", metrics.turns.clone());
        registry.register("turns_running", "Such turns under way", metrics.turns_running.clone());
        registry.register("turn_rounds", "Model calls per turn", metrics.turn_rounds.clone());
        registry.register(
            "time_to_first_token_seconds",
            "From a turn's start to its first text",
            metrics.time_to_first_token.clone(),
        );
        registry.register("executions", "Calls of gateway tools, by tool and status", metrics.executions.clone());
        registry.register("execution_seconds", "Wall-clock time of those that ran", metrics.execution_seconds.clone());
        registry.register("tokens", "Tokens over all rounds of all turns, by kind", metrics.tokens.clone());
        registry.register("audit_failures", "Audit lines that could not be written", metrics.audit_failures.clone());
        Self { registry, ..metrics }
    }

    /// Counts a finished request. `route` is a route's pattern, not a path.
    pub fn answered(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&Request { route, status }).inc();
    }

    pub(super) fn executed(&self, tool: &str, status: Status, time: Duration) {
        let labels = Executed { tool: tool.to_owned(), status: status.as_str() };
        self.executions.get_or_create(&labels).inc();
        if !matches!(status, Status::Invalid | Status::Denied) {
            self.execution_seconds.observe(time.as_secs_f64());
        }
    }

    pub(super) fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    /// Begins to listen to a turn. A turn that is dropped before its end counts as one whose client left.
    pub fn turn(self: &Arc<Self>) -> TurnRecord {
        self.turns_running.inc();
        TurnRecord { metrics: self.clone(), begun: Instant::now(), first_text: false, stop: "client_left" }
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// Listens to the events of one turn.
pub struct TurnRecord {
    metrics: Arc<Metrics>,
    begun: Instant,
    first_text: bool,
    stop: &'static str,
}

impl TurnRecord {
    /// Takes note of an event.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Text(_) if !self.first_text => {
                self.first_text = true;
                self.metrics.time_to_first_token.observe(self.begun.elapsed().as_secs_f64());
            }
            Event::Ended(ending) => {
                self.stop = ending.stop.as_str();
                self.metrics.turn_rounds.observe(f64::from(ending.rounds));
                let total = ending.usage_total;
                self.metrics.tokens.get_or_create(&Kind { kind: "prompt" }).inc_by(total.prompt_tokens);
                self.metrics.tokens.get_or_create(&Kind { kind: "completion" }).inc_by(total.completion_tokens);
                self.metrics.tokens.get_or_create(&Kind { kind: "cached" }).inc_by(total.cached_tokens.unwrap_or(0));
            }
            Event::Failed(_) => self.stop = "failed",
            Event::Opened
            | Event::Text(_)
            | Event::Reasoning(_)
            | Event::Executing { .. }
            | Event::Executed(_)
            | Event::ClientCalls(_) => {}
        }
    }
}

impl Drop for TurnRecord {
    fn drop(&mut self) {
        self.metrics.turns_running.dec();
        self.metrics.turns.get_or_create(&Ended { stop: self.stop }).inc();
    }
}
