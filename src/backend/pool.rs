//! The pool: who is up, who serves which model, who gets the next request, and where to turn when one fails.

use super::Settings;
use super::balance::{self, BackendId, Balance, Candidate, Request};
use super::client::{Client, Stream};
use super::trouble::Trouble;
use crate::chat::{Ask, Delta, Failure, FailureKind};
use http::Uri;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// A backend that is down is looked at this often, so that it is back in traffic soon after it is up.
const PROBE_DOWN: Duration = Duration::from_millis(500);
/// What a client is told to wait when no backend is up.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Models named in an error message.
const MODELS_TOLD_MAX: usize = 8;

/// All backends. Dropping it ends its background work.
pub struct Pool {
    pub(super) client: Client,
    backends: Vec<Arc<Backend>>,
    aliases: BTreeMap<String, String>,
    balance: Box<dyn Balance>,
    attempts_max: usize,
    _background: Vec<AbortOnDropHandle<()>>,
}

pub(super) struct Backend {
    pub name: String,
    pub base: Uri,
    in_flight: AtomicUsize,
    known: Mutex<Known>,
    /// Somebody doubts that it is up: look now.
    doubted: Notify,
}

#[derive(Debug, Clone, Default)]
struct Known {
    /// `None` until the first probe: a request that comes sooner is tried all the same.
    up: Option<bool>,
    models: Vec<Model>,
    last_error: Option<String>,
}

/// A model that some backend serves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Tokens of context, where the backend says so.
    #[serde(default)]
    pub max_model_len: Option<u64>,
}

/// A backend as operators see it.
#[derive(Debug, Clone)]
pub struct BackendState {
    /// Host and port.
    pub name: String,
    /// `None` while nobody has looked yet.
    pub up: Option<bool>,
    /// Requests under way.
    pub in_flight: usize,
    /// Models it serves.
    pub models: Vec<Model>,
    /// Why it is down.
    pub last_error: Option<String>,
}

