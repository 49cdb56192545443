//! A request's body, whole: within its time, its size, and inflated.

use super::SESSION_HEADER;
use super::bodies::{Bodies, Room};
use super::refusal::Refusal;
use crate::chat::{Failure, FailureKind};
use crate::dialect::Dialect;
use axum::body::{Body, Bytes};
use axum::response::Response;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use ruzstd::decoding::StreamingDecoder;
use std::io::Read;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes that a zstd frame may make its reader keep, its window. RFC 8878, 3.1.1.1.2 asks for these 8 MiB and allows to
/// refuse more; `zstd` goes beyond them with `--ultra` and `--long` only.
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// How long the rest of a refused request's body is read. Chosen, as nginx's `lingering_timeout`.
const LINGER: Duration = Duration::from_secs(5);

/// A body of more bytes is read on a thread of its own. Chosen: some 2 ms.
const READ_HERE_BYTES_MAX: usize = 1 << 20;

/// What a body grows by while it is inflated. Chosen.
const STEP_BYTES: usize = 64 << 10;

/// Bounds on a body.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Bytes, inflated.
    pub bytes_max: usize,
    /// It must arrive in this time.
    pub time: Duration,
    /// Bytes of all bodies together.
    pub together_bytes_max: usize,
    /// All of them.
    pub bodies: Bodies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Reads the body.
///
/// # Errors
/// When it is too large, too late, broken, or compressed with what nobody here can read.
pub(super) async fn whole(headers: &HeaderMap, body: &mut Body, limits: &BodyLimits) -> Result<Bytes, Failure> {
    let encoding = encoding(headers)?;
    let bytes_max = limits.bytes_max;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let mut room = limits.bodies.room();
    let Ok(arrived) = timeout(limits.time, arrived(body, announced, limits, &mut room)).await else {
        return Err(Failure::new(FailureKind::TooLate, "the request body did not arrive in time"));
    };
    let body = room.hold(arrived?);
    if encoding == Encoding::Identity {
        return Ok(body);
    }
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
            return Err(too_large(limits.bytes_max));
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

fn encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let mut sent = headers.get_all(header::CONTENT_ENCODING).iter();
    let (first, more) = (sent.next().map_or(b"identity".as_slice(), HeaderValue::as_bytes), sent.next());
    match first.to_ascii_lowercase().as_slice() {
        b"identity" if more.is_none() => Ok(Encoding::Identity),
        b"gzip" | b"x-gzip" if more.is_none() => Ok(Encoding::Gzip),
        b"zstd" if more.is_none() => Ok(Encoding::Zstd),
        _ => {
            let message = "this content-encoding is not taken; send the body as gzip, as zstd, or as it is";
            Err(Failure::new(FailureKind::Encoding, message))
        }
    }
}

/// Inflates one gzip member or one zstd frame, which is what clients send: of more, each could cost its reader far more
/// than it costs its writer.
fn inflated(encoding: Encoding, body: &Bytes, limits: &BodyLimits) -> Result<Bytes, Failure> {
    let mut room = limits.bodies.room();
    let (bytes, rest) = match encoding {
        Encoding::Identity => return Ok(body.clone()),
        Encoding::Gzip => gunzip(body, limits, &mut room)?,
        Encoding::Zstd => unzstd(body, limits, &mut room)?,
    };
    if rest.is_empty() { Ok(room.hold(bytes.into())) } else { Err(broken()) }
}

fn broken() -> Failure {
    let message = "the request body cannot be inflated; send one gzip member, or one zstd frame with a window of at most \
                   8 MiB, and nothing after it";
    Failure::new(FailureKind::Invalid, message)
}

/// What is inflated, and what of the body is left.
type Inflated<'a> = Result<(Vec<u8>, &'a [u8]), Failure>;

fn gunzip<'a>(body: &'a [u8], limits: &BodyLimits, room: &mut Room) -> Inflated<'a> {
    let mut decoder = flate2::bufread::GzDecoder::new(body);
    Ok((bounded(&mut decoder, limits, room)?, decoder.into_inner()))
}

fn unzstd<'a>(mut body: &'a [u8], limits: &BodyLimits, room: &mut Room) -> Inflated<'a> {
    // The decoder keeps a whole window and takes any: a header of ten bytes could ask for all memory there is.
    let window = match zstd_window(body).ok_or_else(broken)? {
        Window::Of(bytes) => bytes <= ZSTD_WINDOW_BYTES_MAX,
        Window::AllOf(bytes) => bytes <= limits.bytes_max as u64,
    };
    if !window {
        return Err(broken());
    }
    let mut decoder = StreamingDecoder::new(&mut body).map_err(|_| broken())?;
    let bytes = bounded(&mut decoder, limits, room)?;
    Ok((bytes, body))
}

/// What the reader of a zstd frame has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// So many bytes.
    Of(u64),
    /// Everything, which is so many bytes.
    AllOf(u64),
}

/// Reads it from the frame's header (RFC 8878, 3.1.1.1).
fn zstd_window(frame: &[u8]) -> Option<Window> {
    let (&descriptor, rest) = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?.split_first()?;
    if descriptor & 0x20 == 0 {
        let window = *rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(Window::Of(base + base / 8 * u64::from(window & 7)));
    }
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_bytes = 1 << (descriptor >> 6);
    let size = rest.get(dictionary_bytes..dictionary_bytes + size_bytes)?;
    let size = size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte));
    // Two bytes count from 256 on.
    Some(Window::AllOf(if size_bytes == 2 { size + 256 } else { size }))
}

/// Everything, if it is not too much.
fn bounded(decoder: &mut impl Read, limits: &BodyLimits, room: &mut Room) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        let more = decoder.by_ref().take(STEP_BYTES as u64).read_to_end(&mut bytes).map_err(|_| broken())?;
        if more == 0 {
            return Ok(bytes);
        }
        if bytes.len() > limits.bytes_max {
            return Err(too_large(limits.bytes_max));
        }
        room.take(more, limits.together_bytes_max)?;
    }
}

fn too_large(bytes_max: usize) -> Failure {
    let message = format!("the request body is larger than {bytes_max} bytes (server.body_bytes_max)");
    Failure::new(FailureKind::TooLarge, message)
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
