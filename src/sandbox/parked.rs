//! An interpreter at rest, as bytes: what it has changed in the image that it began as.
//!
//! Between two runs its memory and its WASI state are all that there is of it. A worker takes and restores them; the
//! gateway only keeps them.

use super::files::{Bounds, ENTRY_BYTES_MAX};
use super::wasi::Lasting;
use crate::policy::Limits;
use postcard::de_flavors::{Flavor, Slice};
use rustix::param::page_size;
use serde::{Deserialize, Serialize};
use std::io;

/// Bytes of what a state may take for each number and text in it. One of these can become 30 bytes in memory, and a page or
/// a large file is one. Chosen: 100 000 empty files beside 64 MiB of memory, the most and the least that a policy can say,
/// have a third fewer.
const BYTES_PER_PIECE: usize = 16;

/// What an interpreter may take that comes back from rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Its memory. That of an image is never too large.
    pub memory_bytes: usize,
    /// The state as a whole, unpacked: memory, files, where they lie, and their names and times.
    pub bytes: usize,
}

impl Room {
    pub fn of(limits: &Limits) -> Self {
        let memory_bytes = limits.memory_bytes;
        let files = usize::try_from(limits.file_bytes).unwrap_or(usize::MAX);
        let entries = limits.files as usize * ENTRY_BYTES_MAX;
        Self { memory_bytes, bytes: (memory_bytes + (memory_bytes >> 8) + entries + (1 << 20)).saturating_add(files) }
    }
}

/// The pages of a memory that are not as in its image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Changes {
    pub memory_bytes: usize,
    /// Bytes of a page.
    pub page: usize,
    /// Which pages, in order.
    pub pages: Vec<u32>,
    /// What is in them, one after the other, as the difference (xor) to what is in the image: mostly
    /// zeros, since a run changes a counter here and a pointer there.
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
    /// Compressed: most of it is zeros.
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
        let pieces = Pieces { of: Slice::new(&plain), left: bytes_max / BYTES_PER_PIECE };
        let mut reader = postcard::Deserializer::from_flavor(pieces);
        let mut state = Self::deserialize(&mut reader).map_err(|error| broken(error.to_string()))?;
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

/// Reads no more pieces than so many: a hostile worker's list of a million names is small as it is packed, and large once
/// it is a tree.
struct Pieces<'de> {
    of: Slice<'de>,
    left: usize,
}

impl Pieces<'_> {
    fn one(&mut self) -> postcard::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        Ok(())
    }
}

impl<'de> Flavor<'de> for Pieces<'de> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    fn pop(&mut self) -> postcard::Result<u8> {
        self.one()?;
        self.of.pop()
    }

    fn size_hint(&self) -> Option<usize> {
        self.of.size_hint()
    }

    fn try_take_n(&mut self, bytes: usize) -> postcard::Result<&'de [u8]> {
        self.one()?;
        self.of.try_take_n(bytes)
    }

    fn finalize(self) -> postcard::Result<&'de [u8]> {
        self.of.finalize()
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

#[cfg(test)]
mod tests {
    use super::super::files::WorkspacePath;
    use super::*;
    use std::time::Duration;

    /// As a worker may send it: these pages and so many handles, each of a byte, and files as in the beginning.
    fn packed(pages: Vec<u32>, handles: u8) -> Vec<u8> {
        let mut plain = postcard::to_allocvec(&Changes { pages, ..Changes::none() }).unwrap();
        // 1024 and so many more.
        plain.extend([0x80 | handles, 8]);
        plain.resize(plain.len() + 1024 + usize::from(handles), 0);
        plain.extend(&postcard::to_allocvec(&Lasting::default()).unwrap()[1..]);
        lz4_flex::compress_prepend_size(&plain)
    }

    #[test]
    fn a_list_that_is_small_only_while_it_is_packed_is_refused() {
        let refused = |packed: &[u8], bytes_max| State::unpack(packed, bytes_max).unwrap_err().to_string();
        State::unpack(&packed(Vec::new(), 1), 1 << 20).unwrap_err();
        let many = refused(&packed(vec![0; 5000], 0), 64 << 10);
        assert_eq!(many, postcard::Error::DeserializeUnexpectedEnd.to_string());
        State::unpack(&packed(Vec::new(), 0), 64 << 10).unwrap();
    }

    #[test]
    fn as_many_files_as_a_policy_can_allow_are_unpacked() {
        let limits = Limits { files: 100_000, memory_bytes: 64 << 20, file_bytes: 0, ..Limits::default() };
        let mut state = State { changes: Changes::none(), wasi: Lasting::default() };
        let now = Duration::MAX;
        state.wasi.files.begin(Bounds::of(&limits), now);
        for number in 0..limits.files {
            let path = WorkspacePath::new(format!("{number:0255}")).unwrap();
            state.wasi.files.put(&path, b"", now).unwrap();
        }
        let again = State::unpack(&state.pack(), Room::of(&limits).bytes).unwrap();
        assert_eq!(again.wasi.files.list(), state.wasi.files.list());
    }
}
