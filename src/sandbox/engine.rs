//! wasmtime, set up for one kind of guest: Python, as one module that runs on one thread.

use super::memory::{GUARD_BYTES, Memories, RESERVED_BYTES};
use std::sync::Arc;
use wasmtime::{Config, Engine, Inlining};

/// Stack for the guest's own calls. With this much, Python's own bound comes first and deep recursion ends as a Python
/// exception; with 16 MiB `json.loads("[" * 200_000)` overflowed it (measured). Only pages that were touched cost memory.
const WASM_STACK_BYTES: usize = 64 << 20;

/// Stack beyond it, for whoever calls the guest and for the host functions that it calls at its deepest. wasmtime asks for
/// some; chosen.
const HOST_STACK_BYTES: usize = 2 << 20;

/// The stack of a thread that guests run on.
pub(super) const STACK_BYTES: usize = WASM_STACK_BYTES + HOST_STACK_BYTES;

/// An engine whose guests have such memories.
pub(super) fn new(memories: &Memories) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .compiler_inlining(Inlining::No)
        .memory_reservation(RESERVED_BYTES as u64)
        .memory_guard_size(GUARD_BYTES as u64)
        .memory_may_move(false)
        .with_host_memory(Arc::new(memories.clone()))
        .max_wasm_stack(WASM_STACK_BYTES)
        // Nothing runs on such a stack, but it is to be the larger one.
        .async_stack_size(STACK_BYTES);
    Engine::new(&config)
}
