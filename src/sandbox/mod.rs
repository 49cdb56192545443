//! Runs Python programs in WebAssembly: `Permit → Outcome`.
//!
//! An [`Interpreter`] is `CPython` in a WebAssembly instance of its own. It reaches nothing of the host: no files, network,
//! variables or processes, only clocks, random numbers, files in memory and the texts it sends back. It starts from an
//! image in which `CPython` is up and the standard library loaded, at the first run that needs it, and keeps its names and
//! files from run to run.
//!
//! Each is in a worker: a process of its own with nothing within its reach or, where that is not allowed, a thread.

mod bounded;
mod cache;
mod cut;
mod engine;
mod files;
mod flatten;
mod guest;
mod host;
mod image;
mod interpreter;
mod job;
mod measure;
mod memory;
mod outcome;
mod parked;
mod reach;
mod ready;
mod run;
mod session_files;
mod sessions;
mod span;
mod wasi;
mod watch;
mod worker;

pub use interpreter::Interpreter;
pub use measure::{Rest, Spoiled, Timed};
pub use outcome::{Ended, Outcome, Stream};
pub use run::{Past, Run};
pub use session_files::{FileInfo, FilesError, SessionFiles};
pub use sessions::{BadName, Moment, Position, SessionInfo, SessionKey};
pub use wasi::{Conditions, READINGS_MAX};
pub use worker::work;

use crate::access::Caller;
use crate::policy;
use parked::State;
use ready::Ready;
use session_files::UNPACKED_MAX;
use sessions::{Ender, Sessions, Wanted};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use worker::Workers;

/// Bytes of one parked interpreter, compressed. Chosen: a memory of 256 MiB seldom takes more.
const PARKED_BYTES_MAX: usize = 256 << 20;

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
    /// Runs that may wait for a free interpreter at once, and as many of each caller for one of its own to end; one more is
    /// answered at once that all are busy.
    pub waiting_max: usize,
    /// How long a run waits for a free interpreter, in milliseconds.
    pub wait_ms: u64,
    /// Bytes of all parked sessions.
    pub sessions_bytes_max: usize,
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
            sessions_bytes_max: 1 << 30,
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
    #[error("cannot keep the compiled Python guest in {}: {error}; set `cache_dir` to a private, writable directory from \
             which programs may be run", directory.display())]
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
    guest: String,
    /// Ends old sessions until this is dropped.
    _ender: Ender,
    ready: Arc<Ready>,
    /// One permit for each interpreter that may live.
    places: Arc<Semaphore>,
    /// The same for each caller, while it has interpreters or waits for them.
    by_caller: Mutex<HashMap<String, Weak<Own>>>,
    sessions: Arc<Sessions>,
    /// What a session begins as.
    fresh: State,
    /// One permit for each state of a session that may be unpacked here.
    unpacking: Arc<Semaphore>,
    /// One permit for each run that may wait for a place while one of its caller's is free.
    queue: Semaphore,
    /// As many may wait for a place of one caller's.
    waiting_max: usize,
    wait: Duration,
}

/// The places of one caller.
struct Own {
    places: Arc<Semaphore>,
    /// One permit for each of its runs that may wait for one of these. Who has too many at once waits in here, and takes
    /// nobody else's place in the queue.
    queue: Semaphore,
}

