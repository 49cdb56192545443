//! `/admin/backends`: the pool as operators see it, and its changes while it runs.
//!
//! It is served on an address of its own, or beside the API where a key guards it: who reaches it can send everybody's
//! conversations to a server of his own.

use super::refusal::Refusal;
use super::{BodyLimits, Respond, body};
use crate::access::{self, KeyHash};
use crate::backend::{BackendState, ChangeError, Pool, WrittenServer, WrongMember};
use crate::chat::{Failure, FailureKind};
use crate::dialect;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const ALL: &str = "/admin/backends";
const ONE: &str = "/admin/backends/{name}";
const DRAIN: &str = "/admin/backends/{name}/drain";
const UNDRAIN: &str = "/admin/backends/{name}/undrain";

/// Where it is, as the router writes it.
pub(super) const PATHS: [&str; 4] = [ALL, ONE, DRAIN, UNDRAIN];

/// What the pages for operators need.
#[derive(Clone)]
pub struct Admin {
    /// The backends.
    pub pool: Arc<Pool>,
    /// Opens them. `None`: their address is this machine's alone.
    pub key: Option<KeyHash>,
    /// Of a request's body.
    pub body_limits: BodyLimits,
}

/// The routes.
pub fn admin(admin: Admin) -> Router {
    Router::new()
        .route(ALL, get(list).post(add))
        .route(ONE, delete(remove))
        .route(DRAIN, post(drain))
        .route(UNDRAIN, post(undrain))
        .route_layer(middleware::from_fn_with_state(admin.clone(), guard))
        .with_state(admin)
}

async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match admitted(&admin, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.respond(),
    }
}

fn admitted(admin: &Admin, headers: &HeaderMap) -> Result<(), Failure> {
    // A web page can have a browser send what it likes to this machine, but not without saying so.
    if headers.contains_key(header::ORIGIN) {
        return Err(Failure::new(FailureKind::Forbidden, "web pages may not ask here"));
    }
    let Some(key) = &admin.key else { return meant_for_here(headers) };
    let sent = headers.get(header::AUTHORIZATION).and_then(|sent: &HeaderValue| sent.to_str().ok());
    let why = |error: access::Unidentified| Failure::new(FailureKind::Unauthenticated, error.to_string());
    key.opens(sent).map_err(why)
}

/// Without a key the address is this machine's alone, but a web page's name may come to mean it too (DNS rebinding), and
/// what a page reads from its own name has no `Origin`.
fn meant_for_here(headers: &HeaderMap) -> Result<(), Failure> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    if host.as_ref().is_some_and(is_here) {
        return Ok(());
    }
    let message =
        "without admin.key these pages are for localhost and IP addresses alone; ask by one, or set admin.key";
    Err(Failure::new(FailureKind::Forbidden, message))
}

/// A name that nobody can make mean another machine: this one's own, or a number.
fn is_here(host: &Authority) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// The pool.
#[derive(Serialize)]
struct Shown {
    backends: Vec<Backend>,
    /// Tries after a failed one, since the start.
    retries: u64,
}

#[derive(Serialize)]
struct Backend {
    id: u32,
    name: String,
    found_by: String,
    /// `unknown`, `up`, `draining` or `down`.
    state: &'static str,
    draining: bool,
    in_flight: usize,
    in_flight_max: Option<usize>,
    weight: f64,
    labels: BTreeMap<String, String>,
    models: Vec<Model>,
    breaker: &'static str,
    load: Option<Load>,
    estimate: Option<Estimate>,
    finds_calls: Option<bool>,
    tries: u64,
    failures: u64,
    last_error: Option<LastError>,
}

#[derive(Serialize)]
struct Model {
    id: String,
    max_model_len: Option<u64>,
}

#[derive(Serialize)]
struct Load {
    running: u32,
    waiting: u32,
    used_tokens: u64,
    kv_tokens_max: Option<u64>,
}

/// What `least-wait` goes by.
#[derive(Serialize)]
struct Estimate {
    cached_tokens: u64,
    unread_tokens: u64,
    prefill_tokens_per_s: f64,
}

#[derive(Serialize)]
struct LastError {
    message: String,
    seconds_ago: u64,
}

async fn list(State(admin): State<Admin>) -> Response {
    shown(&admin, StatusCode::OK)
}

fn shown(admin: &Admin, status: StatusCode) -> Response {
    let backends = admin.pool.state().into_iter().map(backend).collect();
    (status, Json(Shown { backends, retries: admin.pool.retries() })).into_response()
}

fn backend(of: BackendState) -> Backend {
    let state = match of.up {
        None => "unknown",
        Some(false) => "down",
        Some(true) if of.draining => "draining",
        Some(true) => "up",
    };
    let load = of.load.map(|load| Load {
        running: load.running,
        waiting: load.waiting,
        used_tokens: load.used_tokens,
        kv_tokens_max: load.kv_tokens_max,
    });
    let last_error = of.last_error.map(|(message, ago)| LastError { message, seconds_ago: ago.as_secs() });
    let model = |model: crate::backend::Model| Model { id: model.id, max_model_len: model.max_model_len };
    let estimate = of.estimate.map(|of| Estimate {
        cached_tokens: of.cached_tokens,
        unread_tokens: of.unread_tokens,
        prefill_tokens_per_s: of.tokens_per_s.round(),
    });
    Backend {
        id: of.id,
        name: of.name,
        found_by: of.found_by,
        state,
        draining: of.draining,
        in_flight: of.in_flight,
        in_flight_max: of.in_flight_max,
        weight: of.weight,
        labels: of.labels,
        models: of.models.into_iter().map(model).collect(),
        breaker: of.breaker.as_str(),
        load,
        estimate,
        finds_calls: of.finds_calls,
        tries: of.tries,
        failures: of.failures,
        last_error,
    }
}

async fn add(State(admin): State<Admin>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    let added = added(&admin, &head.headers, &mut body).await.map_err(Refusal::from);
    let answer = added.map(|()| shown(&admin, StatusCode::CREATED));
    body::answered(answer, &head.headers, body, dialect::ERRORS).await
}

async fn added(admin: &Admin, headers: &HeaderMap, body: &mut Body) -> Result<(), Failure> {
    let body = body::whole(headers, body, &admin.body_limits).await?;
    let written: WrittenServer = serde_json::from_slice(&body).map_err(|error| {
        let message =
            format!("the body is no backend: {error}; send for example {{\"url\": \"http://10.0.0.7:30000\"}}");
        Failure::new(FailureKind::Invalid, message)
    })?;
    // The gateway's own variables are nobody's business here.
    let wrong =
        |(member, why): WrongMember| Failure::new(FailureKind::Invalid, format!("`{member}`: {why}")).param(member);
    let server = written.read(|_| None).map_err(wrong)?;
    admin.pool.add(&server).map_err(|error| change(&error))
}

async fn remove(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    changed(&admin, admin.pool.remove(&name))
}

async fn drain(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    changed(&admin, admin.pool.drain(&name, true))
}

async fn undrain(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    changed(&admin, admin.pool.drain(&name, false))
}

fn changed(admin: &Admin, change_made: Result<(), ChangeError>) -> Response {
    change_made.map_or_else(|error| change(&error).respond(), |()| shown(admin, StatusCode::OK))
}

fn change(error: &ChangeError) -> Failure {
    let kind = match error {
        ChangeError::There(_) => FailureKind::InTheWay,
        ChangeError::NotThere(_) => FailureKind::NotThere,
    };
    Failure::new(kind, error.to_string())
}
