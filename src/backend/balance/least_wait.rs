//! The backend that is likely to begin its answer soonest.
//!
//! A backend's cache decides most of that: what it has of a prompt it need not read again. So for each of them there is
//! an [`Index`] of what it was sent and what it wrote, as large as its real cache, and the wait for the first token is
//! what it has still to read for others and for this request, at its own speed, plus something for its running batch.

use super::index::{Index, Match};
use super::{BackendId, Balance, Candidate, End, Estimate, Load, Moment, Policy, Request, Tokens, TryId, float};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) const POLICY: Policy = Policy {
    name: "least-wait",
    what: "the backend that is likely to begin its answer soonest, by what its cache holds and what it has to do",
    make: |_| Box::new(LeastWait::default()),
    reads: true,
    admits: true,
};

/// Tokens that a cache takes of which nobody has said how large it is. Chosen: an 80 GB GPU with a 30B model.
const KV_TOKENS_UNKNOWN: u64 = 400_000;
/// Tokens a second that a backend reads before it has shown its own speed. Chosen: an H100 with a 30B-A3B model.
const READ_TOKENS_PER_S: f64 = 10_000.0;
/// Seconds that one more request under way is worth: it makes every step of the batch longer. Chosen with the simulator,
/// where from 0 to 0.6 s it changes little but the balance of an idle fleet.
const RUNNING_S: f64 = 0.15;
/// Seconds that a full cache is worth beside an empty one, so that new sessions go where they evict nobody. Chosen with the
/// simulator: 24 sessions wait half as long for it in one case of a hundred.
const FULL_S: f64 = 0.3;
/// Seconds by which a backend is taken to be sooner while it has had nothing, so that it has a first request, and shows what
/// it can, however little there is to do. Chosen: half of what is felt, and too little to leave a long prompt's cache for.
const UNTRIED_S: f64 = 0.1;
/// Tokens from which on a prompt shows the backend's speed: what is shorter shows the steps of its scheduler. Chosen.
const SAMPLE_TOKENS_MIN: u64 = 1_024;
/// How much of a new sample goes into a speed. Chosen: ten samples forget most of what was before.
const SAMPLE_SHARE: f64 = 0.2;
/// The speeds that are believed, in tokens a second: from a CPU to more than any machine of today.
const SPEEDS: (f64, f64) = (10.0, 1_000_000.0);
/// Tokens by which a backend's word on what it had cached may be below ours before we take it that something is lost:
/// pages, templates and the last token make a difference. Chosen.
const LOST_TOKENS_MIN: u64 = 512;

#[derive(Default)]
struct LeastWait(Mutex<Known>);

#[derive(Default)]
struct Known {
    backends: HashMap<BackendId, Backend>,
    tries: HashMap<TryId, Try>,
    tokens: Tokens,
}

struct Backend {
    index: Index,
    kv_tokens_max: u64,
    /// Bytes that it was sent and has not read yet.
    unread: u64,
    tokens_per_s: f64,
    last_first_token: Moment,
}

struct Try {
    backend: BackendId,
    /// The prompt's last block, and its length.
    last: u64,
    bytes: u32,
    known: Match,
    /// Bytes of it that are counted as unread.
    unread: u64,
    sent: Moment,
}

impl Backend {
    fn new(tokens: Tokens) -> Self {
        Self {
            index: Index::new(tokens.bytes(KV_TOKENS_UNKNOWN)),
            kv_tokens_max: KV_TOKENS_UNKNOWN,
            unread: 0,
            tokens_per_s: READ_TOKENS_PER_S,
            last_first_token: Moment::ZERO,
        }
    }

    /// Prompts are read one after the other: this one since it came, or since the one before it was done.
    fn learn_speed(&mut self, tokens: u64, sent: Moment, now: Moment) {
        let took = now.saturating_sub(sent.max(self.last_first_token)).as_secs_f64();
        self.last_first_token = now;
        if tokens >= SAMPLE_TOKENS_MIN && took > 0.0 {
            let sample = (float(tokens) / took).clamp(SPEEDS.0, SPEEDS.1);
            self.tokens_per_s += SAMPLE_SHARE * (sample - self.tokens_per_s);
        }
    }
}

