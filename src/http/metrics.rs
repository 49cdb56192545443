//! `GET /metrics`: the recorder's counters, and what the backends and the memory know of themselves.

use super::{Front, Respond};
use crate::backend::{BackendState, BreakerState};
use crate::chat::{Failure, FailureKind};
use crate::memory::Counts;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use std::fmt::Write;
use std::sync::Arc;

/// The type of the text.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers with all of it.
pub(super) async fn page(State(front): State<Arc<Front>>) -> Response {
    let Ok(recorded) = front.recorder.metrics().render() else {
        return Failure::new(FailureKind::Internal, "the metrics cannot be written").respond();
    };
    // The recorder's text comes last: it ends with the mark of the end.
    let text = backends(&front.pool.state(), front.pool.retries(), front.pool.continued())
        + &sessions(front.pool.sessions())
        + &memory(front.live().agent.remembered())
        + &recorded;
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

/// A number of a backend; `None`: it is not known.
type Number = dyn Fn(&BackendState) -> Option<f64>;

/// By the backends' numbers: the page asks for no key, and addresses are nobody's business.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers than floating ones")]
fn backends(states: &[BackendState], retries: u64, continued: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: &Number| {
        head(&mut text, name, kind, help);
        let total = if kind == "counter" { "_total" } else { "" };
        for backend in states {
            if let Some(value) = value(backend) {
                let _ = writeln!(text, "{name}{total}{{backend=\"{}\"}} {value}", backend.id);
            }
        }
    };
    let up: &Number = &|it| Some(yes(it.up == Some(true)));
    family("loopgate_backend_up", "gauge", "Whether the backend answers", up);
    let draining: &Number = &|it| Some(yes(it.draining));
    family("loopgate_backend_draining", "gauge", "Whether it gets no new turns", draining);
    let breaker: &Number = &|it| {
        Some(match it.breaker {
            BreakerState::Closed => 0.0,
            BreakerState::Open => 1.0,
            BreakerState::HalfOpen => 2.0,
        })
    };
    family("loopgate_backend_breaker_state", "gauge", "Its breaker: 0 closed, 1 open, 2 half-open", breaker);
    let weight: &Number = &|it| Some(it.weight);
    family("loopgate_backend_weight", "gauge", "Its share of the work, lowered after a return", weight);
    let in_flight: &Number = &|it| Some(it.in_flight as f64);
    family("loopgate_backend_in_flight", "gauge", "Requests under way at the backend", in_flight);
    let tries: &Number = &|it| Some(it.tries as f64);
    family("loopgate_backend_tries", "counter", "Model calls that it was tried for", tries);
    let failures: &Number = &|it| Some(it.failures as f64);
    family("loopgate_backend_failures", "counter", "Of these, those that it failed at", failures);
    let running: &Number = &|it| it.load.map(|load| load.running.into());
    family("loopgate_backend_requests_running", "gauge", "Requests in its batch, as it says", running);
    let waiting: &Number = &|it| it.load.map(|load| load.waiting.into());
    family("loopgate_backend_requests_waiting", "gauge", "Requests in its queue, as it says", waiting);
    let used: &Number = &|it| it.load.map(|load| load.used_tokens as f64);
    family("loopgate_backend_kv_tokens_used", "gauge", "Tokens that running requests hold, as it says", used);
    let most: &Number = &|it| it.load.and_then(|load| load.kv_tokens_max).map(|tokens| tokens as f64);
    family("loopgate_backend_kv_tokens_max", "gauge", "Tokens that its cache takes, as it says", most);
    head(&mut text, "loopgate_backend_retries", "counter", "Tries after a failed one");
    let _ = writeln!(text, "loopgate_backend_retries_total {retries}");
    head(
        &mut text,
        "loopgate_answers_continued",
        "counter",
        "Answers that were cut, and that another backend went on with",
    );
    let _ = writeln!(text, "loopgate_answers_continued_total {continued}");
    text
}

fn sessions((waiting, active): (usize, usize)) -> String {
    let mut text = String::new();
    head(&mut text, "loopgate_sessions_active", "gauge", "Sessions for which there is room in the caches");
    let _ = writeln!(text, "loopgate_sessions_active {active}");
    head(&mut text, "loopgate_sessions_waiting", "gauge", "Model calls that wait for their session's turn");
    let _ = writeln!(text, "loopgate_sessions_waiting {waiting}");
    text
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn memory(counts: Counts) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: u64| {
        head(&mut text, name, kind, help);
        let total = if kind == "counter" { "_total" } else { "" };
        let _ = writeln!(text, "{name}{total} {value}");
    };
    family("loopgate_memory_entries", "gauge", "Turns that are remembered", counts.entries);
    family("loopgate_memory_bytes", "gauge", "Bytes of them and of their keys", counts.bytes);
    family("loopgate_memory_commits", "counter", "Durable writes to the memory's file", counts.commits);
    family("loopgate_memory_failures", "counter", "Reads and writes that failed or took too long", counts.failures);
    family("loopgate_memory_too_large", "counter", "Turns that were too large to be kept", counts.too_large);
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}
