//! Lots to draw: numbers without a pattern, the same from the same seed.

use super::float;
use std::sync::atomic::{AtomicU64, Ordering};

/// The step of `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of lots. Many may draw at once.
#[derive(Debug)]
pub struct Lots(AtomicU64);

impl Lots {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(mix(seed)))
    }

    /// The next one.
    pub fn draw(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed))
    }

    /// The next one, from 0 up to but without 1.
    pub fn unit(&self) -> f64 {
        unit(self.draw())
    }
}

/// A lot as a fraction: 53 bits are what an `f64` holds.
pub(super) fn unit(lot: u64) -> f64 {
    float(lot >> 11) / float(1 << 53)
}

/// `SplitMix64`'s mixing: each bit of the result depends on each of `bits`.
pub(super) fn mix(bits: u64) -> u64 {
    let mut mixed = bits.wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
