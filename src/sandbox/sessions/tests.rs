//! Sessions without an interpreter.

use super::*;
use crate::access::{ANONYMOUS, Access};

const RULES: policy::Sessions = policy::Sessions { enabled: true, keep: Duration::from_mins(1), count: 2, bytes: 100 };

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
