//! Interpreters that are up before anybody asks for them: to start one takes longer than to run a small program in it.

use super::seat::{Maker, Seat};
use std::sync::{Arc, Mutex, PoisonError};

/// Starts interpreters, and keeps some of them ready.
pub(super) struct Ready {
    maker: Maker,
    seats: Mutex<Vec<Seat>>,
    /// So many are started ahead.
    least: usize,
    /// So many are kept when they come back.
    most: usize,
    /// Held while interpreters are made, so that no more than `least` are.
    refill: tokio::sync::Mutex<()>,
}

impl Ready {
    pub fn new(maker: Maker, least: usize, most: usize) -> Self {
        Self { maker, seats: Mutex::default(), least, most, refill: tokio::sync::Mutex::default() }
    }

    /// A ready interpreter, or else one that is started now.
    pub async fn take(self: &Arc<Self>) -> wasmtime::Result<Seat> {
        let ready = self.lock().pop();
        // Its place is refilled by a task of its own, which Tokio runs once the caller's has a pause.
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.fill().await.inspect_err(|error| tracing::warn!(%error, "cannot start an interpreter"))
        });
        match ready {
            Some(seat) => Ok(seat),
            None => self.maker.start().await,
        }
    }

    /// Takes back what a turn has used.
    pub async fn give_back(&self, seat: Seat) {
        let is_full = || self.lock().len() >= self.most;
        if is_full() {
            return;
        }
        // Others may have come back meanwhile.
        if let Some(seat) = seat.renew().await.filter(|_| !is_full()) {
            self.lock().push(seat);
        }
    }

    /// Starts as many as are missing.
    pub async fn fill(&self) -> wasmtime::Result<()> {
        let Ok(_alone) = self.refill.try_lock() else { return Ok(()) };
        while self.lock().len() < self.least {
            let seat = self.maker.start().await?;
            self.lock().push(seat);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Seat>> {
        // A list of seats is whole whatever happened to a thread that held it.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
