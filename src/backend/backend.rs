//! One backend of the pool: what is known of it, whether it takes a request, and the seats of those that it works on.

use super::Settings;
use super::admission::Pass;
use super::balance::{BackendId, Balance, Candidate, End, Load, Moment, Request, TryId, session_key};
use super::breaker::{Breaker, BreakerSettings};
use super::client::Target;
use super::discover::{Info, Model};
use super::health::{Change, Health, Probe};
use super::queue::Queue;
use super::server::{Address, Server};
use super::state::BackendState;
use super::trouble::{Retry, Trouble};
use crate::chat::Delta;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// How long an answer that has begun may be silent when probes find nobody where it comes from. A server that shuts down
/// takes no connections any more and ends its answers all the same. Chosen: longer than another prompt's chunk takes.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes of an answer that count as a token where the backend does not say how many it wrote.
const BYTES_PER_TOKEN: usize = 4;

/// Comes when probes have found nobody there. It is made once for an answer, and looked at for every chunk.
pub(super) type Away = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Backend {
    pub id: BackendId,
    /// Host and port.
    pub name: String,
    pub origin: Origin,
    key: u64,
    details: watch::Sender<Arc<Details>>,
    in_flight: AtomicUsize,
    tries: AtomicU64,
    failures: AtomicU64,
    draining: AtomicBool,
    known: Mutex<Known>,
    /// Somebody doubts that it is up: look now.
    doubted: Notify,
    /// Probes found nobody there: whoever waits for an answer waits in vain.
    away: watch::Sender<bool>,
}

/// How it came into the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration lists it.
    Listed,
    /// It was found behind this name.
    Found(Address),
    /// An operator added it.
    Added,
}

/// What a reload can change of it.
pub(super) struct Details {
    pub server: Server,
    pub target: Arc<Target>,
}

struct Known {
    health: Health,
    breaker: Breaker,
    models: Vec<Model>,
    info: Option<Info>,
    load: Option<Load>,
    last_error: Option<(String, Instant)>,
}

/// Whether a backend takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    Yes,
    /// If there is nobody else: its breaker is open, or it may be away.
    Unwillingly,
    /// When a seat is free.
    Later,
    No,
}

