//! A backend's answer as bytes, in whole frames when it is a stream: nothing is parsed but what is wrong.

use super::client::{Answer, Client, Patience, Sent, Target};
use super::trouble::{Trouble, in_stream};
use crate::chat::{Nonsense, Walk};
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a stream ends that was not cut.
pub(super) const LAST_FRAME: &[u8] = b"data: [DONE]\n\n";
pub(super) const FRAME_END: &[u8] = b"\n\n";

/// What an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Events.
    Stream,
    /// One whole chat completion.
    Completion,
    /// Events where it says so of itself, else JSON.
    Either,
}

/// An answer, read as it comes. Dropping it before its end aborts the request at the backend.
pub(super) struct Raw {
    answer: Answer,
    streamed: bool,
    patience: Patience,
    /// The beginning of a frame whose end has not come yet: half a frame is never given.
    tail: BytesMut,
    /// Comes after what was given.
    fault: Option<Trouble>,
    /// Something of the answer was given.
    begun: bool,
    done: bool,
    /// Since then there have been only comments, which are no life.
    comments_since: Option<Instant>,
}

impl Raw {
    /// Sends a request and waits for the first bytes of its answer.
    pub async fn begin(
        client: &Client,
        target: &Arc<Target>,
        patience: Patience,
        sent: Sent<'_>,
        form: Form,
    ) -> Result<(Self, Bytes), Trouble> {
        let begun = async {
            let answer = client.send(target, sent).await?;
            let streamed = match form {
                Form::Stream => true,
                Form::Completion => false,
                Form::Either => answer.is("text/event-stream"),
            };
            let mut raw = Self {
                answer,
                streamed,
                patience,
                tail: BytesMut::new(),
                fault: None,
                begun: false,
                done: false,
                comments_since: None,
            };
            let first = raw.read().await.unwrap_or_else(|| Err(Trouble::full(None)));
            if first.as_ref().is_err_and(|trouble| trouble.over) {
                raw.answer.over();
            }
            Ok((raw, first?))
        };
        let (mut raw, first) = patience.wait(patience.first_byte, begun).await??;
        let first = if raw.streamed { first } else { raw.whole(first, form).await? };
        Ok((raw, first))
    }

    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// A whole answer is of no use in part. So it is given when it is there, while another backend could still give it;
    /// what is larger than a frame may be goes out as it comes. What does not begin like one is not waited for: a page of
    /// some other server, or events that nobody asked for and that may never end.
    async fn whole(&mut self, first: Bytes, form: Form) -> Result<Bytes, Trouble> {
        if !begins(&first, form) {
            return Err(Trouble::garbage());
        }
        let (mut bytes, mut pieces) = (first.len(), vec![first]);
        while bytes <= self.patience.frame_bytes_max {
            let Some(piece) = self.next().await else { break };
            let piece = piece?;
            bytes += piece.len();
            pieces.push(piece);
        }
        let only = if pieces.len() == 1 { pieces.pop() } else { None };
        let answer = only.unwrap_or_else(|| pieces.concat().into());
        let is_one = bytes > self.patience.frame_bytes_max
            || match form {
                Form::Completion => is_completion(&answer) == Ok(true),
                Form::Either | Form::Stream => serde_json::from_slice::<IgnoredAny>(&answer).is_ok(),
            };
        if !is_one {
            Err(Trouble::garbage())
        } else if is_aborted(&answer) {
            Err(Trouble::aborted())
        } else {
            Ok(answer)
        }
    }

    /// The last frame has been given.
    pub fn is_done(&self) -> bool {
        self.done
    }

    pub fn content_type(&self) -> Option<HeaderValue> {
        self.answer.content_type.clone()
    }

    /// The next bytes: whole frames of a stream, anything of a whole answer. `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, Trouble>> {
        // What happens after the end is nobody's business.
        let read = if let Some(trouble) = self.fault.take().filter(|_| !self.done) {
            Some(Err(trouble))
        } else {
            let waited = self.comments_since.map_or(Duration::ZERO, |since| since.elapsed());
            let patience = self.patience;
            let read = patience.wait_on(waited, patience.idle, self.read()).await;
            read.unwrap_or_else(|trouble| Some(Err(trouble)))
        };
        if matches!(&read, Some(Err(trouble)) if trouble.over) {
            self.answer.over();
        }
        if self.done && matches!(&read, Some(Err(_))) { None } else { read }
    }

    async fn read(&mut self) -> Option<Result<Bytes, Trouble>> {
        loop {
            let bytes = match self.answer.bytes().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(trouble)) => return Some(Err(trouble)),
                None if !self.streamed || self.done => return None,
                None if self.begun || self.tail.starts_with(b"data:") => return Some(Err(Trouble::died())),
                // Something came, and nothing of an answer.
                None if self.comments_since.is_some() || !self.tail.is_empty() => return Some(Err(Trouble::garbage())),
                None => return None,
            };
            if !self.streamed {
                return Some(Ok(bytes));
            }
            let mut whole = self.whole_frames(bytes);
            let fault = fault_in(&whole).map(|(at, trouble)| {
                whole.truncate(at);
                trouble
            });
            let says = has_data(&whole);
            // Nobody can move once the client has its status, and a comment is not worth that.
            let is_given = says || (self.begun && !whole.is_empty());
            match fault {
                Some(trouble) if !is_given => return Some(Err(trouble)),
                fault => self.fault = fault,
            }
            if says {
                self.begun = true;
                self.comments_since = None;
                self.done |= ends_the_stream(&whole);
            } else if !whole.is_empty() {
                self.comments_since.get_or_insert_with(Instant::now);
            }
            if is_given {
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
        let searched = self.tail.len().saturating_sub(FRAME_END.len() - 1);
        self.tail.extend_from_slice(&bytes);
        let mut end = memmem::rfind(&self.tail[searched..], FRAME_END).map(|at| searched + at);
        if end.is_none() && memchr::memchr(b'\r', &self.tail[searched..]).is_some() {
            // Lines may end in CRLF as well. JSON has neither of the two within it.
            self.tail = self.tail.iter().copied().filter(|byte| *byte != b'\r').collect();
            end = memmem::rfind(&self.tail, FRAME_END);
        }
        end.map_or_else(Bytes::new, |at| self.tail.split_to(at + FRAME_END.len()).freeze())
    }
}

