//! What is asked: the data sets.

mod coding;
mod jsonl;
mod random;
#[cfg(test)]
mod tests;

use super::lots::Lots;
use super::tokenizer::Unusable;
use super::tokens::Tokens;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The data sets by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DataSet {
    /// Lengths by lot; texts from a `ShareGPT` file, or of words
    Random,
    /// The same lengths; prompts are tokens in the order of the vocabulary
    RandomIds,
    /// Conversations that share their beginning and grow by turns, as those of coding agents
    CodingSessions,
    /// Prompts, conversations or messages of a file, one a line
    Jsonl,
}

/// What is wanted of a data set.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which.
    pub data_set: DataSet,
    /// Its file.
    pub path: Option<PathBuf>,
    /// Requests.
    pub prompts: u32,
    /// Tokens of a prompt at most; in coding sessions of what all have in common.
    pub input_len: u32,
    /// Tokens of an answer at most.
    pub output_len: u32,
    /// The least of either, as a part of the most.
    pub range_ratio: f64,
    /// Of the lots.
    pub seed: u32,
    /// The model's `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// Send tokens and no text.
    pub as_ids: bool,
    /// New conversations a second; without it all come at once.
    pub request_rate: Option<f64>,
}

/// Why there is nothing to ask.
#[derive(Debug, thiserror::Error)]
pub enum NoData {
    /// The tokenizer's trouble.
    #[error(transparent)]
    Tokenizer(#[from] Unusable),
    /// The data set's.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something has to be said first.
    #[error("{0}")]
    Missing(&'static str),
}

/// Everything that is asked, and when.
#[derive(Debug)]
pub(super) struct Data {
    pub sessions: Vec<Session>,
    /// How texts were counted.
    pub tokens: Tokens,
}

/// Requests one after the other. Most sessions have one.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// When it comes, after the beginning.
    pub arrives: Duration,
    pub turns: Vec<Turn>,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub says: Says,
    /// Tokens of the whole prompt.
    pub input_tokens: u32,
    /// Tokens of the answer, which the server is told to write.
    pub output_tokens: u32,
}

/// What a prompt is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Says {
    /// A text to go on with.
    Text(String),
    /// The same as tokens.
    Ids(Vec<u32>),
    /// Messages after those of the turns before, and their answers.
    Messages(Vec<Message>),
}

/// One of a conversation. What else one of a file has, such as calls, would not be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub role: String,
    pub content: String,
}

impl Data {
    /// Draws or reads it.
    ///
    /// # Errors
    /// When a file is missing or of no use, or the data set needs one that was not named.
    pub fn load(wanted: &Wanted) -> Result<Self, NoData> {
        let tokens = Tokens::read(wanted.tokenizer.as_deref())?;
        let mut lots = Lots::numpy(wanted.seed);
        let mut sessions: Vec<_> = match wanted.data_set {
            DataSet::Random | DataSet::RandomIds => {
                random::draw(wanted, &tokens, &mut lots)?.into_iter().map(one).collect()
            }
            DataSet::CodingSessions => coding::draw(wanted, &tokens, &mut lots)?,
            DataSet::Jsonl => jsonl::read(wanted, &tokens)?.into_iter().map(one).collect(),
        };
        if let Some(rate) = wanted.request_rate {
            let mut arrives = Duration::ZERO;
            for session in &mut sessions {
                session.arrives = arrives;
                arrives += Duration::from_secs_f64(lots.exponential(1.0 / rate));
            }
        }
        Ok(Self { sessions, tokens })
    }

    pub fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.sessions.iter().flat_map(|session| &session.turns)
    }
}

fn one(turn: Turn) -> Session {
    Session { arrives: Duration::ZERO, turns: vec![turn] }
}

/// Tokens as drawn: not below 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 1 and the most")]
fn clamped(tokens: f64, least: u32, most: u32) -> u32 {
    tokens.clamp(f64::from(least.min(most)), f64::from(most.max(1))) as u32
}
