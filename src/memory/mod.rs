//! What must outlive a request: values under keys, in a file that survives a SIGKILL, or in RAM.
//!
//! It forgets by itself: what is too old, and when it is full the oldest of the caller that has most. Nothing in it is needed to answer at all, so
//! trouble, a disk that does not answer included, is told once in the log, counted, and otherwise looks like having
//! forgotten.

mod key;
mod open;
mod shelf;
mod writer;

pub use key::Key;
pub use open::OpenError;

use crate::chat::Clock;
use bytes::Bytes;
use std::fmt::{self, Display};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use shelf::{Entry, Shelf, Totals};
use writer::Writer;

/// Bytes of one value, as the gateway sets it. Chosen: the largest request, since more could not be put back into one. A
/// turn has at most 8 MiB of what the model wrote and, by the default policy, 30 MiB of what 160 calls printed.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;

/// How long a turn waits for the disk, once before its first model call and once after its last. Chosen: many times what
/// a busy disk takes for a write, and short beside a turn.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// How long nobody has written when the writer looks for what has expired. Chosen: what is kept, is kept for hours.
const IDLE: Duration = Duration::from_hours(1);

/// Reads that are under way at once; more wait. Chosen: as many as disks serve side by side, and far fewer than the
/// runtime has threads for blocking (512), which a stalled disk must not take from everybody else.
const READERS_MAX: usize = 32;

/// How [`Store::Ram`] is written, as `SQLite` writes it.
pub const RAM: &str = ":memory:";

/// Where things are remembered, how much, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub path: Store,
    /// Values that are kept. Of the caller that has most, the oldest goes first.
    pub entries_max: u64,
    /// Bytes of values and keys that are kept. Of the caller that has most, the oldest goes first. A full file is about twice as large: values lie in
    /// pages of 4 KiB times a power of two.
    pub bytes_max: u64,
    /// How long a value is kept.
    pub keep: Duration,
    /// Bytes of one value. A larger one is not kept, which is counted.
    pub entry_bytes_max: usize,
}

/// Where things are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// In this file.
    Disk(PathBuf),
    /// In RAM: until the process ends.
    Ram,
}

/// What is remembered. Used behind an [`Arc`]; dropping it waits until everything is written.
pub struct Memory {
    inner: Arc<Inner>,
    writer: Writer,
    readers: Arc<Semaphore>,
    disk_wait: Duration,
}

/// What a memory has, and what it did since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// As [`Memory::entries`].
    pub entries: u64,
    /// As [`Memory::bytes`].
    pub bytes: u64,
    /// As [`Memory::commits`].
    pub commits: u64,
    /// As [`Memory::failures`].
    pub failures: u64,
    /// As [`Memory::too_large`].
    pub too_large: u64,
}

/// How long is waited for what.
#[derive(Clone, Copy)]
struct Patience {
    disk_wait: Duration,
    idle: Duration,
}

/// What the writer's thread and the readers share.
struct Inner {
    shelf: Shelf,
    clock: Clock,
    entry_bytes_max: usize,
    entries: AtomicU64,
    bytes: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    too_large: AtomicU64,
    /// The last attempt failed, and that has been told.
    failing: AtomicBool,
}

impl Display for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(path) => path.display().fmt(out),
            Self::Ram => out.write_str(RAM),
        }
    }
}

impl Memory {
    /// Opens what was remembered, or begins anew where nothing was.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be used. The message says the way out.
    pub fn open(settings: &Settings, clock: Clock) -> Result<Self, OpenError> {
        Self::open_with(settings, clock, Patience { disk_wait: DISK_WAIT, idle: IDLE })
    }

    fn open_with(settings: &Settings, clock: Clock, patience: Patience) -> Result<Self, OpenError> {
        let shelf = open::open(settings, clock)?;
        let inner = Arc::new(Inner {
            clock,
            entry_bytes_max: settings.entry_bytes_max,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            shelf,
        });
        inner.count(inner.shelf.totals().map_err(|error| OpenError::of(settings, error))?);
        let writer = Writer::start(inner.clone(), patience.idle);
        let writer = writer.map_err(|error| OpenError::of(settings, error.into()))?;
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        Ok(Self { inner, writer, readers, disk_wait: patience.disk_wait })
    }

