//! A writing as the steps of a stream: what SGLang's tool-call parser lets through, and when.

use super::Version;
use super::tokens;
use super::writing::{End, Kind, Segment, Writing};
use crate::chat::Finish;
use serde_json::Value;
use std::collections::VecDeque;

/// `<|im_end|>` in Qwen's vocabulary: what `matched_stop` says after a natural end.
const END_TOKEN: u32 = 151_645;

/// One step of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The first chunk.
    Role,
    /// Thinking.
    Reasoning(String),
    /// Answer text.
    Content(String),
    /// A call of the named tool begins.
    Call(String),
    /// More of its arguments.
    Arguments(String),
    /// Written, but nothing is sent for it.
    Silence,
    /// The last chunk of the choice.
    Finish(Ending),
}

/// The end of a choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// `finish_reason`.
    pub reason: Finish,
    /// `matched_stop`.
    pub matched: Value,
}

impl Ending {
    /// After `/abort_request`.
    pub fn abort() -> Self {
        Self { reason: Finish::Abort, matched: Value::Null }
    }

    /// After a writing's last token.
    pub fn of(writing: &Writing, native_calls: bool) -> Self {
        let natural = |reason| Self { reason, matched: END_TOKEN.into() };
        match &writing.end {
            End::Length => Self { reason: Finish::Length, matched: Value::Null },
            End::StopString(stop) => Self { reason: Finish::Stop, matched: stop.as_str().into() },
            End::Natural if native_calls && writing.calls() => natural(Finish::ToolCalls),
            End::Natural => natural(Finish::Stop),
        }
    }
}

/// The steps of one choice, each with the tokens written since the step before.
#[derive(Debug)]
pub struct Steps {
    version: Version,
    native_calls: bool,
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that were handed out.
    spoken: usize,
    /// Arguments of the open call that were handed out.
    arguments: usize,
    ready: VecDeque<(Step, u32)>,
    ending: Option<Ending>,
}

impl Steps {
    /// The steps of a writing. With `native_calls` calls become call steps, else they stay text.
    pub fn new(version: Version, native_calls: bool, mut writing: Writing) -> Self {
        if native_calls {
            misread_tags(version, &mut writing);
        }
        Self {
            version,
            native_calls,
            ending: Some(Ending::of(&writing, native_calls)),
            segments: writing.segments.into(),
            spoken: 0,
            arguments: 0,
            ready: VecDeque::from([(Step::Role, 0)]),
        }
    }

    /// Nothing more is written: what is left is the end, and the first chunk if it was not sent.
    pub fn abort(&mut self) {
        self.segments.clear();
        self.ready.retain(|(step, _)| *step == Step::Role);
        self.ending = self.ending.take().map(|_| Ending::abort());
    }

    /// All text was handed out.
    pub fn only_end_is_left(&self) -> bool {
        // Only the first segment is begun.
        let spoken = std::iter::once(self.spoken).chain(std::iter::repeat(0));
        self.ready.is_empty() && self.segments.iter().zip(spoken).all(|(segment, spoken)| segment.text.len() <= spoken)
    }

    fn next_token(&mut self) -> Option<(Step, u32)> {
        let segment = self.segments.front()?;
        let (bytes, tokens) = tokens::first(&segment.text[self.spoken..], 1);
        let token = segment.text[self.spoken..self.spoken + bytes].to_owned();
        self.spoken += bytes;
        let step = if segment.kind == Kind::Reasoning { Step::Reasoning(token) } else { Step::Content(token) };
        (tokens > 0).then_some((step, tokens))
    }

    fn fragments(&mut self, segment: Segment) {
        let Segment { kind, tokens, whole, .. } = segment;
        match kind {
            Kind::Gap if whole => self.ready.push_back((Step::Content("\n".to_owned()), tokens)),
            Kind::Open { name } if whole => {
                self.arguments = 0;
                self.ready.push_back((Step::Call(name), tokens));
            }
            Kind::Argument { name, value } if whole => self.argument(&name, &value, tokens),
            // 0.5.7 closes a call that was cut before its first argument as if it had none.
            Kind::Argument { .. } if self.arguments == 0 && self.version == Version::V0_5_7 => {
                self.ready.push_back((Step::Arguments("{}".to_owned()), tokens));
            }
            Kind::Close if whole => {
                let text = if self.arguments == 0 { "{}" } else { "}" };
                self.ready.push_back((Step::Arguments(text.to_owned()), tokens));
            }
            _ => self.ready.push_back((Step::Silence, tokens)),
        }
    }

    /// An argument arrives in one piece, after its closing tag. 0.5.23 sends the brace as a fragment of its own.
    fn argument(&mut self, name: &str, value: &Value, tokens: u32) {
        let mut text = format!("{}: {value}", Value::from(name));
        match (self.arguments, self.version) {
            (0, Version::V0_5_7) => text.insert(0, '{'),
            (0, Version::V0_5_23) => self.ready.push_back((Step::Arguments("{".to_owned()), 0)),
            _ => text.insert_str(0, ", "),
        }
        self.arguments += 1;
        self.ready.push_back((Step::Arguments(text), tokens));
    }
}

impl Iterator for Steps {
    type Item = (Step, u32);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(step);
            }
            let Some(segment) = self.segments.front() else {
                return self.ending.take().map(|ending| (Step::Finish(ending), 0));
            };
            if !self.native_calls || matches!(segment.kind, Kind::Reasoning | Kind::Prose) {
                if let Some(step) = self.next_token() {
                    return Some(step);
                }
                self.segments.pop_front();
                self.spoken = 0;
            } else if let Some(segment) = self.segments.pop_front() {
                self.fragments(segment);
            }
        }
    }
}

/// Prose that mentions the tags misleads both parsers: 0.5.23 takes them for a call, 0.5.7 swallows one in streams.
pub fn misread_tags(version: Version, writing: &mut Writing) {
    let tagged = |segment: &Segment| segment.kind == Kind::Prose && segment.text.contains("<tool_call>");
    let Some(at) = writing.segments.iter().position(tagged) else {
        return;
    };
    let segment = &mut writing.segments[at];
    match version {
        Version::V0_5_7 => segment.text = segment.text.replace("<tool_call>", ""),
        Version::V0_5_23 => {
            let (before, after) = segment.text.split_once("<tool_call>").unwrap_or_default();
            let name = after.split_once("<function=").and_then(|(_, rest)| rest.split_once('>'));
            let Some((name, _)) = name else {
                return;
            };
            let call = Segment::new(Kind::Open { name: name.to_owned() }, format!("<tool_call>{after}"));
            *segment = Segment::new(Kind::Prose, before.to_owned());
            writing.segments.insert(at + 1, call);
        }
    }
}
