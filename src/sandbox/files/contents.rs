//! What is in a file.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes that copies of a file share until one of them changes: before a run everything is copied, to go back to if it
/// breaks. They are parked as one piece: a list would be coded byte by byte.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Contents(Arc<Vec<u8>>);

impl Contents {
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let own = Arc::make_mut(&mut self.0);
        if offset > own.len() {
            own.resize(offset, 0);
        }
        let over = (own.len() - offset).min(bytes.len());
        own[offset..offset + over].copy_from_slice(&bytes[..over]);
        own.extend_from_slice(&bytes[over..]);
    }

    pub fn resize(&mut self, bytes: usize) {
        if bytes == 0 {
            *self = Self::default();
            return;
        }
        let own = Arc::make_mut(&mut self.0);
        let more = bytes.saturating_sub(own.len());
        own.reserve_exact(more);
        own.resize(bytes, 0);
        if more == 0 {
            own.shrink_to_fit();
        }
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Contents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Contents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Contents;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Contents, E> {
                Ok(bytes.to_vec().into())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
