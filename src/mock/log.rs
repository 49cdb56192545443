//! What arrived at the server: a bounded log that tests can wait on.

use super::server::Registered;
use bytes::Bytes;
use http::{HeaderMap, Method};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Requests that are kept. Chosen: more than any test makes.
const REQUESTS_MAX: usize = 1024;
/// Bytes of bodies that are kept. Chosen: a bench of an hour must not eat the memory.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Counted from 0 since the server's start.
    pub number: u64,
    /// `GET` or `POST`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// As they came.
    pub headers: HeaderMap,
    /// The exact bytes.
    pub body: Bytes,
    /// Tokens of the prompt, once it is being read.
    pub prompt_tokens: u32,
    /// Those of them that were in the KV cache.
    pub cached_tokens: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is not finished.
    Open,
    /// The answer was given to its last byte, faults included.
    Answered,
    /// The client closed the connection first.
    ClosedEarly,
}

impl Arrived {
    /// It asked the model for something: chat, completions or generate.
    pub fn asks(&self) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.method == Method::POST && ["/v1/chat/completions", "/v1/completions", "/generate"].contains(&path)
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The last requests, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Log {
    requests: VecDeque<Arrived>,
    aborts: VecDeque<String>,
    body_bytes: usize,
    next: u64,
}

impl Log {
    /// All that are kept, health checks too.
    pub fn requests(&self) -> impl DoubleEndedIterator<Item = &Arrived> {
        self.requests.iter()
    }

    /// Those that asked the model for something.
    pub fn asked(&self) -> impl DoubleEndedIterator<Item = &Arrived> {
        self.requests().filter(|request| request.asks())
    }

    /// The ids that `/abort_request` was called with.
    pub fn aborts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.aborts.iter().map(String::as_str)
    }

    fn push(&mut self, mut request: Arrived) -> u64 {
        request.number = self.next;
        self.next += 1;
        self.body_bytes += request.body.len();
        self.requests.push_back(request);
        while self.requests.len() > REQUESTS_MAX || self.body_bytes > BODY_BYTES_MAX {
            let Some(oldest) = self.requests.pop_front() else { break };
            self.body_bytes -= oldest.body.len();
        }
        self.next - 1
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Arrived> {
        let first = self.requests.front()?.number;
        self.requests.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }
}

/// The log as the server writes it and tests read it.
#[derive(Debug, Clone)]
pub struct Shared {
    // A std mutex: it is held for a few instructions and never across an await.
    log: Arc<Mutex<Log>>,
    changed: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self { log: Arc::default(), changed: watch::Sender::new(()) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; its outcome follows when the entry is dropped.
    pub(super) fn arrived(&self, request: Arrived) -> Entry {
        let number = self.lock().push(request);
        self.changed.send_replace(());
        Entry { shared: self.clone(), number, outcome: Outcome::ClosedEarly, registered: None }
    }

    pub(super) fn abort(&self, rid: String) {
        let mut log = self.lock();
        log.aborts.push_back(rid);
        if log.aborts.len() > REQUESTS_MAX {
            log.aborts.pop_front();
        }
        drop(log);
        self.changed.send_replace(());
    }

    /// Resolves with what `look` finds in the log, as soon as it finds it.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut(&Log) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = look(&self.lock()) {
                return found;
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }
}

/// A request that is being answered. Dropped without [`Entry::answered`], its client has left.
#[derive(Debug)]
pub struct Entry {
    shared: Shared,
    number: u64,
    outcome: Outcome,
    /// The id by which it can be aborted, if it has one.
    registered: Option<Registered>,
}

impl Entry {
    /// It can be aborted by this id.
    pub(super) fn register(&mut self, registered: Registered) {
        self.registered = Some(registered);
    }

    /// The prompt is being read.
    pub(super) fn reads(&self, prompt_tokens: u32, cached_tokens: u32) {
        if let Some(request) = self.shared.lock().get_mut(self.number) {
            (request.prompt_tokens, request.cached_tokens) = (prompt_tokens, cached_tokens);
        }
        self.shared.changed.send_replace(());
    }

    /// The answer is complete.
    pub(super) fn answered(&mut self) {
        self.outcome = Outcome::Answered;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(registered) = self.registered.as_ref().filter(|_| self.outcome == Outcome::ClosedEarly) {
            registered.abandoned();
        }
        if let Some(request) = self.shared.lock().get_mut(self.number) {
            request.outcome = self.outcome;
        }
        self.shared.changed.send_replace(());
    }
}
