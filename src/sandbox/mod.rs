//! Runs Python programs in WebAssembly: `Permit → Outcome`.
//!
//! An [`Interpreter`] is `CPython` in a WebAssembly instance of its own. It reaches nothing of the host: no files, network,
//! variables or processes, only clocks, random numbers and the texts it sends back. It starts from an image in which
//! `CPython` is up and the standard library loaded, at the first run that needs it, and keeps its names from run to run.
//!
//! Guests run in worker processes, or on threads of the sandbox's own, so that a busy one never holds up the threads that
//! serve requests.

mod cache;
mod cut;
mod engine;
mod files;
mod flatten;
mod guest;
mod host;
mod outcome;
mod process;
mod reach;
mod ready;
mod seat;
mod wasi;

pub use outcome::{Ended, Outcome, Stream};
pub use process::work;

use crate::policy::Permit;
use guest::{Image, Job};
use process::Processes;
use ready::Ready;
use seat::{Maker, Seat};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Chunks of live output on their way to the listener. A guest that is faster waits. Chosen.
const LIVE_CHUNKS_MAX: usize = 64;

/// The command of this program that makes a worker of it.
pub const WORKER_COMMAND: &str = "sandbox-worker";

/// What stands between two interpreters, and between them and the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// WebAssembly alone: all of them are on threads of this process.
    Thread,
    /// WebAssembly, and a process for each, with nothing within its reach.
    Process,
}

/// How the sandbox is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The guest, as `make guest` builds it.
    pub guest: PathBuf,
    /// Where the compiled guest is kept. Created if missing; only this user may be able to write there.
    pub cache_dir: PathBuf,
    /// Where interpreters live.
    pub isolation: Isolation,
    /// This program, whose command [`WORKER_COMMAND`] calls [`work`].
    pub program: PathBuf,
    /// Threads that guests run on, if they have no processes.
    pub threads: usize,
    /// Interpreters at once, idle ones between two runs of a turn among them. Each has about 2.8 MB of its own at rest
    /// (`make soak-clients`), in a process 5 MB (measured).
    pub interpreters_max: u32,
    /// Interpreters beside these that are kept ready for the next turns, so that nobody waits for their start.
    pub ready: u32,
    /// Runs that may wait for a free interpreter at once; one more is answered at once that all are busy.
    pub waiting_max: usize,
    /// How long a run waits for a free interpreter, in milliseconds.
    pub wait_ms: u64,
}

impl Settings {
    /// Settings with every bound as chosen here.
    pub fn new(guest: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            guest: guest.into(),
            cache_dir: cache_dir.into(),
            isolation: Isolation::Thread,
            program: PathBuf::new(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            interpreters_max: 64,
            ready: 2,
            // As many as one caller may have requests, by default.
            waiting_max: 1024,
            // A turn keeps its interpreter over the model calls that follow, which take seconds each. 500 clients at once
            // share 64 interpreters without a refusal when a model call takes 6 s (`make soak-clients`).
            wait_ms: 60_000,
        }
    }
}

/// Why the sandbox cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no guest.
    #[error("no Python guest at {}: build it with `make guest`", path.display())]
    GuestMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// No worker process can be started.
    #[error(
        "cannot start a process for the sandbox: {0:#}; set sandbox.isolation = \"thread\" to do without, where the \
         kernel or a container does not allow it"
    )]
    Worker(wasmtime::Error),
    /// The guest cannot be read.
    #[error("cannot read the Python guest {}: {error}", path.display())]
    GuestUnreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The guest is not what it should be.
    #[error("the Python guest {} does not fit this version: {error:#}; build it again with `make guest`", path.display())]
    GuestBroken {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: wasmtime::Error,
    },
    /// The compiled guest cannot be kept.
    #[error("cannot keep the compiled Python guest in {}: {error}; set `cache_dir` to a private, writable directory", directory.display())]
    Cache {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// wasmtime or its threads cannot be set up here.
    #[error(
        "cannot set up wasmtime for {interpreters_max} interpreters: {error:#}; a lower `interpreters_max` needs less address space"
    )]
    Engine {
        /// As set.
        interpreters_max: u32,
        /// Why.
        error: wasmtime::Error,
    },
}

/// The place where interpreters live. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

struct Shared {
    ready: Arc<Ready>,
    /// One permit for each interpreter that may live.
    places: Arc<Semaphore>,
    /// One permit for each run that may wait for a place.
    queue: Semaphore,
    wait: Duration,
    threads: Threads,
}

impl Sandbox {
    /// Loads the guest, compiling it if that was not done before, and starts an interpreter to see that it works.
    ///
    /// Blocks, for seconds if it has to compile.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let unusable = |error| StartError::Engine { interpreters_max: settings.interpreters_max, error };
        let broken = |error| StartError::GuestBroken { path: settings.guest.clone(), error };
        let (maker, threads) = match settings.isolation {
            Isolation::Thread => {
                let engine = engine::start(settings.interpreters_max + settings.ready).map_err(unusable)?;
                let compiled = cache::load(&engine, &settings.guest, &settings.cache_dir)?;
                (Maker::Threads(Image::new(&engine, &compiled.module).map_err(broken)?), settings.threads)
            }
            Isolation::Process => {
                // Compiles it, so that no worker has to.
                let compiled = cache::load(&engine::start(1).map_err(unusable)?, &settings.guest, &settings.cache_dir)?;
                let processes = Processes { program: settings.program.clone(), compiled: compiled.path };
                // It only hands on what workers say.
                (Maker::Processes(processes), 1)
            }
        };
        let most = settings.ready as usize + settings.threads;
        let ready = Arc::new(Ready::new(maker, settings.ready as usize, most));
        let threads = Threads::start(threads).map_err(|error| unusable(error.into()))?;
        let first = Arc::clone(&ready);
        threads.block_on(async move { first.take().await.map(drop) }).map_err(|error| match settings.isolation {
            Isolation::Thread => broken(error),
            Isolation::Process => StartError::Worker(error),
        })?;
        let shared = Shared {
            ready,
            places: Arc::new(Semaphore::new(settings.interpreters_max as usize)),
            queue: Semaphore::new(settings.waiting_max),
            wait: Duration::from_millis(settings.wait_ms),
            threads,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// An interpreter for one turn. It costs nothing until its first run.
    pub fn interpreter(&self) -> Interpreter {
        Interpreter { shared: Arc::clone(&self.shared), held: None, state_lost: false }
    }

    /// How many more interpreters could start now.
    pub fn free(&self) -> usize {
        self.shared.places.available_permits()
    }
}

impl Shared {
    /// A place for one interpreter, after waiting for it if need be; nothing if too many wait, or for too long.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let _waiting = self.queue.try_acquire().ok()?;
        timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }
}

