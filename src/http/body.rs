//! A request's body, whole: within its time, its size, and inflated.

use super::SESSION_HEADER;
use super::bodies::{BodyLimits, Room};
use super::inflate::{Encoding, inflated};
use super::refusal::Refusal;
use crate::chat::{Failure, FailureKind};
use crate::dialect::Dialect;
use axum::body::{Body, Bytes};
use axum::response::Response;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::timeout;

/// How long the rest of a refused request's body is read. Chosen, as nginx's `lingering_timeout`.
const LINGER: Duration = Duration::from_secs(5);

/// A body of more bytes is read on a thread of its own. Chosen: some 2 ms.
const READ_HERE_BYTES_MAX: usize = 1 << 20;

/// Reads the body.
///
/// # Errors
/// When it is too large, too late, broken, or compressed with what nobody here can read.
pub(super) async fn whole(headers: &HeaderMap, body: &mut Body, limits: &BodyLimits) -> Result<Bytes, Failure> {
    let encoding = encoding(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.bytes_max) {
        return Err(limits.too_large());
    }
    let mut room = limits.bodies.room();
    let Ok(arrived) = timeout(limits.time, arrived(body, announced, limits, &mut room)).await else {
        return Err(Failure::new(FailureKind::TooLate, "the request body did not arrive in time"));
    };
    let body = room.hold(arrived?);
    let Some(encoding) = encoding else { return Ok(body) };
    // Megabytes take a while, during which the runtime's own threads should serve others.
    let limits = limits.clone();
    let inflating = tokio::task::spawn_blocking(move || inflated(encoding, &body, &limits));
    inflating.await.unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, "the body could not be inflated")))
}

/// All pieces of a body as one. Most have one piece, which is not copied; of very many, each would take more than its bytes.
async fn arrived(
    body: &mut Body,
    announced: Option<usize>,
    limits: &BodyLimits,
    room: &mut Room,
) -> Result<Bytes, Failure> {
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::new(FailureKind::Invalid, "the request body ended too early"))?;
        let Ok(piece) = frame.into_data() else { continue };
        if first.len() + all.len() + piece.len() > limits.bytes_max {
            return Err(limits.too_large());
        }
        room.take(piece.len(), limits.together_bytes_max)?;
        if first.is_empty() && all.is_empty() {
            first = piece;
            continue;
        }
        if all.is_empty() {
            // Of what is only announced no more than a little.
            all.reserve(announced.unwrap_or_default().min(READ_HERE_BYTES_MAX).max(first.len() + piece.len()));
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&piece);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Makes of a body what it says; of a large one where nobody else waits for the thread.
pub(super) async fn read<T: Send + 'static>(
    body: Bytes,
    reader: impl FnOnce(Bytes) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    if body.len() <= READ_HERE_BYTES_MAX {
        return reader(body);
    }
    let reading = tokio::task::spawn_blocking(move || reader(body));
    reading.await.unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, "the body could not be read")))
}

/// Reads on in the body of a request that is refused, which nobody wants: most clients look for an answer only after
/// they have sent everything, and to close the connection before that would lose the answer.
pub(super) async fn linger(refused: &Failure, headers: &HeaderMap, mut body: Body) {
    // Who was too slow to send it has been waited for. A client that asked before it sends has sent nothing, and to read
    // would be to ask for it.
    if refused.kind != FailureKind::TooLate && !headers.contains_key(header::EXPECT) {
        let _ = timeout(LINGER, async { while let Some(Ok(_)) = body.frame().await {} }).await;
    }
}

/// `None`: it is not compressed.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Failure> {
    let mut sent = headers.get_all(header::CONTENT_ENCODING).iter();
    let (first, more) = (sent.next().map_or(b"identity".as_slice(), HeaderValue::as_bytes), sent.next());
    match first.to_ascii_lowercase().as_slice() {
        b"identity" if more.is_none() => Ok(None),
        b"gzip" | b"x-gzip" if more.is_none() => Ok(Some(Encoding::Gzip)),
        b"zstd" if more.is_none() => Ok(Some(Encoding::Zstd)),
        _ => {
            let message = "this content-encoding is not taken; send the body as gzip, as zstd, or as it is";
            Err(Failure::new(FailureKind::Encoding, message))
        }
    }
}

/// The answer to a request, or its refusal, once the rest of `body` need not be waited for.
pub(super) async fn answered(
    answer: Result<Response, Refusal>,
    headers: &HeaderMap,
    body: Body,
    dialect: &dyn Dialect,
) -> Response {
    match answer {
        Ok(response) => response,
        Err(refusal) => {
            linger(&refusal.failure, headers, body).await;
            refusal.into_response_for(dialect)
        }
    }
}

/// Reads [`SESSION_HEADER`]: the interpreter that programs of a request are to run in.
pub(super) fn session(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let sent = headers.get(SESSION_HEADER).map(HeaderValue::to_str).transpose();
    let sent =
        sent.map_err(|_| Failure::new(FailureKind::Invalid, format!("the header {SESSION_HEADER} is not text")))?;
    Ok(sent.map(str::to_owned))
}
