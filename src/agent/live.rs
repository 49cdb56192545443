//! What a program writes while it runs, as text: no piece ends in half a character.

use super::script::Told;
use crate::chat::{Execution, Failure};
use crate::sandbox::Stream;
use std::collections::VecDeque;

/// Pieces that were written and not yet told. The sandbox lets through what a policy's limits keep and no more, so that
/// is how much there can be.
#[derive(Debug, Default)]
pub(super) struct Live {
    told: VecDeque<Told>,
    stdout: Text,
    stderr: Text,
}

impl Live {
    /// Takes what was written.
    pub fn hear(&mut self, stream: Stream, bytes: &[u8]) {
        let text = match stream {
            Stream::Stdout => self.stdout.take(bytes),
            Stream::Stderr => self.stderr.take(bytes),
        };
        self.push(stream, text);
    }

    /// Nothing more is written. Half a character is none, unless it was the limit that cut it.
    pub fn end(&mut self, ended: Result<Box<Execution>, Failure>) {
        let (stdout, stderr) = (self.stdout.end(), self.stderr.end());
        if ended.as_ref().is_ok_and(|execution| !execution.truncated) {
            self.push(Stream::Stdout, stdout);
            self.push(Stream::Stderr, stderr);
        }
        self.told.push_back(Told::Ended(ended));
    }

    /// The next piece.
    pub fn pop(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Pieces of one stream in a row become one.
    fn push(&mut self, stream: Stream, text: String) {
        match (self.told.back_mut(), stream) {
            _ if text.is_empty() => {}
            (Some(Told::Stdout(before)), Stream::Stdout) | (Some(Told::Stderr(before)), Stream::Stderr) => {
                before.push_str(&text);
            }
            (_, Stream::Stdout) => self.told.push_back(Told::Stdout(text)),
            (_, Stream::Stderr) => self.told.push_back(Told::Stderr(text)),
        }
    }
}

/// Bytes on their way to become text: the beginning of a character whose rest has not come, at most three of them.
#[derive(Debug, Default)]
struct Text(Vec<u8>);

impl Text {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let half = self.0.utf8_chunks().last().map_or(0, |last| half(last.invalid()));
        let rest = self.0.split_off(self.0.len() - half);
        lossy(&std::mem::replace(&mut self.0, rest))
    }

    fn end(&mut self) -> String {
        lossy(&std::mem::take(&mut self.0))
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The length of what could still become a character.
fn half(invalid: &[u8]) -> usize {
    match str::from_utf8(invalid) {
        Err(error) if error.error_len().is_none() => invalid.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::RawCall;
    use proptest::prelude::*;

    /// What is told of these pieces, each of which is fetched before the next is written, but for the end.
    fn told(pieces: &[&[u8]], truncated: bool) -> Vec<String> {
        let call = RawCall { id: String::new(), name: String::new(), arguments: String::new() };
        let mut live = Live::default();
        let mut texts = Vec::new();
        for piece in pieces {
            live.hear(Stream::Stdout, piece);
            texts.extend(live.pop());
        }
        live.end(Ok(Box::new(Execution { truncated, ..Execution::of(&call) })));
        texts.extend(std::iter::from_fn(|| live.pop()));
        assert!(matches!(texts.pop(), Some(Told::Ended(Ok(_)))), "the end is last");
        let texts = texts.into_iter().map(|told| match told {
            Told::Stdout(text) => text,
            other => panic!("not {other:?}"),
        });
        texts.collect()
    }

    #[test]
    fn what_can_be_no_character_is_told_at_once_and_half_a_character_at_the_end() {
        let pieces: [&[u8]; 2] = [b"a\xff", b"b\xc3"];
        assert_eq!(told(&pieces, false), ["a\u{fffd}", "b", "\u{fffd}"]);
        assert_eq!(told(&pieces, true), ["a\u{fffd}", "b"], "the limit cut it");
    }

    #[test]
    fn a_character_is_told_when_it_is_whole() {
        assert_eq!(told(&[b"\xf0", b"\x9f", b"\x98", b"\x80", b"!"], false), ["😀", "!"]);
    }

    #[test]
    fn pieces_of_one_stream_become_one_and_the_order_of_both_is_kept() {
        let mut live = Live::default();
        for (stream, bytes) in
            [(Stream::Stdout, b"a"), (Stream::Stdout, b"b"), (Stream::Stderr, b"c"), (Stream::Stdout, b"d")]
        {
            live.hear(stream, bytes);
        }
        let told: Vec<_> = std::iter::from_fn(|| live.pop()).map(|told| format!("{told:?}")).collect();
        assert_eq!(told, [r#"Stdout("ab")"#, r#"Stderr("c")"#, r#"Stdout("d")"#]);
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(bytes in prop::collection::vec(prop::sample::select(&b"a\xc3\xa9\xf0\x9f\x98\x80\xff"[..]), 0..40), at in 0_usize..40) {
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(told(&[left, right], false).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
