//! `coding-sessions`: what coding agents ask. All begin with the same instructions; each turn adds what a person says or
//! a tool gives back, and the prompt is everything so far.

use super::{Message, Says, Session, Turn, Wanted, clamped};
use crate::bench::serve::lots::Lots;
use crate::bench::serve::tokenizer::Unusable;
use crate::bench::serve::tokens::Tokens;
use std::time::Duration;

/// Turns of a session. Chosen: with the lengths below, and beginnings of 1,000 tokens, its prompts grow to about 8,000.
const TURNS: usize = 6;
/// Median and spread of what is said first, and of what tools give back: those of `loopgate simulate`…
const FIRST: (f64, f64) = (1_200.0, 0.8);
const RESULT: (f64, f64) = (900.0, 1.1);
/// …and of answers.
const ANSWER: (f64, f64) = (180.0, 0.9);
/// Tokens of one message. Chosen: tools cut what is longer.
const SAID: (u32, u32) = (30, 4_000);
/// Tokens of the shortest answer: a call.
const ANSWER_LEAST: u32 = 20;

pub(super) fn draw(wanted: &Wanted, tokens: &Tokens, lots: &mut Lots) -> Result<Vec<Session>, Unusable> {
    let mut words = Lots::python(wanted.seed);
    let head = Message { role: "system".to_owned(), content: tokens.words(wanted.input_len, &mut words)? };
    let mut left = wanted.prompts as usize;
    let mut sessions = Vec::new();
    while left > 0 {
        let turns = left.min(TURNS);
        left -= turns;
        let mut input_tokens = wanted.input_len;
        let turn = |number: usize| {
            let (median, sigma) = if number == 0 { FIRST } else { RESULT };
            let said = clamped(lots.lognormal(median, sigma), SAID.0, SAID.1);
            let says = Message { role: "user".to_owned(), content: tokens.words(said, &mut words)? };
            let head = (number == 0).then(|| head.clone());
            input_tokens += said;
            let output_tokens = clamped(lots.lognormal(ANSWER.0, ANSWER.1), ANSWER_LEAST, wanted.output_len);
            let turn =
                Turn { says: Says::Messages(head.into_iter().chain([says]).collect()), input_tokens, output_tokens };
            input_tokens += output_tokens;
            Ok::<_, Unusable>(turn)
        };
        let turns = (0..turns).map(turn).collect::<Result<_, _>>()?;
        sessions.push(Session { arrives: Duration::ZERO, turns });
    }
    Ok(sessions)
}
