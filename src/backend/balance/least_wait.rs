//! The backend that is likely to begin its answer soonest.
//!
//! A backend's cache decides most of that: what it has of a prompt it need not read again. So for each of them there is
//! an [`Index`] of what it was sent and what it wrote, as large as its real cache, and the wait for the first token is
//! what it has still to read for others and for this request, at its own speed, plus something for its running batch.

use super::index::{Index, Match};
use super::{BackendId, Balance, Candidate, End, Load, Moment, Policy, Prefix, Request, TryId};
use super::prefix::BYTES_PER_TOKEN;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) const POLICY: Policy = Policy {
    name: "least-wait",
    what: "the backend that is likely to begin its answer soonest, by what its cache holds and what it has to do",
    make: |_| Box::new(LeastWait::default()),
    admits: true,
};

/// Tokens that a cache takes of which nobody has said how large it is. Chosen: an 80 GB GPU with a 30B model.
const KV_TOKENS_UNKNOWN: u64 = 400_000;
/// Tokens a second that a backend reads before it has shown its own speed. Chosen: an H100 with a 30B-A3B model.
const PREFILL_TOKENS_PER_S: f64 = 10_000.0;
/// Seconds that one more request under way is worth. Chosen with the simulator.
const RUNNING_S: f64 = 0.15;
/// A speed is believed from so many tokens on: what is shorter shows the steps of a scheduler. Chosen.
const SAMPLE_TOKENS_MIN: f64 = 1024.0;
/// How much of a new sample goes into a speed. Chosen: ten samples forget most of what was before.
const SAMPLE_SHARE: f64 = 0.2;

#[derive(Default)]
struct LeastWait(Mutex<Known>);

struct Known {
    backends: HashMap<BackendId, Backend>,
    tries: HashMap<TryId, Try>,
    bytes_per_token: f64,
}

struct Backend {
    index: Index,
    kv_tokens_max: u64,
    /// Bytes that it was sent and has not read yet.
    pending: u64,
    tokens_per_s: f64,
    last_first_token: Moment,
}

struct Try {
    backend: BackendId,
    prefix: Prefix,
    known: Match,
    /// Bytes that are counted as pending.
    pending: u64,
    sent: Moment,
}

impl Default for Known {
    fn default() -> Self {
        Self { backends: HashMap::new(), tries: HashMap::new(), bytes_per_token: BYTES_PER_TOKEN }
    }
}

impl Known {
    fn backend(&mut self, id: BackendId) -> &mut Backend {
        let bytes_per_token = self.bytes_per_token;
        self.backends.entry(id).or_insert_with(|| Backend {
            index: Index::new((KV_TOKENS_UNKNOWN as f64 * bytes_per_token) as u64),
            kv_tokens_max: KV_TOKENS_UNKNOWN,
            pending: 0,
            tokens_per_s: PREFILL_TOKENS_PER_S,
            last_first_token: Moment::ZERO,
        })
    }

    /// Seconds until the first token, and something for the batch.
    fn wait(&self, request: &Request, candidate: &Candidate) -> f64 {
        let bytes = f64::from(request.prefix.bytes());
        let batch = candidate.in_flight as f64 * RUNNING_S;
        let (unread, speed) = match self.backends.get(&candidate.id) {
            Some(backend) => {
                let missing = bytes - f64::from(backend.index.find(&request.prefix).bytes);
                (backend.pending as f64 + missing, backend.tokens_per_s)
            }
            None => (bytes, PREFILL_TOKENS_PER_S),
        };
        (unread / self.bytes_per_token / speed + batch) / candidate.weight
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
        let mut known = self.known();
        let backend = known.backend(to);
        let found = backend.index.find(&request.prefix);
        let pending = u64::from(request.prefix.bytes() - found.bytes);
        backend.index.read(&request.prefix);
        backend.pending += pending;
        known.tries.insert(id, Try { backend: to, prefix: request.prefix.clone(), known: found, pending, sent: now });
    }

    fn first_token(&self, id: TryId, now: Moment) {
        let mut guard = self.known();
        let known = &mut *guard;
        let Some(tried) = known.tries.get_mut(&id) else { return };
        let Some(backend) = known.backends.get_mut(&tried.backend) else { return };
        let read = std::mem::take(&mut tried.pending);
        backend.pending = backend.pending.saturating_sub(read);
        // Prompts are read one after the other: this one since it came, or since the one before it was done.
        let took = now.saturating_sub(tried.sent.max(backend.last_first_token)).as_secs_f64();
        backend.last_first_token = now;
        let tokens = read as f64 / known.bytes_per_token;
        if tokens >= SAMPLE_TOKENS_MIN && took > 0.0 {
            backend.tokens_per_s += SAMPLE_SHARE * (tokens / took - backend.tokens_per_s);
        }
    }

    fn ended(&self, id: TryId, end: End, _: Moment) {
        let mut guard = self.known();
        let known = &mut *guard;
        let Some(tried) = known.tries.remove(&id) else { return };
        if let Some(tokens) = end.prompt_tokens.filter(|tokens| *tokens > 0) {
            let sample = f64::from(tried.prefix.bytes()) / f64::from(tokens);
            known.bytes_per_token += SAMPLE_SHARE * (sample.clamp(1.0, 16.0) - known.bytes_per_token);
        }
        let bytes_per_token = known.bytes_per_token;
        let Some(backend) = known.backends.get_mut(&tried.backend) else { return };
        backend.pending = backend.pending.saturating_sub(tried.pending);
        if end.written_tokens > 0 {
            backend.index.wrote(&tried.prefix, (f64::from(end.written_tokens) * bytes_per_token) as u32);
        }
    }

    fn restarted(&self, backend: BackendId) {
        self.known().backends.remove(&backend);
    }

    fn reported(&self, backend: BackendId, load: Load, _: Moment) {
        let mut known = self.known();
        let bytes_per_token = known.bytes_per_token;
        let backend = known.backend(backend);
        if let Some(tokens) = load.kv_tokens_max {
            backend.kv_tokens_max = tokens;
            backend.index.resize((tokens as f64 * bytes_per_token) as u64);
        }
    }
}
