//! What was measured of one request.

use crate::client::Failure;
use serde_json::{Value, json};
use std::time::Duration;

/// One request's times, counted from its own beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Its place in the data set.
    pub number: usize,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Tokens of the answer: as the server says, else as many as were asked for; of a failed one, as many as came.
    pub output_tokens: u32,
    /// The same of the answer's text, counted by the tokenizer afterwards.
    pub retokenized: Option<u32>,
    /// When it began, after the run's beginning.
    pub start: Duration,
    /// To the first text.
    pub ttft: Option<Duration>,
    /// From one text to the next for each token of it, and how many tokens.
    pub gaps: Vec<(Duration, u32)>,
    /// To the last event.
    pub latency: Duration,
    /// Events that were read.
    pub events: u32,
    /// Seconds to the first token by the server's clock, of servers that tell.
    pub server_ttft: Option<f64>,
    /// Why it counts for nothing but itself.
    pub failure: Option<Failure>,
}

impl Sample {
    /// Tokens that came, as far as they can be told from outside.
    pub fn heard_tokens(&self) -> u32 {
        u32::from(self.ttft.is_some()) + self.gaps.iter().map(|(_, tokens)| tokens).sum::<u32>()
    }

    /// One after the other, a gap for each token.
    pub fn itls(&self) -> impl Iterator<Item = Duration> {
        self.gaps.iter().flat_map(|(gap, tokens)| std::iter::repeat_n(*gap, *tokens as usize))
    }

    /// Time for a token after the first, of an answer that has several.
    pub fn tpot(&self) -> Option<Duration> {
        let others = self.output_tokens.checked_sub(1).filter(|others| *others > 0)?;
        Some(self.latency.saturating_sub(self.ttft?) / others)
    }

    /// A line of the report.
    pub fn row(&self) -> Value {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "number": self.number, "start_s": self.start.as_secs_f64(), "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens, "ttft_ms": self.ttft.map(milliseconds),
            "latency_ms": milliseconds(self.latency), "server_ttft_ms": self.server_ttft.map(|seconds| seconds * 1e3),
            "error": self.failure.as_ref().map(ToString::to_string),
        })
    }
}
