//! A failure → a status, an outside message, and headers that say whether to try again.

use crate::chat::{Failure, FailureKind};
use crate::dialect::Dialect;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;

/// A request that is answered with an error.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub failure: Failure,
}

/// What the client of a failed request was told, for the log.
#[derive(Debug, Clone)]
pub(super) struct Told(pub Arc<str>);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.kind {
            FailureKind::Invalid | FailureKind::ContextLength => StatusCode::BAD_REQUEST,
            FailureKind::UnknownModel => StatusCode::NOT_FOUND,
            FailureKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            FailureKind::Forbidden => StatusCode::FORBIDDEN,
            FailureKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            FailureKind::NoBackend => StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::BackendBroke => StatusCode::BAD_GATEWAY,
            FailureKind::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
            FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, failure }
    }
}

impl Refusal {
    pub fn into_response_for(self, dialect: &dyn Dialect) -> Response {
        let mut response = Response::new(Body::from(dialect.error(&self.failure)));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Told(self.failure.message.into()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The SDKs try 408, 409, 429 and 5xx again by themselves, unless told.
        let worth_it = matches!(self.status.as_u16(), 429 | 502 | 503 | 504);
        headers.insert("x-should-retry", HeaderValue::from_static(if worth_it { "true" } else { "false" }));
        if let Some(wait) = self.failure.retry_after {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(millis));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
