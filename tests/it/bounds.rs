//! Every bound of a turn ends it with an answer, and the answer says which.

use crate::gateway::{Gateway, Setup, question};
use crate::wires::{Scripted, stream_of};
use loopgate::mock;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Chosen: a program has begun by then on the slowest machine.
const SECONDS: &str = "bounds.turn_seconds = 5";
/// From whenever it begins until the turn's time is over.
const UNTIL_IT_IS_OVER: &str = "import time\ntime.sleep(5.1)";

/// An answer that was ended by a bound, in both forms.
async fn ended(gateway: &Gateway, text: &str) -> [Value; 2] {
    let whole = gateway.ask(&question(text, false)).await;
    assert!(!whole.text().is_empty(), "{whole:?}");
    let streamed = gateway.ask(&question(text, true)).await;
    assert!(!streamed.text().is_empty(), "{streamed:?}");
    let chunks = streamed.chunks();
    let summary = chunks.iter().map(|it| &it["loopgate"]).find(|it| it["stop"].is_string()).expect("a summary");
    let last = gateway.backend.requests().pop().expect("a request").json();
    assert_eq!(last["tool_choice"], "none", "the last call can only answer");
    [whole.json()["loopgate"].clone(), summary.clone()]
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds() {
    let gateway = Setup::default().rules("bounds.rounds = 2").start().await;
    for told in ended(&gateway, "Keep calling").await {
        assert_eq!((&told["stop"], &told["rounds"]), (&json!("rounds"), &json!(3)), "two rounds and the answer");
    }
    assert_eq!(gateway.audit().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_in_a_row() {
    let gateway = Setup::default().rules("bounds.errors_in_a_row = 1").start().await;
    for told in ended(&gateway, "Divide by zero").await {
        assert_eq!((&told["stop"], &told["rounds"]), (&json!("errors"), &json!(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_tokens() {
    let gateway = Setup::default().rules("bounds.completion_tokens = 1").start().await;
    for told in ended(&gateway, "Keep calling").await {
        assert_eq!((&told["stop"], &told["rounds"]), (&json!("tokens"), &json!(2)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seconds() {
    let gateway = Setup::default().rules(SECONDS).start().await;
    let answer = gateway.ask(&question(&format!("```python\n{UNTIL_IT_IS_OVER}\n```"), false)).await.json();
    assert_eq!((&answer["loopgate"]["stop"], &answer["loopgate"]["rounds"]), (&json!("deadline"), &json!(2)));
    let executed = &answer["choices"][0]["message"]["executed_tools"];
    assert_eq!(executed[0]["status"], "completed", "what runs is not cut: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_would_begin_after_the_turns_time_is_not_run() {
    let call = |id: &str, code: &str| {
        let arguments = json!({"code": code}).to_string();
        json!({"index": 0, "id": id, "type": "function", "function": {"name": "execute_code", "arguments": arguments}})
    };
    let mut calls = json!([call("a", UNTIL_IT_IS_OVER), call("b", "print('late')")]);
    calls[1]["index"] = json!(1);
    let backend = Scripted::start(vec![
        stream_of(&[json!({"delta": {"tool_calls": calls}}), json!({"delta": {}, "finish_reason": "tool_calls"})]),
        stream_of(&[json!({"delta": {"content": "Enough."}}), json!({"delta": {}, "finish_reason": "stop"})]),
    ])
    .await;
    let gateway = Setup::default().flag("backend", &backend.url).rules(SECONDS).start().await;
    let answer = gateway.ask(&question("Anything", false)).await.json();
    let executed = &answer["choices"][0]["message"]["executed_tools"];
    assert_eq!((&executed[0]["status"], &executed[1]["status"]), (&json!("completed"), &json!("denied")), "{answer}");
    assert!(executed[1]["output"].as_str().expect("text").contains("not allowed"), "{executed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_answer_is_never_cut_by_the_turns_time() {
    let backend = mock::Settings { pace: Duration::from_millis(30), ..mock::Settings::default() };
    let gateway = Setup::default().backend(backend).rules("bounds.turn_seconds = 1").start().await;
    let begun = Instant::now();
    let answer = gateway.ask(&question("Who are you?", false)).await.json();
    assert!(begun.elapsed() > Duration::from_secs(1), "the answer took longer than the bound");
    assert_eq!(answer["loopgate"]["stop"], "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_one_message() {
    let gateway = Setup::default().rules("bounds.calls_per_round = 1").start().await;
    let answer = gateway.ask(&question("Run two programs: 3 + 4 and 5 * 6", false)).await.json();
    let executed = &answer["choices"][0]["message"]["executed_tools"];
    assert_eq!((&executed[0]["status"], &executed[1]["status"]), (&json!("completed"), &json!("denied")));
    assert_eq!(gateway.audit().len(), 2, "a refused call has its line too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_silent_to_the_last_gets_the_last_result_told_for_it() {
    let calls = json!([{"index": 0, "id": "a", "type": "function",
        "function": {"name": "execute_code", "arguments": "{\"code\": \"6 * 7\"}"}}]);
    let nothing = || stream_of(&[json!({"delta": {"content": ""}}), json!({"delta": {}, "finish_reason": "stop"})]);
    let backend = Scripted::start(vec![
        stream_of(&[json!({"delta": {"tool_calls": calls}}), json!({"delta": {}, "finish_reason": "tool_calls"})]),
        nothing(),
        nothing(),
    ])
    .await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let answer = gateway.ask(&question("Anything", false)).await;
    assert_eq!(answer.text(), "The model gave no answer. The last result was:\n42");
}
