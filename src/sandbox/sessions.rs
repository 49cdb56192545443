//! Interpreters that last longer than a request, parked: by caller and name, each with what it was at several moments.
//!
//! A conversation may go on from an earlier message than its last one. So what an interpreter has come to is kept under
//! the position in the conversation where it came to it, and a request starts from the latest position that it contains.

use super::lost::Lost;
use super::run::Past;
use crate::access::Caller;
use crate::policy;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
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

#[derive(Default)]
struct Table {
    sessions: HashMap<SessionKey, Session>,
    /// Ended against their callers' will, or not what programs had made of them, and not told of yet.
    lost: Lost,
    /// Nobody is there any more who could use any.
    over: bool,
}

struct Session {
    /// What it has come to, the latest last.
    moments: Vec<Kept>,
    used: Instant,
    keep: Duration,
    alone: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Kept {
    at: Option<Position>,
    now: Parked,
    /// What it was before.
    from: Option<Parked>,
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

impl Table {
    fn session(&mut self, key: &SessionKey, rules: policy::Sessions) -> &mut Session {
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
    fn end_old(&mut self) -> Option<Instant> {
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
    fn bound(&mut self, key: &SessionKey, rules: policy::Sessions, bytes_max: usize) {
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

    fn lose(&mut self, key: &SessionKey) {
        self.lost.add(&key.caller, &key.name);
    }

    fn forget_loss(&mut self, key: &SessionKey) {
        self.lost.remove(&key.caller, &key.name);
    }
}

impl Session {
    fn is_there(&self) -> bool {
        !self.moments.is_empty()
    }

    fn is_visited(&self) -> bool {
        Arc::strong_count(&self.alone) > 1
    }

    /// What it was at this moment of a conversation: before what the same request came to, or else after the latest of
    /// what the request contains. A conversation that it does not know goes on from where it is.
    fn at(&self, moment: &Moment) -> Option<Parked> {
        let find = |position| self.moments.iter().find(|kept| kept.at == Some(position));
        if let Some(same) = moment.here.and_then(find) {
            return same.from.clone();
        }
        let known = moment.before.iter().find_map(|position| find(*position));
        known.or(self.moments.last()).map(|kept| kept.now.clone())
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.moments)
    }
}

/// Moments share what they have come from.
fn bytes_of(moments: &[Kept]) -> usize {
    let mut states: Vec<&Arc<[u8]>> = Vec::new();
    for Parked { state, .. } in moments.iter().flat_map(|kept| std::iter::once(&kept.now).chain(&kept.from)) {
        if !states.iter().any(|other| Arc::ptr_eq(other, state)) {
            states.push(state);
        }
    }
    states.iter().map(|state| state.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{ANONYMOUS, Access};

    const RULES: policy::Sessions =
        policy::Sessions { enabled: true, keep: Duration::from_mins(1), count: 2, bytes: 100 };

    fn key(name: &str) -> SessionKey {
        let access = Access::new(&crate::access::Settings::default());
        SessionKey::new(access.named(ANONYMOUS).unwrap(), name).unwrap()
    }

    fn parked(state: &[u8]) -> Parked {
        Parked { state: state.into(), past: Past::New }
    }

    async fn visit(sessions: &Arc<Sessions>, name: &str, moment: &Moment) -> Visit {
        sessions.visit(&wanted(name, moment), Duration::from_secs(1)).await.unwrap()
    }

    fn wanted(name: &str, moment: &Moment) -> Wanted {
        Wanted { key: key(name), rules: RULES, moment: moment.clone() }
    }

    /// A conversation of so many messages, each of which is one letter.
    fn moment(messages: &str) -> Moment {
        let position = |length: usize| {
            let mut position = [0; 32];
            position[..length].copy_from_slice(&messages.as_bytes()[..length]);
            position
        };
        Moment { here: Some(position(messages.len())), before: (1..messages.len()).rev().map(position).collect() }
    }

    /// A turn that comes to this.
    async fn turn(sessions: &Arc<Sessions>, messages: &str, state: &str) {
        visit(sessions, "s", &moment(messages)).await.keep(parked(state.as_bytes()));
    }

    async fn found(sessions: &Arc<Sessions>, messages: &str) -> Option<String> {
        let from = visit(sessions, "s", &moment(messages)).await.from.clone();
        from.map(|state| String::from_utf8(state.state.to_vec()).unwrap())
    }

    /// So many seconds later, as far as sessions can tell.
    fn later(sessions: &Sessions, seconds: u64) {
        for session in sessions.lock().sessions.values_mut() {
            session.used -= Duration::from_secs(seconds);
        }
    }

    #[tokio::test]
    async fn a_conversation_goes_on_from_the_latest_moment_that_it_contains() {
        let sessions = Sessions::new(1000);
        assert_eq!(found(&sessions, "a").await, None);
        turn(&sessions, "a", "1").await;
        turn(&sessions, "abc", "2").await;
        assert_eq!(found(&sessions, "abcde").await.as_deref(), Some("2"));
        // Asked again: as before that answer.
        assert_eq!(found(&sessions, "abc").await.as_deref(), Some("1"));
        assert_eq!(found(&sessions, "a").await, None);
        // Another way from the first answer on.
        assert_eq!(found(&sessions, "abX").await.as_deref(), Some("1"));
        turn(&sessions, "abX", "3").await;
        assert_eq!(found(&sessions, "abXyz").await.as_deref(), Some("3"));
        assert_eq!(found(&sessions, "abcde").await.as_deref(), Some("2"));
        // Another conversation.
        assert_eq!(found(&sessions, "Q").await.as_deref(), Some("3"));
    }

    #[tokio::test]
    async fn what_is_not_used_ends_and_is_told_of_once() {
        let sessions = Sessions::new(1000);
        turn(&sessions, "a", "1").await;
        later(&sessions, 59);
        assert!(!visit(&sessions, "s", &moment("ab")).await.is_lost());
        later(&sessions, 60);
        let late = visit(&sessions, "s", &moment("ab")).await;
        assert!(late.from.is_none());
        drop(late);
        let lost = visit(&sessions, "s", &moment("ab")).await;
        assert!(lost.is_lost(), "looking is not being told");
        lost.told();
        drop(lost);
        assert!(!visit(&sessions, "s", &moment("ab")).await.is_lost());
    }

    #[tokio::test]
    async fn what_cannot_be_had_back_begins_anew_and_is_told_of() {
        let sessions = Sessions::new(1000);
        turn(&sessions, "a", "1").await;
        visit(&sessions, "s", &moment("abc")).await.give_up();
        let after = visit(&sessions, "s", &moment("abc")).await;
        assert!(after.from.is_none() && after.is_lost());
    }

    #[tokio::test]
    async fn what_is_old_ends_though_nobody_looks() {
        let sessions = Sessions::new(1000);
        let ender = Ender::start(&sessions).unwrap();
        let brief = policy::Sessions { keep: Duration::from_millis(20), ..RULES };
        for (name, rules) in [("stays", RULES), ("goes", brief)] {
            let wanted = Wanted { rules, ..wanted(name, &Moment::default()) };
            let visit = sessions.visit(&wanted, Duration::from_secs(1)).await.unwrap();
            visit.keep(parked(&[1]));
        }
        while sessions.lock().sessions.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(sessions.lock().sessions.contains_key(&key("stays")));
        drop(ender);
        assert!(visit(&sessions, "goes", &Moment::default()).await.is_lost());
    }

    #[tokio::test]
    async fn the_least_used_make_room() {
        let sessions = Sessions::new(1000);
        for name in ["a", "b", "c"] {
            visit(&sessions, name, &Moment::default()).await.keep(parked(&[0; 30]));
            later(&sessions, 1);
        }
        let names = |sessions: &Arc<Sessions>| {
            let access = Access::new(&crate::access::Settings::default());
            let list = sessions.list(access.named(ANONYMOUS).unwrap());
            list.into_iter().map(|session| session.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&sessions), ["c", "b"]);
        visit(&sessions, "d", &Moment::default()).await.keep(parked(&[0; 80]));
        assert_eq!(names(&sessions), ["d"]);
        // One that fits nowhere is not kept, and does not pretend.
        visit(&sessions, "e", &Moment::default()).await.keep(parked(&[0; 101]));
        assert!(visit(&sessions, "e", &Moment::default()).await.is_lost());
    }

    #[tokio::test]
    async fn what_is_amended_is_the_latest_moment_and_nothing_where_it_does_not_fit() {
        let sessions = Sessions::new(1000);
        let amend = async |state: Vec<u8>| visit(&sessions, "s", &Moment::default()).await.amend(state);
        turn(&sessions, "a", "1").await;
        turn(&sessions, "abc", "2").await;
        assert!(!amend(vec![0; 100]).await);
        assert_eq!(found(&sessions, "abcde").await.as_deref(), Some("2"));
        assert!(amend("2+".into()).await);
        assert_eq!(found(&sessions, "abcde").await.as_deref(), Some("2+"));
        assert_eq!(found(&sessions, "Q").await.as_deref(), Some("2+"));
        assert_eq!(found(&sessions, "abX").await.as_deref(), Some("1"), "an earlier one is as it was");
        // It can also be the beginning.
        assert!(visit(&sessions, "t", &Moment::default()).await.amend("0".into()));
        assert_eq!(
            visit(&sessions, "t", &moment("a")).await.from.clone().unwrap(),
            Parked { past: Past::Amended, ..parked(b"0") }
        );
    }

    #[tokio::test]
    async fn what_comes_to_nothing_is_forgotten_and_what_is_ended_is_not_told_of() {
        let sessions = Sessions::new(1000);
        for name in ["a", "b"] {
            drop(visit(&sessions, name, &Moment::default()).await);
        }
        assert!(sessions.lock().sessions.is_empty());
        assert!(!visit(&sessions, "s", &Moment::default()).await.end());
        turn(&sessions, "a", "1").await;
        assert!(visit(&sessions, "s", &Moment::default()).await.end());
        let after = visit(&sessions, "s", &moment("ab")).await;
        assert!(after.from.is_none() && !after.is_lost());
    }

    #[tokio::test]
    async fn turns_of_one_session_wait_for_each_other() {
        let sessions = Sessions::new(1000);
        let nowhere = Moment::default();
        let first = visit(&sessions, "s", &nowhere).await;
        assert!(sessions.visit(&wanted("s", &nowhere), Duration::from_millis(5)).await.is_none());
        visit(&sessions, "other", &nowhere).await.keep(parked(&[1]));
        let (second, ()) = tokio::join!(visit(&sessions, "s", &nowhere), async { first.keep(parked(&[7])) });
        assert_eq!(second.from.clone(), Some(parked(&[7])));
    }

    #[test]
    fn a_name_is_what_can_be_in_a_path() {
        let access = Access::new(&crate::access::Settings::default());
        let caller = access.named(ANONYMOUS).unwrap();
        for bad in ["", "a/b", "a b", "é", "..\0", &"x".repeat(129)] {
            assert!(SessionKey::new(caller, bad).is_err(), "{bad}");
        }
        assert!(SessionKey::new(caller, "chat:7f.A_b-c").is_ok());
    }
}
