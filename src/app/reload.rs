//! What can change while the gateway serves: backends, aliases, policies, tools, callers, and some limits.
//!
//! Everything new is made before anything old is replaced, so a mistake in a file changes nothing. A request keeps what it
//! found when it came.

use super::{StartError, body_limits};
use crate::access::Access;
use crate::config::{KEYS, Key, Resolved};
use crate::http::{Front, Live};
use crate::policy::Policies;
use crate::tools::Tools;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Keys and sections that are read at start only. What is not here is taken over.
const AT_START_ONLY: &[&str] = &[
    "server.listen",
    "server.write_stall_ms",
    "server.cors_origins",
    "server.shutdown_grace_ms",
    "admin.",
    "backend.connect_ms",
    "backend.tls_ca",
    "backend.admission_",
    "sandbox.",
    "memory.",
    "audit.",
    "log.",
];
/// Files whose changes are looked for. Chosen: a thousand tools.
const FILES_MAX: usize = 10_000;
/// Folders in folders: a tool's examples are two below the tools' folder.
const DEPTH_MAX: usize = 2;

/// Takes over settings while the gateway serves.
pub struct Reloader {
    front: Arc<Front>,
    /// Those of the start: what only a restart takes over is still as they say, above all the address.
    started: Resolved,
    /// Those that were taken over last. One reload at a time.
    in_force: Mutex<Resolved>,
}

impl Reloader {
    pub(super) fn new(front: Arc<Front>, started: Resolved) -> Self {
        Self { front, in_force: Mutex::new(started.clone()), started }
    }

    /// Takes over `resolved`, and reads tools and policies again. Blocks on the disk. What comes back are the keys whose
    /// new values need a restart.
    ///
    /// # Errors
    /// When something in it is wrong. Then nothing has changed.
    pub fn reload(&self, resolved: &Resolved) -> Result<Vec<&'static str>, StartError> {
        // At the start it would be the only way to serve at all; here it would take a server away by a slip of the pen.
        if let Some(server) = resolved.left_out.first() {
            return Err(StartError::Backend(server.clone()));
        }
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_opening(&in_force, resolved)?;
        let tools = Tools::load(&resolved.tools)?;
        let policies = Policies::load(&resolved.policy, &tools, &resolved.access.caller_names())?;
        let Live { access, agent, body_limits: old_limits } = self.front.live.borrow().clone();
        let agent = agent.reloaded(tools, policies, resolved.calls.parser);
        // Callers that did not change go on being counted.
        let same_callers = in_force.access == resolved.access;
        let access = if same_callers { access } else { Arc::new(Access::new(&resolved.access)) };
        self.front.pool.reload(&resolved.backend).map_err(StartError::Backend)?;
        let body_limits = body_limits(resolved, old_limits.bodies);
        self.front.live.send_replace(Live { access, agent: Arc::new(agent), body_limits });
        *in_force = resolved.clone();
        Ok(self.late(resolved))
    }

    /// Nobody comes in without a key because of a reload: a file that is half written, or gone, would be enough. The
    /// configuration was held against its own address; this holds it against the one that is listened on.
    fn refuse_opening(&self, in_force: &Resolved, resolved: &Resolved) -> Result<(), StartError> {
        if let (Some(path), None) = (&in_force.file, &resolved.file) {
            return Err(StartError::Gone(path.clone()));
        }
        let listen = self.started.server.listen;
        let is_reached = !listen.ip().is_loopback() && !resolved.server.allow_anonymous;
        // Also on a loopback address: other machines may come through a proxy.
        let had_keys = !in_force.access.callers().is_empty();
        if resolved.access.callers().is_empty() && (had_keys || is_reached) {
            return Err(StartError::Opens(listen));
        }
        Ok(())
    }

    /// The keys whose values are not those of the start, which are the ones in force.
    fn late(&self, resolved: &Resolved) -> Vec<&'static str> {
        let is_at_start_only = |name: &str| AT_START_ONLY.iter().any(|start| name.starts_with(start));
        let differs = |key: &Key| match key.name {
            // It shows as `***`, whatever it is.
            "admin.key" => self.started.admin.key != resolved.admin.key,
            _ => (key.show)(&self.started) != (key.show)(resolved),
        };
        KEYS.iter().filter(|key| is_at_start_only(key.name) && differs(key)).map(|key| key.name).collect()
    }
}

/// How the files looked of which the gateway is made: its configuration, tools and policies. Two that are equal mean
/// that nothing was written in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilesSeen(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl FilesSeen {
    /// Looks. Links are followed, since that is how Kubernetes replaces the files of a `ConfigMap`.
    pub fn look(resolved: &Resolved) -> Self {
        let mut seen = Self::default();
        for path in resolved.file.iter().chain([&resolved.tools.dir, &resolved.policy.dir]) {
            seen.take(path, 0);
        }
        seen
    }

    fn take(&mut self, path: &Path, depth: usize) {
        let Ok(found) = fs::metadata(path) else { return };
        if self.0.len() >= FILES_MAX {
            return;
        }
        if !found.is_dir() {
            self.0.insert(path.to_owned(), (found.modified().ok(), found.len()));
        } else if depth <= DEPTH_MAX {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                self.take(&entry.path(), depth + 1);
            }
        }
    }
}
