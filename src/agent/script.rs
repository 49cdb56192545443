//! A program that comes without a conversation, from a script, a console or another agent. It goes the way of a model's
//! calls, through the same desk.

use super::live::Live;
use super::session::Session;
use super::{Agent, Done, RETRY_AFTER};
use crate::chat::{Execution, Failure, FailureKind, RawCall, Status};
use crate::policy::{Policy, Silence};
use crate::record::Who;
use crate::sandbox::Ended;
use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt};
use serde_json::json;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// The tool whose calls such programs are.
const TOOL: &str = "execute_code";

/// A program, and how it is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The program.
    pub code: String,
    /// Milliseconds that it may take; `None`: as many as the policy gives.
    pub timeout_ms: Option<u64>,
    /// The name of the interpreter that it is to run in.
    pub session: Option<String>,
}

/// What is told of a program, in order.
#[derive(Debug)]
pub enum Told {
    /// A piece of what it writes to stdout. Of more than the limits keep, the beginning is told.
    Stdout(String),
    /// A piece of what it writes to stderr.
    Stderr(String),
    /// What became of it. Nothing follows.
    Ended(Result<Box<Execution>, Failure>),
}

/// A program under way. It goes on whether or not what is told is taken, and ends when this is dropped.
///
/// It is a task of its own: who reads slowly must not keep an interpreter, nor have a program that has ended in time pass
/// for one that has not.
pub struct Run {
    silence: Silence,
    work: Option<AbortOnDropHandle<Done>>,
    told: Arc<Shared>,
}

/// What the program and its listener share.
#[derive(Default)]
struct Shared {
    live: Mutex<Live>,
    listener: AtomicWaker,
}

impl Agent {
    /// Has a program run. Its id is that of the request.
    ///
    /// # Errors
    /// When it asks for what the policy does not give.
    pub fn run(&self, who: Who, script: Script) -> Result<Run, Failure> {
        let Script { code, timeout_ms, session } = script;
        let policy = within(self.desk.policies.of(&who.caller), timeout_ms)?;
        let session = session.map(|name| Session::named(&name, &who.caller, &policy)).transpose()?;
        let sandbox = &self.desk.sandbox;
        // It comes from no conversation.
        let mut interpreter =
            session.map_or_else(|| sandbox.interpreter(), |session| session.interpreter(sandbox, &[]));
        let call = RawCall {
            id: who.request_id.to_string(),
            name: TOOL.to_owned(),
            arguments: json!({ "code": code }).to_string(),
        };
        let told = Arc::<Shared>::default();
        let (silence, desk, heard) = (policy.silence, self.desk.clone(), told.clone());
        let work = async move {
            let hear = |stream, bytes: &[u8]| heard.hear(stream, bytes);
            desk.answer(&who, &policy, &call, &mut interpreter, hear).await
        };
        Ok(Run { silence, work: Some(AbortOnDropHandle::new(tokio::spawn(work))), told })
    }
}

/// The policy with the time that the program asks for, which may be less than it gives and not more: to be stopped
/// early without having been told would be worse than to be told now.
fn within(policy: &Arc<Policy>, timeout_ms: Option<u64>) -> Result<Arc<Policy>, Failure> {
    let most = policy.limits.wall_ms;
    match timeout_ms {
        None => Ok(policy.clone()),
        Some(wall_ms) if wall_ms <= most => {
            let mut policy = Policy::clone(policy);
            policy.limits.wall_ms = wall_ms;
            Ok(Arc::new(policy))
        }
        Some(wall_ms) => {
            let message = format!(
                "`timeout_ms` is {wall_ms}, but policy `{}` gives a program at most {most}; leave it out to have that",
                policy.name
            );
            Err(Failure::new(FailureKind::Invalid, message).param("timeout_ms"))
        }
    }
}

impl Run {
    /// How long the client is kept waiting before its answer begins, and between two signs of life after that.
    pub fn patience(&self) -> (Duration, Duration) {
        (self.silence.commit_after, self.silence.heartbeat)
    }

    /// What becomes of it, without what it writes meanwhile.
    ///
    /// # Errors
    /// When it did not run.
    pub async fn ended(mut self) -> Result<Box<Execution>, Failure> {
        while let Some(told) = self.next().await {
            if let Told::Ended(ended) = told {
                return ended;
            }
        }
        Err(Failure::new(FailureKind::Internal, "the program ended without an outcome"))
    }
}

impl Stream for Run {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Told>> {
        // Before it is looked for what was written: what is written after that wakes this task.
        self.told.listener.register(context.waker());
        if let Some(told) = self.told.live().pop() {
            return Poll::Ready(Some(told));
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        if let Poll::Ready(done) = Pin::new(work).poll(context) {
            self.work = None;
            // It is aborted by nobody but this, so that it can only have panicked.
            let broken = |_| Err(Failure::new(FailureKind::Internal, "the program ended without an outcome"));
            self.told.live().end(done.map_or_else(broken, outcome));
        }
        match self.told.live().pop() {
            Some(told) => Poll::Ready(Some(told)),
            None => Poll::Pending,
        }
    }
}

impl Shared {
    fn hear(&self, stream: crate::sandbox::Stream, bytes: &[u8]) {
        self.live().hear(stream, bytes);
        self.listener.wake();
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program that did not run is a failure here: there is no model that could be told.
fn outcome(done: Done) -> Result<Box<Execution>, Failure> {
    let Done { execution, ended } = done;
    let reason = execution.error.clone().unwrap_or_default();
    match (execution.status, ended) {
        (Status::Denied, _) => {
            let message = format!("{reason}; whoever runs this gateway can grant it in policies/");
            Err(Failure::new(FailureKind::Forbidden, message))
        }
        (Status::Invalid, _) => Err(Failure::new(FailureKind::Invalid, reason)),
        (_, Some(Ended::Busy | Ended::Unavailable)) => {
            Err(Failure::new(FailureKind::NoInterpreter, reason).retry_after(RETRY_AFTER))
        }
        (Status::Completed | Status::Error | Status::Timeout, _) => Ok(Box::new(execution)),
    }
}
