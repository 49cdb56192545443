//! Bytes that have come together leave together.

use bytes::{Bytes, BytesMut};

/// Bytes that are handed on at once where more have come. Chosen: what a connection reads at once.
const TOGETHER_BYTES_MAX: usize = 16 << 10;

/// Pieces, put together. A single one is not copied.
#[derive(Default)]
pub(super) struct Together {
    first: Bytes,
    more: BytesMut,
}

impl Together {
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.first.len().max(self.more.len()) >= TOGETHER_BYTES_MAX
    }

    pub fn extend(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else if !bytes.is_empty() {
            if self.more.is_empty() {
                // Chunks of one answer are about as long as each other.
                self.more.reserve(TOGETHER_BYTES_MAX.min(4 * (self.first.len() + bytes.len())));
                self.more.extend_from_slice(&self.first);
            }
            self.more.extend_from_slice(&bytes);
        }
    }

    pub fn bytes(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_one_and_a_single_one_is_not_copied() {
        let piece = Bytes::from("abc".to_owned());
        let mut together = Together::default();
        together.extend(Bytes::new());
        assert!(together.is_empty());
        together.extend(piece.clone());
        together.extend(Bytes::new());
        assert_eq!(together.bytes().as_ptr(), piece.as_ptr());
        let mut together = Together::default();
        for text in ["a", "", "bc", "def"] {
            together.extend(Bytes::from_static(text.as_bytes()));
        }
        assert!(!together.is_full());
        together.extend(vec![b'x'; TOGETHER_BYTES_MAX].into());
        assert!(together.is_full());
        let all = together.bytes();
        assert!(all.starts_with(b"abcdefx") && all.len() == 6 + TOGETHER_BYTES_MAX);
    }
}
