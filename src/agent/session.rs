//! An interpreter that outlives a request: who may have one, and where in its conversation a turn is.

use super::visible::Seen;
use crate::access::Caller;
use crate::chat::{Failure, FailureKind};
use crate::policy::{self, Policy};
use crate::sandbox::{Interpreter, Moment, Sandbox, SessionFiles, SessionKey};

/// A session that a request has named.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub key: SessionKey,
    pub rules: policy::Sessions,
}

/// Refuses who has no sessions.
pub(super) fn allowed(policy: &Policy) -> Result<policy::Sessions, Failure> {
    if policy.sessions.enabled {
        return Ok(policy.sessions);
    }
    let message = format!(
        "policy `{}` has no sessions; leave the session out to run in a fresh interpreter, or ask whoever runs this \
         gateway to write sessions.enabled = true",
        policy.name
    );
    Err(Failure::new(FailureKind::Forbidden, message).param("session"))
}

impl Session {
    /// The caller's session of this name, if its policy has them.
    pub fn named(name: &str, caller: &Caller, policy: &Policy) -> Result<Self, Failure> {
        let rules = allowed(policy)?;
        let key = SessionKey::new(caller, name);
        let key = key.map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()).param("session"))?;
        Ok(Self { key, rules })
    }

    /// An interpreter for a turn whose client has sent messages with these positions.
    pub fn interpreter(&self, sandbox: &Sandbox, messages: &[Seen]) -> Interpreter {
        let (here, before) = match messages.split_last() {
            Some((here, before)) => (Some(*here), before.iter().rev().copied().collect()),
            None => (None, Vec::new()),
        };
        sandbox.session(self.key.clone(), self.rules, Moment { here, before })
    }

    /// The files in it, within the limits of the policy.
    pub fn files(self, sandbox: &Sandbox, policy: &Policy) -> SessionFiles {
        sandbox.files(self.key, self.rules, policy.limits)
    }
}
