//! How the balance policies would do: coding sessions in front of modelled SGLang servers, from event to event, offline.
//!
//! The policies and the admission of sessions are the real ones; time, sessions and servers are made up. The same seed
//! gives the same sessions, whichever the policy.

pub mod bars;
mod cache;
mod report;
mod sessions;
mod worker;
mod world;

pub use report::{Measured, Row, table};

use crate::backend::balance::Policy;
use std::time::Duration;

/// The share of the time that is not counted: caches fill, and sessions come to their usual lengths.
pub const WARM_UP: f64 = 0.2;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// How many backends.
    pub backends: usize,
    /// Tokens of each one's KV cache.
    pub kv_tokens: u32,
    /// How long.
    pub time: Duration,
}

impl Default for Scenario {
    /// A small team's servers for half an hour.
    fn default() -> Self {
        Self { backends: 4, kv_tokens: 400_000, time: Duration::from_mins(30) }
    }
}

impl Scenario {
    /// Runs one policy with so many sessions at a time, once for every seed.
    pub fn run(&self, policy: &'static Policy, sessions: usize, seeds: &[u64]) -> Row {
        let runs = seeds.iter().map(|seed| world::run(self, policy, sessions, *seed)).collect();
        Row { policy: policy.name, sessions, runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::balance::ALL;

    fn short() -> Scenario {
        Scenario { time: Duration::from_mins(2), ..Scenario::default() }
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_another() {
        for policy in ALL {
            let row = short().run(policy, 12, &[7, 7, 8]);
            assert_eq!(row.runs[0], row.runs[1], "{}", policy.name);
            assert_ne!(row.runs[0], row.runs[2], "{}", policy.name);
        }
    }

    #[test]
    fn with_room_for_all_a_session_reads_its_prompts_once() {
        let roomy = Scenario { kv_tokens: 10_000_000, ..short() };
        let row = roomy.run(&ALL[0], 12, &[1]);
        assert!(row.runs[0].hit_rate() > 0.85, "{}", row.runs[0].hit_rate());
        assert!(row.runs[0].wait(0.5) < Duration::from_millis(300), "{:?}", row.runs[0].wait(0.5));
    }

    #[test]
    fn a_cache_that_holds_one_conversation_at_a_time_is_no_end_of_it() {
        let tight = Scenario { backends: 1, kv_tokens: 130_000, ..short() };
        for policy in ALL {
            let row = tight.run(policy, 8, &[1]);
            assert!(row.runs[0].turns > 10, "{}: {} turns", policy.name, row.runs[0].turns);
        }
    }
}
