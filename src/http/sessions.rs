//! `/v1/sandbox/sessions`: a caller's sessions and the files in them.

use super::limits;
use super::refusal::Refusal;
use super::{Front, Live, body};
use crate::access::Caller;
use crate::chat::{Failure, FailureKind};
use crate::dialect;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use std::pin::pin;
use std::sync::Arc;

/// Where they are, as the router writes it.
pub(super) const PATHS: [&str; 4] = [ALL, ONE, FILES, FILE];

pub(super) const ALL: &str = "/v1/sandbox/sessions";
pub(super) const ONE: &str = "/v1/sandbox/sessions/{id}";
pub(super) const FILES: &str = "/v1/sandbox/sessions/{id}/files";
pub(super) const FILE: &str = "/v1/sandbox/sessions/{id}/files/{*path}";

/// The type of a file, whatever is in it.
pub(super) const BYTES: &str = "application/octet-stream";

/// A list, as OpenAI has them.
#[derive(Serialize, JsonSchema)]
struct List<T> {
    object: &'static str,
    data: Vec<T>,
}

/// A session.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SandboxSession")]
struct Session {
    name: String,
    /// Bytes that it takes, compressed, with its moments.
    bytes: usize,
    /// Seconds since it was used.
    idle_seconds: u64,
}

/// A file of a session.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SandboxFile")]
struct File {
    /// Within `/workspace`. A folder is listed only if it is empty; its path ends in a slash.
    path: String,
    bytes: usize,
    /// When it was last written to, in seconds since 1970.
    modified: u64,
}

/// For the `OpenAPI` document.
pub(super) fn list_shapes(generator: &mut SchemaGenerator) -> [Schema; 2] {
    [generator.subschema_for::<List<Session>>(), generator.subschema_for::<List<File>>()]
}

pub(super) fn routes() -> Router<Arc<Front>> {
    Router::new()
        .route(ALL, get(list))
        .route(ONE, delete(end))
        .route(FILES, get(list_files))
        .route(FILE, get(get_file).put(put_file).delete(delete_file))
}

/// What a request wants.
enum Wish {
    Sessions,
    End(String),
    Files(String),
    Get(String, String),
    Put(String, String),
    Delete(String, String),
}

type Named<T> = Result<Path<T>, PathRejection>;

async fn list(State(front): State<Arc<Front>>, request: Request) -> Response {
    answer(&front, Ok(Wish::Sessions), request).await
}

async fn end(State(front): State<Arc<Front>>, id: Named<String>, request: Request) -> Response {
    answer(&front, id.map(|Path(id)| Wish::End(id)), request).await
}

async fn list_files(State(front): State<Arc<Front>>, id: Named<String>, request: Request) -> Response {
    answer(&front, id.map(|Path(id)| Wish::Files(id)), request).await
}

async fn get_file(State(front): State<Arc<Front>>, file: Named<(String, String)>, request: Request) -> Response {
    answer(&front, file.map(|Path((id, path))| Wish::Get(id, path)), request).await
}

async fn put_file(State(front): State<Arc<Front>>, file: Named<(String, String)>, request: Request) -> Response {
    answer(&front, file.map(|Path((id, path))| Wish::Put(id, path)), request).await
}

async fn delete_file(State(front): State<Arc<Front>>, file: Named<(String, String)>, request: Request) -> Response {
    answer(&front, file.map(|Path((id, path))| Wish::Delete(id, path)), request).await
}

async fn answer(front: &Front, wish: Result<Wish, PathRejection>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    let answered = front.while_running(pin!(admitted(front, wish, &head.headers, &mut body))).await;
    body::answered(answered, &head.headers, body, dialect::ERRORS).await
}

async fn admitted(
    front: &Front,
    wish: Result<Wish, PathRejection>,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, Refusal> {
    let live = front.live();
    let caller = front.identify(&live, headers)?;
    let (_slot, load) = limits::enter(&caller)?;
    let no_text = |_| Failure::new(FailureKind::Invalid, "the path, unescaped, is not UTF-8").param("path");
    let mut response = done(&live, &caller, wish.map_err(no_text)?, headers, body).await?;
    load.tell(response.headers_mut());
    Ok(response)
}

async fn done(
    live: &Live,
    caller: &Caller,
    wish: Wish,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, Failure> {
    let agent = &live.agent;
    Ok(match wish {
        Wish::Sessions => {
            let sessions = agent.sessions(caller)?.into_iter().map(|session| Session {
                name: session.name,
                bytes: session.bytes,
                idle_seconds: session.idle.as_secs(),
            });
            Json(List { object: "list", data: sessions.collect() }).into_response()
        }
        Wish::End(id) => {
            agent.end_session(caller, &id).await?;
            StatusCode::NO_CONTENT.into_response()
        }
        Wish::Files(id) => {
            let files = agent.files(caller, &id).await?.into_iter().map(|file| File {
                path: file.path,
                bytes: file.bytes,
                modified: file.modified.as_secs(),
            });
            Json(List { object: "list", data: files.collect() }).into_response()
        }
        Wish::Get(id, path) => {
            // A browser that follows a link to it must not run what a program wrote.
            let headers = [
                (header::CONTENT_TYPE, BYTES),
                (header::CONTENT_DISPOSITION, "attachment"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, agent.file(caller, &id, &path).await?).into_response()
        }
        Wish::Put(id, path) => {
            let bytes = body::whole(headers, body, &live.body_limits).await?;
            let is_new = agent.put_file(caller, &id, &path, bytes).await?;
            if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }.into_response()
        }
        Wish::Delete(id, path) => {
            agent.delete_file(caller, &id, &path).await?;
            StatusCode::NO_CONTENT.into_response()
        }
    })
}
