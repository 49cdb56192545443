//! The work: coding sessions, as many as there are people, each with one turn after the other.
//!
//! Sessions draw their lots from a source of their own each, so that every policy meets the same sessions.

use super::cache::Need;
use crate::backend::balance::{Block, Lots, Moment, Prefix, Request, whole};
use std::time::Duration;

/// Bytes of a token.
const BYTES_PER_TOKEN: u32 = 4;
/// Tokens of a block.
const BLOCK_TOKENS: u32 = 64;
/// Families: teams whose sessions begin with the same tools and instructions.
const FAMILIES: u64 = 3;
/// The share of sessions that are of the first.
const FIRST_FAMILY: f64 = 0.6;
/// Tokens of a family's beginning, from and up to.
const HEAD_TOKENS: (f64, f64) = (8_000.0, 16_000.0);
/// A context that would be longer is compacted…
const CONTEXT_TOKENS_MAX: u32 = 120_000;
/// …to the family's beginning and so many tokens.
const COMPACTED_TOKENS: u32 = 4_000;
/// Everybody has come by then.
const STARTS_S: f64 = 60.0;

/// One seat: a person whose sessions follow each other.
pub struct Seat {
    lots: Lots,
    number: u64,
    epoch: u64,
    session: u64,
    /// Its family.
    family: u64,
    head: u32,
    turns_left: u32,
    prompt: Prefix,
    /// Tokens of the prompt.
    context: u32,
    /// Tokens of the answer that it is going to get.
    answer: u32,
}

impl Seat {
    /// The seat, and when it begins.
    pub fn new(seed: u64, number: u64) -> (Self, Moment) {
        let lots = Lots::new(seed.wrapping_mul(1_000_003) ^ (number << 32));
        let start = seconds(lots.unit() * STARTS_S);
        let seat = Self {
            lots,
            number,
            epoch: 0,
            session: 0,
            family: 0,
            head: 0,
            turns_left: 0,
            prompt: Prefix::default(),
            context: 0,
            answer: 0,
        };
        (seat, start)
    }

    /// Another session begins; its first prompt is ready.
    pub fn begin(&mut self, seed: u64) {
        self.family = if self.lots.unit() < FIRST_FAMILY { 0 } else { 1 + self.lots.draw() % (FAMILIES - 1) };
        self.head = head_tokens(seed, self.family);
        self.session = self.number << 32 | (self.session + 1) & 0xffff_ffff;
        self.turns_left = 2 + tokens(self.exponential(30.0));
        self.restart();
        self.say(tokens(self.lognormal(1_200.0, 0.8)));
        self.next_answer();
    }

    /// The turn is over: when the next comes, or `None` if the session is.
    pub fn answered(&mut self) -> Option<Duration> {
        self.turns_left -= 1;
        if self.turns_left == 0 {
            return None;
        }
        self.say(self.answer);
        let result = tokens(self.lognormal(900.0, 1.1).clamp(30.0, 12_000.0));
        if self.context + result > CONTEXT_TOKENS_MAX {
            self.restart();
            self.say(COMPACTED_TOKENS);
        } else {
            self.say(result);
        }
        self.next_answer();
        let thinks = self.lots.unit() < 0.12;
        Some(seconds(if thinks { self.exponential(90.0) } else { 0.3 + self.exponential(3.0) }))
    }

    /// How long until somebody begins another session here.
    pub fn pause(&self) -> Duration {
        seconds(self.exponential(20.0))
    }

    /// What it asks now.
    pub fn request(&self) -> Request {
        Request { session: Some(self.session), prefix: self.prompt.clone(), prefer: None }
    }

    /// What the turn needs of a backend's cache.
    pub fn need(&self) -> Need {
        let conversation = (self.session, self.epoch);
        Need { family: self.family, conversation, head: self.head, context: self.context, answer: self.answer }
    }

    fn next_answer(&mut self) {
        self.answer = tokens(self.lognormal(180.0, 0.9).clamp(20.0, 4_000.0));
    }

    /// Back to what the family shares.
    fn restart(&mut self) {
        self.epoch += 1;
        let mut blocks = Vec::new();
        grow(&mut blocks, hash(u64::MAX, self.family), 0, self.head);
        let head = blocks.len();
        self.prompt = Prefix::of_blocks(blocks, head, head);
        self.context = self.head;
    }

    /// The prompt grows by a message.
    fn say(&mut self, tokens: u32) {
        let mut blocks = Vec::new();
        let salt = hash(hash(self.session, self.epoch), u64::from(self.context));
        grow(&mut blocks, salt, self.context, tokens);
        self.prompt.append_blocks(&blocks);
        self.context += tokens;
    }

    fn exponential(&self, mean: f64) -> f64 {
        -(1.0 - self.lots.unit()).ln() * mean
    }

    fn lognormal(&self, median: f64, sigma: f64) -> f64 {
        // Box and Muller's way to a normal variable.
        let radius = (-2.0 * (1.0 - self.lots.unit()).ln()).sqrt();
        median * (sigma * radius * (std::f64::consts::TAU * self.lots.unit()).cos()).exp()
    }
}

fn head_tokens(seed: u64, family: u64) -> u32 {
    let lots = Lots::new(seed.wrapping_mul(1_000_003).wrapping_add(family));
    tokens(HEAD_TOKENS.0 + lots.unit() * (HEAD_TOKENS.1 - HEAD_TOKENS.0))
}

/// Adds `tokens` after the first `start`.
fn grow(blocks: &mut Vec<Block>, salt: u64, start: u32, tokens: u32) {
    let mut done = 0;
    while done < tokens {
        done = tokens.min(done + BLOCK_TOKENS);
        blocks.push(Block { chain: hash(salt, u64::from(done)), end: (start + done) * BYTES_PER_TOKEN });
    }
}

fn hash(left: u64, right: u64) -> u64 {
    Lots::new(left ^ Lots::new(right).draw()).draw()
}

fn tokens(count: f64) -> u32 {
    u32::try_from(whole(count)).unwrap_or(u32::MAX)
}

pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
