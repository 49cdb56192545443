//! Watches over runs: at every tick it is seen whether each may go on. One that may not loses a page of memory, which it
//! reads wherever it could go on for long (`flatten/stops.rs`), and ends with a trap.
//!
//! wasmtime has epochs for this. Code that looks at them compares and branches in every function and loop, and keeps what is
//! in registers for the call behind the branch: it took 20 % more time for the programs of `bench sandbox` than no stop at
//! all, and a read no more than can be told from noise (least times of several runs).

use super::memory::Brake;
use super::worker::Line;
use crate::policy::Limits;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How often it is looked: the bound on how late a limit or a dropped run takes hold. Chosen.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Ticks after the last run before the watch falls asleep, so that runs that follow each other do not wake it. Chosen.
const IDLE_TICKS_MAX: u32 = 100;

/// Why a run is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    #[error("the time is over")]
    Wall,
    #[error("the CPU time is over")]
    Cpu,
    #[error("nobody waits for it")]
    Gone,
}

/// How long a run may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub wall: Instant,
    /// By the clock.
    cpu: Duration,
    clock: ThreadClock,
}

impl Bounds {
    /// Of a run that begins now, on this thread.
    pub fn of(limits: &Limits) -> Self {
        let clock = ThreadClock::own();
        let wall = Instant::now() + Duration::from_millis(limits.wall_ms);
        Self { wall, cpu: clock.now() + Duration::from_millis(limits.cpu_ms), clock }
    }

    /// Whether it may go on, from any thread.
    pub fn look(&self) -> Result<(), Stop> {
        if Instant::now() >= self.wall {
            Err(Stop::Wall)
        } else if self.clock.now() >= self.cpu {
            Err(Stop::Cpu)
        } else {
            Ok(())
        }
    }
}

/// The thread that watches. It ends when this is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    runs: Mutex<Runs>,
    asleep: AtomicBool,
    over: AtomicBool,
}

#[derive(Default)]
struct Runs {
    under_way: Vec<Run>,
    next: u64,
}

struct Run {
    number: u64,
    bounds: Bounds,
    line: Arc<Line>,
    brake: Brake,
    stopped: Option<Stop>,
}

/// A run that is watched.
pub(super) struct Watched<'w> {
    watch: &'w Watch,
    number: u64,
}

impl Watch {
    pub fn start() -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let (up, is_up) = std::sync::mpsc::sync_channel(0);
        let thread = thread::Builder::new().name("sandbox-watch".into()).spawn(move || {
            let _ = up.send(());
            its.watch();
        })?;
        // A worker's wall would hit a thread that is only half there.
        let _ = is_up.recv();
        Ok(Arc::new(Self { shared, thread: thread.thread().clone() }))
    }

    /// Watches over a run from now on, until what this returns is dropped.
    pub fn over(&self, bounds: Bounds, line: Arc<Line>, brake: Brake) -> Watched<'_> {
        let mut runs = self.shared.runs();
        let number = runs.next;
        runs.next += 1;
        runs.under_way.push(Run { number, bounds, line, brake, stopped: None });
        drop(runs);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Watched { watch: self, number }
    }
}

impl Watched<'_> {
    /// The run has ended; why it was stopped, if it was.
    pub fn end(self) -> Option<Stop> {
        self.take()
    }

    fn take(&self) -> Option<Stop> {
        let mut runs = self.watch.shared.runs();
        let at = runs.under_way.iter().position(|run| run.number == self.number)?;
        let run = runs.under_way.swap_remove(at);
        // It may have ended by itself, a moment before.
        run.stopped.inspect(|_| run.brake.release())
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.take();
    }
}

impl Shared {
    fn runs(&self) -> MutexGuard<'_, Runs> {
        // The list is whole after every statement.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut idle_ticks = 0;
        while !self.over.load(Ordering::SeqCst) {
            idle_ticks = if self.tick() { 0 } else { idle_ticks + 1 };
            if idle_ticks > IDLE_TICKS_MAX {
                self.sleep();
                idle_ticks = 0;
            } else {
                thread::sleep(TICK);
            }
        }
    }

    /// Looks at every run. Whether there are any.
    fn tick(&self) -> bool {
        let mut runs = self.runs();
        for run in runs.under_way.iter_mut().filter(|run| run.stopped.is_none()) {
            let looked = run.bounds.look().and_then(|()| if run.line.tick() { Ok(()) } else { Err(Stop::Gone) });
            if let Err(stop) = looked {
                run.stopped = Some(stop);
                run.brake.pull();
            }
        }
        !runs.under_way.is_empty()
    }

    /// Until there is a run. Who begins one first lists it and then looks whether this sleeps; this does it the other way
    /// round, so that one of the two sees the other.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        while self.runs().under_way.is_empty() && !self.over.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The clock of a thread's CPU time, for other threads to read as well.
#[derive(Debug, Clone, Copy)]
struct ThreadClock(libc::clockid_t);

#[expect(unsafe_code, reason = "no crate in use has these calls")]
impl ThreadClock {
    fn own() -> Self {
        let mut clock = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the call writes one `clockid_t`, and this thread is there. Where it fails, no clock is written.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        Self(clock)
    }

    /// Nothing when the thread is gone.
    fn now(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes one `timespec`.
        unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
    }
}
