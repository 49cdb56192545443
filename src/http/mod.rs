//! The front door: routes, what is true for every request, and the one place where failures become statuses.

mod admin;
mod bodies;
mod body;
mod chat;
mod cors;
mod doors;
mod execute;
mod handed_back;
mod inflate;
mod limits;
mod metrics;
mod openapi;
mod pages;
mod plain;
mod refusal;
mod resends;
mod routes;
mod serve;
mod sessions;
mod shared;

pub use admin::{Admin, admin};
pub use bodies::{Bodies, BodyLimits};
pub use doors::Doors;
pub use refusal::{StatusRow, statuses};
pub use routes::Routes;
pub use serve::{ServeSettings, serve};

use crate::access::{Access, Caller};
use crate::agent::Agent;
use crate::backend::{BackendState, Pool};
use crate::chat::{Clock, Failure, FailureKind};
use crate::dialect::{self, Dialect};
use crate::record::Recorder;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use http::{HeaderMap, HeaderValue, header};
use refusal::{Refusal, Told};
pub use resends::Resends;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;

/// The header in which a client says who runs calls of the gateway's tools.
const EXECUTE_HEADER: &str = "x-loopgate-execute";

/// The header in which a client names the interpreter that its programs are to run in.
const SESSION_HEADER: &str = "x-loopgate-session";

/// Bytes of an `x-request-id` that is taken over. Chosen: four UUIDs.
const REQUEST_ID_BYTES_MAX: usize = 144;

/// What a reload replaces, as a whole. A request keeps the one that it found.
#[derive(Clone)]
pub struct Live {
    /// Who may come in.
    pub access: Arc<Access>,
    /// Who answers.
    pub agent: Arc<Agent>,
    /// Of a request's body.
    pub body_limits: BodyLimits,
}

/// What a client is told to wait when the gateway stops: another one, or its successor, is there by then. Chosen.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Everything that the routes need.
pub struct Front {
    /// What a reload replaces.
    pub live: watch::Sender<Live>,
    /// The backends.
    pub pool: Arc<Pool>,
    /// Who writes down.
    pub recorder: Arc<Recorder>,
    /// For `created`.
    pub clock: Clock,
    /// Where operators have no address of their own, but a key.
    pub admin: Option<Admin>,
    /// Web pages of these origins may ask, as a browser writes them; `*` is all. Empty: none.
    pub cors_origins: Vec<HeaderValue>,
    /// Requests that may come again.
    pub resends: Resends,
    /// Set when the gateway is about to stop: new traffic should go elsewhere.
    pub draining: AtomicBool,
    /// The time that running requests had is over: what has not ended ends with an error.
    pub over: CancellationToken,
}

impl Front {
    /// Whose request it is.
    fn identify(&self, live: &Live, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let said = headers.get(header::AUTHORIZATION).map(HeaderValue::to_str).transpose();
        let said =
            said.map_err(|_| Failure::new(FailureKind::Unauthenticated, "the Authorization header is not text"))?;
        let caller = live.access.identify(said);
        let caller = caller.map_err(|error| Failure::new(FailureKind::Unauthenticated, error.to_string()))?;
        if caller == *live.access.anonymous() {
            cors::no_strange_page(&self.cors_origins, headers)?;
        }
        Ok(caller)
    }

    /// What is in force now.
    fn live(&self) -> Live {
        self.live.borrow().clone()
    }

    /// Does something for a request, for as long as the gateway lets running requests go on.
    async fn while_running<T>(&self, doing: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        tokio::select! {
            done = doing => done,
            () = self.over.cancelled() => Err(stopping().into()),
        }
    }

    /// Some backend takes new turns, and the gateway is not about to stop.
    fn is_ready(&self) -> bool {
        let serves = |backend: &BackendState| backend.up == Some(true) && !backend.draining;
        !self.draining.load(Ordering::Relaxed) && self.pool.state().iter().any(serves)
    }
}

/// A request's names.
#[derive(Debug, Clone)]
struct RequestId {
    /// Made here and unique: the answer's `id`, and the stem of the ids that backends know.
    made: Arc<str>,
    /// The client's own.
    sent: Option<Arc<str>>,
}

