//! Who goes on and who waits; then the same through the gate, with real futures.

use super::ledger::{Entered, Entrant, Ledger, Ticket};
use super::*;
use crate::backend::balance::Prefix;
use std::task::Poll;

const ONE: BackendId = BackendId(1);
const TWO: BackendId = BackendId(2);

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

/// A caller's session with a context of so many thousand tokens.
fn entrant(session: u64, caller: u64, thousands: u64) -> Entrant {
    Entrant { session, caller, head: (0, 0), own_tokens: thousands * 1_000, among: Arc::new([ONE]), stays_at: None }
}

/// One backend with room for 100,000 tokens.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(Limits::default().wait_max());
    ledger.resize(ONE, 100_000);
    ledger
}

fn go(ledger: &mut Ledger, entrant: Entrant, now: Moment) {
    let session = entrant.session;
    assert_eq!(ledger.enter(entrant, now), Entered::Now, "session {session}");
    ledger.went(session, ONE);
    ledger.first_token(session);
}

fn wait(ledger: &mut Ledger, entrant: Entrant, now: Moment) -> Ticket {
    match ledger.enter(entrant, now) {
        Entered::Now => panic!("it goes on"),
        Entered::Later(ticket) => ticket,
    }
}

#[test]
fn what_does_not_fit_waits_until_a_session_is_idle() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    let ticket = wait(&mut ledger, entrant(2, 2, 60), at(0));
    assert_eq!(ledger.admitted(at(30)), [], "the first one's turn is still running");
    ledger.left(1, 500, at(40));
    assert_eq!(ledger.next_change(), Some(at(52)));
    assert_eq!(ledger.admitted(at(51)), []);
    assert_eq!(ledger.admitted(at(52)), [ticket]);
}

#[test]
fn who_comes_back_in_time_goes_on_and_others_go_on_waiting() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    ledger.left(1, 500, at(10));
    wait(&mut ledger, entrant(2, 2, 60), at(11));
    go(&mut ledger, entrant(1, 1, 61), at(20));
    assert_eq!(ledger.admitted(at(25)), []);
}

#[test]
fn after_its_turns_a_session_lets_others_go_first_but_only_if_any_wait() {
    let mut ledger = ledger();
    for turn in 0..30 {
        go(&mut ledger, entrant(1, 1, 60), at(turn));
        ledger.left(1, 0, at(turn));
    }
    let second = wait(&mut ledger, entrant(2, 2, 60), at(31));
    let first = wait(&mut ledger, entrant(1, 1, 60), at(32));
    assert_eq!(ledger.admitted(at(32)), [second]);
    ledger.left(2, 0, at(33));
    assert_eq!(ledger.admitted(at(45)), [first]);
}

#[test]
fn a_turn_that_has_begun_waits_for_nobody_and_stays_where_it_is() {
    let mut ledger = ledger();
    ledger.resize(TWO, 100_000);
    let among: Arc<[_]> = Arc::new([ONE, TWO]);
    let next = |stays_at| Entrant { among: among.clone(), stays_at, ..entrant(1, 1, 60) };
    go(&mut ledger, next(None), at(0));
    ledger.left(1, 100, at(1));
    let other = Entrant { among: Arc::new([ONE]), ..entrant(2, 2, 60) };
    let ticket = wait(&mut ledger, other, at(2));
    assert_eq!(ledger.admitted(at(13)), [ticket], "its program has run for so long that the room went to another");
    wait(&mut ledger, entrant(3, 3, 60), at(13));
    assert_eq!(ledger.enter(next(Some(ONE)), at(14)), Entered::Now, "though others wait");
    assert!(ledger.may_go(1, ONE, at(14)), "though it is full, and the other one is empty");
    // Nor do its calls count as turns of which it has had enough.
    for round in 0..40 {
        ledger.left(1, 0, at(15 + round));
        assert_eq!(ledger.enter(next(Some(ONE)), at(15 + round)), Entered::Now);
    }
    ledger.left(1, 0, at(60));
    wait(&mut ledger, next(None), at(60));
}

#[test]
fn one_caller_with_many_sessions_does_not_hold_up_another() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    let crowd: Vec<_> = (2..6).map(|session| wait(&mut ledger, entrant(session, 1, 60), at(1))).collect();
    let other = wait(&mut ledger, entrant(9, 2, 60), at(2));
    ledger.left(1, 0, at(3));
    assert_eq!(ledger.admitted(at(15)), crowd[..1], "nobody has an active session, so who came first");
    ledger.left(2, 0, at(16));
    assert_eq!(ledger.admitted(at(28)), [other], "three of the first one's came before it, but it had its turn");
}

