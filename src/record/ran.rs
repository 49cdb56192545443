//! What a line of the audit holds so that its execution can be made again, and its outcome compared.

use crate::policy::Permit;
use crate::sandbox::{Conditions, Outcome, Past, Run};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What was known when it began.
#[derive(Debug, Serialize)]
pub(super) struct Begun {
    /// A name that no other execution has.
    pub execution_id: String,
    /// It was made again from the line of this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// Which guest it ran in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Of the program of a tool that has one of its own. The line's code is its arguments then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_sha256: Option<String>,
    /// Where its random numbers came from: 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// When it began, by its own clocks: nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix_ns: Option<u64>,
}

/// What was known when it was over.
#[derive(Debug, Serialize)]
pub(super) struct Over {
    /// The execution from whose state it started. Null: there was none before it.
    pub after: Option<String>,
    /// It started from a session whose files its caller had changed, of which there is no line.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub files_changed: bool,
    /// What its clocks said, in nanoseconds since it began.
    pub readings_ns: Vec<u64>,
    /// See [`outcome_sha256`].
    pub outcome_sha256: String,
}

impl Begun {
    pub fn new(run: &Run, permit: &Permit, guest: &str) -> Self {
        Self {
            execution_id: run.id.to_string(),
            replay_of: None,
            guest: Some(guest.to_owned()),
            program_sha256: program_sha256(permit),
            seed: Some(seed_text(&run.conditions)),
            unix_ns: Some(run.conditions.unix_ns),
        }
    }

    pub fn only_id(execution_id: String) -> Self {
        Self { execution_id, replay_of: None, guest: None, program_sha256: None, seed: None, unix_ns: None }
    }
}

impl Over {
    /// Nothing of what never began.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        outcome.ended.has_run().then(|| Self {
            after: match &outcome.past {
                Past::After(id) => Some(id.to_string()),
                Past::New | Past::Amended => None,
            },
            files_changed: outcome.past == Past::Amended,
            readings_ns: outcome.readings.clone(),
            outcome_sha256: outcome_sha256(outcome),
        })
    }
}

/// SHA-256 over status, stdout, stderr, value and error, in this order: each as its length in bytes (8 bytes,
/// little-endian) and its text; where there is none, as an empty one.
pub(super) fn outcome_sha256(outcome: &Outcome) -> String {
    let (value, error) = (outcome.value.as_deref(), outcome.error.as_deref());
    let texts = [outcome.status().as_str(), &outcome.stdout, &outcome.stderr];
    let mut digest = Sha256::new();
    for text in texts.into_iter().chain([value.unwrap_or_default(), error.unwrap_or_default()]) {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    format!("{:x}", digest.finalize())
}

pub(super) fn program_sha256(permit: &Permit) -> Option<String> {
    let (program, arguments) = permit.checked().program();
    arguments.map(|_| format!("{:x}", Sha256::digest(program)))
}

fn seed_text(conditions: &Conditions) -> String {
    conditions.seed.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// What [`seed_text`] has written.
pub(super) fn seed(text: &str) -> Option<[u8; 32]> {
    let mut seed = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in seed.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_read_as_it_was_written() {
        let conditions = Conditions { seed: *b"0123456789abcdef\x00\x01\xf0\xffABCDEFGHIJKL", ..Conditions::default() };
        assert_eq!(seed(&seed_text(&conditions)), Some(conditions.seed));
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"0".repeat(66)] {
            assert_eq!(seed(bad), None, "{bad}");
        }
    }
}
