//! Writes down what happens: a line in the audit for every execution, and metrics.
//!
//! [`Recorder::run_recorded`] is the one door to the sandbox, so that nothing can run unseen.

mod audit;
mod metrics;
mod ran;
mod replay;

pub use audit::{AuditError, AuditSettings};
pub use metrics::{Metrics, TurnRecord};
pub use replay::{Recorded, ReplayError};

use crate::access::Caller;
use crate::chat::{Clock, Execution, RawCall, Status};
use crate::policy::Permit;
use crate::sandbox::{Interpreter, Outcome, Run, Stream};
use audit::{Audit, Entry, HEAD_BYTES_MAX};
use ran::{Begun, Over};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The audit and the metrics, shared by everybody.
pub struct Recorder {
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// On whose behalf something runs.
#[derive(Debug, Clone)]
pub struct Who {
    /// The request's id.
    pub request_id: Arc<str>,
    /// What the client calls the request, where it says so.
    pub client_id: Option<Arc<str>>,
    /// The caller.
    pub caller: Caller,
}

impl Recorder {
    /// Opens the audit.
    ///
    /// # Errors
    /// When the audit file cannot be opened for writing.
    pub fn new(settings: &AuditSettings, clock: Clock) -> Result<Self, AuditError> {
        Ok(Self { audit: Arc::new(Audit::open(settings)?), metrics: Arc::new(Metrics::new()), clock })
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What time it is. A clock that is set to before 1970 says 1970.
    pub fn since_1970(&self) -> Duration {
        Duration::try_from((self.clock)().as_duration()).unwrap_or_default()
    }

    /// Runs what `permit` allows. The outcome is in the audit before the caller of this function sees it; when it
    /// cannot be written down, nobody sees it. The execution's id comes with it.
    pub async fn run_recorded(
        &self,
        who: &Who,
        permit: &Permit,
        interpreter: &mut Interpreter,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> (Arc<str>, Outcome) {
        let run = Run::new(u64::try_from(self.since_1970().as_nanos()).unwrap_or(u64::MAX));
        let id = run.id.clone();
        let begun = Begun::new(&run, permit, interpreter.guest());
        (id, self.run(who, permit, (run, begun), interpreter, on_output).await)
    }

    /// Makes an earlier execution again, what it builds on having been made again in `interpreter` before, and says how
    /// its outcome differs from that of then. The audit has a line of it, which says of what it is a replay.
    pub async fn run_again(
        &self,
        who: &Who,
        permit: &Permit,
        recorded: &Recorded,
        interpreter: &mut Interpreter,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> (Arc<str>, Outcome, Vec<String>) {
        let run = Run::again(recorded.conditions().clone());
        let id = run.id.clone();
        let guest = interpreter.guest().to_owned();
        let begun = Begun { replay_of: Some(recorded.id.clone()), ..Begun::new(&run, permit, &guest) };
        let outcome = self.run(who, permit, (run, begun), interpreter, on_output).await;
        let differences = recorded.differences(permit, &guest, &outcome);
        (id, outcome, differences)
    }

    async fn run(
        &self,
        who: &Who,
        permit: &Permit,
        (run, begun): (Run, Begun),
        interpreter: &mut Interpreter,
        mut on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> Outcome {
        let checked = permit.checked();
        let tool = &checked.tool().name;
        let arguments = serde_json::Value::Object(checked.arguments().clone()).to_string();
        let code = match checked.program() {
            (code, None) => code,
            (_, Some(_)) => &arguments,
        };
        debug_assert_eq!(who.caller, *permit.caller(), "a permit is for one caller");
        let entry = Entry::new((self.clock)(), who, tool, checked.id(), code, &arguments);
        let entry = entry.begun(begun, permit.limits());
        let mut running = Running {
            recorder: self,
            entry: Some(entry),
            since: Instant::now(),
            output_bytes: 0,
            output_head: Vec::new(),
        };
        let hear = |stream, bytes: &[u8]| {
            running.hear(bytes);
            on_output(stream, bytes);
        };
        let outcome = interpreter.run(permit, run, hear).await;
        self.metrics.executed(tool, outcome.status(), outcome.duration);
        let Some(entry) = running.over() else { return outcome.withheld() };
        let entry = entry.ended(outcome.status(), outcome.duration, &texts(&outcome)).over(Over::of(&outcome));
        if self.write(entry).await { outcome } else { outcome.withheld() }
    }

    /// Writes down a call that was refused before it could run: an invalid or a denied one.
    /// `known` says whether there is such a tool: a model can write any name.
    pub async fn refused(&self, who: &Who, call: &RawCall, known: bool, status: Status, reason: &str) {
        self.metrics.executed(if known { &call.name } else { "unknown" }, status, Duration::ZERO);
        let entry = Entry::new((self.clock)(), who, &call.name, &call.id, &call.arguments, &call.arguments).ended(
            status,
            Duration::ZERO,
            &[reason],
        );
        self.write(entry).await;
    }

    /// Writes down that a call was answered with the outcome of an earlier run, which has a line of its own.
    pub async fn replayed(&self, who: &Who, execution: &Execution) {
        let Execution { id, name, arguments, status, duration_ms, .. } = execution;
        let duration = Duration::from_secs_f64(duration_ms / 1e3);
        let outputs =
            [Some(&execution.stdout), Some(&execution.stderr), execution.result.as_ref(), execution.error.as_ref()];
        let outputs = outputs.map(|text| text.map_or("", String::as_str));
        let entry = Entry::new((self.clock)(), who, name, id, arguments, arguments).ended(*status, duration, &outputs);
        self.write(entry.replayed(execution.execution_id.clone())).await;
    }

    /// Written before this future is done; begun, it is written even if the future is dropped.
    async fn write(&self, entry: Entry) -> bool {
        self.written(entry).await.unwrap_or(false)
    }

    fn written(&self, entry: Entry) -> JoinHandle<bool> {
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        // A disk may stall; the runtime's own threads must not stall with it.
        tokio::task::spawn_blocking(move || {
            audit
                .write(&entry)
                .inspect_err(|error| {
                    tracing::error!(%error, "the audit cannot be written");
                    metrics.audit_failed();
                })
                .is_ok()
        })
    }
}

/// A run under way. Dropped before it is over, because its client has left, it has its line all the same.
struct Running<'a> {
    recorder: &'a Recorder,
    entry: Option<Entry>,
    since: Instant,
    output_bytes: usize,
    /// Of what it writes, the beginning.
    output_head: Vec<u8>,
}

impl Running<'_> {
    fn hear(&mut self, bytes: &[u8]) {
        self.output_bytes += bytes.len();
        let missing = HEAD_BYTES_MAX - self.output_head.len();
        self.output_head.extend(bytes.iter().take(missing));
    }

    fn over(mut self) -> Option<Entry> {
        self.entry.take()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let entry = entry.abandoned(self.since.elapsed(), self.output_bytes, &self.output_head);
            drop(self.recorder.written(entry));
        }
    }
}

/// Everything that a run gave back.
fn texts(outcome: &Outcome) -> [&str; 4] {
    let (value, error) = (outcome.value.as_deref(), outcome.error.as_deref());
    [&outcome.stdout, &outcome.stderr, value.unwrap_or_default(), error.unwrap_or_default()]
}