#[test]
fn a_context_larger_than_any_cache_goes_on_alone() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 500), at(0));
    ledger.left(1, 0, at(0));
    let ticket = wait(&mut ledger, entrant(2, 2, 5), at(1));
    assert_eq!(ledger.admitted(at(12)), [ticket]);
}

#[test]
fn a_beginning_that_sessions_have_in_common_is_counted_once() {
    let with_head = |session, head| Entrant { head: (head, 20_000), ..entrant(session, session, 18) };
    let mut ledger = ledger();
    for session in 1..=4 {
        go(&mut ledger, with_head(session, 0), at(0));
    }
    wait(&mut ledger, with_head(5, 0), at(0));
}

#[test]
fn a_backend_is_given_one_large_context_to_read_at_a_time() {
    let mut ledger = ledger();
    assert_eq!(ledger.enter(entrant(1, 1, 20), at(0)), Entered::Now);
    let second = wait(&mut ledger, entrant(2, 2, 20), at(0));
    ledger.first_token(1);
    assert_eq!(ledger.admitted(at(1)), [second]);
    let third = wait(&mut ledger, entrant(3, 3, 20), at(1));
    assert_eq!(ledger.admitted(at(4)), []);
    assert_eq!(ledger.admitted(at(5)), [third], "after 4 s it has read 20,000 tokens, whether anybody saw that or not");
}

#[test]
fn small_requests_do_not_wait_and_keep_no_room_when_they_are_over() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1_000, 1, 95), at(0));
    wait(&mut ledger, entrant(1_001, 1, 95), at(0));
    for session in 0..1_000 {
        go(&mut ledger, entrant(session, 1, 1), at(0));
        ledger.left(session, 100, at(0));
    }
    assert_eq!(ledger.active(), 1);
}

#[test]
fn a_backend_of_unknown_size_takes_all_and_remembers_nobody_for_ever() {
    let mut ledger = Ledger::new(Limits::default().wait_max());
    for session in 0..100 {
        go(&mut ledger, entrant(session, 1, 60), at(session));
        ledger.left(session, 0, at(session));
    }
    assert!(ledger.active() < 30, "{}", ledger.active());
}

#[test]
fn who_waits_for_one_model_is_not_behind_those_who_wait_for_another() {
    let mut ledger = ledger();
    ledger.resize(TWO, 100_000);
    go(&mut ledger, entrant(1, 1, 60), at(0));
    wait(&mut ledger, entrant(2, 2, 60), at(0));
    let elsewhere = Entrant { among: Arc::new([TWO]), ..entrant(3, 3, 60) };
    let ticket = wait(&mut ledger, elsewhere, at(1));
    assert_eq!(ledger.admitted(at(1)), [ticket]);
}

#[test]
fn an_active_session_stays_where_its_context_is() {
    let mut ledger = ledger();
    ledger.resize(TWO, 100_000);
    let both = |thousands| Entrant { among: Arc::new([ONE, TWO]), ..entrant(1, 1, thousands) };
    go(&mut ledger, both(20), at(0));
    ledger.left(1, 0, at(1));
    assert_eq!(ledger.enter(both(21), at(2)), Entered::Now);
    assert_eq!((ledger.may_go(1, ONE, at(2)), ledger.may_go(1, TWO, at(2))), (true, false));
    // It failed there, and was sent elsewhere.
    ledger.went(1, TWO);
    assert_eq!((ledger.may_go(1, ONE, at(2)), ledger.may_go(1, TWO, at(2))), (false, true));
}

#[test]
fn what_runs_beside_a_turn_of_its_session_may_go_anywhere_and_the_session_stays() {
    let mut ledger = ledger();
    ledger.resize(TWO, 100_000);
    let both = || Entrant { among: Arc::new([ONE, TWO]), ..entrant(1, 1, 20) };
    go(&mut ledger, both(), at(0));
    assert_eq!(ledger.enter(both(), at(1)), Entered::Now);
    assert_eq!((ledger.may_go(1, ONE, at(1)), ledger.may_go(1, TWO, at(1))), (true, true));
    ledger.went(1, TWO);
    ledger.left(1, 0, at(2));
    ledger.left(1, 0, at(3));
    assert_eq!(ledger.enter(both(), at(4)), Entered::Now);
    assert_eq!((ledger.may_go(1, ONE, at(4)), ledger.may_go(1, TWO, at(4))), (true, false));
}

