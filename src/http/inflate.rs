//! A compressed body, inflated: within its bounds however little of it was sent.

use super::bodies::{BodyLimits, Room};
use crate::chat::{Failure, FailureKind};
use bytes::Bytes;
use ruzstd::decoding::StreamingDecoder;
use std::io::Read;

/// Bytes that a zstd frame may make its reader keep, its window. RFC 8878, 3.1.1.1.2 asks for these 8 MiB and allows to
/// refuse more; `zstd` goes beyond them with `--ultra` and `--long` only.
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// What a body grows by while it is inflated. Chosen.
const STEP_BYTES: usize = 64 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

/// Inflates one gzip member or one zstd frame, which is what clients send: of more, each could cost its reader far more
/// than it costs its writer.
pub(super) fn inflated(encoding: Encoding, body: &[u8], limits: &BodyLimits) -> Result<Bytes, Failure> {
    let mut room = limits.bodies.room();
    let (bytes, rest) = match encoding {
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
            return Err(limits.too_large());
        }
        room.take(more, limits.together_bytes_max)?;
    }
}
