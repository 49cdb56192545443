//! What an interpreter costs, from where a turn stands. The programs are a benchmark's own, so that no audit has them.

use super::job::Job;
use super::parked::Room;
use super::{Ended, Interpreter, Moment, Outcome, PARKED_BYTES_MAX, Run, Sandbox, SessionKey};
use crate::policy::{self, Permit};
use std::io;
use std::time::{Duration, Instant};

/// Nothing was measured, since a program did something else than run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Spoiled {
    /// The program.
    #[error("a program that was to be measured ended otherwise ({}): {}", _0.ended.as_str(), _0.error.as_deref().unwrap_or_default().trim_end())]
    Program(Box<Outcome>),
    /// Its worker.
    #[error("a worker of the sandbox failed: {0}")]
    Worker(#[from] io::Error),
}

/// One run.
#[derive(Debug)]
pub struct Timed {
    /// Until its outcome was there.
    pub whole: Duration,
    /// Of it the program itself.
    pub program: Duration,
    /// What it wrote.
    pub stdout: String,
}

/// An interpreter's way to rest and back.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    /// Until it was parked.
    pub park: Duration,
    /// Until it could run again.
    pub restore: Duration,
    /// Bytes that it takes parked.
    pub bytes: usize,
}

impl Sandbox {
    /// A program in a fresh interpreter.
    pub async fn time_fresh(&self, permit: &Permit) -> Result<Timed, Spoiled> {
        time(self.interpreter(), permit).await
    }

    /// A program in a session, which begins with the first one.
    pub async fn time_in_session(
        &self,
        permit: &Permit,
        key: SessionKey,
        rules: policy::Sessions,
    ) -> Result<Timed, Spoiled> {
        time(self.session(key, rules, Moment::default()), permit).await
    }

    /// Parks and restores an interpreter in which a program has run.
    pub async fn time_rest(&self, permit: &Permit) -> Result<Rest, Spoiled> {
        let job = Job::of(permit, Run::new(0).conditions);
        let places = self.shared.places(permit.caller().name(), job.limits.at_once).await;
        let places = places.ok_or_else(|| io::Error::other("every interpreter is busy"))?;
        let (worker, outcome) = self.shared.ready.take().await?.run(&job, &mut |_, _| {}).await;
        completed(&outcome)?;
        let worker = worker.ok_or_else(|| io::Error::other("it is gone"))?;
        let began = Instant::now();
        let state = worker.park(PARKED_BYTES_MAX).await?;
        let (park, bytes) = (began.elapsed(), state.len());
        let began = Instant::now();
        let worker = worker.restore(state, Room::of(&job.limits)).await?;
        let restore = began.elapsed();
        self.shared.ready.give_back(worker).await;
        drop(places);
        Ok(Rest { park, restore, bytes })
    }
}

async fn time(mut interpreter: Interpreter, permit: &Permit) -> Result<Timed, Spoiled> {
    let began = Instant::now();
    let outcome = interpreter.run(permit, Run::new(0), |_, _| {}).await;
    let whole = began.elapsed();
    completed(&outcome)?;
    Ok(Timed { whole, program: outcome.duration, stdout: outcome.stdout })
}

fn completed(outcome: &Outcome) -> Result<(), Spoiled> {
    if outcome.ended == Ended::Completed { Ok(()) } else { Err(Spoiled::Program(Box::new(outcome.clone()))) }
}
