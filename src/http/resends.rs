//! Requests that a client sends again because it lost the answer to the first.
//!
//! No client says so: it sends the same bytes. But so does one that wants several answers to one question, or measures.
//! A request counts as a re-send when the body is the same byte for byte, of the same caller, and
//! - the first one was cut off less than a minute ago, or
//! - it says that it is one: `x-stainless-retry-count` above 0, or the first one's `Idempotency-Key` or `x-request-id`.
//!
//! A re-send that says so joins its first while that runs. Any other gets the outcomes that were recorded for it. A twin
//! that says nothing while the first is still listened to is a second question.

use super::shared::{Listener, Shared};
use crate::access::Caller;
use crate::agent::Replays;
use crate::chat::Execution;
use bytes::Bytes;
use http::HeaderMap;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long after its end a turn's outcomes are kept. Chosen: longer than any pause that SDKs make between two tries
/// (openai-python: 8 s at most).
const KEPT: Duration = Duration::from_mins(1);
/// Turns that are known at once, running or over. Chosen: 500 clients that each end eight turns in a minute.
const TURNS_MAX: usize = 4096;
/// Bytes of outcomes that are kept. Chosen.
const BYTES_MAX: usize = 64 << 20;

/// What is known of recent requests. Cheap to clone.
#[derive(Clone, Default)]
pub struct Resends(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    turns: HashMap<Fingerprint, Twins>,
    /// The turns that are over, oldest first.
    over: VecDeque<(Instant, Fingerprint)>,
    bytes: usize,
}

/// Caller and body of a request.
type Fingerprint = [u8; 32];

/// Requests with the same fingerprint.
#[derive(Default)]
struct Twins {
    running: Option<Weak<Shared>>,
    replays: Arc<Replays>,
    /// How the newest one called itself.
    names: Vec<Bytes>,
    over: Option<Over>,
}

struct Over {
    at: Instant,
    cut: bool,
    executions: Vec<Execution>,
}

/// What a request says of itself.
pub(super) struct Sent {
    fingerprint: Fingerprint,
    names: Vec<Bytes>,
    is_retry: bool,
}

/// What becomes of a request.
pub(super) enum Arrival {
    /// It listens to the turn that its first began.
    Joins(Listener),
    /// It begins a turn, in which calls with an outcome in here are not run.
    Begins(Arc<Replays>),
}

impl Sent {
    pub fn new(caller: &Caller, path: &str, body: &Bytes, headers: &HeaderMap) -> Self {
        let mut digest = Sha256::new();
        for part in [caller.name().as_bytes(), path.as_bytes(), body] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let header = |name| headers.get(name).map(http::HeaderValue::as_bytes);
        let named = |name| header(name).map(Bytes::copy_from_slice);
        Self {
            fingerprint: digest.finalize().into(),
            names: ["idempotency-key", "x-request-id"].into_iter().filter_map(named).collect(),
            is_retry: header("x-stainless-retry-count").is_some_and(|count| count != b"0"),
        }
    }
}

impl Resends {
    pub(super) fn arrive(&self, sent: &Sent) -> Arrival {
        let mut known = self.known();
        known.forget(Instant::now());
        let twins = known.turns.entry(sent.fingerprint).or_default();
        let says_so = sent.is_retry || sent.names.iter().any(|name| twins.names.contains(name));
        twins.names.clone_from(&sent.names);
        if says_so && let Some(first) = twins.running.as_ref().and_then(Weak::upgrade) {
            return Arrival::Joins(first.listen());
        }
        twins.replays = Arc::default();
        if let Some(over) = &twins.over
            && (over.cut || says_so)
        {
            twins.replays.add(over.executions.iter().cloned());
        }
        Arrival::Begins(twins.replays.clone())
    }

    /// A turn has begun.
    pub(super) fn begun(&self, sent: &Sent, turn: &Arc<Shared>) {
        let mut known = self.known();
        known.turns.entry(sent.fingerprint).or_default().running = Some(Arc::downgrade(turn));
    }

    /// A turn is over, with these outcomes besides those that it was given and did not use.
    pub(super) fn over(&self, sent: &Sent, mut executions: Vec<Execution>, unused: Vec<Execution>, cut: bool) {
        executions.extend(unused);
        let at = Instant::now();
        let mut known = self.known();
        let twins = known.turns.entry(sent.fingerprint).or_default();
        if cut && twins.is_running() {
            // Its re-send came before we noticed that it had left.
            twins.replays.add(executions.iter().cloned());
        }
        let bytes = bytes(&executions);
        let before = twins.over.replace(Over { at, cut, executions });
        known.bytes += bytes;
        known.bytes -= before.map_or(0, |before| self::bytes(&before.executions));
        known.over.push_back((at, sent.fingerprint));
        known.forget(at);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panic could have left half done is a count of bytes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget(&mut self, now: Instant) {
        while let Some((at, fingerprint)) = self.over.front().copied() {
            let full = self.over.len() > TURNS_MAX || self.bytes > BYTES_MAX;
            if !full && now.duration_since(at) < KEPT {
                return;
            }
            self.over.pop_front();
            let Some(twins) = self.turns.get_mut(&fingerprint) else { continue };
            // A later twin of it has written its own outcomes since.
            let Some(over) = twins.over.take_if(|over| over.at == at) else { continue };
            self.bytes = self.bytes.saturating_sub(bytes(&over.executions));
            if !twins.is_running() {
                self.turns.remove(&fingerprint);
            }
        }
    }
}

impl Twins {
    fn is_running(&self) -> bool {
        // Not `upgrade`: to drop the last handle of a turn here would end it under the lock that its end takes.
        self.running.as_ref().is_some_and(|turn| turn.strong_count() > 0)
    }
}

fn bytes(executions: &[Execution]) -> usize {
    let of = |it: &Execution| {
        let optional = [&it.result, &it.error].into_iter().flatten().map(String::len).sum::<usize>();
        it.arguments.len() + it.output.len() + it.stdout.len() + it.stderr.len() + optional
    };
    executions.iter().map(of).sum()
}
