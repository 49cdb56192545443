//! Where one call is answered: checked, decided, run and written down, in this order and in no other.
//!
//! The loop comes here with the model's calls, the command line with a user's: there is one way in.

use super::transcript;
use crate::access::Caller;
use crate::chat::{Execution, RawCall, Status, millis};
use crate::policy::{self, Permit, Policies, Policy};
use crate::record::{Recorded, Recorder, Who};
use crate::sandbox::{Ended, Interpreter, Outcome, Sandbox, Stream};
use crate::tools::{State, Tools};
use std::sync::Arc;

/// The desk. A turn keeps the one it began with.
pub struct Desk {
    /// What can be called.
    pub(super) tools: Arc<Tools>,
    /// Who may call it.
    pub(super) policies: Arc<Policies>,
    /// Where it runs.
    pub(super) sandbox: Sandbox,
    /// Where it is written down.
    pub(super) recorder: Arc<Recorder>,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// As clients are told.
    pub execution: Execution,
    /// How the program ended. `None`: none ran.
    pub ended: Option<Ended>,
}

impl Desk {
    /// One for these tools and policies, that runs programs in `sandbox` and has them written down by `recorder`.
    pub fn new(tools: Tools, policies: Policies, sandbox: Sandbox, recorder: Recorder) -> Self {
        Self { tools: Arc::new(tools), policies: Arc::new(policies), sandbox, recorder: Arc::new(recorder) }
    }

    /// The same with other tools and policies.
    pub(super) fn reloaded(&self, tools: Tools, policies: Policies) -> Self {
        let (sandbox, recorder) = (self.sandbox.clone(), self.recorder.clone());
        Self { tools: Arc::new(tools), policies: Arc::new(policies), sandbox, recorder }
    }

    /// What can be called.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// What this caller may call.
    pub fn policy(&self, caller: &Caller) -> &Arc<Policy> {
        self.policies.of(caller)
    }

    /// One that nothing has run in.
    pub fn interpreter(&self) -> Interpreter {
        self.sandbox.interpreter()
    }

    /// Where it is written down.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// The tool keeps nothing between calls, so that its calls may run side by side.
    pub fn is_stateless(&self, call: &RawCall) -> bool {
        self.tools.get(&call.name).is_some_and(|tool| tool.state == State::None)
    }

    /// Answers one call. A bad, forbidden or failing call is an answer like any other. `on_output` hears what the
    /// program writes while it runs.
    pub async fn answer(
        &self,
        who: &Who,
        policy: &Policy,
        call: &RawCall,
        interpreter: &mut Interpreter,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> Done {
        let permit = match self.permit(who, policy, call) {
            Ok(permit) => permit,
            Err((status, reason)) => {
                return Done { execution: self.refuse(who, call, status, &reason).await, ended: None };
            }
        };
        let (id, outcome) = self.recorder.run_recorded(who, &permit, interpreter, on_output).await;
        done(call, &permit, &id, outcome)
    }

    /// Makes an earlier execution again, under its own limits, and says how its outcome differs from that of then.
    /// `interpreter` is to be as it was before it.
    pub async fn answer_again(
        &self,
        who: &Who,
        policy: &Policy,
        recorded: &Recorded,
        interpreter: &mut Interpreter,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> (Done, Vec<String>) {
        let mut policy = policy.clone();
        policy.limits = recorded.limits;
        let call = recorded.call(self.tools.get(&recorded.tool).map(|tool| &**tool));
        let permit = match self.permit(who, &policy, &call) {
            Ok(permit) => permit,
            Err((status, reason)) => {
                let execution = self.refuse(who, &call, status, &reason).await;
                return (Done { execution, ended: None }, vec![reason]);
            }
        };
        let (id, outcome, differences) = self.recorder.run_again(who, &permit, recorded, interpreter, on_output).await;
        (done(&call, &permit, &id, outcome), differences)
    }

    /// Answers a call that is not to run, and says why.
    pub async fn refuse(&self, who: &Who, call: &RawCall, status: Status, reason: &str) -> Execution {
        let known = self.tools.get(&call.name).is_some();
        self.recorder.refused(who, call, known, status, reason).await;
        let output = transcript::refusal(status, reason);
        Execution { status, output, error: Some(reason.to_owned()), ..Execution::of(call) }
    }

    /// From a raw call to leave to run it, or why there is none.
    fn permit(&self, who: &Who, policy: &Policy, call: &RawCall) -> Result<Permit, (Status, String)> {
        let checked = self.tools.check(call).map_err(|invalid| (Status::Invalid, invalid.to_string()))?;
        policy::decide(policy, &who.caller, checked).map_err(|denied| (Status::Denied, denied.to_string()))
    }
}

fn done(call: &RawCall, permit: &Permit, execution_id: &str, outcome: Outcome) -> Done {
    let execution = Execution {
        execution_id: Some(execution_id.to_owned()),
        status: outcome.status(),
        output: transcript::output(&outcome, permit.limits()),
        duration_ms: millis(outcome.duration),
        truncated: outcome.omitted_bytes > 0,
        stdout: outcome.stdout,
        stderr: outcome.stderr,
        result: outcome.value,
        error: outcome.error,
        ..Execution::of(call)
    };
    Done { execution, ended: Some(outcome.ended) }
}
