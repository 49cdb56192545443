//! Whether a backend is up: what probes and requests say, and how far it is on its way back. Pure: moments are handed in.

use std::time::{Duration, Instant};

/// Probes in a row that must go unanswered, or fail in some way, before a backend is down. One that is refused, or answered
/// with a no, is enough by itself.
const MISSED_PROBES_MAX: u32 = 3;
/// Probes in a row that a backend must answer to be up again, after one that it did not.
const GOOD_PROBES_MIN: u32 = 2;
/// The share of its weight that a backend begins with when it is back. Chosen.
const SLOW_START_SHARE: f64 = 0.1;

/// What a probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    Good,
    /// It says itself that it takes nothing, as SGLang does while it starts and while it drains; or it cannot be used.
    Unfit(String),
    /// Nobody listens, or the connection broke.
    Gone(String),
    /// No answer in time.
    Silent(String),
    /// An error that says nothing of whether it takes requests.
    Failed(String),
}

/// What has just changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Up, for the first time.
    Up,
    /// Up again; `emptied`: it was away in between, and its cache is gone.
    Back {
        emptied: bool,
    },
    Down,
}

/// The health of one backend.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// `None` until the first probe: a request that comes sooner is tried all the same.
    up: Option<bool>,
    missed: u32,
    good: u32,
    good_wanted: u32,
    /// A request found nobody there, and no probe has said yet whether that is so.
    doubted: bool,
    emptied: bool,
    back_since: Option<Instant>,
}

impl Health {
    pub fn up(&self) -> Option<bool> {
        self.up
    }

    /// It gets nothing. Who is only doubted does, where there is nobody else.
    pub fn is_out(&self) -> bool {
        self.up == Some(false) && !self.doubted
    }

    /// It is down, or may be.
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Takes note of a probe.
    pub fn probed(&mut self, probe: &Probe, now: Instant) -> Change {
        match probe {
            Probe::Good => return self.good(now),
            Probe::Unfit(_) => {}
            Probe::Gone(_) => self.emptied = true,
            Probe::Silent(_) | Probe::Failed(_) => {
                self.missed += 1;
                self.good = 0;
                if self.up == Some(true) && self.missed < MISSED_PROBES_MAX {
                    return Change::None;
                }
            }
        }
        (self.good_wanted, self.doubted) = (GOOD_PROBES_MIN, false);
        self.down()
    }

    /// A request found nobody there: out at once. One good probe is enough to be back, since a single connection may
    /// be lost without any of this being true.
    pub fn lost(&mut self) -> Change {
        if self.up != Some(false) {
            (self.good_wanted, self.doubted) = (1, true);
        }
        self.down()
    }

    fn down(&mut self) -> Change {
        self.good = 0;
        if self.up.replace(false) == Some(false) { Change::None } else { Change::Down }
    }

    fn good(&mut self, now: Instant) -> Change {
        (self.missed, self.good) = (0, self.good + 1);
        match self.up {
            Some(true) => Change::None,
            None => {
                self.up = Some(true);
                Change::Up
            }
            Some(false) if self.good < self.good_wanted => Change::None,
            Some(false) => {
                (self.up, self.doubted) = (Some(true), false);
                let emptied = std::mem::take(&mut self.emptied);
                // Who was only doubted for a moment has its cache and its batch still.
                self.back_since = emptied.then_some(now);
                Change::Back { emptied }
            }
        }
    }

    /// The share of its weight that counts now.
    pub fn share(&self, slow_start: Duration, now: Instant) -> f64 {
        let Some(since) = self.back_since else { return 1.0 };
        let risen = now.saturating_duration_since(since).as_secs_f64() / slow_start.as_secs_f64().max(f64::EPSILON);
        (SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * risen).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "a share of 1")]
    fn per_mille(health: &Health, slow_start: Duration, now: Instant) -> i64 {
        (health.share(slow_start, now) * 1000.0).round() as i64
    }

    fn said(probe: fn(String) -> Probe) -> Probe {
        probe("why".to_owned())
    }

    #[test]
    fn three_silent_or_failed_probes_take_a_backend_out_and_two_good_ones_bring_it_back() {
        for missed in [said(Probe::Silent), said(Probe::Failed)] {
            let (mut health, now) = (Health::default(), Instant::now());
            assert_eq!(health.probed(&Probe::Good, now), Change::Up, "the first good one is enough");
            assert_eq!([(); 2].map(|()| health.probed(&missed, now)), [Change::None; 2]);
            assert_eq!(health.probed(&missed, now), Change::Down);
            assert_eq!(health.probed(&Probe::Good, now), Change::None);
            assert_eq!(health.probed(&missed, now), Change::None);
            assert_eq!(health.probed(&Probe::Good, now), Change::None, "counted anew");
            assert_eq!(health.probed(&Probe::Good, now), Change::Back { emptied: false });
        }
    }

    #[test]
    fn a_no_or_a_refusal_takes_it_out_at_once_and_only_the_latter_empties_its_cache() {
        for (probe, emptied) in [(said(Probe::Unfit), false), (said(Probe::Gone), true)] {
            let (mut health, now) = (Health::default(), Instant::now());
            health.probed(&Probe::Good, now);
            assert_eq!(health.probed(&probe, now), Change::Down);
            health.probed(&Probe::Good, now);
            assert_eq!(health.probed(&Probe::Good, now), Change::Back { emptied });
        }
    }

    #[test]
    fn a_lost_connection_is_made_good_by_one_probe_but_not_if_a_probe_failed_too() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.probed(&Probe::Good, now);
        assert_eq!(health.lost(), Change::Down);
        assert_eq!(health.probed(&Probe::Good, now), Change::Back { emptied: false });
        health.lost();
        assert!(health.is_doubted() && !health.is_out());
        health.probed(&said(Probe::Gone), now);
        assert!(health.is_out());
        assert_eq!(health.lost(), Change::None);
        assert_eq!(health.probed(&Probe::Good, now), Change::None);
    }

    #[test]
    fn a_backend_that_was_away_gets_its_weight_back_little_by_little() {
        let (mut health, now) = (Health::default(), Instant::now());
        let slow_start = Duration::from_secs(10);
        health.probed(&Probe::Good, now);
        assert_eq!(per_mille(&health, slow_start, now), 1000, "a start is no return");
        health.probed(&said(Probe::Gone), now);
        health.probed(&Probe::Good, now);
        health.probed(&Probe::Good, now);
        let shares = [0, 5, 10, 99].map(|seconds| per_mille(&health, slow_start, now + Duration::from_secs(seconds)));
        assert_eq!(shares, [100, 550, 1000, 1000]);
        assert_eq!(per_mille(&health, Duration::ZERO, now + Duration::from_millis(1)), 1000);
    }
}
