//! The backend with the fewest requests under way; among equals, each in turn.

use super::{Balance, Candidate, Policy};
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) const POLICY: Policy = Policy {
    name: "least-requests",
    what: "the backend with the fewest requests under way; equals take turns",
    make: || Box::new(LeastRequests { turn: AtomicUsize::new(0) }),
};

struct LeastRequests {
    turn: AtomicUsize,
}

impl Balance for LeastRequests {
    fn pick(&self, candidates: &[Candidate]) -> usize {
        let offset = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len();
        (0..candidates.len())
            .map(|step| (step + offset) % candidates.len())
            .min_by_key(|position| candidates[*position].in_flight)
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idlest_backend_is_picked() {
        let balance = (POLICY.make)();
        let candidates = [(0, 3), (1, 1), (2, 2)].map(|(index, in_flight)| Candidate { index, in_flight });
        for _ in 0..5 {
            assert_eq!(balance.pick(&candidates), 1);
        }
    }
}
