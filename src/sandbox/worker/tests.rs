//! The gateway's side against workers that a program has taken over.

use super::*;
use crate::policy::Limits;
use crate::sandbox::outcome::ERROR_BYTES_MAX;
use crate::sandbox::wasi::{Conditions, READINGS_MAX};

const LIMITS: Limits = Limits {
    wall_ms: 60_000,
    cpu_ms: 60_000,
    memory_bytes: 64 << 20,
    output_bytes: 1000,
    result_bytes: 100,
    files: 0,
    file_bytes: 0,
    recursion: 1000,
    at_once: 1,
};

fn honest() -> Outcome {
    Outcome { ended: Ended::Completed, error: None, ..Outcome::not_started(Ended::Completed, "") }
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// What is made of a run of which the worker says this. Whether the worker is kept comes with it.
async fn told(outcome: Outcome) -> (bool, Outcome) {
    let (ours, its) = StdStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("a socket");
    let says = std::thread::spawn(move || {
        let line = Line::to(its);
        line.hear_order(wire::ORDER_BYTES_MAX).expect("an order").expect("one");
        // Who is not believed may hear nothing more.
        let _ = line.say(&Report::Over { kept: true, outcome: Box::new(outcome) });
    });
    let worker = Worker { socket: ours, life: Life::Thread, task: 0, slowed: true };
    let job = Job { source: String::new(), arguments: None, limits: LIMITS, conditions: Conditions::default() };
    let (worker, outcome) = worker.run(&job, &mut |_, _| {}).await;
    says.join().expect("said");
    (worker.is_some(), outcome)
}

#[tokio::test]
async fn who_says_what_no_run_comes_to_is_ended_and_its_call_an_error() {
    for lie in [
        Outcome { ended: Ended::Busy, ..honest() },
        Outcome { ended: Ended::Unavailable, ..honest() },
        Outcome { stdout: text(1100), ..honest() },
        Outcome { stderr: text(1100), ..honest() },
        Outcome { value: Some(text(200)), ..honest() },
        Outcome { ended: Ended::Raised, error: Some(text(ERROR_BYTES_MAX + 400)), ..honest() },
        Outcome { readings: vec![7; READINGS_MAX + 1], ..honest() },
        // Longer than any frame.
        Outcome { stdout: text(100_000), ..honest() },
    ] {
        let (kept, outcome) = told(lie.clone()).await;
        assert_eq!((kept, outcome.ended), (false, Ended::Crashed), "{lie:?}");
        assert_eq!(outcome.error.as_deref(), Some("the interpreter's process broke down"));
        assert!(outcome.stdout.is_empty() && outcome.readings.is_empty());
    }
}

#[tokio::test]
async fn what_a_run_can_come_to_is_believed_but_for_a_time_that_has_not_passed() {
    let most = Outcome {
        ended: Ended::Raised,
        // What is no text is longer once it is some.
        stdout: "\u{fffd}".repeat(1000),
        stderr: format!("{}…[{} bytes omitted]…{}", text(500), u64::MAX, text(500)),
        value: Some(text(100)),
        error: Some(text(ERROR_BYTES_MAX)),
        readings: vec![u64::MAX; READINGS_MAX],
        ..honest()
    };
    assert_eq!(told(most.clone()).await, (true, most));
    let (kept, outcome) = told(Outcome { duration: Duration::from_hours(1), ..honest() }).await;
    assert!(kept && outcome.duration < Duration::from_mins(1), "{outcome:?}");
}
