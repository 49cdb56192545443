//! An interpreter at rest, as bytes: what it has changed in the image that it began as.
//!
//! Between two runs its memory and its WASI state are all that there is of it. A worker takes and restores them; the
//! gateway only keeps them.

use super::files::Bounds;
use super::wasi::Lasting;
use rustix::param::page_size;
use serde::{Deserialize, Serialize};
use std::io;

/// The pages of a memory that are not as in its image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Changes {
    pub memory_bytes: usize,
    /// Bytes of a page.
    pub page: usize,
    /// Which pages, in order.
    pub pages: Vec<u32>,
    /// What is in them, one after the other.
    #[serde(with = "serde_bytes_like")]
    pub bytes: Vec<u8>,
}

impl Changes {
    /// Of an interpreter that is as its image.
    pub fn none() -> Self {
        // A memory is never smaller than its image.
        Self { memory_bytes: 0, page: page_size(), pages: Vec::new(), bytes: Vec::new() }
    }
}

/// All that lasts from one run to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub changes: Changes,
    pub wasi: Lasting,
}

impl State {
    /// Compressed: most of a page is zeros and pointers.
    pub fn pack(&self) -> Vec<u8> {
        // Only a type that postcard has no form for could fail, and these have one.
        let plain = postcard::to_allocvec(self).unwrap_or_default();
        lz4_flex::compress_prepend_size(&plain)
    }

    /// What [`State::pack`] has made, if it takes no more than `bytes_max` unpacked.
    pub fn unpack(packed: &[u8], bytes_max: usize) -> io::Result<Self> {
        let broken = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let Some((size, _)) = packed.split_first_chunk() else { return Err(broken("a state without a size".into())) };
        let size = u32::from_le_bytes(*size) as usize;
        if size > bytes_max {
            return Err(broken(format!("a state of {size} bytes, where {bytes_max} are the most")));
        }
        let plain = lz4_flex::decompress_size_prepended(packed).map_err(|error| broken(error.to_string()))?;
        let mut state: Self = postcard::from_bytes(&plain).map_err(|error| broken(error.to_string()))?;
        let files = Bounds { files_max: bytes_max, bytes_max };
        state.wasi.check(files).map_err(|error| broken(error.to_string()))?;
        let Changes { memory_bytes, page, pages, bytes } = &state.changes;
        let fits = *page > 0
            && pages.len().checked_mul(*page) == Some(bytes.len())
            && pages.is_sorted_by(|one, next| one < next)
            && pages.last().is_none_or(|last| (*last as usize + 1).saturating_mul(*page) <= *memory_bytes);
        if fits { Ok(state) } else { Err(broken("a state whose pages are not within its memory".into())) }
    }
}

/// Bytes as one piece: serde would go through a `Vec<u8>` one by one.
mod serde_bytes_like {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
                to.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}
