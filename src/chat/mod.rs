//! The words that every room uses: what a client asks, what a model says, what became of a call.
//!
//! Pure data. Nothing here reads a socket, a file or a clock, and nothing here imports another room.

mod ask;
mod json_object;
mod walk;

pub use ask::{Ask, Execute, ToolChoice, ToolSpec};
pub use json_object::{JsonObject, JsonObjectError};
pub use walk::{Nonsense, Span, Walk};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where the wall clock comes from. Only `app` reads it.
pub type Clock = fn() -> jiff::Timestamp;

/// A tool call as it was found in a model's output: complete, but not yet checked against anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawCall {
    /// The backend's id for the call, or one made here. Unique in its message, never empty.
    pub id: String,
    /// The tool's name as the model wrote it. It may be no tool at all.
    pub name: String,
    /// The arguments as JSON text. It may be anything; [`crate::tools`] decides.
    pub arguments: String,
}

/// One step of a model's output, whichever backend it came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// Answer text. Empty when this step carries none.
    pub content: String,
    /// Thinking text (`reasoning_content`). Empty when this step carries none.
    pub reasoning: String,
    /// Pieces of native tool calls, in the order in which the backend sent them.
    pub calls: Vec<CallFragment>,
    /// Set once, by the step that ends the choice.
    pub finish: Option<Finish>,
    /// Token counts. SGLang sends them in a step of their own, after the finish.
    pub usage: Option<Usage>,
}

/// A piece of a native tool call. The first piece of a call brings `id` and `name`, later ones more `arguments`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallFragment {
    /// Which call of the message this belongs to. SGLang 0.5.7 sends -1 for every call of a whole answer.
    pub index: i64,
    /// Set by the first piece.
    pub id: Option<String>,
    /// Set by the first piece.
    pub name: Option<String>,
    /// JSON text, to be appended.
    pub arguments: String,
}

impl CallFragment {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        text(&self.id) + text(&self.name) + self.arguments.len()
    }
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A natural end or a stop string.
    Stop,
    /// `max_tokens` or the context ended.
    Length,
    /// The message ends in tool calls.
    ToolCalls,
    /// Someone called `/abort_request`.
    Abort,
    /// A filter of the backend.
    ContentFilter,
}

impl Finish {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Abort => "abort",
            Self::ContentFilter => "content_filter",
        }
    }

    /// Reads the name on the wire. An unknown reason is a natural end, as clients treat it.
    pub fn from_wire(name: &str) -> Self {
        match name {
            "length" => Self::Length,
            "tool_calls" | "function_call" => Self::ToolCalls,
            "abort" => Self::Abort,
            "content_filter" => Self::ContentFilter,
            _ => Self::Stop,
        }
    }
}

/// Token counts of one model call, or a sum over several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens the model read.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens the model wrote.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Their sum.
    #[serde(default)]
    pub total_tokens: u64,
    /// Of the prompt, how many came from the backend's prefix cache. Known with `--enable-cache-report` only.
    #[schemars(with = "Option<cached::Details>")]
    #[serde(default, rename = "prompt_tokens_details", with = "cached", skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Of the completion, how many were thinking, where SGLang says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// The same where OpenAI says it. Told as it was heard: a backend may use either place, or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// What is known of the tokens that the model wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionTokensDetails {
    /// How many were thinking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// The sum of two counts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
            total_tokens: self.total_tokens + other.total_tokens,
            cached_tokens: sum(self.cached_tokens, other.cached_tokens),
            reasoning_tokens: sum(self.reasoning_tokens, other.reasoning_tokens),
            completion_tokens_details: match (self.completion_tokens_details, other.completion_tokens_details) {
                (Some(one), Some(other)) => {
                    let reasoning_tokens = sum(one.reasoning_tokens, other.reasoning_tokens);
                    Some(CompletionTokensDetails { reasoning_tokens })
                }
                (one, other) => one.or(other),
            },
        }
    }
}

/// `None` when neither is known.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        _ => one.or(other),
    }
}

/// `cached_tokens` lives in an object of its own on the wire, which may be null or absent.
mod cached {
    use schemars::JsonSchema;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[schemars(rename = "PromptTokensDetails")]
    pub(super) struct Details {
        #[serde(default)]
        cached_tokens: Option<u64>,
    }

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        Details { cached_tokens: *value }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Ok(Option::<Details>::deserialize(deserializer)?.and_then(|details| details.cached_tokens))
    }
}

/// How one call to a gateway tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The program ran to its end.
    Completed,
    /// The program raised, exited with a failure, used too much memory, or the sandbox failed it.
    Error,
    /// The program was stopped at its time limit.
    Timeout,
    /// The policy does not allow the call. Nothing ran.
    Denied,
    /// The arguments do not fit the tool's schema, or there is no such tool. Nothing ran.
    Invalid,
}

impl Status {
    /// The name on the wire, in the audit and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
        }
    }
}

/// A duration in milliseconds, to the microsecond: more digits say nothing.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What became of one call to a gateway tool, as clients are told.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Execution {
    /// The call's id.
    pub id: String,
    /// The execution's name in the audit, which no other one has; null for a call that did not run.
    pub execution_id: Option<String>,
    /// The tool.
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
    /// How it ended.
    pub status: Status,
    /// The text that the model was given.
    pub output: String,
    /// What the program wrote to stdout, cut at the policy's limit.
    pub stdout: String,
    /// What the program wrote to stderr, cut at the policy's limit.
    pub stderr: String,
    /// `repr()` of the program's last expression.
    pub result: Option<String>,
    /// The traceback, or one line that says what went wrong.
    pub error: Option<String>,
    /// Wall-clock time from the call's start to its outcome, in milliseconds.
    pub duration_ms: f64,
    /// Some output was cut.
    pub truncated: bool,
    /// The model call, counted from 1, whose answer held this call.
    pub round: u32,
}

