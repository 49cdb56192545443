//! `loopgate exec`: a program through tools, policy, audit and sandbox, as if a model had called it.

use super::{ConfigFlags, Failed, USAGE, quiet_by_default, replay, runtime, start_log};
use crate::access::{ANONYMOUS, Access, Caller};
use crate::agent::Done;
use crate::app;
use crate::chat::{RawCall, Status};
use crate::sandbox::{Ended, Stream};
use clap::Args;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes: 0 the program completed, 1 it raised or the sandbox failed, 2 bad usage, \
                          3 it ran out of time, 4 out of memory, 5 it was denied or its arguments are invalid, \
                          6 a replay came to another outcome";

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Flags {
    /// The program; `-` or nothing reads it from stdin
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the whole outcome as JSON instead of the program's output
    #[arg(long)]
    json: bool,
    /// Call another tool than `execute_code`: FILE holds its arguments, as a JSON object
    #[arg(long, value_name = "NAME", default_value = "execute_code")]
    tool: String,
    /// Run under the policy of this caller of loopgate.toml
    #[arg(long = "as", value_name = "CALLER", default_value = ANONYMOUS)]
    caller: String,
    /// Make an execution again that is in the audit (see --audit): ID is the `execution_id` of its line
    #[arg(long, value_name = "ID", conflicts_with_all = ["file", "tool", "caller"])]
    replay: Option<String>,
    #[command(flatten)]
    config: ConfigFlags,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    if let Some(id) = &flags.replay {
        return replay::run(id, flags.json, &flags.config);
    }
    let text = program(flags.file.as_deref())?;
    let mut resolved = flags.config.resolve()?;
    // Somebody who runs a program wants to see its output.
    quiet_by_default(&mut resolved, "warn,loopgate::sandbox=info");
    start_log(&resolved.log);
    let desk = app::desk(&resolved)?;
    let access = Access::new(&resolved.access);
    let who = app::local(access.named(&flags.caller).ok_or_else(|| unknown_caller(&flags.caller, &access))?);
    let arguments = if flags.tool == "execute_code" { serde_json::json!({ "code": text }).to_string() } else { text };
    let call = RawCall { id: "cli".to_owned(), name: flags.tool.clone(), arguments };
    let mut live = Live::new(!flags.json);
    let done = runtime()?.block_on(async {
        let policy = desk.policy(&who.caller).clone();
        let mut interpreter = desk.interpreter();
        desk.answer(&who, &policy, &call, &mut interpreter, |stream, chunk| live.hear(stream, chunk)).await
    });
    if flags.json {
        print_json(&json(&done));
    } else {
        print_rest(&done, &live);
    }
    Ok(exit_code(&done))
}

pub(super) fn unknown_caller(name: &str, access: &Access) -> Failed {
    let known: Vec<_> = access.everybody().map(Caller::name).collect();
    Failed::Usage(format!("unknown caller `{name}`; known: {}", known.join(", ")))
}

fn program(file: Option<&std::path::Path>) -> Result<String, Failed> {
    let mut bytes = Vec::new();
    let (name, read) = match file.filter(|path| path.as_os_str() != "-") {
        Some(path) => (path.display().to_string(), std::fs::read(path).map(|read| bytes = read)),
        None => ("stdin".to_owned(), io::stdin().read_to_end(&mut bytes).map(drop)),
    };
    read.map_err(|error| Failed::Usage(format!("cannot read {name}: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Failed::Usage(format!("{name} is not UTF-8 text")))
}

/// What was shown while the program ran: the beginning of its output, which is what comes live.
pub(super) struct Live {
    on: bool,
    stdout_bytes: usize,
    stderr_bytes: usize,
}

impl Live {
    pub fn new(on: bool) -> Self {
        Self { on, stdout_bytes: 0, stderr_bytes: 0 }
    }

    pub fn hear(&mut self, stream: Stream, chunk: &[u8]) {
        if self.on {
            write_through(stream, chunk);
            *match stream {
                Stream::Stdout => &mut self.stdout_bytes,
                Stream::Stderr => &mut self.stderr_bytes,
            } += chunk.len();
        }
    }
}

/// A reader that has gone away is no reason to fail.
fn write_through(stream: Stream, chunk: &[u8]) {
    let _ = match stream {
        Stream::Stdout => io::stdout().write_all(chunk).and_then(|()| io::stdout().flush()),
        Stream::Stderr => io::stderr().write_all(chunk),
    };
}

/// The whole outcome.
pub(super) fn json(done: &Done) -> serde_json::Value {
    let mut outcome = serde_json::json!(done.execution);
    outcome["ended"] = serde_json::json!(done.ended.map(Ended::as_str));
    outcome
}

pub(super) fn print_json(outcome: &serde_json::Value) {
    write_through(Stream::Stdout, format!("{outcome:#}\n").as_bytes());
}

/// What did not come live: the end of long output, the value, and what went wrong.
pub(super) fn print_rest(done: &Done, live: &Live) {
    let execution = &done.execution;
    let rest = |text: &str, shown: usize| text[text.floor_char_boundary(shown)..].to_owned();
    write_through(Stream::Stdout, rest(&execution.stdout, live.stdout_bytes).as_bytes());
    write_through(Stream::Stderr, rest(&execution.stderr, live.stderr_bytes).as_bytes());
    if let Some(value) = &execution.result {
        write_through(Stream::Stdout, format!("{value}\n").as_bytes());
    }
    let last = match done.ended {
        Some(Ended::Completed) => return,
        Some(Ended::Raised) => execution.error.as_deref().unwrap_or_default().trim_end(),
        // The line that the model would read last.
        _ => execution.output.lines().last().unwrap_or_default(),
    };
    write_through(Stream::Stderr, format!("{last}\n").as_bytes());
}

pub(super) fn exit_code(done: &Done) -> ExitCode {
    let code = match (done.execution.status, done.ended) {
        (Status::Denied | Status::Invalid, _) => 5,
        (_, Some(Ended::Completed)) => 0,
        (_, Some(Ended::Timeout)) => 3,
        (_, Some(Ended::Memory)) => 4,
        (_, Some(Ended::Raised | Ended::Crashed | Ended::Busy | Ended::Unavailable) | None) => 1,
    };
    debug_assert_ne!(code, USAGE, "usage errors end before anything runs");
    ExitCode::from(code)
}
