//! The chat-completions wire of both versions: whole answers and chunks, member by member as recorded.

use super::Version;
use super::steps::{Ending, Step, misread_tags};
use super::writing::{Kind, Segment, Writing};
use crate::chat::Finish;
use bytes::Bytes;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// What stays the same for all parts of an answer.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Whose shapes.
    pub version: Version,
    /// The answer's id.
    pub id: Arc<str>,
    /// Unix seconds.
    pub created: u64,
    /// The model's name as the request wrote it.
    pub model: Arc<str>,
    /// Calls become `tool_calls`: the parser is on and the request offers tools.
    pub native_calls: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that were cached.
    pub cached_tokens: u32,
    /// The usage says so.
    pub cache_report: bool,
}

impl Envelope {
    /// The `usage` object.
    pub fn usage(&self, completion_tokens: u32, reasoning_tokens: u32) -> String {
        let prompt = self.prompt_tokens;
        // None is null, as without a report.
        let cached = match self.cached_tokens {
            cached if self.cache_report && cached > 0 => format!(r#"{{"cached_tokens":{cached}}}"#),
            _ => "null".to_owned(),
        };
        let details = match self.version {
            Version::V0_5_7 => "",
            Version::V0_5_23 => r#","completion_tokens_details":null"#,
        };
        format!(
            r#"{{"prompt_tokens":{prompt},"total_tokens":{},"completion_tokens":{completion_tokens},"prompt_tokens_details":{cached},"reasoning_tokens":{reasoning_tokens}{details}}}"#,
            prompt + completion_tokens
        )
    }

    /// The `metadata` object.
    pub fn metadata(&self, completion_tokens: u32) -> Value {
        match self.version {
            Version::V0_5_7 => json!({"weight_version": "default"}),
            Version::V0_5_23 => json!({
                "weight_version": "default",
                "weight_versions": [{"version": "default", "start": 0, "end": completion_tokens}],
            }),
        }
    }
}

// === chunks ===

/// Turns the steps of one choice into frames. Only what differs from chunk to chunk is serialised for each.
#[derive(Debug)]
pub struct Chunks {
    envelope: Envelope,
    /// `data: {"id":… "choices":[{"index":…,"delta":`
    head: String,
    /// `usage` on every chunk that carries text.
    continuous_usage: bool,
    calls: u32,
    completion_tokens: u32,
}

impl Chunks {
    /// For the choice with this index.
    pub fn new(envelope: Envelope, index: u32, continuous_usage: bool) -> Self {
        let head = format!(
            r#"data: {{"id":{},"object":"chat.completion.chunk","created":{},"model":{},"choices":[{{"index":{index},"delta":"#,
            quoted(&envelope.id),
            envelope.created,
            quoted(&envelope.model)
        );
        Self { envelope, head, continuous_usage, calls: 0, completion_tokens: 0 }
    }

