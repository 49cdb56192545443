//! What the gateway remembers for clients that send back only what they saw.

use crate::gateway::{Setup, question};
use loopgate::mock;
use serde_json::json;

const TURNS: usize = 10;

/// A turn's question. The first kind has one hidden execution with much output, of which the visible answer names the
/// last line only; the second has two with little.
fn asked(turn: usize) -> String {
    if turn.is_multiple_of(2) {
        let print = format!("for row in range(60):\n    print('row', row, 'of turn {turn}')");
        format!("Please run this for me:\n```python\n{print}\nraise ValueError('turn {turn} is bad')\n```")
    } else {
        format!("First compute {turn} + 30, then multiply the result by 5")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_turn_finds_the_hidden_rounds_of_the_last_one_in_the_backends_cache() {
    for stream in [false, true] {
        let backend = mock::Settings { kv_tokens: Some(100_000), ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        let mut messages = Vec::new();
        let mut turns = Vec::new();
        for turn in 0..TURNS {
            let text = asked(turn);
            messages.push(json!({"role": "user", "content": text}));
            let mut body = question(&text, stream);
            body["messages"] = json!(messages);
            let before = gateway.backend.requests().len();
            let answer = gateway.ask(&body).await;
            messages.push(json!({"role": "assistant", "content": answer.text()}));
            let calls = gateway.backend.requests().split_off(before);
            assert!(calls.len() > 1, "turn {turn} ran something: {answer:?}");
            turns.push(calls);
        }
        let mut missed = Vec::new();
        for (turn, pair) in turns.windows(2).enumerate() {
            let [.., last] = &pair[0][..] else { unreachable!("it has more than one") };
            let next = &pair[1][0];
            if f64::from(next.cached_tokens) < 0.95 * f64::from(last.prompt_tokens) {
                missed.push((turn + 1, last.prompt_tokens, next.cached_tokens));
            }
        }
        assert!(missed.is_empty(), "stream {stream}: (turn, prompt tokens, of them cached in the next) {missed:?}");
    }
}
