//! What the gateway and a worker say to each other: frames on a local socket.
//!
//! A frame is its length (4 bytes, little-endian, of what follows), a byte that says what it is, and a payload. A worker
//! runs hostile programs, so nothing that it says is believed to be well-formed: every frame has a bound, and whatever
//! else comes ends the worker.

use crate::policy::Limits;
use crate::sandbox::job::Job;
use crate::sandbox::outcome::{ERROR_BYTES_MAX, Outcome, Stream};
use crate::sandbox::parked::Room;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a frame beside the texts in it. Chosen: many times what they take.
const OVERHEAD_BYTES: usize = 4096;

/// Bytes of an order, which comes from the gateway: a program with its arguments, or a parked interpreter. Chosen: more
/// than either may have.
pub(super) const ORDER_BYTES_MAX: usize = 1 << 30;

/// Bytes of a frame's length.
pub(super) const HEAD_BYTES: usize = 4;

/// To a worker.
#[derive(Debug, PartialEq)]
pub(super) enum Order {
    /// Run this in the interpreter.
    Run(Job),
    /// Replace the interpreter by a new one.
    Renew,
    /// Say what the interpreter has come to.
    Park,
    /// Replace the interpreter by one that was parked.
    Restore { room: Room, state: Vec<u8> },
}

/// From a worker.
#[derive(Debug, PartialEq)]
pub(super) enum Report {
    /// There is an interpreter in which nothing has run. The kernel's scheduler knows the thread that it runs on as this.
    Ready { task: i32 },
    /// The program has written this.
    Output(Stream, Vec<u8>),
    /// The program is over, and the interpreter is still there or not.
    Over { kept: bool, outcome: Box<Outcome> },
    /// What the interpreter has come to.
    Parked(Vec<u8>),
    /// There is no interpreter, and why.
    Failed(String),
}

mod kind {
    pub const RUN: u8 = b'r';
    pub const RENEW: u8 = b'n';
    pub const PARK: u8 = b'p';
    pub const RESTORE: u8 = b's';
    pub const READY: u8 = b'R';
    pub const STDOUT: u8 = b'1';
    pub const STDERR: u8 = b'2';
    pub const KEPT: u8 = b'k';
    pub const GONE: u8 = b'g';
    pub const PARKED: u8 = b'P';
    pub const FAILED: u8 = b'F';
}

/// The bound on what a worker says about this job. Each byte of a text may be one that is no text, and is then sent as a
/// character of three.
pub(super) fn report_bytes_max(limits: &Limits) -> usize {
    3 * (2 * limits.output_bytes + limits.result_bytes + ERROR_BYTES_MAX) + OVERHEAD_BYTES
}

/// The bound on what a worker says without a job.
pub(super) const IDLE_REPORT_BYTES_MAX: usize = OVERHEAD_BYTES;

impl Order {
    /// [`Order::Run`], of a job that stays with its owner.
    pub fn write_run(job: &Job) -> Vec<u8> {
        frame(kind::RUN, &packed(job))
    }

    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::Run(job) => Self::write_run(job),
            Self::Renew => frame(kind::RENEW, &[]),
            Self::Park => frame(kind::PARK, &[]),
            Self::Restore { room: Room { memory_bytes, bytes }, state } => {
                let [memory_bytes, bytes] = [memory_bytes, bytes].map(|it| (*it as u64).to_le_bytes());
                frame(kind::RESTORE, &[&memory_bytes, &bytes, state.as_slice()].concat())
            }
        }
    }

    pub fn read(frame: &[u8]) -> io::Result<Self> {
        match frame.split_first() {
            Some((&kind::RUN, payload)) => Ok(Self::Run(unpacked(payload)?)),
            Some((&kind::RENEW, [])) => Ok(Self::Renew),
            Some((&kind::PARK, [])) => Ok(Self::Park),
            Some((&kind::RESTORE, payload)) => {
                let (memory_bytes, rest) = number(payload)?;
                let (bytes, state) = number(rest)?;
                Ok(Self::Restore { room: Room { memory_bytes, bytes }, state: state.to_vec() })
            }
            _ => Err(unknown()),
        }
    }
}

impl Report {
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::Ready { task } => frame(kind::READY, &task.to_le_bytes()),
            Self::Output(Stream::Stdout, chunk) => frame(kind::STDOUT, chunk),
            Self::Output(Stream::Stderr, chunk) => frame(kind::STDERR, chunk),
            Self::Over { kept: true, outcome } => frame(kind::KEPT, &packed(outcome)),
            Self::Over { kept: false, outcome } => frame(kind::GONE, &packed(outcome)),
            Self::Parked(state) => frame(kind::PARKED, state),
            Self::Failed(why) => frame(kind::FAILED, why.as_bytes()),
        }
    }

    pub fn read(frame: &[u8]) -> io::Result<Self> {
        let Some((kind, payload)) = frame.split_first() else { return Err(unknown()) };
        let over = |kept| Ok(Self::Over { kept, outcome: Box::new(unpacked(payload)?) });
        match *kind {
            kind::READY => match payload.as_array() {
                Some(task) => Ok(Self::Ready { task: i32::from_le_bytes(*task) }),
                None => Err(unknown()),
            },
            kind::STDOUT => Ok(Self::Output(Stream::Stdout, payload.to_vec())),
            kind::STDERR => Ok(Self::Output(Stream::Stderr, payload.to_vec())),
            kind::KEPT => over(true),
            kind::GONE => over(false),
            kind::PARKED => Ok(Self::Parked(payload.to_vec())),
            kind::FAILED => Ok(Self::Failed(String::from_utf8_lossy(payload).into_owned())),
            _ => Err(unknown()),
        }
    }
}

