//! Events → one answer body at the end.

use super::{ExecutedTool, Summary, ToolCall, error, json};
use crate::chat::{Ending, Event, Finish, RawCall};
use crate::dialect::{Stamp, Writer};
use bytes::Bytes;
use serde_json::json;

pub(super) struct Whole {
    stamp: Stamp,
    content: String,
    reasoning: String,
    calls: Vec<RawCall>,
    executed: Vec<ExecutedTool>,
}

impl Whole {
    pub fn new(stamp: Stamp) -> Self {
        Self { stamp, content: String::new(), reasoning: String::new(), calls: Vec::new(), executed: Vec::new() }
    }

    fn body(&self, ending: &Ending) -> Bytes {
        let mut message = json!({"role": "assistant", "content": self.content, "refusal": null});
        if self.content.is_empty() && !self.calls.is_empty() {
            message["content"] = json!(null);
        }
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = json!(self.reasoning);
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.iter().map(|call| json!(ToolCall::new(None, call))).collect();
        }
        if !self.executed.is_empty() {
            message["executed_tools"] = json!(self.executed);
        }
        let finish = if ending.finish == Finish::Abort { Finish::Stop } else { ending.finish };
        json(&json!({
            "id": &*self.stamp.request_id,
            "object": "chat.completion",
            "created": self.stamp.created,
            "model": self.stamp.model,
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish.as_str()}],
            "usage": ending.usage,
            "loopgate": Summary::of(&self.stamp, ending),
        }))
        .into()
    }
}

impl Writer for Whole {
    fn hear(&mut self, event: Event) -> Bytes {
        match event {
            Event::Text(text) => self.content.push_str(&text),
            Event::Reasoning(text) => self.reasoning.push_str(&text),
            Event::Executed(execution) => self.executed.push(ExecutedTool::new(self.executed.len(), *execution)),
            Event::ClientCalls(calls) => self.calls = calls,
            Event::Ended(ending) => return self.body(&ending),
            Event::Failed(failure) => return error::body(&failure),
            Event::Opened | Event::Executing { .. } => {}
        }
        Bytes::new()
    }

    fn heartbeat(&mut self) -> Bytes {
        // White space before a JSON value is part of it.
        Bytes::from_static(b" ")
    }
}
