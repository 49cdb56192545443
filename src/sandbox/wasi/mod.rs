//! WASI with little granted: clocks, sleep, random numbers and files in memory; no variables, arguments or network.
//!
//! The functions are called as the canonical ABI lowers those of WASI 0.2: what does not fit into one number is written to
//! an address that comes last among the parameters. Functions of things that a guest can never have, as the methods of a
//! socket, are not here.

mod filesystem;
mod streams;

use super::files::{Bounds, Files, Time};
use super::host::State;
use super::reach::{HOST_CALL_BYTES_MAX, Span};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wasmtime::{Caller, Linker, bail, format_err};

/// Handles (clocks' timers, streams, files) that a guest may hold at once. The standard library holds a handful; chosen.
const HANDLES_MAX: usize = 4096;

/// `access-denied` among the errors of `wasi:sockets/network`.
const ACCESS_DENIED: u8 = 1;

/// `permanent-resolver-failure` among them.
const NO_RESOLVER: u8 = 20;

/// One guest's clocks and handles.
pub(super) struct Wasi {
    began: Instant,
    /// By handle, less one.
    handles: Vec<Option<Handle>>,
    pub files: Files,
}

#[derive(Clone)]
enum Handle {
    /// Something to wait for, which is there at this time.
    Pollable(Instant),
    Open(filesystem::Open),
    /// Standard input, output or error, and networks: they do nothing.
    Dead,
}

/// The guest ended its own process.
#[derive(Debug, thiserror::Error)]
#[error("exit")]
pub(super) struct Exit;

impl Wasi {
    pub fn new() -> Self {
        let files = Files::new(Bounds { files_max: 4096, bytes_max: 64 << 20 }, Time::ZERO);
        Self { began: Instant::now(), handles: Vec::new(), files }
    }

    fn now(&self) -> Time {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn new_handle(&mut self, handle: Handle) -> wasmtime::Result<u32> {
        let free = self.handles.iter().position(Option::is_none).unwrap_or(self.handles.len());
        if free >= HANDLES_MAX {
            bail!("it holds {HANDLES_MAX} handles of its host");
        }
        if free == self.handles.len() {
            self.handles.push(None);
        }
        self.handles[free] = Some(handle);
        Ok(u32::try_from(free)? + 1)
    }

    fn slot(&mut self, handle: u32) -> wasmtime::Result<&mut Option<Handle>> {
        match (handle as usize).checked_sub(1).and_then(|slot| self.handles.get_mut(slot)) {
            Some(slot) if slot.is_some() => Ok(slot),
            _ => bail!("it uses handle {handle}, which it has not got"),
        }
    }

    fn drop_handle(&mut self, handle: u32) -> wasmtime::Result<()> {
        if let Some(Handle::Open(open)) = self.slot(handle)?.take() {
            self.files.release(open.inode());
        }
        Ok(())
    }

    /// When what is waited for is there.
    fn due(&mut self, handle: u32) -> wasmtime::Result<Instant> {
        match self.slot(handle)? {
            Some(Handle::Pollable(due)) => Ok(*due),
            _ => bail!("it waits for handle {handle}, which is nothing to wait for"),
        }
    }

    fn timer(&mut self, from: Instant, nanoseconds: u64) -> wasmtime::Result<u32> {
        match from.checked_add(Duration::from_nanos(nanoseconds)) {
            Some(due) => self.new_handle(Handle::Pollable(due)),
            None => bail!("it waits for {nanoseconds} ns"),
        }
    }
}

type Call<'a> = Caller<'a, State>;

/// Defines one function, if it is known.
pub(super) fn define(linker: &mut Linker<State>, module: &str, interface: &str, name: &str) -> wasmtime::Result<()> {
    match (interface, name) {
        ("wasi:clocks/monotonic-clock", "now") => {
            linker.func_wrap(module, name, |call: Call| nanoseconds(call.data().wasi.began.elapsed()))?
        }
        ("wasi:clocks/monotonic-clock", "resolution") => linker.func_wrap(module, name, || 1_u64)?,
        ("wasi:clocks/monotonic-clock", "subscribe-duration") => {
            linker.func_wrap(module, name, |mut call: Call, duration: u64| {
                call.data_mut().wasi.timer(Instant::now(), duration)
            })?
        }
        ("wasi:clocks/monotonic-clock", "subscribe-instant") => {
            linker.func_wrap(module, name, |mut call: Call, when: u64| {
                let began = call.data().wasi.began;
                call.data_mut().wasi.timer(began, when)
            })?
        }
        ("wasi:clocks/wall-clock", "now") => linker.func_wrap(module, name, |mut call: Call, out: u32| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            answer(&mut call, out, &seconds(since))
        })?,
        ("wasi:clocks/wall-clock", "resolution") => linker.func_wrap(module, name, |mut call: Call, out: u32| {
            answer(&mut call, out, &seconds(Duration::from_nanos(1)))
        })?,
        ("wasi:io/poll", "poll") => {
            linker.func_wrap_async(module, name, |call, (address, count, out): (u32, u32, u32)| {
                Box::new(poll(call, Span { address, bytes: count.saturating_mul(4) }, out))
            })?
        }
        ("wasi:io/poll", "[method]pollable.block") => {
            linker.func_wrap_async(module, name, |mut call: Call, (handle,): (u32,)| {
                Box::new(async move {
                    let due = call.data_mut().wasi.due(handle)?;
                    until(due).await;
                    wasmtime::Result::Ok(())
                })
            })?
        }
        ("wasi:random/random", "get-random-bytes") => {
            linker.func_wrap_async(module, name, |call, (count, out): (u64, u32)| Box::new(random(call, count, out)))?
        }
        ("wasi:filesystem/preopens", "get-directories") => {
            linker.func_wrap_async(module, name, |call, (out,): (u32,)| {
                Box::new(filesystem::get_directories(call, out))
            })?
        }
        ("wasi:cli/environment", "get-environment" | "get-arguments") => {
            linker.func_wrap_async(module, name, |mut call, (out,): (u32,)| {
                Box::new(async move { answer_list(&mut call, out, &[], 4).await })
            })?
        }
        ("wasi:cli/exit", "exit") => {
            linker.func_wrap(module, name, |_: Call, _status: u32| wasmtime::Result::<()>::Err(Exit.into()))?
        }
        ("wasi:cli/stdin", "get-stdin")
        | ("wasi:cli/stdout", "get-stdout")
        | ("wasi:cli/stderr", "get-stderr")
        | ("wasi:sockets/instance-network", "instance-network") => {
            linker.func_wrap(module, name, |mut call: Call| call.data_mut().wasi.new_handle(Handle::Dead))?
        }
        ("wasi:cli/terminal-stdin" | "wasi:cli/terminal-stdout" | "wasi:cli/terminal-stderr", _) => {
            // No terminal, as an `option`.
            linker.func_wrap(module, name, |mut call: Call, out: u32| answer(&mut call, out, &[0]))?
        }
        ("wasi:sockets/tcp-create-socket", "create-tcp-socket")
        | ("wasi:sockets/udp-create-socket", "create-udp-socket") => {
            linker.func_wrap(module, name, |mut call: Call, _family: u32, out: u32| {
                answer_error(&mut call, out, ACCESS_DENIED)
            })?
        }
        ("wasi:sockets/ip-name-lookup", "resolve-addresses") => {
            linker.func_wrap(module, name, |mut call: Call, _network: u32, _name: u32, _bytes: u32, out: u32| {
                answer_error(&mut call, out, NO_RESOLVER)
            })?
        }
        (_, drop) if drop.starts_with("[resource-drop]") => {
            linker.func_wrap(module, name, |mut call: Call, handle: u32| call.data_mut().wasi.drop_handle(handle))?
        }
        ("wasi:filesystem/types", _) => return filesystem::define(linker, module, name),
        ("wasi:io/streams", _) => return streams::define(linker, module, name),
        _ => linker,
    };
    Ok(())
}

