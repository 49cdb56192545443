//! Who may use what, with which limits: reads `policies/`; `Caller × Checked → Permit`, or a denial with its reason.

mod load;

use crate::access::Caller;
use crate::tools::Checked;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the policies are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that holds them, one `.toml` file each.
    pub dir: PathBuf,
}

/// The policy of every caller.
#[derive(Debug)]
pub struct Policies {
    by_caller: HashMap<String, Arc<Policy>>,
    /// For everybody else: the policy for `*`, or one that grants nothing.
    others: Arc<Policy>,
}

/// What some callers may do. Every number in it lies in its range.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its file's name without `.toml`.
    pub name: String,
    /// When tools are offered to a model whose client brought none of them.
    pub offer: Offer,
    /// Whether what runs is told to the client's user, as thinking.
    pub progress: bool,
    /// Of one call.
    pub limits: Limits,
    /// Of one turn.
    pub bounds: Bounds,
    /// How long a client may hear nothing.
    pub silence: Silence,
    /// Interpreters that outlive a request.
    pub sessions: Sessions,
    /// Tool → why.
    grants: BTreeMap<String, String>,
}

/// When the gateway adds its own tools to a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offer {
    /// Never: a client must ask for them.
    Never,
    /// To requests that bring no tools. Coding agents bring their own shell and are left alone.
    #[default]
    WhenNoTools,
    /// To every request that can take tools.
    Always,
}

impl Offer {
    /// The name in a policy's file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::WhenNoTools => "when-no-tools",
            Self::Always => "always",
        }
    }
}

/// The limits of one execution. All of them are enforced by the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock time of one call, in milliseconds.
    pub wall_ms: u64,
    /// CPU time of one call, in milliseconds.
    pub cpu_ms: u64,
    /// Linear memory of the interpreter, in bytes.
    pub memory_bytes: usize,
    /// Bytes of stdout that are kept, and as many of stderr; the middle of more is cut out.
    pub output_bytes: usize,
    /// Bytes of the last expression's `repr()` that are kept.
    pub result_bytes: usize,
    /// Files and folders that the interpreter may have.
    pub files: u32,
    /// Bytes in all of them.
    pub file_bytes: u64,
    /// How deep a program may let Python's calls go.
    pub recursion: u32,
    /// Interpreters that the caller may have at once. One more waits.
    pub at_once: u32,
}

/// As in `policies/default.toml`.
impl Default for Limits {
    fn default() -> Self {
        Self {
            wall_ms: 30_000,
            cpu_ms: 30_000,
            memory_bytes: 256 << 20,
            output_bytes: 64 << 10,
            result_bytes: 64 << 10,
            files: 1_000,
            file_bytes: 64 << 20,
            recursion: 10_000,
            at_once: 64,
        }
    }
}

/// The bounds of one turn. At any of them the model is asked once more, without tools, for its final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Model calls.
    pub rounds: u32,
    /// Time after which no new round or call starts. A running answer is never cut by it.
    pub turn: Duration,
    /// Failed calls in a row.
    pub errors_in_a_row: u32,
    /// Tokens that the model may write over all rounds; `None`: as many as it likes.
    pub completion_tokens: Option<u64>,
    /// Calls of one model answer that are run. The model is told about those that are not.
    pub calls_per_round: u32,
}

/// Interpreters that outlive a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sessions {
    /// Whether there are any.
    pub enabled: bool,
    /// How long one is kept that is not used.
    pub keep: Duration,
    /// How many each caller may have; the least used one ends.
    pub count: u32,
    /// Bytes that a caller's sessions may take, parked and compressed.
    pub bytes: usize,
}

/// How long a client may hear nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// A sign of life is sent after this much of it.
    pub heartbeat: Duration,
    /// The status and the first bytes are sent after this much of it. Until then an error has a status of its own.
    pub commit_after: Duration,
}

impl Silence {
    /// How long until an answer begins, and between two signs of life after that.
    pub fn waits(&self) -> (Duration, Duration) {
        (self.commit_after, self.heartbeat)
    }
}

/// Leave to run one checked call under limits. Only [`decide`] makes one, and the sandbox takes nothing else.
#[derive(Debug)]
pub struct Permit {
    caller: Caller,
    checked: Checked,
    limits: Limits,
}

/// Why a call may not run. The message is what the model is told, after `Error: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not allowed: {reason}")]
pub struct Denied {
    /// Which policy denied what, and what it does grant.
    pub reason: String,
}

/// Whether `caller` may run `checked`. The only place that makes a [`Permit`].
pub fn decide(policy: &Policy, caller: &Caller, checked: Checked) -> Result<Permit, Denied> {
    let tool = &checked.tool().name;
    if policy.grants(tool) {
        return Ok(Permit { caller: caller.clone(), checked, limits: policy.limits });
    }
    let granted = load::ticked(policy.granted());
    Err(Denied { reason: format!("policy `{}` grants no `{tool}`; granted: {granted}", policy.name) })
}

impl Policies {
    /// The policy of a caller.
    pub fn of(&self, caller: &Caller) -> &Arc<Policy> {
        self.by_caller.get(caller.name()).unwrap_or(&self.others)
    }
}

impl Policy {
    /// Whether the tool may be used at all.
    pub fn grants(&self, tool: &str) -> bool {
        self.grants.contains_key(tool)
    }

    /// Why it may.
    pub fn why(&self, tool: &str) -> Option<&str> {
        self.grants.get(tool).map(String::as_str)
    }

    /// The tools that may be used, sorted.
    pub fn granted(&self) -> impl Iterator<Item = &str> {
        self.grants.keys().map(String::as_str)
    }
}

impl Permit {
    /// On whose behalf.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What.
    pub fn checked(&self) -> &Checked {
        &self.checked
    }

    /// Within which limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
