//! What the default balance policy is for: `make simulate` holds all of it, this test the part that takes seconds.

use loopgate::backend::balance::ALL;
use loopgate::simulate::Scenario;

#[test]
fn least_wait_completes_more_turns_than_any_other_when_the_sessions_do_not_fit() {
    let turns: Vec<_> =
        ALL.iter().map(|policy| (policy.name, Scenario::default().run(policy, 64, &[1]).turns())).collect();
    let (first, others) = turns.split_first().expect("policies");
    assert_eq!(first.0, "least-wait");
    assert!(first.1 >= 4_500, "{turns:?}");
    assert!(others.iter().all(|other| other.1 < first.1), "{turns:?}");
}

#[test]
fn where_all_sessions_fit_least_wait_is_as_good_as_the_best() {
    let turns: Vec<_> =
        ALL.iter().map(|policy| (policy.name, Scenario::default().run(policy, 24, &[1]).turns())).collect();
    let best = turns.iter().map(|(_, turns)| *turns).max().expect("policies");
    assert!(turns[0].1 * 100 >= best * 99, "{turns:?}");
}
