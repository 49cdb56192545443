//! The SGLang servers: which of them are up and serve what, and one request to one of them.

pub mod admission;
pub mod balance;
mod client;
mod delta;
mod forward;
mod pool;
mod trouble;

pub use forward::Forwarded;
pub use pool::{Answer, BackendState, Model, Pool};

use http::HeaderValue;
use std::collections::BTreeMap;
use std::fmt;

/// What the pool is made of and how patient it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URLs, such as `http://127.0.0.1:30000`.
    pub urls: Vec<String>,
    /// Names under which clients may ask for a model → the backend's name for it.
    pub aliases: BTreeMap<String, String>,
    /// The backends' own key (`--api-key` of SGLang). A client's key is never passed on.
    pub api_key: Option<ApiKey>,
    /// The name of a policy in [`balance::ALL`].
    pub balance: String,
    /// Milliseconds for a TCP connection.
    pub connect_ms: u64,
    /// Milliseconds until an answer begins. Queueing and prefill of a long prompt fall into this.
    pub first_byte_ms: u64,
    /// Milliseconds between two events of a stream.
    pub idle_ms: u64,
    /// Bytes of one event of a stream.
    pub frame_bytes_max: usize,
    /// Backends that are tried for one model call.
    pub attempts_max: usize,
    /// Milliseconds between two looks at what a backend serves.
    pub probe_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            aliases: BTreeMap::new(),
            api_key: None,
            balance: balance::ALL[0].name.to_owned(),
            connect_ms: 2_000,
            // The SDKs' own limit.
            first_byte_ms: 600_000,
            // What qwen-code, the least patient client that was measured, allows between chunks, and a bit.
            idle_ms: 300_000,
            // A whole file of code arrives in one event.
            frame_bytes_max: 16 << 20,
            attempts_max: 3,
            probe_ms: 5_000,
        }
    }
}

/// A backend's key. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// `None` when the key holds characters that no HTTP header can carry.
    pub fn new(key: &str) -> Option<Self> {
        HeaderValue::from_str(&format!("Bearer {key}")).ok().map(Self)
    }

    fn bearer(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}
