//! Qwen3-Coder's calls: `<function=NAME>` with a `<parameter=NAME>` for each value, inside `<tool_call>`.
//!
//! The form has no escaping, so a value that holds its tags can only be told apart by what stands around them:
//!
//! 1. A call begins with `<function=NAME>`, before which `<tool_call>` may stand, if NAME is a tool of the request
//!    and a `<parameter=…>` or `</function>` comes next. All else is text, whatever tags it mentions.
//! 2. It ends with the first `</function>` before `</tool_call>`, the beginning of another call, or the end of the answer. On
//!    the line of `</tool_call>` nothing but another call may follow.
//! 3. A beginning as in rule 1 inside the call is part of a value, and so is the next `</function>` after it.
//! 4. A value ends with the first `</parameter>` before `<parameter=…>` or the end of the call. If there is none it ends
//!    where the call does: what stood in a call is never cut. One line break is taken off either end.
//! 5. A call that has not ended when the answer does counts if its last `</parameter>` stands before `</function>`,
//!    `</tool_call>` or the end. Otherwise all of it is text.
//!
//! Between tags white space may stand, and around a tag's name also quotes. Of a parameter that comes twice the last wins.

use super::scan::{CallParser, GAP_BYTES_MAX, Miss, Step, gap, literal};
use super::types::{Signature, Signatures};
use memchr::{memchr, memmem};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The longest name of a parameter, in bytes. Chosen.
const NAME_BYTES_MAX: usize = 256;

pub(super) fn new(tools: Signatures) -> Box<dyn CallParser> {
    Box::new(Qwen3Coder { tools, call: None })
}

struct Qwen3Coder {
    tools: Signatures,
    call: Option<Call>,
}

/// A call that has begun.
struct Call {
    tool: Arc<Signature>,
    /// Where its body begins.
    body: usize,
    /// Before this its end was not found.
    searched: usize,
    /// Beginnings inside the body (rule 3) whose `</function>` has not come.
    nested: u32,
}

impl CallParser for Qwen3Coder {
    fn begin(&mut self) {
        self.call = None;
    }

    fn read(&mut self, text: &str, ended: bool) -> Step {
        let call = match &mut self.call {
            Some(call) => call,
            None => match beginning(text, &self.tools) {
                Ok(call) => self.call.insert(call),
                Err(Miss::Short) if !ended => {
                    let is_meant = text.starts_with("<tool_call>") || text.starts_with("<function");
                    return if is_meant { Step::Open } else { Step::Maybe };
                }
                Err(_) => return Step::Text(1),
            },
        };
        let end = match call.end(text, &self.tools, ended) {
            Err(Miss::Short) if !ended => return Step::Open,
            Err(Miss::Short) => forgotten_end(text, call.body),
            Err(Miss::Other) => return Step::Text(1),
            Ok(end) => Some(end),
        };
        let Some(End { body, bytes }) = end else { return Step::Text(text.len()) };
        let arguments = arguments(&text[call.body..body], &call.tool);
        Step::Call { name: call.tool.name.clone(), arguments, bytes }
    }
}

/// Rule 1: the call that `text` begins with.
fn beginning(text: &str, tools: &Signatures) -> Result<Call, Miss> {
    let function = match literal(text, "<tool_call>") {
        Ok(rest) => gap(rest)?,
        Err(Miss::Short) => return Err(Miss::Short),
        Err(Miss::Other) => text,
    };
    let is_known = |name: &str, is_whole| if is_whole { tools.get(name).is_some() } else { tools.has_prefix(name) };
    let (name, rest) = name(literal(function, "<function")?, is_known)?;
    let tool = tools.get(name).ok_or(Miss::Other)?;
    let next = gap(rest)?;
    match (parameter(next), literal(next, "</function>")) {
        (Ok(_), _) | (_, Ok(_)) => {}
        (Err(Miss::Short), _) | (_, Err(Miss::Short)) => return Err(Miss::Short),
        (Err(Miss::Other), Err(Miss::Other)) => return Err(Miss::Other),
    }
    let body = text.len() - rest.len();
    Ok(Call { tool: Arc::clone(tool), body, searched: body, nested: 0 })
}

/// Where a call ends.
struct End {
    /// Its body.
    body: usize,
    /// All of it.
    bytes: usize,
}

