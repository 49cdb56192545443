//! Requests that a client sends again because it lost the answer to the first.
//!
//! No client says so: it sends the same bytes. But so does one that wants several answers to one question, or measures.
//! Requests of the same caller whose bodies are the same, byte for byte, are *twins*. A twin is a re-send
//! - of the one with its name, if it has one: `Idempotency-Key` or `x-request-id`;
//! - of the only one there is, if it says that it is a re-send (`x-stainless-retry-count` above 0) and the caller was not
//!   refused a place in between: then what it sends again may never have begun;
//! - of one that was cut or failed less than a minute ago, and that nobody has sent again yet;
//! - of one that still runs and began at least ten seconds ago, if it has no name, does not say that it is sent for the
//!   first time (`x-stainless-retry-count: 0`, as OpenAI's SDKs do), and the caller was not refused a place in between: who
//!   wants several answers asks for them at once, and who has waited that long has most likely given up.
//!
//! A re-send joins its first while that runs, and else gets the outcomes that were recorded for it. Any other twin is a
//! question of its own.

use super::body;
use super::shared::{End, Listener, Shared};
use crate::access::Caller;
use crate::agent::Outcomes;
use crate::chat::{Execution, Failure};
use bytes::Bytes;
use http::HeaderMap;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long after its end a turn's outcomes are kept. Chosen: longer than any pause that SDKs make between two tries
/// (openai-python: 8 s at most).
const KEPT: Duration = Duration::from_mins(1);
/// How long a turn must have run for a twin that says nothing to count as sent again. Chosen: benches begin their repeats
/// sooner, and no client that was measured gives up sooner (qwen-code: 120 s without headers).
const GIVEN_UP: Duration = Duration::from_secs(10);
/// Turns that are over and known. Chosen: 500 clients that each end eight turns in a minute.
const OVER_MAX: usize = 4096;
/// Bytes of outcomes that are kept. Chosen.
const BYTES_MAX: usize = 64 << 20;

/// What is known of recent requests. Cheap to clone.
#[derive(Clone, Default)]
pub struct Resends(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    twins: HashMap<Fingerprint, Vec<Attempt>>,
    /// The attempts that are over, oldest first.
    over: VecDeque<(Instant, Fingerprint, u64)>,
    bytes: usize,
    /// When each caller was last refused a place.
    refused: HashMap<Arc<str>, Instant>,
    attempts: u64,
}

/// A hash of what makes a request the same, or of a name that it has.
type Fingerprint = [u8; 32];

/// A turn that a request has begun.
struct Attempt {
    id: u64,
    names: Vec<Fingerprint>,
    begun: Instant,
    outcomes: Arc<Outcomes>,
    state: State,
}

enum State {
    Running(Weak<Shared>),
    Over { end: End, bytes: usize },
}

/// What a request says of itself.
pub(super) struct Sent {
    fingerprint: Fingerprint,
    names: Vec<Fingerprint>,
    /// How often it was sent before, where it says so.
    retries: Option<u32>,
}

/// A turn that is about to begin.
pub(super) struct Begun {
    resends: Resends,
    fingerprint: Fingerprint,
    id: u64,
    /// What its calls came to before, and will come to.
    pub outcomes: Arc<Outcomes>,
}

impl Sent {
    /// Looks at all of the body; at a large one where nobody else waits for the thread.
    pub async fn new(caller: &Caller, path: &str, body: Bytes, headers: &HeaderMap) -> Result<Self, Failure> {
        let body = body::read(body, |body| Ok(fingerprint(&[&body]))).await?;
        let header = |name| headers.get(name).map(http::HeaderValue::as_bytes);
        // Who runs the calls, and where, can be said in a header.
        let [execute, session] =
            [super::EXECUTE_HEADER, super::SESSION_HEADER].map(|name| header(name).unwrap_or_default());
        let named = |name| header(name).map(|value| fingerprint(&[name.as_bytes(), value]));
        Ok(Self {
            fingerprint: fingerprint(&[caller.name().as_bytes(), path.as_bytes(), execute, session, &body]),
            names: ["idempotency-key", "x-request-id"].into_iter().filter_map(named).collect(),
            retries: headers.get("x-stainless-retry-count").and_then(|count| count.to_str().ok()?.parse().ok()),
        })
    }

    fn is_retry(&self) -> bool {
        self.retries > Some(0)
    }
}

/// The parts' lengths are in it, so that no two lists of parts have the same one.
fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

impl Resends {
    /// A caller was refused a place, with a request that nobody has read.
    pub(super) fn refused(&self, caller: &Caller) {
        let now = Instant::now();
        let mut known = self.known();
        known.refused.retain(|_, at| now.duration_since(*at) < KEPT);
        known.refused.insert(caller.name().into(), now);
    }

