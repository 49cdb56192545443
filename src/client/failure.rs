//! Why a request has no answer: few reasons, so that they can be counted, each with what is known beside it.

use std::fmt;
use std::time::Duration;

/// Characters of what a server says that are kept.
const SAID_MAX: usize = 300;

/// One request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection.
    Unreachable(String),
    /// Not 200.
    Status(u16, String),
    /// An error where an event was to be.
    InStream(String, String),
    /// 200 and nothing else.
    Empty,
    /// The answer has no end.
    Cut,
    /// The connection broke.
    Lost(String),
    /// The server ended it.
    Aborted,
    /// Something that is no event, or no answer of the kind that was asked for.
    Garbage(String),
    /// No byte for so long.
    Silent(Duration),
    /// Not at its end after so long.
    Late(Duration),
    /// We were told to stop.
    Stopped,
}

impl Failure {
    /// With no more of what a server says than anybody reads.
    pub fn status(status: u16, said: &[u8]) -> Self {
        Self::Status(status, shown(said))
    }

    /// With what was found instead.
    pub fn garbage(found: &[u8]) -> Self {
        Self::Garbage(shown(found))
    }

    /// The same for all of a kind.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable(why) => format!("cannot connect: {why}"),
            Self::Status(status, _) => format!("status {status}"),
            Self::InStream(code, _) => format!("error {code} in the stream"),
            Self::Empty => "an answer without a word".to_owned(),
            Self::Cut => "the stream has no end".to_owned(),
            Self::Lost(_) => "the connection broke".to_owned(),
            Self::Aborted => "aborted by the server".to_owned(),
            Self::Garbage(_) => "unreadable".to_owned(),
            Self::Silent(time) => format!("silent for {} s", time.as_secs_f64()),
            Self::Late(time) => format!("not finished after {} s", time.as_secs_f64()),
            Self::Stopped => "told to stop".to_owned(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.reason())?;
        let said = match self {
            Self::Status(_, said) | Self::InStream(_, said) | Self::Lost(said) | Self::Garbage(said) => said,
            Self::Unreachable(_)
            | Self::Empty
            | Self::Cut
            | Self::Aborted
            | Self::Silent(_)
            | Self::Late(_)
            | Self::Stopped => "",
        };
        if said.is_empty() { Ok(()) } else { write!(out, ": {said}") }
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(SAID_MAX).collect()
}
