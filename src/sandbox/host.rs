//! What a guest reaches in the host, beside WASI: the texts that it sends, and how long it may run.

use super::files;
use super::outcome::{Stream, Texts};
use super::reach::Reach;
use super::span::Span;
use super::wasi::{Conditions, Lasting, Wasi};
use super::watch::{Bounds, Stop};
use super::worker::Line;
use crate::policy::Limits;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::{Caller, Engine, Linker, Module, ResourceLimiter, bail};

/// The host's side of one guest.
pub(super) struct State {
    /// There as soon as the guest is.
    reach: Option<Reach>,
    pub wasi: Wasi,
    pub memory: MemoryLimit,
    texts: Texts,
    /// To whoever waits for a run.
    line: Arc<Line>,
    /// Of the run that is under way.
    bounds: Option<Bounds>,
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

    pub fn begin(&mut self, limits: &Limits, conditions: &Conditions) -> Bounds {
        self.memory = MemoryLimit { bytes_max: limits.memory_bytes, denied: false };
        self.texts = Texts::within(limits);
        self.wasi.begin(conditions, files::Bounds::of(limits));
        *self.bounds.insert(Bounds::of(limits))
    }

    pub fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
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

    /// A wait ends with its run.
    pub fn sleep_until(&mut self, due: Instant) -> wasmtime::Result<()> {
        let Some(bounds) = &self.bounds else { return Ok(()) };
        let time = due.min(bounds.wall).saturating_duration_since(Instant::now());
        if !self.line.sleep(time) {
            return Err(Stop::Gone.into());
        }
        Ok(bounds.look()?)
    }
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