    /// Has a request listen to the turn that its first began, or else to the one that `begin` makes. Nobody arrives in
    /// between: of several that are sent at once under one name, one begins.
    pub(super) fn arrive(&self, caller: &Caller, sent: &Sent, begin: impl FnOnce(Begun) -> Listener) -> Listener {
        let now = Instant::now();
        let mut known = self.known();
        known.forget(now);
        let refused = known.refused.get(caller.name()).copied();
        let twins = known.twins.entry(sent.fingerprint).or_default();
        let first = judge(twins, sent, refused, now);
        if let Some(at) = first
            && let State::Running(turn) = &twins[at].state
            && let Some(turn) = turn.upgrade()
        {
            return turn.listen();
        }
        // From here on the new one stands for it, and has all of its outcomes.
        let first = first.map(|at| twins.remove(at));
        if let Some(State::Over { bytes, .. }) = first.as_ref().map(|first| &first.state) {
            known.bytes -= bytes;
        }
        let inherited = first.map_or_else(Vec::new, |first| first.outcomes.all());
        let outcomes = Arc::new(Outcomes::inheriting(inherited));
        let id = known.attempts;
        known.attempts += 1;
        let turn = Begun { resends: self.clone(), fingerprint: sent.fingerprint, id, outcomes: outcomes.clone() };
        let events = begin(turn);
        known.twins.entry(sent.fingerprint).or_default().push(Attempt {
            id,
            names: sent.names.clone(),
            begun: now,
            outcomes,
            state: State::Running(Arc::downgrade(events.shared())),
        });
        events
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panic could have left half done is a count of bytes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of which of its twins a request is a re-send. `refused` is when its caller was last refused a place.
fn judge(twins: &[Attempt], sent: &Sent, refused: Option<Instant>, now: Instant) -> Option<usize> {
    let named = |twin: &Attempt| twin.names.iter().any(|name| sent.names.contains(name));
    let lost = |twin: &Attempt| matches!(twin.state, State::Over { end: End::Left | End::Failed, .. });
    // What is sent again after a refusal may never have begun.
    let may_have_begun = |twin: &Attempt| refused.is_none_or(|refused| refused < twin.begun);
    let given_up = |twin: &Attempt| {
        let is_old = now.saturating_duration_since(twin.begun) >= GIVEN_UP;
        let may_be_one = sent.names.is_empty() && sent.retries != Some(0);
        may_be_one && matches!(twin.state, State::Running(_)) && is_old && may_have_begun(twin)
    };
    let only = || match twins {
        [only] if sent.is_retry() && may_have_begun(only) => Some(0),
        _ => None,
    };
    let twin = |such: &dyn Fn(&Attempt) -> bool| twins.iter().rposition(such);
    twin(&named).or_else(only).or_else(|| twin(&lost)).or_else(|| twin(&given_up))
}

impl Begun {
    /// The turn is over.
    pub(super) fn over(&self, end: End) {
        let at = Instant::now();
        let outcomes = self.outcomes.all();
        let bytes = bytes(&outcomes);
        let mut known = self.resends.known();
        let Some(attempt) = known.attempt(&self.fingerprint, self.id) else { return };
        attempt.state = State::Over { end, bytes };
        let begun = attempt.begun;
        if end == End::Left {
            // Its re-send may have come before we noticed that it had left.
            let heir = known.twins.get(&self.fingerprint).into_iter().flatten().rfind(|twin| {
                twin.begun > begun && matches!(&twin.state, State::Running(turn) if turn.strong_count() > 0)
            });
            if let Some(heir) = heir {
                heir.outcomes.inherit_late(outcomes);
            }
        }
        known.bytes += bytes;
        known.over.push_back((at, self.fingerprint, self.id));
        known.forget(at);
    }
}

impl Known {
    fn attempt(&mut self, fingerprint: &Fingerprint, id: u64) -> Option<&mut Attempt> {
        self.twins.get_mut(fingerprint)?.iter_mut().find(|attempt| attempt.id == id)
    }

    /// Forgets what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((at, fingerprint, id)) = self.over.front().copied() {
            let full = self.over.len() > OVER_MAX || self.bytes > BYTES_MAX;
            if !full && now.duration_since(at) < KEPT {
                return;
            }
            self.over.pop_front();
            let Some(twins) = self.twins.get_mut(&fingerprint) else { continue };
            if let Some(at) = twins.iter().position(|twin| twin.id == id)
                && let State::Over { bytes, .. } = twins.remove(at).state
            {
                self.bytes -= bytes;
            }
            if twins.is_empty() {
                self.twins.remove(&fingerprint);
            }
        }
    }
}

