//! One Python interpreter: an instance with a store of its own, in which programs run one after another.

use super::host::{self, Live, State};
use super::outcome::{Ended, Outcome};
use super::reach::{Reach, Span};
use super::wasi::Exit;
use crate::policy::Limits;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use wasmtime::{Engine, InstancePre, Module, Store, Trap, TypedFunc, bail};

/// One program and what it may use.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub source: String,
    /// A JSON object, for a program that is not the model's own but a tool's.
    pub arguments: Option<String>,
    pub limits: Limits,
}

/// Makes guests, each from the same image.
pub(super) struct Image {
    engine: Engine,
    python: InstancePre<State>,
}

impl Image {
    pub fn new(engine: &Engine, module: &Module) -> wasmtime::Result<Self> {
        let python = host::linker(engine, module)?.instantiate_pre(module)?;
        Ok(Self { engine: engine.clone(), python })
    }

    pub async fn start(&self) -> wasmtime::Result<Guest> {
        let mut store = Store::new(&self.engine, State::new());
        store.limiter(|state| &mut state.memory);
        // At every tick the guest gives its thread back for a moment. That is where limits and drops take hold.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = self.python.instantiate_async(&mut store).await?;
        let reach = Reach::of(&instance, &mut store)?;
        store.data_mut().meet(reach.clone());
        let wake: TypedFunc<(), ()> = instance.get_typed_func(&mut store, "wake")?;
        wake.call_async(&mut store, ()).await?;
        let wake_end: TypedFunc<(), ()> = instance.get_typed_func(&mut store, "cabi_post_wake")?;
        wake_end.call_async(&mut store, ()).await?;
        let run = instance.get_typed_func(&mut store, "run")?;
        let run_end = instance.get_typed_func(&mut store, "cabi_post_run")?;
        Ok(Guest { store, reach, run, run_end })
    }
}

/// An interpreter that is up.
pub(super) struct Guest {
    store: Store<State>,
    reach: Reach,
    /// Takes the addresses and lengths of the source and, if the number between them is one, of the arguments.
    run: TypedFunc<(u32, u32, u32, u32, u32), u32>,
    /// Frees what the run's answer took.
    run_end: TypedFunc<u32, ()>,
}

/// `world.wit`'s `ending`.
#[derive(Clone, Copy)]
enum Ending {
    Completed,
    Raised,
}

impl Guest {
    /// Runs one program. The guest comes back if it can run another one.
    pub async fn run(mut self, job: Job, live: Live) -> (Option<Self>, Outcome) {
        let limits = job.limits;
        self.store.data_mut().begin(&limits, live);
        let began = Instant::now();
        let end = timeout(Duration::from_millis(limits.wall_ms), self.call(&job)).await;
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

    async fn call(&mut self, job: &Job) -> wasmtime::Result<Ending> {
        let source = self.reach.give(&mut self.store, job.source.as_bytes(), 1).await?;
        let (given, arguments) = match &job.arguments {
            Some(arguments) => (1, self.reach.give(&mut self.store, arguments.as_bytes(), 1).await?),
            None => (0, Span { address: 0, bytes: 0 }),
        };
        let parameters = (source.address, source.bytes, given, arguments.address, arguments.bytes);
        let ending = self.run.call_async(&mut self.store, parameters).await?;
        self.run_end.call_async(&mut self.store, ending).await?;
        match ending {
            0 => Ok(Ending::Completed),
            1 => Ok(Ending::Raised),
            other => bail!("it answers {other}"),
        }
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

pub(super) fn timed_out(limits: &Limits) -> String {
    let seconds = Duration::from_millis(limits.wall_ms).as_secs_f64();
    format!("stopped at the time limit of {seconds} s; {GONE}")
}

/// What an interpreter that broke down leaves behind.
const GONE: &str = "the interpreter is gone, and with it every name that was defined";

fn crash(trap: &wasmtime::Error, denied: bool, limits: &Limits) -> (Ended, String) {
    if trap.is::<Exit>() {
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
