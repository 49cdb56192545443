//! The HTTP side: connections, routes, keys, and what is shared between requests.

use super::answer::{self, Asking};
use super::fault::Fault;
use super::info;
use super::kv::Cache;
use super::log::{Arrived, Outcome, Shared};
use super::orders::Orders;
use super::plain_wire::Plain;
use super::queue::Queue;
use super::refusal::Refusal;
use super::speech::Died;
use super::{Settings, Version, texts};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bytes of a request's body. Chosen: many times what a full context weighs.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections at a time. Chosen: a bench's concurrency with room.
const CONNECTIONS_MAX: usize = 16_384;
/// Pause after a failed accept, which mostly means that file descriptors ran out. Chosen.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Questions that are remembered to notice repeats. Chosen.
const REPEATS_MAX: usize = 1024;
/// Bytes of a question that is remembered. Chosen: the rule that asks for repeats is shorter.
const REPEAT_BYTES_MAX: usize = 64;

/// A response.
pub type Answer = Response<UnsyncBoxBody<Bytes, Died>>;

/// What requests share.
#[derive(Debug)]
pub struct Server {
    pub(super) settings: Settings,
    pub(super) log: Shared,
    pub(super) queue: Queue,
    /// With [`Settings::kv_tokens`].
    pub(super) kv: Option<Cache>,
    /// Whose prompt is computed: with [`Settings::prefill`] one at a time, first come, first served.
    pub(super) computes: tokio::sync::Mutex<()>,
    pub(super) orders: Orders,
    /// Requests that can be aborted, by id.
    aborts: Mutex<HashMap<String, CancellationToken>>,
    /// How often a question was asked.
    repeats: Mutex<HashMap<String, u32>>,
    /// First half of all ids of this server, so that two servers' ids differ.
    id_base: u64,
    ids: AtomicU64,
}

/// Takes a request's id from the list of those that can be aborted, on drop.
#[derive(Debug)]
pub struct Registered {
    server: Arc<Server>,
    rid: String,
}

impl Registered {
    /// Its client has left before the end: SGLang aborts such a request by its id, and so all whose ids begin with it.
    pub(super) fn abandoned(&self) {
        self.server.cancel(|id| id.starts_with(&self.rid));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.server.aborts).remove(&self.rid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Server {
    /// Not listening yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            log: Shared::new(),
            queue: Queue::new(settings.running_max, settings.queue_max),
            kv: settings.kv_tokens.map(Cache::new),
            computes: tokio::sync::Mutex::default(),
            orders: Orders::new(settings.fault),
            aborts: Mutex::default(),
            repeats: Mutex::default(),
            // Without randomness ids are still unique on this server.
            id_base: getrandom::u64().unwrap_or_default(),
            ids: AtomicU64::new(0),
            settings,
        }
    }

