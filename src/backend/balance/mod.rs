//! Which of the backends that could take a request gets it.
//!
//! A policy only picks, and listens. Counting requests, health, models, weights and limits are the pool's: it offers
//! none but live candidates, and says at which moment what happened ([`Balance`] has the moments). Nothing here reads a
//! clock or waits: the simulator runs the same code with a time of its own.

mod prefix;

mod consistent_hash;
mod least_requests;
mod least_wait;
mod power_of_two;
mod random;
mod round_robin;

mod float;
mod index;
mod lots;

pub(crate) use float::{float, whole};
pub use lots::Lots;
pub use prefix::{Block, Prefix, Tokens};

use std::time::Duration;

/// A moment: the time since the pool began.
pub type Moment = Duration;

/// A backend, for as long as the pool lives. A number is given once: one that is removed and added again gets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// One try of one model call. No number is given twice; a retry elsewhere is another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TryId(pub u64);

/// What a policy may know of a model call.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Which session it belongs to: [`session_key`] of what the client sent, if it sent anything of that kind.
    pub session: Option<u64>,
    /// What the model is going to read.
    pub prefix: Prefix,
    /// The backend that had the earlier rounds of the same turn.
    pub prefer: Option<BackendId>,
}

impl Request {
    /// Which conversation of a caller's it belongs to. Agents send one key for a session and all that it delegates, so how
    /// the conversation began belongs to it, too. A compacted conversation is another.
    pub fn conversation(&self, caller: u64) -> u64 {
        lots::mix(caller ^ lots::mix(self.session.unwrap_or_default() ^ lots::mix(self.prefix.opening())))
    }
}

/// A backend that could take the request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Which backend.
    pub id: BackendId,
    /// The same for one address in every gateway and after every restart: [`session_key`] of its URL.
    pub key: u64,
    /// Requests that it is working on for this gateway.
    pub in_flight: usize,
    /// Its share of the work beside others', more than 0; 1 is usual. An operator sets it, a slow start lowers it.
    pub weight: f64,
    /// What it last said of itself, if it ever did.
    pub load: Option<Load>,
}

impl Candidate {
    /// Requests under way if it got one more, for its weight.
    fn crowd(&self) -> f64 {
        float(self.in_flight as u64 + 1) / self.weight
    }
}

/// A load report, in the terms that SGLang's `/v1/loads` and `/get_load` have in common.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Requests in its running batch, of all its clients.
    pub running: u32,
    /// Requests in its queue, of all its clients.
    pub waiting: u32,
    /// Tokens in its KV cache that running requests hold.
    pub used_tokens: u64,
    /// Tokens that its KV cache takes (`max_total_num_tokens`), where it says so.
    pub kv_tokens_max: Option<u64>,
}

/// What a policy takes a backend to be like, beyond what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Tokens that its cache should hold.
    pub cached_tokens: u64,
    /// Tokens that it was sent and has still to read.
    pub unread_tokens: u64,
    /// The speed at which it reads prompts.
    pub tokens_per_s: f64,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Tokens of the prompt, where the backend said so.
    pub prompt_tokens: Option<u32>,
    /// Of these, how many came from its cache, where the backend said so.
    pub cached_tokens: Option<u32>,
    /// Tokens that it wrote: as it said, or a guess (a quarter of the bytes), or 0 if nothing came.
    pub written_tokens: u32,
}

/// A balance policy: small, synchronous, and shared by all requests.
///
/// It hears of a try in this order: [`sent`](Balance::sent), then at most once
/// [`first_token`](Balance::first_token), then exactly once [`ended`](Balance::ended). Policies that do not learn leave
/// all but `pick` as it is.
pub trait Balance: Send + Sync {
    /// Picks one of `candidates`, by its position in the slice. There is always at least one. To be called through
    /// [`choose`], which keeps a turn's rounds together.
    fn pick(&self, request: &Request, candidates: &[Candidate], now: Moment) -> usize;

    /// The request is about to be sent to a backend: right after it was chosen, before anything is awaited, so that
    /// the next pick knows of it. Also for one that was not picked, such as the preferred one.
    fn sent(&self, id: TryId, request: &Request, to: BackendId, now: Moment) {
        let _ = (id, request, to, now);
    }

    /// The backend has read the prompt: the first event with something of the answer in it (text, thinking, a call) has
    /// come; for an answer that is not streamed, its first byte.
    fn first_token(&self, id: TryId, now: Moment) {
        let _ = (id, now);
    }

    /// The try is over, whichever way: answered, failed, refused, or left by the client. From the `Drop` of whatever
    /// counts it as in flight.
    fn ended(&self, id: TryId, end: End, now: Moment) {
        let _ = (id, end, now);
    }

    /// The backend's cache is empty: it was down and is up again, or it says that it was started anew, or it is removed
    /// from the pool for good. Tries that are under way there still end one by one.
    fn restarted(&self, backend: BackendId) {
        let _ = backend;
    }

    /// The backend has said how loaded it is.
    fn reported(&self, backend: BackendId, load: Load, now: Moment) {
        let _ = (backend, load, now);
    }

    /// What is thought of a backend, for operators.
    fn estimate(&self, backend: BackendId) -> Option<Estimate> {
        let _ = backend;
        None
    }
}

/// Who gets the request, by its position in `candidates`: the backend of the turn's earlier rounds, if it is among them,
/// else the one that the policy picks.
pub fn choose(balance: &dyn Balance, request: &Request, candidates: &[Candidate], now: Moment) -> usize {
    let preferred = request.prefer.and_then(|id| candidates.iter().position(|candidate| candidate.id == id));
    preferred.unwrap_or_else(|| balance.pick(request, candidates, now))
}

/// A policy's row: everything that knows the policies reads this table.
pub struct Policy {
    /// Its name in config, metrics and docs.
    pub name: &'static str,
    /// One line for `--help`.
    pub what: &'static str,
    /// Makes one, for one pool. Policies that draw lots draw the same ones from the same seed.
    pub make: fn(seed: u64) -> Box<dyn Balance>,
    /// Whether it looks at prompts: if not, a request's prefix may be left empty, which saves reading it.
    pub reads: bool,
    /// Whether sessions wait for room in the caches ([`super::admission`]).
    pub admits: bool,
}

/// All policies; the first is the default.
pub static ALL: &[Policy] = &[
    least_wait::POLICY,
    round_robin::POLICY,
    least_requests::POLICY,
    power_of_two::POLICY,
    consistent_hash::POLICY,
    random::POLICY,
];

/// A number for a session's name or a backend's address: the same in every gateway and after every restart.
pub fn session_key(name: &str) -> u64 {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(name.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|at| digest[at]))
}

#[cfg(test)]
mod tests;
