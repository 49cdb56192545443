//! The loop, once: listen to the model, act on its calls, keep the budget, end cleanly.
//!
//! Nothing here knows a dialect, a status code or a metric. What happens is told as [`Event`]s; whoever drops the
//! [`Events`] stops the turn with everything that belongs to it.

mod bench;
mod desk;
mod events;
mod plan;
mod transcript;
mod turn;

pub use desk::{Desk, Done};
pub use events::Events;
pub use turn::Turn;

use crate::backend::Pool;
use crate::calls;
use crate::chat::{Ask, Failure};
use crate::memory::Memory;
use crate::record::Who;
use std::sync::Arc;

/// Everything a turn works with. A turn keeps the one it began with.
pub struct Agent {
    /// The backends.
    pub pool: Arc<Pool>,
    /// Where calls are answered.
    pub desk: Arc<Desk>,
    /// How calls look in text, when a backend's own parser is off.
    pub parser: &'static calls::Parser,
    /// What outlives a turn.
    pub memory: Arc<Memory>,
}

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
        let model = self.pool.resolve(&ask.model)?;
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
}