impl Known {
    /// Seconds until the first token, and something for the batch and for what would be evicted.
    fn wait(&self, request: &Request, candidate: &Candidate) -> f64 {
        let bytes = u64::from(request.prefix.bytes());
        let (unread, speed, filled) = match self.backends.get(&candidate.id) {
            Some(backend) => {
                let known = u64::from(backend.index.find(&request.prefix).bytes);
                (backend.unread + bytes - known, backend.tokens_per_s, backend.index.filled())
            }
            None => (bytes, READ_TOKENS_PER_S, 0.0),
        };
        // Others than this gateway may have sent it something, too.
        let running = candidate.load.map_or(0, |load| u64::from(load.running) + u64::from(load.waiting));
        let running = float(running.max(candidate.in_flight as u64));
        let reads = float(self.tokens.of(unread)) / speed;
        let untried = if filled > 0.0 { 0.0 } else { UNTRIED_S };
        (reads + running * RUNNING_S + filled * FULL_S) / candidate.weight - untried
    }
}

impl LeastWait {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Estimates: half a change does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balance for LeastWait {
    fn pick(&self, request: &Request, candidates: &[Candidate], _: Moment) -> usize {
        let known = self.known();
        let waits = candidates.iter().map(|candidate| known.wait(request, candidate));
        waits.enumerate().min_by(|left, right| left.1.total_cmp(&right.1)).map_or(0, |(at, _)| at)
    }

    fn sent(&self, id: TryId, request: &Request, to: BackendId, now: Moment) {
        let mut guard = self.known();
        let known = &mut *guard;
        let backend = known.backends.entry(to).or_insert_with(|| Backend::new(known.tokens));
        let found = backend.index.find(&request.prefix);
        let unread = u64::from(request.prefix.bytes() - found.bytes);
        backend.index.read(&request.prefix);
        backend.unread += unread;
        known.tries.insert(
            id,
            Try {
                backend: to,
                last: request.prefix.last(),
                bytes: request.prefix.bytes(),
                known: found,
                unread,
                sent: now,
            },
        );
    }

    fn first_token(&self, id: TryId, now: Moment) {
        let mut guard = self.known();
        let known = &mut *guard;
        let Some(tried) = known.tries.get_mut(&id) else { return };
        let Some(backend) = known.backends.get_mut(&tried.backend) else { return };
        let read = std::mem::take(&mut tried.unread);
        backend.unread = backend.unread.saturating_sub(read);
        backend.learn_speed(known.tokens.of(read), tried.sent, now);
    }

    fn ended(&self, id: TryId, end: End, _: Moment) {
        let mut guard = self.known();
        let known = &mut *guard;
        let Some(tried) = known.tries.remove(&id) else { return };
        if let Some(tokens) = end.prompt_tokens {
            known.tokens.learn(tried.bytes, tokens);
        }
        let Some(backend) = known.backends.get_mut(&tried.backend) else { return };
        backend.unread = backend.unread.saturating_sub(tried.unread);
        if let Some(cached) = end.cached_tokens
            && u64::from(cached) + LOST_TOKENS_MIN < known.tokens.of(tried.known.bytes.into())
        {
            backend.index.lost(tried.known.used);
        }
        if end.written_tokens > 0 {
            let bytes = known.tokens.bytes(end.written_tokens.into());
            backend.index.wrote(tried.last, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    fn restarted(&self, backend: BackendId) {
        // What is under way there is no longer counted: it has to be sent again.
        let mut known = self.known();
        known.backends.remove(&backend);
        known.tries.retain(|_, tried| tried.backend != backend);
    }

    fn reported(&self, backend: BackendId, load: Load, _: Moment) {
        let mut guard = self.known();
        let known = &mut *guard;
        let backend = known.backends.entry(backend).or_insert_with(|| Backend::new(known.tokens));
        backend.kv_tokens_max = load.kv_tokens_max.filter(|tokens| *tokens > 0).unwrap_or(backend.kv_tokens_max);
        backend.index.resize(known.tokens.bytes(backend.kv_tokens_max));
    }

    fn estimate(&self, backend: BackendId) -> Option<Estimate> {
        let known = self.known();
        let backend = known.backends.get(&backend)?;
        Some(Estimate {
            cached_tokens: known.tokens.of(backend.index.bytes()),
            unread_tokens: known.tokens.of(backend.unread),
            tokens_per_s: backend.tokens_per_s,
        })
    }
}
