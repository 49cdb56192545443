//! The loop, once: listen to the model, act on its calls, keep the budget, end cleanly. And a call without a model.
//!
//! Nothing here knows a dialect, a status code or a metric. What happens is told as [`Event`]s; whoever drops the
//! [`Events`] stops the turn with everything that belongs to it.

mod arguments;
mod budget;
mod desk;
mod events;
mod history;
mod live;
mod outcomes;
mod plan;
mod remembered;
mod script;
mod session;
mod transcript;
mod turn;
mod visible;
mod words;
mod workbench;
mod workspace;

pub use desk::{Desk, Done};
pub use events::Events;
pub use outcomes::Outcomes;
pub use script::{Run, Script, Told};
pub use turn::Turn;

use crate::access::Caller;
use crate::backend::{Model, Pool};
use crate::calls;
use crate::chat::{Ask, Execute, Failure};
use crate::memory::{Counts, Memory};
use crate::policy::Policies;
use crate::record::Who;
use crate::tools::Tools;
use session::Session;
use std::sync::Arc;
use std::time::Duration;

/// When one should look again who finds every interpreter, or a session, in use. Chosen: most programs are over by then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Everything a turn works with. A turn keeps the one it began with.
pub struct Agent {
    /// The backends.
    pool: Arc<Pool>,
    /// Where calls are answered.
    desk: Arc<Desk>,
    /// What clients do not send back.
    memory: Arc<Memory>,
    /// How calls look in text, when a backend's own parser is off.
    parser: &'static calls::Parser,
}

/// What can follow a model's name, for clients that let their users choose a model and nothing else.
pub const MODEL_SUFFIXES: &[(&str, Execute)] = &[("+code", Execute::Gateway), ("+plain", Execute::Off)];

/// What becomes of a request.
pub enum Plan {
    /// The gateway can act on it.
    Act(Box<Turn>),
    /// It cannot: the request goes to a backend as it is.
    Forward {
        /// The request.
        ask: Box<Ask>,
        /// The backends' name of the model.
        model: String,
    },
}

impl Agent {
    /// One that asks these backends, answers calls at this desk, and finds them in text with this parser.
    pub fn new(pool: Arc<Pool>, desk: Desk, memory: Memory, parser: &'static calls::Parser) -> Self {
        Self { pool, desk: Arc::new(desk), memory: Arc::new(memory), parser }
    }

    /// The same with other tools, other policies and another parser.
    #[must_use]
    pub fn reloaded(&self, tools: Tools, policies: Policies, parser: &'static calls::Parser) -> Self {
        let desk = Arc::new(self.desk.reloaded(tools, policies));
        Self { pool: self.pool.clone(), desk, memory: self.memory.clone(), parser }
    }

    /// What is remembered of conversations.
    pub fn remembered(&self) -> Counts {
        self.memory.counts()
    }

    /// Decides what becomes of a request: which tools are the gateway's, and whether any are.
    ///
    /// # Errors
    /// When no backend can answer it, or it asks for what the gateway cannot do.
    pub fn plan(self: &Arc<Self>, who: Who, mut ask: Ask, session: Option<&str>) -> Result<Plan, Failure> {
        let policy = self.desk.policies.of(&who.caller).clone();
        let session = session.map(|name| Session::named(name, &who.caller, &policy)).transpose()?;
        let (name, execute) = self.asked_model(&ask.model);
        ask.execute = ask.execute.or(execute);
        let model = self.pool.resolve(name)?;
        if model != ask.model {
            ask.body.set("model", serde_json::Value::from(model.as_str()).to_string());
        }
        let share = plan::share(&ask, &self.desk.tools, &policy)?;
        share.write(&mut ask);
        if share.owned.is_empty() {
            return Ok(Plan::Forward { ask: Box::new(ask), model });
        }
        Ok(Plan::Act(Box::new(Turn::new(self.clone(), who, policy, session, ask, model, share))))
    }

    /// Puts back what is hidden in the conversation of a request that is passed on: who has code run in one turn may do
    /// without in the next.
    pub async fn restore(&self, caller: &Caller, ask: &mut Ask) {
        // Reading a long conversation costs more than all else that is done for such a request.
        let nothing_to_find = ask.bare && self.memory.entries() == 0;
        if !nothing_to_find && self.may_run(caller) {
            history::restore(&mut ask.body, caller, &self.memory).await;
        }
    }

    /// How long a caller's client is kept waiting before its answer begins, and between two signs of life after that.
    pub fn patience(&self, caller: &Caller) -> (Duration, Duration) {
        self.desk.policies.of(caller).silence.waits()
    }

    /// Whether a caller may have any call run.
    fn may_run(&self, caller: &Caller) -> bool {
        self.desk.policies.of(caller).granted().next().is_some()
    }

    /// What a caller can ask for: the backends' models and, where it may have calls run, each with the name that asks for
    /// that. A name that asks for less than a policy gives is known, but not told: it would fill every list of models.
    pub fn models(&self, caller: &Caller) -> Vec<Model> {
        let mut models = self.pool.models();
        if self.may_run(caller) {
            let (suffix, _) = MODEL_SUFFIXES[0];
            let with_code = |model: &Model| Model { id: format!("{}{suffix}", model.id), ..model.clone() };
            models.extend(models.iter().map(with_code).collect::<Vec<_>>());
        }
        models
    }

    /// The model that is asked for by this name, which it keeps.
    pub fn model(&self, asked: &str) -> Option<Model> {
        let (name, _) = self.asked_model(asked);
        let model = self.pool.models().into_iter().find(|model| model.id == name)?;
        Some(Model { id: asked.to_owned(), ..model })
    }

    /// The model that a client means, and who runs calls, where it says so by the model's name. A backend's model or an
    /// alias that has such a name in full is just that.
    fn asked_model<'a>(&self, asked: &'a str) -> (&'a str, Option<Execute>) {
        for (suffix, execute) in MODEL_SUFFIXES {
            if let Some(name) = asked.strip_suffix(suffix)
                && !self.pool.models().iter().any(|model| model.id == asked)
            {
                return (name, Some(*execute));
            }
        }
        (asked, None)
    }
}
