//! What became of one run.

use super::bounded;
use super::cut::{Cut, MARK_BYTES_MAX};
use super::run::Past;
use super::wasi::READINGS_MAX;
use crate::chat::Status;
use crate::policy::Limits;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

/// Bytes of a traceback that are kept. Chosen: some 2000 tokens of a model's context.
pub(super) const ERROR_BYTES_MAX: usize = 8 * 1024;

/// Bytes that the host may add to a traceback: one line on memory. Chosen: twice what it has.
const NOTE_BYTES_MAX: usize = 256;

/// One of a program's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ended {
    /// The program ran to its end.
    Completed,
    /// An exception came out of it, or it exited with a failure.
    Raised,
    /// It was stopped at its time limit.
    Timeout,
    /// It wanted more memory than its limit.
    Memory,
    /// It took the interpreter down with it, for example by recursion too deep for the stack.
    Crashed,
    /// It was not started: every interpreter is in use, and none became free in time.
    Busy,
    /// It was not started: no interpreter could be made. Our bug, or the host is out of memory.
    Unavailable,
}

impl Ended {
    /// Whether there was a run at all.
    pub fn has_run(self) -> bool {
        !matches!(self, Self::Busy | Self::Unavailable)
    }

    /// Whether the next run in the same interpreter starts from what this one came to. After the others it starts from
    /// what was before. (So it may after one that broke its memory; made again, that one breaks it again.)
    pub(super) fn leaves_state(self) -> bool {
        matches!(self, Self::Completed | Self::Raised | Self::Memory)
    }

    /// The name in the audit and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Raised => "raised",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Crashed => "crashed",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What became of one run. Every text is cut at the permit's limits already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How the run ended.
    pub ended: Ended,
    /// What the program wrote to stdout, also when it was stopped.
    pub stdout: String,
    /// What the program wrote to stderr, also when it was stopped.
    pub stderr: String,
    /// `repr()` of the program's last expression, if that is one with a value other than `None`.
    pub value: Option<String>,
    /// The traceback, or one line that says what went wrong. Set whenever the run did not complete.
    pub error: Option<String>,
    /// How many bytes of the four texts above were cut out.
    pub omitted_bytes: u64,
    /// How long the program ran. Waiting for a free interpreter is not in it.
    pub duration: Duration,
    /// Names that earlier calls defined are not there, or not all of them: an earlier run of this
    /// [`Interpreter`](super::Interpreter) was stopped or crashed, or was not made in here, and this one is the first since.
    pub state_lost: bool,
    /// What its clocks said, as [`Conditions::readings`](super::Conditions::readings) has it.
    #[serde(deserialize_with = "bounded::list::<READINGS_MAX, _, _>")]
    pub readings: Vec<u64>,
    /// What it started from. The gateway knows, not a worker.
    #[serde(skip)]
    pub past: Past,
}

impl Outcome {
    /// How the call ended, as clients are told.
    pub fn status(&self) -> Status {
        match self.ended {
            Ended::Completed => Status::Completed,
            Ended::Timeout => Status::Timeout,
            Ended::Raised | Ended::Memory | Ended::Crashed | Ended::Busy | Ended::Unavailable => Status::Error,
        }
    }

    /// The same run with everything that came of it taken away, because it could not be written down.
    #[must_use]
    pub fn withheld(self) -> Self {
        let error = "the execution could not be recorded, so its outcome is withheld; tell the operator";
        Self { duration: self.duration, state_lost: self.state_lost, ..Self::not_started(Ended::Unavailable, error) }
    }

    /// A run that never started.
    pub(super) fn not_started(ended: Ended, error: &str) -> Self {
        Self {
            ended,
            stdout: String::new(),
            stderr: String::new(),
            value: None,
            error: Some(error.to_owned()),
            omitted_bytes: 0,
            duration: Duration::ZERO,
            state_lost: false,
            readings: Vec::new(),
            past: Past::New,
        }
    }

    /// As it is believed of a worker, whose program may have taken it over: only what a program within these limits can
    /// come to, in no more time than has passed.
    ///
    /// # Errors
    /// When no worker in its right mind would say that.
    pub(super) fn heard(self, limits: &Limits, passed: Duration) -> io::Result<Self> {
        let texts = [
            ("stdout", Some(&self.stdout), limits.output_bytes),
            ("stderr", Some(&self.stderr), limits.output_bytes),
            ("value", self.value.as_ref(), limits.result_bytes),
            ("error", self.error.as_ref(), ERROR_BYTES_MAX + NOTE_BYTES_MAX),
        ];
        if let Some((name, ..)) = texts.into_iter().find(|(_, text, most)| text.is_some_and(|it| !fits(it, *most))) {
            return Err(io::Error::other(format!("its {name} is longer than it can be")));
        }
        if !self.ended.has_run() {
            return Err(io::Error::other("it says that it has not run"));
        }
        let error = self.error.filter(|_| self.ended != Ended::Completed);
        Ok(Self { duration: self.duration.min(passed), error, ..self })
    }

    /// A run that was started. `error` stands in when the guest itself has said nothing.
    pub(super) fn of_run(ended: Ended, error: Option<String>, duration: Duration, texts: Texts) -> Self {
        let mut omitted_bytes = 0;
        let mut text_of = |cut: Cut| {
            let (text, omitted) = cut.finish();
            omitted_bytes += omitted;
            text
        };
        Self {
            ended,
            value: (!texts.value.is_empty()).then(|| text_of(texts.value)),
            error: error.or_else(|| (!texts.error.is_empty()).then(|| text_of(texts.error))),
            stdout: text_of(texts.stdout),
            stderr: text_of(texts.stderr),
            omitted_bytes,
            duration,
            state_lost: false,
            readings: Vec::new(),
            past: Past::New,
        }
    }
}

/// Whether a text can be what is left of one that was cut at so many bytes. A byte that is no text is a character of
/// three in there.
fn fits(text: &str, bytes_max: usize) -> bool {
    let replaced = text.matches(char::REPLACEMENT_CHARACTER).count();
    text.len() - 2 * replaced <= bytes_max + MARK_BYTES_MAX
}

/// The four texts that a guest sends while it runs.
#[derive(Debug)]
pub(super) struct Texts {
    pub stdout: Cut,
    pub stderr: Cut,
    pub value: Cut,
    pub error: Cut,
}

impl Texts {
    /// Nothing yet, of which so much will be kept.
    pub fn within(limits: &Limits) -> Self {
        Self {
            stdout: Cut::new(limits.output_bytes),
            stderr: Cut::new(limits.output_bytes),
            value: Cut::new(limits.result_bytes),
            error: Cut::new(ERROR_BYTES_MAX),
        }
    }

    /// Where nobody listens.
    pub fn lost() -> Self {
        Self { stdout: Cut::new(0), stderr: Cut::new(0), value: Cut::new(0), error: Cut::new(0) }
    }
}
