//! Interpreters that last longer than a request, parked: by caller and name, each with what it was at several moments.
//!
//! A conversation may go on from an earlier message than its last one. So what an interpreter has come to is kept under
//! the position in the conversation where it came to it, and a request starts from the latest position that it contains.

mod lost;
mod table;

use super::run::Past;
use crate::access::Caller;
use crate::policy;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use table::{Kept, Session, Table, bytes_of};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

/// A digest of a conversation up to some message.
pub type Position = [u8; 32];

/// Moments of one session that are kept: so many messages back a conversation can go on from. Chosen.
const MOMENTS_MAX: usize = 8;

/// Bytes of a session's name.
const NAME_BYTES_MAX: usize = 128;

/// Where in a conversation a request is.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// Everything that the client sent.
    pub here: Option<Position>,
    /// The messages before the last one, and so on; the longest first.
    pub before: Vec<Position>,
}

/// A session, as its caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its name.
    pub name: String,
    /// Bytes that it takes while it is parked.
    pub bytes: usize,
    /// How long ago it was used.
    pub idle: Duration,
}

/// What a session may be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the session's name `{0}` is none: use 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-` and `:`")]
pub struct BadName(String);

/// A session of one caller's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    caller: Arc<str>,
    name: Arc<str>,
}

impl SessionKey {
    /// The caller's session of this name, whether there is one or not.
    pub fn new(caller: &Caller, name: &str) -> Result<Self, BadName> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_good) {
            return Err(BadName(name.chars().take(NAME_BYTES_MAX).collect()));
        }
        Ok(Self { caller: caller.name().into(), name: name.into() })
    }
}

/// A session that a turn asks for.
pub(super) struct Wanted {
    pub key: SessionKey,
    pub rules: policy::Sessions,
    pub moment: Moment,
}

/// An interpreter at rest.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parked {
    pub state: Arc<[u8]>,
    pub past: Past,
}

/// All sessions.
pub(super) struct Sessions {
    table: Mutex<Table>,
    /// A session may be old sooner than was known.
    changed: Condvar,
    bytes_max: usize,
}

/// A session while one turn uses it. Others of its turns wait.
pub(super) struct Visit {
    sessions: Arc<Sessions>,
    key: SessionKey,
    rules: policy::Sessions,
    at: Option<Position>,
    /// What the session is at this moment.
    pub from: Option<Parked>,
    alone: OwnedMutexGuard<()>,
}

