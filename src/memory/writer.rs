//! The one thread that writes. What waits while it writes goes into its next transaction: 500 turns that end together
//! cost a few waits for the disk, not 500.

use super::Inner;
use super::shelf::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use tokio::sync::{mpsc, oneshot};

/// Entries that wait to be written; more wait for a place. Chosen: one caller's default concurrency.
const QUEUE_MAX: usize = 1024;
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
    // `None` only while it is dropped.
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    entry: Entry,
    written: oneshot::Sender<bool>,
}

impl Writer {
    pub fn start(inner: Arc<Inner>) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("memory".to_owned()).spawn(move || run(&inner, jobs))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub async fn write(&self, entry: Entry) -> Result<bool, Gone> {
        let (written, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(Gone)?;
        queue.send(Job { entry, written }).await.map_err(|_| Gone)?;
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

fn run(inner: &Inner, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let (entries, waiting) = batch(first, &mut jobs);
        let written = write(inner, &entries);
        for waits in waiting {
            // Whoever waited may have left.
            let _ = waits.send(written.is_some());
        }
        let mut full = written;
        while full == Some(true) {
            full = write(inner, &[]);
        }
    }
}

/// Everything that waits, up to the bounds of a transaction.
fn batch(first: Job, jobs: &mut mpsc::Receiver<Job>) -> (Vec<Entry>, Vec<oneshot::Sender<bool>>) {
    let mut bytes = first.entry.value.len();
    let (mut entries, mut waiting) = (vec![first.entry], vec![first.written]);
    while entries.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.entry.value.len();
        entries.push(job.entry);
        waiting.push(job.written);
    }
    (entries, waiting)
}

/// `None`: it failed. Else whether more must go before everything is within its bounds.
fn write(inner: &Inner, entries: &[Entry]) -> Option<bool> {
    match inner.shelf.write(entries, inner.now_ms()) {
        Ok(totals) => {
            inner.count(totals);
            inner.commits.fetch_add(1, Ordering::Relaxed);
            inner.failing.store(false, Ordering::Relaxed);
            Some(inner.shelf.is_over(totals))
        }
        Err(error) => {
            inner.failed("cannot be written", &error);
            None
        }
    }
}
