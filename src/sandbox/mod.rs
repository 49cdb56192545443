//! Runs Python programs in WebAssembly: `Permit → Outcome`.
//!
//! An [`Interpreter`] is `CPython` in a WebAssembly instance of its own. It reaches nothing of the host: no files, network,
//! variables or processes, only clocks, random numbers and the texts it sends back. It starts from an image in which
//! `CPython` is up and the standard library loaded, at the first run that needs it, and keeps its names from run to run.
//!
//! Each is in a worker: a process of its own with nothing within its reach or, where that is not allowed, a thread.

mod cache;
mod cut;
mod engine;
mod flatten;
mod guest;
mod host;
mod image;
mod job;
mod memory;
mod outcome;
mod parked;
mod reach;
mod ready;
mod wasi;
mod worker;

pub use outcome::{Ended, Outcome, Stream};
pub use wasi::Conditions;
pub use worker::work;

use crate::policy::Permit;
use job::Job;
use ready::Ready;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use worker::{Worker, Workers};

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
    /// Interpreters at once, idle ones between two runs of a turn among them.
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
    Worker(io::Error),
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
    /// wasmtime cannot be set up here.
    #[error("cannot set up wasmtime: {0:#}")]
    Engine(wasmtime::Error),
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
}

impl Sandbox {
    /// Loads the guest, compiling it if that was not done before, and starts an interpreter to see that it works.
    ///
    /// Blocks, for seconds if it has to compile.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let compiled = cache::load(&settings.guest, &settings.cache_dir)?;
        let workers = match settings.isolation {
            Isolation::Thread => Workers::Threads(compiled.image),
            Isolation::Process => Workers::Processes { program: settings.program.clone(), compiled: compiled.folder },
        };
        let least = settings.ready as usize;
        let most = least + std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            ready: Ready::start(workers, least, most).map_err(StartError::Worker)?,
            places: Arc::new(Semaphore::new(settings.interpreters_max as usize)),
            queue: Semaphore::new(settings.waiting_max),
            wait: Duration::from_millis(settings.wait_ms),
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

    /// A place with a worker in it, or what to say instead.
    async fn hold(&self) -> Result<Held, Box<Outcome>> {
        let Some(place) = self.place().await else { return Err(Box::new(Outcome::not_started(Ended::Busy, BUSY))) };
        match self.ready.take().await {
            Ok(worker) => Ok(Held { worker, _place: place }),
            Err(error) => {
                tracing::error!(%error, "cannot start a worker of the sandbox");
                Err(Box::new(Outcome::not_started(Ended::Unavailable, UNAVAILABLE)))
            }
        }
    }
}

/// One Python interpreter, for the runs of one turn. Names stay from run to run, until a run is stopped or crashes.
pub struct Interpreter {
    shared: Arc<Shared>,
    held: Option<Held>,
    /// Names are gone that a program may count on, and no run was told so yet.
    state_lost: bool,
}

/// A place and the worker in it. Fields drop in order: the place is free only when the worker is gone.
struct Held {
    worker: Worker,
    _place: OwnedSemaphorePermit,
}

impl Interpreter {
    /// Runs one permitted program. `on_output` hears what is written as it is written, of the beginning that the limits
    /// keep; the outcome has it whole.
    ///
    /// After a run that was stopped at a limit or crashed, names are as they were before it. Dropping the future stops the
    /// program and frees its place, and the next run gets a fresh interpreter.
    pub async fn run(&mut self, permit: &Permit, on_output: impl FnMut(Stream, &[u8]) + Send) -> Outcome {
        let (source, arguments) = permit.checked().program();
        let arguments = arguments.map(|object| serde_json::Value::Object(object.clone()).to_string());
        let (source, limits, conditions) = (source.to_owned(), *permit.limits(), fresh_conditions());
        self.run_job(Job { source, arguments, limits, conditions }, on_output).await
    }

    /// What earlier calls defined is not in here: their outcomes were recorded before. The next run is told so.
    pub fn lose_names(&mut self) {
        self.state_lost = true;
    }

    async fn run_job(&mut self, job: Job, mut on_output: impl FnMut(Stream, &[u8]) + Send) -> Outcome {
        let held = match self.held.take() {
            Some(held) => held,
            None => match self.shared.hold().await {
                Ok(held) => held,
                Err(outcome) => return *outcome,
            },
        };
        // Until the worker is back, it may be lost: this future can be dropped while it waits.
        let state_lost = std::mem::replace(&mut self.state_lost, true);
        let Held { worker, _place } = held;
        let (worker, mut outcome) = worker.run(&job, &mut on_output).await;
        self.held = worker.map(|worker| Held { worker, _place });
        self.state_lost = self.held.is_none();
        outcome.state_lost = state_lost;
        outcome
    }
}

/// Of a run that nobody wants to have again.
fn fresh_conditions() -> Conditions {
    let mut seed = [0; 32];
    // The kernel's random numbers are there once it has booted.
    let _ = getrandom::fill(&mut seed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Conditions { seed, unix_ns, ..Conditions::default() }
}

/// For the model, when no interpreter became free.
const BUSY: &str = "not run: every interpreter is busy, and none became free in time; try again later";

/// For the model, when the sandbox itself failed. The reason is in the log.
const UNAVAILABLE: &str = "not run: the sandbox could not start an interpreter";

impl Drop for Interpreter {
    fn drop(&mut self) {
        // Outside of Tokio there is nobody who could wait for it to be renewed.
        if let Some(Held { worker, _place }) = self.held.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let ready = Arc::clone(&self.shared.ready);
            runtime.spawn(async move {
                ready.give_back(worker).await;
                drop(_place);
            });
        }
    }
}

#[cfg(test)]
mod tests;