fn bytes(executions: &[Execution]) -> usize {
    let of = |it: &Execution| {
        let optional = [&it.result, &it.error].into_iter().flatten().map(String::len).sum::<usize>();
        it.arguments.len() + it.output.len() + it.stdout.len() + it.stderr.len() + optional
    };
    executions.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Settings};
    use crate::agent::Events;
    use crate::chat::RawCall;
    use crate::dialect::Stamp;
    use crate::record::Metrics;

    const LEFT: State = State::Over { end: End::Left, bytes: 0 };
    const FAILED: State = State::Over { end: End::Failed, bytes: 0 };
    const ANSWERED: State = State::Over { end: End::Answered, bytes: 0 };
    const RUNNING: State = State::Running(Weak::new());

    fn twins(of: Vec<(State, &str)>, begun: Instant) -> Vec<Attempt> {
        let attempt = |(id, (state, name)): (u64, (State, &str))| Attempt {
            id,
            names: names(name),
            begun,
            outcomes: Arc::default(),
            state,
        };
        (0..).zip(of).map(attempt).collect()
    }

    fn anonymous() -> Caller {
        Access::new(&Settings::default()).identify(None).unwrap()
    }

    fn names(name: &str) -> Vec<Fingerprint> {
        if name.is_empty() { Vec::new() } else { vec![fingerprint(&[name.as_bytes()])] }
    }

    #[test]
    fn a_request_is_a_resend_of_its_namesake_of_the_only_one_or_of_a_lost_one() {
        let begun = Instant::now();
        let of = |states: Vec<(State, &str)>, name: &str, is_retry: bool| {
            let sent = Sent { fingerprint: [0; 32], names: names(name), retries: is_retry.then_some(1) };
            judge(&twins(states, begun), &sent, None, begun)
        };
        // Nothing is said.
        assert_eq!(of(vec![], "", false), None);
        assert_eq!(of(vec![(RUNNING, "")], "", false), None, "a second question");
        assert_eq!(of(vec![(ANSWERED, "")], "", false), None, "asked again on purpose");
        assert_eq!(of(vec![(LEFT, "")], "", false), Some(0));
        assert_eq!(of(vec![(FAILED, ""), (ANSWERED, "")], "", false), Some(0));
        assert_eq!(of(vec![(LEFT, ""), (LEFT, ""), (RUNNING, "")], "", false), Some(1), "the newest that is lost");
        // A retry that has no name.
        assert_eq!(of(vec![], "", true), None);
        assert_eq!(of(vec![(RUNNING, "")], "", true), Some(0));
        assert_eq!(of(vec![(ANSWERED, "")], "", true), Some(0));
        assert_eq!(of(vec![(RUNNING, ""), (RUNNING, "")], "", true), None, "of which one?");
        assert_eq!(of(vec![(RUNNING, ""), (LEFT, ""), (ANSWERED, "")], "", true), Some(1));
        // Names.
        assert_eq!(of(vec![(RUNNING, "a"), (RUNNING, "b")], "a", false), Some(0));
        assert_eq!(of(vec![(ANSWERED, "a"), (LEFT, "b")], "a", false), Some(0));
        assert_eq!(of(vec![(RUNNING, "a"), (LEFT, "b")], "c", false), Some(1));
    }

    #[test]
    fn what_a_caller_sends_again_after_it_was_refused_a_place_may_never_have_begun() {
        let begun = Instant::now();
        let sent = Sent { fingerprint: [0; 32], names: Vec::new(), retries: Some(2) };
        let only = twins(vec![(RUNNING, "")], begun);
        assert_eq!(judge(&only, &sent, Some(begun + Duration::from_secs(1)), begun), None);
        assert_eq!(judge(&only, &sent, begun.checked_sub(Duration::from_secs(1)), begun), Some(0));
    }

    #[test]
    fn a_twin_that_says_nothing_is_a_resend_of_one_that_has_run_for_long_and_still_does() {
        let (begun, just) = (Instant::now(), Duration::from_millis(1));
        let sent = Sent { fingerprint: [0; 32], names: Vec::new(), retries: None };
        let after = |states: Vec<(State, &str)>, refused: Option<Instant>, wait: Duration| {
            judge(&twins(states, begun), &sent, refused, begun + wait)
        };
        assert_eq!(after(vec![(RUNNING, "")], None, GIVEN_UP.saturating_sub(just)), None, "a repeat");
        assert_eq!(after(vec![(RUNNING, "")], None, GIVEN_UP), Some(0));
        assert_eq!(after(vec![(RUNNING, "a")], None, GIVEN_UP), Some(0), "a name of the first's is none of its own");
        assert_eq!(after(vec![(ANSWERED, "")], None, GIVEN_UP), None, "asked again on purpose");
        assert_eq!(after(vec![(LEFT, ""), (RUNNING, "")], None, GIVEN_UP), Some(0), "what is lost comes first");
        assert_eq!(after(vec![(RUNNING, "")], Some(begun + just), GIVEN_UP), None, "it was refused in between");
        let named = Sent { fingerprint: [0; 32], names: names("b"), retries: None };
        assert_eq!(judge(&twins(vec![(RUNNING, "a")], begun), &named, None, begun + GIVEN_UP), None, "another name");
    }

    #[test]
    fn what_says_that_it_is_sent_for_the_first_time_joins_nothing_that_runs() {
        let begun = Instant::now();
        let of = |state: State, name: &str| {
            let sent = Sent { fingerprint: [0; 32], names: names(name), retries: Some(0) };
            judge(&twins(vec![(state, "a")], begun), &sent, None, begun + GIVEN_UP)
        };
        assert_eq!(of(RUNNING, ""), None, "a sample of its own, however late");
        assert_eq!(of(LEFT, ""), Some(0), "what is lost is sent again by people, too");
        assert_eq!(of(RUNNING, "a"), Some(0), "a name says more");
    }

    #[tokio::test]
    async fn how_often_a_request_was_sent_is_what_it_says_in_digits() {
        let caller = anonymous();
        for (said, retries) in [("0", Some(0)), ("2", Some(2)), ("", None), ("two", None)] {
            let headers = HeaderMap::from_iter([("x-stainless-retry-count".parse().unwrap(), said.parse().unwrap())]);
            let sent = Sent::new(&caller, "/", Bytes::new(), &headers).await.unwrap();
            assert_eq!(sent.retries, retries, "{said:?}");
        }
        assert_eq!(Sent::new(&caller, "/", Bytes::new(), &HeaderMap::new()).await.unwrap().retries, None);
    }

    #[test]
    fn of_two_that_are_sent_at_once_under_one_name_one_begins() {
        let (resends, caller) = (Resends::default(), anonymous());
        let sent = Sent { fingerprint: [0; 32], names: names("a"), retries: None };
        let (first, second) = std::thread::scope(|scope| {
            let mut second = None;
            let first = resends.arrive(&caller, &sent, |_| {
                second = Some(scope.spawn(|| resends.arrive(&caller, &sent, |_| panic!("it begins again"))));
                let record = Arc::new(Metrics::new()).turn();
                let stamp = Stamp { request_id: "a".into(), created: 0, model: String::new() };
                Shared::start(Events::none(), record, stamp, Box::new(|_| {}))
            });
            (first, second.unwrap().join().unwrap())
        });
        assert!(Arc::ptr_eq(first.shared(), second.shared()));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_bytes_and_time() {
        let at = Instant::now();
        let over = |known: &mut Known, number: u64, bytes: usize, at: Instant| {
            let print = fingerprint(&[&number.to_le_bytes()]);
            let [mut attempt] = <[Attempt; 1]>::try_from(twins(vec![(ANSWERED, "")], at)).ok().expect("one");
            (attempt.id, attempt.state) = (number, State::Over { end: End::Answered, bytes });
            known.twins.entry(print).or_default().push(attempt);
            known.over.push_back((at, print, number));
            known.bytes += bytes;
            known.forget(at);
        };
        let mut known = Known::default();
        for number in 0..=OVER_MAX as u64 {
            over(&mut known, number, 1, at);
        }
        assert_eq!((known.twins.len(), known.over.len(), known.bytes), (OVER_MAX, OVER_MAX, OVER_MAX));
        over(&mut known, u64::MAX, BYTES_MAX, at);
        assert_eq!((known.twins.len(), known.bytes), (1, BYTES_MAX), "all others had to go");
        known.forget(at + KEPT);
        assert_eq!((known.twins.len(), known.over.len(), known.bytes), (0, 0, 0));
    }

    #[test]
    fn the_size_of_an_outcome_is_that_of_its_texts() {
        let call = RawCall { id: "a".to_owned(), name: "execute_code".to_owned(), arguments: "12".to_owned() };
        let execution = Execution {
            output: "345".to_owned(),
            stdout: "6".to_owned(),
            stderr: "7".to_owned(),
            result: Some("8".to_owned()),
            error: Some("90".to_owned()),
            ..Execution::of(&call)
        };
        assert_eq!(bytes(&[execution.clone(), execution]), 20);
    }
}
