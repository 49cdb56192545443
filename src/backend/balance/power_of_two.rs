//! Two backends by lot, and of these the one with fewer requests under way for its weight.

use super::lots::Lots;
use super::{Balance, Candidate, Moment, Policy, Request, random};

pub(super) const POLICY: Policy = Policy {
    name: "power-of-two",
    what: "of two backends drawn by lot the one with fewer requests under way",
    make: |seed| Box::new(PowerOfTwo { lots: Lots::new(seed) }),
    reads: false,
    admits: false,
};

struct PowerOfTwo {
    lots: Lots,
}

impl Balance for PowerOfTwo {
    fn pick(&self, _: &Request, candidates: &[Candidate], _: Moment) -> usize {
        let first = random::draw(&self.lots, candidates);
        if candidates.len() == 1 {
            return first;
        }
        let others = [&candidates[..first], &candidates[first + 1..]].concat();
        let second = random::draw(&self.lots, &others);
        let second = second + usize::from(second >= first);
        if candidates[second].crowd() < candidates[first].crowd() { second } else { first }
    }
}
