//! One turn: model call after model call, until there is a final answer or a bound is met.

use super::budget::Budget;
use super::events::{Events, Teller};
use super::history::{self, Hidden, Restored};
use super::plan::Share;
use super::session::Session;
use super::words::{self, Shown};
use super::workbench::Workbench;
use super::{Agent, Outcomes, transcript};
use crate::access::Caller;
use crate::backend::Call;
use crate::calls::{Finder, Said, Signatures};
use crate::chat::{Ask, Ending, Event, Failure, Finish, RawCall, Status, Stop, ToolChoice, Usage};
use crate::policy::Policy;
use crate::record::Who;
use crate::sandbox::Interpreter;
use std::sync::Arc;
use std::time::Duration;

/// A request on which the gateway acts, before its first model call.
pub struct Turn {
    agent: Arc<Agent>,
    who: Who,
    policy: Arc<Policy>,
    ask: Ask,
    model: String,
    share: Share,
    signatures: Signatures,
    interpreter: Option<Interpreter>,
    session: Option<Session>,
    budget: Budget,
    backend: Option<String>,
    shown: Shown,
    restored: Restored,
    hidden: Hidden,
    failing: Vec<RawCall>,
    outcomes: Arc<Outcomes>,
    last_output: Option<String>,
}

/// A model call's answer.
struct Heard {
    text: String,
    reasoning: String,
    calls: Vec<RawCall>,
    finish: Finish,
    usage: Usage,
}

impl Default for Heard {
    fn default() -> Self {
        let (text, reasoning) = (String::new(), String::new());
        Self { text, reasoning, calls: Vec::new(), finish: Finish::Stop, usage: Usage::default() }
    }
}

impl Heard {
    fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.text.trim().is_empty() && self.finish == Finish::Stop
    }
}

impl Turn {
    pub(super) fn new(
        agent: Arc<Agent>,
        who: Who,
        policy: Arc<Policy>,
        session: Option<Session>,
        ask: Ask,
        model: String,
        share: Share,
    ) -> Self {
        Self {
            agent,
            who,
            budget: Budget::new(policy.bounds),
            policy,
            ask,
            model,
            signatures: Signatures::of(&share.specs),
            share,
            interpreter: None,
            session,
            backend: None,
            shown: Shown::default(),
            restored: Restored::default(),
            hidden: Hidden::default(),
            failing: Vec::new(),
            outcomes: Arc::default(),
            last_output: None,
        }
    }

    /// Whose turn it is.
    pub fn caller(&self) -> &Caller {
        &self.who.caller
    }

    /// How long the client is kept waiting before its answer begins, and between two signs of life after that.
    pub fn patience(&self) -> (Duration, Duration) {
        self.policy.silence.waits()
    }

