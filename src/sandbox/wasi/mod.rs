//! WASI with little granted: clocks, sleep, random numbers and files in memory; no variables, arguments or network.
//!
//! The functions are called as the canonical ABI lowers those of WASI 0.2: what does not fit into one number is written to
//! an address that comes last among the parameters. Functions of things that a guest can never have, as the methods of a
//! socket, are not here.

mod clock;
mod filesystem;
mod lasting;
mod streams;

pub use clock::{Conditions, READINGS_MAX};
pub(super) use lasting::Lasting;

use super::files::Bounds;
use super::host::State;
use super::span::{HOST_CALL_BYTES_MAX, Span};
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use clock::Clock;
use lasting::{HANDLES_MAX, Handle};
use wasmtime::{Caller, Linker, bail};

/// `access-denied` among the errors of `wasi:sockets/network`.
const ACCESS_DENIED: u8 = 1;

/// `permanent-resolver-failure` among them.
const NO_RESOLVER: u8 = 20;

/// One guest's clocks, random numbers and handles.
pub(super) struct Wasi {
    lasting: Lasting,
    clock: Clock,
    random: ChaCha20Rng,
}

/// The guest ended its own process.
#[derive(Debug, thiserror::Error)]
#[error("exit")]
pub(super) struct Exit;

impl Wasi {
    pub fn new(lasting: Lasting) -> Self {
        let conditions = Conditions::default();
        let (clock, random) = (Clock::new(&conditions, lasting.ages), ChaCha20Rng::from_seed(conditions.seed));
        Self { lasting, clock, random }
    }

    /// A run begins.
    pub fn begin(&mut self, conditions: &Conditions, files: Bounds) {
        self.clock = Clock::new(conditions, self.lasting.ages);
        self.random = ChaCha20Rng::from_seed(conditions.seed);
        self.lasting.files.begin(files, self.clock.latest());
    }

    /// A run is over. What its clocks have said, as [`Conditions::readings`] has it.
    pub fn end(&mut self) -> Vec<u64> {
        self.lasting.ages = self.clock.ages();
        self.clock.take_readings()
    }

    pub fn lasting(&self) -> &Lasting {
        &self.lasting
    }

    fn new_handle(&mut self, handle: Handle) -> wasmtime::Result<u32> {
        let handles = &mut self.lasting.handles;
        let free = handles.iter().position(Option::is_none).unwrap_or(handles.len());
        if free >= HANDLES_MAX {
            bail!("it holds {HANDLES_MAX} handles of its host");
        }
        if free == handles.len() {
            handles.push(None);
        }
        handles[free] = Some(handle);
        Ok(u32::try_from(free)? + 1)
    }

    fn slot(&mut self, handle: u32) -> wasmtime::Result<&mut Option<Handle>> {
        match (handle as usize).checked_sub(1).and_then(|slot| self.lasting.handles.get_mut(slot)) {
            Some(slot) if slot.is_some() => Ok(slot),
            _ => bail!("it uses handle {handle}, which it has not got"),
        }
    }

    fn drop_handle(&mut self, handle: u32) -> wasmtime::Result<()> {
        if let Some(inode) = self.slot(handle)?.take().as_ref().and_then(Handle::inode) {
            self.lasting.files.release(inode);
        }
        Ok(())
    }

    /// When what is waited for is there.
    fn due(&mut self, handle: u32) -> wasmtime::Result<u64> {
        match self.slot(handle)? {
            Some(Handle::Pollable(due)) => Ok(*due),
            _ => bail!("it waits for handle {handle}, which is nothing to wait for"),
        }
    }

    /// Something that is there in so many nanoseconds.
    fn timer(&mut self, nanoseconds: u64) -> wasmtime::Result<u32> {
        let due = self.clock.monotonic().saturating_add(nanoseconds);
        self.new_handle(Handle::Pollable(due))
    }
}

type Call<'a> = Caller<'a, State>;