impl Execution {
    /// Of this call, of which nothing else is known.
    pub fn of(call: &RawCall) -> Self {
        Self {
            id: call.id.clone(),
            execution_id: None,
            name: call.name.clone(),
            arguments: call.arguments.clone(),
            status: Status::Error,
            output: String::new(),
            stdout: String::new(),
            stderr: String::new(),
            result: None,
            error: None,
            duration_ms: 0.0,
            truncated: false,
            round: 0,
        }
    }
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model gave its final answer.
    Final,
    /// The bound on model calls.
    Rounds,
    /// The bound on the turn's time.
    Deadline,
    /// The bound on failed calls in a row.
    Errors,
    /// The bound on completion tokens.
    Tokens,
    /// The model called tools of the client's.
    ClientTools,
}

impl Stop {
    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::Rounds => "rounds",
            Self::Deadline => "deadline",
            Self::Errors => "errors",
            Self::Tokens => "tokens",
            Self::ClientTools => "client_tools",
        }
    }
}

/// The last word of a turn that went well.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// What the client is told as `finish_reason`.
    pub finish: Finish,
    /// Counts of the last model call: the size of the conversation as the client's context meter needs it.
    pub usage: Usage,
    /// Counts of all model calls of the turn.
    pub usage_total: Usage,
    /// Model calls made.
    pub rounds: u32,
    /// Why it ended.
    pub stop: Stop,
    /// Messages of the client's whose hidden rounds were put back.
    pub restored: u32,
    /// The backend of the last model call.
    pub backend: String,
}

/// What happens in a turn, in order. A dialect turns these into bytes; records listen to them.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A backend has begun to answer. First, and once in a turn.
    Opened,
    /// Answer text for the client.
    Text(String),
    /// Thinking text for the client.
    Reasoning(String),
    /// A gateway tool is about to run (or to be refused).
    Executing {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// It has run, or was refused.
    Executed(Box<Execution>),
    /// The model called the client's own tools: complete calls, all of them, once.
    ClientCalls(Vec<RawCall>),
    /// The turn ended well. Nothing follows.
    Ended(Box<Ending>),
    /// The turn failed. Nothing follows.
    Failed(Failure),
}

/// A turn or request that cannot be answered. What a tool call does wrong is never one: the model is told that.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of trouble, for the status and the client's decision to try again.
    pub kind: FailureKind,
    /// For the client: what happened to what, and the way out. No paths, no hosts, no echo of the request.
    pub message: String,
    /// The member of the request that is at fault, where it is one.
    pub param: Option<String>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// The request can be served if the client runs the calls. How it says so, the front door knows.
    pub unless_client_runs: bool,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The request makes no sense.
    Invalid,
    /// The conversation is longer than the model's context.
    ContextLength,
    /// No such model.
    UnknownModel,
    /// No key, or a wrong one.
    Unauthenticated,
    /// A good key that may not do this.
    Forbidden,
    /// No such path.
    NoRoute,
    /// The path does not take this method.
    NoMethod,
    /// No such session, or no such file in it.
    NotThere,
    /// Something else is where a file should be.
    InTheWay,
    /// A file does not fit.
    NoSpace,
    /// The request did not arrive in time.
    TooLate,
    /// The request is too large.
    TooLarge,
    /// The request is compressed in a way that nobody here can read.
    Encoding,
    /// Too much at once.
    RateLimited,
    /// No backend is up, or all of them are full.
    NoBackend,
    /// Every interpreter is busy, or none can be started.
    NoInterpreter,
    /// A backend answered with an error, with garbage, or died.
    BackendBroke,
    /// A backend does not take the gateway's key.
    KeyRefused,
    /// The answer is longer than may be.
    AnswerTooLong,
    /// A backend took too long.
    BackendTimeout,
    /// Our bug.
    Internal,
}

impl FailureKind {
    /// All of them, in the order of the enum.
    pub const ALL: [Self; Self::Internal as usize + 1] = [
        Self::Invalid,
        Self::ContextLength,
        Self::UnknownModel,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NoRoute,
        Self::NoMethod,
        Self::NotThere,
        Self::InTheWay,
        Self::NoSpace,
        Self::TooLate,
        Self::TooLarge,
        Self::Encoding,
        Self::RateLimited,
        Self::NoBackend,
        Self::NoInterpreter,
        Self::BackendBroke,
        Self::KeyRefused,
        Self::AnswerTooLong,
        Self::BackendTimeout,
        Self::Internal,
    ];
}

impl Failure {
    /// A failure without a hint when to try again.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: None, unless_client_runs: false }
    }

    /// The same, with the member at fault.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>) -> Self {
        self.param = Some(name.into());
        self
    }

    /// The same, with another way out: that the client runs the calls.
    #[must_use]
    pub fn unless_client_runs(mut self) -> Self {
        self.unless_client_runs = true;
        self
    }

    /// The same, with the hint.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_add_up_where_they_were_told_and_nobody_makes_up_others() {
        let read = |told: serde_json::Value| serde_json::from_value::<Usage>(told).expect("counts");
        let few = read(
            json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "completion_tokens_details": null}),
        );
        assert_eq!(json!(few.plus(few)), json!({"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}));
        let many = read(json!({
            "prompt_tokens_details": {"cached_tokens": 4}, "reasoning_tokens": 5,
            "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": null},
        }));
        assert_eq!(
            json!(few.plus(many).plus(many)),
            json!({
                "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 8}, "reasoning_tokens": 10,
                "completion_tokens_details": {"reasoning_tokens": 10},
            })
        );
    }
}