/// Reads one frame of at most `bytes_max` bytes; nothing where the stream ends between two.
pub(super) async fn next(from: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; HEAD_BYTES];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let mut frame = vec![0; length(head, bytes_max)?];
    from.read_exact(&mut frame).await?;
    Ok(Some(frame))
}

/// How long the frame behind its first bytes is.
pub(super) fn length(head: [u8; HEAD_BYTES], bytes_max: usize) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > bytes_max {
        return Err(broken(format!("a frame of {length} bytes, where {bytes_max} are the most")));
    }
    Ok(length)
}

pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    to.write_all(frame).await
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    // Texts are bounded far below 4 GiB; what is not is cut by the reader's own bound.
    let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    frame
}

fn packed(value: &impl serde::Serialize) -> Vec<u8> {
    // Only a type that postcard has no form for could fail, and these have one.
    postcard::to_allocvec(value).unwrap_or_default()
}

/// What a payload begins with, and the rest of it.
fn number(payload: &[u8]) -> io::Result<(usize, &[u8])> {
    let (number, rest) = payload.split_first_chunk().ok_or_else(unknown)?;
    Ok((usize::try_from(u64::from_le_bytes(*number)).map_err(io::Error::other)?, rest))
}

fn unpacked<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(broken("a frame with something after its end".to_owned())),
        Err(error) => Err(broken(error.to_string())),
    }
}

fn unknown() -> io::Error {
    broken("a frame of no known kind".to_owned())
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::outcome::Ended;
    use crate::sandbox::wasi::{Conditions, READINGS_MAX};
    use proptest::prelude::*;
    use std::time::Duration;

    fn job() -> Job {
        let limits = Limits { memory_bytes: 64 << 20, output_bytes: 1000, result_bytes: 100, ..Limits::default() };
        let (source, arguments) = ("print('é')".to_owned(), Some("{}".to_owned()));
        Job { source, arguments, limits, conditions: Conditions::default() }
    }

    fn outcome() -> Outcome {
        let outcome = Outcome::not_started(Ended::Raised, "NameError");
        Outcome {
            stdout: "\u{0}é".to_owned(),
            value: Some(String::new()),
            duration: Duration::from_nanos(7),
            ..outcome
        }
    }

    fn reports() -> Vec<Report> {
        vec![
            Report::Ready { task: 77 },
            Report::Output(Stream::Stdout, vec![0xff, 0]),
            Report::Output(Stream::Stderr, Vec::new()),
            Report::Over { kept: true, outcome: Box::new(outcome()) },
            Report::Over { kept: false, outcome: Box::new(outcome()) },
            Report::Parked(vec![0, 7]),
            Report::Failed("no memory".to_owned()),
        ]
    }

    async fn through(frame: &[u8], bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        next(&mut &frame[..], bytes_max).await
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let room = Room { memory_bytes: 7, bytes: 9 };
        for order in [Order::Run(job()), Order::Renew, Order::Park, Order::Restore { room, state: vec![1, 0] }] {
            let frame = through(&order.write(), ORDER_BYTES_MAX).await.expect("a frame").expect("one");
            assert_eq!(Order::read(&frame).expect("an order"), order);
        }
        for report in reports() {
            let frame = through(&report.write(), report_bytes_max(&job().limits)).await.expect("a frame").expect("one");
            assert_eq!(Report::read(&frame).expect("a report"), report);
        }
    }

    #[tokio::test]
    async fn a_frame_is_bounded_and_may_not_be_cut() {
        assert!(through(&[], 10).await.expect("an end").is_none());
        let frame = Report::Failed("x".repeat(20)).write();
        assert!(through(&frame, 21).await.expect("a frame").is_some());
        assert_eq!(through(&frame, 20).await.expect_err("too long").kind(), io::ErrorKind::InvalidData);
        for cut in 4..frame.len() {
            assert_eq!(through(&frame[..cut], 100).await.expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn the_longest_texts_that_a_job_may_have_fit_its_bound() {
        let job = job();
        let text = |bytes: usize| "\u{fffd}".repeat(bytes);
        let limits = job.limits;
        let outcome = Outcome {
            stdout: text(limits.output_bytes),
            stderr: text(limits.output_bytes),
            value: Some(text(limits.result_bytes)),
            error: Some(text(ERROR_BYTES_MAX)),
            readings: vec![u64::MAX; READINGS_MAX],
            ..outcome()
        };
        let frame = Report::Over { kept: true, outcome: Box::new(outcome) }.write();
        assert!(frame.len() <= report_bytes_max(&job.limits), "{}", frame.len());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Order::read(&bytes);
            let _ = Report::read(&bytes);
        }

        #[test]
        fn a_flipped_bit_is_no_panic(which in 0..7_usize, at in 4..1000_usize, bit in 0..8_u8) {
            let mut frame = reports()[which].write();
            let at = 4 + at % (frame.len() - 4);
            frame[at] ^= 1 << bit;
            let _ = Report::read(&frame[4..]);
        }
    }
}
