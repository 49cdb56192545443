//! The gateway's side against workers that a program has taken over.

use super::*;
use crate::policy::Limits;
use crate::sandbox::outcome::ERROR_BYTES_MAX;
use crate::sandbox::tests as sandboxes;
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
    let (worker, outcome) = said(vec![Report::Over { kept: true, outcome: Box::new(outcome) }]).await;
    (worker.is_some(), outcome)
}

/// The same of a worker that says all this.
async fn said(reports: Vec<Report>) -> (Option<Worker>, Outcome) {
    let (ours, its) = StdStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("a socket");
    let says = std::thread::spawn(move || {
        let line = Line::to(its);
        line.hear_order(wire::ORDER_BYTES_MAX).expect("an order").expect("one");
        // Who is not believed may hear nothing more.
        let _ = reports.iter().try_for_each(|report| line.say(report));
    });
    let worker = Worker { socket: ours, life: Life::Thread, task: 0, slowed: true, memory_bytes: 0 };
    let job = Job { source: String::new(), arguments: None, limits: LIMITS, conditions: Conditions::default() };
    let (worker, outcome) = worker.run(&job, &mut |_, _| {}).await;
    says.join().expect("said");
    (worker, outcome)
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

#[tokio::test]
async fn what_was_heard_of_a_worker_that_breaks_down_is_kept() {
    let output = |stream, text: &str| Report::Output(stream, text.into());
    let (worker, outcome) =
        said(vec![output(Stream::Stdout, "out"), output(Stream::Stderr, "err"), Report::Parked(Vec::new())]).await;
    assert_eq!((worker.is_none(), outcome.ended), (true, Ended::Crashed));
    assert_eq!((&*outcome.stdout, &*outcome.stderr), ("out", "err"));
}

#[tokio::test]
async fn who_completes_has_no_error() {
    let (kept, outcome) = told(Outcome { error: Some("fake".into()), ..honest() }).await;
    assert_eq!((kept, outcome.error), (true, None));
}

#[tokio::test]
async fn a_large_interpreter_may_take_longer_to_park() {
    let (worker, _) = said(vec![Report::Over { kept: true, outcome: Box::new(honest()) }]).await;
    let mut worker = worker.expect("one that can go on");
    worker.slowed = false;
    let small = worker.patience();
    assert!(small >= START + START_PER_MIB * 64, "{small:?}");
    worker.memory_bytes = 1000 << 20;
    assert!(worker.patience() >= Duration::from_mins(1), "{:?}", worker.patience());
}

#[tokio::test]
async fn a_worker_that_could_not_park_its_session_serves_nobody_else() {
    let sandbox = sandboxes::own_sandbox(|settings| settings.ready = 1);
    let mut own = sandboxes::session(&sandbox, "s");
    sandboxes::run_in(&mut own, "n = 1", sandboxes::LIMITS).await;
    let (ours, mut its) = StdStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("a socket");
    // More than can be, and in there what a worker says that has made a new interpreter.
    let says = [&u32::MAX.to_le_bytes()[..], &Report::Ready { task: 0 }.write()].concat();
    io::Write::write_all(&mut its, &says).expect("said");
    let held = own.held.as_mut().expect("an interpreter");
    held.worker = Worker { socket: ours, life: Life::Thread, task: 0, slowed: false, memory_bytes: 0 };
    drop(own);
    sandboxes::until_free(&sandbox, 64).await;
    // One is always started ahead.
    while sandbox.shared.ready.idle() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sandbox.shared.ready.idle(), 1);
}
