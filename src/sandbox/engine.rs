//! wasmtime, set up for one kind of guest: Python, as one module.

use std::time::Duration;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often a running guest hands its thread back: the bound on how late a limit or a dropped run takes hold. Chosen.
const TICK: Duration = Duration::from_millis(10);

/// Stack for the guest's own calls. With this much, Python's own bound comes first and deep recursion ends as a Python
/// exception; with 16 MiB `json.loads("[" * 200_000)` overflowed it (measured). Only pages that were touched cost memory.
const WASM_STACK_BYTES: usize = 64 << 20;

/// Stack beyond it, for host functions that a guest calls at its deepest. wasmtime asks for some; chosen.
const HOST_STACK_BYTES: usize = 2 << 20;

/// Stacks of one guest: its own, and one for its `realloc`, which a host function calls to hand over a list.
const STACKS: u32 = 2;

/// How much of a linear memory is cleared by hand when its guest ends, and stays with the slot; the rest goes back to the
/// kernel, which interrupts every core that runs guests. A small run dirties about 1 MiB (measured).
const MEMORY_KEPT_BYTES: usize = 2 << 20;

/// The same for stacks, and for a guest's table, which takes 45 KiB (5672 slots of 8 bytes).
const STACK_KEPT_BYTES: usize = 128 << 10;
const TABLE_KEPT_BYTES: usize = 64 << 10;

/// An engine with slots for `guests_max` guests at once, and the thread that ticks for it until it is dropped.
pub(super) fn start(guests_max: u32) -> wasmtime::Result<Engine> {
    let engine = Engine::new(&config(guests_max))?;
    tick_for(&engine)?;
    Ok(engine)
}

fn config(guests_max: u32) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(guests_max)
        .total_memories(guests_max)
        .total_tables(guests_max)
        .total_stacks(guests_max * STACKS)
        .max_unused_warm_slots(guests_max)
        .linear_memory_keep_resident(MEMORY_KEPT_BYTES)
        .async_stack_keep_resident(STACK_KEPT_BYTES)
        .table_keep_resident(TABLE_KEPT_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES)
        // Without it a slot would keep every page that its deepest recursion has touched, for ever.
        .async_stack_zeroing(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// The ticker ends by itself once the engine and every guest made with it are gone. Until then a guest can be stopped.
fn tick_for(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let (up, is_up) = std::sync::mpsc::sync_channel(0);
    std::thread::Builder::new().name("sandbox-ticker".into()).spawn(move || {
        let _ = up.send(());
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    // A worker's wall would hit a thread that is only half there.
    let _ = is_up.recv();
    Ok(())
}
