//! `GET /metrics`: the recorder's counters, and what the backends and the memory know of themselves.

use super::{Front, Respond};
use crate::backend::BackendState;
use crate::chat::{Failure, FailureKind};
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
    let text = backends(&front.pool.state()) + &memory(&front) + &recorded;
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

/// By their places in `backend.urls`: the page asks for no key, and addresses are nobody's business.
fn backends(states: &[BackendState]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, value: &dyn Fn(&BackendState) -> u64| {
        head(&mut text, name, "gauge", help);
        for (place, backend) in states.iter().enumerate() {
            let _ = writeln!(text, "{name}{{backend=\"{place}\"}} {}", value(backend));
        }
    };
    family("loopgate_backend_up", "Whether the backend answers", &|it| u64::from(it.up == Some(true)));
    family("loopgate_backend_in_flight", "Requests under way at the backend", &|it| it.in_flight as u64);
    text
}

fn memory(front: &Front) -> String {
    let memory = &front.agent.memory;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: u64| {
        head(&mut text, name, kind, help);
        let total = if kind == "counter" { "_total" } else { "" };
        let _ = writeln!(text, "{name}{total} {value}");
    };
    family("loopgate_memory_entries", "gauge", "Turns that are remembered", memory.entries());
    family("loopgate_memory_bytes", "gauge", "Bytes of them and of their keys", memory.bytes());
    family("loopgate_memory_commits", "counter", "Durable writes to the memory's file", memory.commits());
    family("loopgate_memory_failures", "counter", "Reads and writes that failed or took too long", memory.failures());
    family("loopgate_memory_too_large", "counter", "Turns that were too large to be kept", memory.too_large());
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}
