//! Any backend, as often as its weight says.

use super::lots::Lots;
use super::{Balance, Candidate, Moment, Policy, Request};

pub(super) const POLICY: Policy = Policy {
    name: "random",
    what: "any backend, by weight",
    make: |seed| Box::new(Random { lots: Lots::new(seed) }),
    reads: false,
    admits: false,
};

struct Random {
    lots: Lots,
}

impl Balance for Random {
    fn pick(&self, _: &Request, candidates: &[Candidate], _: Moment) -> usize {
        draw(&self.lots, candidates)
    }
}

/// One of them, by weight.
pub(super) fn draw(lots: &Lots, candidates: &[Candidate]) -> usize {
    let all: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut left = lots.unit() * all;
    let chosen = candidates.iter().position(|candidate| {
        left -= candidate.weight;
        left < 0.0
    });
    // Rounding may leave nothing for the last one.
    chosen.unwrap_or(candidates.len() - 1)
}
