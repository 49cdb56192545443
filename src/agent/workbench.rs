//! The calls of one model message, answered: in order where tools keep state, side by side where they do not.

use super::events::Teller;
use super::{Desk, Outcomes, transcript};
use crate::chat::{Event, Execution, RawCall, Status};
use crate::policy::Policy;
use crate::record::Who;
use crate::sandbox::{Ended, Interpreter};
use futures_util::future::join_all;
use std::time::Instant;

/// What became of a call.
pub(super) struct Answer {
    pub execution: Execution,
    /// A program ran, now or when the request was sent before.
    pub ran: bool,
}

/// What the calls of one message are answered with.
pub(super) struct Workbench<'a> {
    pub desk: &'a Desk,
    pub who: &'a Who,
    pub policy: &'a Policy,
    pub round: u32,
    /// When the turn began.
    pub begun: Instant,
    /// Calls that ran and failed since the last one that did not.
    pub failing: &'a [RawCall],
    pub outcomes: &'a Outcomes,
    pub teller: &'a Teller,
}

impl Workbench<'_> {
    /// Answers all calls; the answers come back in the calls' order. Tools with state share `interpreter`.
    pub async fn answer_all(&self, calls: &[RawCall], interpreter: &mut Interpreter) -> Vec<Answer> {
        let (with_state, without): (Vec<_>, Vec<_>) =
            calls.iter().enumerate().partition(|(_, call)| !self.desk.is_stateless(call));
        let side_by_side = join_all(without.into_iter().map(|(at, call)| self.in_order(vec![(at, call)], None)));
        let (mut done, side_by_side) = tokio::join!(self.in_order(with_state, Some(interpreter)), side_by_side);
        let side_by_side = side_by_side.into_iter().flatten();
        done.extend(side_by_side);
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Answers calls one after the other, in `interpreter` or in a fresh one.
    async fn in_order(
        &self,
        calls: Vec<(usize, &RawCall)>,
        interpreter: Option<&mut Interpreter>,
    ) -> Vec<(usize, Answer)> {
        let mut fresh = self.desk.sandbox.interpreter();
        let interpreter = interpreter.unwrap_or(&mut fresh);
        let mut done = Vec::with_capacity(calls.len());
        for (at, call) in calls {
            done.push((at, self.answer(call, at, interpreter).await));
        }
        done
    }

    async fn answer(&self, call: &RawCall, at: usize, interpreter: &mut Interpreter) -> Answer {
        let RawCall { id, name, arguments } = call.clone();
        self.progress(|| transcript::running(call)).await;
        self.teller.tell(Event::Executing { id, name, arguments }).await;
        let mut answer = match self.over_bound(call, at) {
            Some(reason) => {
                let execution = self.desk.refuse(self.who, call, Status::Denied, &reason).await;
                Answer { execution, ran: false }
            }
            None => self.outcome(call, interpreter).await,
        };
        answer.execution.round = self.round;
        self.progress(|| transcript::ran(&answer.execution)).await;
        self.teller.tell(Event::Executed(Box::new(answer.execution.clone()))).await;
        answer
    }

    /// The outcome that was recorded when the same request was sent before, or else the call's own.
    async fn outcome(&self, call: &RawCall, interpreter: &mut Interpreter) -> Answer {
        if let Some(recorded) = self.outcomes.take(call) {
            interpreter.lose_names();
            let execution = Execution { id: call.id.clone(), ..recorded };
            self.desk.recorder.replayed(self.who, &execution).await;
            return Answer { execution, ran: true };
        }
        let done = self.desk.answer(self.who, self.policy, call, interpreter, |_, _| {}).await;
        let ran = done.ended.is_some_and(Ended::has_run);
        if ran {
            self.outcomes.ran(done.execution.clone());
        }
        Answer { execution: done.execution, ran }
    }

    /// Tells what runs as thinking, where the policy wants it shown to people.
    async fn progress(&self, text: impl FnOnce() -> String) {
        if self.policy.progress {
            self.teller.tell(Event::Reasoning(text())).await;
        }
    }

    /// Why the call at place `at` of its message may not run although it may be a good one.
    fn over_bound(&self, call: &RawCall, at: usize) -> Option<String> {
        let bounds = &self.policy.bounds;
        if at >= bounds.calls_per_round as usize {
            Some(format!("not allowed: at most {} calls in one message", bounds.calls_per_round))
        } else if self.begun.elapsed() >= bounds.turn {
            Some(format!("not allowed: the turn's {} s are over; answer now", bounds.turn.as_secs()))
        } else if self.failing.iter().any(|failed| failed.name == call.name && failed.arguments == call.arguments) {
            // Nothing has changed since, so it would fail again, and a model that repeats itself does not stop.
            Some("not allowed: the same call has failed before; change it, or answer without it".to_owned())
        } else {
            None
        }
    }
}
