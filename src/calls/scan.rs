//! Calls that a model writes out in its text: what all families have in common.
//!
//! A family's parser is shown the text from where a call may begin, and says what it sees. Waiting for more text,
//! the bound on it, and what becomes of it at the end are decided here, once for all families.

use super::types::Signatures;
use super::{hermes, qwen3_coder};
use memchr::memchr;

/// The longest call, in bytes, from its first tag to its last; also the bound on a native call's arguments.
/// Longer ones are given up and shown as text. Chosen: above what a context of 262144 tokens holds as code.
pub const CALL_BYTES_MAX: usize = 4 << 20;

/// White space between two tags, in bytes. More of it parts them. Chosen; it bounds how often text is looked at again.
pub(super) const GAP_BYTES_MAX: usize = 256;

/// A family of models by the form in which it writes calls.
#[derive(Debug)]
pub struct Parser {
    /// As SGLang's `--tool-call-parser` calls it.
    pub name: &'static str,
    /// The byte with which every call begins. ASCII.
    pub first: u8,
    /// Makes one for an answer to a request with these tools.
    pub new: fn(Signatures) -> Box<dyn CallParser>,
}

/// Every family that is known, the default first.
pub static ALL: &[Parser] = &[
    Parser { name: "qwen3_coder", first: b'<', new: qwen3_coder::new },
    Parser { name: "hermes", first: b'<', new: hermes::new },
];

impl Parser {
    /// The family with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|parser| parser.name == name)
    }
}

/// Recognises the calls of one family.
pub trait CallParser: Send {
    /// A new place is looked at: forget the last one.
    fn begin(&mut self);

    /// Looks at `text`, which begins with the family's first byte. Between two calls of [`begin`](Self::begin) it only ever
    /// grows, so a parser can remember how far it has looked. With `ended` it is all there is, and the answer ended
    /// cleanly; then neither [`Step::Maybe`] nor [`Step::Open`] is an answer.
    ///
    /// What is said must not depend on how much more text is there than was needed to say it.
    fn read(&mut self, text: &str, ended: bool) -> Step;
}

/// What a parser says of the text that it was shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The first so many bytes (at least 1) are part of no call.
    Text(usize),
    /// More text is needed to say whether a call begins here.
    Maybe,
    /// This is a call, or was meant as one. It goes on.
    Open,
    /// The first `bytes` bytes are a complete call.
    Call {
        /// The tool.
        name: String,
        /// JSON text.
        arguments: String,
        /// The call's length.
        bytes: usize,
    },
}

/// A piece of an answer's text, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Call { name: String, arguments: String },
}

/// Takes an answer's text apart as it comes.
pub(super) struct Scanner {
    first: u8,
    parser: Box<dyn CallParser>,
    /// Text that may be part of a call. Begins with the first byte of one, or is empty.
    held: String,
    /// `held` is more than the possible prefix of a call.
    open: bool,
}

impl Scanner {
    pub(super) fn new(parser: &Parser, signatures: Signatures) -> Self {
        Self { first: parser.first, parser: (parser.new)(signatures), held: String::new(), open: false }
    }

    pub(super) fn feed(&mut self, text: &str, out: &mut Vec<Part>) {
        self.advance(text, false, out);
    }

    /// No more text comes. `true` when a call had begun and was cut; its text is not shown.
    pub(super) fn finish(&mut self, clean: bool, out: &mut Vec<Part>) -> bool {
        if clean {
            self.advance("", true, out);
        } else if !self.open {
            push_text(out, &self.held);
        }
        !clean && self.open
    }

    fn advance(&mut self, more: &str, ended: bool, out: &mut Vec<Part>) {
        let mut is_new = self.held.is_empty();
        self.held.push_str(more);
        self.open = false;
        let mut done = 0;
        while done < self.held.len() {
            let rest = &self.held[done..];
            if is_new {
                let at = memchr(self.first, rest.as_bytes()).unwrap_or(rest.len());
                push_text(out, &rest[..at]);
                done += at;
                self.parser.begin();
                is_new = false;
                continue;
            }
            let too_long = rest.len() >= CALL_BYTES_MAX;
            let seen = &rest[..rest.floor_char_boundary(CALL_BYTES_MAX)];
            let bytes = match self.parser.read(seen, ended && !too_long) {
                Step::Call { name, arguments, bytes } => {
                    out.push(Part::Call { name, arguments });
                    bytes
                }
                Step::Text(bytes) => {
                    push_text(out, &rest[..bytes]);
                    bytes
                }
                Step::Maybe | Step::Open if too_long || ended => {
                    push_text(out, seen);
                    seen.len()
                }
                step => {
                    self.open = step == Step::Open;
                    break;
                }
            };
            done += bytes;
            is_new = true;
        }
        // Once per feed: text with many possible beginnings would else be moved for each of them.
        self.held.drain(..done);
    }
}

fn push_text(out: &mut Vec<Part>, text: &str) {
    match out.last_mut() {
        Some(Part::Text(before)) => before.push_str(text),
        _ if text.is_empty() => {}
        _ => out.push(Part::Text(text.to_owned())),
    }
}

/// Why a piece of text is not what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// It is something else.
    Other,
    /// It ends too early to say.
    Short,
}

/// What follows `literal` at the beginning of `text`.
pub(super) fn literal<'a>(text: &'a str, literal: &str) -> Result<&'a str, Miss> {
    match text.strip_prefix(literal) {
        Some(rest) => Ok(rest),
        None if literal.starts_with(text) => Err(Miss::Short),
        None => Err(Miss::Other),
    }
}

/// What follows the white space at the beginning of `text`.
pub(super) fn gap(text: &str) -> Result<&str, Miss> {
    let rest = text.trim_ascii_start();
    if text.len() - rest.len() > GAP_BYTES_MAX {
        Err(Miss::Other)
    } else if rest.is_empty() {
        Err(Miss::Short)
    } else {
        Ok(rest)
    }
}
