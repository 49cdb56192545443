//! `loopgate eval`

use super::{Failed, exec, runtime, told_to_stop, write_files};
use crate::bench::serve::Target;
use crate::eval::{self, Mode, Plan};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(super) struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// How many grade-school problems the model solves, as SGLang's `few_shot_gsm8k` counts them
    Gsm8k(Gsm8kFlags),
}

#[derive(Args)]
struct Gsm8kFlags {
    /// The server, or a gateway, as a URL
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "port"])]
    base_url: Option<String>,
    /// Its host
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Its port
    #[arg(long, default_value_t = 30_000)]
    port: u16,
    /// The key that it asks for [env: `OPENAI_API_KEY`]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// The model [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// How questions are asked
    #[arg(long, value_enum, default_value = "completion")]
    mode: Mode,
    /// The questions: GSM8K's test.jsonl
    #[arg(long, value_name = "FILE")]
    data_path: Option<PathBuf>,
    /// So many of them, from the first on
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    num_questions: u32,
    /// So many examples before each, the first of the file
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    num_shots: u32,
    /// Questions at once
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    parallel: u32,
    /// Tokens of one model call's answer at most
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_new_tokens: u32,
    /// Seconds after which a question has failed
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Write everything as JSON, question by question; `-`: to stdout, in place of the block
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let What::Gsm8k(flags) = &flags.what;
    let plan = plan(flags)?;
    let report = runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let told = told_to_stop()?;
        let progress = progress(plan.questions.len());
        let running = eval::run(plan, &stop, || progress.inc(1));
        tokio::pin!(running);
        let report = tokio::select! {
            report = &mut running => report,
            () = told => {
                // What is done is reported.
                stop.cancel();
                running.await
            }
        };
        progress.finish_and_clear();
        report.map_err(Failed::Other)
    })?;
    let json = flags.json.as_deref();
    let file = json.filter(|path| *path != Path::new("-"));
    if json.is_some() && file.is_none() {
        exec::print_json(&report.json());
    } else {
        say!("{report}");
    }
    write_files(file.map(|path| ("--json", path, format!("{:#}\n", report.json()))))?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(flags: &Gsm8kFlags) -> Result<Plan, Failed> {
    let Some(path) = &flags.data_path else {
        return Err(Failed::Usage(format!("--data-path is missing. {}", eval::HOW)));
    };
    let url = flags.base_url.clone().unwrap_or_else(|| format!("http://{}:{}", flags.host, flags.port));
    let key = flags.api_key.clone().or_else(|| std::env::var("OPENAI_API_KEY").ok());
    let patience = Duration::from_secs(flags.timeout);
    let questions = eval::read(path, flags.num_questions as usize, flags.num_shots as usize);
    Ok(Plan {
        target: Target::new(&url, key, patience, patience).map_err(Failed::Usage)?,
        mode: flags.mode,
        model: flags.model.clone(),
        questions: questions.map_err(|error| Failed::Usage(error.to_string()))?,
        tokens_max: flags.max_new_tokens,
        parallel: flags.parallel as usize,
    })
}

/// Shown on a terminal only.
fn progress(questions: usize) -> ProgressBar {
    let bar = ProgressBar::new(questions as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} questions, {elapsed} gone, {eta} to go");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
