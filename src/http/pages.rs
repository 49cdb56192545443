//! The small pages: what this is, models, health, and what is not here.

use super::{Front, Respond, metrics, openapi, posted};
use crate::backend::{BackendState, Model};
use crate::chat::{Failure, FailureKind};
use crate::dialect;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// A page: what the router, the metrics and the `OpenAPI` document know of it.
pub(super) struct Page {
    /// As the router writes it.
    pub path: &'static str,
    pub route: fn() -> MethodRouter<Arc<Front>>,
    pub summary: &'static str,
    /// Whether a caller's key is asked for, where there are callers.
    pub key: bool,
    /// What it shows, by status.
    pub answers: &'static [(u16, Shape)],
    /// Statuses with which it refuses.
    pub refusals: &'static [u16],
}

/// The form of an answer.
pub(super) enum Shape {
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Text of this type.
    Text(&'static str),
}

/// Characters of what somebody without a key sent that are given back. Chosen: a path with a model's name in it.
const ECHO_CHARS_MAX: usize = 100;

/// All pages.
pub(super) static ALL: &[Page] = &[
    Page {
        path: "/",
        route: || get(about),
        summary: "Name, version, paths",
        key: false,
        answers: &[(200, Shape::Json(SchemaGenerator::subschema_for::<About>))],
        refusals: &[],
    },
    Page {
        path: "/v1/models",
        route: || get(models),
        summary: "Models of the backends that are up, and the aliases",
        key: true,
        answers: &[(200, Shape::Json(SchemaGenerator::subschema_for::<Models>))],
        refusals: &[401],
    },
    Page {
        path: "/v1/models/{*id}",
        route: || get(model),
        summary: "One of them",
        key: true,
        answers: &[(200, Shape::Json(SchemaGenerator::subschema_for::<Listed>))],
        refusals: &[400, 401, 404],
    },
    Page {
        path: "/liveness",
        route: || get(alive),
        summary: "200 while the process answers",
        key: false,
        answers: &[(200, Shape::Json(SchemaGenerator::subschema_for::<Alive>))],
        refusals: &[],
    },
    Page {
        path: "/health",
        route: || get(ready),
        summary: "As /readiness",
        key: false,
        answers: &READY,
        refusals: &[],
    },
    Page {
        path: "/readiness",
        route: || get(ready),
        summary: "200 while a backend is up and does not drain, and the gateway is not stopping, else 503",
        key: false,
        answers: &READY,
        refusals: &[],
    },
    Page {
        path: "/metrics",
        route: || get(metrics::page),
        summary: "OpenMetrics text: requests, turns, executions, tokens, memory, backends",
        key: false,
        answers: &[(200, Shape::Text(metrics::OPENMETRICS))],
        refusals: &[500],
    },
    Page {
        path: openapi::PATH,
        route: || get(document),
        summary: "This document",
        key: false,
        answers: &[(200, Shape::Json(SchemaGenerator::subschema_for::<serde_json::Map<String, Value>>))],
        refusals: &[],
    },
];

const READY: [(u16, Shape); 2] = [
    (200, Shape::Json(SchemaGenerator::subschema_for::<Ready>)),
    (503, Shape::Json(SchemaGenerator::subschema_for::<Ready>)),
];

/// What this is.
#[derive(Serialize, JsonSchema)]
pub(super) struct About {
    name: &'static str,
    version: &'static str,
    /// Paths of the APIs.
    api: Vec<&'static str>,
    /// Where the `OpenAPI` document is.
    openapi: &'static str,
}

/// The models there are.
#[derive(Serialize, JsonSchema)]
struct Models {
    object: &'static str,
    data: Vec<Listed>,
}

/// A model.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Model")]
struct Listed {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
    /// Tokens of context, where the backend says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Alive {
    status: &'static str,
}

/// Whether a request would find a backend.
#[derive(Serialize, JsonSchema)]
struct Ready {
    /// `ok` or `unavailable`.
    status: &'static str,
    backends: Vec<Seen>,
}

/// A backend, without its address: this page asks for no key.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Backend")]
struct Seen {
    /// Null while nobody has looked yet.
    up: Option<bool>,
    /// Requests under way.
    in_flight: usize,
}

/// `GET /`
pub(super) async fn about() -> Json<About> {
    let (name, version, api) = ("loopgate", env!("CARGO_PKG_VERSION"), posted().collect());
    Json(About { name, version, api, openapi: openapi::PATH })
}

/// `GET /openapi.json`
async fn document() -> Response {
    // Made when somebody first asks for it.
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi::document().to_string().into());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// `GET /v1/models`
pub(super) async fn models(State(front): State<Arc<Front>>, headers: HeaderMap) -> Response {
    let live = front.live();
    match front.identify(&live, &headers) {
        Err(refusal) => refusal.into_response_for(dialect::ERRORS),
        Ok(caller) => {
            let models = live.agent.models(&caller).into_iter().map(|model| listed(&front, model)).collect();
            Json(Models { object: "list", data: models }).into_response()
        }
    }
}

/// `GET /v1/models/{id}`
pub(super) async fn model(State(front): State<Arc<Front>>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    let live = front.live();
    if let Err(refusal) = front.identify(&live, &headers) {
        return refusal.into_response_for(dialect::ERRORS);
    }
    match live.agent.model(&id) {
        Some(model) => Json(listed(&front, model)).into_response(),
        None => Failure::new(FailureKind::UnknownModel, "no such model; GET /v1/models lists them").respond(),
    }
}

fn listed(front: &Front, model: Model) -> Listed {
    Listed {
        id: model.id,
        object: "model",
        created: (front.clock)().as_second(),
        owned_by: "loopgate",
        max_model_len: model.max_model_len,
    }
}

/// `GET /liveness`: the process answers.
pub(super) async fn alive() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// `GET /readiness` and `GET /health`: a request would find a backend.
pub(super) async fn ready(State(front): State<Arc<Front>>) -> Response {
    let backends: Vec<_> = front.pool.state().iter().map(seen).collect();
    let (status, word) =
        if front.is_ready() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    (status, Json(Ready { status: word, backends })).into_response()
}

fn seen(backend: &BackendState) -> Seen {
    Seen { up: backend.up, in_flight: backend.in_flight }
}

/// Any path that is none of ours.
pub(super) async fn no_route(method: Method, uri: Uri) -> Response {
    let paths: Vec<_> = posted().collect();
    let (method, path) = (echo(method.as_str()), echo(uri.path()));
    let message = format!("no route {method} {path}; there is POST {} and GET /v1/models", paths.join(", POST "));
    Failure::new(FailureKind::NoRoute, message).respond()
}

/// A path of ours with another method.
pub(super) async fn no_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {}", echo(uri.path()), echo(method.as_str()));
    Failure::new(FailureKind::NoMethod, message).respond()
}

/// As much of it as goes into an answer and into the log.
fn echo(sent: &str) -> String {
    sent.chars().take(ECHO_CHARS_MAX).collect()
}