impl Call {
    /// Rule 2, and rule 3. [`Miss::Other`]: this is no call after all.
    fn end(&mut self, text: &str, tools: &Signatures, ended: bool) -> Result<End, Miss> {
        while let Some(at) = memchr(b'<', &text.as_bytes()[self.searched..]) {
            self.searched += at;
            let tag = &text[self.searched..];
            match (literal(tag, "</function>"), beginning(tag, tools)) {
                (Ok(_), _) if self.nested > 0 => self.nested -= 1,
                (Ok(after), _) => match after_function(after, tools, ended) {
                    Ok(rest) => return Ok(End { body: self.searched, bytes: text.len() - rest.len() }),
                    Err(Miss::Short) => return Err(Miss::Short),
                    // Without parameters there is nothing in which the tag could be a literal.
                    Err(Miss::Other) if text[self.body..self.searched].trim_ascii().is_empty() => {
                        return Err(Miss::Other);
                    }
                    Err(Miss::Other) => {}
                },
                (Err(_), Ok(inner)) => {
                    self.nested += 1;
                    self.searched += inner.body - 1;
                }
                (Err(Miss::Short), _) | (_, Err(Miss::Short)) if !ended => return Err(Miss::Short),
                (Err(_), Err(_)) => {}
            }
            self.searched += 1;
        }
        self.searched = text.len();
        Err(Miss::Short)
    }
}

/// What follows the call, if the text after a `</function>` shows that it ends there.
fn after_function<'a>(text: &'a str, tools: &Signatures, ended: bool) -> Result<&'a str, Miss> {
    let is_end = |text: &str| ended && text.trim_ascii().is_empty();
    if is_end(text) {
        return Ok("");
    }
    let next = gap(text)?;
    let rest = match literal(next, "</tool_call>") {
        Ok(rest) => rest,
        Err(Miss::Short) => return Err(Miss::Short),
        Err(Miss::Other) => return beginning(next, tools).map(|_| next),
    };
    let line = rest.trim_start_matches([' ', '\t', '\r']);
    if rest.len() - line.len() > GAP_BYTES_MAX {
        return Err(Miss::Other);
    }
    if line.starts_with('\n') || is_end(line) {
        return Ok(rest);
    }
    beginning(line, tools).map(|_| rest)
}

/// Rule 5: the ends of the body and of the call, for a call whose closing tags were forgotten or are followed by text.
fn forgotten_end(text: &str, body: usize) -> Option<End> {
    let at = body + memmem::rfind(&text.as_bytes()[body..], b"</parameter>")? + "</parameter>".len();
    let mut rest = text[at..].trim_ascii_start();
    let mut is_closed = rest.is_empty();
    for tag in ["</function>", "</tool_call>"] {
        if let Some(after) = rest.strip_prefix(tag) {
            is_closed = true;
            rest = after.trim_ascii_start();
        }
    }
    is_closed.then(|| End { body: at, bytes: text.len() - rest.len() })
}

/// Rule 4: a call's body as a JSON object.
fn arguments(body: &str, tool: &Signature) -> String {
    let mut members = Map::new();
    let mut rest = body.trim_ascii_start();
    while let Ok((name, after)) = parameter(rest) {
        let (text, next) = value(after);
        members.insert(name.to_owned(), tool.value(name, without_line_breaks(text)));
        rest = next;
    }
    Value::Object(members).to_string()
}

/// A value, and the next parameter.
fn value(text: &str) -> (&str, &str) {
    for at in memmem::find_iter(text.as_bytes(), b"</parameter>") {
        let next = text[at + "</parameter>".len()..].trim_ascii_start();
        if next.is_empty() || parameter(next).is_ok() {
            return (&text[..at], next);
        }
    }
    (text, "")
}

fn without_line_breaks(text: &str) -> &str {
    // Only where lines end in `\r\n` is a `\r` before the last `\n` no part of the value.
    if let Some(text) = text.strip_prefix("\r\n") {
        return text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text);
    }
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}

/// `<parameter=NAME>`, and what follows.
fn parameter(text: &str) -> Result<(&str, &str), Miss> {
    name(literal(text, "<parameter")?, |name, _| name.len() <= NAME_BYTES_MAX)
}

/// The end of a tag, from its `=` on: `=NAME>`. `accept` is asked about a name, or the beginning of one.
fn name(text: &str, accept: impl Fn(&str, bool) -> bool) -> Result<(&str, &str), Miss> {
    let quoted = blanks(literal(blanks(text)?, "=")?)?;
    let (quote, start) = match quoted.as_bytes().first() {
        Some(b'"') => ("\"", &quoted[1..]),
        Some(b'\'') => ("'", &quoted[1..]),
        _ => ("", quoted),
    };
    let ends = |byte: u8| byte.is_ascii_whitespace() || b"<>\"'=".contains(&byte);
    let length = start.bytes().position(ends);
    let (name, rest) = start.split_at(length.unwrap_or(start.len()));
    if !accept(name, length.is_some()) || (length == Some(0)) {
        return Err(Miss::Other);
    }
    Ok((name, literal(blanks(literal(rest, quote)?)?, ">")?))
}

/// Like [`gap`], on one line. Nothing left is no miss here: the literal that follows sees it.
fn blanks(text: &str) -> Result<&str, Miss> {
    let rest = text.trim_start_matches([' ', '\t']);
    if text.len() - rest.len() > GAP_BYTES_MAX { Err(Miss::Other) } else { Ok(rest) }
}
