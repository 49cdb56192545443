//! A backend's answer as bytes, in whole frames when it is a stream: nothing is parsed but what is wrong.

use super::client::{Answer, Client, Patience, Sent, Target};
use super::trouble::{Trouble, in_stream};
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use memchr::memmem;
use serde::de::IgnoredAny;
use std::sync::Arc;
use std::time::Duration;

/// How a stream ends that was not cut.
pub(super) const LAST_FRAME: &[u8] = b"data: [DONE]\n\n";
pub(super) const FRAME_END: &[u8] = b"\n\n";

/// An answer, read as it comes. Dropping it before its end aborts the request at the backend.
pub(super) struct Raw {
    answer: Answer,
    streamed: bool,
    patience: Patience,
    /// The beginning of a frame whose end has not come yet: half a frame is never given.
    tail: BytesMut,
    /// Comes after what was given.
    fault: Option<Trouble>,
    begun: bool,
    done: bool,
}

impl Raw {
    /// Sends a request and waits for the first bytes of its answer. Whether that is a stream, it says itself where nobody
    /// knows.
    pub async fn begin(
        client: &Client,
        target: &Arc<Target>,
        patience: Patience,
        sent: Sent<'_>,
        streamed: Option<bool>,
    ) -> Result<(Self, Bytes), Trouble> {
        let answer = client.send(target, patience, sent).await?;
        let streamed = streamed.unwrap_or_else(|| answer.is("text/event-stream"));
        let mut raw =
            Self { answer, streamed, patience, tail: BytesMut::new(), fault: None, begun: false, done: false };
        let first = raw.read_within(patience.first_byte).await.ok_or_else(|| Trouble::full(None))??;
        let first = if streamed { first } else { raw.whole(first).await? };
        Ok((raw, first))
    }

    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// A whole answer is of no use in part. So it is given when it is there, while another backend could still give it;
    /// what is larger than a frame may be goes out as it comes.
    async fn whole(&mut self, first: Bytes) -> Result<Bytes, Trouble> {
        let (mut bytes, mut pieces) = (first.len(), vec![first]);
        while bytes <= self.patience.frame_bytes_max {
            let Some(piece) = self.next().await else { break };
            let piece = piece?;
            bytes += piece.len();
            pieces.push(piece);
        }
        let only = if pieces.len() == 1 { pieces.pop() } else { None };
        let answer = only.unwrap_or_else(|| pieces.concat().into());
        let is_json = bytes <= self.patience.frame_bytes_max && self.answer.is("application/json");
        let is_cut = is_json && serde_json::from_slice::<IgnoredAny>(&answer).is_err();
        if is_cut { Err(Trouble::garbage()) } else { Ok(answer) }
    }

    pub fn content_type(&self) -> Option<HeaderValue> {
        self.answer.content_type.clone()
    }

    /// The next bytes: whole frames of a stream, anything of a whole answer. `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, Trouble>> {
        match self.fault.take() {
            Some(trouble) => Some(Err(trouble)),
            None => self.read_within(self.patience.idle).await,
        }
    }

    async fn read_within(&mut self, wait: Duration) -> Option<Result<Bytes, Trouble>> {
        let patience = self.patience;
        let read = patience.wait(wait, self.read()).await.unwrap_or_else(|trouble| Some(Err(trouble)));
        if matches!(&read, Some(Err(trouble)) if trouble.over) {
            self.answer.over();
        }
        read
    }

    async fn read(&mut self) -> Option<Result<Bytes, Trouble>> {
        loop {
            let bytes = match self.answer.bytes().await {
                Some(Ok(bytes)) => bytes,
                // What happens after the end is nobody's business.
                Some(Err(_)) if self.done => return None,
                Some(Err(trouble)) => return Some(Err(trouble)),
                None if self.streamed && !self.done && self.begun => {
                    self.done = true;
                    return Some(Err(Trouble::died()));
                }
                None => return None,
            };
            if !self.streamed {
                return Some(Ok(bytes));
            }
            let mut whole = self.whole_frames(bytes);
            if let Some((at, trouble)) = fault_in(&whole) {
                if at == 0 {
                    return Some(Err(trouble));
                }
                whole.truncate(at);
                self.fault = Some(trouble);
            }
            if !whole.is_empty() {
                self.begun = true;
                self.done |= ends_the_stream(&whole);
                return Some(Ok(whole));
            }
            if self.tail.len() > self.patience.frame_bytes_max {
                return Some(Err(Trouble::garbage()));
            }
        }
    }

    /// Everything up to the last frame's end; as it came, without a copy, when it came in whole frames.
    fn whole_frames(&mut self, bytes: Bytes) -> Bytes {
        if self.tail.is_empty() && bytes.ends_with(FRAME_END) {
            return bytes;
        }
        self.tail.extend_from_slice(&bytes);
        match memmem::rfind(&self.tail, FRAME_END) {
            Some(at) => self.tail.split_to(at + FRAME_END.len()).freeze(),
            None => Bytes::new(),
        }
    }
}

/// Whether the last of some frames is the end of all.
fn ends_the_stream(frames: &[u8]) -> bool {
    let last = frames.trim_ascii_end();
    let last = &last[memchr::memrchr(b'\n', last).map_or(0, |at| at + 1)..];
    last.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == b"[DONE]")
}

/// The first frame that is no step of an answer, and where it begins: an error, which SGLang sends inside a 200 and at any
/// time, or data that is no JSON object.
fn fault_in(frames: &[u8]) -> Option<(usize, Trouble)> {
    let mut starts = std::iter::once(0).chain(memmem::find_iter(frames, FRAME_END).map(|at| at + FRAME_END.len()));
    starts.find_map(|at| Some((at, fault_of(&frames[at..])?)))
}

fn fault_of(frame: &[u8]) -> Option<Trouble> {
    // Comments and other fields are none of an answer's.
    let data = frame.strip_prefix(b"data:")?;
    let data = data[..memmem::find(data, FRAME_END).unwrap_or(data.len())].trim_ascii();
    if data.starts_with(br#"{"error""#) {
        let value: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
        return Some(in_stream(&value["error"]));
    }
    let is_step = (data.starts_with(b"{") && data.ends_with(b"}")) || data == b"[DONE]";
    (!is_step).then(Trouble::garbage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_where_they_begin() {
        for (frames, at) in [
            ("data: {\"error\":{\"code\":503}}\n\n", Some(0)),
            ("data: {}\n\ndata: {\"error\":{\"code\":503}}\n\ndata: [DONE]\n\n", Some(10)),
            ("data: {}\n\ndata:oops\n\n", Some(10)),
            ("data: {\"id\": \"cu\n\n", Some(0)),
            ("data:{\"a\":\"data: oops\"}\n\n: a comment\n\nevent: x\n\ndata: [DONE]\n\n", None),
            ("", None),
        ] {
            assert_eq!(fault_in(frames.as_bytes()).map(|(at, _)| at), at, "{frames}");
        }
    }
}