impl Sandbox {
    /// Loads the guest, compiling it if that was not done before, and starts an interpreter to see that it works.
    ///
    /// Blocks, for seconds if it has to compile.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        let compiled = cache::load(&settings.guest, &settings.cache_dir)?;
        let fresh = compiled.image.parked();
        let workers = match settings.isolation {
            Isolation::Thread => Workers::Threads(compiled.image),
            Isolation::Process => Workers::Processes { program: settings.program.clone(), compiled: compiled.folder },
        };
        let least = settings.ready as usize;
        let most = least + std::thread::available_parallelism().map_or(1, usize::from);
        let sessions = Sessions::new(settings.sessions_bytes_max);
        let shared = Shared {
            guest: compiled.version,
            _ender: Ender::start(&sessions).map_err(StartError::Worker)?,
            ready: Ready::start(workers, least, most).map_err(StartError::Worker)?,
            places: Arc::new(Semaphore::new(settings.interpreters_max as usize)),
            by_caller: Mutex::default(),
            sessions,
            fresh,
            unpacking: Arc::new(Semaphore::new(UNPACKED_MAX)),
            queue: Semaphore::new(settings.waiting_max),
            waiting_max: settings.waiting_max,
            wait: Duration::from_millis(settings.wait_ms),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// An interpreter for one turn. It costs nothing until its first run.
    pub fn interpreter(&self) -> Interpreter {
        Interpreter::new(Arc::clone(&self.shared), None)
    }

    /// The interpreter of a session, as it was at this moment of a conversation. What it comes to is kept when it is
    /// dropped. One that another turn uses is waited for by the first run.
    pub fn session(&self, key: SessionKey, rules: policy::Sessions, moment: Moment) -> Interpreter {
        Interpreter::new(Arc::clone(&self.shared), Some(Wanted { key, rules, moment }))
    }

    /// Ends a session, as soon as no request uses it. Whether there was one; nothing if that takes too long.
    pub async fn end_session(&self, key: SessionKey, rules: policy::Sessions) -> Option<bool> {
        let wanted = Wanted { key, rules, moment: Moment::default() };
        Some(self.shared.sessions.visit(&wanted, self.shared.wait).await?.end())
    }

    /// A caller's sessions, the latest first.
    pub fn sessions(&self, caller: &Caller) -> Vec<SessionInfo> {
        self.shared.sessions.list(caller)
    }

    /// Which guest runs here: the same digits on every machine, others for every change of it.
    pub fn guest(&self) -> &str {
        &self.shared.guest
    }

    /// How many more interpreters could start now.
    pub fn free(&self) -> usize {
        self.shared.places.available_permits()
    }
}

/// What one interpreter takes: a place of its caller's, and one of all. The caller's bound is there as long.
type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit, Arc<Own>);

impl Shared {
    /// Places for one interpreter, after waiting for them if need be; nothing if too many wait, or for too long.
    async fn places(&self, caller: &str, at_once: u32) -> Option<Places> {
        let own = self.own(caller, at_once);
        // First its own, so that a caller with too many at once takes no place from others while it waits.
        let both = async {
            let (one, waiting) = place(&own.places, Some(&own.queue)).await?;
            // Who has waited stays in that queue until it has both: it is not sent away in between.
            let queue = waiting.is_none().then_some(&self.queue);
            let (place, _waiting) = place(&self.places, queue).await?;
            Some((one, place))
        };
        let (one, place) = timeout(self.wait, both).await.ok()??;
        Some((one, place, own))
    }

    /// A caller's bound holds from when it has no interpreter until then again.
    fn own(&self, caller: &str, at_once: u32) -> Arc<Own> {
        let mut by_caller = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = by_caller.get(caller).and_then(Weak::upgrade) {
            return own;
        }
        by_caller.retain(|_, own| own.strong_count() > 0);
        let places = Arc::new(Semaphore::new(at_once as usize));
        let own = Arc::new(Own { places, queue: Semaphore::new(self.waiting_max) });
        by_caller.insert(caller.to_owned(), Arc::downgrade(&own));
        own
    }
}

/// One of the places, after waiting for it if need be, with what says that it had to wait in that queue; nothing if too many
/// do already.
async fn place<'a>(
    places: &Arc<Semaphore>,
    queue: Option<&'a Semaphore>,
) -> Option<(OwnedSemaphorePermit, Option<SemaphorePermit<'a>>)> {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Some((place, None));
    }
    let waiting = queue.map(Semaphore::try_acquire).transpose().ok()?;
    Some((Arc::clone(places).acquire_owned().await.ok()?, waiting))
}

#[cfg(test)]
mod tests;
