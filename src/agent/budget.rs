//! What a turn has used of what it may use.

use crate::chat::{CallFragment, Delta, Failure, FailureKind, Stop, Usage};
use crate::policy::Bounds;
use std::time::Instant;

/// Bytes of all answers of a turn, thinking and hidden calls included. Chosen: eight times a context of 262144 tokens.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// The budget of one turn.
pub(super) struct Budget {
    bounds: Bounds,
    begun: Instant,
    round: u32,
    errors_in_a_row: u32,
    usage_total: Usage,
    /// Bytes that the model wrote.
    written: usize,
}

impl Budget {
    /// Nothing is used yet, but the time begins.
    pub fn new(bounds: Bounds) -> Self {
        let (begun, usage_total) = (Instant::now(), Usage::default());
        Self { bounds, begun, round: 0, errors_in_a_row: 0, usage_total, written: 0 }
    }

    /// When the turn began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Model calls, the one that is under way among them.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Tokens of all model calls.
    pub fn usage_total(&self) -> Usage {
        self.usage_total
    }

    /// The bound that ends the looping, if one is met.
    pub fn met(&self) -> Option<Stop> {
        let bounds = &self.bounds;
        if self.begun.elapsed() >= bounds.turn {
            Some(Stop::Deadline)
        } else if self.errors_in_a_row >= bounds.errors_in_a_row {
            Some(Stop::Errors)
        } else if self.round >= bounds.rounds {
            Some(Stop::Rounds)
        } else if bounds.completion_tokens.is_some_and(|most| self.usage_total.completion_tokens >= most) {
            Some(Stop::Tokens)
        } else {
            None
        }
    }

    /// A model call begins. Its number, from 1.
    pub fn begin_round(&mut self) -> u32 {
        self.round += 1;
        self.round
    }

    /// A piece of an answer has come.
    ///
    /// # Errors
    /// When the answers are longer than may be.
    pub fn hear(&mut self, delta: &Delta) -> Result<(), Failure> {
        // Pieces of nothing leave nothing behind: the finder puts those of a call together, and takes so many calls.
        let calls: usize = delta.calls.iter().map(CallFragment::bytes).sum();
        self.written += delta.content.len() + delta.reasoning.len() + calls;
        if self.written > ANSWER_BYTES_MAX {
            let message =
                format!("the model's answers to this request have more than {ANSWER_BYTES_MAX} bytes; set max_tokens");
            // The same request, sent again, would be as long.
            return Err(Failure::new(FailureKind::AnswerTooLong, message));
        }
        Ok(())
    }

    /// A model call has ended, and cost this.
    pub fn end_round(&mut self, usage: Usage) {
        self.usage_total = self.usage_total.plus(usage);
    }

    /// The calls of a message were answered. Counted by message: a model that made three mistakes at once has not yet been
    /// told of one.
    pub fn count_errors(&mut self, all_failed: bool) {
        self.errors_in_a_row = if all_failed { self.errors_in_a_row + 1 } else { 0 };
    }
}
