//! `loopgate bench serve`

use super::scenario::{self, Scenario};
use crate::bench::serve::{Backend, DataSet, Failed as Unmeasured, Group, Plan, Report, Tell, Totals, Wanted};
use crate::bench::serve::{compare, measure, page, totals};
use crate::cli::measuring::{self, print_found, until_told};
use crate::cli::server_flags::{ServerFlags, seconds};
use crate::cli::{Failed, write_files};
use crate::client::Patience;
use clap::Args;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Without the model's tokenizer.
const ESTIMATED: &str =
    "The lengths of prompts are estimates, about a token for a word or for four bytes: no --tokenizer was given";

#[derive(Args)]
pub(super) struct Flags {
    /// What is asked: SGLang's /generate, or /v1/chat/completions
    #[arg(long, value_enum, default_value = "sglang")]
    backend: Backend,
    #[command(flatten)]
    server: ServerFlags,
    /// What is asked
    #[arg(long, value_name = "NAME", value_enum, default_value = "random")]
    dataset_name: DataSet,
    /// Its file: a JSONL of requests, or for `random` a JSON list of conversations
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// The model's tokenizer.json, or its folder; without it lengths are estimates
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Send prompts as tokens (with --backend sglang and --tokenizer)
    #[arg(long)]
    tokenize_prompt: bool,
    /// Requests
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    num_prompts: u32,
    /// Requests at once [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_concurrency: Option<u32>,
    /// New requests a second, at times that are drawn; `inf`: all at once
    #[arg(long, value_name = "R", default_value = "inf", value_parser = rate)]
    request_rate: f64,
    /// Tokens of a prompt at most; of coding sessions what all begin with
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    random_input_len: u32,
    /// Tokens of an answer at most
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    random_output_len: u32,
    /// The least length as a part of the most, 0 to 1
    #[arg(long, value_name = "R", default_value = "0", value_parser = ratio)]
    random_range_ratio: f64,
    /// Of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Short requests before the first that counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    warmup_requests: u32,
    /// Seconds without a byte after which a request has failed [default: as --timeout]
    #[arg(long, value_name = "S", value_parser = seconds)]
    silence: Option<Duration>,
    /// Seconds after which a request has failed
    #[arg(long, value_name = "S", default_value = "21600", value_parser = seconds)]
    timeout: Duration,
    /// Write everything that was measured, as JSON; `-`: to stdout, in place of the block
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Start a scripted server and measure that: the cookbook's three runs, direct and through the gateway, or what this
    /// bench itself costs
    #[arg(long, value_enum, conflicts_with_all = ["backend", "base_url", "host", "port", "model", "api_key",
          "dataset_name", "dataset_path", "tokenizer", "tokenize_prompt", "num_prompts", "max_concurrency",
          "request_rate", "random_input_len", "random_output_len", "random_range_ratio", "seed", "warmup_requests",
          "silence", "timeout", "json", "dry_run"])]
    scenario: Option<Scenario>,
    /// For the cookbook's runs: divide all times of the modelled server by this; 1 is as in life, and takes twelve minutes
    /// [default: 10]
    #[arg(long, value_name = "N", requires = "scenario", value_parser = speed)]
    pub speed: Option<f64>,
    /// Ask nothing; print how much would be asked
    #[arg(long)]
    dry_run: bool,
    /// Measure nothing; compare two files that --json or SGLang's own benchmark has written
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], exclusive = true)]
    compare: Option<Vec<PathBuf>>,
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|speed| (1.0..=100.0).contains(speed)).ok_or_else(|| "write 1 to 100".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let is_rate = |rate: &f64| rate.is_infinite() || (0.0001..=1e6).contains(rate);
    text.parse()
        .ok()
        .filter(|rate| *rate > 0.0 && is_rate(rate))
        .ok_or_else(|| "write 0.0001 to 1000000, or inf".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "write 0 to 1".to_owned())
}

impl Flags {
    fn plan(&self) -> Result<Plan, Failed> {
        if let Some(wrong) = self.not_heeded() {
            return Err(Failed::Usage(wrong.to_owned()));
        }
        Ok(Plan {
            target: self.server.target(Patience { silent_max: self.silence, total_max: self.timeout })?,
            backend: self.backend,
            model: self.server.model.clone(),
            wanted: self.wanted(),
            at_once: self.max_concurrency.map(|most| most as usize),
            warm_ups: self.warmup_requests,
        })
    }

