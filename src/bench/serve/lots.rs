//! The random numbers of `NumPy`'s `RandomState` and of Python's `random`, so that a seed means here what it means to
//! `SGLang`'s `bench_serving`: the same lengths, the same order, the same arrivals.
//!
//! Both are the Mersenne Twister MT19937; they differ in how a seed becomes its state.

use rand_mt::Mt;
use std::f64::consts::TAU;

/// A source of lots.
#[derive(Debug)]
pub(super) struct Lots(Mt);

impl Lots {
    /// As after `numpy.random.seed(seed)`.
    pub fn numpy(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// As after `random.seed(seed)`.
    pub fn python(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    /// As `numpy.random.randint(low, high)`: without `high` itself. Lots above the range are drawn again, after
    /// all bits were cut off that the range does not need; where there is nothing to choose, nothing is drawn.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        let widest = high.saturating_sub(low).saturating_sub(1);
        if widest == 0 {
            return low;
        }
        let mask = u32::MAX >> widest.leading_zeros();
        loop {
            let lot = self.0.next_u32() & mask;
            if lot <= widest {
                return low + lot;
            }
        }
    }

    /// As `numpy.random.random()`: from 0 up to but without 1.
    pub fn unit(&mut self) -> f64 {
        let (high, low) = (self.0.next_u32() >> 5, self.0.next_u32() >> 6);
        (f64::from(high) * f64::from(1 << 26) + f64::from(low)) / (f64::from(1 << 26) * f64::from(1 << 27))
    }

    /// As `numpy.random.exponential(mean)`.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }

    /// Log-normal with this median, by Box and Muller's way; nobody else's.
    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        median * (sigma * radius * (TAU * self.unit()).cos()).exp()
    }

    /// As `random.shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let count = u32::try_from(last + 1).unwrap_or(u32::MAX);
            let unused = count.leading_zeros();
            let lot = loop {
                let lot = self.0.next_u32() >> unused;
                if lot < count {
                    break lot;
                }
            };
            items.swap(last, lot as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw<const N: usize>(lots: &mut Lots, low: u32, high: u32) -> [u32; N] {
        std::array::from_fn(|_| lots.between(low, high))
    }

    #[test]
    fn where_there_is_no_choice_nothing_is_drawn() {
        let mut lots = Lots::numpy(7);
        assert_eq!(draw(&mut lots, 5, 6), [5; 9]);
        assert_eq!(draw(&mut lots, 5, 5), [5; 9]);
        assert_eq!(draw(&mut lots, 10, 301), [185, 206, 35, 77, 221, 113, 195, 33]);
    }

    /// What `NumPy` 2.3 and Python 3.11 print.
    #[test]
    fn a_seed_gives_what_it_gives_in_python() {
        let mut lots = Lots::numpy(7);
        assert_eq!(draw(&mut lots, 10, 301), [185, 206, 35, 77, 221, 113, 195, 33]);
        assert_eq!(draw(&mut lots, 0, 1500), [345, 366, 554, 730]);
        for expected in [0.008_019_144_747_428_67, 0.375_139_050_728_553_6, 1.015_521_758_461_349_4] {
            let drawn = lots.exponential(0.5);
            assert!((drawn - expected).abs() < 1e-15, "{drawn}");
        }
        let mut items: Vec<u32> = (0..20).collect();
        Lots::python(1).shuffle(&mut items);
        assert_eq!(items, [11, 5, 17, 19, 9, 0, 16, 1, 15, 6, 10, 13, 14, 12, 7, 3, 8, 2, 18, 4]);
    }

    #[test]
    fn many_lots_lie_around_their_median() {
        let mut lots = Lots::numpy(1);
        let above = (0..10_000).filter(|_| lots.lognormal(900.0, 1.1) > 900.0).count();
        assert!((4_800..5_200).contains(&above), "{above}");
    }
}
