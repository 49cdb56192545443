//! An interpreter that outlives a request: who may have one, and where in its conversation a turn is.

use super::visible::Seen;
use crate::chat::{Failure, FailureKind};
use crate::policy::Policy;
use crate::record::Who;
use crate::sandbox::{Interpreter, Moment, Sandbox, SessionKey};

/// A session that a request has named.
#[derive(Debug, Clone)]
pub(super) struct Session {
    key: SessionKey,
    rules: crate::policy::Sessions,
}

impl Session {
    /// The session of this name, if one is named and the policy has them.
    pub fn named(name: Option<&str>, who: &Who, policy: &Policy) -> Result<Option<Self>, Failure> {
        let Some(name) = name else { return Ok(None) };
        if !policy.sessions.enabled {
            let message = format!(
                "policy `{}` has no sessions; leave the session out to run in a fresh interpreter, or ask whoever runs \
                 this gateway to write sessions.enabled = true",
                policy.name
            );
            return Err(Failure::new(FailureKind::Forbidden, message).param("session"));
        }
        let key = SessionKey::new(&who.caller, name);
        let key = key.map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()).param("session"))?;
        Ok(Some(Self { key, rules: policy.sessions }))
    }

    /// An interpreter for a turn whose client has sent messages with these positions.
    pub fn interpreter(&self, sandbox: &Sandbox, messages: &[Seen]) -> Interpreter {
        let (here, before) = match messages.split_last() {
            Some((here, before)) => (Some(*here), before.iter().rev().copied().collect()),
            None => (None, Vec::new()),
        };
        sandbox.session(self.key.clone(), self.rules, Moment { here, before })
    }
}