    /// What was asked for, but would have no effect here.
    fn not_heeded(&self) -> Option<&'static str> {
        let random = matches!(self.dataset_name, DataSet::Random | DataSet::RandomIds);
        [
            (self.speed.is_some(), "--speed is for --scenario cookbook"),
            (
                self.tokenize_prompt && self.backend != Backend::Sglang,
                "--tokenize-prompt: only --backend sglang takes tokens",
            ),
            (self.tokenize_prompt && self.tokenizer.is_none() && !random, "--tokenize-prompt needs --tokenizer FILE"),
            (
                self.tokenize_prompt && self.dataset_name == DataSet::CodingSessions,
                "--tokenize-prompt: coding sessions are conversations, which are sent as text",
            ),
            (
                self.dataset_path.is_some() && self.dataset_name == DataSet::CodingSessions,
                "--dataset-path: coding sessions are made up, not read",
            ),
            (
                self.dry_run && (self.json.is_some() || self.html.is_some()),
                "--dry-run measures nothing that --json or --html could be given",
            ),
        ]
        .into_iter()
        .find_map(|(is_so, why)| is_so.then_some(why))
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            data_set: self.dataset_name,
            path: self.dataset_path.clone(),
            prompts: self.num_prompts,
            input_len: self.random_input_len,
            output_len: self.random_output_len,
            range_ratio: self.random_range_ratio,
            seed: self.seed,
            tokenizer: self.tokenizer.clone(),
            as_ids: self.tokenize_prompt,
            request_rate: self.request_rate.is_finite().then_some(self.request_rate),
        }
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    if let Some([first, second]) = flags.compare.as_deref() {
        return compared(first, second);
    }
    match flags.scenario {
        Some(Scenario::Cookbook) => return scenario::cookbook(flags),
        Some(Scenario::Cost) => return scenario::cost(flags),
        None => {}
    }
    let plan = flags.plan()?;
    if flags.dry_run {
        let totals = totals(&plan.wanted).map_err(|error| Failed::Usage(error.to_string()))?;
        let Totals { requests, input_tokens, output_tokens } = totals;
        say!("#Requests: {requests}\n#Input tokens: {input_tokens}\n#Output tokens: {output_tokens}");
        if plan.wanted.tokenizer.is_none() {
            eprintln!("{ESTIMATED}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let url = plan.target.url();
    let report = until_told(async |stop| {
        let measured = measure(plan, stop, |requests| progress("", requests)).await;
        measured.map_err(|error| match error {
            Unmeasured::Data(error) => Failed::Usage(error.to_string()),
            error => Failed::Other(error.to_string()),
        })
    })?;
    let json = print_found(flags.json.as_deref(), &report.json(), shown(&report));
    let title = format!("{} requests to {url}", report.requests());
    let page = page_of(flags, &title, &[Group { title: String::new(), reports: vec![("", &report)] }]);
    write_files(page.into_iter().chain(json))?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compared(first: &Path, second: &Path) -> Result<ExitCode, Failed> {
    let read = |path: &Path| Report::read(path).map_err(|error| Failed::Usage(error.to_string()));
    let name =
        |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().chars().take(14).collect::<String>();
    say!("{}", compare([&name(first), &name(second)], [&read(first)?, &read(second)?]));
    Ok(ExitCode::SUCCESS)
}

/// What is to be written where --html says.
pub(super) fn page_of<'a>(
    flags: &'a Flags,
    title: &str,
    groups: &[Group<'_>],
) -> Option<(&'static str, &'a Path, String)> {
    let path = flags.html.as_deref()?;
    let mut note = format!("loopgate bench serve, version {}", env!("CARGO_PKG_VERSION"));
    if groups.iter().flat_map(|group| &group.reports).any(|(_, report)| report.lengths_estimated()) {
        let _ = write!(note, ". {ESTIMATED}");
    }
    Some(("--html", path, page(title, &note, groups)))
}

/// A bar that counts failures, too.
pub(super) fn progress(name: &str, requests: usize) -> Tell {
    let bar = measuring::progress(name, requests, "requests");
    let failures = AtomicU64::new(0);
    Arc::new(move |failed| {
        if failed {
            let before = failures.fetch_add(1, Ordering::Relaxed);
            bar.set_message(format!(", {} failed", before + 1));
        }
        bar.inc(1);
        if bar.position() == requests as u64 {
            bar.finish_and_clear();
        }
    })
}

/// The block, and below it what it has no line for.
fn shown(report: &Report) -> String {
    let below = [report.lengths_estimated().then(|| ESTIMATED.to_owned()), Some(report.failures())];
    let below = below.into_iter().flatten().filter(|it| !it.is_empty());
    [report.to_string()].into_iter().chain(below).collect::<Vec<_>>().join("\n")
}
