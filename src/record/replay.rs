//! From an execution's id to what it takes to make it again: its line in the audit, and those that it builds on.

use super::audit::{AuditSettings, CODE_BYTES_MAX, numbered};
use super::ran::{self, outcome_sha256, program_sha256};
use crate::chat::{RawCall, Status};
use crate::policy::{Limits, Permit};
use crate::sandbox::{Conditions, Outcome, READINGS_MAX};
use crate::tools::{Program, Tool};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// Why an execution cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no such file, or it cannot be read.
    #[error("audit file `{}`: {error}; name the one that has the execution with --audit", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No line has the id.
    #[error(
        "no execution `{id}` in audit file `{}` or those put aside beside it; give the `execution_id` of one of their \
         lines, or name another file with --audit", path.display()
    )]
    Unknown {
        /// Which.
        id: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The line is no JSON, or not what a line is.
    #[error(
        "line {number} of audit file `{}`, which names execution `{id}`, is damaged: {error}; restore it from a copy", path.display()
    )]
    Damaged {
        /// What was looked for.
        id: String,
        /// The file.
        path: PathBuf,
        /// Of the line, from 1.
        number: usize,
        /// Why.
        error: serde_json::Error,
    },
    /// An execution that the one in question builds on is nowhere.
    #[error(
        "execution `{id}` goes on from what `{before}` left, whose line is not in audit file `{}` or those put aside \
         beside it; keep more of them with audit.keep_files", path.display()
    )]
    NoPast {
        /// Which.
        id: String,
        /// Which other one.
        before: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The line is there, but too little is in it.
    #[error("execution `{id}` cannot be replayed: {why}")]
    TooLittle {
        /// Which.
        id: String,
        /// What is missing, and what to do.
        why: String,
    },
}

/// An execution as the audit has it, with all that it takes to make it again.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its name.
    pub id: String,
    /// Who had it run.
    pub caller: String,
    /// What it was a call of.
    pub tool: String,
    /// The limits under which it ran.
    pub limits: Limits,
    call_id: String,
    /// The program, or for a tool with one of its own the arguments.
    code: String,
    status: String,
    guest: String,
    program_sha256: Option<String>,
    conditions: Conditions,
    after: Option<String>,
    outcome_sha256: String,
}

/// A line, of which anything may be missing.
#[derive(Deserialize)]
struct Line {
    execution_id: Option<String>,
    #[serde(default)]
    replayed: bool,
    caller: String,
    tool: String,
    call_id: String,
    code: String,
    code_sha256: String,
    limits: Option<Limits>,
    status: String,
    replay_of: Option<String>,
    guest: Option<String>,
    program_sha256: Option<String>,
    seed: Option<String>,
    unix_ns: Option<u64>,
    after: Option<String>,
    #[serde(default)]
    files_changed: bool,
    readings_ns: Option<Vec<u64>>,
    outcome_sha256: Option<String>,
}