    /// The frame of a step, if anything is sent for it.
    pub fn frame(&mut self, step: &Step, tokens: u32) -> Option<Bytes> {
        self.completion_tokens += tokens;
        let delta = match self.envelope.version {
            Version::V0_5_7 => self.old_delta(step)?,
            Version::V0_5_23 => self.new_delta(step)?,
        };
        let (finish, matched) = match step {
            Step::Finish(ending) => (format!("\"{}\"", ending.reason.as_str()), ending.matched.to_string()),
            _ => ("null".to_owned(), "null".to_owned()),
        };
        let mut frame = String::with_capacity(self.head.len() + delta.len() + 128);
        frame.push_str(&self.head);
        frame.push_str(&delta);
        // Writing to a String cannot fail.
        let _ = write!(frame, r#","logprobs":null,"finish_reason":{finish},"matched_stop":{matched}}}]"#);
        self.push_usage(&mut frame, step);
        frame.push_str("}\n\n");
        Some(frame.into())
    }

    /// 0.5.7 writes every member of a delta.
    fn old_delta(&mut self, step: &Step) -> Option<String> {
        let delta = |role: &str, content: &str, reasoning: &str, calls: &str| {
            format!(r#"{{"role":{role},"content":{content},"reasoning_content":{reasoning},"tool_calls":{calls}}}"#)
        };
        Some(match step {
            Step::Role => delta("\"assistant\"", "\"\"", "null", "null"),
            Step::Reasoning(text) => delta("null", "null", &quoted(text), "null"),
            Step::Content(text) => delta("null", &quoted(text), "null", "null"),
            Step::Call(name) => delta("null", "null", "null", &self.fragment(Some(name), "")),
            Step::Arguments(text) => delta("null", "null", "null", &self.fragment(None, text)),
            Step::Finish(_) => delta("null", "null", "null", "null"),
            Step::Silence => return None,
        })
    }

    /// 0.5.23 has a short form for text when no tool-call parser is at work.
    fn new_delta(&mut self, step: &Step) -> Option<String> {
        let with_calls =
            |calls: String| format!(r#"{{"role":null,"content":null,"reasoning_content":null,"tool_calls":{calls}}}"#);
        Some(match step {
            Step::Role => r#"{"reasoning_content":null,"role":"assistant","content":""}"#.to_owned(),
            Step::Reasoning(text) => format!(r#"{{"role":null,"content":null,"reasoning_content":{}}}"#, quoted(text)),
            Step::Content(text) if self.envelope.native_calls => {
                format!(r#"{{"role":null,"content":{},"reasoning_content":null}}"#, quoted(text))
            }
            Step::Content(text) => format!(r#"{{"reasoning_content":null,"content":{}}}"#, quoted(text)),
            Step::Call(name) => with_calls(self.fragment(Some(name), "")),
            Step::Arguments(text) => with_calls(self.fragment(None, text)),
            Step::Finish(_) => r#"{"reasoning_content":null}"#.to_owned(),
            Step::Silence => return None,
        })
    }

    /// `tool_calls` of a chunk: the first fragment of a call brings its name and an id.
    fn fragment(&mut self, name: Option<&str>, arguments: &str) -> String {
        let (id, name) = match name {
            Some(name) => {
                self.calls += 1;
                (quoted(&call_id(&self.envelope.id, self.calls)), quoted(name))
            }
            None => ("null".to_owned(), "null".to_owned()),
        };
        format!(
            r#"[{{"id":{id},"index":{},"type":"function","function":{{"name":{name},"arguments":{}}}}}]"#,
            self.calls.saturating_sub(1),
            quoted(arguments)
        )
    }

    fn push_usage(&self, frame: &mut String, step: &Step) {
        let carries_text = !matches!(step, Step::Role | Step::Finish(_));
        let short = self.envelope.version == Version::V0_5_23
            && (!carries_text || (!self.envelope.native_calls && matches!(step, Step::Content(_))));
        if self.continuous_usage && carries_text {
            let _ = write!(frame, r#","usage":{}"#, self.envelope.usage(self.completion_tokens, 0));
        } else if !short {
            frame.push_str(r#","usage":null"#);
        }
    }
}

/// The chunk that `stream_options.include_usage` asks for.
pub fn usage_frame(envelope: &Envelope, completion_tokens: u32, reasoning_tokens: u32) -> Bytes {
    format!(
        "data: {{\"id\":{},\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\"choices\":[],\"usage\":{}}}\n\n",
        quoted(&envelope.id),
        envelope.created,
        quoted(&envelope.model),
        envelope.usage(completion_tokens, reasoning_tokens)
    )
    .into()
}

// === whole answers ===

/// The body of a whole answer.
pub fn whole(envelope: &Envelope, choices: Vec<(Writing, Ending)>) -> String {
    let completion: u32 = choices.iter().map(|(writing, _)| writing.tokens()).sum();
    let reasoning: u32 = choices.iter().map(|(writing, _)| writing.reasoning_tokens()).sum();
    let end = choices.first().map_or(0, |(writing, _)| writing.tokens());
    let choices: Vec<Value> = choices
        .into_iter()
        .enumerate()
        .map(|(index, (writing, ending))| choice(envelope, index, writing, ending))
        .collect();
    let usage: Value = serde_json::from_str(&envelope.usage(completion, reasoning)).unwrap_or_default();
    json!({
        "id": &*envelope.id, "object": "chat.completion", "created": envelope.created, "model": &*envelope.model,
        "choices": choices, "usage": usage, "metadata": envelope.metadata(end),
    })
    .to_string()
}

fn choice(envelope: &Envelope, index: usize, mut writing: Writing, mut ending: Ending) -> Value {
    let mut message = json!({"role": "assistant"});
    let reasoning: String = texts(&writing, |kind| *kind == Kind::Reasoning);
    let reasoning = if reasoning.is_empty() { Value::Null } else { reasoning.into() };
    let (content, calls) = match envelope.version {
        Version::V0_5_7 => old_message(envelope, &writing, &mut ending),
        Version::V0_5_23 if envelope.native_calls => {
            misread_tags(envelope.version, &mut writing);
            if writing.calls() && ending.reason == Finish::Stop {
                ending.reason = Finish::ToolCalls;
            }
            let calls = new_calls(envelope, &writing);
            (texts(&writing, |kind| *kind == Kind::Prose).into(), (!calls.is_empty()).then_some(calls.into()))
        }
        Version::V0_5_23 => (writing.text().into(), None),
    };
    message["content"] = content;
    message["reasoning_content"] = reasoning;
    if let Some(calls) = calls {
        message["tool_calls"] = calls;
    }
    if ending.reason == Finish::ToolCalls {
        ending.matched = Value::Null;
    }
    json!({
        "index": index, "message": message, "logprobs": null,
        "finish_reason": ending.reason.as_str(), "matched_stop": ending.matched,
    })
}

/// 0.5.7 leaves a cut call in the text, beside an empty list, and gives every call the index -1. What mentions the tag
/// counts as a call for the finish reason, whatever came of it.
fn old_message(envelope: &Envelope, writing: &Writing, ending: &mut Ending) -> (Value, Option<Value>) {
    let text = writing.text();
    if !envelope.native_calls || !text.contains("<tool_call>") {
        return (text.into(), Some(Value::Null));
    }
    if ending.reason == Finish::Stop {
        ending.reason = Finish::ToolCalls;
    }
    if !writing.calls() || writing.segments.iter().any(|segment| !segment.whole) {
        return (text.into(), Some(json!([])));
    }
    let mut calls = new_calls(envelope, writing);
    for call in &mut calls {
        call["index"] = json!(-1);
    }
    let content = texts(writing, |kind| matches!(kind, Kind::Prose | Kind::Gap));
    (if content.is_empty() { Value::Null } else { content.into() }, Some(calls.into()))
}

/// 0.5.23 makes a complete-looking call of a cut one.
fn new_calls(envelope: &Envelope, writing: &Writing) -> Vec<Value> {
    let mut calls: Vec<(&str, String)> = Vec::new();
    for segment in &writing.segments {
        match (&segment.kind, calls.last_mut()) {
            (Kind::Open { name }, _) if segment.whole => calls.push((name, String::new())),
            (Kind::Argument { name, value }, Some((_, arguments))) => {
                if let Some(value) = if segment.whole { Some(value.clone()) } else { cut_value(segment, name) } {
                    let separator = if arguments.is_empty() { "" } else { ", " };
                    let _ = write!(arguments, "{separator}{}: {value}", quoted(name));
                }
            }
            _ => {}
        }
    }
    let calls = calls.into_iter().enumerate().map(|(index, (name, arguments))| {
        json!({
            "id": call_id(&envelope.id, u32::try_from(index).unwrap_or(u32::MAX) + 1), "index": index, "type": "function",
            "function": {"name": name, "arguments": format!("{{{arguments}}}")},
        })
    });
    calls.collect()
}

fn cut_value(segment: &Segment, name: &str) -> Option<Value> {
    let value = segment.text.strip_prefix(&format!("<parameter={name}>\n"))?;
    let value = value.rsplit_once("\n</").map_or(value, |(value, _)| value);
    Some(value.strip_suffix('\n').unwrap_or(value).into())
}

fn texts(writing: &Writing, wanted: impl Fn(&Kind) -> bool) -> String {
    writing.segments.iter().filter(|segment| wanted(&segment.kind)).map(|segment| segment.text.as_str()).collect()
}

/// `call_` and 24 hexadecimal digits, as SGLang's.
fn call_id(answer: &str, number: u32) -> String {
    let mut hasher = DefaultHasher::new();
    answer.hash(&mut hasher);
    format!("call_{:016x}{number:08x}", hasher.finish())
}

/// JSON text of a string.
pub fn quoted(text: &str) -> String {
    // A string always has a JSON form.
    serde_json::to_string(text).unwrap_or_default()
}
