//! The one thread that writes. What waits while it writes goes into its next transaction: 500 turns that end together
//! cost a few waits for the disk, not 500.

use super::Inner;
use super::shelf::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Bytes of the entries that wait to be written; more wait for a place. Chosen: two of the largest, and
/// thousands of turns as they usually are.
const QUEUE_BYTES_MAX: u32 = 128 << 20;
/// Entries of one transaction. Chosen: below the number that one transaction can shed, so that room is made as fast as
/// it is used.
const BATCH_ENTRIES_MAX: usize = 512;
/// Bytes after which no further entry joins a transaction, since all of it is in memory until it is written. Chosen.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// The thread has ended: it panicked.
#[derive(Debug, thiserror::Error)]
#[error("its writer has ended")]
pub struct Gone;

pub struct Writer {
    // `None` only while it is dropped. Without a bound of its own: `room` is one, and can be waited for.
    queue: Option<mpsc::Sender<Job>>,
    /// Bytes for which the queue has room.
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    entry: Entry,
    written: oneshot::Sender<bool>,
    /// Its place in the queue, held until it is written.
    _place: OwnedSemaphorePermit,
}

impl Writer {
    /// Starts the thread. After `idle` without an entry it looks whether something has expired.
    pub fn start(inner: Arc<Inner>, idle: Duration) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let thread = thread::Builder::new().name("memory".to_owned()).spawn(move || run(&inner, &jobs, idle))?;
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize));
        Ok(Self { queue: Some(queue), room, thread: Some(thread) })
    }

    pub async fn write(&self, entry: Entry) -> Result<bool, Gone> {
        let (written, answer) = oneshot::channel();
        let bytes = u32::try_from(entry.bytes()).unwrap_or(u32::MAX).min(QUEUE_BYTES_MAX);
        let place = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Gone)?;
        let queue = self.queue.as_ref().ok_or(Gone)?;
        queue.send(Job { entry, written, _place: place }).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends when the queue is closed and empty. A panic of its was told when it happened.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(inner: &Inner, jobs: &mpsc::Receiver<Job>, idle: Duration) {
    // Whether more must go than the last transaction shed. Who waits to write need not wait for all of it.
    let mut more = false;
    loop {
        match jobs.recv_timeout(if more { Duration::ZERO } else { idle }) {
            Ok(first) => {
                let batch = batch(first, jobs);
                let entries: Vec<_> = batch.iter().map(|job| &job.entry).collect();
                let written = write(inner, &entries);
                more = written == Some(true);
                for job in batch {
                    // Whoever waited may have left.
                    let _ = job.written.send(written.is_some());
                }
            }
            Err(RecvTimeoutError::Timeout) => more = write(inner, &[]) == Some(true),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
}

/// Everything that waits, up to the bounds of a transaction.
fn batch(first: Job, jobs: &mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.entry.value.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.entry.value.len();
        batch.push(job);
    }
    batch
}

/// `None`: it failed. Else whether more must go before everything is within its bounds.
fn write(inner: &Inner, entries: &[&Entry]) -> Option<bool> {
    let now_ms = inner.now_ms();
    match inner.shelf.write(entries, now_ms) {
        Ok(totals) => {
            inner.count(totals);
            inner.commits.fetch_add(1, Ordering::Relaxed);
            inner.failing.store(false, Ordering::Relaxed);
            Some(inner.shelf.must_shed(totals, now_ms))
        }
        Err(error) => {
            inner.failed("cannot be written", &error);
            None
        }
    }
}
