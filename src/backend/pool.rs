//! The pool: which backends there are, what they serve, and the model calls that are made of them.

use super::admission::Gate;
use super::answer::Answer;
use super::attempts::{Attempts, no_backend};
use super::backend::Backend;
use super::balance::{self, Balance, Policy, Prefix, Request, TryId};
use super::changes::Work;
use super::client::Client;
use super::discover::Model;
use super::queue::Queue;
use super::state::BackendState;
use super::{Call, Settings};
use crate::chat::{Failure, FailureKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Models named in an error message.
const MODELS_TOLD_MAX: usize = 8;

/// All backends. Dropping it ends its background work.
pub struct Pool {
    pub(super) client: Client,
    pub(super) began: Instant,
    /// Where requests wait for a seat.
    pub(super) queue: Arc<Queue>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    tries: AtomicU64,
    retries: AtomicU64,
    continued: AtomicU64,
    pub(super) work: Mutex<Work>,
    pub(super) itself: Weak<Self>,
    /// Where sessions wait for room in the caches.
    pub(super) gate: Arc<Gate>,
    _background: [AbortOnDropHandle<()>; 2],
}

/// The pool at one moment. A model call's try keeps the one it began with; a change makes another.
pub(super) struct Snapshot {
    pub settings: Arc<Settings>,
    pub policy: &'static Policy,
    pub balance: Arc<dyn Balance>,
    pub backends: Vec<Arc<Backend>>,
    pub began: Instant,
}

impl Pool {
    /// Makes the pool and begins to look at its backends.
    ///
    /// # Errors
    /// When the balance policy is unknown, or the certificates that are to be believed cannot be read.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, String> {
        let (client, aborts) = Client::new(settings)?;
        let ((policy, balance), began) = (balance_of(settings)?, Instant::now());
        let gate = Gate::new(began.into(), settings.admission);
        let snapshot = Snapshot {
            settings: Arc::new(Settings { servers: Vec::new(), ..settings.clone() }),
            policy,
            balance,
            backends: Vec::new(),
            began,
        };
        let pool = Arc::new_cyclic(|itself| Self {
            _background: [
                AbortOnDropHandle::new(tokio::spawn(client.clone().send_aborts(aborts))),
                AbortOnDropHandle::new(tokio::spawn(gate.clone().keep())),
            ],
            gate,
            client,
            began,
            queue: Arc::default(),
            snapshot: watch::Sender::new(Arc::new(snapshot)),
            tries: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            continued: AtomicU64::new(0),
            work: Mutex::default(),
            itself: itself.clone(),
        });
        pool.reload(settings)?;
        Ok(pool)
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    pub(super) fn next_try(&self) -> TryId {
        TryId(self.tries.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Tries after a failed one, since the start.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(super) fn count_continued(&self) {
        self.continued.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers that were cut and continued, since the start.
    pub fn continued(&self) -> u64 {
        self.continued.load(Ordering::Relaxed)
    }

    /// How many model calls wait for their session's turn, and how many sessions are active.
    pub fn sessions(&self) -> (usize, usize) {
        self.gate.crowd()
    }

    /// The name under which the backends know the model that a client calls `asked`.
    ///
    /// # Errors
    /// When no backend is up, or none of those that are serves it.
    pub fn resolve(&self, asked: &str) -> Result<String, Failure> {
        let snapshot = self.snapshot();
        let name = snapshot.settings.aliases.get(asked).map_or(asked, String::as_str);
        let (live, out): (Vec<_>, Vec<_>) = snapshot.backends.iter().partition(|backend| !backend.is_out());
        if live.iter().any(|backend| backend.serves(name)) {
            return Ok(name.to_owned());
        }
        // What one serves that was never up is known only if the configuration says it: a name that nobody can reach must not
        // have clients ask again and again for a model that does not exist.
        let is_back_soon = |backend: &&Arc<Backend>| backend.models().iter().any(|model| model.id == name);
        if live.is_empty() || out.iter().any(is_back_soon) {
            return Err(no_backend());
        }
        let known: Vec<_> = self.models().into_iter().map(|model| model.id).take(MODELS_TOLD_MAX).collect();
        // Escaped, since it ends up in logs and on terminals.
        let asked: String = asked.chars().take(100).flat_map(char::escape_debug).collect();
        let message = format!("The model `{asked}` does not exist; known: {}", known.join(", "));
        Err(Failure::new(FailureKind::UnknownModel, message).param("model"))
    }

    /// What clients can ask for: the models of all live backends, then the aliases.
    pub fn models(&self) -> Vec<Model> {
        let mut models: Vec<Model> = Vec::new();
        let snapshot = self.snapshot();
        let live = snapshot.backends.iter().filter(|backend| !backend.is_out());
        for model in live.flat_map(|backend| backend.models()) {
            if !models.iter().any(|known| known.id == model.id) {
                models.push(model);
            }
        }
        for (alias, name) in &snapshot.settings.aliases {
            if models.iter().any(|known| known.id == *alias) {
                continue;
            }
            if let Some(model) = models.iter().find(|model| model.id == *name).cloned() {
                models.push(Model { id: alias.clone(), ..model });
            }
        }
        models
    }

    /// The backends as operators see them.
    pub fn state(&self) -> Vec<BackendState> {
        let (now, snapshot) = (Instant::now(), self.snapshot());
        snapshot.backends.iter().map(|backend| backend.state(&snapshot.settings, &*snapshot.balance, now)).collect()
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

    /// Makes one model call, streamed. `prefer` names the backend of the turn's earlier calls, whose cache knows the
    /// conversation.
    ///
    /// # Errors
    /// When every backend that may be tried has failed before its first event.
    pub async fn stream(self: &Arc<Self>, call: Call<'_>, rid: &str, prefer: Option<&str>) -> Result<Answer, Failure> {
        let attempts = self.attempts(call, prefer).await?;
        Answer::begin(attempts, call.ask, rid).await
    }

    /// The tries of a model call, once its session may go on.
    pub(super) async fn attempts(self: &Arc<Self>, call: Call<'_>, prefer: Option<&str>) -> Result<Attempts, Failure> {
        let snapshot = self.snapshot();
        let prefer = prefer.and_then(|name| snapshot.backends.iter().find(|backend| backend.name == name));
        let request = Request {
            session: call.ask.session.as_deref().map(balance::session_key),
            prefix: if snapshot.policy.reads { Prefix::of_body(call.model, &call.ask.body) } else { Prefix::default() },
            prefer: prefer.map(|backend| backend.id),
        };
        let mut attempts = Attempts::new(self.clone(), call.model, call.caller, request);
        if snapshot.policy.admits {
            attempts.enter(&self.gate).await?;
        }
        Ok(attempts)
    }
}

/// The policy that the settings name, and one of its kind.
pub(super) fn balance_of(settings: &Settings) -> Result<(&'static Policy, Arc<dyn Balance>), String> {
    let policy = balance::ALL.iter().find(|policy| policy.name == settings.balance).ok_or_else(|| {
        let known: Vec<_> = balance::ALL.iter().map(|policy| policy.name).collect();
        format!("unknown balance policy `{}`; known: {}", settings.balance, known.join(", "))
    })?;
    // Lots that nobody can foresee matter to nobody here, so a system without random numbers will do.
    Ok((policy, (policy.make)(getrandom::u64().unwrap_or_default()).into()))
}
