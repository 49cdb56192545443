//! A passed-through stream that another backend may have to end: what is held back of it, and how the ends are joined.
//!
//! Frames go out as they came, but for two kinds. Those of native calls wait for the answer's end, since a model cannot go
//! on in the middle of a call. And of a backend that goes on, the first word is left out and the counts are made whole.

use super::delta;
use super::raw::FRAME_END;
use super::resume::{KEPT_BYTES_MAX, Told};
use crate::chat::{Delta, Usage};
use crate::sse::{DONE, Frames};
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde_json::Value;

/// Where a chunk says that it carries pieces of calls, that the answer ends, and what it has cost.
const CALLS: &[u8] = b"\"tool_calls\":";
const FINISH: &[u8] = b"\"finish_reason\":";
const USAGE: &[u8] = b"\"usage\":";

/// What a client has of a stream, and what it will have next.
#[derive(Default)]
pub(super) struct Splice {
    /// Frames that went out, until there are too many of them.
    sent: Vec<u8>,
    held: BytesMut,
    too_long: bool,
    /// What the backends before this one have given.
    told: Option<Told>,
    /// The backend that goes on has not said anything yet.
    begins: bool,
}

impl Splice {
    /// What of these whole frames goes out now.
    pub fn pass(&mut self, frames: Bytes) -> Bytes {
        let frames = if self.told.is_some() { self.mend(&frames) } else { frames };
        if self.too_long {
            return frames;
        }
        let out = self.hold(frames);
        if self.sent.len() + self.held.len() + out.len() > KEPT_BYTES_MAX {
            (self.too_long, self.sent) = (true, Vec::new());
            return [&out[..], &self.held.split()].concat().into();
        }
        self.sent.extend_from_slice(&out);
        out
    }

    /// The backend is gone: what the client has. What was held back never was.
    pub fn cut(&mut self) -> Told {
        self.held.clear();
        let (mut told, mut frames) = (Told::default(), Frames::new(usize::MAX));
        if self.too_long {
            told.lose_all();
            return told;
        }
        frames.feed(&self.sent);
        while let Ok(Some(frame)) = frames.next_frame() {
            if let Ok(delta) = delta::read(&frame) {
                told.hear(&delta);
            }
        }
        told
    }

    /// Another backend goes on after this.
    pub fn goes_on(&mut self, told: Told) {
        (self.told, self.begins) = (Some(told), true);
    }

    fn hold(&mut self, frames: Bytes) -> Bytes {
        let mut out = frames;
        if self.held.is_empty() {
            let Some(at) = followed_by(&out, CALLS, b'[') else { return out };
            let begin = memmem::rfind(&out[..at], FRAME_END).map_or(0, |end| end + FRAME_END.len());
            self.held.extend_from_slice(&out.split_off(begin));
        } else {
            self.held.extend_from_slice(&std::mem::take(&mut out));
        }
        let is_over = followed_by(&self.held, FINISH, b'"').is_some() || memmem::find(&self.held, DONE).is_some();
        if is_over { [&out[..], &self.held.split()].concat().into() } else { out }
    }

    /// Frames of a backend that goes on, as those of one answer.
    fn mend(&mut self, frames: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(frames.len());
        let mut from = 0;
        for end in memmem::find_iter(frames, FRAME_END).map(|at| at + FRAME_END.len()) {
            let frame = &frames[from..end];
            from = end;
            let data = frame.strip_prefix(b"data:").unwrap_or(frame).trim_ascii();
            if self.begins && delta::read(data) == Ok(Delta::default()) {
                continue;
            }
            self.begins = false;
            match self.whole_usage(data) {
                Some(mended) => out.extend([b"data: ", mended.as_bytes(), FRAME_END].concat()),
                None => out.extend_from_slice(frame),
            }
        }
        out.extend_from_slice(&frames[from..]);
        out.into()
    }

