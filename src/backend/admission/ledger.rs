//! Which sessions may go on now. Pure: moments come in, decisions go out.
//!
//! The numbers were chosen with `loopgate simulate` at 48, 64 and 96 sessions on 4 × 400,000 tokens; docs/routing.md has
//! the figures.

use super::room::Room;
use crate::backend::balance::{BackendId, Moment, float};
use crate::backend::queue::last_of_most;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// A session that asks nothing for so long makes room. A coding agent is back after some seconds, or after minutes: from
/// 10 to 15 s it makes no difference, 8 s evict too many that are about to come back.
const IDLE: Duration = Duration::from_secs(12);
/// Turns after which an active session lets those that wait go first. Fewer read too much again (with 15, 1 % less is done);
/// more make others wait longer without winning anything.
const TURNS_MAX: u32 = 30;
/// So long may those who fit go before one who does not. It fills gaps: 1 % more is done than with none.
const PASSED_FOR: Duration = Duration::from_secs(20);
/// Tokens that are read again so fast that nobody need keep room for them, nor wait for it. Chosen: below half a second of
/// an H100. So requests that are no part of a session cost room only while they run, and sessions begin at once.
const SMALL_TOKENS: u64 = 4_096;
/// Tokens a second at which a backend reads at least: it may be given its next large context when this one should be
/// read, even if nobody has seen it begin to answer, as with answers that are not streamed. Chosen: half an H100.
const READ_TOKENS_PER_S: f64 = 5_000.0;

/// Somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A session that wants its next turn.
#[derive(Debug, Clone)]
pub struct Entrant {
    /// Which session.
    pub session: u64,
    /// Whose it is.
    pub caller: u64,
    /// Which beginning it has in common with others, and how many tokens that is.
    pub head: (u64, u64),
    /// Tokens of the rest of the prompt.
    pub own_tokens: u64,
    /// The backends that could take it.
    pub among: Arc<[BackendId]>,
    /// The backend that had the earlier calls of the same turn. A turn that has begun waits for nobody, however long its
    /// programs took: its client waits for an answer, and most of what it reads is there.
    pub stays_at: Option<BackendId>,
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
#[derive(Debug)]
pub struct Ledger {
    wait_max: Duration,
    rooms: BTreeMap<BackendId, Room>,
    active: HashMap<u64, Active>,
    /// In the order in which they came.
    waiting: BTreeMap<Ticket, Waiting>,
    /// Somebody who waits may fit now: room was freed, or somebody came or went. Else there is nothing to look for, and
    /// most that is said here frees nothing.
    stirred: bool,
    tickets: u64,
    /// Of the callers that wait, who was let in last at which count of all that were.
    served: HashMap<u64, u64>,
    admissions: u64,
    /// When sessions that are over are looked for next, if nobody waits.
    sweeps_at: Moment,
    /// Before that nothing is over by itself.
    expires_at: Moment,
}

#[derive(Debug)]
struct Active {
    entrant: Entrant,
    /// Where its context is, or is going to be. `None`: on a backend of unknown size.
    at: Option<BackendId>,
    turns: u32,
    in_flight: u32,
    idle_since: Moment,
    /// Its context is being read, until this moment at the latest.
    reads_until: Option<Moment>,
}

impl Active {
    fn is_over(&self, now: Moment) -> bool {
        self.in_flight == 0 && self.idle_since + IDLE <= now
    }
}

#[derive(Debug)]
struct Waiting {
    entrant: Entrant,
    since: Moment,
}

impl Ledger {
    /// An empty one. Who has waited for `wait_max` goes on, whatever that evicts.
    pub fn new(wait_max: Duration) -> Self {
        Self {
            wait_max,
            rooms: BTreeMap::new(),
            active: HashMap::new(),
            waiting: BTreeMap::new(),
            stirred: false,
            tickets: 0,
            served: HashMap::new(),
            admissions: 0,
            sweeps_at: Moment::ZERO,
            expires_at: Moment::MAX,
        }
    }

    /// How many tokens a backend's cache takes. Backends of which nobody knows it are not to be named here: they take
    /// whoever comes. Nor is 0 believed.
    pub fn resize(&mut self, id: BackendId, kv_tokens_max: u64) {
        if kv_tokens_max > 0 {
            let room = self.rooms.entry(id).or_default();
            self.stirred |= room.kv_tokens_max != kv_tokens_max;
            room.kv_tokens_max = kv_tokens_max;
        }
    }

    /// A backend is away, and with it what was in its cache. Who waits does so for the others; who comes later says whether
    /// it is back.
    pub fn gone(&mut self, id: BackendId) {
        self.rooms.remove(&id);
        self.active.retain(|_, active| active.at != Some(id));
        for Waiting { entrant, .. } in self.waiting.values_mut() {
            entrant.among = entrant.among.iter().copied().filter(|among| *among != id).collect();
        }
        self.stirred = true;
    }

