//! `loopgate simulate`: which balance policy does what, without a server.

use super::Failed;
use crate::backend::balance::{self, Policy};
use crate::simulate::{self, Scenario, WARM_UP, bars};
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

/// Seconds that are simulated. Chosen: a run of a week takes minutes.
const SECONDS_MAX: u64 = 7 * 24 * 3600;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// How many SGLang servers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    backends: u16,
    /// Tokens of each one's KV cache (`max_total_num_tokens`); a conversation has up to 124,000
    #[arg(long, value_name = "N", default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(130_000..))]
    kv_tokens: u32,
    /// Coding sessions at a time; several numbers make a table
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [24, 48, 64, 96],
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    sessions: Vec<u16>,
    /// How long, in simulated seconds
    #[arg(long, value_name = "N", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
    /// Seeds of the sessions' random numbers: a run for each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 3])]
    seed: Vec<u64>,
    /// A balance policy, or all
    #[arg(long, value_name = "NAME", default_value = "all")]
    balance: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Hold the default policy to its bars: exit with 1 if it misses one
    #[arg(long, conflicts_with_all = ["backends", "kv_tokens", "sessions", "seconds", "seed", "balance", "json"])]
    check: bool,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let policies = policies(&flags.balance)?;
    let scenario = Scenario {
        backends: flags.backends.into(),
        kv_tokens: flags.kv_tokens,
        time: Duration::from_secs(flags.seconds),
    };
    let sizes = flags.sessions.iter().map(|sessions| usize::from(*sessions));
    let rows: Vec<_> = sizes
        .flat_map(|sessions| policies.iter().map(move |policy| (sessions, *policy)))
        .map(|(sessions, policy)| scenario.run(policy, sessions, &flags.seed))
        .collect();
    if flags.json {
        let rows = serde_json::to_string_pretty(&rows).map_err(|error| Failed::Other(error.to_string()))?;
        say!("{rows}");
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "{} servers with {} KV tokens each; {} s, of which the first {:.0} s are not counted\n",
        flags.backends,
        flags.kv_tokens,
        flags.seconds,
        scenario.time.mul_f64(WARM_UP).as_secs_f64()
    );
    say!("{}", simulate::table(&rows).trim_end());
    let missed = if flags.check { bars::missed(&rows) } else { Vec::new() };
    for bar in &missed {
        say!("missed: {bar}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn policies(name: &str) -> Result<Vec<&'static Policy>, Failed> {
    let named: Vec<_> = balance::ALL.iter().filter(|policy| name == "all" || policy.name == name).collect();
    if named.is_empty() {
        let known: Vec<_> = balance::ALL.iter().map(|policy| policy.name).collect();
        return Err(Failed::Usage(format!("unknown balance policy `{name}`; known: all, {}", known.join(", "))));
    }
    Ok(named)
}