/// Which of these are there, as places in the list, once one is.
async fn poll(mut call: Call<'_>, handles: Span, out: u32) -> wasmtime::Result<()> {
    let handles = call.data().reach()?.read(&call, handles)?.to_vec();
    let mut dues = Vec::new();
    for handle in handles.as_chunks().0 {
        dues.push(call.data_mut().wasi.due(u32::from_le_bytes(*handle))?);
    }
    let Some(first) = dues.iter().min() else { bail!("it waits for nothing") };
    until(*first).await;
    let now = Instant::now();
    let there = (0_u32..).zip(dues).filter(|(_, due)| *due <= now);
    let places: Vec<u8> = there.flat_map(|(place, _)| place.to_le_bytes()).collect();
    answer_list(&mut call, out, &places, 4).await
}

/// A guest that waits gives its thread back, and its wait ends with its run.
async fn until(due: Instant) {
    tokio::time::sleep_until(due.into()).await;
}

async fn random(mut call: Call<'_>, count: u64, out: u32) -> wasmtime::Result<()> {
    let count = usize::try_from(count)?;
    if count > HOST_CALL_BYTES_MAX {
        bail!("it wants {count} random bytes at once");
    }
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).map_err(|error| format_err!("no random bytes: {error}"))?;
    answer_list(&mut call, out, &bytes, 1).await
}

// === how answers are written ===

fn nanoseconds(duration: Duration) -> u64 {
    // The end of time is in 584 years.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// WASI's `datetime`.
fn seconds(duration: Duration) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&duration.as_secs().to_le_bytes());
    bytes[8..].copy_from_slice(&duration.subsec_nanos().to_le_bytes());
    bytes
}

fn answer(call: &mut Call, out: u32, bytes: &[u8]) -> wasmtime::Result<()> {
    call.data().reach()?.write(call, out, bytes)
}

/// The error of a `result` whose success is a handle or a list, so that it begins at the fourth byte.
fn answer_error(call: &mut Call, out: u32, error: u8) -> wasmtime::Result<()> {
    answer(call, out, &[1, 0, 0, 0, error])
}

/// A list whose elements are aligned so, in memory that becomes the guest's own.
async fn answer_list(call: &mut Call<'_>, out: u32, elements: &[u8], align: usize) -> wasmtime::Result<()> {
    let reach = call.data().reach()?;
    let list = reach.give(&mut *call, elements, u32::try_from(align)?).await?;
    let count = list.bytes / u32::try_from(align)?;
    reach.write(call, out, [list.address.to_le_bytes(), count.to_le_bytes()].as_flattened())
}
