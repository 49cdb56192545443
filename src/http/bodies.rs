//! How much a request's body may take, and the bodies of all requests together: each is bounded, and so is each caller's
//! number of requests, but not the product.

use crate::chat::{Failure, FailureKind};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// When one who finds no room should look again. Chosen: most bodies are gone when their answers have begun.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bounds on a body.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Bytes, inflated.
    pub bytes_max: usize,
    /// It must arrive in this time.
    pub time: Duration,
    /// Bytes of all bodies together.
    pub together_bytes_max: usize,
    /// All of them.
    pub bodies: Bodies,
}

/// Bytes of all bodies that are held. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Bodies(Arc<AtomicUsize>);

/// A body's part of them, which is given back on drop.
pub(super) struct Room {
    of: Bodies,
    bytes: usize,
}

impl BodyLimits {
    pub(super) fn too_large(&self) -> Failure {
        let message = format!("the request body is larger than {} bytes (server.body_bytes_max)", self.bytes_max);
        Failure::new(FailureKind::TooLarge, message)
    }
}

impl Bodies {
    /// None yet.
    pub(super) fn room(&self) -> Room {
        Room { of: self.clone(), bytes: 0 }
    }
}

impl Room {
    /// Takes room for more bytes, where all together may have `bytes_max`.
    pub fn take(&mut self, bytes: usize, bytes_max: usize) -> Result<(), Failure> {
        // A count and nothing else: no other memory is ordered by it.
        let others = self.of.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if others + bytes <= bytes_max {
            return Ok(());
        }
        let message = format!(
            "the bodies of all requests together would be larger than {bytes_max} bytes (server.bodies_bytes_max); send \
             the request again"
        );
        Err(Failure::new(FailureKind::NoBackend, message).retry_after(RETRY_AFTER))
    }

    /// The body. It has its room for as long as any part of it is kept, wherever that is.
    pub fn hold(self, body: Bytes) -> Bytes {
        Bytes::from_owner(Held { body, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    body: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_with_the_last_part_of_a_body() {
        let bodies = Bodies::default();
        let mut room = bodies.room();
        room.take(6, 10).unwrap();
        assert!(bodies.room().take(5, 10).is_err(), "and what was refused takes nothing");
        room.take(4, 10).unwrap();
        let part = room.hold(Bytes::from_static(b"0123456789")).slice(2..3);
        assert!(bodies.room().take(1, 10).is_err());
        drop(part);
        bodies.room().take(10, 10).unwrap();
    }
}
