//! What the default policy promises: as good as the best where all conversations fit into the caches, ahead of every other
//! where they do not.

use super::Row;

/// Sessions at a time for which the bars stand: of 0.6, 1.1, 1.5 and 2.2 times what the caches hold.
pub const SESSIONS: [usize; 4] = [24, 48, 64, 96];
/// Here everything fits…
const ALL_FIT: usize = SESSIONS[0];
/// …and the default completes as many turns as the best, but for so many in a hundred.
const BEHIND_PERCENT_MAX: u64 = 1;
/// Here it is known how many turns can be completed at least.
const KNOWN: usize = SESSIONS[2];
const TURNS_MIN: u64 = 4_500;

/// The bars that rows of the default scenario miss, for every seed apart. The default policy's come first.
pub fn missed(rows: &[Row]) -> Vec<String> {
    let mut missed = Vec::new();
    let (defaults, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.policy == rows[0].policy);
    for row in defaults {
        for (at, run) in row.runs.iter().enumerate() {
            let same = others.iter().filter(|other| other.sessions == row.sessions);
            let best = same.map(|other| other.runs[at].turns).max().unwrap_or_default();
            let mut wanted = if row.sessions == ALL_FIT { best * (100 - BEHIND_PERCENT_MAX) / 100 } else { best + 1 };
            if row.sessions == KNOWN {
                wanted = wanted.max(TURNS_MIN);
            }
            if run.turns < wanted {
                let (policy, sessions, turns) = (row.policy, row.sessions, run.turns);
                let nth = at + 1;
                missed.push(format!("{policy}, {sessions} sessions, run {nth}: {turns} turns, wanted {wanted}"));
            }
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::super::report::Measured;
    use super::*;

    fn row(policy: &'static str, sessions: usize, turns: u64) -> Row {
        let mut run = Measured::new(1);
        for _ in 0..turns {
            run.turn(0, 1, 0);
        }
        Row { policy, sessions, runs: vec![run] }
    }

    #[test]
    fn a_bar_is_missed_by_being_behind() {
        for (sessions, turns, other, cleared) in [
            (24, 1_000, 1_010, true),
            (24, 1_000, 1_020, false),
            (48, 1_000, 999, true),
            (48, 1_000, 1_000, false),
            (64, 4_500, 1_000, true),
            (64, 4_499, 1_000, false),
            (96, 1_000, 999, true),
        ] {
            let missed = missed(&[row("default", sessions, turns), row("other", sessions, other)]);
            assert_eq!(missed.is_empty(), cleared, "{sessions} sessions, {turns} against {other}: {missed:?}");
        }
    }
}
