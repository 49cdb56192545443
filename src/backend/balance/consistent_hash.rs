//! Each session has its backend, for as long as it is there: the one for which the session draws the best lot.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998) with weights. When a backend goes, only its own sessions move, and
//! they spread over all others; when it is back, they return. All gateways agree, since a lot depends on nothing but the
//! session's key and the backend's address.

use super::lots::{mix, unit};
use super::{Balance, Candidate, Moment, Policy, Request};

pub(super) const POLICY: Policy = Policy {
    name: "consistent-hash",
    what: "always the same backend for a session, while it is up",
    make: |_| Box::new(ConsistentHash),
    reads: true,
    admits: false,
};

struct ConsistentHash;

impl Balance for ConsistentHash {
    fn pick(&self, request: &Request, candidates: &[Candidate], _: Moment) -> usize {
        // Who sends no key is known by how the conversation began.
        let session = request.session.unwrap_or_else(|| request.prefix.opening());
        let lots = candidates.iter().map(|candidate| {
            let lot = unit(mix(session ^ mix(candidate.key)));
            // The least of exponential variables, each with its weight as rate, is each one's by weight.
            -(1.0 - lot).ln() / candidate.weight
        });
        lots.enumerate().min_by(|left, right| left.1.total_cmp(&right.1)).map_or(0, |(at, _)| at)
    }
}