    /// The chunk with the counts of the whole answer, if it has counts.
    fn whole_usage(&self, data: &[u8]) -> Option<String> {
        let told = self.told.as_ref()?;
        followed_by(data, USAGE, b'{')?;
        let mut chunk: Value = serde_json::from_slice(data).ok()?;
        let usage: Usage = serde_json::from_value(chunk["usage"].clone()).ok()?;
        let whole = serde_json::to_value(told.whole(usage)).ok()?;
        for (name, count) in whole.as_object()? {
            chunk["usage"][name] = count.clone();
        }
        Some(chunk.to_string())
    }
}

/// Where `name` stands with `next` as the first byte of its value.
fn followed_by(text: &[u8], name: &[u8], next: u8) -> Option<usize> {
    memmem::find_iter(text, name).find(|at| text[at + name.len()..].trim_ascii_start().first() == Some(&next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(piece: &str) -> String {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{piece}\",\"tool_calls\":null}},\"finish_reason\":null}}]}}\n\n"
        )
    }

    fn call(arguments: &str) -> String {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"function\":{{\"arguments\":\"{arguments}\"}}}}]}}}}]}}\n\n"
        )
    }

    const ROLE: &str =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const COUNTS: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17,\"x\":1}}\n\n";

    fn pass(splice: &mut Splice, frames: &str) -> String {
        String::from_utf8(splice.pass(Bytes::copy_from_slice(frames.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn text_goes_out_at_once_and_byte_for_byte() {
        let mut splice = Splice::default();
        for frames in [ROLE.to_owned(), text("a") + &text("b"), STOP.to_owned() + COUNTS, "data: [DONE]\n\n".into()] {
            assert_eq!(pass(&mut splice, &frames), frames);
        }
    }

    #[test]
    fn calls_wait_for_the_end_and_come_out_whole() {
        let mut splice = Splice::default();
        assert_eq!(pass(&mut splice, &(text("a") + &call("{"))), text("a"));
        assert_eq!(pass(&mut splice, &call("}")), "");
        assert_eq!(pass(&mut splice, STOP), call("{") + &call("}") + STOP);
        assert_eq!(pass(&mut splice, COUNTS), COUNTS);
    }

    #[test]
    fn what_was_held_back_is_not_part_of_what_was_told() {
        let mut splice = Splice::default();
        pass(&mut splice, &(ROLE.to_owned() + &text("one ") + &text("two") + &call("{")));
        let mut told = splice.cut();
        let ask = crate::backend::resume::tests::ask("{}");
        let rest = told.rest_of(&ask).unwrap();
        assert!(String::from_utf8(rest.render().concat()).unwrap().contains("one two"));
        splice.goes_on(told);
        assert_eq!(pass(&mut splice, ROLE), "");
        assert_eq!(pass(&mut splice, &(text(" three") + &call("{}"))), text(" three"));
        let end = pass(&mut splice, &(STOP.to_owned() + COUNTS));
        assert!(end.starts_with(&(call("{}") + STOP)), "{end}");
        let counts: Value = serde_json::from_str(end.lines().last().unwrap_or_default().trim_start_matches("data: "))
            .or_else(|_| serde_json::from_str(end.trim_end().rsplit("data: ").next().unwrap_or_default()))
            .unwrap();
        let usage = serde_json::json!({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17, "x": 1});
        assert_eq!(counts["usage"], usage);
    }

    #[test]
    fn an_answer_that_is_too_long_goes_out_and_is_not_continued() {
        let mut splice = Splice::default();
        let long = text(&"x".repeat(KEPT_BYTES_MAX));
        assert_eq!(pass(&mut splice, &long), long);
        assert_eq!(pass(&mut splice, &call("{")), call("{"));
        assert!(splice.cut().rest_of(&crate::backend::resume::tests::ask("{}")).is_err());
        let mut splice = Splice::default();
        let long = call(&"x".repeat(KEPT_BYTES_MAX));
        assert_eq!(pass(&mut splice, &long), long);
    }
}
