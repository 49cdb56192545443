//! The events of one stream, in order, each with the tokens that are written before it.

use super::chat_wire::{Chunks, Envelope, usage_frame};
use super::plain_wire::{Plain, Text};
use super::question::Usage;
use super::steps::{Step, Steps};
use super::writing::Writing;
use crate::sse;
use bytes::Bytes;
use std::time::Duration;

/// All choices of a stream, taking turns, then the usage and `[DONE]`.
#[derive(Debug)]
pub struct Frames {
    choices: Vec<Choice>,
    /// Whose turn it is.
    turn: usize,
    usage: Option<Envelope>,
    completion_tokens: u32,
    reasoning_tokens: u32,
    done: bool,
}

#[derive(Debug)]
struct Choice {
    steps: Steps,
    shape: Shape,
    ended: bool,
}

#[derive(Debug)]
enum Shape {
    Chat(Chunks),
    Plain(Plain, Envelope, Text),
}

impl Frames {
    /// A stream of chat chunks; each choice has its envelope.
    pub fn chat(choices: Vec<(Envelope, Writing)>, usage: Usage) -> Self {
        let usage_at_end = choices.first().filter(|_| usage != Usage::Nowhere).map(|(envelope, _)| envelope.clone());
        let choices = (0..).zip(choices).map(|(index, (envelope, writing))| Choice {
            steps: Steps::new(envelope.version, envelope.native_calls, writing),
            shape: Shape::Chat(Chunks::new(envelope, index, usage == Usage::Everywhere)),
            ended: false,
        });
        Self::of(choices.collect(), usage_at_end)
    }

    /// A stream of `/v1/completions` or `/generate`.
    pub fn plain(kind: Plain, envelope: Envelope, writing: Writing) -> Self {
        let steps = Steps::new(envelope.version, false, writing);
        Self::of(vec![Choice { steps, shape: Shape::Plain(kind, envelope, Text::default()), ended: false }], None)
    }

    fn of(choices: Vec<Choice>, usage: Option<Envelope>) -> Self {
        Self { choices, turn: 0, usage, completion_tokens: 0, reasoning_tokens: 0, done: false }
    }

    /// Ends every choice that has not ended.
    pub fn abort(&mut self) {
        self.choices.iter_mut().for_each(|choice| choice.steps.abort());
    }

    /// The first token has been written, so long after the request had come. Only `/generate` tells.
    pub fn began(&mut self, after: Duration) {
        for choice in &mut self.choices {
            if let Shape::Plain(_, _, text) = &mut choice.shape {
                text.first_token.get_or_insert(after);
            }
        }
    }

    /// Drops everything but `[DONE]`.
    pub fn break_off(&mut self) {
        self.choices.clear();
        self.usage = None;
    }

    /// Drops everything.
    pub fn hush(&mut self) {
        self.break_off();
        self.done = true;
    }

    /// The next event, if the step has one, and the tokens that were written for it. All choices are written at the same
    /// time: the first one's tokens count.
    pub fn next(&mut self) -> Option<(Option<Bytes>, u32)> {
        while self.choices.iter().any(|choice| !choice.ended) {
            let at = self.turn % self.choices.len();
            self.turn += 1;
            let choice = &mut self.choices[at];
            let Some((step, tokens)) = choice.steps.next() else {
                choice.ended = true;
                continue;
            };
            self.completion_tokens += tokens;
            if matches!(step, Step::Reasoning(_)) {
                self.reasoning_tokens += tokens;
            }
            return Some((choice.frame(&step, tokens), if at == 0 { tokens } else { 0 }));
        }
        if let Some(envelope) = self.usage.take() {
            return Some((Some(usage_frame(&envelope, self.completion_tokens, self.reasoning_tokens)), 0));
        }
        if self.done {
            return None;
        }
        self.done = true;
        Some((Some(sse::frame(sse::DONE)), 0))
    }
}

impl Choice {
    fn frame(&mut self, step: &Step, tokens: u32) -> Option<Bytes> {
        match &mut self.shape {
            Shape::Chat(chunks) => chunks.frame(step, tokens),
            Shape::Plain(kind, envelope, text) => {
                let (Step::Content(last) | Step::Reasoning(last)) = step else {
                    let Step::Finish(ending) = step else { return None };
                    text.last.clear();
                    return Some(kind.frame(envelope, text, Some(ending)));
                };
                text.so_far.push_str(last);
                text.last.clone_from(last);
                text.tokens += tokens;
                // The last token and the end come in one event.
                if !self.steps.only_end_is_left() {
                    return Some(kind.frame(envelope, text, None));
                }
                let Some((Step::Finish(ending), _)) = self.steps.next() else { return None };
                Some(kind.frame(envelope, text, Some(&ending)))
            }
        }
    }
}
