//! Builds everything in the order of its dependencies; owns start and stop. The only place where the parts meet, and
//! the only one that reads the wall clock.

mod reload;

pub use reload::{FilesSeen, Reloader};

use crate::access::{Access, Caller};
use crate::agent::{Agent, Desk};
use crate::backend::Pool;
use crate::chat::Clock;
use crate::config::Resolved;
use crate::http::{Admin, Bodies, BodyLimits, Doors, Front, Live, Resends, ServeSettings, admin, router, serve};
use crate::memory::{self, Memory};
use crate::policy::Policies;
use crate::record::{Recorder, Who};
use crate::sandbox::{self, Sandbox};
use crate::tools::Tools;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The wall clock.
const CLOCK: Clock = jiff::Timestamp::now;

/// Why the gateway cannot start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A tool or a policy is wrong.
    #[error(transparent)]
    Data(#[from] crate::tools::LoadError),
    /// The sandbox cannot start.
    #[error(transparent)]
    Sandbox(#[from] sandbox::StartError),
    /// There is no place for the compiled guest.
    #[error("there is no home directory to keep the compiled guest in; set sandbox.cache_dir (LOOPGATE_CACHE_DIR)")]
    NoCacheDir,
    /// There is no place for the memory.
    #[error(
        "there is no home directory to keep the memory in; set memory.path (LOOPGATE_MEMORY) to a file, or to :memory: to \
         forget everything at the end"
    )]
    NoMemoryPath,
    /// The memory cannot be used.
    #[error(transparent)]
    Memory(#[from] memory::OpenError),
    /// The audit cannot be written.
    #[error(transparent)]
    Audit(#[from] crate::record::AuditError),
    /// The backends are wrong.
    #[error("{0}")]
    Backend(String),
    /// The configuration file was read before, and is not there any more.
    #[error("{}: the configuration file is gone; put it back, or restart the gateway to go on without it", .0.display())]
    Gone(PathBuf),
    /// A reload would let in whoever can reach the address.
    #[error(
        "no caller has a key, and the gateway listens on {0} until it is restarted; write [[callers]], or restart it to \
         serve everybody"
    )]
    Opens(SocketAddr),
    /// The address is taken, or not ours.
    #[error("cannot listen on {listen}: {error}; choose another address with --{flag}")]
    Listen {
        /// As set.
        listen: SocketAddr,
        /// What sets it.
        flag: &'static str,
        /// Why.
        error: io::Error,
    },
    /// There are no threads to be had.
    #[error("cannot start a thread for each processor: {0}; raise the limit of processes (ulimit -u)")]
    Threads(io::Error),
}

/// Makes the desk alone: what is needed to run code without a model.
///
/// Blocks, for seconds if the guest must be compiled.
pub fn desk(resolved: &Resolved) -> Result<Desk, StartError> {
    let (tools, policies) = rules(resolved)?;
    let recorder = Recorder::new(&resolved.audit, CLOCK)?;
    let sandbox = Sandbox::start(&sandbox_settings(resolved)?)?;
    Ok(Desk::new(tools, policies, sandbox, recorder))
}

/// What may be run, and by whom.
pub fn rules(resolved: &Resolved) -> Result<(Tools, Policies), StartError> {
    let tools = Tools::load(&resolved.tools)?;
    let policies = Policies::load(&resolved.policy, &tools, &resolved.access.caller_names())?;
    Ok((tools, policies))
}

/// The sandbox as it is configured.
pub fn sandbox_settings(resolved: &Resolved) -> Result<sandbox::Settings, StartError> {
    let cache_dir = resolved.sandbox.cache_dir.clone().ok_or(StartError::NoCacheDir)?;
    Ok(sandbox::Settings {
        isolation: resolved.sandbox.isolation,
        program: resolved.sandbox.program.clone(),
        interpreters_max: resolved.sandbox.interpreters_max,
        waiting_max: resolved.sandbox.waiting_max,
        wait_ms: resolved.sandbox.wait_ms,
        sessions_bytes_max: resolved.sandbox.sessions_mib << 20,
        ..sandbox::Settings::new(&resolved.sandbox.guest, cache_dir)
    })
}

