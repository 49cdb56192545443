//! What came of it, as a table.

use crate::backend::balance::{float, whole};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use std::fmt::Write as _;
use std::time::Duration;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Turns that were completed.
    pub turns: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    waits: Vec<Duration>,
    by_backend: Vec<u64>,
}

/// One policy with so many sessions: a run for every seed.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The policy's name.
    pub policy: &'static str,
    /// Sessions at a time.
    pub sessions: usize,
    /// In the order of the seeds.
    pub runs: Vec<Measured>,
}

impl Measured {
    pub(super) fn new(backends: usize) -> Self {
        Self { turns: 0, prompt_tokens: 0, cached_tokens: 0, waits: Vec::new(), by_backend: vec![0; backends] }
    }

    /// A turn's first token came so long after it was wanted.
    pub(super) fn first_token(&mut self, wait: Duration) {
        self.waits.push(wait);
    }

    /// A backend has completed a turn.
    pub(super) fn turn(&mut self, backend: usize, prompt_tokens: u32, cached_tokens: u32) {
        self.turns += 1;
        self.prompt_tokens += u64::from(prompt_tokens);
        self.cached_tokens += u64::from(cached_tokens);
        self.by_backend[backend] += 1;
    }

    /// The share of all prompts that was cached.
    pub fn hit_rate(&self) -> f64 {
        float(self.cached_tokens) / float(self.prompt_tokens.max(1))
    }

    /// The time from when a turn was wanted to its first token, below which this share of all turns stayed.
    pub fn wait(&self, share: f64) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let at = usize::try_from(whole(float(waits.len() as u64) * share)).unwrap_or(usize::MAX);
        waits.get(at.min(waits.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Turns of the busiest backend for one of the idlest.
    pub fn imbalance(&self) -> f64 {
        let (most, least) = (self.by_backend.iter().max(), self.by_backend.iter().min());
        float(most.copied().unwrap_or_default()) / float(least.copied().unwrap_or_default().max(1))
    }
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut run = serializer.serialize_struct("Measured", 6)?;
        run.serialize_field("turns", &self.turns)?;
        run.serialize_field("hit_rate", &self.hit_rate())?;
        for (name, share) in [("ttft_s_p50", 0.5), ("ttft_s_p90", 0.9), ("ttft_s_p99", 0.99)] {
            run.serialize_field(name, &self.wait(share).as_secs_f64())?;
        }
        run.serialize_field("imbalance", &self.imbalance())?;
        run.end()
    }
}

impl Row {
    /// Turns of all runs.
    pub fn turns(&self) -> u64 {
        self.runs.iter().map(|run| run.turns).sum()
    }

    fn mean(&self, of: impl Fn(&Measured) -> f64) -> f64 {
        self.runs.iter().map(of).sum::<f64>() / float(self.runs.len().max(1) as u64)
    }
}

/// A line for every row; what is not counted apart for each seed is the mean over all of them.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "sessions  policy             hit rate   TTFT p50      p90      p99  imbalance    turns  of each seed\n",
    );
    for row in rows {
        let wait = |share| row.mean(|run| run.wait(share).as_secs_f64());
        let turns: Vec<_> = row.runs.iter().map(|run| run.turns.to_string()).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:>8}  {:<16} {:>8.1} % {:>8.2} s {:>6.2} s {:>6.2} s {:>10.2} {:>8.0}  {}",
            row.sessions,
            row.policy,
            100.0 * row.mean(Measured::hit_rate),
            wait(0.5),
            wait(0.9),
            wait(0.99),
            row.mean(Measured::imbalance),
            row.mean(|run| float(run.turns)),
            turns.join(" "),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_means_and_each_seeds_turns() {
        let mut runs = [Measured::new(2), Measured::new(2)];
        for (turns, run) in [3, 5].into_iter().zip(&mut runs) {
            for turn in 0..turns {
                run.turn(turn % 2, 1_000, 900);
                run.first_token(Duration::from_secs(turn as u64));
            }
        }
        assert_eq!(runs[1].wait(0.5), Duration::from_secs(2));
        let text = table(&[Row { policy: "random", sessions: 24, runs: runs.to_vec() }]);
        let row = text.lines().nth(1).expect("a row");
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words, ["24", "random", "90.0", "%", "1.50", "s", "3.00", "s", "3.00", "s", "1.75", "4", "3", "5"]);
    }

    #[test]
    fn nothing_measured_is_no_error() {
        let run = Measured::new(0);
        assert_eq!((run.wait(0.99), run.imbalance().to_bits()), (Duration::ZERO, 0.0_f64.to_bits()));
    }
}
