//! What callers are still to be told of: sessions that ended against their will, or lost something.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Sessions of one caller whose loss is remembered, so that their next request is told of it. Chosen. What a caller loses
/// beyond that costs its own oldest ones, and nobody else's.
const OWN_MAX: usize = 10_000;

/// The losses of all callers. There are as many callers as the configuration names.
#[derive(Default)]
pub(super) struct Lost(HashMap<Arc<str>, Own>);

/// Those of one caller.
#[derive(Default)]
struct Own {
    /// When each was lost, as a number that grows.
    when: HashMap<Arc<str>, u64>,
    in_order: BTreeMap<u64, Arc<str>>,
    next: u64,
}

impl Lost {
    pub fn has(&self, caller: &str, name: &str) -> bool {
        self.0.get(caller).is_some_and(|own| own.when.contains_key(name))
    }

    pub fn add(&mut self, caller: &Arc<str>, name: &Arc<str>) {
        let own = self.0.entry(Arc::clone(caller)).or_default();
        own.remove(name);
        own.when.insert(Arc::clone(name), own.next);
        own.in_order.insert(own.next, Arc::clone(name));
        own.next += 1;
        if own.when.len() > OWN_MAX
            && let Some((_, oldest)) = own.in_order.pop_first()
        {
            own.when.remove(&oldest);
        }
    }

    pub fn remove(&mut self, caller: &str, name: &str) {
        if let Some(own) = self.0.get_mut(caller) {
            own.remove(name);
            if own.when.is_empty() {
                self.0.remove(caller);
            }
        }
    }
}

impl Own {
    fn remove(&mut self, name: &str) {
        if let Some(when) = self.when.remove(name) {
            self.in_order.remove(&when);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_caller_loses_has_no_other_forget() {
        let [alice, bob]: [Arc<str>; 2] = ["alice".into(), "bob".into()];
        let mut lost = Lost::default();
        lost.add(&alice, &"mine".into());
        for number in 0..=OWN_MAX {
            lost.add(&bob, &number.to_string().into());
        }
        assert!(lost.has("alice", "mine") && !lost.has("bob", "mine"));
        assert!(!lost.has("bob", "0") && lost.has("bob", "1") && lost.has("bob", &OWN_MAX.to_string()));
    }

    #[test]
    fn the_last_loss_of_a_session_counts_and_what_was_told_is_gone() {
        let alice: Arc<str> = "alice".into();
        let mut lost = Lost::default();
        for name in ["a", "b", "a"] {
            lost.add(&alice, &name.into());
        }
        assert_eq!(lost.0["alice"].in_order.values().map(|name| &**name).collect::<Vec<_>>(), ["b", "a"]);
        lost.remove("alice", "a");
        assert!(!lost.has("alice", "a") && lost.has("alice", "b"));
        lost.remove("alice", "b");
        lost.remove("alice", "b");
        assert!(lost.0.is_empty());
    }
}