/// Blocks on the disk.
fn memory(resolved: &Resolved) -> Result<Memory, StartError> {
    let memory = &resolved.memory;
    let settings = memory::Settings {
        path: memory.path.clone().ok_or(StartError::NoMemoryPath)?,
        entries_max: memory.entries_max,
        bytes_max: memory.bytes_max,
        keep: Duration::from_hours(memory.keep_hours),
        entry_bytes_max: memory::ENTRY_BYTES_MAX,
    };
    Ok(Memory::open(&settings, CLOCK)?)
}

fn body_limits(resolved: &Resolved, bodies: Bodies) -> BodyLimits {
    let server = &resolved.server;
    BodyLimits {
        bytes_max: server.body_bytes_max,
        time: Duration::from_millis(server.body_ms),
        together_bytes_max: server.bodies_bytes_max,
        bodies,
    }
}

async fn bind(listen: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(listen).await.map_err(|error| StartError::Listen { listen, flag, error })
}

/// Somebody at this machine's own command line.
pub fn local(caller: &Caller) -> Who {
    Who { request_id: "cli".into(), client_id: None, caller: caller.clone() }
}

/// The gateway, listening.
pub struct App {
    listener: TcpListener,
    doors: Doors,
    front: Arc<Front>,
    serving: ServeSettings,
    /// Where operators have an address of their own.
    admin: Option<(TcpListener, Admin)>,
    started: Resolved,
}

impl App {
    /// Builds everything and begins to listen. The port is taken last, so that who can connect gets an answer.
    pub async fn start(resolved: &Resolved) -> Result<Self, StartError> {
        let desk = tokio::task::block_in_place(|| desk(resolved))?;
        let memory = tokio::task::block_in_place(|| memory(resolved))?;
        let pool = Pool::start(&resolved.backend).map_err(StartError::Backend)?;
        let recorder = desk.recorder().clone();
        let agent = Agent::new(pool.clone(), desk, memory, resolved.calls.parser);
        let server = &resolved.server;
        let body_limits = body_limits(resolved, Bodies::default());
        let operators = Admin { pool: pool.clone(), key: resolved.admin.key, body_limits: body_limits.clone() };
        let live = Live { access: Arc::new(Access::new(&resolved.access)), agent: Arc::new(agent), body_limits };
        let front = Front {
            live: watch::Sender::new(live),
            pool,
            recorder,
            clock: CLOCK,
            admin: resolved.admin.key.filter(|_| resolved.admin.listen.is_none()).map(|_| operators.clone()),
            cors_origins: server.cors_origins.clone(),
            resends: Resends::default(),
            draining: AtomicBool::new(false),
            over: CancellationToken::new(),
        };
        let admin = match resolved.admin.listen {
            Some(listen) => Some((bind(listen, "admin-listen").await?, operators)),
            None => None,
        };
        let doors = Doors::open().map_err(StartError::Threads)?;
        let listener = bind(server.listen, "listen").await?;
        let serving = ServeSettings {
            grace: Duration::from_millis(server.shutdown_grace_ms),
            write_stall: Duration::from_millis(server.write_stall_ms),
            ..ServeSettings::default()
        };
        Ok(Self { listener, doors, front: Arc::new(front), serving, admin, started: resolved.clone() })
    }

    /// Changes what can be changed while it serves.
    pub fn reloader(&self) -> Reloader {
        Reloader::new(self.front.clone(), self.started.clone())
    }

    /// The operators' own address, if they have one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The address that was taken, which matters for port 0.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The backends.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.front.pool
    }

    /// Serves until `stop`, then lets running requests finish within the grace period.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let (front, pool, front_over) = (self.front.clone(), self.front.pool.clone(), self.front.over.clone());
        let stop = async move {
            stop.await;
            front.draining.store(true, Ordering::Relaxed);
        };
        let over = front_over.clone();
        let serving = serve(self.listener, &self.doors, router(self.front), self.serving, stop, &over);
        match self.admin {
            None => serving.await,
            // It stays while the gateway drains: operators want to watch that.
            Some((listener, operators)) => {
                let watching = ServeSettings { grace: Duration::ZERO, ..self.serving };
                let (done, ended) = tokio::sync::oneshot::channel::<()>();
                let ended = async { drop(ended.await) };
                let never = CancellationToken::new();
                let operating = serve(listener, &self.doors, admin(operators).into(), watching, ended, &never);
                tokio::join!(
                    async {
                        serving.await;
                        drop(done);
                    },
                    operating
                );
            }
        }
        // What the end of the grace period cut is still running at the backends.
        pool.aborts_sent().await;
    }
}
