//! Workers that are up before anybody asks for them: to start one takes longer than to run a small program in it.

use super::worker::{Worker, Workers};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::spawn_blocking;

/// Starts workers, and keeps some of them ready.
pub(super) struct Ready {
    workers: Workers,
    idle: Mutex<Vec<Worker>>,
    /// So many are started ahead.
    least: usize,
    /// So many are kept when they come back.
    most: usize,
    /// Held while workers are started, so that no more than `least` are.
    refill: tokio::sync::Mutex<()>,
}

impl Ready {
    /// Starts the first ones, to see that it works. Blocks.
    pub fn start(workers: Workers, least: usize, most: usize) -> io::Result<Arc<Self>> {
        let idle = Mutex::new((0..least.max(1)).map(|_| workers.start()).collect::<io::Result<_>>()?);
        Ok(Arc::new(Self { workers, idle, least, most, refill: tokio::sync::Mutex::default() }))
    }

    /// A ready worker, or else one that is started now.
    pub async fn take(self: &Arc<Self>) -> io::Result<Worker> {
        let ready = self.pop();
        if self.lock().len() < self.least {
            // Its place is refilled by a task of its own, which Tokio runs once the caller's has a pause.
            let this = Arc::clone(self);
            tokio::spawn(async move {
                this.fill().await.inspect_err(|error| tracing::warn!(%error, "cannot start a worker of the sandbox"))
            });
        }
        match ready {
            Some(worker) => Ok(worker),
            None => self.start_one().await,
        }
    }

    /// Takes back what a turn has used.
    pub async fn give_back(&self, worker: Worker) {
        let is_full = || self.lock().len() >= self.most;
        if is_full() || worker.is_slowed() {
            return;
        }
        match worker.renew().await {
            // Others may have come back meanwhile.
            Ok(worker) if !is_full() => self.lock().push(worker),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a worker of the sandbox cannot make a new interpreter"),
        }
    }

    /// One that has died while it waited is not a caller's trouble.
    fn pop(&self) -> Option<Worker> {
        loop {
            let worker = self.lock().pop()?;
            if worker.is_up() {
                return Some(worker);
            }
            tracing::warn!("a worker of the sandbox has died while it waited");
        }
    }

    /// Starts as many as are missing.
    async fn fill(self: &Arc<Self>) -> io::Result<()> {
        let Ok(_alone) = self.refill.try_lock() else { return Ok(()) };
        while self.lock().len() < self.least {
            let worker = self.start_one().await?;
            self.lock().push(worker);
        }
        Ok(())
    }

    async fn start_one(self: &Arc<Self>) -> io::Result<Worker> {
        let this = Arc::clone(self);
        spawn_blocking(move || this.workers.start()).await?
    }

    #[cfg(test)]
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        // A list of workers is whole whatever happened to a thread that held it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
