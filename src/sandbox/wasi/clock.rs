//! A guest's clocks, and what its runs depend on beside their programs.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Readings of the clocks that are kept of one run. Most programs look at a clock a few times; chosen.
pub const READINGS_MAX: usize = 256;

/// What a run depends on beside its program and what ran before it in its interpreter. The same conditions again make the
/// same outcome, while the clocks were read no more often than is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Conditions {
    /// Where its random numbers come from.
    pub seed: [u8; 32],
    /// When it began, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// What its clocks said, in nanoseconds since it began. With readings in it a run is one that is made again: its
    /// clocks say this, and it waits for nothing.
    pub readings: Vec<u64>,
    /// Whether it is one that is made again.
    pub again: bool,
}

/// How old an interpreter is, by its own clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Ages {
    /// When its first run began, in nanoseconds since 1970.
    born_unix_ns: u64,
    /// The latest reading of its monotonic clock.
    monotonic_ns: u64,
}

pub(super) struct Clock {
    began: Instant,
    unix_ns: u64,
    /// The monotonic clock at `began`.
    monotonic_ns: u64,
    ages: Ages,
    readings: Vec<u64>,
    /// The latest of them.
    latest: u64,
    /// What is still to be said, the next one last.
    again: Option<Vec<u64>>,
}

impl Clock {
    pub fn new(conditions: &Conditions, mut ages: Ages) -> Self {
        if ages.born_unix_ns == 0 {
            ages.born_unix_ns = conditions.unix_ns;
        }
        // The clock of the day may be set back meanwhile, this one not.
        let monotonic_ns = conditions.unix_ns.saturating_sub(ages.born_unix_ns).max(ages.monotonic_ns);
        let again = conditions.again.then(|| conditions.readings.iter().rev().copied().collect());
        Self {
            began: Instant::now(),
            unix_ns: conditions.unix_ns,
            monotonic_ns,
            ages,
            readings: Vec::new(),
            latest: 0,
            again,
        }
    }

    pub fn wall(&mut self) -> u64 {
        self.unix_ns.saturating_add(self.read())
    }

    pub fn monotonic(&mut self) -> u64 {
        let now = self.monotonic_ns.saturating_add(self.read());
        self.ages.monotonic_ns = now;
        now
    }

    /// When the guest last looked at a clock. To ask for this is no reading, so that files can have times without there
    /// being more to record.
    pub fn latest(&self) -> Duration {
        Duration::from_nanos(self.unix_ns.saturating_add(self.latest))
    }

    /// When the monotonic clock will say this, if that is worth waiting for.
    pub fn instant_of(&self, monotonic_ns: u64) -> Option<Instant> {
        let from_began = monotonic_ns.checked_sub(self.monotonic_ns)?;
        if self.again.is_some() { None } else { self.began.checked_add(Duration::from_nanos(from_began)) }
    }

    /// A wait for this time is over, and so is the time until then.
    pub fn waited(&mut self, monotonic_ns: u64) {
        self.latest = self.latest.max(monotonic_ns.saturating_sub(self.monotonic_ns));
    }

    pub fn ages(&self) -> Ages {
        self.ages
    }

    pub fn take_readings(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.readings)
    }

    /// Nanoseconds since the run began.
    fn read(&mut self) -> u64 {
        // The end of time is in 584 years.
        let passed = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let passed = self.again.as_mut().and_then(Vec::pop).unwrap_or(passed);
        self.latest = passed.max(self.latest);
        if self.readings.len() < READINGS_MAX {
            self.readings.push(passed);
        }
        passed
    }
}
