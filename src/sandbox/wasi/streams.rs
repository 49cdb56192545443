//! `wasi:io/streams`: those of files, and standard input, output and error, which do nothing.

use super::lasting::{Handle, Open};
use super::{Call, State, Wasi, answer};
use crate::sandbox::files::Inode;
use crate::sandbox::span::{HOST_CALL_BYTES_MAX, Span};
use wasmtime::{Linker, bail};

/// What a stream's `result` holds when it fails, after the byte that says so.
enum Failure {
    /// With a handle of what is known of it, which is nothing.
    Failed(u32),
    Closed,
}

/// Where a stream reads or writes.
enum Stream {
    /// It has nothing to give, and loses what it is given.
    Dead,
    File(Inode, u64),
}

impl Wasi {
    fn stream(&mut self, handle: u32) -> wasmtime::Result<Stream> {
        match self.slot(handle)? {
            Some(Handle::Dead) => Ok(Stream::Dead),
            Some(Handle::Open(Open::Reader { inode, offset } | Open::Writer { inode, offset: Some(offset) })) => {
                Ok(Stream::File(*inode, *offset))
            }
            Some(Handle::Open(Open::Writer { inode, offset: None })) => {
                let inode = *inode;
                Ok(Stream::File(inode, self.lasting.files.stat(inode).map_or(0, |stat| stat.bytes as u64)))
            }
            _ => bail!("it uses handle {handle} as a stream, which it is not"),
        }
    }

    fn advance(&mut self, handle: u32, bytes: usize) -> wasmtime::Result<()> {
        if let Some(Handle::Open(Open::Reader { offset, .. } | Open::Writer { offset: Some(offset), .. })) =
            self.slot(handle)?
        {
            *offset = offset.saturating_add(bytes as u64);
        }
        Ok(())
    }

    fn read_stream(&mut self, stream: u32, bytes_max: usize) -> wasmtime::Result<Result<Vec<u8>, Failure>> {
        let Stream::File(inode, offset) = self.stream(stream)? else { return Ok(Err(Failure::Closed)) };
        let Ok(bytes) = self.lasting.files.read(inode, offset, bytes_max) else { return self.failed().map(Err) };
        if bytes.is_empty() && bytes_max > 0 {
            return Ok(Err(Failure::Closed));
        }
        let bytes = bytes.to_vec();
        self.advance(stream, bytes.len())?;
        Ok(Ok(bytes))
    }

    /// A full disk shows here, before a write is tried: the guest's C library knows no other way to say so.
    fn may_write(&mut self, stream: u32) -> wasmtime::Result<Result<usize, Failure>> {
        let Stream::File(inode, offset) = self.stream(stream)? else { return Ok(Ok(HOST_CALL_BYTES_MAX)) };
        match self.lasting.files.room(inode, offset) {
            Ok(0) | Err(_) => self.failed().map(Err),
            Ok(room) => Ok(Ok(room.min(HOST_CALL_BYTES_MAX))),
        }
    }

    fn write_stream(&mut self, stream: u32, bytes: &[u8]) -> wasmtime::Result<Result<(), Failure>> {
        let Stream::File(inode, offset) = self.stream(stream)? else { return Ok(Ok(())) };
        let now = self.clock.latest();
        match self.lasting.files.write(inode, offset, bytes, now) {
            Ok(count) if count == bytes.len() => self.advance(stream, count).map(Ok),
            Ok(_) | Err(_) => self.failed().map(Err),
        }
    }

    fn failed(&mut self) -> wasmtime::Result<Failure> {
        self.new_handle(Handle::Dead).map(Failure::Failed)
    }
}

/// Defines one function, if it is known.
pub(super) fn define(linker: &mut Linker<State>, module: &str, name: &str) -> wasmtime::Result<()> {
    match name {
        "[method]input-stream.read" => linker.func_wrap(module, name, read)?,
        "[method]output-stream.check-write" => {
            linker.func_wrap(module, name, |mut call: Call, stream: u32, out: u32| {
                let room = call.data_mut().wasi.may_write(stream)?;
                answer_stream(&mut call, out, 8, room.map(|room| (room as u64).to_le_bytes()))
            })?
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            linker.func_wrap(module, name, |mut call: Call, stream: u32, address: u32, bytes: u32, out: u32| {
                let reach = call.data().reach()?;
                let (bytes, state) = reach.read_beside(&mut call, Span { address, bytes })?;
                let done = state.wasi.write_stream(stream, bytes)?;
                answer_stream(&mut call, out, 4, done.map(|()| []))
            })?
        }
        "[method]output-stream.blocking-flush" => {
            linker.func_wrap(module, name, |mut call: Call, _stream: u32, out: u32| answer(&mut call, out, &[0]))?
        }
        "[method]input-stream.subscribe" | "[method]output-stream.subscribe" => {
            linker.func_wrap(module, name, |mut call: Call, _stream: u32| call.data_mut().wasi.timer(0))?
        }
        _ => linker,
    };
    Ok(())
}

fn read(mut call: Call<'_>, stream: u32, bytes: u64, out: u32) -> wasmtime::Result<()> {
    let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX).min(HOST_CALL_BYTES_MAX);
    let bytes = match call.data_mut().wasi.read_stream(stream, bytes_max)? {
        Ok(bytes) => bytes,
        Err(failure) => return answer_stream(&mut call, out, 4, Err::<[u8; 0], _>(failure)),
    };
    let reach = call.data().reach()?;
    let list = reach.give(&mut call, &bytes, 1)?;
    answer_stream(&mut call, out, 4, Ok([list.address, list.bytes].map(u32::to_le_bytes).as_flattened()))
}

/// A `result` whose content begins at this byte, by its alignment.
fn answer_stream(
    call: &mut Call,
    out: u32,
    at: usize,
    result: Result<impl AsRef<[u8]>, Failure>,
) -> wasmtime::Result<()> {
    let mut bytes = vec![0; at];
    match result {
        Ok(content) => bytes.extend_from_slice(content.as_ref()),
        Err(Failure::Failed(error)) => {
            bytes[0] = 1;
            bytes.extend([0; 4]);
            bytes.extend(error.to_le_bytes());
        }
        Err(Failure::Closed) => {
            bytes[0] = 1;
            bytes.push(1);
        }
    }
    answer(call, out, &bytes)
}
