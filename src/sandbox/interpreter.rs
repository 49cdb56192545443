//! One interpreter for the runs of a turn: the place that it takes, the worker that it is in, the session that it is of.

use super::job::Job;
use super::outcome::{Ended, Outcome, Stream};
use super::parked::Room;
use super::run::{Past, Run};
use super::sessions::{Parked, Visit, Wanted};
use super::worker::Worker;
use super::{PARKED_BYTES_MAX, Shared};
use crate::policy::Permit;
use std::io;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// One Python interpreter, for the runs of one turn. Names stay from run to run, and with a session from turn to turn.
pub struct Interpreter {
    shared: Arc<Shared>,
    pub(super) held: Option<Held>,
    wanted: Option<Wanted>,
    session: Option<Visit>,
    /// The session has come further than it was.
    has_run: bool,
    /// Runs have left something in the interpreter that is nowhere else.
    is_ahead: bool,
    /// Names are gone that a program may count on, and no run was told so yet.
    state_lost: bool,
    /// What is in there.
    past: Past,
}

/// A worker and the places that it takes. Fields drop in order: the places are free only when the worker is gone.
pub(super) struct Held {
    pub worker: Worker,
    pub places: super::Places,
}

impl Held {
    /// Runs it in a task of its own: whoever reads slowly, and so seldom asks how it goes, must not have a run that has ended
    /// in time pass for one that has not.
    async fn run(self, job: Job, on_output: &mut (dyn FnMut(Stream, &[u8]) + Send)) -> (Option<Self>, Outcome) {
        // The worker's side lets through what the limits keep and no more, so that is how much there can be.
        let (say, mut said) = mpsc::unbounded_channel::<(Stream, Vec<u8>)>();
        let running = AbortOnDropHandle::new(tokio::spawn(async move {
            let Self { worker, places } = self;
            let mut hear = |stream, chunk: &[u8]| drop(say.send((stream, chunk.to_vec())));
            let (worker, outcome) = worker.run(&job, &mut hear).await;
            (worker.map(|worker| Self { worker, places }), outcome)
        }));
        while let Some((stream, chunk)) = said.recv().await {
            on_output(stream, &chunk);
        }
        let broken = |_| (None, Outcome::not_started(Ended::Crashed, "the run broke down; this is a bug"));
        running.await.unwrap_or_else(broken)
    }
}

impl Interpreter {
    pub(super) fn new(shared: Arc<Shared>, wanted: Option<Wanted>) -> Self {
        Self {
            shared,
            held: None,
            wanted,
            session: None,
            has_run: false,
            is_ahead: false,
            state_lost: false,
            past: Past::New,
        }
    }

    /// Runs one permitted program. `on_output` hears what is written as it is written, of the beginning that the limits
    /// keep; the outcome has it whole.
    ///
    /// After a run that was stopped at a limit or crashed, names are as they were before it. Dropping the future stops the
    /// program and frees its place, and the next run gets a fresh interpreter.
    pub async fn run(&mut self, permit: &Permit, run: Run, on_output: impl FnMut(Stream, &[u8]) + Send) -> Outcome {
        let Run { id, conditions } = run;
        let job = Job::of(permit, conditions);
        let mut outcome = self.run_job(permit.caller().name(), job, on_output).await;
        outcome.past = self.past.clone();
        if outcome.ended.leaves_state() {
            self.past = Past::After(id);
        }
        outcome
    }

    /// Which guest it is: [`Sandbox::guest`](super::Sandbox::guest).
    pub fn guest(&self) -> &str {
        &self.shared.guest
    }

    /// What earlier calls defined is not in here: their outcomes were recorded before. The next run is told so.
    pub fn lose_names(&mut self) {
        self.state_lost = true;
    }

