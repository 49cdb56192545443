//! The settings of rooms that are plain data, and what everything is where nobody says otherwise.

use super::Resolved;
use crate::access::KeyHash;
use crate::backend::{self, Server};
use crate::memory::Store;
use crate::record::AuditSettings;
use crate::sandbox::Isolation;
use http::HeaderValue;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The Python guest inside the tools' folder, where `make guest` puts it.
pub(super) const GUEST: &str = "execute_code/guest/build/python.wasm";

/// The front door.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// Serve whoever can reach the address, without keys.
    pub allow_anonymous: bool,
    /// The largest request body, in bytes, after decompression.
    pub body_bytes_max: usize,
    /// The same of all requests together.
    pub bodies_bytes_max: usize,
    /// How long a request's body may take to arrive, in milliseconds.
    pub body_ms: u64,
    /// How long a client may take no byte of its answer while bytes wait, in milliseconds.
    pub write_stall_ms: u64,
    /// Origins whose web pages may ask. Empty: none; `*`, alone: all.
    pub cors_origins: Vec<HeaderValue>,
    /// How long running turns may go on after a stop signal, in milliseconds.
    pub shutdown_grace_ms: u64,
}

/// The pages for operators.
#[derive(Debug, Clone, Default)]
pub struct AdminSettings {
    /// An address of their own. `None`: they are beside the API, if there is a key.
    pub listen: Option<SocketAddr>,
    /// Opens them.
    pub key: Option<KeyHash>,
}

/// Where and how programs run.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// The Python guest.
    pub guest: PathBuf,
    /// Where the compiled guest is kept. It is executed as it is found, so nobody else may write there. `None`: there is
    /// no home directory, and it must be set.
    pub cache_dir: Option<PathBuf>,
    /// What stands between programs, and between them and the gateway.
    pub isolation: Isolation,
    /// The program `loopgate`, of which workers are made. No setting: the command line knows.
    pub program: PathBuf,
    /// Interpreters that live at once.
    pub interpreters_max: u32,
    /// Runs that may wait for a free interpreter.
    pub waiting_max: usize,
    /// How long each waits, in milliseconds.
    pub wait_ms: u64,
    /// MiB of all parked sessions.
    pub sessions_mib: usize,
}

/// What outlives a request, where, how much of it and for how long.
#[derive(Debug, Clone)]
pub struct MemorySettings {
    /// Where. `None`: there is no home directory, and it must be set.
    pub path: Option<Store>,
    /// How long, in hours.
    pub keep_hours: u64,
    /// Turns.
    pub entries_max: u64,
    /// Bytes of them.
    pub bytes_max: u64,
}

/// What is said while running.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// How.
    pub format: LogFormat,
    /// How much: a filter of the `tracing-subscriber` crate, known to be well formed.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Resolved {
    /// What holds without file, flags and variables; of the environment only the places of the user's cache and state are asked.
    pub(super) fn defaults(env: &BTreeMap<String, String>) -> Self {
        let tools = PathBuf::from("tools");
        Self {
            server: ServerSettings {
                // This machine only. Port: chosen.
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
                allow_anonymous: false,
                // 64 MiB. Chosen: a conversation that fills a context of 262144 tokens is 1 MiB; images are the rest.
                body_bytes_max: 64 << 20,
                // 1 GiB. Chosen: sixteen of the largest bodies, or a thousand conversations that fill their contexts.
                bodies_bytes_max: 1 << 30,
                // Chosen: 64 MiB over a line of 5 Mbit/s.
                body_ms: 120_000,
                // As nginx's send_timeout.
                write_stall_ms: 60_000,
                cors_origins: Vec::new(),
                // Chosen: done before Kubernetes kills, which is after 30 s.
                shutdown_grace_ms: 25_000,
            },
            admin: AdminSettings::default(),
            // SGLang's own default address.
            backend: backend::Settings {
                servers: "http://127.0.0.1:30000".parse().map(Server::at).into_iter().collect(),
                ..backend::Settings::default()
            },
            calls: crate::calls::Settings::default(),
            access: crate::access::Settings::default(),
            sandbox: SandboxSettings {
                guest: tools.join(GUEST),
                cache_dir: xdg(env, "XDG_CACHE_HOME", ".cache"),
                isolation: Isolation::Process,
                program: PathBuf::new(),
                // Chosen: 20 GiB, should every one of them use the 256 MiB of memory and 64 MiB of files that the default
                // policy allows.
                interpreters_max: 64,
                waiting_max: 1024,
                wait_ms: 60_000,
                // Chosen: sixteen callers with as much as the default policy allows.
                sessions_mib: 1024,
            },
            memory: MemorySettings {
                path: xdg(env, "XDG_STATE_HOME", ".local/state").map(|state| Store::Disk(state.join("memory.redb"))),
                // A week. Chosen: who takes up a conversation later begins a new one.
                keep_hours: 7 * 24,
                // Chosen: with 10 KiB a turn as much as the bytes below.
                entries_max: 100_000,
                // 1 GiB. Chosen: what a disk can spare unasked.
                bytes_max: 1 << 30,
            },
            tools: crate::tools::Settings { dir: tools },
            policy: crate::policy::Settings { dir: "policies".into() },
            audit: AuditSettings::default(),
            log: LogSettings { format: LogFormat::Text, filter: "info".to_owned() },
            left_out: Vec::new(),
            file: None,
            origins: BTreeMap::new(),
        }
    }
}

/// Our folder in one of the XDG Base Directory Specification's places, by the variable or below the home directory. It asks
/// to ignore relative paths.
fn xdg(env: &BTreeMap<String, String>, variable: &str, in_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| env.get(name).map(Path::new).filter(|path| path.is_absolute());
    let place = absolute(variable).map(Path::to_owned);
    place.or_else(|| Some(absolute("HOME")?.join(in_home))).map(|place| place.join("loopgate"))
}
