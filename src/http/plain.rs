//! Requests that the gateway hands on without reading them, but for the model's name: to which backend, and no more. One
//! member never goes along: `rid`, see [`ABORTS_BY`].

use super::handed_back::{Receiver, handed_back};
use super::refusal::Refusal;
use super::{Front, RequestId, body, form_headers, limits};
use crate::backend::{Forwarded, Plain};
use crate::chat::{Failure, FailureKind, JsonObject};
use crate::dialect;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{MethodRouter, on};
use axum::{Extension, routing::MethodFilter};
use http::request::Parts;
use http::{Method, header};
use serde_json::Value;
use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

/// A path that is handed on: what the router, the metrics and the `OpenAPI` document know of it.
pub(super) struct Route {
    pub path: &'static str,
    pub method: Method,
    pub summary: &'static str,
    pub reads: Reads,
}

/// What a backend finds in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// There is none.
    Nothing,
    /// An object, of which nothing concerns the gateway.
    Something,
    /// `model`, which may be an alias.
    Model,
    /// The same, and a text that a model goes on with.
    Prompt,
    /// Such a text, and no model's name: the server has one.
    PromptOfAny,
}

impl Reads {
    pub fn names_model(self) -> bool {
        matches!(self, Self::Model | Self::Prompt)
    }

    fn is_prompt(self) -> bool {
        matches!(self, Self::Prompt | Self::PromptOfAny)
    }
}

const fn get(path: &'static str, summary: &'static str) -> Route {
    Route { path, method: Method::GET, summary, reads: Reads::Nothing }
}

const fn post(path: &'static str, reads: Reads, summary: &'static str) -> Route {
    Route { path, method: Method::POST, summary, reads }
}

/// All of them.
pub(super) static ALL: &[Route] = &[
    post("/v1/completions", Reads::Prompt, "Continues a text"),
    post("/v1/embeddings", Reads::Model, "Texts as vectors"),
    post("/v1/rerank", Reads::Model, "Documents by how well they fit a query"),
    post("/v1/score", Reads::Model, "How likely tokens are after a text"),
    post("/generate", Reads::PromptOfAny, "Continues a text, by SGLang's own API"),
    post("/tokenize", Reads::Model, "A text's tokens"),
    post("/detokenize", Reads::Model, "Tokens' text"),
    post("/parse_function_call", Reads::Something, "The calls in a text, as the backend's parser finds them"),
    post("/separate_reasoning", Reads::Something, "A text's thinking and its answer, apart"),
    get("/model_info", "What a backend says of its model"),
    get("/get_model_info", "As /model_info, by its older name"),
    get("/server_info", "What a backend says of itself"),
    get("/get_server_info", "As /server_info, by its older name"),
];

/// The request's id, or the ids of several. When its client leaves, SGLang aborts every request whose id begins with it,
/// whoever has sent them: with `chatcmpl-`, all of the gateway's. Without one it makes its own.
const ABORTS_BY: &str = "rid";
/// Pages on which SGLang tells its own keys, too.
const WITH_KEYS: [&str; 2] = ["/server_info", "/get_server_info"];
/// Such a page. SGLang 0.5.23's has 20 KiB.
const INFO_BYTES_MAX: usize = 4 << 20;

impl Route {
    pub fn handler(&'static self) -> MethodRouter<Arc<Front>> {
        let filter = if self.method == Method::GET { MethodFilter::GET } else { MethodFilter::POST };
        on(filter, move |state, extension, request| answer(self, state, extension, request))
    }
}

async fn answer(
    route: &'static Route,
    State(front): State<Arc<Front>>,
    Extension(_): Extension<RequestId>,
    request: Request,
) -> Response {
    let (head, mut body) = request.into_parts();
    let answered = front.while_running(pin!(admitted(route, &front, &head, &mut body))).await;
    body::answered(answered, &head.headers, body, dialect::ERRORS).await
}

async fn admitted(route: &'static Route, front: &Front, head: &Parts, body: &mut Body) -> Result<Response, Refusal> {
    let live = front.live();
    let caller = front.identify(&live, &head.headers)?;
    let (slot, load) = limits::enter(&caller)?;
    let (mut pieces, mut model) = (Vec::new(), None);
    if route.reads != Reads::Nothing {
        let body = body::whole(&head.headers, body, &live.body_limits).await?;
        let mut object = body::read(body, |body| {
            JsonObject::parse(body).map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))
        })
        .await?;
        object.remove(ABORTS_BY);
        if route.reads.names_model() {
            model = resolved(front, &mut object)?;
        }
        pieces = object.render();
    }
    let plain = Plain {
        method: route.method.clone(),
        path: head.uri.path_and_query().map_or_else(|| route.path.to_owned(), ToString::to_string),
        content_type: head.headers.get(header::CONTENT_TYPE).cloned(),
        body: pieces,
        model,
        is_prompt: route.reads.is_prompt(),
        caller: caller.name().to_owned(),
    };
    let mut forwarded = front.pool.forward_plain(&plain).await?;
    let mut response = if WITH_KEYS.contains(&route.path) {
        without_keys(whole(&mut forwarded).await?)?
    } else {
        // What says nothing is no event that these paths' readers know.
        handed_back(Receiver { dialect: dialect::ERRORS, over: front.over.clone(), life: None, slot }, forwarded)
    };
    load.tell(response.headers_mut());
    Ok(response)
}

async fn whole(forwarded: &mut Forwarded) -> Result<Vec<u8>, Failure> {
    let mut said = Vec::new();
    while let Some(bytes) = forwarded.next().await {
        said.extend_from_slice(&bytes?);
        if said.len() > INFO_BYTES_MAX {
            return Err(no_info());
        }
    }
    Ok(said)
}

/// What a backend says of itself, but for its keys. SGLang lists all that it was started with.
fn without_keys(said: Vec<u8>) -> Result<Response, Failure> {
    let mut info: Value = serde_json::from_slice(&said).map_err(|_| no_info())?;
    let said = if hide_keys(&mut info) { info.to_string().into_bytes() } else { said };
    let mut response = Response::new(Body::from(said));
    form_headers(&mut response, false);
    Ok(response)
}

/// Whether there were any.
fn hide_keys(value: &mut Value) -> bool {
    let mut hidden = false;
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if value.is_string() && (name.ends_with("api_key") || name.contains("password")) {
                    (*value, hidden) = ("***".into(), true);
                } else {
                    hidden |= hide_keys(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hidden |= hide_keys(item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    hidden
}

fn no_info() -> Failure {
    Failure::new(FailureKind::BackendBroke, "the model's server says something of itself that cannot be read")
}

/// The model's name for the backend, which is put into the body where the client has another one for it.
fn resolved(front: &Front, body: &mut JsonObject) -> Result<Option<String>, Failure> {
    let asked: Option<Cow<'_, str>> = body.read("model").map_err(|_| {
        Failure::new(FailureKind::Invalid, "`model` must be a string, such as \"qwen3-coder\"").param("model")
    })?;
    let Some(asked) = asked else { return Ok(None) };
    let model = front.pool.resolve(&asked)?;
    if model != *asked {
        body.set("model", Value::from(model.as_str()).to_string());
    }
    Ok(Some(model))
}
