//! The room in one backend's cache, as far as active sessions fill it.

use super::ledger::Entrant;
use crate::backend::balance::Moment;
use std::collections::HashMap;

/// Tokens by which a session is likely to grow before it is counted again: an answer and a result. A session that is
/// shorter than that is taken to grow by its own length. Chosen with the simulator: with 2,500, room stays empty.
const GROWTH_TOKENS: u64 = 1_000;
/// The share of a cache that beginnings which sessions have in common are counted with at most, once each. Beyond that
/// they are as good as evicted.
const HEADS_SHARE: u64 = 4;

/// A backend's cache.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub kv_tokens_max: u64,
    /// A large context is being read, until this moment at the latest. Two at once would make all that are active there
    /// wait for both.
    pub reads_until: Option<Moment>,
    used: u64,
    sessions: usize,
    /// By its number: how many sessions have it, and its tokens.
    heads: HashMap<u64, (usize, u64)>,
    /// Of all of these together.
    heads_tokens: u64,
}

impl Room {
    /// Whether one more session fits. One alone always does: it will not fit better later.
    pub fn takes(&self, entrant: &Entrant, now: Moment) -> bool {
        let (head, head_tokens) = entrant.head;
        let new_head = if self.heads.contains_key(&head) { 0 } else { head_tokens };
        let heads = self.heads_tokens + new_head;
        let filled = self.used + size(entrant) + heads.min(self.kv_tokens_max / HEADS_SHARE);
        let reads = self.reads_until.is_some_and(|until| now < until);
        self.sessions == 0 || (!reads && filled <= self.kv_tokens_max)
    }

    /// Tokens that no active session has.
    pub fn free(&self) -> u64 {
        self.kv_tokens_max.saturating_sub(self.used)
    }

    pub fn add(&mut self, entrant: &Entrant) {
        self.used += size(entrant);
        self.sessions += 1;
        let (head, tokens) = entrant.head;
        let (sessions, _) = self.heads.entry(head).or_insert_with(|| {
            self.heads_tokens += tokens;
            (0, tokens)
        });
        *sessions += 1;
    }

    /// The entrant is one that was added.
    pub fn remove(&mut self, entrant: &Entrant) {
        self.used = self.used.saturating_sub(size(entrant));
        self.sessions = self.sessions.saturating_sub(1);
        if let Some(head) = self.heads.get_mut(&entrant.head.0) {
            head.0 -= 1;
            if head.0 == 0 {
                self.heads_tokens -= head.1;
                self.heads.remove(&entrant.head.0);
            }
        }
    }
}

#[cfg(test)]
impl Room {
    /// Whether these are all that it was told of.
    pub fn holds(&self, entrants: &[&Entrant]) -> bool {
        let used: u64 = entrants.iter().map(|entrant| size(entrant)).sum();
        let heads: usize = self.heads.values().map(|(sessions, _)| sessions).sum();
        let heads_tokens: u64 = self.heads.values().map(|(_, tokens)| tokens).sum();
        (self.used, self.sessions, heads) == (used, entrants.len(), entrants.len()) && self.heads_tokens == heads_tokens
    }
}

fn size(entrant: &Entrant) -> u64 {
    entrant.own_tokens + GROWTH_TOKENS.min(entrant.own_tokens)
}
