//! The SGLang servers: which of them are up and serve what, and one request to one of them.

pub mod admission;
mod answer;
mod attempts;
#[expect(clippy::module_inception, reason = "a backend is what this room is about")]
mod backend;
pub mod balance;
mod breaker;
mod changes;
mod client;
mod delta;
mod discover;
mod dns;
mod forward;
mod health;
mod lines;
mod load;
mod pool;
mod queue;
mod raw;
mod resume;
mod server;
mod source;
mod splice;
mod state;
mod tls;
mod together;
mod trouble;
mod watch;

pub use answer::Answer;
pub use breaker::{BreakerSettings, BreakerState};
pub use changes::ChangeError;
pub use client::ApiKey;
pub use discover::Model;
pub use forward::{Forwarded, Plain};
pub use pool::Pool;
pub use server::{Address, NotAnAddress, Server, URL, WrittenServer, WrongMember};
pub use state::BackendState;

use crate::chat::Ask;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A model call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What is asked.
    pub ask: &'a Ask,
    /// The model, by the name that [`Pool::resolve`] gave.
    pub model: &'a str,
    /// Who asks.
    pub caller: &'a str,
}

/// What the pool is made of and how patient it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers, or the names behind which they are found.
    pub servers: Vec<Server>,
    /// Names under which clients may ask for a model → the backend's name for it.
    pub aliases: BTreeMap<String, String>,
    /// The key (`--api-key` of SGLang) of the servers that have none of their own. A client's key is never passed on.
    pub api_key: Option<ApiKey>,
    /// Certificates in PEM of an authority that is believed beside the machine's own, for servers behind TLS.
    pub tls_ca: Option<PathBuf>,
    /// The name of a policy in [`balance::ALL`].
    pub balance: String,
    /// Milliseconds for a TCP connection, and as many for TLS on it.
    pub connect_ms: u64,
    /// Milliseconds until an answer begins. Queueing and prefill of a long prompt fall into this.
    pub first_byte_ms: u64,
    /// Milliseconds between two events of a stream.
    pub idle_ms: u64,
    /// Milliseconds for one model call as a whole, its retries included.
    pub total_ms: u64,
    /// Bytes of one event of a stream.
    pub frame_bytes_max: usize,
    /// Tries of one model call.
    pub attempts_max: usize,
    /// Requests that wait for a seat, as all backends that could take them have as many as they may.
    pub seat_waiting_max: usize,
    /// Milliseconds that one of them waits.
    pub seat_wait_ms: u64,
    /// Milliseconds between two looks at a backend that is up.
    pub probe_ms: u64,
    /// Milliseconds that an answer to such a look may take.
    pub probe_timeout_ms: u64,
    /// Milliseconds between two looks at a backend's load.
    pub load_ms: u64,
    /// Milliseconds between two look-ups of a DNS name.
    pub dns_ms: u64,
    /// Milliseconds in which a backend that is back goes from a tenth of its weight to all of it.
    pub slow_start_ms: u64,
    /// When a backend that keeps failing is left alone.
    pub breaker: BreakerSettings,
    /// Who waits for room in the caches.
    pub admission: admission::Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            aliases: BTreeMap::new(),
            api_key: None,
            tls_ca: None,
            balance: balance::ALL[0].name.to_owned(),
            connect_ms: 2_000,
            // The SDKs' own limit.
            first_byte_ms: 600_000,
            // What qwen-code, the least patient client that was measured, allows between chunks, and a bit.
            idle_ms: 300_000,
            // As the SGLang router's.
            total_ms: 1_800_000,
            // A whole file of code arrives in one event.
            frame_bytes_max: 16 << 20,
            // As the SGLang router's.
            attempts_max: 5,
            // Each is a few hundred bytes beside its request.
            seat_waiting_max: 1_024,
            // As the SGLang router's.
            seat_wait_ms: 60_000,
            probe_ms: 5_000,
            // Five times what SGLang's `/health` takes by design.
            probe_timeout_ms: 5_000,
            // Chosen: a report is a few hundred bytes, and a queue is seconds long.
            load_ms: 1_000,
            // Chosen: as long as CoreDNS keeps what it knows of a cluster's services.
            dns_ms: 5_000,
            // Chosen: where there is little to do, a policy may leave a backend out until it has all of its weight, and one
            // that is back is to have its first request within ten seconds, up to two of which it takes to notice it.
            slow_start_ms: 5_000,
            breaker: BreakerSettings::default(),
            admission: admission::Limits::default(),
        }
    }
}
