//! `loopgate bench serve --scenario`: runs against scripted servers of our own.

use super::serve::{Flags, page_of, progress};
use crate::bench::serve::scenario::{self, Pair};
use crate::bench::serve::{Group, Report, compare};
use crate::cli::measuring::until_told;
use crate::cli::{Failed, write_files};
use std::process::ExitCode;

/// The cookbook's runs take about a minute then. Chosen.
const SPEED: f64 = 10.0;

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Scenario {
    /// 10 requests one by one, 80 with 16 at once, 320 with 64
    Cookbook,
    /// The bench's own cost, against its bars
    Cost,
}

/// The cookbook's runs, each in two columns.
pub(super) fn cookbook(flags: &Flags) -> Result<ExitCode, Failed> {
    let speed = flags.speed.unwrap_or(SPEED);
    let model = format!("the model of 8 MI300X, its times divided by {speed}");
    eprintln!("{model}; --speed 1 is as in life");
    let begins = |name: &str, requests| {
        eprintln!("{requests} requests, {name}");
        progress(name, requests)
    };
    let pairs = until_told(async |stop| {
        scenario::cookbook(speed, stop, begins).await.map_err(|broken| Failed::Other(broken.to_string()))
    })?;
    let columns = ["direct", "gateway"];
    for pair in &pairs {
        say!("\n{} requests, {} at once ({model})", pair.prompts, pair.at_once);
        match &pair.gateway {
            Some(gateway) => say!("{}", compare(columns, [&pair.direct, gateway])),
            None => say!("direct; stopped before the run through the gateway\n{}", pair.direct),
        }
        print_failures(&pair.direct);
        pair.gateway.iter().for_each(print_failures);
    }
    let groups = pairs.iter().map(|pair| Group {
        title: format!("{} requests, {} at once", pair.prompts, pair.at_once),
        reports: [Some(&pair.direct), pair.gateway.as_ref()]
            .into_iter()
            .zip(columns)
            .filter_map(|(report, column)| Some((column, report?)))
            .collect(),
    });
    let groups: Vec<_> = groups.collect();
    write_files(page_of(flags, &format!("The cookbook's runs on {model}"), &groups))?;
    let whole = |pair: &Pair| pair.direct.is_whole() && pair.gateway.as_ref().is_some_and(Report::is_whole);
    let whole = pairs.len() == scenario::RUNS.len() && pairs.iter().all(whole);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the bench costs.
pub(super) fn cost(flags: &Flags) -> Result<ExitCode, Failed> {
    if flags.html.is_some() || flags.speed.is_some() {
        return Err(Failed::Usage("--html and --speed are for --scenario cookbook".to_owned()));
    }
    let (report, cost) = until_told(async |stop| {
        let cost = scenario::cost(stop, |requests| progress("", requests)).await;
        cost.map_err(|broken| Failed::Other(broken.to_string()))
    })?;
    say!("{report}");
    print_failures(&report);
    say!("\n{cost}");
    Ok(if cost.met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_failures(report: &Report) {
    let failures = report.failures();
    if !failures.is_empty() {
        say!("{failures}");
    }
}