impl Sessions {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), changed: Condvar::new(), bytes_max })
    }

    /// The session, as soon as no other turn uses it; nothing if that takes too long.
    pub async fn visit(self: &Arc<Self>, wanted: &Wanted, wait: Duration) -> Option<Visit> {
        let visiting = async {
            loop {
                let alone = Arc::clone(&self.lock().session(&wanted.key, wanted.rules).alone);
                if let Some(visit) = self.begin(wanted, alone.lock_owned().await) {
                    return visit;
                }
            }
        };
        self.lock().end_old();
        timeout(wait, visiting).await.ok()
    }

    /// Nothing if what was waited for has ended meanwhile: others may use what has begun since.
    fn begin(self: &Arc<Self>, wanted: &Wanted, alone: OwnedMutexGuard<()>) -> Option<Visit> {
        let Wanted { key, rules, moment } = wanted;
        let mut table = self.lock();
        let session = table.session(key, *rules);
        Arc::ptr_eq(&session.alone, OwnedMutexGuard::mutex(&alone)).then(|| Visit {
            sessions: Arc::clone(self),
            key: key.clone(),
            rules: *rules,
            at: moment.here,
            from: session.at(moment),
            alone,
        })
    }

    /// A caller's sessions, the latest first.
    pub fn list(&self, caller: &Caller) -> Vec<SessionInfo> {
        let mut table = self.lock();
        table.end_old();
        let own = table.sessions.iter().filter(|(key, session)| *key.caller == *caller.name() && session.is_there());
        let mut list: Vec<_> = own
            .map(|(key, session)| SessionInfo {
                name: key.name.to_string(),
                bytes: session.bytes(),
                idle: session.used.elapsed(),
            })
            .collect();
        list.sort_by(|one, other| (one.idle, &one.name).cmp(&(other.idle, &other.name)));
        list
    }

    /// Ends sessions as they become old, until it is over. Blocks.
    pub fn end_old(&self) {
        let mut table = self.lock();
        while !table.over {
            let next = table.end_old();
            table = match next {
                Some(next) => {
                    let left = next.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(table).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Has [`Sessions::end_old`] return.
    pub fn close(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // Every change of the table is whole by itself.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread on which old sessions end. A timer of the runtime's would die with whichever runtime it was started in.
pub(super) struct Ender {
    sessions: Arc<Sessions>,
    thread: Option<JoinHandle<()>>,
}

impl Ender {
    pub fn start(sessions: &Arc<Sessions>) -> io::Result<Self> {
        let its = Arc::clone(sessions);
        let thread = thread::Builder::new().name("sandbox-sessions".into()).spawn(move || its.end_old())?;
        Ok(Self { sessions: Arc::clone(sessions), thread: Some(thread) })
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.sessions.close();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Visit {
    /// Whether the session has ended, or lost something, and no program was told so yet.
    pub fn is_lost(&self) -> bool {
        self.sessions.lock().lost.has(&self.key.caller, &self.key.name)
    }

    /// A program was told of what is lost.
    pub fn told(&self) {
        self.sessions.lock().forget_loss(&self.key);
    }

    /// Bytes that what it comes to may have.
    pub fn bytes_max(&self) -> usize {
        self.rules.bytes.min(self.sessions.bytes_max)
    }

    /// What programs have left in the session is not kept.
    pub fn lose(&self) {
        self.sessions.lock().lose(&self.key);
    }

    /// What the session was cannot be had back: it begins anew.
    pub fn give_up(&mut self) {
        self.from = None;
        let mut table = self.sessions.lock();
        table.session(&self.key, self.rules).moments.clear();
        table.lose(&self.key);
    }

    /// Ends the session. Whether there was one.
    pub fn end(self) -> bool {
        let mut table = self.sessions.lock();
        table.forget_loss(&self.key);
        table.sessions.remove(&self.key).is_some_and(|session| session.is_there())
    }

    /// Gives what the session has come to last another state, to which no run has come. Whether there is room for that;
    /// else nothing changes.
    pub fn amend(self, state: Vec<u8>) -> bool {
        let now = Parked { state: state.into(), past: Past::Amended };
        let mut table = self.sessions.lock();
        let session = table.session(&self.key, self.rules);
        let mut moments = session.moments.clone();
        match moments.last_mut() {
            Some(last) => last.now = now,
            None => moments.push(Kept { at: self.at, now, from: None }),
        }
        if bytes_of(&moments) > self.bytes_max() {
            return false;
        }
        session.moments = moments;
        table.bound(&self.key, self.rules, self.sessions.bytes_max);
        self.sessions.changed.notify_all();
        true
    }

    /// What the interpreter has come to.
    pub fn keep(self, now: Parked) {
        let mut table = self.sessions.lock();
        let session = table.session(&self.key, self.rules);
        // One without a position can only be found while it is the last.
        session.moments.retain(|kept| kept.at.is_some() && kept.at != self.at);
        session.moments.push(Kept { at: self.at, now, from: self.from.clone() });
        if session.moments.len() > MOMENTS_MAX {
            session.moments.remove(0);
        }
        table.bound(&self.key, self.rules, self.sessions.bytes_max);
        self.sessions.changed.notify_all();
    }
}

impl Drop for Visit {
    /// A session that has come to nothing is none: else a caller could have the table grow with names.
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        let own = OwnedMutexGuard::mutex(&self.alone);
        // Only this visit and the table have it: nobody waits.
        let is_nothing =
            |session: &Session| !session.is_there() && Arc::ptr_eq(&session.alone, own) && Arc::strong_count(own) == 2;
        if table.sessions.get(&self.key).is_some_and(is_nothing) {
            table.sessions.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
