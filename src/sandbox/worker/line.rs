//! A worker's end of the socket to its gateway, as the run that is under way uses it.
//!
//! What a program writes is collected until a tick, a sleep or the end: a program that prints a thousand short lines would
//! else wake its gateway a thousand times.

use super::wire::{self, Report};
use crate::sandbox::outcome::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of output that are collected. Chosen: what a socket takes at once.
const COLLECTED_BYTES_MAX: usize = 64 << 10;

pub(in crate::sandbox) struct Line {
    /// Nobody is at the other end when an image is made.
    socket: Option<UnixStream>,
    collected: Mutex<Vec<u8>>,
}

impl Line {
    pub fn to(socket: UnixStream) -> Self {
        Self { socket: Some(socket), collected: Mutex::default() }
    }

    pub fn nowhere() -> Self {
        Self { socket: None, collected: Mutex::default() }
    }

    /// Takes a chunk of what a program writes. Whether somebody waits for the run.
    pub fn hear(&self, stream: Stream, chunk: &[u8]) -> bool {
        if self.socket.is_none() {
            return true;
        }
        let mut collected = self.collected();
        collected.extend_from_slice(&Report::Output(stream, chunk.to_vec()).write());
        collected.len() <= COLLECTED_BYTES_MAX || self.flush(collected).is_ok()
    }

    /// Sends what was collected as far as that takes no waiting, from another thread than the run's. Whether somebody waits
    /// for the run.
    pub fn tick(&self) -> bool {
        let Some(socket) = &self.socket else { return true };
        // Whoever holds it is sending.
        if let Ok(mut collected) = self.collected.try_lock() {
            while !collected.is_empty() {
                match rustix::net::send(socket, &collected, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(sent) => drop(collected.drain(..sent)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => return false,
                }
            }
        }
        Self::waits(socket, Duration::ZERO)
    }

    /// Waits so long. Whether somebody waits for the run.
    pub fn sleep(&self, time: Duration) -> bool {
        let Some(socket) = &self.socket else {
            std::thread::sleep(time);
            return true;
        };
        if self.flush(self.collected()).is_err() {
            return false;
        }
        Self::waits(socket, time)
    }

    /// Whether the other end is there for so long.
    fn waits(socket: &UnixStream, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Nothing is asked for: what the kernel always tells is that the other end is gone.
            let mut other_end = [PollFd::new(socket, PollFlags::empty())];
            match poll(&mut other_end, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return true,
                Err(Errno::INTR) => {}
                _ => return false,
            }
        }
    }

    /// Says something, after all that was collected.
    pub(super) fn say(&self, report: &Report) -> io::Result<()> {
        let mut collected = self.collected();
        collected.extend_from_slice(&report.write());
        self.flush(collected)
    }

    /// The next thing that the other end says; nothing when it is gone.
    pub(super) fn hear_order(&self, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(None) };
        let mut head = [0; wire::HEAD_BYTES];
        match socket.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut frame = vec![0; wire::length(head, bytes_max)?];
        socket.read_exact(&mut frame)?;
        Ok(Some(frame))
    }

    fn flush(&self, mut collected: MutexGuard<Vec<u8>>) -> io::Result<()> {
        match self.socket.as_ref() {
            Some(mut socket) if !collected.is_empty() => {
                let sent = socket.write_all(&collected);
                collected.clear();
                sent
            }
            _ => Ok(()),
        }
    }

    fn collected(&self) -> MutexGuard<'_, Vec<u8>> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