impl Recorded {
    /// The execution of this id, after all those from whose state it started, the first one first.
    ///
    /// # Errors
    /// When one of them is not in the audit, or not as it takes.
    pub fn find(settings: &AuditSettings, id: &str) -> Result<Vec<Self>, ReplayError> {
        let mut found: Vec<Self> = Vec::new();
        let (mut wanted, mut damaged) = (id.to_owned(), None);
        let older = (1..=settings.keep_files).map(|number| numbered(&settings.path, number));
        // From the latest line back: what an execution builds on was written before it.
        for (at, path) in std::iter::once(settings.path.clone()).chain(older).enumerate() {
            let text = match std::fs::read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if at > 0 && error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(ReplayError::File { path, error }),
            };
            let lines = text.lines().count();
            for (back, line) in text.lines().rev().enumerate() {
                if !line.contains(&wanted) {
                    continue;
                }
                match serde_json::from_str::<Line>(line) {
                    Ok(line) if line.replayed || line.execution_id.as_ref() != Some(&wanted) => {}
                    Ok(line) => {
                        let recorded = Self::of(line, &wanted)?;
                        let after = recorded.after.clone();
                        found.push(recorded);
                        let Some(after) = after else {
                            found.reverse();
                            return Ok(found);
                        };
                        (wanted, damaged) = (after, None);
                    }
                    Err(error) => {
                        let (id, path) = (wanted.clone(), path.clone());
                        damaged = Some(ReplayError::Damaged { id, path, number: lines - back, error });
                    }
                }
            }
        }
        Err(damaged.unwrap_or_else(|| missing(&settings.path, id, wanted, &found)))
    }

    fn of(line: Line, id: &str) -> Result<Self, ReplayError> {
        let too_little = |why: &str| ReplayError::TooLittle { id: id.to_owned(), why: why.to_owned() };
        if let Some(first) = &line.replay_of {
            return Err(too_little(&format!("it is a replay itself, of `{first}`; replay that")));
        }
        if line.status == "abandoned" {
            return Err(too_little("its client left before it was over, so that there is no outcome to compare"));
        }
        if line.files_changed {
            return Err(too_little(
                "its session's files were changed from outside before it (/v1/sandbox/sessions), and the audit has not what \
                 was put there",
            ));
        }
        let (Some(readings), Some(outcome_sha256)) = (line.readings_ns, line.outcome_sha256) else {
            return Err(too_little("it did not run; its line says why"));
        };
        if format!("{:x}", Sha256::digest(&line.code)) != line.code_sha256 {
            return Err(too_little(&format!(
                "its line has not the whole code, of which the first {CODE_BYTES_MAX} bytes are kept"
            )));
        }
        let parts = (line.limits, line.guest, line.seed.as_deref().and_then(ran::seed), line.unix_ns);
        let (Some(limits), Some(guest), Some(seed), Some(unix_ns)) = parts else {
            return Err(too_little("its line has no `limits`, `guest`, `seed` or `unix_ns` that can be read"));
        };
        Ok(Self {
            id: id.to_owned(),
            caller: line.caller,
            tool: line.tool,
            limits,
            call_id: line.call_id,
            code: line.code,
            status: line.status,
            guest,
            program_sha256: line.program_sha256,
            conditions: Conditions { seed, unix_ns, readings, again: true },
            after: line.after,
            outcome_sha256,
        })
    }

    /// The call that it was.
    pub fn call(&self, tool: Option<&Tool>) -> RawCall {
        let arguments = match tool.map(|tool| &tool.program) {
            Some(Program::Argument(name)) => json!({ name: self.code }).to_string(),
            Some(Program::File(_)) | None => self.code.clone(),
        };
        RawCall { id: self.call_id.clone(), name: self.tool.clone(), arguments }
    }

    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// How another run differs from this one, and what may be the cause. Nothing, when it came to the same.
    pub(super) fn differences(&self, permit: &Permit, guest: &str, outcome: &Outcome) -> Vec<String> {
        if outcome_sha256(outcome) == self.outcome_sha256 {
            return Vec::new();
        }
        let mut differences = match outcome.status().as_str() {
            status if status == self.status => vec!["the outcome is another one".to_owned()],
            status => vec![format!("it ended with `{status}`, and then with `{}`", self.status)],
        };
        if guest != self.guest {
            differences.push(format!("the guest is {guest}, and was {}; run it with the one of then", self.guest));
        }
        if program_sha256(permit) != self.program_sha256 {
            differences.push(format!("the program of tool `{}` is another one than then", self.tool));
        }
        if self.conditions.readings.len() >= READINGS_MAX {
            differences.push(format!("it read its clocks more often than the {READINGS_MAX} times that are kept"));
        }
        if [&*self.status, outcome.status().as_str()].contains(&Status::Timeout.as_str()) {
            differences.push("where in a program its time is over is not the same each time".to_owned());
        }
        differences
    }
}

fn missing(path: &Path, id: &str, wanted: String, found: &[Recorded]) -> ReplayError {
    let path = path.to_owned();
    match found.last() {
        None => ReplayError::Unknown { id: id.to_owned(), path },
        Some(last) => ReplayError::NoPast { id: last.id.clone(), before: wanted, path },
    }
}
