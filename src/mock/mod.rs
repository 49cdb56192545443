//! A scripted stand-in for an SGLang server, on a real socket: for the quickstart, tests and benches.
//!
//! It speaks SGLang's HTTP interface as versions 0.5.7 and 0.5.23 were recorded, but there is no neural network behind
//! it: its "model" is a table of plain rules (`rules.rs`), and it says so when asked who it is. Token counts are
//! estimates (`tokens.rs`).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let running = loopgate::mock::start(loopgate::mock::Settings::default()).await?;
//! println!("{}", running.url());
//! let request = running.next_request().await;
//! # Ok(()) }
//! ```

mod answer;
mod chat_wire;
mod continued;
mod fault;
mod frames;
mod info;
mod kv;
mod log;
mod model;
mod orders;
mod plain_wire;
mod question;
mod queue;
mod refusal;
mod rules;
mod server;
mod speech;
mod steps;
mod template;
#[cfg(test)]
mod tests;
mod texts;
mod tokens;
mod writing;

pub use fault::{Fault, UnknownFault};
pub use log::{Arrived, Log, Outcome};
pub use orders::Hold;

use server::Server;
use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whose wire it speaks.
    pub version: Version,
    /// As with `--tool-call-parser qwen3_coder`; without, calls stay text.
    pub parser: bool,
    /// What `/v1/models` lists. A request may name any model.
    pub models: Vec<String>,
    /// As with `--api-key`.
    pub api_key: Option<String>,
    /// Tokens of prompt and answer together.
    pub context_length: u32,
    /// Time from a request's place among the running ones to its first event.
    pub ttft: Duration,
    /// Time per token of a prompt that is not in the KV cache, besides [`Settings::ttft`]: of one prompt after the other.
    pub prefill: Duration,
    /// Time per token. Text comes token by token; the arguments of a call come when all of their tokens are written.
    pub pace: Duration,
    /// Further time per token for each other request that runs: a larger batch takes longer.
    pub pace_batch: Duration,
    /// As with `--max-running-requests`.
    pub running_max: Option<usize>,
    /// As with `--max-queued-requests`.
    pub queue_max: Option<usize>,
    /// Tokens that the KV cache holds. Without it nothing is cached.
    pub kv_tokens: Option<usize>,
    /// As with `--enable-cache-report`: the usage says how much of the prompt was cached.
    pub cache_report: bool,
    /// What goes wrong from the start.
    pub fault: Option<Fault>,
}

impl Default for Settings {
    fn default() -> Self {
        let models = ["Qwen/Qwen3-Coder-480B-A35B-Instruct", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3-coder"];
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            version: Version::V0_5_23,
            parser: true,
            models: models.map(str::to_owned).to_vec(),
            api_key: None,
            // Qwen3-Coder's own.
            context_length: 262_144,
            ttft: Duration::ZERO,
            prefill: Duration::ZERO,
            pace: Duration::ZERO,
            pace_batch: Duration::ZERO,
            running_max: None,
            queue_max: None,
            kv_tokens: None,
            cache_report: false,
            fault: None,
        }
    }
}

/// The versions of SGLang whose wire is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The cookbook's.
    V0_5_7,
    /// The newest that was recorded.
    V0_5_23,
}

/// A version that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown SGLang version `{0}`; known: 0.5.7, 0.5.23")]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        match text {
            "0.5.7" => Ok(Self::V0_5_7),
            "0.5.23" => Ok(Self::V0_5_23),
            _ => Err(UnknownVersion(text.to_owned())),
        }
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_5_7 => "0.5.7",
            Self::V0_5_23 => "0.5.23",
        })
    }
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {error}; choose another address, or port 0 for any free port")]
pub struct StartError {
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

/// Starts a server on the current runtime.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let fail = |error| StartError { addr: settings.listen, error };
    let listener = TcpListener::bind(settings.listen).await.map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    let server = Arc::new(Server::new(settings));
    let task = tokio::spawn(server.clone().serve(listener));
    Ok(Running { addr, server, task, heard: 0.into() })
}

/// A server that runs until this is dropped: then its port and all its connections are closed.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    server: Arc<Server>,
    task: JoinHandle<()>,
    /// The number of the first request that [`Running::next_request`] has not given out.
    heard: tokio::sync::Mutex<u64>,
}

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://…`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The log so far.
    pub fn log(&self) -> Log {
        self.server.log.lock().clone()
    }

    /// The requests so far that asked the model for something (chat, completions, generate), oldest first.
    pub fn requests(&self) -> Vec<Arrived> {
        self.server.log.lock().asked().cloned().collect()
    }

    /// The next request that asks the model for something, each one once. Health checks and the like do not count.
    pub async fn next_request(&self) -> Arrived {
        let mut heard = self.heard.lock().await;
        let next = |log: &Log| log.asked().find(|request| request.number >= *heard).cloned();
        let request = self.server.log.wait(next).await;
        *heard = request.number + 1;
        request
    }

    /// Waits until the log is as wanted. It is looked at once now and again after every change.
    pub async fn wait_until(&self, mut wanted: impl FnMut(&Log) -> bool) {
        self.server.log.wait(|log| wanted(log).then_some(())).await;
    }

    /// What goes wrong from now on, with requests that arrive later.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.server.orders.set_fault(fault);
    }

    /// What goes wrong with the next request that asks the model for something, and only with that one.
    pub fn fault_next(&self, fault: Fault) {
        self.server.orders.fault_next(fault);
    }

    /// What goes wrong with one request of those that ask the model for something, counted from 0 since the start.
    pub fn fault_at(&self, number: u64, fault: Fault) {
        self.server.orders.fault_at(number, fault);
    }

    /// Holds one such request back, counted the same way, until the [`Hold`] is dropped: after so many events of its
    /// stream, or 0 before the first token, which holds a whole answer too.
    ///
    /// ```no_run
    /// # async fn example(running: loopgate::mock::Running) {
    /// let hold = running.hold_at(1, 0);
    /// running.wait_until(|log| log.asked().count() == 2).await;
    /// // … what is to happen while the second request waits …
    /// drop(hold);
    /// # }
    /// ```
    pub fn hold_at(&self, number: u64, after: usize) -> Hold {
        self.server.orders.hold_at(number, after)
    }

    /// Runs until the task is ended from outside, as `loopgate mock` does.
    pub async fn forever(mut self) {
        // The accept loop has no end of its own.
        let _ = (&mut self.task).await;
    }

    /// Closes the port and all connections, and returns when they are closed.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