    /// The newest value under each of these keys, in their order, all as of one moment. Never waits for writers, and for
    /// the disk only so long.
    ///
    /// Values are read whole, one of several keys only once, until together they have more than `bytes_max`: whoever
    /// names all of its keys must not fill the memory.
    pub async fn recall(&self, keys: &[Key], bytes_max: usize) -> Vec<Option<Bytes>> {
        let read = timeout(self.disk_wait, self.read(keys.to_vec(), bytes_max)).await;
        let values = read.unwrap_or_else(|late| {
            self.inner.failed("cannot be read", &late);
            None
        });
        values.unwrap_or_else(|| vec![None; keys.len()])
    }

    /// `None`: that failed, and was counted.
    async fn read(&self, keys: Vec<Key>, bytes_max: usize) -> Option<Vec<Option<Bytes>>> {
        // Nobody closes it.
        let place = self.readers.clone().acquire_owned().await.ok()?;
        let inner = self.inner.clone();
        // A disk may stall; the runtime's own threads must not stall with it.
        let read = tokio::task::spawn_blocking(move || {
            // Held until the disk has answered, also when nobody waits for it any more.
            let _place = place;
            inner.shelf.read(&keys, bytes_max, inner.now_ms())
        });
        match read.await {
            Ok(Ok(values)) => return Some(values),
            Ok(Err(error)) => self.inner.failed("cannot be read", &error),
            Err(panicked) => self.inner.failed("cannot be read", &panicked),
        }
        None
    }

    /// Keeps `value` under each of these keys, instead of what was there before. When it returns `true`, a SIGKILL no
    /// longer loses it. `false`: it could not be kept in time, or is larger than a value may be.
    ///
    /// Late, or dropped while it waits, it may yet be kept.
    pub async fn remember(&self, keys: &[Key], value: Bytes) -> bool {
        let entry = Entry::new(keys, value);
        if keys.is_empty() {
            return false;
        }
        if entry.value.len() > self.inner.entry_bytes_max || !self.inner.shelf.has_room_for(&entry) {
            self.inner.refused(&entry);
            return false;
        }
        match timeout(self.disk_wait, self.writer.write(entry)).await {
            Ok(Ok(written)) => return written,
            Ok(Err(gone)) => self.inner.failed("cannot be written", &gone),
            Err(late) => self.inner.failed("cannot be written", &late),
        }
        false
    }

    /// All that it counts.
    pub fn counts(&self) -> Counts {
        Counts {
            entries: self.entries(),
            bytes: self.bytes(),
            commits: self.commits(),
            failures: self.failures(),
            too_large: self.too_large(),
        }
    }

    /// Values kept now, the expired among them that are not yet removed.
    pub fn entries(&self) -> u64 {
        self.inner.entries.load(Ordering::Relaxed)
    }

    /// Bytes of the values kept now and of their keys.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes.load(Ordering::Relaxed)
    }

    /// Durable writes to the file since it was opened. Those that wait at the same time share one.
    pub fn commits(&self) -> u64 {
        self.inner.commits.load(Ordering::Relaxed)
    }

    /// Reads and writes that failed, or took too long, since it was opened.
    pub fn failures(&self) -> u64 {
        self.inner.failures.load(Ordering::Relaxed)
    }

    /// Values that were larger than one may be since it was opened.
    pub fn too_large(&self) -> u64 {
        self.inner.too_large.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn now_ms(&self) -> i64 {
        (self.clock)().as_millisecond()
    }

    fn count(&self, totals: Totals) {
        self.entries.store(totals.entries, Ordering::Relaxed);
        self.bytes.store(totals.bytes, Ordering::Relaxed);
    }

    fn refused(&self, entry: &Entry) {
        // The first is told, all are counted.
        if self.too_large.fetch_add(1, Ordering::Relaxed) == 0 {
            let bytes = entry.bytes();
            tracing::warn!(
                bytes,
                "a turn is too large for the memory; its conversation goes on without what is hidden of it"
            );
        }
    }

    fn failed(&self, what: &str, error: &dyn Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the memory {what}; conversations go on without what was in it");
        }
    }
}

#[cfg(test)]
mod tests;
