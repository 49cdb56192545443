//! What the default balance policy is for: `make simulate` prints what this test holds it to.

use loopgate::backend::balance::ALL;
use loopgate::simulate::{Scenario, bars};

/// Those of `loopgate simulate`.
const SEEDS: [u64; 3] = [1, 2, 3];

#[test]
fn the_default_policy_clears_its_bars_with_every_seed() {
    for sessions in bars::SESSIONS {
        let rows: Vec<_> = ALL.iter().map(|policy| Scenario::default().run(policy, sessions, &SEEDS)).collect();
        assert_eq!(rows[0].policy, "least-wait");
        let turns = |row: &loopgate::simulate::Row| row.runs.iter().map(|run| run.turns).collect::<Vec<_>>();
        let turns: Vec<_> = rows.iter().map(|row| (row.policy, turns(row))).collect();
        assert_eq!(bars::missed(&rows), [""; 0], "{sessions} sessions: {turns:?}");
    }
}
