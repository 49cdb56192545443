//! wasmtime, set up for one kind of guest: Python, as one module that runs on one thread.

use super::memory::{GUARD_BYTES, Memories, RESERVED_BYTES};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;
use wasmtime::{Config, Engine, Inlining};

/// How often a running guest looks up: the bound on how late a limit or a dropped run takes hold. Chosen.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Ticks after the last run before the ticker falls asleep, so that runs that follow each other do not wake it. Chosen.
const IDLE_TICKS_MAX: u32 = 100;

/// Stack for the guest's own calls. With this much, Python's own bound comes first and deep recursion ends as a Python
/// exception; with 16 MiB `json.loads("[" * 200_000)` overflowed it (measured). Only pages that were touched cost memory.
const WASM_STACK_BYTES: usize = 64 << 20;

/// Stack beyond it, for whoever calls the guest and for the host functions that it calls at its deepest. wasmtime asks for
/// some; chosen.
const HOST_STACK_BYTES: usize = 2 << 20;

/// The stack of a thread that guests run on.
pub(super) const STACK_BYTES: usize = WASM_STACK_BYTES + HOST_STACK_BYTES;

/// An engine whose guests have such memories, and what ticks for it.
pub(super) fn start(memories: &Memories) -> wasmtime::Result<(Engine, Arc<Ticker>)> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .compiler_inlining(Inlining::No)
        .memory_reservation(RESERVED_BYTES as u64)
        .memory_guard_size(GUARD_BYTES as u64)
        .memory_may_move(false)
        .with_host_memory(Arc::new(memories.clone()))
        .max_wasm_stack(WASM_STACK_BYTES)
        // Nothing runs on such a stack, but it is to be the larger one.
        .async_stack_size(STACK_BYTES);
    let engine = Engine::new(&config)?;
    let ticker = Ticker::start(&engine)?;
    Ok((engine, ticker))
}

/// Ticks while guests run. Until it is dropped, a guest can be stopped.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    over: AtomicBool,
}

/// A guest runs until this is dropped.
pub(super) struct Running(Arc<Ticker>);

impl Ticker {
    fn start(engine: &Engine) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let (its, engine) = (Arc::clone(&shared), engine.weak());
        let (up, is_up) = std::sync::mpsc::sync_channel(0);
        let thread = thread::Builder::new().name("sandbox-ticker".into()).spawn(move || {
            let _ = up.send(());
            let mut idle_ticks = 0;
            while !its.over.load(Ordering::SeqCst) {
                let Some(engine) = engine.upgrade() else { break };
                engine.increment_epoch();
                drop(engine);
                idle_ticks = if its.running.load(Ordering::SeqCst) > 0 { 0 } else { idle_ticks + 1 };
                if idle_ticks > IDLE_TICKS_MAX {
                    its.sleep();
                    idle_ticks = 0;
                } else {
                    thread::sleep(TICK);
                }
            }
        })?;
        // A worker's wall would hit a thread that is only half there.
        let _ = is_up.recv();
        Ok(Arc::new(Self { shared, thread: thread.thread().clone() }))
    }

    /// Ticks from now on.
    pub fn run(self: &Arc<Self>) -> Running {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(Arc::clone(self))
    }
}

impl Shared {
    /// Until a guest runs. Who begins one first counts it and then looks whether this sleeps; this does it the other way
    /// round, so that one of the two sees the other.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.over.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}
