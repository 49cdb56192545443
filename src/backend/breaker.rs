//! A breaker: a backend that keeps failing, although it is up, is left alone for a while. Pure: moments are handed in.
//!
//! It counts what is the backend's fault only. A full backend is none, nor is a request that makes no sense. When the
//! breakers of all backends are open, the pool asks them all the same: sparing them would spare nobody.

use std::time::{Duration, Instant};

/// Between two trials of a backend whose breaker is half open. Chosen.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// When it opens and closes. The numbers are the SGLang router's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Milliseconds for which it stays open.
    pub open_ms: u64,
    /// Answers in a row that close it after that.
    pub successes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 10, open_ms: 60_000, successes: 3 }
    }
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through.
    Closed,
    /// None do.
    Open,
    /// One now and then does, as a trial.
    HalfOpen,
}

impl BreakerState {
    /// Its name for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The breaker of one backend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Breaker {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { successes: u32, next_trial: Instant },
}

impl Breaker {
    pub fn new() -> Self {
        Self::Closed { failures: 0 }
    }

    pub fn state(&self, now: Instant) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { until } if now < *until => BreakerState::Open,
            Self::Open { .. } | Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    pub fn lets_through(&self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until } => now >= *until,
            Self::HalfOpen { next_trial, .. } => now >= *next_trial,
        }
    }

    /// A request is on its way: if it is a trial, the next one is some time off.
    pub fn sent(&mut self, now: Instant) {
        match self {
            Self::Open { until } if now >= *until => {
                *self = Self::HalfOpen { successes: 0, next_trial: now + TRIAL_EVERY };
            }
            Self::HalfOpen { next_trial, .. } => *next_trial = now + TRIAL_EVERY,
            Self::Closed { .. } | Self::Open { .. } => {}
        }
    }

    /// An answer came to its end. One that was asked for before the breaker opened does not close it.
    pub fn succeeded(&mut self, settings: &BreakerSettings) {
        match self {
            Self::Closed { failures } => *failures = 0,
            Self::Open { .. } => {}
            Self::HalfOpen { successes, .. } => {
                *successes += 1;
                if *successes >= settings.successes {
                    *self = Self::new();
                }
            }
        }
    }

    /// The backend failed; whether that opened the breaker.
    pub fn failed(&mut self, settings: &BreakerSettings, now: Instant) -> bool {
        match self {
            Self::Closed { failures } => {
                *failures += 1;
                if *failures < settings.failures {
                    return false;
                }
            }
            Self::Open { .. } => return false,
            Self::HalfOpen { .. } => {}
        }
        *self = Self::Open { until: now + Duration::from_millis(settings.open_ms) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings { failures: 3, open_ms: 60_000, successes: 2 };

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_after_as_many_with_an_answer_between() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        assert!(!breaker.failed(&SETTINGS, now) && !breaker.failed(&SETTINGS, now));
        breaker.succeeded(&SETTINGS);
        assert!(!breaker.failed(&SETTINGS, now) && !breaker.failed(&SETTINGS, now));
        assert!(breaker.lets_through(now) && breaker.failed(&SETTINGS, now) && !breaker.lets_through(now));
    }

    #[test]
    fn after_its_time_trials_close_it_and_a_failed_one_opens_it_again() {
        let (mut breaker, begun) = (Breaker::new(), Instant::now());
        for _ in 0..SETTINGS.failures {
            breaker.failed(&SETTINGS, begun);
        }
        breaker.succeeded(&SETTINGS);
        assert_eq!(breaker.state(begun), BreakerState::Open, "an answer from before does not close it");
        let later = begun + Duration::from_mins(1);
        assert!(breaker.lets_through(later));
        breaker.sent(later);
        assert!(!breaker.lets_through(later), "one trial at a time");
        assert!(breaker.failed(&SETTINGS, later) && breaker.state(later) == BreakerState::Open);
        let later = later + Duration::from_mins(1);
        for trial in 0..SETTINGS.successes {
            let now = later + TRIAL_EVERY * trial;
            assert!(breaker.lets_through(now), "trial {trial}");
            breaker.sent(now);
            breaker.succeeded(&SETTINGS);
        }
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }
}
