//! What the backend gets when an SDK comes back: the calls that its client never saw, put back where they were.

use crate::clients::{FACTORIAL, read_file};
use crate::gateway::{Setup, start};
use crate::sdks::{Conversation, users};
use loopgate::mock::Arrived;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The messages of a request, byte for byte.
fn messages(request: &Arrived) -> Vec<String> {
    #[derive(Deserialize)]
    struct Body {
        messages: Vec<Box<RawValue>>,
    }
    let body: Body = serde_json::from_slice(&request.body).expect("a chat completion");
    body.messages.iter().map(|message| message.get().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_turn_has_the_hidden_rounds_of_the_first_byte_for_byte() {
    for user in users() {
        let gateway = start().await;
        let seen = user.sees(&gateway, &Conversation::of(&[FACTORIAL, "Thanks"])).await;
        assert_eq!(seen.answers.len(), 2, "{user:?}: {seen:?}");
        let requests = gateway.backend.requests();
        let [_, last_of_first, second] = &requests[..] else { panic!("{user:?}: {requests:?}") };
        let (before, after) = (messages(last_of_first), messages(second));
        assert_eq!(before.len(), 3, "the user's words, the call, its result");
        // Then the answer that was seen, and the new words.
        assert_eq!(after.len(), before.len() + 2, "{user:?}: {after:#?}");
        assert_eq!(after[..before.len()], before, "{user:?}");
        assert!(after[before.len()].contains("3628800"), "{user:?}: {after:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_continuation_of_a_mixed_turn_has_both_calls_and_both_results_in_call_order() {
    let words = r#"Use read_file with {"path": "a"} and run 1 + 2"#;
    for user in users() {
        let gateway = Setup::default().rules("offer = 'always'").start().await;
        let seen = user.sees(&gateway, &Conversation::of(&[words]).tools(&[read_file()], "buy milk")).await;
        assert_eq!(seen.answers.len(), 2, "{user:?}: {seen:?}");
        let requests = gateway.backend.requests();
        let [_, continued] = &requests[..] else { panic!("{user:?}: {requests:?}") };
        let body = continued.json();
        let [asked, called, ours, theirs] = &body["messages"].as_array().expect("messages")[..] else {
            panic!("{user:?}: {body:#}")
        };
        assert_eq!((&asked["content"], &called["role"]), (&json!(words), &json!("assistant")), "{user:?}");
        let calls = called["tool_calls"].as_array().expect("calls");
        let names: Vec<&Value> = calls.iter().map(|call| &call["function"]["name"]).collect();
        assert_eq!(names, ["execute_code", "read_file"], "{user:?}");
        for (call, (result, text)) in calls.iter().zip([(ours, "3"), (theirs, "buy milk")]) {
            assert_eq!((&result["role"], &result["tool_call_id"]), (&json!("tool"), &call["id"]), "{user:?}");
            assert_eq!(result["content"].as_str().map(str::trim), Some(text), "{user:?}");
        }
        assert_eq!(seen.answers[1].text, "The results are 3 and buy milk.", "{user:?}");
    }
}
