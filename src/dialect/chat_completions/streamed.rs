//! Events → the chunks of a streamed answer.
//!
//! Every rule here keeps some client alive: the role once and first, one finish, usage in a chunk of its own and only
//! when asked for, no comments, no events with names, and no trace of a call that the gateway owns.

use super::{ExecutedTool, Summary, ToolCall, error, json};
use crate::chat::{Ending, Event, Finish, RawCall};
use crate::dialect::{Stamp, Writer};
use crate::sse;
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};

pub(super) struct Streamed {
    stamp: Stamp,
    include_usage: bool,
    begun: bool,
    executed: Vec<ExecutedTool>,
    out: BytesMut,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<crate::chat::Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loopgate: Option<Value>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u8,
    delta: Delta<'a>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_tools: Option<&'a [ExecutedTool]>,
}

impl Streamed {
    pub fn new(stamp: Stamp, include_usage: bool) -> Self {
        Self { stamp, include_usage, begun: false, executed: Vec::new(), out: BytesMut::new() }
    }

    /// The role, once, before anything else.
    fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.delta(Delta { role: Some("assistant"), content: Some(""), ..Delta::default() }, None);
        }
    }

    fn delta(&mut self, delta: Delta<'_>, loopgate: Option<Value>) {
        let choices = [Choice { index: 0, delta, finish_reason: None }];
        write_chunk(&mut self.out, &self.stamp, &choices, None, loopgate);
    }

    fn calls(&mut self, calls: &[RawCall]) {
        // Whole calls: name, id and arguments in one piece, which every client takes.
        let calls = calls.iter().enumerate().map(|(index, call)| ToolCall::new(Some(index), call)).collect();
        self.delta(Delta { tool_calls: Some(calls), ..Delta::default() }, None);
    }

    fn end(&mut self, ending: &Ending) {
        let executed = std::mem::take(&mut self.executed);
        let delta = Delta { executed_tools: (!executed.is_empty()).then_some(&executed[..]), ..Delta::default() };
        let choices = [Choice { index: 0, delta, finish_reason: Some(finish(ending.finish)) }];
        let summary = serde_json::to_value(Summary::of(&self.stamp, ending)).ok();
        write_chunk(&mut self.out, &self.stamp, &choices, None, summary);
        if self.include_usage {
            write_chunk(&mut self.out, &self.stamp, &[], Some(ending.usage), None);
        }
        self.out.extend_from_slice(&sse::frame(sse::DONE));
    }
}

/// A chunk that says nothing, not even the role: that is for the backend's own first chunk to say.
pub(super) fn sign_of_life(stamp: &Stamp) -> Bytes {
    let mut out = BytesMut::new();
    let choices = [Choice { index: 0, delta: Delta::default(), finish_reason: None }];
    write_chunk(&mut out, stamp, &choices, None, None);
    out.freeze()
}

/// A reason that clients know. An abort never gets here as an ending, but no client would survive it.
fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Abort => Finish::Stop.as_str(),
        Finish::Stop | Finish::Length | Finish::ToolCalls | Finish::ContentFilter => finish.as_str(),
    }
}

fn write_chunk(
    out: &mut BytesMut,
    stamp: &Stamp,
    choices: &[Choice<'_>],
    usage: Option<crate::chat::Usage>,
    loopgate: Option<Value>,
) {
    let chunk = Chunk {
        id: &stamp.request_id,
        object: "chat.completion.chunk",
        created: stamp.created,
        model: &stamp.model,
        choices,
        usage,
        loopgate,
    };
    out.extend_from_slice(&sse::frame(&json(&chunk)));
}

impl Writer for Streamed {
    fn hear(&mut self, event: Event) -> Bytes {
        if !matches!(event, Event::Failed(_)) {
            self.begin();
        }
        match event {
            Event::Opened => {}
            Event::Text(text) => self.delta(Delta { content: Some(&text), ..Delta::default() }, None),
            Event::Reasoning(text) => self.delta(Delta { reasoning_content: Some(&text), ..Delta::default() }, None),
            Event::Executing { id, name, arguments } => {
                let told = json!({"event": "executing", "id": id, "name": name, "arguments": arguments});
                self.delta(Delta::default(), Some(told));
            }
            Event::Executed(execution) => {
                let told = json!({
                    "event": "executed", "id": execution.id, "execution_id": execution.execution_id,
                    "status": execution.status,
                    "output": execution.output, "duration_ms": execution.duration_ms,
                });
                self.delta(Delta::default(), Some(told));
                self.executed.push(ExecutedTool::new(self.executed.len(), *execution));
            }
            Event::ClientCalls(calls) => self.calls(&calls),
            Event::Ended(ending) => self.end(&ending),
            Event::Failed(failure) => self.out.extend_from_slice(&error::in_stream(&failure)),
        }
        self.out.split().freeze()
    }

    fn heartbeat(&mut self) -> Bytes {
        if self.begun {
            self.delta(Delta::default(), None);
        } else {
            self.begin();
        }
        self.out.split().freeze()
    }
}
