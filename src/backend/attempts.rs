//! The tries of one model call: elsewhere first, the same backend again only when there is no other, with pauses that
//! grow, within a number and a deadline.

use super::admission::{Full, Gate, Pass};
use super::backend::{Backend, Offer, Seat, Table};
use super::balance::{self, BackendId, Request};
use super::client::Patience;
use super::pool::{Pool, Snapshot};
use super::queue::Place;
use super::trouble::{RETRY_AFTER_MAX, Retry, Trouble};
use crate::chat::{Failure, FailureKind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// The first pause, and what each next one is of the one before. The SGLang router's, and so are the two below.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_GROWTH: f64 = 1.5;
/// The share by which a pause is longer or shorter by chance, so that those who failed together do not return together.
const JITTER: f64 = 0.2;
/// What a client is told to wait when no backend is up.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The tries of one request.
pub(super) struct Attempts {
    pub pool: Arc<Pool>,
    model: String,
    caller: u64,
    request: Request,
    pub patience: Patience,
    tries_max: usize,
    tried: Vec<Tried>,
    last: Option<Failure>,
    /// Its session's leave to go on, while no seat has it.
    pass: Option<Pass>,
}

/// A backend that has failed.
struct Tried {
    id: BackendId,
    /// It may do better another time.
    again: bool,
    /// It asked not to be asked sooner.
    not_before: Instant,
}

enum Found {
    Seat(Box<Seat>),
    AllTaken,
    Nobody,
}

impl Attempts {
    pub fn new(pool: Arc<Pool>, model: &str, caller: &str, request: Request) -> Self {
        let settings = pool.snapshot().settings.clone();
        Self {
            pool,
            model: model.to_owned(),
            caller: balance::session_key(caller),
            request,
            patience: Patience::of(&settings),
            tries_max: settings.attempts_max.max(1),
            tried: Vec::new(),
            last: None,
            pass: None,
        }
    }

    /// Waits until the session may go on.
    pub async fn enter(&mut self, gate: &Arc<Gate>) -> Result<(), Failure> {
        let (now, snapshot) = (Instant::now(), self.pool.snapshot());
        let among: Arc<[_]> = self.offering(&snapshot, now).map(|(backend, _)| backend.id).collect();
        if among.is_empty() {
            // Nobody is there to wait for; the tries will say so.
            return Ok(());
        }
        let left = self.patience.deadline.saturating_duration_since(now);
        let entered = timeout(left, gate.enter(self.caller, &self.request, among)).await;
        match entered {
            Ok(Ok(pass)) => self.pass = Some(pass),
            Ok(Err(Full)) | Err(_) => return Err(Trouble::full(None).failure),
        }
        Ok(())
    }

    /// A seat at the backend to try now.
    pub async fn next(&mut self) -> Option<Seat> {
        if self.tried.len() >= self.tries_max {
            return None;
        }
        let pause = self.pause(Instant::now());
        if Instant::now() + pause >= self.patience.deadline {
            return None;
        }
        if !self.tried.is_empty() {
            self.pool.count_retry();
            sleep(pause).await;
        }
        match self.find(None) {
            Found::Seat(seat) => Some(*seat),
            Found::Nobody => None,
            // Boxed, since it is large and rare.
            Found::AllTaken => Box::pin(self.wait_for_a_seat()).await.unwrap_or_else(|Full| {
                self.last = Some(Trouble::full(None).failure);
                None
            }),
        }
    }

    /// A seat when there is one, within the bounds on waiting.
    async fn wait_for_a_seat(&mut self) -> Result<Option<Seat>, Full> {
        let settings = self.pool.snapshot().settings.clone();
        let given_up = Instant::now() + Duration::from_millis(settings.seat_wait_ms);
        let given_up = given_up.min(self.patience.deadline);
        let place = self.pool.queue.join(self.caller, settings.seat_waiting_max)?;
        loop {
            // Before the look, so that a seat that is freed after it is heard of.
            place.waits_for(&self.may_be_full());
            match self.find(Some(&place)) {
                Found::Seat(seat) => {
                    place.served();
                    return Ok(Some(*seat));
                }
                Found::Nobody => return Ok(None),
                Found::AllTaken => {}
            }
            let left = given_up.saturating_duration_since(Instant::now());
            timeout(left, place.called()).await.unwrap_or(Err(Full))?;
        }
    }

    /// The backends at which a seat is waited for: none that would not be taken now, and also those that are out.
    fn may_be_full(&self) -> Vec<BackendId> {
        let snapshot = self.pool.snapshot();
        let any_fresh = self.offering(&snapshot, Instant::now()).any(|(backend, _)| self.tried(backend).is_none());
        let could = |backend: &&Arc<Backend>| self.tried(backend).is_none_or(|tried| tried.again && !any_fresh);
        let full = snapshot.backends.iter().filter(could).filter(|backend| backend.may_be_full_for(&self.model));
        full.map(|backend| backend.id).collect()
    }

    /// How long to wait before the next try: not at all for the first other backend, since one failure says nothing of it.
    fn pause(&self, now: Instant) -> Duration {
        let Some(failures) = self.tried.len().checked_sub(1) else { return Duration::ZERO };
        let snapshot = self.pool.snapshot();
        let offering: Vec<_> = self.offering(&snapshot, now).collect();
        if offering.iter().any(|(backend, _)| self.tried(backend).is_none()) {
            return failures.checked_sub(1).map_or(Duration::ZERO, backoff);
        }
        let asked_for = offering.iter().filter_map(|(backend, _)| self.tried(backend));
        let asked_for = asked_for.map(|tried| tried.not_before.saturating_duration_since(now)).min();
        backoff(failures).max(asked_for.unwrap_or_default())
    }

    /// The backends that may be asked, with how they take it: those that have not failed, or else those that may do
    /// better now.
    fn offering<'s>(&self, snapshot: &'s Snapshot, now: Instant) -> impl Iterator<Item = (&'s Arc<Backend>, Offer)> {
        let offer = |backend: &'s Arc<Backend>| {
            let offer = backend.offer(&self.model, self.request.prefer == Some(backend.id), now);
            (offer != Offer::No).then_some((backend, offer))
        };
        let offers: Vec<_> = snapshot.backends.iter().filter_map(offer).collect();
        let any_fresh = offers.iter().any(|(backend, _)| self.tried(backend).is_none());
        let allowed =
            |tried: Option<&Tried>| if any_fresh { tried.is_none() } else { tried.is_some_and(|it| it.again) };
        offers.into_iter().filter(|(backend, _)| allowed(self.tried(backend))).collect::<Vec<_>>().into_iter()
    }

    /// The last failure at this backend.
    fn tried(&self, backend: &Backend) -> Option<&Tried> {
        self.tried.iter().rev().find(|tried| tried.id == backend.id)
    }

    fn find(&mut self, place: Option<&Place>) -> Found {
        let (now, snapshot) = (Instant::now(), self.pool.snapshot());
        let offers: Vec<_> = self.offering(&snapshot, now).collect();
        let saying = |wanted| offers.iter().filter(move |(_, offer)| *offer == wanted).map(|(backend, _)| *backend);
        let mut willing: Vec<_> = saying(Offer::Yes).collect();
        // One that is well and full is waited for.
        if willing.is_empty() && saying(Offer::Later).next().is_none() {
            willing = saying(Offer::Unwillingly).collect();
        }
        // One that may go to none of them may go to all.
        if let Some(pass) = &self.pass {
            let stays = |id| self.request.prefer == Some(id);
            let allowed = willing.iter().copied().filter(|backend| stays(backend.id) || pass.allows(backend.id));
            let allowed: Vec<_> = allowed.collect();
            willing = if allowed.is_empty() { willing } else { allowed };
        }
        // Seats that others wait for are theirs. Should they not know of one, they do now.
        let taken = self.pool.queue.taken_before(place);
        if !taken.is_empty() {
            let (theirs, left): (Vec<_>, Vec<_>) = willing.into_iter().partition(|backend| taken.contains(&backend.id));
            for backend in theirs {
                self.pool.queue.freed(backend.id);
            }
            willing = left;
        }
        if willing.is_empty() {
            return if offers.is_empty() { Found::Nobody } else { Found::AllTaken };
        }
        let candidates: Vec<_> = willing.iter().map(|backend| backend.candidate(&snapshot.settings, now)).collect();
        let chosen = balance::choose(&*snapshot.balance, &self.request, &candidates, self.pool.began.elapsed());
        let table = Table {
            balance: &snapshot.balance,
            breaker: snapshot.settings.breaker,
            began: self.pool.began,
            queue: &self.pool.queue,
        };
        let seat = Seat::take(willing[chosen], &self.request, self.pool.next_try(), &table, &mut self.pass);
        // Who took the last seat a moment ago will give it back.
        seat.map_or(Found::AllTaken, |seat| Found::Seat(Box::new(seat)))
    }

    /// Takes note of a try that failed.
    ///
    /// # Errors
    /// When no other try would do better.
    pub fn failed(&mut self, seat: &mut Seat, trouble: Trouble) -> Result<(), Failure> {
        tracing::info!(backend = seat.backend.name, kind = ?trouble.failure.kind, error = trouble.why(), "a model call failed");
        seat.failed(&trouble);
        self.pass = seat.pass.take();
        if trouble.retry == Retry::Nowhere {
            return Err(trouble.failure);
        }
        let not_before = Instant::now() + trouble.asked_to_wait.unwrap_or_default().min(RETRY_AFTER_MAX);
        self.tried.push(Tried { id: seat.backend.id, again: trouble.retry == Retry::Anywhere, not_before });
        // What another backend said may pass; a key stays wrong, so that is told only where nothing else can be.
        if self.last.is_none() || trouble.failure.kind != FailureKind::KeyRefused {
            self.last = Some(trouble.failure);
        }
        Ok(())
    }

    /// What to tell when there is nobody left to try.
    pub fn exhausted(&mut self) -> Failure {
        self.last.take().unwrap_or_else(no_backend)
    }

    /// Whether more than one backend could give this answer, so that another one could end it.
    pub fn has_others(&self) -> bool {
        self.that_could(&self.pool.snapshot()).nth(1).is_some()
    }

    /// Whether another one than this could. Where none could, one that hangs is waited for: it may come back.
    pub fn has_another_than(&self, one: &Backend) -> bool {
        self.that_could(&self.pool.snapshot()).any(|backend| backend.id != one.id)
    }

    fn that_could<'s>(&self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Arc<Backend>> {
        let now = Instant::now();
        snapshot.backends.iter().filter(move |backend| backend.offer(&self.model, false, now) != Offer::No)
    }
}

pub(super) fn no_backend() -> Failure {
    Failure::new(FailureKind::NoBackend, "no model server is up; try again shortly").retry_after(RETRY_AFTER)
}

/// The pause after so many pauses.
fn backoff(pauses: usize) -> Duration {
    let pauses = i32::try_from(pauses).unwrap_or(i32::MAX);
    // Without randomness there is no jitter.
    let chance = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    let seconds = PAUSE.as_secs_f64() * PAUSE_GROWTH.powi(pauses) * (1.0 + JITTER * (2.0 * chance - 1.0));
    Duration::from_secs_f64(seconds.min(RETRY_AFTER_MAX.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_half_and_are_bounded_however_many_there_were() {
        for (pauses, millis) in [(0, 50.0), (1, 75.0), (4, 253.125), (1_000_000, 30_000.0)] {
            let pause = backoff(pauses).as_secs_f64() * 1000.0;
            assert!(pause >= millis * 0.799 && pause <= (millis * 1.201).min(30_000.0), "{pauses}: {pause}");
        }
    }
}