    /// A session wants its next turn.
    pub fn enter(&mut self, entrant: Entrant, now: Moment) -> Entered {
        if now >= self.sweeps_at {
            self.sweeps_at = now + IDLE;
            self.expire(now);
        }
        let session = entrant.session;
        let stays = entrant.stays_at.is_some();
        if let Some(active) = self.active.get(&session) {
            let yields = active.turns >= TURNS_MAX && active.in_flight == 0 && !self.waiting.is_empty();
            if !stays && (yields || active.is_over(now)) {
                self.deactivate(session);
            } else {
                self.go_on(entrant);
                return Entered::Now;
            }
        }
        if stays {
            self.squeeze_in(entrant);
            return Entered::Now;
        }
        if self.waiting.is_empty() {
            if self.activate(&entrant, &HashSet::new(), now) {
                return Entered::Now;
            }
            self.expire(now);
            if self.activate(&entrant, &HashSet::new(), now) {
                return Entered::Now;
            }
        }
        if entrant.own_tokens < SMALL_TOKENS {
            self.squeeze_in(entrant);
            return Entered::Now;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, Waiting { entrant, since: now });
        self.stirred = true;
        Entered::Later(ticket)
    }

    /// Whether a turn of an active session may go to a backend: the first of an activity to any that has room, the others
    /// to the one that has its context, and one beside another to any: that is no conversation, but many that begin with the
    /// same words, such as samples of one prompt. If no live backend may be gone to, any may.
    pub fn may_go(&self, session: u64, to: BackendId, now: Moment) -> bool {
        let Some(active) = self.active.get(&session) else { return true };
        let fits = || self.rooms.get(&to).is_none_or(|room| room.takes(&active.entrant, now));
        active.at == Some(to) || active.in_flight > 1 || (active.turns == 1 && fits())
    }

    /// A turn of an active session goes to a backend.
    pub fn went(&mut self, session: u64, to: BackendId) {
        // Beside another turn: the context is where that one is.
        let moves = |active: &&mut Active| active.at != Some(to) && (active.in_flight <= 1 || active.at.is_none());
        let Some(active) = self.active.get_mut(&session).filter(moves) else { return };
        if let Some(room) = active.at.and_then(|at| self.rooms.get_mut(&at)) {
            room.remove(&active.entrant);
            room.reads_until.take_if(|until| active.reads_until == Some(*until));
            self.stirred = true;
        }
        active.at = self.rooms.get_mut(&to).map(|room| {
            room.add(&active.entrant);
            room.reads_until = room.reads_until.max(active.reads_until);
            to
        });
    }

    /// The backend has read the prompt.
    pub fn first_token(&mut self, session: u64) {
        let Some(active) = self.active.get_mut(&session) else { return };
        let until = active.reads_until.take();
        if let Some(room) = active.at.and_then(|at| self.rooms.get_mut(&at)) {
            self.stirred |= room.reads_until.take_if(|room| until == Some(*room)).is_some();
        }
    }

    /// A turn is over, whichever way.
    pub fn left(&mut self, session: u64, written_tokens: u64, now: Moment) {
        self.first_token(session);
        let Some(active) = self.active.get_mut(&session) else { return };
        active.in_flight = active.in_flight.saturating_sub(1);
        active.idle_since = now;
        self.expires_at = self.expires_at.min(now + IDLE);
        let mut room = active.at.and_then(|at| self.rooms.get_mut(&at));
        if let Some(room) = &mut room {
            room.remove(&active.entrant);
        }
        active.entrant.own_tokens += written_tokens;
        if let Some(room) = room {
            room.add(&active.entrant);
        }
        if active.in_flight == 0 && active.entrant.own_tokens < SMALL_TOKENS {
            self.deactivate(session);
        }
    }

    /// Somebody no longer waits. `false` if that one was admitted already, and counts as under way.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        let gone = self.waiting.remove(&ticket).is_some();
        self.stirred |= gone;
        gone
    }

    /// Too many wait: who no longer does.
    pub fn turn_away(&mut self) -> Option<Ticket> {
        let waiting = self.waiting.iter().map(|(ticket, it)| (it.entrant.caller, *ticket));
        last_of_most(waiting).filter(|ticket| self.give_up(*ticket))
    }