/// One Python interpreter, for the runs of one turn. Names stay from run to run, until a run is stopped or crashes.
pub struct Interpreter {
    shared: Arc<Shared>,
    held: Option<Held>,
    /// Names are gone that a program may count on, and no run was told so yet.
    state_lost: bool,
}

/// A place and the guest in it. Fields drop in order: the place is free only when the guest is gone.
struct Held {
    seat: Option<Seat>,
    _place: OwnedSemaphorePermit,
}

impl Interpreter {
    /// Runs one permitted program. `on_output` hears what is written as it is written, of the beginning that the limits
    /// keep; the outcome has it whole.
    ///
    /// Dropping the future stops the program and frees its place, at the second tick of 10 ms at the latest. The next run
    /// gets a fresh interpreter, as it does after a run that was stopped at its time limit or crashed.
    pub async fn run(&mut self, permit: &Permit, on_output: impl FnMut(Stream, &[u8]) + Send) -> Outcome {
        let (source, arguments) = permit.checked().program();
        let arguments = arguments.map(|object| serde_json::Value::Object(object.clone()).to_string());
        self.run_job(Job { source: source.to_owned(), arguments, limits: *permit.limits() }, on_output).await
    }

    /// What earlier calls defined is not in here: their outcomes were recorded before. The next run is told so.
    pub fn lose_names(&mut self) {
        self.state_lost = true;
    }

    async fn run_job(&mut self, job: Job, mut on_output: impl FnMut(Stream, &[u8]) + Send) -> Outcome {
        let held = match self.held.take() {
            Some(held) => held,
            None => match self.shared.place().await {
                Some(place) => Held { seat: None, _place: place },
                None => return Outcome::not_started(Ended::Busy, BUSY),
            },
        };
        // Until the guest is back, it may be lost: this future can be dropped while it waits.
        let state_lost = std::mem::replace(&mut self.state_lost, true);
        let (live, mut output) = mpsc::channel(LIVE_CHUNKS_MAX);
        let run = run_held(Arc::clone(&self.shared.ready), held, job, live);
        let run = AbortOnDropHandle::new(self.shared.threads.handle.spawn(run));
        while let Some((stream, chunk)) = output.recv().await {
            on_output(stream, &chunk);
        }
        let (held, mut outcome) = run.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a run of the sandbox failed");
            (None, Outcome::not_started(Ended::Unavailable, UNAVAILABLE))
        });
        self.state_lost = held.is_none();
        self.held = held;
        outcome.state_lost = state_lost;
        outcome
    }
}

/// For the model, when no interpreter became free.
const BUSY: &str = "not run: every interpreter is busy, and none became free in time; try again later";

/// For the model, when the sandbox itself failed. The reason is in the log.
const UNAVAILABLE: &str = "not run: the sandbox could not start an interpreter";

async fn run_held(ready: Arc<Ready>, mut held: Held, job: Job, live: host::Live) -> (Option<Held>, Outcome) {
    let seat = match held.seat.take() {
        Some(seat) => seat,
        None => match ready.take().await {
            Ok(seat) => seat,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot start an interpreter");
                return (None, Outcome::not_started(Ended::Unavailable, UNAVAILABLE));
            }
        },
    };
    let (seat, outcome) = seat.run(job, live).await;
    held.seat = seat;
    let kept = held.seat.is_some();
    (kept.then_some(held), outcome)
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // To clear a guest's memory may take milliseconds, which the threads that serve requests have not.
        if let Some(mut held) = self.held.take() {
            let ready = Arc::clone(&self.shared.ready);
            self.shared.threads.handle.spawn(async move {
                if let Some(seat) = held.seat.take() {
                    ready.give_back(seat).await;
                }
            });
        }
    }
}

/// The threads that guests run on.
struct Threads {
    handle: Handle,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Threads {
    fn start(threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("sandbox")
            // Look at timers after every guest that gave back its thread. The default, after 61 of them, would let time
            // limits pass by half a second when all threads are busy: a guest keeps its thread for a tick of 10 ms.
            .event_interval(1)
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Waits for a future that runs on these threads, also where Tokio forbids its own `block_on`.
    fn block_on(&self, future: impl Future<Output = wasmtime::Result<()>> + Send + 'static) -> wasmtime::Result<()> {
        let (done, result) = std::sync::mpsc::channel();
        self.handle.spawn(async move { done.send(future.await) });
        result.recv()?
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Tokio forbids waiting for the threads in async code. They end by themselves, at their guests' next ticks.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
