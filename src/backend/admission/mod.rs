//! Session admission: as many sessions are active as fit into the backends' caches, and the others wait for their turn.
//!
//! When the conversations that take turns do not fit together, each turn evicts what the next one needs, and every
//! backend reads everything again and again. A short time in a queue costs less: a session is active while it asks one
//! thing after the other, and makes room when its user thinks, or when it has had its turns.
//!
//! [`ledger`] decides; this file has its callers wait.

pub mod ledger;
mod room;

use crate::backend::balance::{BackendId, End, Moment, Request, Tokens};
use ledger::{Entered, Entrant, Ledger, Ticket};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

/// How long the queue may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Model calls that wait for room.
    pub waiting_max: usize,
    /// Milliseconds that one waits: then it goes on, whatever that evicts.
    pub wait_ms_max: u64,
}

impl Limits {
    /// How long one waits.
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.wait_ms_max)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each is a few hundred bytes beside its request.
            waiting_max: 1_024,
            // Simulated: with five times as many conversations as fit, 90 s complete a fifth less, 600 s a few more.
            wait_ms_max: 180_000,
        }
    }
}

/// The gate before the backends.
pub struct Gate {
    /// When the pool began.
    began: Instant,
    waiting_max: usize,
    inside: Mutex<Inside>,
    /// Something has changed while somebody waits.
    changed: Notify,
}

struct Inside {
    ledger: Ledger,
    tokens: Tokens,
    doors: HashMap<Ticket, oneshot::Sender<()>>,
}

/// So many wait that no more may, and nobody has more of them than the caller of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A model call that may go to a backend. Dropping it says that the call is over.
pub struct Pass {
    gate: Arc<Gate>,
    session: u64,
    bytes: u32,
    end: End,
}

impl Gate {
    /// A gate for a pool that began at `began`. Its [`Gate::keep`] has to run.
    pub fn new(began: Instant, limits: Limits) -> Arc<Self> {
        let ledger = Ledger::new(limits.wait_max());
        let inside = Mutex::new(Inside { ledger, tokens: Tokens::default(), doors: HashMap::new() });
        Arc::new(Self { began, waiting_max: limits.waiting_max, inside, changed: Notify::new() })
    }

    /// A backend has said how many tokens its cache takes.
    pub fn resize(&self, id: BackendId, kv_tokens_max: u64) {
        self.change(|inside, _| inside.ledger.resize(id, kv_tokens_max));
    }

    /// A backend went down, was started anew, or is removed: what it had in its cache is gone.
    pub fn gone(&self, id: BackendId) {
        self.change(|inside, _| inside.ledger.gone(id));
    }

    /// Waits until a model call may go to a backend: once for a call, before a backend is chosen, and not again for a
    /// retry. `caller` is any number that stands for the one who asks; `among` are the live backends that serve the model.
    /// Dropping the future gives the place up.
    ///
    /// # Errors
    /// When too many wait, now or later on: room is made for others by the last of the caller with most waiting.
    pub async fn enter(
        self: &Arc<Self>,
        caller: u64,
        request: &Request,
        among: Arc<[BackendId]>,
    ) -> Result<Pass, Full> {
        let session = request.conversation(caller);
        let bytes = request.prefix.bytes();
        let entered = self.change(|inside, now| {
            let entrant = entrant(session, caller, request, among, inside.tokens);
            match inside.ledger.enter(entrant, now) {
                Entered::Now => Ok(None),
                Entered::Later(ticket) => {
                    if inside.ledger.waiting() > self.waiting_max {
                        let away = inside.ledger.turn_away();
                        if away == Some(ticket) {
                            return Err(Full);
                        }
                        away.map(|away| inside.doors.remove(&away));
                    }
                    let (door, opened) = oneshot::channel();
                    inside.doors.insert(ticket, door);
                    Ok(Some((ticket, opened)))
                }
            }
        })?;
        if let Some((ticket, opened)) = entered {
            let mut place = Place { gate: self, session, ticket: Some(ticket), opened };
            // A door that is dropped without being opened is that of somebody who was turned away.
            let opened = (&mut place.opened).await;
            place.ticket = None;
            opened.map_err(|_| Full)?;
        }
        Ok(Pass { gate: self.clone(), session, bytes, end: End::default() })
    }

    /// Lets those in whose time has come, for as long as the pool lives.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let next = {
                let mut inside = self.inside();
                inside.open_doors(self.began.elapsed());
                inside.ledger.next_change()
            };
            match next {
                Some(next) => {
                    tokio::select! {
                        () = sleep_until(self.began + next) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// How many calls wait, and how many sessions are active.
    pub fn crowd(&self) -> (usize, usize) {
        self.change(|inside, now| {
            // Where nobody comes, nobody else looks for sessions that are over.
            inside.ledger.expire(now);
            (inside.ledger.waiting(), inside.ledger.active())
        })
    }

    /// Does something to the ledger and opens the doors that it opens.
    fn change<T>(&self, change: impl FnOnce(&mut Inside, Moment) -> T) -> T {
        let mut inside = self.inside();
        let now = self.began.elapsed();
        let changed = change(&mut inside, now);
        inside.open_doors(now);
        if inside.ledger.waiting() > 0 {
            self.changed.notify_one();
        }
        changed
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Estimates: half a change does no harm.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn open_doors(&mut self, now: Moment) {
        for ticket in self.ledger.admitted(now) {
            if let Some(door) = self.doors.remove(&ticket) {
                // Who has gone away in the meantime says so in `Place`.
                let _ = door.send(());
            }
        }
    }
}

/// What the ledger knows of a model call.
pub(crate) fn entrant(
    session: u64,
    caller: u64,
    request: &Request,
    among: Arc<[BackendId]>,
    tokens: Tokens,
) -> Entrant {
    let head = request.prefix.head().last();
    let head_bytes = head.map_or(0, |block| block.end);
    Entrant {
        session,
        caller,
        head: (head.map_or(0, |block| block.chain), tokens.of(head_bytes.into())),
        own_tokens: tokens.of((request.prefix.bytes() - head_bytes).into()),
        among,
        stays_at: request.prefer,
    }
}

/// A place in the queue.
struct Place<'a> {
    gate: &'a Gate,
    session: u64,
    ticket: Option<Ticket>,
    opened: oneshot::Receiver<()>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        self.gate.change(|inside, now| {
            inside.doors.remove(&ticket);
            if !inside.ledger.give_up(ticket) && self.opened.try_recv().is_ok() {
                inside.ledger.left(self.session, 0, now);
            }
        });
    }
}

impl Pass {
    /// Whether the call may go to this backend. If it may go to none that is live, it may go to all.
    pub fn allows(&self, to: BackendId) -> bool {
        let now = self.gate.began.elapsed();
        self.gate.inside().ledger.may_go(self.session, to, now)
    }

    /// The call goes to this backend: together with [`Balance::sent`](crate::backend::balance::Balance::sent).
    pub fn went(&self, to: BackendId) {
        self.gate.change(|inside, _| inside.ledger.went(self.session, to));
    }

    /// The backend has read the prompt: together with
    /// [`Balance::first_token`](crate::backend::balance::Balance::first_token).
    pub fn first_token(&self) {
        self.gate.change(|inside, _| inside.ledger.first_token(self.session));
    }

    /// What is known of the call's end, before the pass is dropped.
    pub fn ends(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.change(|inside, now| {
            if let Some(tokens) = self.end.prompt_tokens {
                inside.tokens.learn(self.bytes, tokens);
            }
            inside.ledger.left(self.session, u64::from(self.end.written_tokens), now);
        });
    }
}

#[cfg(test)]
mod tests;
