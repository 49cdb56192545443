//! Finding tool calls in a model's output: native `tool_calls` deltas, and calls written out in the answer's text.
//!
//! A backend may run with a tool-call parser or without one, and with one it may still let a call through as text.
//! So both ways are always watched, and both end in the same [`RawCall`]s. What is found here is not yet checked:
//! `tools` does that.
//!
//! Calls are handed out at the end of the answer only, and only if it ended cleanly. A backend can make a
//! complete-looking call of one that was cut (SGLang 0.5.23 does, with finish reason `length`), so until the end no
//! call is known to be whole.

mod hermes;
mod native;
mod qwen3_coder;
mod scan;
#[cfg(test)]
mod tests;
mod types;

pub use scan::{ALL, CALL_BYTES_MAX, CallParser, Parser, Step};
pub use types::Signatures;

use crate::chat::{Delta, Finish, RawCall};
use scan::{Part, Scanner};
use std::collections::HashSet;

/// How calls are read.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The models' family.
    pub parser: &'static Parser,
}

impl Default for Settings {
    fn default() -> Self {
        Self { parser: &ALL[0] }
    }
}

/// Calls that are taken from one answer; later ones are dropped. Chosen: far more than a model writes on purpose.
const CALLS_MAX: usize = 128;

/// White space that is held back, in bytes, while it is open whether anything visible follows. Chosen.
const BLANK_BYTES_MAX: usize = 1024;

/// What can be shown at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Answer text. No part of a call.
    Text(String),
    /// Thinking text.
    Reasoning(String),
}

/// What is known at the end of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Text that was held back as the possible beginning of a call, and is none. Often empty.
    pub text: String,
    /// The complete calls, in the order in which they were found. Empty unless the answer ended cleanly.
    pub calls: Vec<RawCall>,
    /// The answer was cut, and calls were lost with that.
    pub cut: bool,
}

/// Separates one answer of a model into what can be shown and what is to be called.
///
/// Text is kept as the model wrote it, with one exception: a stretch of white space only that stands before, between
/// or after calls is dropped.
pub struct Finder {
    scanner: Scanner,
    signatures: Signatures,
    calls: Vec<Pending>,
    /// White space since the last call, while nothing visible followed it.
    blank: String,
    /// Text since the last call was shown.
    visible: bool,
}

/// A call that was begun.
#[derive(Debug, Default)]
struct Pending {
    /// Of a native call; `None` for one found in text.
    index: Option<i64>,
    /// Empty while unknown.
    id: String,
    name: String,
    arguments: String,
}

impl Finder {
    /// For one answer to a request with these tools.
    pub fn new(parser: &'static Parser, signatures: Signatures) -> Self {
        Self {
            scanner: Scanner::new(parser, signatures.clone()),
            signatures,
            calls: Vec::new(),
            blank: String::new(),
            visible: false,
        }
    }

    /// Takes the next step of the answer, and adds what can be shown to `out`.
    pub fn feed(&mut self, delta: &Delta, out: &mut Vec<Said>) {
        if !delta.reasoning.is_empty() {
            out.push(Said::Reasoning(delta.reasoning.clone()));
        }
        if !delta.content.is_empty() {
            let mut parts = Vec::new();
            self.scanner.feed(&delta.content, &mut parts);
            let text = self.sort(parts);
            if !text.is_empty() {
                out.push(Said::Text(text));
            }
        }
        for fragment in &delta.calls {
            if native::take(&mut self.calls, fragment) {
                self.begin_stretch();
            }
        }
    }

    /// The answer has ended. `None`: the stream stopped without a finish reason.
    pub fn finish(mut self, finish: Option<Finish>) -> Found {
        let clean = match finish {
            Some(Finish::Stop | Finish::ToolCalls) => true,
            Some(Finish::Length | Finish::Abort | Finish::ContentFilter) | None => false,
        };
        let mut parts = Vec::new();
        let hidden = self.scanner.finish(clean, &mut parts);
        let mut text = self.sort(parts);
        let none_begun = self.calls.is_empty() && !hidden;
        if none_begun && !self.visible {
            text.push_str(&self.blank);
        }
        let calls = if clean { self.complete() } else { Vec::new() };
        Found { text, calls, cut: !clean && !none_begun }
    }

    /// Keeps the calls among `parts`, and returns the text that can be shown.
    fn sort(&mut self, parts: Vec<Part>) -> String {
        let mut shown = String::new();
        for part in parts {
            match part {
                Part::Text(text) if self.visible => shown.push_str(&text),
                Part::Text(text) => {
                    self.blank.push_str(&text);
                    if self.blank.len() > BLANK_BYTES_MAX || !text.trim_ascii().is_empty() {
                        shown.push_str(&self.blank);
                        self.visible = true;
                    }
                }
                Part::Call { name, arguments } => {
                    self.begin_stretch();
                    if self.calls.len() < CALLS_MAX {
                        self.calls.push(Pending { name, arguments, ..Pending::default() });
                    }
                }
            }
        }
        shown
    }

    fn begin_stretch(&mut self) {
        self.blank.clear();
        self.visible = false;
    }

    fn complete(self) -> Vec<RawCall> {
        let mut ids = HashSet::new();
        let complete = |Pending { id, name, arguments, .. }| {
            let id = if id.is_empty() || ids.contains(&id) { new_id() } else { id };
            ids.insert(id.clone());
            // Some clients end at a call whose arguments are no JSON at all.
            let arguments = if arguments.trim_ascii().is_empty() { "{}".to_owned() } else { arguments };
            let arguments = self.signatures.repair(&name, &arguments).unwrap_or(arguments);
            RawCall { id, name, arguments }
        };
        self.calls.into_iter().map(complete).collect()
    }
}

/// `call_` and 24 hexadecimal digits, the form that SGLang gives its own.
fn new_id() -> String {
    let mut bytes = [0; 12];
    // Fails only where the system has no source of randomness, and there a server cannot start its TLS or sandbox.
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes.iter().fold(String::from("call_"), |mut id, byte| {
        id.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        id.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        id
    })
}