    /// Serves until the future is dropped, and all connections with it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(self.clone().connection(stream))),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        // Events are small writes that nobody must hold back; asyncio's servers turn Nagle off as well.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.clone().handle(request));
        // Errors here are clients that left and faults that were asked for.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Died> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| Died)?.to_bytes();
        let arrived = Arrived {
            number: 0,
            method: parts.method.clone(),
            path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            headers: parts.headers.clone(),
            body: body.clone(),
            prompt_tokens: 0,
            cached_tokens: 0,
            outcome: Outcome::Open,
        };
        let order = self.orders.take(arrived.asks());
        let mut entry = self.log.arrived(arrived);
        if order.fault == Some(Fault::Hang) {
            std::future::pending::<()>().await;
        }
        let plain = match (&parts.method, parts.uri.path()) {
            _ if order.fault == Some(Fault::RefuseAll) => Err(Refusal::queue_full()),
            _ if !self.admits(&parts) => Err(Refusal::unauthorized()),
            (&Method::POST, "/v1/chat/completions") if !is_json(&parts.headers) => Err(Refusal::content_type()),
            (&Method::POST, path @ ("/v1/chat/completions" | "/v1/completions" | "/generate")) => {
                let kind = match path {
                    "/generate" => Some(Plain::Generate),
                    "/v1/completions" => Some(Plain::Completion),
                    _ => None,
                };
                return Asking { server: self, kind, entry, order }.answer(&body).await;
            }
            _ => self.route(&parts, &body, order.fault),
        };
        entry.answered();
        Ok(plain.unwrap_or_else(|refusal| json(refusal.status, &refusal.body)))
    }

    /// Everything that needs no model.
    fn route(&self, parts: &Parts, body: &[u8], fault: Option<Fault>) -> Result<Answer, Refusal> {
        let settings = &self.settings;
        let found = |value: Value| Ok(json(StatusCode::OK, &value));
        let health = if fault == Some(Fault::Unhealthy) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        match (parts.method.as_str(), parts.uri.path(), settings.version) {
            ("GET", "/health" | "/health_generate", _) | ("GET", "/ready", Version::V0_5_23) => Ok(empty(health)),
            ("GET", "/v1/models", _) => found(info::models(settings, now())),
            ("GET", "/model_info" | "/get_model_info", _) => found(info::model_info(settings)),
            ("GET", "/server_info" | "/get_server_info", _) => found(info::server_info(settings, self.queue.load())),
            ("GET", "/get_load" | "/v1/loads", _) if fault == Some(Fault::LyingLoad) => found(info::lying_load()),
            ("GET", "/get_load", Version::V0_5_7) => found(info::old_load(self.queue.load())),
            ("GET", "/v1/loads", Version::V0_5_23) => found(info::new_load(settings, self.queue.load(), now())),
            ("POST", path @ ("/v1/embeddings" | "/v1/rerank" | "/tokenize" | "/detokenize"), _) => {
                texts::answer(path, body, settings).and_then(found)
            }
            ("POST", "/abort_request", _) => {
                self.abort(&serde_json::from_slice(body).unwrap_or_default());
                Ok(empty(StatusCode::OK))
            }
            ("GET", path, _) if path.starts_with("/v1/models/") => {
                let name = path.trim_start_matches("/v1/models/");
                let known = settings.models.iter().any(|model| model == name);
                if known { found(info::one_model(settings, name, now())) } else { Err(Refusal::no_model(name)) }
            }
            (_, path, _) if ROUTES.contains(&path) => Err(Refusal::framework(StatusCode::METHOD_NOT_ALLOWED)),
            _ => Err(Refusal::framework(StatusCode::NOT_FOUND)),
        }
    }

    fn admits(&self, parts: &Parts) -> bool {
        let Some(key) = &self.settings.api_key else { return true };
        let open = ["/health", "/ready", "/metrics"].iter().any(|path| parts.uri.path().starts_with(path));
        let sent = parts.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        open || sent.and_then(|sent| sent.strip_prefix(b"Bearer ")) == Some(key.as_bytes())
    }

    fn abort(&self, body: &Value) {
        let rid = body["rid"].as_str().unwrap_or_default();
        let all = body["abort_all"] == true;
        // Every id that begins with it. Of an empty one SGLang takes no notice; that it also asks whether it knows the id
        // holds only where one process reads all requests (`--tokenizer-worker-num 1`).
        self.cancel(|id| all || (!rid.is_empty() && id.starts_with(rid)));
        self.log.abort(rid.to_owned());
    }

    fn cancel(&self, such: impl Fn(&str) -> bool) {
        lock(&self.aborts).iter().filter(|(id, _)| such(id)).for_each(|(_, token)| token.cancel());
    }

    /// Makes a request's id known to `/abort_request`. One that is known already is refused, as by 0.5.23.
    pub(super) fn register(self: Arc<Self>, rid: &str) -> Result<(Registered, CancellationToken), Refusal> {
        let token = CancellationToken::new();
        match lock(&self.aborts).entry(rid.to_owned()) {
            Entry::Occupied(_) => return Err(Refusal::bad_request(format!("Duplicate request ID detected: {rid}"))),
            Entry::Vacant(place) => drop(place.insert(token.clone())),
        }
        Ok((Registered { rid: rid.to_owned(), server: self }, token))
    }

    /// A new id: 32 hexadecimal digits, as SGLang's.
    pub(super) fn new_id(&self) -> String {
        format!("{:016x}{:016x}", self.id_base, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// How often this was asked before, if it is short. Forgets everything now and then.
    pub(super) fn repeats(&self, question: &str) -> u32 {
        if question.len() > REPEAT_BYTES_MAX {
            return 0;
        }
        let mut repeats = lock(&self.repeats);
        if repeats.len() >= REPEATS_MAX {
            repeats.clear();
        }
        let count = repeats.entry(question.to_owned()).or_insert(0);
        *count += 1;
        *count - 1
    }
}

/// For 405: what exists with another method.
const ROUTES: &[&str] = &[
    "/abort_request",
    "/detokenize",
    "/generate",
    "/get_model_info",
    "/get_server_info",
    "/health",
    "/health_generate",
    "/model_info",
    "/server_info",
    "/tokenize",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/rerank",
];

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// A JSON response.
pub fn json(status: StatusCode, body: &Value) -> Answer {
    answer::response(status, "application/json", whole_body(body.to_string()))
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(whole_body(""));
    *response.status_mut() = status;
    response
}

/// A body that is there at once.
pub fn whole_body(body: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, Died> {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}
