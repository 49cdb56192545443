//! How the balance policies would do: coding sessions in front of modelled SGLang servers, from event to event, offline.

mod cache;
mod sessions;
mod worker;
mod world;

use crate::backend::balance::Policy;
use std::time::Duration;

/// The share of the time that is not counted: caches fill, and sessions get their length.
const WARM_UP: f64 = 0.2;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How many backends.
    pub backends: usize,
    /// Tokens of each one's KV cache.
    pub kv_tokens: u64,
    /// How long.
    pub time: Duration,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Turns that were completed.
    pub turns: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    waits: Vec<Duration>,
    by_backend: Vec<u64>,
}

impl Scenario {
    /// Runs one policy.
    pub fn run(&self, policy: &Policy, sessions: usize, seed: u64) -> Measured {
        world::run(self, policy, sessions, seed)
    }
}

impl Measured {
    fn new(backends: usize) -> Self {
        Self { turns: 0, prompt_tokens: 0, cached_tokens: 0, waits: Vec::new(), by_backend: vec![0; backends] }
    }

    fn first_token(&mut self, wait: Duration) {
        self.waits.push(wait);
    }

    fn turn(&mut self, backend: usize, prompt: u32, cached: u32) {
        self.turns += 1;
        self.prompt_tokens += u64::from(prompt);
        self.cached_tokens += u64::from(cached);
        self.by_backend[backend] += 1;
    }

    /// The share of all prompts that was cached.
    pub fn hit_rate(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64
    }

    /// The time from when a turn was wanted to its first token, of which a share of all turns stayed below.
    pub fn wait(&self, share: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let at = (waits.len() as f64 * share) as usize;
        waits.get(at.min(waits.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Turns of the busiest backend for one of the idlest.
    pub fn imbalance(&self) -> f64 {
        let (most, least) = (self.by_backend.iter().max(), self.by_backend.iter().min());
        *most.unwrap_or(&0) as f64 / (*least.unwrap_or(&0)).max(1) as f64
    }
}
