//! What can go wrong with one backend, and what it means: may another backend be tried, and what is the client told.

use crate::chat::{Failure, FailureKind};
use serde_json::Value;
use std::time::Duration;

/// What a client waits before it tries again when the backends are full or away. Chosen: one step of a scheduler.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest that a backend may ask to be left alone; a client that is told more than that gives up.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// How long SGLang may take to notice that a client has gone: 0.26 s were measured with 0.5.23 (chosen: twice that).
const UNNOTICED: Duration = Duration::from_millis(500);
/// Characters of a backend's message that are passed on.
const MESSAGE_CHARS_MAX: usize = 500;

/// Who may do better after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Nobody.
    Nowhere,
    /// Another backend.
    Elsewhere,
    /// Another backend, and this one a moment later.
    Anywhere,
}

/// What `FastAPI` says of a path that this version of SGLang, or a server of this kind, does not have.
const NOT_FOUND: &str = "Not Found";
/// What clients are told when a backend does not know the path.
const NO_ROUTE: &str = "the model's server has no such path; its version or its kind of model lacks it";

/// A failed attempt at one backend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trouble {
    pub failure: Failure,
    /// Who may do better.
    pub retry: Retry,
    /// The backend is to blame, neither the request nor a full queue.
    pub fault: bool,
    /// Nobody is there: it gets no traffic until it answers a probe.
    pub down: bool,
    /// The backend has ended the request by itself, and will not go on with it.
    pub over: bool,
    /// How long the backend wants to be left alone.
    pub asked_to_wait: Option<Duration>,
    /// What the system said, for operators: clients need not know of addresses and names.
    pub cause: Option<Box<str>>,
}

impl Trouble {
    /// A fault of the backend's, which another may not have.
    fn fault(failure: Failure) -> Self {
        Self {
            failure,
            retry: Retry::Elsewhere,
            fault: true,
            down: false,
            over: false,
            asked_to_wait: None,
            cause: None,
        }
    }

    /// Connection refused, reset, or closed before an answer.
    pub fn unreachable() -> Self {
        let failure = Failure::new(FailureKind::NoBackend, "the model's server cannot be reached; try again shortly");
        Self { retry: Retry::Anywhere, down: true, ..Self::fault(failure.retry_after(RETRY_AFTER)) }
    }

    /// What operators are told.
    pub fn why(&self) -> String {
        match &self.cause {
            Some(cause) => format!("it cannot be reached: {cause}"),
            None => self.failure.message.clone(),
        }
    }

    /// The gateway has not what a connection takes: no backend is to blame, and none would do better.
    pub fn own_shortage() -> Self {
        let failure = Failure::new(FailureKind::NoBackend, "the gateway has no connection left; try again shortly");
        Self { retry: Retry::Nowhere, fault: false, ..Self::fault(failure.retry_after(RETRY_AFTER)) }
    }

    /// The answer was cut off.
    pub fn died() -> Self {
        let message = "the model's server closed the connection before its answer was complete; send the request again";
        Self { retry: Retry::Anywhere, ..Self::fault(Failure::new(FailureKind::BackendBroke, message)) }
    }

    /// Somebody had the backend abort the request: an operator, a client of its own, or itself before an update. That it
    /// gives as an answer, with `abort` as the reason why it ends.
    pub fn aborted() -> Self {
        let message = "the model's server aborted the request before its answer was complete; send the request again";
        let failure = Failure::new(FailureKind::BackendBroke, message);
        Self { retry: Retry::Anywhere, over: true, ..Self::fault(failure) }
    }

    /// The answer is not what an SGLang server says.
    pub fn garbage() -> Self {
        let message = "the model's server sent something that is no chat completion";
        Self::fault(Failure::new(FailureKind::BackendBroke, message))
    }

    /// Nothing came for too long.
    pub fn silent(wait: Duration) -> Self {
        let message = format!("the model's server sent nothing for {wait:?}");
        Self::fault(Failure::new(FailureKind::BackendTimeout, message))
    }

    /// The time for all of it is over.
    pub fn overdue(total: Duration) -> Self {
        let message = format!("the model's answer was not complete after {total:?}");
        Self { retry: Retry::Nowhere, fault: false, ..Self::fault(Failure::new(FailureKind::BackendTimeout, message)) }
    }

