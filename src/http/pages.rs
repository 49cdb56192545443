//! The small pages: what this is, models, health, metrics, and what is not here.

use super::{Front, Respond};
use crate::backend::{BackendState, Model};
use crate::chat::{Failure, FailureKind};
use crate::dialect;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// `GET /`
pub(super) async fn about() -> Json<Value> {
    Json(json!({
        "name": "loopgate", "version": env!("CARGO_PKG_VERSION"),
        "api": dialect::ALL.iter().map(|dialect| dialect.path()).collect::<Vec<_>>(),
    }))
}

/// `GET /v1/models`
pub(super) async fn models(State(front): State<Arc<Front>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = front.identify(&headers) {
        return refusal.into_response_for(dialect::ALL[0]);
    }
    let models: Vec<_> = front.pool.models().iter().map(|model| listed(&front, model)).collect();
    Json(json!({"object": "list", "data": models})).into_response()
}

/// `GET /v1/models/{id}`
pub(super) async fn model(State(front): State<Arc<Front>>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    if let Err(refusal) = front.identify(&headers) {
        return refusal.into_response_for(dialect::ALL[0]);
    }
    match front.pool.models().iter().find(|model| model.id == id) {
        Some(model) => Json(listed(&front, model)).into_response(),
        None => Failure::new(FailureKind::UnknownModel, "no such model; GET /v1/models lists them").respond(),
    }
}

fn listed(front: &Front, model: &Model) -> Value {
    let created = (front.clock)().as_second();
    let mut entry = json!({"id": model.id, "object": "model", "created": created, "owned_by": "loopgate"});
    if let Some(tokens) = model.max_model_len {
        entry["max_model_len"] = json!(tokens);
    }
    entry
}

/// `GET /liveness`: the process answers.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readiness` and `GET /health`: a request would find a backend.
pub(super) async fn ready(State(front): State<Arc<Front>>) -> Response {
    let backends: Vec<_> = front.pool.state().iter().map(seen).collect();
    let (status, word) =
        if front.is_ready() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    (status, Json(json!({"status": word, "backends": backends}))).into_response()
}

fn seen(backend: &BackendState) -> Value {
    // No addresses: this page asks for no key.
    json!({"up": backend.up, "in_flight": backend.in_flight})
}

/// `GET /metrics`
pub(super) async fn metrics(State(front): State<Arc<Front>>) -> Response {
    let Ok(own) = front.recorder.metrics().render() else {
        return Failure::new(FailureKind::Internal, "the metrics cannot be written").respond();
    };
    let mut text = String::new();
    let mut family = |name: &str, help: &str, value: &dyn Fn(&BackendState) -> u64| {
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
        for backend in front.pool.state() {
            let _ = writeln!(text, "{name}{{backend=\"{}\"}} {}", backend.name, value(&backend));
        }
    };
    family("loopgate_backend_up", "Whether the backend answers", &|it| u64::from(it.up == Some(true)));
    family("loopgate_backend_in_flight", "Requests under way at the backend", &|it| it.in_flight as u64);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text + &own).into_response()
}

/// Any path that is none of ours.
pub(super) async fn no_route(method: Method, uri: Uri) -> Response {
    let paths: Vec<_> = dialect::ALL.iter().map(|dialect| dialect.path()).collect();
    let path: String = uri.path().chars().take(100).collect();
    let message = format!("no route {method} {path}; there is POST {} and GET /v1/models", paths.join(", POST "));
    Failure::new(FailureKind::NoRoute, message).respond()
}

/// A path of ours with another method.
pub(super) async fn no_method(method: Method, uri: Uri) -> Response {
    Failure::new(FailureKind::NoMethod, format!("{} does not take {method}", uri.path())).respond()
}
