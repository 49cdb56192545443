//! The wire format as JSON Schema, for the `OpenAPI` document.
//!
//! The types here only describe. Requests: the members that `read` looks at, under its rules; that they agree is held by
//! a run of schemathesis. Answers: what is true for the gateway's own and for those that are passed through.
#![expect(dead_code, reason = "the types are read by the derive macro only")]

use super::{ExecutedTool, Summary};
use crate::chat::Usage;
use crate::dialect::Shapes;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

pub(super) fn shapes(generator: &mut SchemaGenerator) -> Shapes {
    Shapes {
        request: generator.subschema_for::<ChatCompletionRequest>(),
        whole: generator.subschema_for::<ChatCompletion>(),
        chunk: generator.subschema_for::<ChatCompletionChunk>(),
        error: generator.subschema_for::<Error>(),
    }
}

/// A conversation to be continued. Members that are not listed, such as `temperature` or `max_tokens`, reach the backend
/// as they are, and it judges them.
#[derive(JsonSchema)]
struct ChatCompletionRequest {
    /// A name that `GET /v1/models` lists. At most 512 bytes.
    #[schemars(length(min = 1, max = 512))]
    model: String,
    /// The conversation.
    #[schemars(length(min = 1))]
    messages: Vec<Message>,
    /// Whether the answer comes as Server-Sent Events.
    stream: Option<bool>,
    /// For streams.
    stream_options: Option<StreamOptions>,
    /// How many answers. More than one only where no tool is the gateway's.
    #[schemars(range(min = 1, max = 128))]
    n: Option<u32>,
    /// What the model may call. Absent: the gateway may offer its own tools. Empty: no tools.
    #[schemars(length(max = 1024))]
    tools: Option<Vec<Tool>>,
    /// Whether the model may, must or must not call tools.
    tool_choice: Option<ToolChoice>,
    /// For the gateway; no backend sees it.
    loopgate: Option<LoopgateOptions>,
    /// Where true, the gateway offers no tools.
    logprobs: Option<bool>,
    /// Where true, the gateway offers no tools.
    ignore_eos: Option<bool>,
    /// Where true, the gateway offers no tools.
    continue_final_message: Option<bool>,
    /// Where its `type` is not `text`, the gateway offers no tools.
    response_format: Option<Map<String, Value>>,
    /// A name for the request at the backend, which gets the gateway's own instead.
    rid: Option<String>,
}

/// A message. What it has besides the role is between client and backend.
#[derive(JsonSchema)]
struct Message {
    role: Role,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

#[derive(JsonSchema)]
struct StreamOptions {
    /// Whether a last chunk, without choices, has the token counts.
    include_usage: Option<bool>,
}

/// A function, or `{"type": "code_interpreter"}`, which stands for the gateway's `execute_code`.
#[derive(JsonSchema)]
#[serde(untagged)]
enum Tool {
    /// SGLang takes a function without its type.
    Untyped {
        r#type: Option<String>,
        function: Function,
    },
    Typed {
        r#type: String,
        function: Option<Function>,
    },
}

#[derive(JsonSchema)]
struct Function {
    name: String,
    /// A JSON Schema. Absent: the function takes nothing.
    parameters: Option<Value>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
enum ToolChoice {
    Word(ToolChoiceWord),
    /// Names a function, or the `code_interpreter`.
    Named(Map<String, Value>),
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ToolChoiceWord {
    None,
    Auto,
    Required,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoopgateOptions {
    /// Who runs calls of the gateway's tools; the header `x-loopgate-execute` says the same, and wins.
    execute: Option<Execute>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Execute {
    Gateway,
    Client,
    Off,
}

/// A whole answer.
#[derive(JsonSchema)]
struct ChatCompletion {
    id: String,
    #[schemars(extend("const" = "chat.completion"))]
    object: String,
    /// Seconds since 1970.
    created: i64,
    model: String,
    choices: Vec<Choice>,
    /// Of the last model call.
    usage: Usage,
    /// What the gateway did, where it acted.
    loopgate: Option<Summary<'static>>,
}

#[derive(JsonSchema)]
struct Choice {
    index: u32,
    message: Said,
    finish_reason: FinishReason,
}

/// What the model said.
#[derive(JsonSchema)]
struct Said {
    #[schemars(extend("const" = "assistant"))]
    role: String,
    content: Option<String>,
    reasoning_content: Option<String>,
    /// Calls for the client to run.
    tool_calls: Option<Vec<ToolCall>>,
    /// Calls that the gateway has run.
    executed_tools: Option<Vec<ExecutedTool>>,
}

#[derive(JsonSchema)]
struct ToolCall {
    id: String,
    r#type: String,
    function: Called,
}

#[derive(JsonSchema)]
struct Called {
    name: String,
    /// JSON text.
    arguments: String,
}

#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
    /// Passed through from a backend.
    Abort,
}

/// An event of a streamed answer. The last one is `[DONE]` instead.
#[derive(JsonSchema)]
struct ChatCompletionChunk {
    id: String,
    #[schemars(extend("const" = "chat.completion.chunk"))]
    object: String,
    /// Seconds since 1970.
    created: i64,
    model: String,
    choices: Vec<ChunkChoice>,
    usage: Option<Usage>,
    /// What the gateway does: `{"event": "executing" | "executed", …}`, and at the end what it did.
    loopgate: Option<Map<String, Value>>,
}

#[derive(JsonSchema)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    finish_reason: Option<FinishReason>,
}

#[derive(JsonSchema)]
struct Delta {
    role: Option<String>,
    content: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCallDelta>>,
    executed_tools: Option<Vec<ExecutedTool>>,
}

#[derive(JsonSchema)]
struct ToolCallDelta {
    index: u32,
    id: Option<String>,
    r#type: Option<String>,
    function: CalledDelta,
}

#[derive(JsonSchema)]
struct CalledDelta {
    name: Option<String>,
    /// The next piece of the JSON text.
    arguments: Option<String>,
}

/// Why there is no answer.
#[derive(JsonSchema)]
struct Error {
    error: ErrorBody,
}

#[derive(JsonSchema)]
struct ErrorBody {
    /// What is wrong, and the way out.
    message: String,
    r#type: String,
    /// The member of the request that is at fault.
    #[schemars(extend("type" = ["string", "null"]))]
    param: String,
    #[schemars(extend("type" = ["string", "null"]))]
    code: String,
}
