//! What a guest reaches in the host, beside WASI: the texts that it sends.

use super::cut::Cut;
use super::outcome::{Stream, Texts};
use super::reach::{Reach, Span};
use super::wasi::Wasi;
use crate::policy::Limits;
use tokio::sync::mpsc;
use wasmtime::{Caller, Engine, Linker, Module, ResourceLimiter, bail};

/// Bytes of a traceback that are kept. Chosen: some 2000 tokens of a model's context.
pub(super) const ERROR_BYTES_MAX: usize = 8 * 1024;

/// What is written while the program runs: the beginning of its output, chunk by chunk.
pub(super) type Live = mpsc::Sender<(Stream, Vec<u8>)>;

/// The host's side of one guest.
pub(super) struct State {
    /// There as soon as the guest is.
    reach: Option<Reach>,
    pub wasi: Wasi,
    pub memory: MemoryLimit,
    texts: Texts,
    live: Option<Live>,
}

impl State {
    pub fn new() -> Self {
        Self {
            reach: None,
            wasi: Wasi::new(),
            memory: MemoryLimit { bytes_max: usize::MAX, denied: false },
            texts: texts(0, 0),
            live: None,
        }
    }

    pub fn meet(&mut self, guest: Reach) {
        self.reach = Some(guest);
    }

    pub fn begin(&mut self, limits: &Limits, live: Live) {
        self.memory = MemoryLimit { bytes_max: limits.memory_bytes, denied: false };
        self.texts = texts(limits.output_bytes, limits.result_bytes);
        self.live = Some(live);
    }

    /// The run's texts, and whether it was denied memory.
    pub fn end(&mut self) -> (Texts, bool) {
        self.live = None;
        (std::mem::replace(&mut self.texts, texts(0, 0)), self.memory.denied)
    }

    pub fn reach(&self) -> wasmtime::Result<Reach> {
        match &self.reach {
            Some(reach) => Ok(reach.clone()),
            None => bail!("it calls its host before it is whole"),
        }
    }
}

fn texts(output_bytes: usize, result_bytes: usize) -> Texts {
    Texts {
        stdout: Cut::new(output_bytes),
        stderr: Cut::new(output_bytes),
        value: Cut::new(result_bytes),
        error: Cut::new(ERROR_BYTES_MAX),
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
                linker.func_wrap_async(module, name, |caller, (channel, address, bytes)| {
                    Box::new(emit(caller, channel, Span { address, bytes }))
                })?;
            }
            _ => super::wasi::define(&mut linker, module, interface, name)?,
        }
    }
    linker.define_unknown_imports_as_traps(guest)?;
    Ok(linker)
}

/// `world.wit`'s `emit`. The channel is a place in its list.
async fn emit(mut caller: Caller<'_, State>, channel: u32, chunk: Span) -> wasmtime::Result<()> {
    let mut chunk = caller.data().reach()?.read(&caller, chunk)?.to_vec();
    let state = caller.data_mut();
    let (cut, stream) = match channel {
        0 => (&mut state.texts.stdout, Some(Stream::Stdout)),
        1 => (&mut state.texts.stderr, Some(Stream::Stderr)),
        2 => (&mut state.texts.value, None),
        3 => (&mut state.texts.error, None),
        other => bail!("it sends text to channel {other}"),
    };
    let to_head = cut.push(&chunk);
    if let (Some(stream), Some(live), 1..) = (stream, &state.live, to_head) {
        chunk.truncate(to_head);
        // Fails when the listener is gone: then this run is about to be dropped.
        let _ = live.send((stream, chunk)).await;
    }
    Ok(())
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
