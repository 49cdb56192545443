//! Requests that are sent again: a lost answer costs no second run, and a second question is one.

use crate::gateway::{Gateway, Setup, question, start, until};
use crate::wires::{Line, Scripted, stream_of};
use loopgate::access::KeyHash;
use loopgate::mock::Fault;
use serde_json::{Value, json};

const SLOW: &str = "Sleep for 0.4 seconds";
/// As the SDKs of `OpenAI` mark one that they send again.
const RETRY: &str = "x-stainless-retry-count: 1";

async fn retried(gateway: &Gateway, body: &Value) -> crate::gateway::Answer {
    let headers = [("x-stainless-retry-count", "1")];
    gateway.send(http::Method::POST, "/v1/chat/completions", &headers, body.to_string()).await
}

fn runs(gateway: &Gateway) -> usize {
    gateway.audit().iter().filter(|line| line["status"] == "completed" && line["replayed"].is_null()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_after_a_cut_gets_the_outcome_of_its_first() {
    let gateway = start().await;
    let body = question(SLOW, true);
    // The turn must not end before its client leaves.
    gateway.backend.fault_at(1, Fault::StallAfter(1));
    let mut line = Line::ask(&gateway, &body).await;
    line.until("\"event\":\"executed\"").await;
    gateway.backend.wait_until(|log| log.asked().count() == 2).await;
    drop(line);
    gateway.until_idle().await;
    let answer = gateway.ask(&body).await;
    assert!(answer.text().contains("slept"), "{}", answer.text());
    assert_eq!(runs(&gateway), 1, "{:?}", gateway.audit());
    let executed = answer.chunks().into_iter().filter(|it| it["loopgate"]["event"] == "executed").count();
    assert_eq!(executed, 1, "the client is told as if it had run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_joins_the_turn_that_its_first_began_and_hears_all_of_it() {
    let gateway = start().await;
    let body = question(SLOW, true);
    // The turn must not end before the retry hears of it.
    let hold = gateway.backend.hold_at(1, 0);
    let mut first = Line::ask(&gateway, &body).await;
    first.until("\"event\":\"executing\"").await;
    let mut second = Line::ask_with(&gateway, &body, RETRY).await;
    second.until("\"event\":\"executing\"").await;
    drop(hold);
    let (first, second) = tokio::join!(first.until("[DONE]"), second.until("[DONE]"));
    assert!(first.contains("slept") && second.contains("slept"), "{first}\n{second}");
    assert_eq!(second.matches("\"role\":\"assistant\"").count(), 1, "{second}");
    assert_eq!(runs(&gateway), 1, "{:?}", gateway.audit());
    assert_eq!(gateway.backend.requests().into_iter().filter(loopgate::mock::Arrived::asks).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_turn_goes_on_when_its_first_listener_leaves() {
    let gateway = Setup::default().flag("concurrent-max", 2).start().await;
    let body = question(SLOW, true);
    // The turn must not end before its first listener has left.
    let hold = gateway.backend.hold_at(1, 0);
    let mut line = Line::ask(&gateway, &body).await;
    line.until("\"event\":\"executing\"").await;
    let mut joined = Line::ask_with(&gateway, &body, RETRY).await;
    joined.until("\"event\":\"executing\"").await;
    gateway.backend.wait_until(|log| log.asked().count() == 2).await;
    assert_eq!(gateway.ask(&question("Hello", false)).await.status, 429, "both have a slot");
    drop(line);
    until("the first one's slot is free", async || gateway.ask(&question("Hello", false)).await.status == 200).await;
    drop(hold);
    joined.until("[DONE]").await;
    assert_eq!(runs(&gateway), 1, "{:?}", gateway.audit());
    assert_eq!(gateway.audit().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_a_whole_answer_is_given_its_outcomes_again() {
    let gateway = start().await;
    let body = question("What is 12 * 34?", false);
    assert_eq!(gateway.ask(&body).await.text(), "The result is 408.");
    assert_eq!(retried(&gateway, &body).await.text(), "The result is 408.");
    assert_eq!(runs(&gateway), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_question_asked_twice_on_purpose_runs_twice() {
    let gateway = start().await;
    let body = question("What is 12 * 34?", false);
    for _ in 0..2 {
        assert_eq!(gateway.ask(&body).await.text(), "The result is 408.");
    }
    let (one, two) = tokio::join!(gateway.ask(&body), gateway.ask(&body));
    assert_eq!((one.text(), two.text()), ("The result is 408.".to_owned(), "The result is 408.".to_owned()));
    assert_eq!(runs(&gateway), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_after_its_first_has_failed_runs_nothing_twice() {
    let function = json!({"name": "execute_code", "arguments": "{\"code\": \"print(12 * 34)\"}"});
    let calls = json!([{"index": 0, "id": "call_1", "type": "function", "function": function}]);
    let call =
        || stream_of(&[json!({"delta": {"tool_calls": calls}}), json!({"delta": {}, "finish_reason": "tool_calls"})]);
    let cut = json!({"id": "x", "choices": [{"delta": {"content": "The"}}]});
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {cut}\n\n");
    let last = stream_of(&[json!({"delta": {"content": "408."}, "finish_reason": "stop"})]);
    let backend = Scripted::start(vec![call(), vec![cut.into()], call(), last]).await;
    // With a second try the answer would be continued.
    let gateway = Setup::default().flag("backend", &backend.url).flag("attempts-max", 1).start().await;
    let body = question("What is 12 * 34?", true);
    let failed = gateway.ask(&body).await;
    assert!(failed.chunks().iter().any(|it| it["error"].is_object()), "{failed:?}");
    assert_eq!(gateway.ask(&body).await.text(), "408.");
    assert_eq!(runs(&gateway), 1, "{:?}", gateway.audit());
    let audit = gateway.audit();
    assert_eq!((audit.len(), &audit[1]["replayed"]), (2, &json!(true)), "{audit:?}");
    assert_ne!(audit[0]["request_id"], audit[1]["request_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_an_outcome_of_another_caller() {
    let callers = ["ann", "bob"]
        .map(|name| format!("[[callers]]\nname = '{name}'\nkey_sha256 = '{}'\n", KeyHash::of(name).hex()));
    let gateway = Setup::default().file(&callers.concat()).start().await;
    let body = question("What is 12 * 34?", false).to_string();
    for name in ["ann", "bob", "ann"] {
        let headers =
            [("authorization", &*format!("Bearer {name}")), ("x-stainless-retry-count", "1"), ("x-request-id", "x")];
        let answer = gateway.send(http::Method::POST, "/v1/chat/completions", &headers, body.clone()).await;
        assert_eq!(answer.text(), "The result is 408.");
    }
    assert_eq!(runs(&gateway), 2, "bob's own, and ann's once: {:?}", gateway.audit());
}
