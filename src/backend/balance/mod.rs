//! Which of the backends that could take a request gets it.
//!
//! A policy only picks. Counting requests, health and models are the pool's; it offers none but live candidates.

mod least_requests;

/// A backend that could take the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the pool.
    pub index: usize,
    /// Requests it is working on for this gateway.
    pub in_flight: usize,
}

/// A balance policy: small, synchronous, and shared by all requests.
pub trait Balance: Send + Sync {
    /// Picks one of `candidates`, by its position in the slice. There is always at least one.
    fn pick(&self, candidates: &[Candidate]) -> usize;
}

/// A policy's row: everything that knows the policies reads this table.
pub struct Policy {
    /// Its name in config, metrics and docs.
    pub name: &'static str,
    /// One line for `--help`.
    pub what: &'static str,
    /// Makes one, for one pool.
    pub make: fn() -> Box<dyn Balance>,
}

/// All policies; the first is the default.
pub static ALL: &[Policy] = &[least_requests::POLICY];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_picks_one_of_its_candidates_and_leaves_none_out() {
        for policy in ALL {
            let balance = (policy.make)();
            for count in 1..5 {
                let candidates: Vec<_> = (0..count).map(|index| Candidate { index, in_flight: 0 }).collect();
                let mut picked = vec![0; count];
                for _ in 0..20 * count {
                    picked[balance.pick(&candidates)] += 1;
                }
                assert!(picked.iter().all(|times| *times > 0), "{}: {picked:?}", policy.name);
            }
        }
    }
}
