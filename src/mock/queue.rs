//! The scheduler's places: so many requests run, so many wait, the rest is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// SGLang's own default for `max_running_requests` on a small machine; load reports show it.
pub const RUNNING_DEFAULT: usize = 2048;

/// Running and waiting requests.
#[derive(Debug)]
pub struct Queue {
    running: Arc<Semaphore>,
    running_max: usize,
    waiting_max: usize,
    waiting: Counter,
    tokens: Counter,
}

/// A count that is given back on drop.
#[derive(Debug, Clone, Default)]
struct Counter(Arc<AtomicUsize>);

#[derive(Debug)]
struct Counted(Counter, usize);

impl Counter {
    /// The share, and the count before it.
    fn add(&self, amount: usize) -> (Counted, usize) {
        let before = self.0.fetch_add(amount, Ordering::Relaxed);
        (Counted(self.clone(), amount), before)
    }
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A running request's place.
#[derive(Debug)]
pub struct Place {
    _running: OwnedSemaphorePermit,
    _tokens: Counted,
}

/// Nobody may wait any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A moment's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Prompt tokens of those that run.
    pub tokens: usize,
    /// The most that may run.
    pub running_max: usize,
}

impl Queue {
    /// Without limits everybody runs.
    pub fn new(running_max: Option<usize>, waiting_max: Option<usize>) -> Self {
        let running_max = running_max.unwrap_or(RUNNING_DEFAULT);
        Self {
            running: Arc::new(Semaphore::new(running_max)),
            running_max,
            waiting_max: waiting_max.unwrap_or(usize::MAX),
            waiting: Counter::default(),
            tokens: Counter::default(),
        }
    }

    /// Waits for a place, first come, first served.
    pub async fn enter(&self, prompt_tokens: u32) -> Result<Place, Full> {
        let running = if let Ok(free) = self.running.clone().try_acquire_owned() {
            free
        } else {
            let (_waiting, before) = self.waiting.add(1);
            if before >= self.waiting_max {
                return Err(Full);
            }
            self.running.clone().acquire_owned().await.map_err(|_| Full)?
        };
        Ok(Place { _running: running, _tokens: self.tokens.add(prompt_tokens as usize).0 })
    }

    /// The load now.
    pub fn load(&self) -> Load {
        Load {
            running: self.running_max - self.running.available_permits(),
            waiting: self.waiting.get(),
            tokens: self.tokens.get(),
            running_max: self.running_max,
        }
    }
}