/// All routes.
pub fn router(front: Arc<Front>) -> Routes {
    let mut router = Router::new();
    for page in pages::ALL {
        router = router.route(page.path, (page.route)());
    }
    for route in plain::ALL {
        router = router.route(route.path, route.handler());
    }
    for dialect in dialect::ALL {
        let dialect: &'static dyn Dialect = *dialect;
        router = router.route(
            dialect.path(),
            post(move |state, extension, request| chat::answer(dialect, state, extension, request)),
        );
    }
    let admin = front.admin.clone().map_or_else(Router::new, admin);
    let router = router
        .route(execute::PATH, post(execute::answer))
        .merge(sessions::routes())
        .with_state(front.clone())
        .merge(admin)
        .fallback(pages::no_route)
        .method_not_allowed_fallback(pages::no_method)
        .layer(CatchPanicLayer::custom(|_| panicked()))
        .layer(option_layer(cors::layer(&front.cors_origins)))
        .layer(middleware::from_fn_with_state(front.clone(), every_request));
    Routes::new(router, front)
}

async fn every_request(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other", |path| known_route(path.as_str()));
    named(&front, route, request, async |id, mut request| {
        request.extensions_mut().insert(id);
        next.run(request).await
    })
    .await
}

/// Names the request, counts it, and says its name: the one that the client gave it, or ours.
async fn named(
    front: &Front,
    route: &'static str,
    request: Request,
    answer: impl AsyncFnOnce(RequestId, Request) -> Response,
) -> Response {
    let sent = request.headers().get("x-request-id").filter(|id| id.len() <= REQUEST_ID_BYTES_MAX);
    let sent: Option<Arc<str>> = sent.and_then(|id| id.to_str().ok()).map(Arc::from);
    let Ok(made) = made_id(if route == execute::PATH { "exec" } else { "chatcmpl" }) else {
        return Failure::new(FailureKind::Internal, "no random numbers to be had").respond();
    };
    let id = RequestId { made: made.into(), sent };
    let mut response = answer(id.clone(), request).await;
    let echo = id.sent.as_ref().unwrap_or(&id.made);
    if let Some(Told(error)) = response.extensions_mut().remove() {
        let (status, id) = (response.status().as_u16(), &*id.made);
        // As a text, not as it displays: then control characters are escaped, which may be the client's.
        tracing::warn!(id, client_id = &**echo, route, status, error = &*error, "request refused");
    }
    front.recorder.metrics().answered(route, response.status().as_u16());
    if let Ok(echo) = HeaderValue::from_str(echo) {
        response.headers_mut().insert("x-request-id", echo);
    }
    response
}

/// Metrics have a series per route, so a route's name must be one of ours.
fn known_route(path: &str) -> &'static str {
    let pages = pages::ALL.iter().map(|page| page.path);
    let plain = plain::ALL.iter().map(|route| route.path);
    pages
        .chain(posted())
        .chain(plain)
        .chain(sessions::PATHS)
        .chain(admin::PATHS)
        .find(|known| *known == path)
        .unwrap_or("other")
}

/// The paths that take POST.
fn posted() -> impl Iterator<Item = &'static str> {
    dialect::ALL.iter().map(|dialect| dialect.path()).chain([execute::PATH])
}

fn made_id(what: &str) -> Result<String, getrandom::Error> {
    let mut random = [0; 12];
    getrandom::fill(&mut random)?;
    // 24 hexadecimal digits.
    let digits = random.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    Ok(format!("{what}-{digits:024x}"))
}

/// Says in which form an answer comes, and that nobody on the way may keep it.
fn form_headers(response: &mut Response, streamed: bool) {
    let kind = if streamed { "text/event-stream; charset=utf-8" } else { "application/json" };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx buffers streams without it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

fn panicked() -> http::Response<Body> {
    Failure::new(FailureKind::Internal, "the gateway made a mistake; its log says more").respond()
}

/// What those are told who were still waiting when the gateway's time was over.
fn stopping() -> Failure {
    let message = "the gateway is stopping and could not wait any longer; send the request again";
    Failure::new(FailureKind::NoBackend, message).retry_after(RETRY_AFTER)
}

/// Failures that routes give back.
trait Respond {
    fn respond(&self) -> Response;
}

impl Respond for Failure {
    fn respond(&self) -> Response {
        Refusal::from(self.clone()).into_response_for(dialect::ERRORS)
    }
}
