//! What is in a file.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;

/// Bytes that are parked as one piece: as a list each of them would be coded by itself, which takes ten times as long.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Contents(Vec<u8>);

impl Contents {
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        if offset > self.0.len() {
            self.0.resize(offset, 0);
        }
        let over = (self.0.len() - offset).min(bytes.len());
        self.0[offset..offset + over].copy_from_slice(&bytes[..over]);
        self.0.extend_from_slice(&bytes[over..]);
    }

    pub fn resize(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.0.len());
        self.0.reserve_exact(more);
        self.0.resize(bytes, 0);
        if more == 0 {
            self.0.shrink_to_fit();
        }
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
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
                Ok(Contents(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
