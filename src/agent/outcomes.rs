//! What a turn's calls came to, and what those of an earlier sending of the same request came to: what was run once is
//! not run again.

use crate::chat::{Execution, RawCall};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The outcomes of calls that were run, each for one call. Shared by a turn and by whoever learns that its request was
/// sent before.
#[derive(Debug, Default)]
pub struct Outcomes(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// Of an earlier sending, for calls that were not made again yet.
    inherited: Vec<Execution>,
    /// Of this one, the inherited ones that it used among them.
    own: Vec<Execution>,
    /// A call of this turn's own has begun.
    sealed: bool,
}

impl Outcomes {
    /// A turn's that begins with these outcomes, in the order in which they came about.
    pub fn inheriting(inherited: Vec<Execution>) -> Self {
        Self(Mutex::new(Entries { inherited, ..Entries::default() }))
    }

    /// An earlier sending turns out to have these outcomes. Too late for a turn that has run a call of its own: names in
    /// its interpreter would contradict them.
    pub fn inherit_late(&self, outcomes: Vec<Execution>) {
        let mut entries = self.entries();
        if !entries.sealed {
            entries.inherited.extend(outcomes);
        }
    }

    /// The outcome of this very call, which no later call can have. Without one, the call is about to run.
    pub(super) fn take(&self, call: &RawCall) -> Option<Execution> {
        let mut entries = self.entries();
        let same = |known: &Execution| known.name == call.name && known.arguments == call.arguments;
        let Some(at) = entries.inherited.iter().position(same) else {
            entries.sealed = true;
            return None;
        };
        let execution = entries.inherited.remove(at);
        entries.own.push(execution.clone());
        Some(execution)
    }

    /// A call has run and was written down.
    pub(super) fn ran(&self, execution: Execution) {
        self.entries().own.push(execution);
    }

    /// All outcomes: for the same request, should it come again.
    pub fn all(&self) -> Vec<Execution> {
        let entries = self.entries();
        entries.own.iter().chain(&entries.inherited).cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // The lists are whole after every statement, so a panic elsewhere cannot have broken them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &str) -> RawCall {
        RawCall { id: "a".to_owned(), name: "execute_code".to_owned(), arguments: arguments.to_owned() }
    }

    fn ran(arguments: &str, output: &str) -> Execution {
        Execution { output: output.to_owned(), ..Execution::of(&call(arguments)) }
    }

    fn outputs(outcomes: &Outcomes) -> Vec<String> {
        outcomes.all().into_iter().map(|outcome| outcome.output).collect()
    }

    #[test]
    fn an_outcome_is_for_one_call_and_equal_calls_get_theirs_in_order() {
        let outcomes = Outcomes::inheriting(vec![ran("x", "1"), ran("y", "2"), ran("x", "3")]);
        let took = |arguments| outcomes.take(&call(arguments)).map(|it| it.output);
        assert_eq!(took("x").as_deref(), Some("1"));
        assert_eq!(took("x").as_deref(), Some("3"));
        assert_eq!(took("x"), None);
        assert_eq!(outputs(&outcomes), ["1", "3", "2"], "the used ones first, none is lost");
    }

    #[test]
    fn what_comes_late_counts_until_a_call_of_its_own_has_begun() {
        let outcomes = Outcomes::default();
        outcomes.inherit_late(vec![ran("x", "1"), ran("y", "2")]);
        assert!(outcomes.take(&call("x")).is_some());
        outcomes.inherit_late(vec![ran("z", "3")]);
        assert!(outcomes.take(&call("z")).is_some());
        assert!(outcomes.take(&call("own")).is_none());
        outcomes.ran(ran("own", "4"));
        outcomes.inherit_late(vec![ran("late", "5")]);
        assert!(outcomes.take(&call("late")).is_none());
        assert_eq!(outputs(&outcomes), ["1", "3", "4", "2"]);
    }
}