    /// Starts the turn. It goes on while its events are taken. A call with one among `outcomes` gets that, and
    /// what others come to is written there.
    pub fn start(mut self, outcomes: Arc<Outcomes>) -> Events {
        self.outcomes = outcomes;
        // Streams end sooner and fail more clearly than whole answers, whatever the client gets.
        self.ask.body.set("stream", "true");
        self.ask.body.set("stream_options", r#"{"include_usage":true}"#);
        Events::of(|teller| async move {
            let last = match self.rounds(&teller).await {
                Ok(ending) => Event::Ended(Box::new(ending)),
                Err(failure) => Event::Failed(failure),
            };
            teller.tell(last).await;
        })
    }

    async fn rounds(&mut self, teller: &Teller) -> Result<Ending, Failure> {
        self.restored = history::restore(&mut self.ask.body, &self.who.caller, &self.agent.memory).await;
        loop {
            let heard = self.listen(teller).await?;
            if heard.calls.is_empty() {
                return self.answered(heard, teller).await;
            }
            let (ours, theirs): (Vec<_>, Vec<_>) =
                heard.calls.iter().cloned().partition(|call| !self.is_clients(&call.name));
            let outputs = self.act(&ours, teller).await;
            if !theirs.is_empty() {
                self.hand_over(&heard, &ours, outputs, theirs, teller).await;
                return Ok(self.ending(Finish::ToolCalls, heard.usage, Stop::ClientTools));
            }
            self.push(transcript::assistant(&heard.text, &heard.reasoning, &ours));
            for (call, output) in ours.iter().zip(&outputs) {
                self.push(transcript::result(call, output));
            }
            self.last_output = outputs.into_iter().last();
            if let Some(stop) = self.budget.met() {
                return self.last_words(stop, teller).await;
            }
            if self.ask.tool_choice == ToolChoice::Forced {
                // A forced choice holds for the first call; repeated, the model could never answer.
                self.ask.tool_choice = ToolChoice::Auto;
                self.ask.body.set("tool_choice", r#""auto""#);
            }
        }
    }

    /// One model call: its text goes to the client as it comes, its calls are kept until it is complete.
    async fn listen(&mut self, teller: &Teller) -> Result<Heard, Failure> {
        let round = self.budget.begin_round();
        self.shown.begin_round();
        let rid = format!("{}-{round}", self.who.request_id);
        self.ask.body.set("rid", serde_json::Value::from(rid.as_str()).to_string());
        let call = Call { ask: &self.ask, model: &self.model, caller: self.who.caller.name() };
        let mut answer = self.agent.pool.stream(call, &rid, self.backend.as_deref()).await?;
        if round == 1 {
            teller.tell(Event::Opened).await;
        }
        self.backend = Some(answer.backend().to_owned());
        let mut finder = Finder::new(self.agent.parser, self.signatures.clone());
        let mut heard = Heard::default();
        let mut finish = None;
        let mut said = Vec::new();
        while let Some(step) = answer.next().await {
            let delta = step?;
            self.budget.hear(&delta)?;
            heard.usage = delta.usage.unwrap_or(heard.usage);
            finish = finish.or(delta.finish);
            finder.feed(&delta, &mut said);
            for said in said.drain(..) {
                match said {
                    Said::Text(text) => self.show(text, &mut heard, teller).await,
                    Said::Reasoning(text) => {
                        heard.reasoning.push_str(&text);
                        teller.tell(Event::Reasoning(text)).await;
                    }
                }
            }
        }
        let found = finder.finish(finish);
        if !found.text.is_empty() {
            self.show(found.text, &mut heard, teller).await;
        }
        heard.calls = found.calls;
        heard.finish = match finish.unwrap_or(Finish::Stop) {
            // SGLang says so of text that only mentions the tags of a call; a client would wait for calls to run.
            Finish::ToolCalls if heard.calls.is_empty() => Finish::Stop,
            finish => finish,
        };
        self.budget.end_round(heard.usage);
        Ok(heard)
    }

    /// A tool of the client's own. A name that nobody knows is ours to answer: the client could do nothing with it.
    fn is_clients(&self, name: &str) -> bool {
        !self.share.owned.iter().any(|owned| owned == name) && self.share.specs.iter().any(|spec| spec.name == name)
    }

    /// Answers calls; the outputs come back in the calls' order.
    async fn act(&mut self, calls: &[RawCall], teller: &Teller) -> Vec<String> {
        let sandbox = &self.agent.desk.sandbox;
        let interpreter = self.interpreter.get_or_insert_with(|| match &self.session {
            Some(session) => session.interpreter(sandbox, &self.restored.messages),
            None => sandbox.interpreter(),
        });
        let workbench = Workbench {
            desk: &self.agent.desk,
            who: &self.who,
            policy: &self.policy,
            round: self.budget.round(),
            begun: self.budget.begun(),
            failing: &self.failing,
            outcomes: &self.outcomes,
            teller,
        };
        let answers = workbench.answer_all(calls, interpreter).await;
        let all_failed = answers.iter().all(|answer| answer.execution.status != Status::Completed);
        self.budget.count_errors(all_failed);
        if !all_failed {
            self.failing.clear();
        }
        for (call, answer) in calls.iter().zip(&answers) {
            if answer.ran && answer.execution.status != Status::Completed {
                self.failing.push(call.clone());
            }
        }
        answers.into_iter().map(|answer| answer.execution.output).collect()
    }

    /// A message that the model sees and the client does not.
    fn push(&mut self, message: String) {
        self.hidden.message(&message);
        self.ask.push(message);
    }

    /// Gives the client its calls. What the message and the turn held besides them is kept for its next request.
    async fn hand_over(
        &mut self,
        heard: &Heard,
        ours: &[RawCall],
        outputs: Vec<String>,
        theirs: Vec<RawCall>,
        teller: &Teller,
    ) {
        if !ours.is_empty() || !self.hidden.is_empty() {
            self.hidden.message(&transcript::assistant(&heard.text, &heard.reasoning, &heard.calls));
            let mut outputs = outputs.into_iter();
            for call in &heard.calls {
                if self.is_clients(&call.name) {
                    self.hidden.result_of(call);
                } else if let Some(output) = outputs.next() {
                    self.hidden.message(&transcript::result(call, &output));
                }
            }
            let hidden = std::mem::take(&mut self.hidden);
            let before = self.restored.trail.seen();
            hidden.keep_as_calls(&theirs, before, &self.who.caller, &self.agent.memory).await;
        }
        teller.tell(Event::ClientCalls(theirs)).await;
    }

    /// A model call without calls. An empty answer is asked for once more: clients send such a turn again.
    async fn answered(&mut self, mut heard: Heard, teller: &Teller) -> Result<Ending, Failure> {
        if !heard.is_empty() {
            self.show_why_nothing(&mut heard, teller).await;
            self.keep(&heard).await;
            return Ok(self.ending(heard.finish, heard.usage, Stop::Final));
        }
        self.last_words(Stop::Final, teller).await
    }

    /// One model call that can only answer, so that the user gets words whatever happened before.
    async fn last_words(&mut self, stop: Stop, teller: &Teller) -> Result<Ending, Failure> {
        self.ask.body.set("tool_choice", r#""none""#);
        let mut heard = self.listen(teller).await?;
        if heard.text.trim().is_empty() && heard.finish != Finish::Length {
            let text = words::instead_of_an_answer(self.last_output.as_deref());
            self.show(text, &mut heard, teller).await;
        }
        self.show_why_nothing(&mut heard, teller).await;
        self.keep(&heard).await;
        let finish = if heard.finish == Finish::ToolCalls { Finish::Stop } else { heard.finish };
        Ok(self.ending(finish, heard.usage, stop))
    }

    async fn show_why_nothing(&mut self, heard: &mut Heard, teller: &Teller) {
        if let Some(why) = self.shown.why_nothing(heard.finish) {
            self.show(why.to_owned(), heard, teller).await;
        }
    }

    async fn show(&mut self, text: String, heard: &mut Heard, teller: &Teller) {
        heard.text.push_str(&text);
        teller.tell(Event::Text(self.shown.add(text))).await;
    }

    /// Keeps the hidden part of a turn that ends in this answer.
    async fn keep(&mut self, answer: &Heard) {
        if self.hidden.is_empty() {
            return;
        }
        self.hidden.message(&transcript::assistant(&answer.text, &answer.reasoning, &[]));
        let seen = self.restored.trail.answered(self.shown.text());
        std::mem::take(&mut self.hidden).keep_as_answer(seen, &self.who.caller, &self.agent.memory).await;
    }

    fn ending(&self, finish: Finish, usage: Usage, stop: Stop) -> Ending {
        Ending {
            finish,
            usage,
            usage_total: self.budget.usage_total(),
            rounds: self.budget.round(),
            stop,
            restored: self.restored.turns,
            backend: self.backend.clone().unwrap_or_default(),
        }
    }
}
