//! `loopgate bench`: what the sandbox costs on this machine, and what servers give their clients.

mod scenario;
mod serve;

use super::{ConfigFlags, Failed, exec, quiet_by_default, runtime, start_log};
use crate::access::{ANONYMOUS, Access};
use crate::app;
use crate::bench::{self, Plan};
use crate::chat::RawCall;
use crate::policy;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
pub(super) struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What a program costs in the sandbox: fresh, in a session, side by side, and beside a native Python
    Sandbox(SandboxFlags),
    /// What clients of an SGLang server see of its speed, as SGLang's own benchmark measures it
    Serve(Box<serve::Flags>),
}

#[derive(Args)]
struct SandboxFlags {
    /// Programs for each percentile
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// How long to run as many as there are in a second, with each number of workers
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// The most workers side by side
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// The native Python to compare with; without it that part is left out
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: OsString,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// End with 1 when a bar is missed, or could not be measured
    #[arg(long)]
    check: bool,
    /// Run under the policy of this caller of loopgate.toml
    #[arg(long = "as", value_name = "CALLER", default_value = ANONYMOUS)]
    caller: String,
    #[command(flatten)]
    config: ConfigFlags,
}

/// An hour is enough for anybody.
fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|it| (0.01..=3600.0).contains(it)).ok_or_else(|| "write 0.01 to 3600".to_owned())
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    match &flags.what {
        What::Sandbox(flags) => sandbox(flags),
        What::Serve(flags) => serve::run(flags),
    }
}

fn sandbox(flags: &SandboxFlags) -> Result<ExitCode, Failed> {
    let mut resolved = flags.config.resolve()?;
    quiet_by_default(&mut resolved, "warn");
    start_log(&resolved.log);
    let (tools, policies) = app::rules(&resolved)?;
    let settings = app::sandbox_settings(&resolved)?;
    let access = Access::new(&resolved.access);
    let caller = access.named(&flags.caller).ok_or_else(|| exec::unknown_caller(&flags.caller, &access))?.clone();
    let rules = policies.of(&caller).sessions;
    let permit = move |program: &str| {
        let arguments = serde_json::json!({ "code": program }).to_string();
        let call = RawCall { id: "bench".to_owned(), name: "execute_code".to_owned(), arguments };
        let checked = tools.check(&call).map_err(|invalid| invalid.to_string())?;
        policy::decide(policies.of(&caller), &caller, checked).map_err(|denied| denied.to_string())
    };
    let plan = Plan {
        runs: flags.runs as usize,
        busy: Duration::from_secs_f64(flags.seconds),
        workers: flags.workers,
        python: flags.python.clone(),
        settings,
        permit: Box::new(permit),
        rules,
    };
    // Where turns run: on a thread that hears of its sockets itself.
    let measured = async { tokio::spawn(bench::measure(plan, |what| eprintln!("{what} …"))).await };
    let figures = runtime()?
        .block_on(measured)
        .map_err(|error| Failed::Other(error.to_string()))?
        .map_err(|error| Failed::Other(error.to_string()))?;
    if flags.json {
        exec::print_json(&serde_json::json!(figures));
    } else {
        say!("{figures}");
    }
    for bar in figures.bars.iter().filter(|bar| flags.check && bar.is.is_none()) {
        eprintln!("not measured, and so not met: {}", bar.what);
    }
    let missed = flags.check && figures.bars.iter().any(|bar| !bar.met);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