/// Defines one function, if it is known.
pub(super) fn define(linker: &mut Linker<State>, module: &str, interface: &str, name: &str) -> wasmtime::Result<()> {
    match (interface, name) {
        ("wasi:clocks/monotonic-clock", "now") => {
            linker.func_wrap(module, name, |mut call: Call| call.data_mut().wasi.clock.monotonic())?
        }
        ("wasi:clocks/monotonic-clock", "resolution") => linker.func_wrap(module, name, || 1_u64)?,
        ("wasi:clocks/monotonic-clock", "subscribe-duration") => {
            linker.func_wrap(module, name, |mut call: Call, duration: u64| call.data_mut().wasi.timer(duration))?
        }
        ("wasi:clocks/monotonic-clock", "subscribe-instant") => {
            linker.func_wrap(module, name, |mut call: Call, when: u64| {
                call.data_mut().wasi.new_handle(Handle::Pollable(when))
            })?
        }
        ("wasi:clocks/wall-clock", "now") => linker.func_wrap(module, name, |mut call: Call, out: u32| {
            let now = call.data_mut().wasi.clock.wall();
            answer(&mut call, out, &seconds(now))
        })?,
        ("wasi:clocks/wall-clock", "resolution") => {
            linker.func_wrap(module, name, |mut call: Call, out: u32| answer(&mut call, out, &seconds(1)))?
        }
        ("wasi:io/poll", "poll") => {
            linker.func_wrap(module, name, |call: Call, address: u32, count: u32, out: u32| {
                poll(call, Span { address, bytes: count.saturating_mul(4) }, out)
            })?
        }
        ("wasi:io/poll", "[method]pollable.block") => {
            linker.func_wrap(module, name, |mut call: Call, handle: u32| {
                let due = call.data_mut().wasi.due(handle)?;
                until(&mut call, due)
            })?
        }
        ("wasi:random/random", "get-random-bytes") => linker.func_wrap(module, name, random)?,
        ("wasi:filesystem/preopens", "get-directories") => {
            linker.func_wrap(module, name, filesystem::get_directories)?
        }
        ("wasi:cli/environment", "get-environment" | "get-arguments") => {
            linker.func_wrap(module, name, |mut call: Call, out: u32| answer_list(&mut call, out, &[], 4))?
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
fn poll(mut call: Call<'_>, handles: Span, out: u32) -> wasmtime::Result<()> {
    let handles = call.data().reach()?.read(&call, handles)?.to_vec();
    let mut dues = Vec::new();
    for handle in handles.as_chunks().0 {
        dues.push(call.data_mut().wasi.due(u32::from_le_bytes(*handle))?);
    }
    let Some(first) = dues.iter().min() else { bail!("it waits for nothing") };
    until(&mut call, *first)?;
    // Its own time is there, whatever the clock says: a guest that is told of nothing asks again at once.
    let now = call.data_mut().wasi.clock.monotonic().max(*first);
    let there = (0_u32..).zip(dues).filter(|(_, due)| *due <= now);
    let places: Vec<u8> = there.flat_map(|(place, _)| place.to_le_bytes()).collect();
    answer_list(&mut call, out, &places, 4)
}

/// A wait ends with its run.
fn until(call: &mut Call<'_>, due: u64) -> wasmtime::Result<()> {
    if let Some(instant) = call.data().wasi.clock.instant_of(due) {
        call.data_mut().sleep_until(instant)?;
    }
    call.data_mut().wasi.clock.waited(due);
    Ok(())
}

fn random(mut call: Call<'_>, count: u64, out: u32) -> wasmtime::Result<()> {
    let count = usize::try_from(count)?;
    if count > HOST_CALL_BYTES_MAX {
        bail!("it wants {count} random bytes at once");
    }
    let mut bytes = vec![0; count];
    call.data_mut().wasi.random.fill_bytes(&mut bytes);
    answer_list(&mut call, out, &bytes, 1)
}

// === how answers are written ===

/// WASI's `datetime`.
fn seconds(nanoseconds: u64) -> [u8; 12] {
    const SECOND: u64 = 1_000_000_000;
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&(nanoseconds / SECOND).to_le_bytes());
    bytes[8..].copy_from_slice(&(nanoseconds % SECOND).to_le_bytes()[..4]);
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
fn answer_list(call: &mut Call<'_>, out: u32, elements: &[u8], align: usize) -> wasmtime::Result<()> {
    let reach = call.data().reach()?;
    let list = reach.give(&mut *call, elements, u32::try_from(align)?)?;
    let count = list.bytes / u32::try_from(align)?;
    reach.write(call, out, [list.address.to_le_bytes(), count.to_le_bytes()].as_flattened())
}
