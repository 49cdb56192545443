//! Hermes' calls (also Qwen2.5's and Qwen3's): `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
//!
//! What stands between the tags is a call when it is a JSON object and `name` is a tool of the request; all else is
//! text. The end is looked for outside of JSON strings, so values may hold the tags. An answer that ends after the object
//! may lack the closing tag.

use super::scan::{CallParser, Miss, Step, gap, literal};
use super::types::Signatures;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

pub(super) fn new(tools: Signatures) -> Box<dyn CallParser> {
    Box::new(Hermes { tools, object: None })
}

struct Hermes {
    tools: Signatures,
    object: Option<Object>,
}

/// How far the object of the call at hand was read.
#[derive(Clone, Copy)]
struct Object {
    start: usize,
    /// The end of what was read; with `depth` 0 the end of the object.
    end: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

impl CallParser for Hermes {
    fn begin(&mut self) {
        self.object = None;
    }

    fn read(&mut self, text: &str, ended: bool) -> Step {
        let waiting = if text.starts_with("<tool_call>") { Step::Open } else { Step::Maybe };
        let mut object = match self.object.map_or_else(|| beginning(text), Ok) {
            Ok(object) => object,
            Err(Miss::Short) if !ended => return waiting,
            Err(_) => return Step::Text(1),
        };
        object.read(text);
        self.object = Some(object);
        if object.depth > 0 {
            return if ended { Step::Text(text.len()) } else { waiting };
        }
        let after = &text[object.end..];
        let rest = match gap(after).and_then(|tag| literal(tag, "</tool_call>")) {
            Ok(rest) => rest,
            Err(Miss::Short) if !ended => return waiting,
            Err(Miss::Short) if after.trim_ascii().is_empty() => "",
            Err(_) => return Step::Text(object.end),
        };
        match self.call(&text[object.start..object.end]) {
            Some((name, arguments)) => Step::Call { name, arguments, bytes: text.len() - rest.len() },
            None => Step::Text(object.end),
        }
    }
}

impl Hermes {
    fn call(&self, object: &str) -> Option<(String, String)> {
        let written: Written<'_> = serde_json::from_str(object).ok()?;
        let tool = self.tools.get(&written.name)?;
        let arguments = match written.arguments.map(RawValue::get) {
            None => "{}".to_owned(),
            // Some models write them as a string that holds JSON, as the API does.
            Some(text) if text.starts_with('"') => serde_json::from_str(text).ok()?,
            Some(text) => text.to_owned(),
        };
        Some((tool.name.clone(), arguments))
    }
}

fn beginning(text: &str) -> Result<Object, Miss> {
    let json = gap(literal(text, "<tool_call>")?)?;
    let start = text.len() - json.len();
    if !json.starts_with('{') {
        return Err(Miss::Other);
    }
    Ok(Object { start, end: start + 1, depth: 1, in_string: false, escaped: false })
}

impl Object {
    /// Reads on to the object's end, or to the end of `text`.
    fn read(&mut self, text: &str) {
        for byte in &text.as_bytes()[self.end..] {
            if self.depth == 0 {
                break;
            }
            self.end += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.in_string,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => self.depth -= 1,
                _ => {}
            }
        }
    }
}
