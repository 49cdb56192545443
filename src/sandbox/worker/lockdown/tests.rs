//! The wall, tried from inside: this test's own program, started again, puts it up around itself and then does one thing.

#![expect(unsafe_code, reason = "what is tried are the kernel's own calls")]

use std::env;
use std::ffi::CStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::ptr::{null, null_mut};

/// What is to be tried, and whether behind the wall: `wall socket`.
const TRY: &str = "LOOPGATE_TEST_WALL";

/// How the child ends whose call the kernel has done, or refused. Chosen: no code that a panic or a signal makes.
const DONE: i32 = 40;
const REFUSED: i32 = 41;

/// A call of the kernel's, and what it says: below zero, it has refused.
type Trial = (&'static str, fn() -> i64, Behind);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Behind {
    Done,
    Refused,
    /// It ends the process.
    Ended,
}

const PASSWD: &CStr = c"/etc/passwd";
const TRUE: &CStr = c"/bin/true";

// SAFETY (of all): the calls are given what they ask for, texts that live for ever and null where that is allowed; what
// they do to this process does not matter, since it exits at once.
const TRIALS: &[Trial] = &[
    ("getpid", || unsafe { libc::syscall(libc::SYS_getpid) }, Behind::Done),
    ("openat", || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, PASSWD.as_ptr(), 0) }, Behind::Refused),
    ("socket", || unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0) }, Behind::Ended),
    (
        "execve",
        || unsafe { libc::syscall(libc::SYS_execve, TRUE.as_ptr(), null::<*const u8>(), null::<*const u8>()) },
        Behind::Ended,
    ),
    ("fork", || unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }, Behind::Ended),
    // Signal 0 only asks whether one could be sent: to the test that has started this, and to itself.
    (
        "tgkill another",
        || unsafe { libc::syscall(libc::SYS_tgkill, libc::getppid(), libc::getppid(), 0) },
        Behind::Ended,
    ),
    ("tgkill itself", || unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), 0) }, Behind::Done),
    ("kill", || unsafe { libc::syscall(libc::SYS_kill, libc::getpid(), 0) }, Behind::Ended),
    // Refused also without the wall, since that one is not traced: to trace for real would need somebody to end it.
    ("ptrace", || unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_CONT, libc::getppid(), 0, 0) }, Behind::Ended),
    ("map memory", || map(libc::PROT_READ), Behind::Done),
    ("map code", || map(libc::PROT_READ | libc::PROT_EXEC), Behind::Ended),
];

fn map(protection: i32) -> i64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, which nobody uses.
    unsafe { libc::syscall(libc::SYS_mmap, null_mut::<u8>(), 4096, protection, flags, -1, 0) }
}

#[test]
fn behind_the_wall_is_nothing_but_what_a_worker_needs() {
    if let Ok(what) = env::var(TRY) {
        try_it(&what);
    }
    for (name, _, behind) in TRIALS {
        let without = if *name == "ptrace" { Behind::Refused } else { Behind::Done };
        assert_eq!(end(child(name)), without, "{name}, without the wall");
        assert_eq!(end(child(&format!("wall {name}"))), *behind, "{name}, behind the wall");
    }
}

fn child(what: &str) -> ExitStatus {
    let this = "sandbox::worker::lockdown::tests::behind_the_wall_is_nothing_but_what_a_worker_needs";
    Command::new(env::current_exe().expect("a program"))
        .args(["--exact", this, "--nocapture"])
        .env(TRY, what)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("a child")
}

fn end(status: ExitStatus) -> Behind {
    match (status.code(), status.signal()) {
        // `/bin/true` ends with 0.
        (Some(DONE | 0), _) => Behind::Done,
        (Some(REFUSED), _) => Behind::Refused,
        (_, Some(libc::SIGSYS)) => Behind::Ended,
        _ => panic!("{status}"),
    }
}

fn try_it(what: &str) -> ! {
    let (walled, name) = what.strip_prefix("wall ").map_or((false, what), |name| (true, name));
    let (_, call, _) = TRIALS.iter().find(|(it, ..)| *it == name).expect("a known one");
    if walled {
        super::apply().expect("a wall");
    }
    let code = if call() < 0 { REFUSED } else { DONE };
    // SAFETY: it ends the process. Nothing of it is needed any more.
    unsafe { libc::_exit(code) }
}
