//! One Python interpreter: a component instance with a store of its own, in which programs run one after another.

use super::cut::Cut;
use super::outcome::{Ended, Outcome, Stream, Texts};
use crate::policy::Limits;
use bindings::{Channel, Ending};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, Trap};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

mod bindings {
    wasmtime::component::bindgen!({
        path: "tools/execute_code/guest/world.wit",
        world: "python",
        imports: { default: async },
        exports: { default: async },
    });
}

/// Bytes that a guest may hand over in one host call. Its streams send chunks of 64 KiB; a call with more ends the run.
const HOST_CALL_BYTES_MAX: usize = 1 << 20;

/// Host resources (clocks' timers, streams) that a guest may hold at once. The standard library holds a handful; chosen.
const RESOURCES_MAX: usize = 1024;

/// Bytes of a traceback that are kept. Chosen: some 2000 tokens of a model's context.
const ERROR_BYTES_MAX: usize = 8 * 1024;

/// One program and what it may use.
#[derive(Debug)]
pub(super) struct Job {
    pub source: String,
    /// A JSON object, for a program that is not the model's own but a tool's.
    pub arguments: Option<String>,
    pub limits: Limits,
}

/// What is written while the program runs: the beginning of its output, chunk by chunk.
pub(super) type Live = mpsc::Sender<(Stream, Vec<u8>)>;

/// Makes guests, each from the same image.
pub(super) struct Image {
    engine: Engine,
    python: bindings::PythonPre<State>,
}

impl Image {
    pub fn new(engine: &Engine, component: &Component) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        bindings::Python::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        let python = bindings::PythonPre::new(linker.instantiate_pre(component)?)?;
        Ok(Self { engine: engine.clone(), python })
    }

    pub async fn start(&self) -> wasmtime::Result<Guest> {
        let mut store = Store::new(&self.engine, State::new());
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        // At every tick the guest gives its thread back for a moment. That is where limits and drops take hold.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let python = self.python.instantiate_async(&mut store).await?;
        python.call_wake(&mut store).await?;
        Ok(Guest { store, python })
    }
}

/// An interpreter that is up.
pub(super) struct Guest {
    store: Store<State>,
    python: bindings::Python,
}

impl Guest {
    /// Runs one program. The guest comes back if it can run another one.
    pub async fn run(mut self, job: Job, live: Live) -> (Option<Self>, Outcome) {
        let limits = job.limits;
        self.store.data_mut().begin(&limits, live);
        let began = Instant::now();
        let call = self.python.call_run(&mut self.store, &job.source, job.arguments.as_deref());
        let end = timeout(Duration::from_millis(limits.wall_ms), call).await;
        let duration = began.elapsed();
        let (texts, denied) = self.store.data_mut().end();

        let (kept, ended, error) = match end {
            Ok(Ok(Ending::Completed)) => (true, Ended::Completed, None),
            Ok(Ok(Ending::Raised)) => (true, Ended::Raised, None),
            Ok(Err(trap)) => {
                let (ended, error) = crash(&trap, denied, &limits);
                (false, ended, Some(error))
            }
            Err(_elapsed) => (false, Ended::Timeout, Some(timed_out(&limits))),
        };
        let mut outcome = Outcome::of_run(ended, error, duration, texts);
        if outcome.ended == Ended::Raised {
            explain_memory_error(&mut outcome, &limits);
        }
        (kept.then_some(self), outcome)
    }
}

/// Python's own message for it is empty. It comes without a request to the host when an object would be larger than any
/// memory of 32 bits.
fn explain_memory_error(outcome: &mut Outcome, limits: &Limits) {
    if let Some(error) = &mut outcome.error
        && error.lines().last() == Some("MemoryError")
    {
        outcome.ended = Ended::Memory;
        let limit = limits.memory_bytes >> 20;
        *error = format!("{error}(the memory limit is {limit} MiB for all that this interpreter holds)\n");
    }
}

fn timed_out(limits: &Limits) -> String {
    let seconds = Duration::from_millis(limits.wall_ms).as_secs_f64();
    format!("stopped at the time limit of {seconds} s; {GONE}")
}

/// What an interpreter that broke down leaves behind.
const GONE: &str = "the interpreter is gone, and with it every name that was defined";

fn crash(trap: &wasmtime::Error, denied: bool, limits: &Limits) -> (Ended, String) {
    if trap.is::<I32Exit>() {
        return (Ended::Raised, format!("the program ended its own process, as os._exit() does; {GONE}"));
    }
    if denied {
        return (Ended::Memory, format!("memory limit of {} MiB exceeded; {GONE}", limits.memory_bytes >> 20));
    }
    if let Some(Trap::StackOverflow) = trap.downcast_ref() {
        return (Ended::Crashed, format!("the recursion was too deep for the stack; {GONE}"));
    }
    (Ended::Crashed, format!("the interpreter crashed ({}); {GONE}", trap.root_cause()))
}

// === what a guest reaches in the host ===

struct State {
    wasi: WasiCtx,
    resources: ResourceTable,
    memory: MemoryLimit,
    texts: Texts,
    live: Option<Live>,
}

impl State {
    fn new() -> Self {
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        // Nothing is granted: no directories, arguments, variables or streams, and every socket is denied.
        let wasi = WasiCtx::builder().allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).build();
        Self {
            wasi,
            resources,
            memory: MemoryLimit { bytes_max: usize::MAX, denied: false },
            texts: texts(0, 0),
            live: None,
        }
    }

    fn begin(&mut self, limits: &Limits, live: Live) {
        self.memory = MemoryLimit { bytes_max: limits.memory_bytes, denied: false };
        self.texts = texts(limits.output_bytes, limits.result_bytes);
        self.live = Some(live);
    }

    /// The run's texts, and whether it was denied memory.
    fn end(&mut self) -> (Texts, bool) {
        self.live = None;
        (std::mem::replace(&mut self.texts, texts(0, 0)), self.memory.denied)
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

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl bindings::PythonImports for State {
    async fn emit(&mut self, channel: Channel, chunk: Vec<u8>) {
        let (cut, stream) = match channel {
            Channel::Stdout => (&mut self.texts.stdout, Some(Stream::Stdout)),
            Channel::Stderr => (&mut self.texts.stderr, Some(Stream::Stderr)),
            Channel::Value => (&mut self.texts.value, None),
            Channel::Error => (&mut self.texts.error, None),
        };
        let to_head = cut.push(&chunk);
        if let (Some(stream), Some(live), 1..) = (stream, &self.live, to_head) {
            let mut chunk = chunk;
            chunk.truncate(to_head);
            // Fails when the listener is gone: then this run is about to be dropped.
            let _ = live.send((stream, chunk)).await;
        }
    }
}

struct MemoryLimit {
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