#[test]
fn a_backend_that_goes_takes_its_sessions_with_it() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    ledger.gone(ONE);
    assert_eq!(ledger.active(), 0);
    ledger.first_token(1);
    ledger.left(1, 100, at(1));
    ledger.resize(ONE, 100_000);
    go(&mut ledger, entrant(2, 2, 90), at(1));
}

#[test]
fn who_waits_for_a_backend_that_goes_waits_for_the_others_or_is_let_go() {
    let mut ledger = ledger();
    ledger.resize(TWO, 100_000);
    let both = |session| Entrant { among: Arc::new([ONE, TWO]), ..entrant(session, session, 90) };
    for session in [1, 2] {
        assert_eq!(ledger.enter(both(session), at(0)), Entered::Now);
        ledger.first_token(session);
    }
    let ticket = wait(&mut ledger, both(3), at(0));
    ledger.gone(TWO);
    assert_eq!(ledger.admitted(at(1)), []);
    ledger.gone(ONE);
    assert_eq!(ledger.admitted(at(1)), [ticket]);
}

#[test]
fn nobody_waits_for_ever() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    let ticket = wait(&mut ledger, entrant(2, 2, 60), at(10));
    let late = at(10) + Limits::default().wait_max();
    // The moment at which the first one's context should have been read has passed without any need of it.
    assert_eq!((ledger.admitted(at(12)), ledger.next_change()), (vec![], Some(late)));
    assert_eq!(ledger.admitted(late), [ticket]);
}

#[test]
fn a_large_session_is_passed_by_small_ones_but_not_for_long() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    let large = wait(&mut ledger, entrant(2, 2, 60), at(0));
    let small = wait(&mut ledger, entrant(3, 3, 10), at(1));
    assert_eq!(ledger.admitted(at(1)), [small]);
    ledger.first_token(3);
    let late = wait(&mut ledger, entrant(4, 4, 10), at(21));
    assert_eq!(ledger.admitted(at(21)), []);
    assert!(ledger.give_up(large));
    assert_eq!(ledger.admitted(at(21)), [late]);
    assert!(!ledger.give_up(late), "it counts as under way");
}

#[test]
fn when_too_many_wait_the_last_of_the_caller_with_most_is_turned_away() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    let crowd: Vec<_> = (2..6).map(|session| wait(&mut ledger, entrant(session, 1, 60), at(1))).collect();
    let others: Vec<_> = (6..8).map(|session| wait(&mut ledger, entrant(session, session, 60), at(1))).collect();
    let two = [8, 9].map(|session| wait(&mut ledger, entrant(session, 2, 60), at(1)));
    // First what one has more than the others, then by turns, and a caller of one is the last to lose it.
    let order = [crowd[3], crowd[2], two[1], crowd[1], two[0], others[1], others[0], crowd[0]];
    assert_eq!(order.map(|_| ledger.turn_away()), order.map(Some));
    assert_eq!((ledger.turn_away(), ledger.waiting()), (None, 0));
}

#[test]
fn what_frees_no_room_has_nobody_looked_for_and_what_does_has() {
    let mut ledger = ledger();
    go(&mut ledger, entrant(1, 1, 60), at(0));
    let waits = wait(&mut ledger, entrant(2, 2, 60), at(13));
    assert_eq!((ledger.admitted(at(13)), ledger.is_stirred()), (vec![], false));
    go(&mut ledger, entrant(3, 3, 1), at(14));
    ledger.resize(ONE, 100_000);
    ledger.went(1, ONE);
    assert!(!ledger.is_stirred());
    ledger.left(3, 0, at(14));
    assert!(ledger.is_stirred(), "it has left room");
    assert_eq!((ledger.admitted(at(14)), ledger.is_stirred()), (vec![], false));
    ledger.resize(ONE, 200_000);
    assert_eq!(ledger.admitted(at(14)), [waits]);
}

// === Gate ===

fn gate() -> Arc<Gate> {
    let gate = Gate::new(Instant::now(), Limits::default());
    gate.resize(ONE, 100_000);
    gate
}