    pub(super) async fn run_job(
        &mut self,
        caller: &str,
        job: Job,
        mut on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> Outcome {
        let held = match self.hold(caller, &job).await {
            Ok(held) => held,
            Err(outcome) => return *outcome,
        };
        let session_lost = self.session.as_ref().is_some_and(Visit::is_lost);
        // Until the worker is back, it may be lost: this future can be dropped while it waits.
        let state_lost = std::mem::replace(&mut self.state_lost, true) || session_lost;
        let (held, mut outcome) = held.run(job, &mut on_output).await;
        self.held = held;
        if let Some(session) = &self.session {
            session.told();
        }
        (self.state_lost, self.has_run) = (self.held.is_none(), true);
        self.is_ahead |= outcome.ended.leaves_state();
        if self.held.is_none() {
            self.fall_back();
        }
        outcome.state_lost = state_lost;
        outcome
    }

    /// The interpreter is gone, and a session is again what it was before this turn.
    fn fall_back(&mut self) {
        if let Some(session) = self.session.as_ref().filter(|_| self.is_ahead) {
            session.lose();
        }
        self.is_ahead = false;
    }

    async fn hold(&mut self, caller: &str, job: &Job) -> Result<Held, Box<Outcome>> {
        let unavailable = |error: io::Error| {
            tracing::error!(%error, "the sandbox has no worker");
            Box::new(Outcome::not_started(Ended::Unavailable, UNAVAILABLE))
        };
        if let Some(held) = self.held.take() {
            // If it cannot move, it is gone.
            let state_lost = std::mem::replace(&mut self.state_lost, true);
            let moved = self.at_full_speed(held, job).await;
            if moved.is_err() {
                self.fall_back();
            }
            let held = moved.map_err(unavailable)?;
            self.state_lost = state_lost;
            return Ok(held);
        }
        let busy = |why| Box::new(Outcome::not_started(Ended::Busy, why));
        if let Some(wanted) = &self.wanted
            && self.session.is_none()
        {
            // Before a place: one that waits for another turn of its session takes none from it.
            let visit = self.shared.sessions.visit(wanted, self.shared.wait).await;
            self.session = Some(visit.ok_or_else(|| busy(SESSION_BUSY))?);
        }
        let places = self.shared.places(caller, job.limits.at_once).await.ok_or_else(|| busy(BUSY))?;
        let mut worker = self.shared.ready.take().await.map_err(unavailable)?;
        self.past = Past::New;
        if let Some(session) = &mut self.session
            && let Some(Parked { state, past }) = session.from.clone()
        {
            let restored = worker.restore(state.to_vec(), Room::of(&job.limits)).await;
            if restored.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
                session.give_up();
            }
            worker = restored.map_err(unavailable)?;
            self.past = past;
        }
        Ok(Held { worker, places })
    }

    /// A worker that had to give way in an earlier run would do so in this one from its start. Its interpreter moves.
    async fn at_full_speed(&self, mut held: Held, job: &Job) -> io::Result<Held> {
        if held.worker.is_slowed() {
            let state = held.worker.park(PARKED_BYTES_MAX).await?;
            held.worker = self.shared.ready.take().await?.restore(state, Room::of(&job.limits)).await?;
        }
        Ok(held)
    }
}

/// For the model, when no interpreter became free.
const BUSY: &str = "not run: every interpreter is busy, and none became free in time; try again later";

/// For the model, when another turn of the same session did not end.
const SESSION_BUSY: &str = "not run: another request uses this session, and has not ended in time; try again later";

/// For the model, when the sandbox itself failed. The reason is in the log.
const UNAVAILABLE: &str = "not run: the sandbox could not start an interpreter";

impl Drop for Interpreter {
    fn drop(&mut self) {
        // A run was cut in the middle, and its interpreter with it.
        if self.held.is_none() {
            self.fall_back();
        }
        // Outside of Tokio there is nobody who could wait for it to be parked or renewed.
        if let Some(Held { worker, places }) = self.held.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let ready = Arc::clone(&self.shared.ready);
            let session = self.session.take().filter(|_| self.has_run);
            let (past, is_ahead) = (self.past.clone(), self.is_ahead);
            runtime.spawn(async move {
                if let Some(session) = session {
                    match worker.park(PARKED_BYTES_MAX.min(session.bytes_max())).await {
                        Ok(state) => session.keep(Parked { state: state.into(), past }),
                        Err(error) => {
                            tracing::warn!(%error, "a session cannot be kept");
                            if is_ahead {
                                session.lose();
                            }
                            // It may still say what it was asked for, to whoever asks it next.
                            drop(worker);
                            drop(places);
                            return;
                        }
                    }
                }
                ready.give_back(worker).await;
                drop(places);
            });
        }
    }
}