    /// The queue is full: SGLang says it with 503, inside a 200 (0.5.23), or with a 200 and nothing (0.5.7).
    pub fn full(asked_to_wait: Option<Duration>) -> Self {
        let wait = asked_to_wait.unwrap_or(RETRY_AFTER).clamp(RETRY_AFTER, RETRY_AFTER_MAX);
        let failure = Failure::new(FailureKind::NoBackend, "all model servers are at their limit; try again shortly");
        Self {
            retry: Retry::Anywhere,
            fault: false,
            over: true,
            asked_to_wait,
            ..Self::fault(failure.retry_after(wait))
        }
    }

    /// It still has a request of this name: a try before this one, whose connection was cut on its way. SGLang sees that,
    /// or hears our abort, within half a second.
    fn still_running() -> Self {
        let message = "the model's server has not noticed yet that an earlier try was cut off; send the request again";
        let failure = Failure::new(FailureKind::NoBackend, message).retry_after(RETRY_AFTER);
        let (retry, asked_to_wait) = (Retry::Anywhere, Some(UNNOTICED));
        Self { retry, fault: false, over: true, asked_to_wait, ..Self::fault(failure) }
    }

    /// The server itself gave up.
    fn too_long(message: &str) -> Self {
        let told = format!("the model's server took too long: {}", clean(message));
        Self { fault: false, over: true, ..Self::fault(Failure::new(FailureKind::BackendTimeout, told)) }
    }

    fn of_client(kind: FailureKind, message: String) -> Self {
        Self { retry: Retry::Nowhere, fault: false, over: true, ..Self::fault(Failure::new(kind, message)) }
    }
}

/// An error answer: its status, how long it asks to wait, and its body, whose shape is flat in SGLang and nested in
/// others.
pub(super) fn answered(status: u16, asked_to_wait: Option<Duration>, body: &[u8]) -> Trouble {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    // No SGLang says so without JSON: it is some other server's page.
    let message =
        if matches!(status, 404 | 405) && value.is_null() { NOT_FOUND.to_owned() } else { message_of(&value) };
    of(status, asked_to_wait, &message)
}

/// An error frame inside a 200 stream.
pub(super) fn in_stream(error: &Value) -> Trouble {
    let status = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
    of(status, None, &message_of(error))
}

fn of(status: u16, asked_to_wait: Option<Duration>, message: &str) -> Trouble {
    if let Some(told) = context_exceeded(message) {
        return Trouble::of_client(FailureKind::ContextLength, told);
    }
    if message.starts_with("Duplicate request ID") {
        return Trouble::still_running();
    }
    match status {
        401 | 403 => {
            let told = "the model's server refuses the gateway's key";
            Trouble { over: true, ..Trouble::fault(Failure::new(FailureKind::KeyRefused, told)) }
        }
        404 | 405 if message == NOT_FOUND => {
            Trouble { retry: Retry::Elsewhere, ..Trouble::of_client(FailureKind::NoRoute, NO_ROUTE.to_owned()) }
        }
        400..=407 | 409..=428 | 430..=499 => Trouble::of_client(FailureKind::Invalid, clean(message)),
        // SGLang's own bounds on waiting and running, which have the status of a full queue.
        503 if message.to_ascii_lowercase().contains("timeout") => Trouble::too_long(message),
        429 | 503 => Trouble::full(asked_to_wait),
        408 | 504 => Trouble::too_long(message),
        _ => {
            let told = format!("the model's server failed (status {status})");
            Trouble { over: true, ..Trouble::fault(Failure::new(FailureKind::BackendBroke, told)) }
        }
    }
}

fn message_of(value: &Value) -> String {
    [&value["message"], &value["error"]["message"], &value["error"], &value["detail"]]
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or("the request was refused without a reason")
        .to_owned()
}

/// SGLang's words for a prompt, or prompt and answer, that do not fit, and those behind which the limit stands: its front
/// end's, its scheduler's, and the latter's once images have become tokens (`schedule_batch.py`, `scheduler.py`).
const TOO_LONG: &[(&str, &str)] = &[
    ("context length", "context length"),
    ("maximum allowed length", "maximum allowed length"),
    ("prompt is too long", ">="),
];

/// What clients are told when the message says that the context is too small. They look for the words in front.
fn context_exceeded(message: &str) -> Option<String> {
    let lower = message.to_ascii_lowercase();
    let (_, before_limit) = TOO_LONG.iter().find(|(words, _)| lower.contains(words))?;
    let after = lower.find(before_limit).map_or("", |at| &lower[at..]);
    let limit: String = after.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let cleaned = clean(message);
    Some(if limit.is_empty() {
        cleaned
    } else {
        format!("This model's maximum context length is {limit} tokens. {cleaned}")
    })
}