impl Pool {
    /// Makes the pool and begins to look at its backends.
    ///
    /// # Errors
    /// When a URL is none that can be called, or the balance policy is unknown. The text says which, and the way out.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let policy = balance::ALL.iter().find(|policy| policy.name == settings.balance).ok_or_else(|| {
            let known: Vec<_> = balance::ALL.iter().map(|policy| policy.name).collect();
            format!("unknown balance policy `{}`; known: {}", settings.balance, known.join(", "))
        })?;
        let backends = settings.urls.iter().map(|url| backend(url).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let (client, aborts) = Client::new(settings);
        let mut background = vec![AbortOnDropHandle::new(tokio::spawn(client.clone().send_aborts(aborts)))];
        let probe = Duration::from_millis(settings.probe_ms);
        for backend in &backends {
            let watch = watch(client.clone(), backend.clone(), probe);
            background.push(AbortOnDropHandle::new(tokio::spawn(watch)));
        }
        Ok(Self {
            client,
            backends,
            aliases: settings.aliases.clone(),
            balance: (policy.make)(0),
            attempts_max: settings.attempts_max.max(1),
            _background: background,
        })
    }

    /// The name under which the backends know the model that a client calls `asked`.
    ///
    /// # Errors
    /// When no backend is up, or none of those that are serves it.
    pub fn resolve(&self, asked: &str) -> Result<String, Failure> {
        let name = self.aliases.get(asked).map_or(asked, String::as_str);
        let states = self.state();
        let live: Vec<_> = states.iter().filter(|state| state.up != Some(false)).collect();
        if live.is_empty() {
            return Err(no_backend());
        }
        // A server that lists no models takes any name.
        if live.iter().any(|state| state.models.is_empty() || state.models.iter().any(|model| model.id == name)) {
            return Ok(name.to_owned());
        }
        if states.iter().any(|state| state.models.iter().any(|model| model.id == name)) {
            return Err(no_backend());
        }
        let known: Vec<_> = self.models().into_iter().map(|model| model.id).take(MODELS_TOLD_MAX).collect();
        let asked: String = asked.chars().take(100).collect();
        let message = format!("The model `{asked}` does not exist; known: {}", known.join(", "));
        Err(Failure::new(FailureKind::UnknownModel, message).param("model"))
    }

    /// What clients can ask for: the models of all live backends, then the aliases.
    pub fn models(&self) -> Vec<Model> {
        let mut models: Vec<Model> = Vec::new();
        for model in self.state().into_iter().filter(|state| state.up != Some(false)).flat_map(|state| state.models) {
            if !models.iter().any(|known| known.id == model.id) {
                models.push(model);
            }
        }
        for (alias, name) in &self.aliases {
            if let Some(model) = models.iter().find(|model| model.id == *name).cloned() {
                models.push(Model { id: alias.clone(), ..model });
            }
        }
        models
    }

    /// The backends as operators see them.
    pub fn state(&self) -> Vec<BackendState> {
        self.backends
            .iter()
            .map(|backend| {
                let Known { up, models, last_error } = backend.known().clone();
                let in_flight = backend.in_flight.load(Ordering::Relaxed);
                BackendState { name: backend.name.clone(), up, in_flight, models, last_error }
            })
            .collect()
    }

    /// Waits until some backend has answered a probe.
    pub async fn until_ready(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !self.state().iter().any(|state| state.up == Some(true)) {
            tick.tick().await;
        }
    }

    /// Waits until the backends know of every answer that nobody wants any more.
    pub async fn aborts_sent(&self) {
        self.client.aborts_sent().await;
    }

    /// Makes one model call, streamed. `model` is a name that [`Pool::resolve`] gave; `prefer` names the backend of
    /// the turn's earlier calls, whose cache knows the conversation.
    ///
    /// # Errors
    /// When every backend that may be tried has failed before its first event.
    pub async fn stream(&self, ask: &Ask, model: &str, rid: &str, prefer: Option<&str>) -> Result<Answer, Failure> {
        let mut attempts = self.attempts(model, prefer);
        while let Some(backend) = attempts.next() {
            let seat = backend.sit();
            match self.client.stream(&backend.base, rid.to_owned(), ask.body.render()).await {
                Ok(stream) => return Ok(Answer { stream, seat }),
                Err(trouble) => attempts.failed(&backend, trouble)?,
            }
        }
        Err(attempts.exhausted())
    }

    /// The backends that may be tried for one request, best first.
    pub(super) fn attempts<'a>(&'a self, model: &'a str, prefer: Option<&'a str>) -> Attempts<'a> {
        Attempts { pool: self, model, prefer, tried: Vec::new(), last: None }
    }

    fn pick(&self, model: &str, prefer: Option<&str>, tried: &[usize]) -> Option<usize> {
        let candidates: Vec<_> = self
            .backends
            .iter()
            .enumerate()
            .filter(|(index, backend)| !tried.contains(index) && backend.takes(model))
            .map(|(index, backend)| Candidate {
                id: BackendId(u32::try_from(index).unwrap_or(u32::MAX)),
                key: balance::session_key(&backend.name),
                in_flight: backend.in_flight.load(Ordering::Relaxed),
                weight: 1.0,
                load: None,
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let preferred = prefer.and_then(|name| self.backends.iter().position(|it| it.name == name));
        let prefer = preferred.and_then(|index| u32::try_from(index).ok()).map(BackendId);
        let request = Request { prefer, ..Request::default() };
        let chosen = balance::choose(&*self.balance, &request, &candidates, Duration::ZERO);
        Some(candidates[chosen].id.0 as usize)
    }
}

/// The tries of one request: no backend twice, and none when the trouble would be the same everywhere.
pub(super) struct Attempts<'a> {
    pool: &'a Pool,
    model: &'a str,
    prefer: Option<&'a str>,
    tried: Vec<usize>,
    last: Option<Failure>,
}

impl Attempts<'_> {
    /// The backend to try now.
    pub fn next(&mut self) -> Option<Arc<Backend>> {
        if self.tried.len() >= self.pool.attempts_max {
            return None;
        }
        let index = self.pool.pick(self.model, self.prefer, &self.tried)?;
        self.tried.push(index);
        Some(self.pool.backends[index].clone())
    }

    /// Takes note of a try that failed.
    ///
    /// # Errors
    /// When another backend would say the same.
    pub fn failed(&mut self, backend: &Backend, trouble: Trouble) -> Result<(), Failure> {
        tracing::info!(backend = backend.name, kind = ?trouble.failure.kind, "a model call failed");
        if trouble.down {
            let mut known = backend.known();
            known.up = Some(false);
            known.last_error = Some(trouble.failure.message.clone());
            backend.doubted.notify_one();
        }
        if !trouble.elsewhere {
            return Err(trouble.failure);
        }
        self.last = Some(trouble.failure);
        Ok(())
    }

    /// What to tell when there is nobody left to try.
    pub fn exhausted(self) -> Failure {
        self.last.unwrap_or_else(no_backend)
    }
}

