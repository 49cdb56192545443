//! Leave for web pages of other origins to ask: browsers want it in headers.

use super::limits;
use crate::chat::{Failure, FailureKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use std::net::IpAddr;
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

/// Where no key is asked for, any page that its user's browser shows could ask: across origins without reading the answer,
/// or with a name that has come to mean this machine (DNS rebinding). Whatever can change something says whose page it is.
///
/// # Errors
/// When the request comes from a page that is neither this machine's nor listed.
pub(super) fn no_strange_page(origins: &[HeaderValue], headers: &HeaderMap) -> Result<(), Failure> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let page = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let is_here = |host: &str| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    };
    if page.as_ref().and_then(Uri::host).is_some_and(is_here)
        || origins.iter().any(|listed| listed == "*" || listed == origin)
    {
        return Ok(());
    }
    let message = "web pages of this origin may not ask a gateway without keys; add it to server.cors_origins";
    Err(Failure::new(FailureKind::Forbidden, message))
}

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
