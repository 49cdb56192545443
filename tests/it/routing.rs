//! What the default balance policy is for: `make simulate` holds all of it, this test the part that takes seconds.

use loopgate::backend::balance::ALL;
use loopgate::simulate::{Scenario, bars};

#[test]
fn the_default_policy_clears_its_bars_with_the_first_seed() {
    for sessions in [24, 64] {
        let rows: Vec<_> = ALL.iter().map(|policy| Scenario::default().run(policy, sessions, &[1])).collect();
        assert_eq!(rows[0].policy, "least-wait");
        assert!(bars::SESSIONS.contains(&sessions));
        let turns: Vec<_> = rows.iter().map(|row| (row.policy, row.runs[0].turns)).collect();
        assert_eq!(bars::missed(&rows), [""; 0], "{sessions} sessions: {turns:?}");
    }
}
