//! One request for a chat answer, ready for a backend.

use super::JsonObject;
use bytes::Bytes;
use serde_json::Value;

/// What a client asks. The body is the client's own, in SGLang's chat-completions form; the rest was read from it
/// once, at the door, and is known to be of the right type.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The request as it goes to the backend.
    pub body: JsonObject,
    /// The model's name as the client wrote it.
    pub model: String,
    /// The tools that the request brings. `None`: no `tools` member at all; an empty list is a wish for no tools.
    pub tools: Option<Vec<ToolSpec>>,
    /// Which tools the model may or must call.
    pub tool_choice: ToolChoice,
    /// Who runs the calls to gateway tools, where the request itself says so.
    pub execute: Option<Execute>,
    /// What the client calls the session that the request belongs to, if it says so.
    pub session: Option<String>,
    /// How many answers are wanted (`n`), at least 1.
    pub choices: u32,
    /// The member that speaks against adding a tool to this request (`response_format`, `logprobs`, …), if any.
    pub plain_only: Option<&'static str>,
    /// No message has more than a role, a content, a name and a call's id: none brings along what clients echo.
    pub bare: bool,
}

/// A tool that a request brings along.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// The function's name, or the bare `type` of a tool that is no function.
    pub name: String,
    /// The JSON schema of its arguments. `None` for a tool that is no function.
    pub parameters: Option<Value>,
    /// The entry of the `tools` array as the client wrote it.
    pub text: Bytes,
}

/// Who runs calls to the gateway's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execute {
    /// The gateway.
    Gateway,
    /// The client: calls are passed through like any other.
    Client,
    /// Nobody: no gateway tool takes part in this request.
    Off,
}

/// `tool_choice`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No calls.
    None,
    /// At least one call, or a call of one named tool.
    Forced,
}

impl Ask {
    /// Adds a message (JSON text) after the last one.
    pub fn push(&mut self, message: impl Into<Bytes>) {
        self.body.append("messages", message);
    }
}
