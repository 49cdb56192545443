//! A model's answer: what is made of it does not depend on how it was cut on its way.

use crate::backend;
use crate::calls::{self, Finder, Parser, Said, Signatures};
use crate::chat::{Delta, Finish, ToolSpec};
use crate::sse::{DONE, Frames};
use bytes::Bytes;
use serde_json::json;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

/// Bytes of one frame. More than the fuzzer's inputs have.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// What an answer came to. Ids are made up where the model gives none.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    cut: bool,
}

/// Reads a stream's bytes whole, byte by byte and in pieces, and finds the calls in what comes out.
pub fn stream(data: &[u8]) {
    let mut dice = Dice::of(data);
    let whole = frames(&[data]);
    assert_eq!(frames(&data.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    assert_eq!(frames(&pieces(data, &mut dice)), whole, "in pieces");
    let deltas: Vec<Delta> =
        whole.iter().filter(|frame| *frame != DONE).map_while(|frame| backend::read(frame)).collect();
    check(&deltas, &mut dice);
}

/// Finds calls in a text.
pub fn calls(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut dice = Dice::of(data);
    for finish in [Finish::Stop, Finish::Length] {
        let text = Delta { content: text.to_owned(), ..Delta::default() };
        check(&[text, Delta { finish: Some(finish), ..Delta::default() }], &mut dice);
    }
}

fn frames(pieces: &[&[u8]]) -> Vec<Bytes> {
    let mut frames = Frames::new(FRAME_BYTES_MAX);
    let mut out = Vec::new();
    for piece in pieces {
        frames.feed(piece);
        while let Some(frame) = frames.next_frame().expect("inputs are shorter than a frame may be") {
            out.push(frame);
        }
    }
    out
}

fn check(deltas: &[Delta], dice: &mut Dice) {
    for parser in calls::ALL {
        let whole = heard(parser, deltas);
        let single: Vec<Delta> = deltas.iter().flat_map(|delta| cut(delta, || 1)).collect();
        assert_eq!(heard(parser, &single), whole, "{}, character by character", parser.name);
        let pieces: Vec<Delta> = deltas.iter().flat_map(|delta| cut(delta, || dice.roll(20))).collect();
        assert_eq!(heard(parser, &pieces), whole, "{}, in pieces", parser.name);
        let spoken: usize = deltas.iter().map(|delta| delta.content.len()).sum();
        assert!(whole.text.len() <= spoken, "{}: more text than the model wrote", parser.name);
    }
}

fn heard(parser: &'static Parser, deltas: &[Delta]) -> Heard {
    static SIGNATURES: LazyLock<Signatures> = LazyLock::new(signatures);
    let mut finder = Finder::new(parser, SIGNATURES.clone());
    let mut said = Vec::new();
    deltas.iter().for_each(|delta| finder.feed(delta, &mut said));
    let mut heard = Heard::default();
    for said in said {
        match said {
            Said::Text(text) => heard.text.push_str(&text),
            Said::Reasoning(text) => heard.reasoning.push_str(&text),
        }
    }
    let found = finder.finish(deltas.iter().rev().find_map(|delta| delta.finish));
    heard.text.push_str(&found.text);
    heard.calls = found.calls.into_iter().map(|call| (call.name, call.arguments)).collect();
    heard.cut = found.cut;
    heard
}

/// One delta as several, its text cut after so many characters each.
fn cut(delta: &Delta, mut length: impl FnMut() -> usize) -> Vec<Delta> {
    let mut out = Vec::new();
    let mut rest = delta.content.as_str();
    while !rest.is_empty() {
        let at = rest.char_indices().nth(length()).map_or(rest.len(), |(at, _)| at);
        out.push(Delta { content: rest[..at].to_owned(), ..Delta::default() });
        rest = &rest[at..];
    }
    out.push(Delta { content: String::new(), ..delta.clone() });
    out
}

fn pieces<'a>(mut data: &'a [u8], dice: &mut Dice) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let (piece, rest) = data.split_at(dice.roll(20).min(data.len()));
        out.push(piece);
        data = rest;
    }
    out
}

fn signatures() -> Signatures {
    let tool = |name: &str, properties: serde_json::Value| ToolSpec {
        name: name.to_owned(),
        parameters: Some(json!({"type": "object", "properties": properties})),
        text: Bytes::new(),
    };
    Signatures::of(&[
        tool("execute_code", json!({"code": {"type": "string"}})),
        tool(
            "f",
            json!({"n": {"type": "integer"}, "a": {"type": "array"}, "b": {"type": ["boolean", "null"]}, "any": {}}),
        ),
    ])
}

/// The same rolls for the same input, so that what was found can be played again.
struct Dice(u64);

impl Dice {
    fn of(data: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        Self(hasher.finish() | 1)
    }

    /// From 1 to `most`. Xorshift.
    fn roll(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        1 + usize::try_from(self.0 % most as u64).unwrap_or(0)
    }
}
