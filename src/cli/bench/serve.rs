//! `loopgate bench serve`

use crate::bench::serve::scenario::{self, Pair};
use crate::bench::serve::{Backend, DataSet, Failed as Unmeasured, Group, Plan, Report, Target, Tell, Wanted};
use crate::bench::serve::{compare, measure, page, totals};
use crate::cli::{Failed, exec, runtime, told_to_stop, write_files};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where `bench_serving` looks for a server.
const PORT: u16 = 30_000;
/// The cookbook's runs take about a minute then. Chosen.
const SPEED: f64 = 10.0;

#[derive(Args)]
pub(super) struct Flags {
    /// What is asked: SGLang's /generate, or /v1/chat/completions
    #[arg(long, value_enum, default_value = "sglang")]
    backend: Backend,
    /// The server, as a URL
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "port"])]
    base_url: Option<String>,
    /// The server's host
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The server's port
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// The model [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The key that the server asks for [default: that of the OpenAI SDKs, from the environment]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// What is asked
    #[arg(long, value_name = "NAME", value_enum, default_value = "random")]
    dataset_name: DataSet,
    /// Its file: a JSONL of requests, or for `random` a JSON list of conversations
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// The model's tokenizer.json, of the byte-level BPE kind; without it lengths are estimates
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
    /// Seconds without a byte after which a request has failed
    #[arg(long, value_name = "S", default_value = "300", value_parser = seconds)]
    silence: Duration,
    /// Seconds after which a request has failed
    #[arg(long, value_name = "S", default_value = "21600", value_parser = seconds)]
    timeout: Duration,
    /// Write everything that was measured, as JSON; `-`: to stdout, in place of the block
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
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
    speed: Option<f64>,
    /// Ask nothing; print how much would be asked
    #[arg(long)]
    dry_run: bool,
    /// Measure nothing; compare two files that --json or SGLang's own benchmark has written
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], exclusive = true)]
    compare: Option<Vec<PathBuf>>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Scenario {
    /// 10 requests one by one, 80 with 16 at once, 320 with 64
    Cookbook,
    /// The bench's own cost, against its bars
    Cost,
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|speed| (1.0..=100.0).contains(speed)).ok_or_else(|| "write 1 to 100".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| *rate > 0.0).ok_or_else(|| "write a number above 0, or inf".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "write 0 to 1".to_owned())
}

/// A day is enough for anybody.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write 0.001 to 86400".to_owned())
}

impl Flags {
    fn plan(&self) -> Result<Plan, Failed> {
        if self.tokenize_prompt && self.backend != Backend::Sglang {
            return Err(Failed::Usage("--tokenize-prompt: only --backend sglang takes tokens".to_owned()));
        }
        let url = self.base_url.clone().unwrap_or_else(|| format!("http://{}:{}", self.host, self.port));
        let api_key = self.api_key.clone().or_else(|| std::env::var("OPENAI_API_KEY").ok());
        let target = Target::new(&url, api_key, self.silence, self.timeout);
        Ok(Plan {
            target: target.map_err(Failed::Usage)?,
            backend: self.backend,
            model: self.model.clone(),
            wanted: self.wanted(),
            at_once: self.max_concurrency.map(|most| most as usize),
            warm_ups: self.warmup_requests,
        })
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
        Some(Scenario::Cookbook) => return cookbook(flags),
        Some(Scenario::Cost) => return cost(flags),
        None => {}
    }
    let plan = flags.plan()?;
    if plan.wanted.tokenizer.is_none() {
        eprintln!("without --tokenizer the lengths are estimates: about a token for a word, or for four bytes");
    }
    if flags.dry_run {
        let totals = totals(&plan.wanted).map_err(|error| Failed::Usage(error.to_string()))?;
        say!(
            "#Requests: {}\n#Input tokens: {}\n#Output tokens: {}",
            totals.requests,
            totals.input_tokens,
            totals.output_tokens
        );
        return Ok(ExitCode::SUCCESS);
    }
    let title = format!("{} requests to {}", plan.wanted.prompts, plan.target.url());
    let report = until_told(async |stop| {
        let measured = measure(plan, stop, |requests| progress("", requests)).await;
        measured.map_err(|error| match error {
            Unmeasured::Data(error) => Failed::Usage(error.to_string()),
            error => Failed::Other(error.to_string()),
        })
    })?;
    let json = flags.json.as_deref();
    let file = json.filter(|path| *path != Path::new("-"));
    if json.is_some() && file.is_none() {
        exec::print_json(&report.json());
    } else {
        print(&report);
    }
    let page = page_of(flags, &title, &[Group { title: String::new(), reports: vec![("", &report)] }]);
    let json = file.map(|path| ("--json", path, format!("{}\n", report.json())));
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

/// The cookbook's runs, each in two columns.
fn cookbook(flags: &Flags) -> Result<ExitCode, Failed> {
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

fn cost(flags: &Flags) -> Result<ExitCode, Failed> {
    if flags.html.is_some() || flags.speed.is_some() {
        return Err(Failed::Usage("--html and --speed are for --scenario cookbook".to_owned()));
    }
    let (report, cost) = until_told(async |stop| {
        let cost = scenario::cost(stop, |requests| progress("", requests)).await;
        cost.map_err(|broken| Failed::Other(broken.to_string()))
    })?;
    print(&report);
    say!("\n{cost}");
    Ok(if cost.met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is to be written where --html says.
fn page_of<'a>(flags: &'a Flags, title: &str, groups: &[Group<'_>]) -> Option<(&'static str, &'a Path, String)> {
    let path = flags.html.as_deref()?;
    let note = format!("loopgate bench serve, version {}", env!("CARGO_PKG_VERSION"));
    Some(("--html", path, page(title, &note, groups)))
}

/// Does it, until Ctrl-C: then what has ended is reported.
fn until_told<T>(work: impl AsyncFnOnce(&CancellationToken) -> Result<T, Failed>) -> Result<T, Failed> {
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let told = told_to_stop()?;
        let stops = async {
            told.await;
            stop.cancel();
            // What has ended is reported; who says it again has it at once.
            told_to_stop()?.await;
            Err(Failed::Other("stopped".to_owned()))
        };
        tokio::select! {
            done = work(&stop) => done,
            stopped = stops => stopped,
        }
    })
}

/// A bar on stderr, where a person looks at it.
fn progress(name: &str, requests: usize) -> Tell {
    let bar = ProgressBar::new(requests as u64).with_prefix(name.to_owned());
    let style =
        ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} requests, {elapsed} so far, {eta} left{msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let failures = std::sync::atomic::AtomicU64::new(0);
    Arc::new(move |failed| {
        if failed {
            let before = failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            bar.set_message(format!(", {} failed", before + 1));
        }
        bar.inc(1);
        if bar.position() == requests as u64 {
            bar.finish_and_clear();
        }
    })
}

fn print(report: &Report) {
    say!("{report}");
    print_failures(report);
}

fn print_failures(report: &Report) {
    let failures = report.failures();
    if !failures.is_empty() {
        say!("{failures}");
    }
}
