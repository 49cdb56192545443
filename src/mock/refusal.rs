//! SGLang's errors: flat bodies, with the file paths and the echoes of input that real ones have.

use super::Version;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The JSON body.
    pub body: Value,
}

impl Refusal {
    fn flat(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let body = json!({"object": "error", "message": message, "type": kind, "param": null, "code": status.as_u16()});
        Self { status, body }
    }

    /// What SGLang itself finds wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::flat(StatusCode::BAD_REQUEST, "BadRequestError", message)
    }

    /// A tool call in the history whose arguments are no JSON object.
    pub fn bad_history(version: Version, is_json: bool) -> Self {
        let message = match (version, is_json) {
            (Version::V0_5_7, false) => "unexpected character, expected a string key: line 1 column 2 (char 1)",
            (Version::V0_5_7, true) => "'list object' has no attribute 'items'",
            (Version::V0_5_23, false) => "Assistant tool call function.arguments must be valid JSON.",
            (Version::V0_5_23, true) => "Assistant tool call function.arguments must be a JSON object.",
        };
        Self::flat(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// What pydantic finds wrong: its complaints as Python prints them, once for the reader and once for the log line.
    pub fn invalid(version: Version, complaints: &[String]) -> Self {
        let line = match version {
            Version::V0_5_7 => 1198,
            Version::V0_5_23 => 1870,
        };
        let plural = if complaints.len() == 1 { "" } else { "s" };
        let message = format!(
            "{} validation error{plural}:\n  {}\n\n  File \"/venv/lib/python3.11/site-packages/sglang/srt/entrypoints/\
             http_server.py\", line {line}, in openai_v1_chat_completions\n    POST /v1/chat/completions [{}]",
            complaints.len(),
            complaints.join("\n  "),
            complaints.join(", ")
        );
        Self::flat(StatusCode::BAD_REQUEST, "Bad Request", message)
    }

    /// A body of another media type than JSON.
    pub fn content_type() -> Self {
        let complaint = "{'loc': ['header', 'content-type'], 'msg': \"Unsupported Media Type: Only 'application/json' is \
                         allowed\", 'type': 'value_error'}";
        let message = format!("1 validation error:\n  {complaint} [{complaint}]");
        Self::flat(StatusCode::BAD_REQUEST, "Bad Request", message)
    }

    /// The queue is full, and this is no stream.
    pub fn queue_full() -> Self {
        Self::flat(StatusCode::SERVICE_UNAVAILABLE, "503", QUEUE_FULL)
    }

    /// The request ran too long, and this is no stream.
    pub fn too_slow() -> Self {
        Self::flat(StatusCode::SERVICE_UNAVAILABLE, "503", TOO_SLOW)
    }

    /// 0.5.7 stumbles over an aborted request that has not begun.
    pub fn aborted_in_queue() -> Self {
        Self::flat(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "Internal server error: 'prompt_tokens'")
    }

    /// A missing or wrong API key.
    pub fn unauthorized() -> Self {
        Self { status: StatusCode::UNAUTHORIZED, body: json!({"error": "Unauthorized"}) }
    }

    /// The answer of the web framework itself: no such route, or another method.
    pub fn framework(status: StatusCode) -> Self {
        Self { status, body: json!({"detail": status.canonical_reason()}) }
    }

    /// `/v1/models/…` of a name that is not served.
    pub fn no_model(name: &str) -> Self {
        let message = format!("The model '{name}' does not exist");
        let error =
            json!({"message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found"});
        Self { status: StatusCode::NOT_FOUND, body: json!({"error": error}) }
    }

    /// The same as an event of a stream, with the blanks that Python writes.
    pub fn event(&self) -> Bytes {
        let text = |member: &str| self.body[member].to_string();
        format!(
            "data: {{\"error\": {{\"object\": \"error\", \"message\": {}, \"type\": {}, \"param\": null, \"code\": {}}}}}\n\n",
            text("message"),
            if self.status == StatusCode::SERVICE_UNAVAILABLE { "\"SERVICE_UNAVAILABLE\"".to_owned() } else { text("type") },
            text("code")
        )
        .into()
    }
}

const QUEUE_FULL: &str = "The request queue is full.";
const TOO_SLOW: &str = "Request running timeout reached.";