/// SGLang's validation errors quote the input and name source files: keep where and what, drop the rest.
fn clean(message: &str) -> String {
    let head = message.split("\n\n").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.find("'loc': (") {
        let after = &rest[at + 8..];
        let (place, after) = after.split_once(')').unwrap_or((after, ""));
        let what = after.split_once("'msg': ").map_or("", |(_, what)| what);
        let (what, later) = what.split_once(", 'input':").unwrap_or((what.split('}').next().unwrap_or(what), ""));
        let path: Vec<_> = place
            .split(',')
            .map(|part| part.trim().trim_matches('\''))
            .filter(|part| !part.is_empty() && *part != "body" && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
            .collect();
        found.push(format!("{}: {}", path.join("."), what.trim().trim_matches(['\'', '"'])));
        rest = later;
    }
    let text = if found.is_empty() { head.lines().next().unwrap_or_default().to_owned() } else { found.join("; ") };
    let text = text.replace("Value error, ", "");
    let mut cut: String = text.chars().take(MESSAGE_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validation_error_keeps_its_place_and_loses_input_and_paths() {
        let body = br#"{"object":"error","message":"1 validation error:\n  {'type': 'x', 'loc': ('body', 'messages', 0, 'f[g(), H]', 'role'), 'msg': \"Value error, 'role' must be one of 'system'.\", 'input': 'SECRET', 'ctx': {}}\n\n  File \"/venv/http_server.py\", line 1","code":400}"#;
        let trouble = answered(400, None, body);
        assert_eq!(trouble.failure.kind, FailureKind::Invalid);
        assert!(trouble.failure.message.starts_with("messages.0"), "{}", trouble.failure.message);
        assert!(trouble.failure.message.contains("'role' must be one of"), "{}", trouble.failure.message);
        for leak in ["SECRET", "/venv", "File"] {
            assert!(!trouble.failure.message.contains(leak), "{}", trouble.failure.message);
        }
        assert!(trouble.retry == Retry::Nowhere && !trouble.down && !trouble.fault);
    }

    #[test]
    fn a_full_context_names_the_limit_as_clients_look_for_it() {
        for message in [
            "The input (27009 tokens) is longer than the model's context length (8192 tokens).",
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested 9000",
            "Input length (9000 tokens) exceeds the maximum allowed length (8192 tokens). Use a shorter input or enable \
             --allow-auto-truncate.",
            "Multimodal prompt is too long after expanding multimodal tokens. After expanding \
             len(req.origin_input_ids_unpadded)=12 => 9000 >= 8192.",
        ] {
            let error = serde_json::json!({"object": "error", "message": message, "code": 400});
            for trouble in [answered(400, None, error.to_string().as_bytes()), in_stream(&error)] {
                let failure = trouble.failure;
                assert_eq!(failure.kind, FailureKind::ContextLength);
                assert!(
                    failure.message.starts_with("This model's maximum context length is 8192 tokens"),
                    "{failure:?}"
                );
            }
        }
    }

    #[test]
    fn a_page_that_is_not_there_may_be_elsewhere_whoever_says_so() {
        for (status, body) in [(404, &b"<html>"[..]), (405, b""), (404, br#"{"detail":"Not Found"}"#)] {
            let trouble = answered(status, None, body);
            assert_eq!((trouble.failure.kind, trouble.retry), (FailureKind::NoRoute, Retry::Elsewhere), "{status}");
        }
    }

    #[test]
    fn a_request_that_is_still_there_is_tried_again_a_moment_later() {
        let trouble = answered(400, None, br#"{"message":"Duplicate request ID detected: chatcmpl-1","code":400}"#);
        assert_eq!((trouble.retry, trouble.fault, trouble.asked_to_wait), (Retry::Anywhere, false, Some(UNNOTICED)));
        assert!(!trouble.failure.message.contains("chatcmpl-1"), "{trouble:?}");
    }

    #[test]
    fn a_full_queue_may_be_tried_elsewhere_and_is_not_the_backends_fault() {
        let in_stream = in_stream(&serde_json::json!({"message": "The request queue is full.", "code": 503}));
        assert_eq!(in_stream, Trouble::full(None));
        assert_eq!(answered(503, None, b"{}"), Trouble::full(None));
        let gave_up = answered(503, None, br#"{"message":"Request running timeout reached."}"#);
        assert_eq!(gave_up.failure.kind, FailureKind::BackendTimeout);
        assert!(gave_up.failure.message.contains("running timeout"), "{gave_up:?}");
    }
}
