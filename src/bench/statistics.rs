//! Many times as a few numbers.

use serde::Serialize;
use std::time::Duration;

/// How long something takes: its percentiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How often it was done.
    pub runs: usize,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// Nine of ten took no longer.
    pub p90_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}

impl Spread {
    /// By the nearest rank, so that each is a time that was measured. Nothing of no times.
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort();
        let percentile = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            Some(milliseconds(*times.get(rank.checked_sub(1)?)?))
        };
        let (p50_ms, p90_ms, p99_ms) = (percentile(50)?, percentile(90)?, percentile(99)?);
        Some(Self { runs: times.len(), p50_ms, p90_ms, p99_ms })
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The mean of ratios. Nothing of none.
#[expect(clippy::cast_precision_loss, reason = "there are a dozen")]
pub(super) fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let logarithms: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    (!ratios.is_empty()).then(|| (logarithms / ratios.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(times: impl IntoIterator<Item = u64>) -> Option<Spread> {
        Spread::of(times.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn of_nothing_nothing_is_known() {
        assert_eq!((spread([]), geometric_mean(&[])), (None, None));
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        for (times, [p50_ms, p90_ms, p99_ms]) in [
            (vec![7], [7.0, 7.0, 7.0]),
            (vec![2, 1], [1.0, 2.0, 2.0]),
            ((1..=100).rev().collect(), [50.0, 90.0, 99.0]),
            ((1..=101).collect(), [51.0, 91.0, 100.0]),
            ((1..=1000).collect(), [500.0, 900.0, 990.0]),
        ] {
            assert_eq!(spread(times.clone()), Some(Spread { runs: times.len(), p50_ms, p90_ms, p99_ms }));
        }
    }

    #[test]
    fn twice_and_half_are_one_in_the_mean() {
        let mean = geometric_mean(&[2.0, 0.5, 1.0]).unwrap();
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
    }
}
