//! A failure in OpenAI's envelope.

use super::json;
use crate::chat::{Failure, FailureKind};
use crate::sse;
use bytes::{Bytes, BytesMut};
use serde_json::json;

/// `{"error": {message, type, param, code}}`.
pub(super) fn body(failure: &Failure) -> Bytes {
    let (kind, code) = names(failure.kind);
    json(&json!({"error": {"message": failure.message, "type": kind, "param": failure.param, "code": code}})).into()
}

/// The same as the last event of a stream, with the end that clients wait for.
pub(super) fn in_stream(failure: &Failure) -> Bytes {
    let mut out = BytesMut::from(&sse::frame(&body(failure))[..]);
    out.extend_from_slice(&sse::frame(sse::DONE));
    out.freeze()
}

/// `type` and `code`. Clients send a request again for ever when the type is `server_error`, so that is kept for what
/// a second try may mend.
pub(super) fn names(kind: FailureKind) -> (&'static str, Option<&'static str>) {
    match kind {
        FailureKind::Invalid
        | FailureKind::NoRoute
        | FailureKind::NoMethod
        | FailureKind::TooLate
        | FailureKind::TooLarge
        | FailureKind::Encoding => ("invalid_request_error", None),
        FailureKind::ContextLength => ("invalid_request_error", Some("context_length_exceeded")),
        FailureKind::UnknownModel => ("invalid_request_error", Some("model_not_found")),
        FailureKind::NotThere => ("invalid_request_error", Some("not_found")),
        FailureKind::InTheWay => ("invalid_request_error", Some("conflict")),
        FailureKind::NoSpace => ("invalid_request_error", Some("no_space")),
        FailureKind::Unauthenticated => ("authentication_error", Some("invalid_api_key")),
        FailureKind::Forbidden => ("permission_error", Some("not_allowed")),
        FailureKind::RateLimited => ("rate_limit_error", Some("rate_limit_exceeded")),
        FailureKind::NoBackend => ("server_error", Some("no_backend")),
        FailureKind::NoInterpreter => ("server_error", Some("no_interpreter")),
        FailureKind::BackendBroke => ("server_error", Some("backend_failed")),
        FailureKind::KeyRefused => ("internal_error", Some("key_refused")),
        FailureKind::AnswerTooLong => ("invalid_request_error", Some("answer_too_long")),
        FailureKind::BackendTimeout => ("server_error", Some("backend_timeout")),
        FailureKind::Internal => ("internal_error", Some("internal_error")),
    }
}
