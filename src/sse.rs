//! Server-sent events: bytes to frames and back. Incremental and pure.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

/// Cuts a stream of bytes into the values of its `data:` fields.
///
/// Comments, other fields and blank lines are skipped, `\r\n` is a line's end like `\n`, and several `data:` lines
/// of one event are joined with `\n`, as the HTML standard says. A frame is a slice of the bytes that came in
/// wherever it lies in one piece.
#[derive(Debug)]
pub struct Frames {
    pending: BytesMut,
    /// Everything before this place of `pending` was already searched for a line's end.
    searched: usize,
    event: Option<Bytes>,
    bytes_max: usize,
}

/// A frame grew over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {0} bytes")]
pub struct FrameTooLong(pub usize);

impl Frames {
    /// `bytes_max` bounds one line and one event.
    pub fn new(bytes_max: usize) -> Self {
        Self { pending: BytesMut::new(), searched: 0, event: None, bytes_max }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// When a frame is longer than the limit. The stream is of no use after that.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLong> {
        loop {
            let Some(at) = memchr(b'\n', &self.pending[self.searched..]) else {
                self.searched = self.pending.len();
                let held = self.pending.len() + self.event.as_ref().map_or(0, Bytes::len);
                return if held > self.bytes_max { Err(FrameTooLong(self.bytes_max)) } else { Ok(None) };
            };
            let mut line = self.pending.split_to(self.searched + at + 1).freeze();
            self.searched = 0;
            line.truncate(line.len() - 1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.is_empty() {
                if let Some(event) = self.event.take() {
                    return Ok(Some(event));
                }
            } else if let Some(value) = data_of(&line) {
                let joined = match self.event.take() {
                    None => value,
                    Some(before) => Bytes::from([&before[..], b"\n", &value[..]].concat()),
                };
                if joined.len() > self.bytes_max {
                    return Err(FrameTooLong(self.bytes_max));
                }
                self.event = Some(joined);
            }
        }
    }

    /// Bytes that were fed and are part of no frame yet: a stream that ends with some was cut.
    pub fn is_mid_frame(&self) -> bool {
        !self.pending.is_empty() || self.event.is_some()
    }
}

fn data_of(line: &Bytes) -> Option<Bytes> {
    let rest = line.strip_prefix(b"data")?;
    match rest {
        [] => Some(Bytes::new()),
        [b':', b' ', ..] => Some(line.slice(6..)),
        [b':', ..] => Some(line.slice(5..)),
        _ => None,
    }
}

/// One frame on the wire. `data` is JSON, which has no raw line ends.
pub fn frame(data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 8);
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

/// The last frame of every OpenAI stream.
pub const DONE: &[u8] = b"[DONE]";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(pieces: &[&[u8]]) -> Vec<String> {
        let mut frames = Frames::new(1000);
        let mut out = Vec::new();
        for piece in pieces {
            frames.feed(piece);
            while let Some(frame) = frames.next_frame().expect("short frames") {
                out.push(String::from_utf8_lossy(&frame).into_owned());
            }
        }
        out
    }

    #[test]
    fn fields_comments_and_line_ends_are_read_as_the_standard_says() {
        let stream =
            b": ping\n\ndata: a\r\n\r\nevent: x\nid: 3\ndata:b\n\ndata: c\ndata:  d\n\ndatax: no\n\ndata\n\ndata: cut";
        assert_eq!(frames(&[stream]), ["a", "b", "c\n d", ""]);
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_whole() {
        let mut frames = Frames::new(10);
        frames.feed(b"data: 0123456789");
        assert_eq!(frames.next_frame(), Err(FrameTooLong(10)));
    }

    #[test]
    fn a_cut_stream_is_noticed() {
        let mut frames = Frames::new(100);
        frames.feed(b"data: a\n\n");
        assert_eq!(frames.next_frame(), Ok(Some(Bytes::from_static(b"a"))));
        assert!(!frames.is_mid_frame());
        frames.feed(b"data: b\n");
        assert_eq!(frames.next_frame(), Ok(None));
        assert!(frames.is_mid_frame());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(payloads in prop::collection::vec("[a-z{}\": ]{0,20}", 0..6), cuts in prop::collection::vec(1usize..9, 0..60)) {
            let stream: Vec<u8> = payloads.iter().flat_map(|data| frame(data.as_bytes()).to_vec()).collect();
            let mut pieces = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            pieces.push(rest);
            prop_assert_eq!(frames(&pieces), frames(&[&stream]));
            prop_assert_eq!(frames(&[&stream]), payloads);
        }
    }
}