impl Backend {
    pub fn new(id: BackendId, name: String, origin: Origin, details: Details) -> Self {
        let (health, breaker) = (Health::default(), Breaker::new());
        Self {
            id,
            key: session_key(&name),
            name,
            origin,
            details: watch::Sender::new(Arc::new(details)),
            in_flight: AtomicUsize::new(0),
            tries: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            known: Mutex::new(Known { health, breaker, models: Vec::new(), info: None, load: None, last_error: None }),
            doubted: Notify::new(),
            away: watch::Sender::new(false),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The data is whole after every statement, so a panic elsewhere cannot have broken it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn details(&self) -> Arc<Details> {
        self.details.borrow().clone()
    }

    pub fn change(&self, details: Details) {
        self.details.send_replace(Arc::new(details));
        self.doubted.notify_one();
    }

    pub fn drain(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    pub fn is_up(&self) -> bool {
        self.known().health.up() == Some(true)
    }

    /// It gets nothing, not even if there is nobody else.
    pub fn is_out(&self) -> bool {
        self.known().health.is_out()
    }

    /// Whether it serves a model. One that lists none takes any name.
    pub fn serves(&self, model: &str) -> bool {
        self.known_to_serve(&self.known(), model)
    }

    fn known_to_serve(&self, known: &Known, model: &str) -> bool {
        let only = &self.details().server.models;
        let is_asked_for = only.is_empty() || only.iter().any(|it| it == model);
        is_asked_for && (known.models.is_empty() || known.models.iter().any(|it| it.id == model))
    }

    /// Waits until somebody doubts that it is up.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Waits until probes have found nobody there.
    pub fn away(&self) -> Away {
        let mut away = self.away.subscribe();
        Box::pin(async move {
            // The sender is here, and whoever waits has a seat here.
            let _ = away.wait_for(|away| *away).await;
        })
    }

    /// Whether it takes a request for `model`, or for no certain one if that is empty. One of a turn that it has begun it takes even while it is being drained.
    pub fn offer(&self, model: &str, has_the_turn: bool, now: Instant) -> Offer {
        let in_flight_max = self.details().server.in_flight_max;
        let known = self.known();
        let serves = model.is_empty() || self.known_to_serve(&known, model);
        let drains = self.draining.load(Ordering::Relaxed) && !has_the_turn;
        if !serves || drains || known.health.is_out() {
            Offer::No
        } else if in_flight_max.is_some_and(|max| self.in_flight.load(Ordering::Relaxed) >= max) {
            Offer::Later
        } else if known.breaker.lets_through(now) && !known.health.is_doubted() {
            Offer::Yes
        } else {
            Offer::Unwillingly
        }
    }

    /// Whether requests for `model` may have to wait for a seat here, be it now or when it is up.
    pub fn may_be_full_for(&self, model: &str) -> bool {
        let is_bounded = self.details().server.in_flight_max.is_some();
        is_bounded && !self.draining.load(Ordering::Relaxed) && (model.is_empty() || self.serves(model))
    }

    pub fn candidate(&self, settings: &Settings, now: Instant) -> Candidate {
        let known = self.known();
        Candidate {
            id: self.id,
            key: self.key,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            weight: self.weight(&known, settings, now),
            load: known.load,
        }
    }

    fn weight(&self, known: &Known, settings: &Settings, now: Instant) -> f64 {
        let slow_start = Duration::from_millis(settings.slow_start_ms);
        self.details().server.weight * known.health.share(slow_start, now)
    }

    /// Takes note of what a probe found.
    pub fn probed(&self, probe: &Probe, models: Vec<Model>, now: Instant) -> Change {
        let mut known = self.known();
        let change = known.health.probed(probe, now);
        match probe {
            Probe::Good => known.models = models,
            Probe::Unfit(error) | Probe::Gone(error) | Probe::Silent(error) | Probe::Failed(error) => {
                known.last_error = Some((error.clone(), now));
                if known.health.is_out() {
                    // It says nothing of the server that will be here next.
                    known.load = None;
                }
                if change == Change::Down {
                    tracing::warn!(backend = self.name, error, "backend is down");
                }
            }
        }
        match change {
            Change::Up | Change::Back { .. } => {
                tracing::info!(backend = self.name, "backend is up");
                known.breaker = Breaker::new();
                self.away.send_replace(false);
            }
            Change::None | Change::Down => {}
        }
        if known.health.up() == Some(false) && matches!(probe, Probe::Gone(_) | Probe::Silent(_)) {
            self.away.send_replace(true);
        }
        change
    }

    pub fn informed(&self, info: Info) {
        self.known().info = Some(info);
    }

    /// Takes note of a load report, and completes it.
    pub fn reported(&self, load: Load) -> Load {
        let mut known = self.known();
        let said_before = known.info.and_then(|info| info.kv_tokens_max);
        let load = Load { kv_tokens_max: load.kv_tokens_max.or(said_before), ..load };
        known.load = Some(load);
        load
    }

    /// Takes note of a model call that failed here.
    fn failed(&self, trouble: &Trouble, settings: &BreakerSettings) {
        let mut known = self.known();
        let now = Instant::now();
        if trouble.retry != Retry::Nowhere {
            known.last_error = Some((trouble.why(), now));
        }
        if !trouble.fault {
            return;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        if trouble.down {
            if known.health.lost() == Change::Down {
                tracing::warn!(backend = self.name, error = trouble.why(), "backend is down");
            }
        } else if known.breaker.failed(settings, now) {
            tracing::warn!(
                backend = self.name,
                error = trouble.why(),
                "the backend keeps failing; it is left alone for {} ms",
                settings.open_ms
            );
        }
        self.doubted.notify_one();
    }

    /// The models that it is asked for.
    pub fn models(&self) -> Vec<Model> {
        self.models_of(&self.known())
    }

    fn models_of(&self, known: &Known) -> Vec<Model> {
        let only = &self.details().server.models;
        if known.models.is_empty() {
            return only.iter().map(|id| Model { id: id.clone(), max_model_len: None }).collect();
        }
        known.models.iter().filter(|model| only.is_empty() || only.contains(&model.id)).cloned().collect()
    }

    pub fn state(&self, settings: &Settings, balance: &dyn Balance, now: Instant) -> BackendState {
        let (details, known) = (self.details(), self.known());
        BackendState {
            id: self.id.0,
            name: self.name.clone(),
            found_by: details.server.address.to_string(),
            up: known.health.up(),
            draining: self.draining.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            in_flight_max: details.server.in_flight_max,
            weight: self.weight(&known, settings, now),
            labels: details.server.labels.clone(),
            models: self.models_of(&known),
            breaker: known.breaker.state(now),
            load: known.load,
            estimate: balance.estimate(self.id),
            finds_calls: known.info.and_then(|info| info.finds_calls),
            tries: self.tries.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            last_error: known
                .last_error
                .as_ref()
                .map(|(error, at)| (error.clone(), now.saturating_duration_since(*at))),
        }
    }
}

/// A try of a model call at a backend. It counts as in flight for as long as it lives, and the balance policy hears of
/// it from its beginning to its end.
pub(super) struct Seat {
    pub backend: Arc<Backend>,
    balance: Arc<dyn Balance>,
    breaker: BreakerSettings,
    id: TryId,
    pool_began: Instant,
    queue: Arc<Queue>,
    /// Its session's leave to go on.
    pub pass: Option<Pass>,
    end: End,
    written_bytes: usize,
    read: bool,
}

/// What a seat needs to know of the pool.
pub(super) struct Table<'a> {
    pub balance: &'a Arc<dyn Balance>,
    pub breaker: BreakerSettings,
    pub began: Instant,
    pub queue: &'a Arc<Queue>,
}

impl Seat {
    /// Takes a seat, unless the last one was taken a moment ago.
    pub fn take(
        backend: &Arc<Backend>,
        request: &Request,
        id: TryId,
        table: &Table<'_>,
        pass: &mut Option<Pass>,
    ) -> Option<Self> {
        let max = backend.details().server.in_flight_max.unwrap_or(usize::MAX);
        let one_more = |seats: usize| (seats < max).then_some(seats + 1);
        backend.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        backend.tries.fetch_add(1, Ordering::Relaxed);
        backend.known().breaker.sent(Instant::now());
        table.balance.sent(id, request, backend.id, table.began.elapsed());
        let pass = pass.take().inspect(|pass| pass.went(backend.id));
        Some(Self {
            backend: backend.clone(),
            balance: table.balance.clone(),
            breaker: table.breaker,
            id,
            pool_began: table.began,
            queue: table.queue.clone(),
            pass,
            end: End::default(),
            written_bytes: 0,
            read: false,
        })
    }

    fn now(&self) -> Moment {
        self.pool_began.elapsed()
    }

    /// Takes note of a step of the answer.
    pub fn heard(&mut self, delta: &Delta) {
        let calls: usize = delta.calls.iter().map(|call| call.arguments.len()).sum();
        self.written(delta.content.len() + delta.reasoning.len() + calls, !delta.calls.is_empty());
        if let Some(usage) = delta.usage {
            let number = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
            self.end.prompt_tokens = Some(number(usage.prompt_tokens));
            self.end.cached_tokens = usage.cached_tokens.map(number);
            self.end.written_tokens = number(usage.completion_tokens);
        }
    }

    /// Takes note of bytes of the answer; `something` of it is there even if they are none.
    pub fn written(&mut self, bytes: usize, something: bool) {
        self.written_bytes += bytes;
        if (bytes > 0 || something) && !std::mem::replace(&mut self.read, true) {
            self.balance.first_token(self.id, self.now());
            self.pass.iter().for_each(Pass::first_token);
        }
    }

    /// What comes next of an answer from where probes find nobody.
    pub async fn last_words<T>(
        &self,
        next: impl Future<Output = Option<Result<T, Trouble>>>,
    ) -> Option<Result<T, Trouble>> {
        timeout(LAST_WORDS, next).await.unwrap_or_else(|_| Some(Err(Trouble::died())))
    }

    /// The answer has come to its end.
    pub fn succeeded(&self) {
        self.backend.known().breaker.succeeded(&self.breaker);
    }

    pub fn failed(&self, trouble: &Trouble) {
        self.backend.failed(trouble, &self.breaker);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.backend.in_flight.fetch_sub(1, Ordering::Relaxed);
        let guess = u32::try_from(self.written_bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX);
        let written_tokens = if self.end.written_tokens > 0 { self.end.written_tokens } else { guess };
        let end = End { written_tokens, ..self.end };
        self.balance.ended(self.id, end, self.now());
        if let Some(mut pass) = self.pass.take() {
            pass.ends(end);
        }
        self.queue.freed(self.backend.id);
    }
}