fn request(session: u64, tokens: usize) -> Request {
    let text = format!(r#"[{{"role":"user","content":"{session}{}"}}]"#, "x".repeat(4 * tokens));
    Request { session: Some(session), prefix: Prefix::of("model", b"", text.as_bytes()), prefer: None }
}

fn large(session: u64) -> Request {
    request(session, 60_000)
}

async fn enter(gate: &Arc<Gate>, session: u64) -> Result<Pass, Full> {
    gate.enter(1, &large(session), Arc::new([ONE])).await
}

#[tokio::test]
async fn a_call_waits_at_the_gate_until_there_is_room() {
    let gate = gate();
    let first = enter(&gate, 1).await.expect("a pass");
    first.went(ONE);
    assert!(first.allows(ONE));
    let second = enter(&gate, 2);
    tokio::pin!(second);
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(gate.crowd(), (1, 1));
    gate.gone(ONE);
    let pass = second.await.expect("a pass");
    assert_eq!(gate.crowd(), (0, 0), "nobody is active where nothing is");
    drop((first, pass));
}

#[tokio::test]
async fn the_gate_opens_by_itself_when_time_has_passed() {
    let gate = Gate::new(Instant::now(), Limits::default());
    gate.resize(ONE, 200_000);
    let keeper = tokio::spawn(gate.clone().keep());
    // Each is read at 5,000 tokens a second or faster, and then the next one may come.
    let first = gate.enter(1, &request(1, 4_500), Arc::new([ONE])).await;
    let begun = Instant::now();
    let second = gate.enter(1, &request(2, 4_500), Arc::new([ONE])).await;
    assert!(first.is_ok() && second.is_ok());
    assert!(begun.elapsed() > Duration::from_millis(500), "4,500 tokens take 900 ms: {:?}", begun.elapsed());
    keeper.abort();
}

#[tokio::test]
async fn who_leaves_the_queue_leaves_nothing_behind() {
    let gate = gate();
    let first = enter(&gate, 1).await.expect("a pass");
    {
        let second = enter(&gate, 2);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
    }
    assert_eq!(gate.crowd(), (0, 1));
    let third = enter(&gate, 3);
    {
        tokio::pin!(third);
        assert!(futures_util::poll!(&mut third).is_pending());
        gate.gone(ONE);
        // Admitted, but gone before it knew.
    }
    drop(first);
    assert_eq!(gate.inside().doors.len(), 0);
    assert_eq!(gate.inside().ledger.waiting(), 0);
}

#[tokio::test]
async fn a_queue_that_is_full_says_so() {
    let gate = Gate::new(Instant::now(), Limits { waiting_max: 3, ..Limits::default() });
    gate.resize(ONE, 100_000);
    let first = enter(&gate, 0).await.expect("a pass");
    let mut queue: Vec<_> = (1..=3).map(|session| Box::pin(enter(&gate, session))).collect();
    for waits in &mut queue {
        assert!(futures_util::poll!(waits).is_pending());
    }
    assert_eq!(enter(&gate, 4).await.err(), Some(Full));
    assert!(enter(&gate, 0).await.is_ok(), "who need not wait is not refused");
    queue.pop();
    assert_eq!(gate.crowd().0, 2);
    drop((queue, first));
    assert_eq!(gate.crowd().0, 0);
}

#[tokio::test]
async fn a_caller_who_fills_the_queue_makes_room_for_another() {
    let gate = Gate::new(Instant::now(), Limits { waiting_max: 3, ..Limits::default() });
    gate.resize(ONE, 100_000);
    let first = enter(&gate, 0).await.expect("a pass");
    let mut crowd: Vec<_> = (1..=3).map(|session| Box::pin(enter(&gate, session))).collect();
    for waits in &mut crowd {
        assert!(futures_util::poll!(waits).is_pending());
    }
    let session = large(9);
    let mut other = Box::pin(gate.enter(2, &session, Arc::new([ONE])));
    assert!(futures_util::poll!(&mut other).is_pending());
    let mut turned_away = crowd.pop().expect("the last");
    assert!(matches!(futures_util::poll!(&mut turned_away), Poll::Ready(Err(Full))));
    // One that leaves before it hears of that leaves nothing wrong behind.
    let session = large(10);
    let mut third = Box::pin(gate.enter(3, &session, Arc::new([ONE])));
    assert!(futures_util::poll!(&mut third).is_pending());
    drop(crowd.pop());
    assert_eq!((gate.crowd(), gate.inside().doors.len()), ((3, 1), 3));
    drop((crowd, other, third, first));
    assert_eq!((gate.crowd().0, gate.inside().doors.len()), (0, 0));
}

#[tokio::test]
async fn whoever_counts_the_sessions_counts_none_that_is_over() {
    let mut gate = gate();
    drop(enter(&gate, 1).await);
    assert_eq!(gate.crowd(), (0, 1));
    // As if it had been so long ago.
    Arc::get_mut(&mut gate).expect("nobody else has it").began -= Duration::from_secs(12);
    assert_eq!(gate.crowd(), (0, 0));
}
