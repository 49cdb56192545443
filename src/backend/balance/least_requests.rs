//! The backend with the fewest requests under way for its weight; among equals, each in turn.

use super::{Balance, Candidate, Moment, Policy, Request};
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) const POLICY: Policy = Policy {
    name: "least-requests",
    what: "the backend with the fewest requests under way; equals take turns",
    make: |_| Box::new(LeastRequests { turn: AtomicUsize::new(0) }),
    reads: false,
    admits: false,
};

struct LeastRequests {
    turn: AtomicUsize,
}

impl Balance for LeastRequests {
    fn pick(&self, _: &Request, candidates: &[Candidate], _: Moment) -> usize {
        let offset = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len();
        (0..candidates.len())
            .map(|step| (step + offset) % candidates.len())
            .min_by(|left, right| candidates[*left].crowd().total_cmp(&candidates[*right].crowd()))
            .unwrap_or(0)
    }
}
