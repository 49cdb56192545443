//! Interpreters that are up before anybody asks for them: to start one takes longer than to run a small program in it.

use super::guest::{Guest, Image};
use std::sync::{Arc, Mutex, PoisonError};

/// Starts interpreters, and keeps a few of them ready.
pub(super) struct Ready {
    image: Image,
    guests: Mutex<Vec<Guest>>,
    guests_max: usize,
    /// Held while interpreters are made, so that no more than `guests_max` are.
    refill: tokio::sync::Mutex<()>,
}

impl Ready {
    pub fn new(image: Image, guests_max: usize) -> Self {
        Self { image, guests: Mutex::default(), guests_max, refill: tokio::sync::Mutex::default() }
    }

    /// A ready interpreter, or else one that is started now.
    pub async fn take(self: &Arc<Self>) -> wasmtime::Result<Guest> {
        let ready = self.lock().pop();
        // Its place is refilled by a task of its own, which Tokio runs once the caller's has a pause.
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.fill().await.inspect_err(|error| tracing::warn!(%error, "cannot start an interpreter"))
        });
        match ready {
            Some(guest) => Ok(guest),
            None => self.image.start().await,
        }
    }

    /// Starts as many as are missing.
    pub async fn fill(&self) -> wasmtime::Result<()> {
        let Ok(_alone) = self.refill.try_lock() else { return Ok(()) };
        while self.lock().len() < self.guests_max {
            let guest = self.image.start().await?;
            self.lock().push(guest);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Guest>> {
        // A list of guests is whole whatever happened to a thread that held it.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
