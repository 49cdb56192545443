//! Each backend in its turn, as often as its weight says, and not several times in a row: nginx's smooth round robin.

use super::{BackendId, Balance, Candidate, Moment, Policy, Request};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) const POLICY: Policy = Policy {
    name: "round-robin",
    what: "each backend in its turn, by weight",
    make: |_| Box::new(RoundRobin::default()),
    reads: false,
    admits: false,
};

#[derive(Default)]
struct RoundRobin {
    /// What a backend is owed. It grows by the weight at every pick, and who is owed most is picked and pays for all.
    owed: Mutex<HashMap<BackendId, f64>>,
}

impl RoundRobin {
    fn owed(&self) -> MutexGuard<'_, HashMap<BackendId, f64>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balance for RoundRobin {
    fn pick(&self, _: &Request, candidates: &[Candidate], _: Moment) -> usize {
        let mut owed = self.owed();
        let (mut chosen, mut most, mut all) = (0, f64::MIN, 0.0);
        for (at, candidate) in candidates.iter().enumerate() {
            let owed = owed.entry(candidate.id).or_default();
            *owed += candidate.weight;
            all += candidate.weight;
            if *owed > most {
                (chosen, most) = (at, *owed);
            }
        }
        *owed.entry(candidates[chosen].id).or_default() -= all;
        chosen
    }

    fn restarted(&self, backend: BackendId) {
        self.owed().remove(&backend);
    }
}
