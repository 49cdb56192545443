//! The command line: one thin file per subcommand.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks through them")]

/// Prints a line. A reader that has gone away, such as `head`, is no reason to fail.
macro_rules! say {
    ($($line:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($line)*)));
    }};
}

mod bench;
mod check;
mod connect;
mod demo;
mod eval;
mod exec;
mod flags;
mod health;
mod launch;
mod measuring;
mod mock;
mod replay;
mod serve;
mod server_flags;
mod simulate;

use crate::access::{self, CallerSettings, KeyHash, new_key};
use crate::app::StartError;
use crate::config::{ConfigError, LogFormat, LogSettings, Origin, Resolved};
use crate::sandbox;
use clap::{CommandFactory, Parser, Subcommand};
use flags::ConfigFlags;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A coding-agent gateway: OpenAI-compatible, in front of SGLang servers, running the model's Python in a sandbox.
#[derive(Parser)]
#[command(name = "loopgate", version, about, max_term_width = 120, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API in front of SGLang servers
    Serve(ConfigFlags),
    /// Validate config, tools and policies, run every tool's examples, and print what is in force
    Check(ConfigFlags),
    /// Run a Python program in the sandbox, as a model's call would run
    Exec(exec::Flags),
    /// Measure what the sandbox costs on this machine, or what an SGLang server gives its clients
    Bench(bench::Flags),
    /// Ask a running gateway whether it is up: ends with 0 or 1
    Health(health::Flags),
    /// Serve with a scripted model inside, ask it one question, and stay
    Demo(demo::Flags),
    /// Serve the scripted model alone: a stand-in for SGLang
    Mock(mock::Flags),
    /// Measure how well a model behind a server or a gateway answers
    Eval(eval::Flags),
    /// Compare the balance policies on modelled SGLang servers, offline
    Simulate(simulate::Flags),
    /// Print the command that starts SGLang for Qwen3-Coder, or hold a running server against it
    Launch(launch::Flags),
    /// Tell a client of the gateway: writes its configuration, or prints it
    Connect(connect::Flags),
    /// Make a key for a caller, and the lines for loopgate.toml
    Key {
        /// The caller's name
        name: String,
    },
    /// Work for a gateway, which starts this itself
    #[command(name = sandbox::WORKER_COMMAND, hide = true)]
    SandboxWorker {
        /// The compiled guest
        compiled: PathBuf,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Bad usage, as every shell has it.
const USAGE: u8 = 2;

/// Why a command ends without having done its work.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Other(String),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Check(flags) => check::run(&flags),
        Command::Exec(flags) => exec::run(&flags),
        Command::Bench(flags) => bench::run(&flags),
        Command::Health(flags) => health::run(&flags),
        Command::Demo(flags) => demo::run(&flags),
        Command::Mock(flags) => mock::run(&flags),
        Command::Eval(flags) => eval::run(&flags),
        Command::Simulate(flags) => simulate::run(&flags),
        Command::Launch(flags) => launch::run(&flags),
        Command::Connect(flags) => connect::run(&flags),
        Command::Key { name } => key(&name),
        Command::SandboxWorker { compiled } => sandbox::work(&compiled)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| Failed::Other(format!("a worker of the sandbox cannot go on: {error}"))),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "loopgate", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|failed| {
        eprintln!("loopgate: {failed}");
        ExitCode::from(if matches!(failed, Failed::Config(_) | Failed::Usage(_)) { USAGE } else { 1 })
    })
}

fn key(name: &str) -> Result<ExitCode, Failed> {
    let (key, hash): (String, KeyHash) =
        new_key().map_err(|error| Failed::Other(format!("no random numbers to be had: {error}")))?;
    let caller = CallerSettings { name: name.to_owned(), key_sha256: hash, concurrent_max: None };
    access::Settings::default().set_callers(vec![caller]).map_err(|error| Failed::Usage(error.to_string()))?;
    say!("# The key, for {name} alone. It is shown this once:\n#   {key}\n# For loopgate.toml:");
    say!("[[callers]]\nname = {}\nkey_sha256 = \"{}\"", serde_json::Value::from(name), hash.hex());
    Ok(ExitCode::SUCCESS)
}

/// Writes what a command has found, each text to the file that a flag names. For after it was printed: what took long to
/// find is not lost with a file that cannot be written, nor are the other files.
fn write_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a Path, String)>) -> Result<(), Failed> {
    let write = |(flag, path, text): (&str, &Path, String)| {
        let error = std::fs::write(path, text).err()?;
        Some(format!("{flag} {}: {error}", path.display()))
    };
    let failed: Vec<_> = files.into_iter().filter_map(write).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failed::Other(failed.join("; "))) }
}

/// Logs go to stderr, so that stdout is the command's own.
fn start_log(settings: &LogSettings) {
    let filter = EnvFilter::new(&settings.filter);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let log = log.with_ansi(io::stderr().is_terminal());
    match settings.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Says less than a server would, unless somebody has set how much is to be said.
fn quiet_by_default(resolved: &mut Resolved, filter: &str) {
    if resolved.origin("log.filter") == Origin::Default {
        filter.clone_into(&mut resolved.log.filter);
    }
}

/// The runtime of whatever serves.
fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Listens from now on, before anybody is told that we serve; done when the process is told to stop by Ctrl-C or SIGTERM.
fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
