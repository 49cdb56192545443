//! What a guest reaches in the host, beside WASI: the texts that it sends, and how long it may run.

use super::files;
use super::outcome::{Stream, Texts};
use super::reach::Reach;
use super::span::Span;
use super::wasi::{Conditions, Lasting, Wasi};
use super::worker::Line;
use crate::policy::Limits;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{Caller, Engine, Linker, Module, ResourceLimiter, bail};

/// Why a run is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    #[error("the time is over")]
    Wall,
    #[error("the CPU time is over")]
    Cpu,
    #[error("nobody waits for it")]
    Gone,
}

/// The host's side of one guest.
pub(super) struct State {
    /// There as soon as the guest is.
    reach: Option<Reach>,
    pub wasi: Wasi,
    pub memory: MemoryLimit,
    texts: Texts,
    /// To whoever waits for a run.
    line: Arc<Line>,
    bounds: Option<Bounds>,
}

/// Of the run that is under way.
struct Bounds {
    wall: Instant,
    /// By the clock of this thread's CPU time.
    cpu: Duration,
}

/// What came of a run, as the host has it.
pub(super) struct Said {
    pub texts: Texts,
    /// Whether it was denied memory.
    pub denied: bool,
    pub readings: Vec<u64>,
}

impl State {
    pub fn new(line: Arc<Line>, lasting: Lasting) -> Self {
        Self {
            reach: None,
            wasi: Wasi::new(lasting),
            memory: MemoryLimit { bytes_max: usize::MAX, denied: false },
            texts: Texts::lost(),
            line,
            bounds: None,
        }
    }

    pub fn meet(&mut self, guest: Reach) {
        self.reach = Some(guest);
    }

    pub fn begin(&mut self, limits: &Limits, conditions: &Conditions) {
        self.memory = MemoryLimit { bytes_max: limits.memory_bytes, denied: false };
        self.texts = Texts::within(limits);
        self.bounds = Some(Bounds {
            wall: Instant::now() + Duration::from_millis(limits.wall_ms),
            cpu: cpu_time() + Duration::from_millis(limits.cpu_ms),
        });
        self.wasi.begin(conditions, files::Bounds::of(limits));
    }

    pub fn end(&mut self) -> Said {
        self.bounds = None;
        let texts = std::mem::replace(&mut self.texts, Texts::lost());
        Said { texts, denied: self.memory.denied, readings: self.wasi.end() }
    }

    pub fn reach(&self) -> wasmtime::Result<Reach> {
        match &self.reach {
            Some(reach) => Ok(reach.clone()),
            None => bail!("it calls its host before it is whole"),
        }
    }

    /// Looks whether the run may go on.
    pub fn tick(&self) -> Result<(), Stop> {
        let Some(bounds) = &self.bounds else { return Ok(()) };
        if Instant::now() >= bounds.wall {
            return Err(Stop::Wall);
        }
        if cpu_time() >= bounds.cpu {
            return Err(Stop::Cpu);
        }
        if self.line.tick() { Ok(()) } else { Err(Stop::Gone) }
    }

    /// A wait ends with its run.
    pub fn sleep_until(&mut self, due: Instant) -> wasmtime::Result<()> {
        let Some(bounds) = &self.bounds else { return Ok(()) };
        let time = due.min(bounds.wall).saturating_duration_since(Instant::now());
        if !time.is_zero() && !self.line.sleep(time) {
            return Err(Stop::Gone.into());
        }
        Ok(self.tick()?)
    }
}

/// CPU time of this thread, and so of the guest that runs on it.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Defines all that the guest imports. A call of a function that is not known here ends the run.
pub(super) fn linker(engine: &Engine, guest: &Module) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    for import in guest.imports() {
        let (module, name) = (import.module(), import.name());
        // A new patch release of an interface changes nothing in its functions.
        let interface = module.split_once('@').map_or(module, |(interface, _version)| interface);
        match (interface, name) {
            ("$root", "emit") => {
                linker.func_wrap(
                    module,
                    name,
                    |caller: Caller<'_, State>, channel: u32, address: u32, bytes: u32| {
                        emit(caller, channel, Span { address, bytes })
                    },
                )?;
            }
            _ => super::wasi::define(&mut linker, module, interface, name)?,
        }
    }
    linker.define_unknown_imports_as_traps(guest)?;
    Ok(linker)
}

/// `world.wit`'s `emit`. The channel is a place in its list.
fn emit(mut caller: Caller<'_, State>, channel: u32, chunk: Span) -> wasmtime::Result<()> {
    let reach = caller.data().reach()?;
    let chunk = reach.read(&caller, chunk)?.to_vec();
    let state = caller.data_mut();
    let (cut, stream) = match channel {
        0 => (&mut state.texts.stdout, Some(Stream::Stdout)),
        1 => (&mut state.texts.stderr, Some(Stream::Stderr)),
        2 => (&mut state.texts.value, None),
        3 => (&mut state.texts.error, None),
        other => bail!("it sends text to channel {other}"),
    };
    let to_head = cut.push(&chunk);
    match stream {
        Some(stream) if to_head > 0 && state.bounds.is_some() && !state.line.hear(stream, &chunk[..to_head]) => {
            Err(Stop::Gone.into())
        }
        _ => Ok(()),
    }
}

pub(super) struct MemoryLimit {
    bytes_max: usize,
    /// Whether memory was asked for and not given. Python says `MemoryError` then, or breaks down.
    denied: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.bytes_max;
        self.denied |= !fits;
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}
