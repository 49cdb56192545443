//! Which sessions may go on now. Pure: moments come in, decisions go out.
//!
//! When the conversations that take turns do not fit into the caches together, each turn evicts what the next one needs,
//! and every backend reads everything again and again. So only as many sessions are active as fit; the others wait, for a
//! short time each, and then find room.

use crate::backend::balance::{BackendId, Moment};
use std::collections::HashMap;
use std::time::Duration;

/// The share of a cache that active sessions may fill. Simulated: from 0.95 on, one long answer evicts the next session.
const KV_SHARE: f64 = 0.92;
/// The share of a cache that is kept free at most for what sessions have in common, counted once each.
const HEADS_SHARE: f64 = 0.25;
/// Tokens that a session is going to grow by while it is active: a long answer, or two results of tools. Simulated.
const GROWTH_TOKENS: u64 = 2_500;
/// A session that asks nothing for so long makes room. Simulated: a coding agent is back after some seconds, or after
/// minutes.
const IDLE: Duration = Duration::from_secs(12);
/// Turns after which an active session lets others that wait go first. Simulated.
const TURNS_MAX: u32 = 15;

/// Somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A session that wants its next turn.
#[derive(Debug, Clone, Copy)]
pub struct Entrant {
    /// Which session.
    pub session: u64,
    /// Whose it is.
    pub caller: u64,
    /// Which beginning it has in common with others.
    pub head: u64,
    /// Tokens of that.
    pub head_tokens: u64,
    /// Tokens of the rest of the prompt.
    pub own_tokens: u64,
}

/// The answer to an entrant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It goes on.
    Now,
    /// It waits until [`Ledger::admitted`] names its ticket.
    Later(Ticket),
}

/// The book of active sessions and of those that wait.
#[derive(Debug, Default)]
pub struct Ledger {
    rooms: HashMap<BackendId, Room>,
    active: HashMap<u64, Active>,
    waiting: Vec<(Ticket, Entrant)>,
    tickets: u64,
}

/// A backend's cache.
#[derive(Debug, Default)]
struct Room {
    kv_tokens_max: u64,
    used: u64,
    sessions: usize,
    heads: HashMap<u64, (usize, u64)>,
}

#[derive(Debug)]
struct Active {
    entrant: Entrant,
    at: BackendId,
    turns: u32,
    in_flight: u32,
    idle_since: Moment,
}

impl Entrant {
    fn size(&self) -> u64 {
        self.own_tokens + GROWTH_TOKENS
    }
}

impl Room {
    fn takes(&self, entrant: &Entrant) -> bool {
        let mut heads: u64 = self.heads.values().map(|(_, tokens)| tokens).sum();
        if !self.heads.contains_key(&entrant.head) {
            heads += entrant.head_tokens;
        }
        let heads = heads.min((self.kv_tokens_max as f64 * HEADS_SHARE) as u64);
        let limit = ((self.kv_tokens_max as f64 * KV_SHARE) as u64).saturating_sub(heads);
        self.sessions == 0 || self.used + entrant.size() <= limit
    }

    fn free(&self) -> u64 {
        self.kv_tokens_max.saturating_sub(self.used)
    }

    fn add(&mut self, entrant: &Entrant) {
        self.used += entrant.size();
        self.sessions += 1;
        let head = self.heads.entry(entrant.head).or_insert((0, entrant.head_tokens));
        head.0 += 1;
    }

    fn remove(&mut self, entrant: &Entrant) {
        self.used = self.used.saturating_sub(entrant.size());
        self.sessions = self.sessions.saturating_sub(1);
        if let Some(head) = self.heads.get_mut(&entrant.head) {
            head.0 -= 1;
            if head.0 == 0 {
                self.heads.remove(&entrant.head);
            }
        }
    }
}

impl Ledger {
    /// A backend's cache takes so many tokens.
    pub fn backend(&mut self, id: BackendId, kv_tokens_max: u64) {
        self.rooms.entry(id).or_default().kv_tokens_max = kv_tokens_max;
    }

    /// A backend is away.
    pub fn gone(&mut self, id: BackendId) {
        self.rooms.remove(&id);
        self.active.retain(|_, active| active.at != id);
    }

