//! A text of bounded size: of more than fits, the beginning and the end are kept and the middle is cut out.
//!
//! Both ends matter to a model: the beginning of its output says what was printed, the end how it came out.

use std::collections::VecDeque;

/// Bytes of what stands where the middle was, at most: `…[18446744073709551615 bytes omitted]…`.
pub(super) const MARK_BYTES_MAX: usize = 42;

/// Collects chunks of UTF-8 text, of which it keeps `bytes_max` bytes.
#[derive(Debug)]
pub(super) struct Cut {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_bytes_max: usize,
    tail_bytes_max: usize,
    dropped_bytes: u64,
}

impl Cut {
    pub fn new(bytes_max: usize) -> Self {
        let tail_bytes_max = bytes_max / 2;
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_bytes_max: bytes_max - tail_bytes_max,
            tail_bytes_max,
            dropped_bytes: 0,
        }
    }

    /// Takes a chunk, and returns how many bytes from its start went into the beginning, which is final.
    pub fn push(&mut self, chunk: &[u8]) -> usize {
        let to_head = chunk.len().min(self.head_bytes_max - self.head.len());
        let (head, rest) = chunk.split_at(to_head);
        self.head.extend_from_slice(head);
        self.push_to_tail(rest);
        to_head
    }

    fn push_to_tail(&mut self, rest: &[u8]) {
        let (passing, kept) = rest.split_at(rest.len().saturating_sub(self.tail_bytes_max));
        let overflow = (self.tail.len() + kept.len()).saturating_sub(self.tail_bytes_max);
        self.tail.drain(..overflow);
        self.tail.extend(kept);
        self.dropped_bytes += (passing.len() + overflow) as u64;
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.dropped_bytes == 0
    }

    /// The text, and how many bytes were cut out of it. What is not UTF-8 becomes replacement characters, but a character
    /// that the cut goes through is left out.
    pub fn finish(self) -> (String, u64) {
        let Self { mut head, tail, dropped_bytes, .. } = self;
        let tail = Vec::from(tail);
        if dropped_bytes == 0 {
            head.extend_from_slice(&tail);
            return (lossy(&head), 0);
        }
        let whole_head = without_half_character(&head);
        let half = tail.iter().take(3).take_while(|byte| is_continuation(**byte)).count();
        let omitted_bytes = dropped_bytes + (head.len() - whole_head.len() + half) as u64;
        (format!("{}…[{omitted_bytes} bytes omitted]…{}", lossy(whole_head), lossy(&tail[half..])), omitted_bytes)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

fn without_half_character(bytes: &[u8]) -> &[u8] {
    match str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(bytes_max: usize, chunks: &[&[u8]]) -> String {
        let mut cut = Cut::new(bytes_max);
        for chunk in chunks {
            cut.push(chunk);
        }
        cut.finish().0
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        assert_eq!(text_of(10, &[b"a\xffb"]), "a\u{fffd}b");
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing_but_the_count() {
        assert_eq!(text_of(0, &[b"abc"]), "…[3 bytes omitted]…");
    }

    #[test]
    fn what_fits_exactly_is_whole() {
        assert_eq!(text_of(6, &[b"abc", b"def"]), "abcdef");
    }

    #[test]
    fn the_longest_mark_is_known() {
        assert_eq!(format!("…[{} bytes omitted]…", u64::MAX).len(), MARK_BYTES_MAX);
    }

    #[test]
    fn of_more_than_fits_both_ends_are_kept() {
        assert_eq!(text_of(6, &[b"abc", b"defgh", b"i"]), "abc…[3 bytes omitted]…ghi");
    }

    #[test]
    fn a_cut_never_halves_a_character() {
        assert_eq!(text_of(4, &["éaéé".as_bytes(), "éa".as_bytes()]), "é…[7 bytes omitted]…a");
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in "\\PC{0,60}", bytes_max in 0_usize..80, at in 0_usize..60) {
            let bytes = text.as_bytes();
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(text_of(bytes_max, &[left, right]), text_of(bytes_max, &[bytes]));
        }
    }
}
