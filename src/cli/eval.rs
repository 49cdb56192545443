//! `loopgate eval`

use super::measuring::{print_found, progress, until_told};
use super::server_flags::{ServerFlags, seconds};
use super::{Failed, write_files};
use crate::client::Patience;
use crate::eval::{self, Mode, Plan};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    #[command(flatten)]
    server: ServerFlags,
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
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds)]
    timeout: Duration,
    /// Write everything as JSON, question by question; `-`: to stdout, in place of the block
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let What::Gsm8k(flags) = &flags.what;
    let plan = plan(flags)?;
    let report = until_told(async |stop| {
        let progress = progress("", plan.questions.len(), "questions");
        let report = eval::run(plan, stop, || progress.inc(1)).await;
        progress.finish_and_clear();
        report.map_err(Failed::Other)
    })?;
    write_files(print_found(flags.json.as_deref(), &report.json(), &report))?;
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(flags: &Gsm8kFlags) -> Result<Plan, Failed> {
    let Some(path) = &flags.data_path else {
        return Err(Failed::Usage(format!("--data-path is missing. {}", eval::HOW)));
    };
    let questions = eval::read(path, flags.num_questions as usize, flags.num_shots as usize);
    Ok(Plan {
        target: flags.server.target(Patience::of(flags.timeout))?,
        mode: flags.mode,
        model: flags.server.model.clone(),
        questions: questions.map_err(|error| Failed::Usage(error.to_string()))?,
        tokens_max: flags.max_new_tokens,
        parallel: flags.parallel as usize,
    })
}
