//! What is kept of sessions, and what has to go.

use super::lost::Lost;
use super::{Moment, Parked, Position, SessionKey};
use crate::policy;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All of them, and what has become of those that are gone.
#[derive(Default)]
pub(super) struct Table {
    pub sessions: HashMap<SessionKey, Session>,
    /// Ended against their callers' will, or not what programs had made of them, and not told of yet.
    pub lost: Lost,
    /// Nobody is there any more who could use any.
    pub over: bool,
}

/// A session.
pub(super) struct Session {
    /// What it has come to, the latest last.
    pub moments: Vec<Kept>,
    pub used: Instant,
    pub keep: Duration,
    pub alone: Arc<tokio::sync::Mutex<()>>,
}

/// What it was at a moment.
#[derive(Clone)]
pub(super) struct Kept {
    pub at: Option<Position>,
    pub now: Parked,
    /// What it was before.
    pub from: Option<Parked>,
}

impl Table {
    pub fn session(&mut self, key: &SessionKey, rules: policy::Sessions) -> &mut Session {
        let session = self.sessions.entry(key.clone()).or_insert_with(|| Session {
            moments: Vec::new(),
            used: Instant::now(),
            keep: rules.keep,
            alone: Arc::default(),
        });
        (session.used, session.keep) = (Instant::now(), rules.keep);
        session
    }

    /// Ends what has not been used for too long. When there may be more of that, if ever.
    pub fn end_old(&mut self) -> Option<Instant> {
        let old = |session: &Session| session.used.elapsed() >= session.keep && !session.is_visited();
        let old: Vec<_> =
            self.sessions.iter().filter(|(_, session)| old(session)).map(|(key, _)| key.clone()).collect();
        for key in &old {
            self.end(key);
        }
        let now = Instant::now();
        // One in use is used until who knows when.
        let due = |session: &Session| if session.is_visited() { now } else { session.used } + session.keep;
        self.sessions.values().map(due).min()
    }

    /// Ends the least used sessions until the rest keeps its bounds. `key` has just been used.
    pub fn bound(&mut self, key: &SessionKey, rules: policy::Sessions, bytes_max: usize) {
        let (mut count, mut own, mut all) = (0, 0, 0);
        let mut by_use: Vec<_> = self.sessions.iter().filter(|(_, session)| session.is_there()).collect();
        by_use.sort_by_key(|(_, session)| std::cmp::Reverse(session.used));
        let mut ended = Vec::new();
        for (other, session) in by_use {
            let is_own = other.caller == key.caller;
            let bytes = session.bytes();
            let fits =
                all + bytes <= bytes_max && (!is_own || (count < rules.count as usize && own + bytes <= rules.bytes));
            if fits {
                all += bytes;
                (count, own) = if is_own { (count + 1, own + bytes) } else { (count, own) };
            } else {
                ended.push(other.clone());
            }
        }
        for key in &ended {
            self.end(key);
        }
    }

    fn end(&mut self, key: &SessionKey) {
        if self.sessions.remove(key).is_some_and(|session| session.is_there()) {
            self.lose(key);
        }
    }

    pub fn lose(&mut self, key: &SessionKey) {
        self.lost.add(&key.caller, &key.name);
    }

    pub fn forget_loss(&mut self, key: &SessionKey) {
        self.lost.remove(&key.caller, &key.name);
    }
}

impl Session {
    pub fn is_there(&self) -> bool {
        !self.moments.is_empty()
    }

    fn is_visited(&self) -> bool {
        Arc::strong_count(&self.alone) > 1
    }

    /// What it was at this moment of a conversation: before what the same request came to, or else after the latest of
    /// what the request contains. A conversation that it does not know goes on from where it is.
    pub fn at(&self, moment: &Moment) -> Option<Parked> {
        let find = |position| self.moments.iter().find(|kept| kept.at == Some(position));
        if let Some(same) = moment.here.and_then(find) {
            return same.from.clone();
        }
        let known = moment.before.iter().find_map(|position| find(*position));
        known.or(self.moments.last()).map(|kept| kept.now.clone())
    }

    pub fn bytes(&self) -> usize {
        bytes_of(&self.moments)
    }
}

/// Moments share what they have come from.
pub(super) fn bytes_of(moments: &[Kept]) -> usize {
    let mut states: Vec<&Arc<[u8]>> = Vec::new();
    for Parked { state, .. } in moments.iter().flat_map(|kept| std::iter::once(&kept.now).chain(&kept.from)) {
        if !states.iter().any(|other| Arc::ptr_eq(other, state)) {
            states.push(state);
        }
    }
    states.iter().map(|state| state.len()).sum()
}
