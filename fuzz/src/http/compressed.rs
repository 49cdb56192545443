//! A compressed body.

use super::bodies::{Bodies, BodyLimits};
use super::inflate::{Encoding, inflated};
use crate::heap;
use std::time::Duration;

/// Of an inflated body. Chosen: a fuzzer finds what goes beyond it.
const BYTES_MAX: usize = 1 << 20;
/// What may be held beside the body, which may have grown to twice its size: a window as large as a sender may ask for,
/// twice while it is moved, and the decoders' own tables.
const MEMORY_MAX: usize = 4 * BYTES_MAX + (20 << 20);

/// Inflates it both ways.
pub fn body(data: &[u8]) {
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        let limits = BodyLimits {
            bytes_max: BYTES_MAX,
            time: Duration::ZERO,
            together_bytes_max: 2 * BYTES_MAX,
            bodies: Bodies::default(),
        };
        let (body, bytes) = heap::peak(|| inflated(encoding, data, &limits));
        assert!(bytes <= MEMORY_MAX, "{} bytes took {bytes} as {encoding:?}", data.len());
        assert!(body.as_ref().map_or(0, |body| body.len()) <= BYTES_MAX);
        drop(body);
        let mut all = limits.bodies.room();
        assert!(all.take(2 * BYTES_MAX, 2 * BYTES_MAX).is_ok(), "room was kept");
    }
}
