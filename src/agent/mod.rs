//! The loop, once: listen to the model, act on its calls, keep the budget, end cleanly.
//!
//! Nothing here knows a dialect, a status code or a metric. What happens is told as [`Event`]s; whoever drops the
//! [`Events`] stops the turn with everything that belongs to it.

mod bench;
mod desk;
mod events;
mod history;
mod plan;
mod replays;
mod transcript;
mod turn;
mod visible;

pub use desk::{Desk, Done};
pub use events::Events;
pub use replays::Replays;
pub use turn::Turn;

use crate::backend::Pool;
use crate::calls;
use crate::chat::{Ask, Execute, Failure};
use crate::memory::Memory;
use crate::record::Who;
use std::sync::Arc;

/// Everything a turn works with. A turn keeps the one it began with.
pub struct Agent {
    /// The backends.
    pub pool: Arc<Pool>,
    /// Where calls are answered.
    pub desk: Arc<Desk>,
    /// What clients do not send back.
    pub memory: Arc<Memory>,
    /// How calls look in text, when a backend's own parser is off.
    pub parser: &'static calls::Parser,
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
    /// Decides what becomes of a request: which tools are the gateway's, and whether any are.
    ///
    /// # Errors
    /// When no backend can answer it, or it asks for what the gateway cannot do.
    pub fn plan(self: &Arc<Self>, who: Who, mut ask: Ask) -> Result<Plan, Failure> {
        let policy = self.desk.policies.of(&who.caller).clone();
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
        Ok(Plan::Act(Box::new(Turn::new(self.clone(), who, policy, ask, model, share))))
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
