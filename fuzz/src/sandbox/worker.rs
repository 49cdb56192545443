//! What the gateway and a worker say to each other: any bytes are read or refused within bounds, and what one end has
//! written is what the other one reads.

use super::outcome::{ERROR_BYTES_MAX, Outcome, Stream};
use super::parked::Room;
use super::values;
use super::wasi::READINGS_MAX;
use crate::{at_once, heap};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use line::Line;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use wire::{HEAD_BYTES, Order, Report};

#[path = "../../../src/sandbox/worker/line.rs"]
mod line;
#[path = "../../../src/sandbox/worker/wire.rs"]
mod wire;

/// Bytes beside the frame itself: an error's words, buffers of the test's own.
const BESIDE_BYTES: usize = 4096;
/// Bytes that a text may have beside itself: what stands where it was cut, and a note of the host's.
const BESIDE_TEXT_BYTES: usize = 512;
/// Memory for each byte of a frame. What costs most is a reading of a clock, which is a byte there and eight here; a list
/// grows by doubling, which holds it one and a half times.
const MEMORY_PER_BYTE: usize = 24;

/// Reads the bytes as one frame, as a stream of frames, and as what is to be said.
pub fn frames(data: &[u8]) {
    one(data);
    stream(data);
    let _ = said(&mut Unstructured::new(data));
}

fn one(frame: &[u8]) {
    let most = MEMORY_PER_BYTE * frame.len() + BESIDE_BYTES;
    let (order, bytes) = heap::peak(|| Order::read(frame));
    assert!(bytes <= most, "an order of {} bytes took {bytes}", frame.len());
    if let Ok(order) = order {
        assert_eq!(Order::read(behind_head(&order.write())).expect("an order"), order);
    }
    let (report, bytes) = heap::peak(|| Report::read(frame));
    assert!(bytes <= most, "a report of {} bytes took {bytes}", frame.len());
    if let Ok(report) = report {
        assert_eq!(Report::read(behind_head(&report.write())).expect("a report"), report);
    }
}

/// Both ends read the same from a stream, up to its end or what is wrong with it, and none takes more than is allowed.
fn stream(data: &[u8]) {
    let Some((most, data)) = data.split_first_chunk() else { return };
    let most = usize::from(u16::from_le_bytes(*most));
    let mut rest = data;
    let gateway: Vec<_> = std::iter::from_fn(|| {
        let (frame, bytes) = heap::peak(|| at_once(wire::next(&mut rest, most)));
        assert!(bytes <= most + BESIDE_BYTES, "a frame of at most {most} bytes took {bytes}");
        frame.ok().flatten()
    })
    .collect();
    let (mut ours, its) = UnixStream::pair().expect("a pair");
    ours.write_all(data).expect("room for an input");
    drop(ours);
    let line = Line::to(its);
    let worker: Vec<_> = std::iter::from_fn(|| {
        let (frame, bytes) = heap::peak(|| line.hear_order(most));
        assert!(bytes <= most + BESIDE_BYTES, "a frame of at most {most} bytes took {bytes}");
        frame.ok().flatten()
    })
    .collect();
    assert_eq!(gateway, worker);
    for frame in &gateway {
        assert!(frame.len() <= most);
        one(frame);
    }
}

/// Says something in each direction, over a socket.
fn said(any: &mut Unstructured) -> Result<()> {
    let (mut ours, its) = UnixStream::pair().expect("a pair");
    let line = Line::to(its);
    while !any.is_empty() {
        let order = match any.int_in_range(0..=3)? {
            0 => Order::Renew,
            1 => Order::Park,
            2 => Order::Restore {
                room: Room { memory_bytes: any.arbitrary()?, bytes: any.arbitrary()? },
                state: any.arbitrary()?,
            },
            _ => Order::Run(values::job(any)?),
        };
        ours.write_all(&order.write()).expect("room for an order");
        let frame = line.hear_order(wire::ORDER_BYTES_MAX).expect("a frame").expect("one");
        assert_eq!(Order::read(&frame).expect("an order"), order);

        let report = match any.int_in_range(0..=4)? {
            0 => Report::Ready { task: any.arbitrary()? },
            1 => Report::Output(*any.choose(&[Stream::Stdout, Stream::Stderr])?, any.arbitrary()?),
            2 => Report::Over { kept: any.arbitrary()?, outcome: Box::new(values::outcome(any)?) },
            3 => Report::Parked(any.arbitrary()?),
            _ => Report::Failed(any.arbitrary()?),
        };
        let is_heard = match &report {
            Report::Output(stream, chunk) => line.hear(*stream, chunk) && line.tick(),
            report => line.say(report).is_ok(),
        };
        assert!(is_heard, "the other end is there");
        match (read(&mut ours), &report) {
            (heard, Report::Over { outcome, .. }) if outcome.readings.len() > READINGS_MAX => {
                assert!(heard.is_err(), "{} readings", outcome.readings.len());
            }
            (heard, report) => assert_eq!(&heard.expect("a report"), report),
        }
        if let Report::Over { outcome, .. } = report {
            believed(*outcome, any)?;
        }
    }
    Ok(())
}

/// What is made of an outcome is within the limits of its run.
fn believed(outcome: Outcome, any: &mut Unstructured) -> Result<()> {
    let (limits, passed) = (values::limits(any)?, Duration::from_nanos(any.arbitrary()?));
    let Ok(heard) = outcome.heard(&limits, passed) else { return Ok(()) };
    assert!(heard.ended.has_run() && heard.duration <= passed);
    for (text, most) in [
        (heard.stdout, limits.output_bytes),
        (heard.stderr, limits.output_bytes),
        (heard.value.unwrap_or_default(), limits.result_bytes),
        (heard.error.unwrap_or_default(), ERROR_BYTES_MAX),
    ] {
        assert!(text.len() <= 3 * most + BESIDE_TEXT_BYTES, "{} bytes, where {most} are the most", text.len());
    }
    Ok(())
}

fn read(from: &mut UnixStream) -> std::io::Result<Report> {
    use std::io::Read;
    let mut head = [0; HEAD_BYTES];
    from.read_exact(&mut head).expect("a head");
    let mut frame = vec![0; wire::length(head, usize::MAX).expect("a length")];
    from.read_exact(&mut frame).expect("a frame");
    Report::read(&frame)
}

fn behind_head(frame: &[u8]) -> &[u8] {
    let (head, rest) = frame.split_first_chunk().expect("a head");
    assert_eq!(wire::length(*head, rest.len()).expect("a length"), rest.len());
    rest
}
