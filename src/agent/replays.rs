//! Outcomes of calls that an earlier sending of the same request had run: what was run once is not run again.

use crate::chat::{Execution, RawCall};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The outcomes, each for one call. Shared by a turn and by whoever learns that the same request was sent before.
#[derive(Debug, Default)]
pub struct Replays(Mutex<Vec<Execution>>);

impl Replays {
    /// More outcomes, in the order in which they came about.
    pub fn add(&self, more: impl IntoIterator<Item = Execution>) {
        self.outcomes().extend(more);
    }

    /// The outcome of this very call, which no later call can have.
    pub(super) fn take(&self, call: &RawCall) -> Option<Execution> {
        let mut outcomes = self.outcomes();
        let at = outcomes.iter().position(|known| known.name == call.name && known.arguments == call.arguments)?;
        Some(outcomes.remove(at))
    }

    /// What no call has asked for.
    pub fn left(&self) -> Vec<Execution> {
        std::mem::take(&mut *self.outcomes())
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<Execution>> {
        // The list is whole after every statement, so a panic elsewhere cannot have broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
