//! Leave for web pages of other origins to ask: browsers want it in headers.

use super::limits;
use http::{HeaderName, HeaderValue, Method, header};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// How long a browser may remember a preflight. Chrome keeps none longer than these two hours.
const MAX_AGE: Duration = Duration::from_hours(2);

/// What a page may read of an answer, besides its body.
const EXPOSED: [HeaderName; 8] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-should-retry"),
    header::RETRY_AFTER,
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static(limits::LIMIT),
    HeaderName::from_static(limits::REMAINING),
    HeaderName::from_static(limits::RESET),
    header::WWW_AUTHENTICATE,
];

/// `None` when no origin may ask.
pub(super) fn layer(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let allowed = match origins {
        [] => return None,
        [all] if all == "*" => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().cloned()),
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        // SDKs send a family of headers (`x-stainless-…`), whose names no list could hold. A key is a header like the
        // others; what a browser adds by itself, cookies, is not allowed, and nobody here looks at it.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE);
    Some(layer)
}