fn no_backend() -> Failure {
    Failure::new(FailureKind::NoBackend, "no model server is up; try again shortly").retry_after(RETRY_AFTER)
}

fn backend(url: &str) -> Result<Backend, String> {
    let out = "write it like http://127.0.0.1:30000";
    let base: Uri = url.parse().map_err(|error| format!("backend `{url}` is not a URL ({error}); {out}"))?;
    match (base.scheme_str(), base.authority()) {
        (Some("http"), Some(authority)) if base.query().is_none() => Ok(Backend {
            name: authority.as_str().to_owned(),
            in_flight: AtomicUsize::new(0),
            known: Mutex::default(),
            doubted: Notify::new(),
            base,
        }),
        (Some("https"), _) => Err(format!("backend `{url}`: TLS to backends is not spoken here; {out}")),
        _ => Err(format!("backend `{url}` is not an HTTP URL; {out}")),
    }
}

impl Backend {
    fn known(&self) -> MutexGuard<'_, Known> {
        // The data is whole after every statement, so a panic elsewhere cannot have broken it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn takes(&self, model: &str) -> bool {
        let known = self.known();
        known.up != Some(false) && (known.models.is_empty() || known.models.iter().any(|it| it.id == model))
    }

    /// Takes note of what a probe found; whether the backend is up.
    fn note(&self, found: Result<Vec<Model>, String>) -> bool {
        let up = found.is_ok();
        let mut known = self.known();
        match &found {
            Ok(_) if known.up != Some(true) => tracing::info!(backend = self.name, "backend is up"),
            Err(error) if known.up != Some(false) => tracing::warn!(backend = self.name, error, "backend is down"),
            Ok(_) | Err(_) => {}
        }
        known.up = Some(up);
        match found {
            Ok(models) => (known.models, known.last_error) = (models, None),
            Err(error) => known.last_error = Some(error),
        }
        up
    }

    /// Counts a request for as long as the seat lives.
    pub fn sit(self: &Arc<Self>) -> Seat {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Seat(self.clone())
    }
}

/// A request under way at a backend.
pub(super) struct Seat(Arc<Backend>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer under way. Dropping it before its end aborts the request at the backend.
pub struct Answer {
    stream: Stream,
    seat: Seat,
}

impl Answer {
    /// The backend that gives it.
    pub fn backend(&self) -> &str {
        &self.seat.0.name
    }

    /// The next step; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Delta, Failure>> {
        self.stream.next().await.map(|step| step.map_err(|trouble| trouble.failure))
    }
}

/// Looks at one backend again and again: is it up, and what does it serve. A request that found it down has it looked
/// at at once: one lost connection must not keep it out of traffic.
async fn watch(client: Client, backend: Arc<Backend>, every: Duration) {
    loop {
        let up = backend.note(probe(&client, &backend.base).await);
        // When the time is over, that is fine too.
        let _ = timeout(if up { every } else { PROBE_DOWN.min(every) }, backend.doubted.notified()).await;
    }
}

async fn probe(client: &Client, base: &Uri) -> Result<Vec<Model>, String> {
    #[derive(Deserialize)]
    struct Listed {
        data: Vec<Model>,
    }
    let (status, body) = client.get(base, "/v1/models").await.map_err(|trouble| trouble.failure.message)?;
    match status.as_u16() {
        200 => Ok(serde_json::from_slice::<Listed>(&body).map(|listed| listed.data).unwrap_or_default()),
        // A server without that route serves what it serves.
        404 | 405 => Ok(Vec::new()),
        401 | 403 => Err("it refuses the gateway's key; set backend.api_key".to_owned()),
        other => Err(format!("/v1/models answers {other}")),
    }
}
