//! `GET /metrics`: the recorder's counters, and what the backends know of themselves.

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
    let text = backends(&front.pool.state()) + &recorded;
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

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}