/// Whether an answer that is no stream may begin like this. White space alone says nothing yet.
fn begins(first: &[u8], form: Form) -> bool {
    match first.trim_ascii_start().first() {
        None | Some(b'{') => true,
        Some(b'[') => form != Form::Completion,
        Some(_) => false,
    }
}

/// Whether this is an object with an array of choices. It is stepped over and not read: a cut answer shows by that, too,
/// and what is within its texts is its reader's business.
fn is_completion(text: &[u8]) -> Result<bool, Nonsense> {
    let (mut walk, mut has_choices) = (Walk::object(text)?, false);
    while walk.goes_on()? {
        let (key, value) = (walk.key()?, walk.value()?);
        has_choices |= walk.text(key) == br#""choices""# && walk.text(value).starts_with(b"[");
    }
    Ok(has_choices && walk.is_all())
}

/// Whether this, a chunk or a whole answer, is the end of a request that was aborted at the backend. It is read only where
/// it has that word, with quotes that are no string's own.
fn is_aborted(text: &[u8]) -> bool {
    memmem::find(text, ABORT.as_bytes()).is_some()
        && serde_json::from_slice::<Ended<'_>>(text).is_ok_and(|ended| {
            ended.choices.iter().any(|choice| choice.finish_reason.is_some_and(|reason| reason.get() == ABORT))
        })
}

/// How a backend says that.
const ABORT: &str = r#""abort""#;

#[derive(Deserialize)]
struct Ended<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

/// Whether there is anything of an answer in some frames. Comments and other fields are none of it.
fn has_data(frames: &[u8]) -> bool {
    frames.starts_with(b"data:") || memmem::find(frames, b"\ndata:").is_some()
}

/// Whether the last of some frames is the end of all.
fn ends_the_stream(frames: &[u8]) -> bool {
    let last = frames.trim_ascii_end();
    let last = &last[memchr::memrchr(b'\n', last).map_or(0, |at| at + 1)..];
    last.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == b"[DONE]")
}

/// The first frame that is no step of an answer, and where it begins: an error, which SGLang sends inside a 200 and at any
/// time, the end of a request that was aborted there, or data that is no JSON object.
fn fault_in(frames: &[u8]) -> Option<(usize, Trouble)> {
    let mut starts = std::iter::once(0).chain(memmem::find_iter(frames, FRAME_END).map(|at| at + FRAME_END.len()));
    starts.find_map(|at| Some((at, fault_of(&frames[at..])?)))
}

fn fault_of(frame: &[u8]) -> Option<Trouble> {
    let frame = &frame[..memmem::find(frame, FRAME_END).unwrap_or(frame.len())];
    let data = match frame.strip_prefix(b"data:") {
        Some(data) => data,
        // Comments and other fields may stand before it.
        None => &frame[memmem::find(frame, b"\ndata:")? + b"\ndata:".len()..],
    };
    let data = data.trim_ascii();
    if data.starts_with(br#"{"error""#) {
        let value: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
        return Some(in_stream(&value["error"]));
    }
    if is_aborted(data) {
        return Some(Trouble::aborted());
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
            (": a comment\nevent: x\ndata: oops\n\n", Some(0)),
            ("data: {}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n", Some(10)),
            ("data: {\"choices\":[{\"delta\":{\"content\":\"abort\"},\"finish_reason\":null}]}\n\n", None),
            ("data: {\"choices\":[{\"index\":0},{\"finish_reason\": \"abort\" }]}\n\n", Some(0)),
            (": a comment\n\ndata: {}\n\nevent: x\ndata: {\"error\":{}}\n\n", Some(23)),
            ("", None),
        ] {
            assert_eq!(fault_in(frames.as_bytes()).map(|(at, _)| at), at, "{frames}");
        }
    }

    #[test]
    fn a_completion_is_an_object_with_an_array_of_choices_and_whole() {
        for text in [
            "",
            "[]",
            "{}",
            "<html></html>",
            r#"{"hello":"world"}"#,
            r#"{"choices":7}"#,
            r#"{"id":"choices","x":{"choices":[]}}"#,
            r#"{"choices":[{"message":{"content":"cu"#,
            r#"{"choices":[{"message":{"content":"cut"}}]"#,
            r#"{"choices":[]} {}"#,
        ] {
            assert_ne!(is_completion(text.as_bytes()), Ok(true), "{text}");
        }
        for text in [r#"{"choices":[]}"#, " {\"id\":\"a\",\n\"choices\" : [ {\"index\":0} ] , \"usage\":{}}\n"] {
            assert_eq!(is_completion(text.as_bytes()), Ok(true), "{text}");
        }
    }
}
