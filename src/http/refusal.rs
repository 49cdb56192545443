//! A failure → a status, an outside message, and headers that say whether to try again.

use super::EXECUTE_HEADER;
use super::limits::Load;
use crate::chat::{Failure, FailureKind};
use crate::dialect::{self, Dialect};
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;

/// A row of the table of statuses, of which the code, the tests, docs/api.md and the `OpenAPI` document all speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRow {
    /// The status.
    pub status: StatusCode,
    /// The envelope's `type`.
    pub kind: &'static str,
    /// The envelope's `code`.
    pub code: Option<&'static str>,
    /// Whether the same request, sent again, may be answered.
    pub retry: bool,
    /// When it is sent.
    pub when: &'static str,
}

/// The table, by status.
pub fn statuses() -> Vec<StatusRow> {
    let row = |kind: FailureKind| {
        let (status, retry, when) = said(kind);
        let (kind, code) = dialect::ERRORS.error_names(kind);
        StatusRow { status, kind, code, retry, when }
    };
    let mut rows: Vec<_> = FailureKind::ALL.into_iter().map(row).collect();
    rows.sort_by_key(|row| row.status);
    rows
}

/// What a failure is in HTTP: its status, whether to try again, and when it is sent. What a dialect calls it is the
/// dialect's business.
fn said(kind: FailureKind) -> (StatusCode, bool, &'static str) {
    type Status = StatusCode;
    match kind {
        FailureKind::Invalid => (Status::BAD_REQUEST, false, "the request makes no sense; `param` names the member"),
        FailureKind::ContextLength => {
            (Status::BAD_REQUEST, false, "the conversation is longer than the model's context")
        }
        FailureKind::Unauthenticated => (Status::UNAUTHORIZED, false, "no key, or a wrong one"),
        FailureKind::Forbidden => (
            Status::FORBIDDEN,
            false,
            "the request insists on a tool or a session that the caller's policy does not grant",
        ),
        FailureKind::UnknownModel => (Status::NOT_FOUND, false, "no backend that is up serves the model"),
        FailureKind::NoRoute => (Status::NOT_FOUND, false, "no such path"),
        FailureKind::NoMethod => (Status::METHOD_NOT_ALLOWED, false, "the path does not take this method"),
        FailureKind::NotThere => {
            (Status::NOT_FOUND, false, "the caller has no such session, or there is no such file in it")
        }
        FailureKind::InTheWay => {
            (Status::CONFLICT, false, "a folder is where a file should be, or a file where a folder should be")
        }
        FailureKind::NoSpace => (
            Status::PAYLOAD_TOO_LARGE,
            false,
            "the file would go beyond the policy's `limits.files`, `limits.file_mib` or `sessions.mib`",
        ),
        FailureKind::TooLate => (Status::REQUEST_TIMEOUT, false, "the body did not arrive within `server.body_ms`"),
        FailureKind::TooLarge => {
            (Status::PAYLOAD_TOO_LARGE, false, "the body, inflated, is larger than `server.body_bytes_max`")
        }
        FailureKind::Encoding => {
            (Status::UNSUPPORTED_MEDIA_TYPE, false, "the body is compressed with something else than gzip or zstd")
        }
        FailureKind::RateLimited => {
            (Status::TOO_MANY_REQUESTS, true, "the caller has as many requests running as it may; with `Retry-After`")
        }
        FailureKind::Internal => (Status::INTERNAL_SERVER_ERROR, false, "a mistake of the gateway's"),
        FailureKind::BackendBroke => {
            (Status::BAD_GATEWAY, true, "a backend answered with an error or nonsense, or died")
        }
        FailureKind::KeyRefused => {
            (Status::BAD_GATEWAY, false, "the backends refuse the gateway's key, which its operator has to mend")
        }
        FailureKind::AnswerTooLong => (
            Status::BAD_REQUEST,
            false,
            "all that the model wrote for one request is more than 8 MiB; set `max_tokens`",
        ),
        FailureKind::NoBackend => (
            Status::SERVICE_UNAVAILABLE,
            true,
            "no backend is up, all are full, the bodies of all requests have no room, or the gateway stops; with `Retry-After`",
        ),
        FailureKind::NoInterpreter => {
            (Status::SERVICE_UNAVAILABLE, true, "every interpreter is busy, or none can be started; with `Retry-After`")
        }
        FailureKind::BackendTimeout => (Status::GATEWAY_TIMEOUT, true, "a backend took too long"),
    }
}

/// A request that is answered with an error.
#[derive(Debug)]
pub(super) struct Refusal {
    pub failure: Failure,
    /// For who is told to wait: what it is waiting for.
    pub load: Option<Load>,
}

/// What the client of a failed request was told, for the log.
#[derive(Debug, Clone)]
pub(super) struct Told(pub Arc<str>);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, load: None }
    }
}

impl Refusal {
    pub fn into_response_for(mut self, dialect: &dyn Dialect) -> Response {
        if self.failure.unless_client_runs {
            let header = format!(", or send the header {EXECUTE_HEADER}: client to get the calls yourself");
            self.failure.message.push_str(&header);
        }
        let (status, retry, _) = said(self.failure.kind);
        let mut response = Response::new(Body::from(dialect.error(&self.failure)));
        *response.status_mut() = status;
        response.extensions_mut().insert(Told(self.failure.message.into()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The SDKs try 408, 409, 429 and 5xx again by themselves, unless told.
        headers.insert("x-should-retry", HeaderValue::from_static(if retry { "true" } else { "false" }));
        if let Some(wait) = self.failure.retry_after {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(millis));
        }
        if let Some(load) = self.load {
            load.tell(headers);
        }
        match self.failure.kind {
            FailureKind::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // RFC 9110, 15.5.16: what would have been taken.
            FailureKind::Encoding => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
            }
            _ => {}
        }
        response
    }
}
