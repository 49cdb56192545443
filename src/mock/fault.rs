//! What can go wrong on purpose.

use std::fmt::{self, Display};
use std::str::FromStr;

/// A fault of the whole server. Those with a number happen to a stream after so many chunks, and instead of a whole
/// answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed without a word.
    DieAfter(usize),
    /// Nothing more comes, and the connection stays open.
    StallAfter(usize),
    /// A `data:` line that is no JSON comes between the chunks. A whole answer is cut JSON.
    GarbageAfter(usize),
    /// An error event comes inside the 200 stream, then `[DONE]`. A whole answer is a 503.
    ErrorAfter(usize),
    /// The body ends as a good one does on the HTTP level, but without finish chunk and `[DONE]`.
    EndAfter(usize),
    /// Somebody has it aborted. A whole answer has all of its text, and ends in `abort` too.
    AbortAfter(usize),
    /// Every request is refused with 503, health too.
    RefuseAll,
    /// Health checks say 503; everything else works, as on a server that drains.
    Unhealthy,
    /// 200 with an empty body.
    EmptyBody,
    /// Connections are taken, and nothing is ever answered, health neither.
    Hang,
    /// Load reports have numbers that cannot be.
    LyingLoad,
}

/// A fault's text that names none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown fault `{0}`; known: die-after=N, stall-after=N, garbage-after=N, error-after=N, end-after=N, abort-after=N, \
     refuse-all, unhealthy, empty-body, hang, lying-load"
)]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        let counted = |name: &str, chunks: &str| {
            let chunks = chunks.parse().map_err(|_| unknown())?;
            Ok(match name {
                "die-after" => Self::DieAfter(chunks),
                "stall-after" => Self::StallAfter(chunks),
                "garbage-after" => Self::GarbageAfter(chunks),
                "error-after" => Self::ErrorAfter(chunks),
                "end-after" => Self::EndAfter(chunks),
                "abort-after" => Self::AbortAfter(chunks),
                _ => return Err(unknown()),
            })
        };
        match text.split_once('=') {
            Some((name, chunks)) => counted(name, chunks),
            None => match text {
                "refuse-all" => Ok(Self::RefuseAll),
                "unhealthy" => Ok(Self::Unhealthy),
                "empty-body" => Ok(Self::EmptyBody),
                "hang" => Ok(Self::Hang),
                "lying-load" => Ok(Self::LyingLoad),
                _ => Err(unknown()),
            },
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DieAfter(chunks) => write!(f, "die-after={chunks}"),
            Self::StallAfter(chunks) => write!(f, "stall-after={chunks}"),
            Self::GarbageAfter(chunks) => write!(f, "garbage-after={chunks}"),
            Self::ErrorAfter(chunks) => write!(f, "error-after={chunks}"),
            Self::EndAfter(chunks) => write!(f, "end-after={chunks}"),
            Self::AbortAfter(chunks) => write!(f, "abort-after={chunks}"),
            Self::RefuseAll => f.write_str("refuse-all"),
            Self::Unhealthy => f.write_str("unhealthy"),
            Self::EmptyBody => f.write_str("empty-body"),
            Self::Hang => f.write_str("hang"),
            Self::LyingLoad => f.write_str("lying-load"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_they_are_read() {
        for text in ["", "die-after", "die-after=", "die-after=-1", "explode", "refuse-all=1"] {
            let error = text.parse::<Fault>().expect_err("no fault").to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("die-after=N"), "{error}");
        }
        for text in [
            "die-after=0",
            "stall-after=3",
            "garbage-after=2",
            "error-after=1",
            "end-after=4",
            "abort-after=5",
            "refuse-all",
            "unhealthy",
            "empty-body",
            "hang",
            "lying-load",
        ] {
            assert_eq!(text.parse::<Fault>().expect("a fault").to_string(), text);
        }
    }
}
