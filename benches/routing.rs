//! The balance policies on modelled servers, against the bars that the default has to clear: `make simulate`.

use loopgate::backend::balance::ALL;
use loopgate::simulate::{Scenario, table};
use std::process::ExitCode;

const SEEDS: [u64; 3] = [1, 2, 3];
/// Where everybody's conversation fits into the caches, affinity is all there is to win.
const ALL_FIT: usize = 24;
/// Conversations of 1.1, 1.5 and 2.2 times what the caches hold.
const TOO_MANY: [usize; 3] = [48, 64, 96];
/// At 64 sessions, for every seed.
const TURNS_MIN: u64 = 4_500;

#[expect(clippy::print_stdout, reason = "a bench speaks through it")]
fn main() -> ExitCode {
    let mut missed = Vec::new();
    for sessions in [ALL_FIT].into_iter().chain(TOO_MANY) {
        let rows: Vec<_> = ALL.iter().map(|policy| Scenario::default().run(policy, sessions, &SEEDS)).collect();
        println!("{}", table(&rows));
        for (at, seed) in SEEDS.iter().enumerate() {
            let turns = rows[0].runs[at].turns;
            let best = rows[1..].iter().map(|row| row.runs[at].turns).max().unwrap_or_default();
            let mut bar = |cleared: bool, wanted: String| {
                if !cleared {
                    missed.push(format!("{sessions} sessions, seed {seed}: {turns} turns, wanted {wanted}"));
                }
            };
            if sessions == ALL_FIT {
                bar(turns * 100 >= best * 99, format!("99 % of {best}"));
            } else {
                bar(turns > best, format!("more than {best}"));
            }
            if sessions == 64 {
                bar(turns >= TURNS_MIN, TURNS_MIN.to_string());
            }
        }
    }
    for line in &missed {
        println!("missed: {line}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