    /// A session wants its next turn.
    pub fn enter(&mut self, entrant: Entrant, now: Moment) -> Entered {
        self.expire(now);
        if let Some(active) = self.active.get_mut(&entrant.session) {
            let yields = active.turns >= TURNS_MAX && active.in_flight == 0 && !self.waiting.is_empty();
            if !yields {
                active.turns += 1;
                active.in_flight += 1;
                let at = active.at;
                let before = std::mem::replace(&mut active.entrant, entrant);
                if let Some(room) = self.rooms.get_mut(&at) {
                    room.remove(&before);
                    room.add(&entrant);
                }
                return Entered::Now;
            }
            self.deactivate(entrant.session);
        } else if self.waiting.is_empty() && self.activate(entrant) {
            return Entered::Now;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.push((ticket, entrant));
        Entered::Later(ticket)
    }

    /// Whether an active session's turn may go to a backend.
    pub fn may_go(&self, session: u64, to: BackendId) -> bool {
        let Some(active) = self.active.get(&session) else { return true };
        if active.turns > 1 {
            return active.at == to;
        }
        active.at == to || self.rooms.get(&to).is_some_and(|room| room.takes(&active.entrant))
    }

    /// An active session's turn went to a backend.
    pub fn went(&mut self, session: u64, to: BackendId) {
        let Some(active) = self.active.get_mut(&session) else { return };
        if active.at != to {
            if let Some(room) = self.rooms.get_mut(&active.at) {
                room.remove(&active.entrant);
            }
            if let Some(room) = self.rooms.get_mut(&to) {
                room.add(&active.entrant);
            }
            active.at = to;
        }
    }

    /// A turn is over.
    pub fn left(&mut self, session: u64, written_tokens: u64, now: Moment) {
        let Some(active) = self.active.get_mut(&session) else { return };
        active.in_flight = active.in_flight.saturating_sub(1);
        active.idle_since = now;
        active.entrant.own_tokens += written_tokens;
        if let Some(room) = self.rooms.get_mut(&active.at) {
            room.used += written_tokens;
        }
    }

    /// Somebody no longer waits.
    pub fn give_up(&mut self, ticket: Ticket) {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
    }

    /// Those whose waiting is over. To be asked after anything else was said here, and at [`Ledger::next_change`].
    pub fn admitted(&mut self, now: Moment) -> Vec<Ticket> {
        self.expire(now);
        let mut admitted = Vec::new();
        while let Some(at) = self.fairest() {
            let (ticket, entrant) = self.waiting[at];
            if !self.activate(entrant) {
                break;
            }
            self.waiting.remove(at);
            admitted.push(ticket);
        }
        admitted
    }

    /// When a session's idleness may make room for one that waits.
    pub fn next_change(&self) -> Option<Moment> {
        if self.waiting.is_empty() {
            return None;
        }
        self.active.values().filter(|active| active.in_flight == 0).map(|active| active.idle_since + IDLE).min()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many are active.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Whose turn it is: of the callers with the fewest active sessions the one who has waited longest.
    fn fairest(&self) -> Option<usize> {
        let mut sessions: HashMap<u64, usize> = HashMap::new();
        for active in self.active.values() {
            *sessions.entry(active.entrant.caller).or_default() += 1;
        }
        let busy = |entrant: &Entrant| sessions.get(&entrant.caller).copied().unwrap_or_default();
        (0..self.waiting.len()).min_by_key(|at| (busy(&self.waiting[*at].1), *at))
    }

    fn expire(&mut self, now: Moment) {
        let over: Vec<_> = (self.active.iter())
            .filter(|(_, active)| active.in_flight == 0 && active.idle_since + IDLE <= now)
            .map(|(session, _)| *session)
            .collect();
        for session in over {
            self.deactivate(session);
        }
    }

    fn deactivate(&mut self, session: u64) {
        let Some(active) = self.active.remove(&session) else { return };
        if let Some(room) = self.rooms.get_mut(&active.at) {
            room.remove(&active.entrant);
        }
    }

    /// Makes a session active where there is most room for it, if there is any.
    fn activate(&mut self, entrant: Entrant) -> bool {
        let roomy = self.rooms.iter_mut().filter(|(_, room)| room.takes(&entrant));
        let Some((id, room)) = roomy.max_by_key(|(id, room)| (room.free(), id.0)) else { return false };
        room.add(&entrant);
        let at = *id;
        let active = Active { entrant, at, turns: 1, in_flight: 1, idle_since: Moment::ZERO };
        self.active.insert(entrant.session, active);
        true
    }
}
