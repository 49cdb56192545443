//! The threads that connections are served by, each with a runtime of its own.
//!
//! A connection stays with one thread. Where threads share their work, nearly every step of every connection wakes another
//! one that looks for some, which was a quarter of what a passed-on request costs (docs/backends.md). What takes long is
//! on other threads anyhow: large bodies, files, programs.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Shorter than what requests wait for. Chosen: a thread that wakes so often costs nothing.
const TICK: Duration = Duration::from_millis(500);

/// The threads. They end when this is dropped, and with them what is left of their connections.
pub struct Doors {
    doors: Vec<Door>,
    _open: DropGuard,
}

/// One thread.
#[derive(Clone)]
pub(super) struct Door {
    pub runtime: Handle,
    /// Held once by each connection that it serves.
    crowd: Arc<()>,
}

impl Doors {
    /// Starts a thread for each processor.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn open() -> io::Result<Self> {
        let closed = CancellationToken::new();
        // From here on, so that threads that have started end if a later one cannot.
        let open = closed.clone().drop_guard();
        let doors = (0..thread::available_parallelism()?.get()).map(|number| {
            let (runtime, closed) = (Builder::new_current_thread().enable_all().build()?, closed.clone());
            let door = Door { runtime: runtime.handle().clone(), crowd: Arc::default() };
            let thread = thread::Builder::new().name(format!("door-{number}"));
            thread.spawn(move || runtime.block_on(open_until(closed)))?;
            Ok(door)
        });
        Ok(Self { doors: doors.collect::<io::Result<_>>()?, _open: open })
    }

    /// The one that serves the fewest connections.
    pub(super) fn emptiest(&self) -> Option<Door> {
        self.doors.iter().min_by_key(|door| Arc::strong_count(&door.crowd)).cloned()
    }
}

/// A time-out that ends before all others is told to the thread by a system call, and where there is none, each of them
/// is. Time-outs are set for every answer and every chunk; so there is one that ends before nearly all of them.
async fn open_until(closed: CancellationToken) {
    while timeout(TICK, closed.cancelled()).await.is_err() {}
}