    /// Those whose waiting is over. To be asked after anything else was said here, and at [`Ledger::next_change`].
    pub fn admitted(&mut self, now: Moment) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        let Some((_, first)) = self.waiting.first_key_value() else { return admitted };
        let is_late = first.since + self.wait_max <= now;
        self.expire(now);
        if !std::mem::take(&mut self.stirred) && !is_late {
            return admitted;
        }
        // Backends for which somebody waits who comes first.
        let mut taken = HashSet::new();
        for ticket in self.in_fair_order() {
            let Some(Waiting { entrant, since }) = self.waiting.get(&ticket) else { continue };
            let (entrant, waited) = (entrant.clone(), now.saturating_sub(*since));
            let caller = entrant.caller;
            if self.active.contains_key(&entrant.session) {
                // Another call of the same session was let in before.
                self.go_on(entrant);
            } else if !self.activate(&entrant, &taken, now) {
                if waited >= PASSED_FOR {
                    taken.extend(entrant.among.iter().copied());
                }
                if waited < self.wait_max && !entrant.among.is_empty() {
                    continue;
                }
                self.squeeze_in(entrant);
            }
            self.waiting.remove(&ticket);
            self.admissions += 1;
            self.served.insert(caller, self.admissions);
            admitted.push(ticket);
        }
        if !admitted.is_empty() {
            // Whose turn it is has changed with them.
            self.stirred = true;
            let waiting: HashSet<_> = self.waiting.values().map(|waiting| waiting.entrant.caller).collect();
            self.served.retain(|caller, _| waiting.contains(caller));
        }
        admitted
    }

    /// Before that the passing of time alone lets nobody in.
    pub fn next_change(&self) -> Option<Moment> {
        let (_, first) = self.waiting.first_key_value()?;
        Some(self.expires_at.min(first.since + self.wait_max))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many are active.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Who waits: first those of the callers with the fewest active sessions, of these the callers of whom none was let in
    /// for longest, and of these who came first.
    fn in_fair_order(&self) -> Vec<Ticket> {
        let mut sessions: HashMap<u64, usize> = HashMap::new();
        for active in self.active.values() {
            *sessions.entry(active.entrant.caller).or_default() += 1;
        }
        let mut order = Vec::with_capacity(self.waiting.len());
        for (ticket, Waiting { entrant, .. }) in &self.waiting {
            // A caller's second in the queue comes after another's first.
            let ahead = sessions.entry(entrant.caller).or_default();
            let served = self.served.get(&entrant.caller).copied().unwrap_or_default();
            order.push((*ahead, served, *ticket));
            *ahead += 1;
        }
        order.sort_unstable();
        order.into_iter().map(|(_, _, ticket)| ticket).collect()
    }

    /// Takes note of what is over by itself: sessions that ask nothing any more, and contexts that should be read.
    pub fn expire(&mut self, now: Moment) {
        if now < self.expires_at {
            return;
        }
        for room in self.rooms.values_mut() {
            self.stirred |= room.reads_until.take_if(|until| *until <= now).is_some();
        }
        let over: Vec<_> = self.active.iter().filter(|(_, active)| active.is_over(now)).map(|(id, _)| *id).collect();
        for session in over {
            self.deactivate(session);
        }
        let idle = self.active.values().filter(|active| active.in_flight == 0).map(|active| active.idle_since + IDLE);
        let read = self.rooms.values().filter_map(|room| room.reads_until);
        self.expires_at = idle.chain(read).min().unwrap_or(Moment::MAX);
    }

    /// The next turn of a session that is active.
    fn go_on(&mut self, entrant: Entrant) {
        let Some(active) = self.active.get_mut(&entrant.session) else { return };
        active.turns += 1;
        active.in_flight += 1;
        let before = std::mem::replace(&mut active.entrant, entrant);
        if let Some(room) = active.at.and_then(|at| self.rooms.get_mut(&at)) {
            room.remove(&before);
            room.add(&active.entrant);
            // A conversation that was compacted has become shorter.
            self.stirred |= before.own_tokens > active.entrant.own_tokens || before.head != active.entrant.head;
        }
    }

    fn deactivate(&mut self, session: u64) {
        let Some(active) = self.active.remove(&session) else { return };
        self.stirred = true;
        if let Some(room) = active.at.and_then(|at| self.rooms.get_mut(&at)) {
            room.remove(&active.entrant);
        }
    }

    /// Makes a session active where there is most room for it, if there is any outside of `taken`.
    fn activate(&mut self, entrant: &Entrant, taken: &HashSet<BackendId>, now: Moment) -> bool {
        let free = entrant.among.iter().filter(|id| !taken.contains(id));
        let fits = |id: &&BackendId| self.rooms.get(id).is_none_or(|room| room.takes(entrant, now));
        let Some(at) = free.copied().filter(|id| fits(&id)).max_by_key(|id| self.free(*id)) else { return false };
        let reads_until = (entrant.own_tokens >= SMALL_TOKENS)
            .then(|| now + Duration::from_secs_f64(float(entrant.own_tokens) / READ_TOKENS_PER_S));
        if let Some(room) = self.rooms.get_mut(&at) {
            room.reads_until = room.reads_until.max(reads_until);
            self.expires_at = self.expires_at.min(reads_until.unwrap_or(Moment::MAX));
        }
        self.add(entrant.clone(), at, reads_until);
        true
    }

    /// Makes a session active where its turn has begun, or else where it does least harm, if any backend is left.
    fn squeeze_in(&mut self, entrant: Entrant) {
        let stays_at = entrant.stays_at.filter(|id| entrant.among.contains(id));
        if let Some(at) = stays_at.or_else(|| entrant.among.iter().copied().max_by_key(|id| self.free(*id))) {
            self.add(entrant, at, None);
        }
    }

    fn add(&mut self, entrant: Entrant, at: BackendId, reads_until: Option<Moment>) {
        let at = self.rooms.get_mut(&at).map(|room| {
            room.add(&entrant);
            at
        });
        let session = entrant.session;
        // Another call of it may wait.
        self.stirred |= self.waiting.values().any(|waiting| waiting.entrant.session == session);
        let active = Active { entrant, at, turns: 1, in_flight: 1, idle_since: Moment::ZERO, reads_until };
        self.active.insert(session, active);
    }

    fn free(&self, id: BackendId) -> u64 {
        self.rooms.get(&id).map_or(u64::MAX, Room::free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn among(bits: u32) -> Arc<[BackendId]> {
        (0..3).filter(|id| bits & (1 << id) != 0).map(BackendId).collect()
    }

    impl Ledger {
        pub(in super::super) fn is_stirred(&self) -> bool {
            self.stirred
        }

        /// Somebody who waits and could go on, though there is nothing to look for.
        fn overlooked(&self, now: Moment) -> Option<&Waiting> {
            let fits = |id: &BackendId, one: &Entrant| self.rooms.get(id).is_none_or(|room| room.takes(one, now));
            let is_first = |id: &BackendId| {
                let mut long = self.waiting.values().filter(|waiting| waiting.since + PASSED_FOR <= now);
                !long.any(|waiting| waiting.entrant.among.contains(id))
            };
            self.waiting.values().find(|Waiting { entrant, .. }| {
                let goes_on = self.active.contains_key(&entrant.session);
                goes_on || entrant.among.iter().any(|id| is_first(id) && fits(id, entrant))
            })
        }
    }

    proptest! {
        #[test]
        fn the_books_are_right_whatever_happens(
            steps in prop::collection::vec((0..7_u8, 0..8_u64, 0..60_000_u64, 1..8_u32), 1..200),
        ) {
            let mut ledger = Ledger::new(Duration::from_mins(3));
            let (mut now, mut tickets) = (Moment::ZERO, Vec::new());
            for (what, session, number, backends) in steps {
                let one = BackendId(backends % 3);
                match what {
                    0 | 1 => {
                        let head = (session % 3, 5_000 * (session % 3));
                        let among = among(backends);
                        let stays_at = (number % 5 == 0).then_some(one);
                        let entrant =
                            Entrant { session, caller: session % 4, head, own_tokens: number, among, stays_at };
                        match ledger.enter(entrant, now) {
                            Entered::Now if ledger.may_go(session, one, now) => ledger.went(session, one),
                            Entered::Now => {}
                            Entered::Later(ticket) => tickets.push(ticket),
                        }
                    }
                    2 => ledger.first_token(session),
                    3 => ledger.left(session, number / 100, now),
                    4 => ledger.resize(one, 2 * number),
                    5 if number % 4 == 0 => ledger.gone(one),
                    _ => {
                        tickets.pop().map(|ticket| ledger.give_up(ticket));
                    }
                }
                now += Duration::from_millis(number);
                let admitted = ledger.admitted(now);
                tickets.retain(|ticket| !admitted.contains(ticket));
                prop_assert_eq!(ledger.waiting(), tickets.len());
                for (id, room) in &ledger.rooms {
                    let there = ledger.active.values().filter(|active| active.at == Some(*id));
                    prop_assert!(room.holds(&there.map(|active| &active.entrant).collect::<Vec<_>>()), "{room:?}");
                }
                let late = ledger.waiting.values().find(|waiting| waiting.since + ledger.wait_max <= now);
                prop_assert!(late.is_none(), "{late:?}");
                if !ledger.stirred {
                    let overlooked = ledger.overlooked(now);
                    prop_assert!(overlooked.is_none(), "{overlooked:?}");
                }
            }
        }
    }
}
