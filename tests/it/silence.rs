//! How long a client hears nothing.

use crate::gateway::{Setup, question};
use loopgate::mock;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_empty_deltas_after_the_role_which_comes_first_and_once() {
    let backend = mock::Settings { ttft: Duration::from_millis(700), ..mock::Settings::default() };
    let gateway = Setup::default()
        .backend(backend)
        .rules("silence.heartbeat_ms = 100\nsilence.commit_after_ms = 100")
        .start()
        .await;
    let chunks = gateway.ask(&question("What is 12 * 34?", true)).await.chunks();
    let roles: Vec<_> = chunks.iter().map(|it| it["choices"][0]["delta"]["role"].is_string()).collect();
    assert_eq!((roles[0], roles.iter().filter(|role| **role).count()), (true, 1));
    let beats = chunks.iter().filter(|it| it["choices"][0]["delta"] == json!({}) && it["loopgate"].is_null()).count();
    // Two waits of 700 ms; a slow machine makes them longer.
    assert!((5..40).contains(&beats), "{beats} heartbeats in {chunks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_kept_alive_by_white_space_also_while_its_text_is_written() {
    let backend = mock::Settings {
        ttft: Duration::from_millis(150),
        pace: Duration::from_millis(30),
        ..mock::Settings::default()
    };
    let gateway = Setup::default()
        .backend(backend)
        .rules("offer = 'always'\nsilence.heartbeat_ms = 100\nsilence.commit_after_ms = 100")
        .start()
        .await;
    let answer = gateway.ask(&question("Who are you?", false)).await;
    assert!(answer.json()["choices"][0]["message"]["content"].as_str().expect("text").contains("demo model"));
    let blanks = answer.body.iter().take_while(|byte| **byte == b' ').count();
    // 150 ms until the first token, then some 40 tokens of 30 ms: one blank without those.
    assert!((4..60).contains(&blanks), "{blanks} in {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_status_is_an_error_body_inside_the_200() {
    let backend = mock::Settings { ttft: Duration::from_millis(300), ..mock::Settings::default() };
    let gateway = Setup::default().backend(backend).rules("silence.commit_after_ms = 50").start().await;
    gateway.backend.set_fault(Some(mock::Fault::DieAfter(1)));
    let whole = gateway.ask(&question("Hello", false)).await;
    assert_eq!((whole.status, &whole.json()["error"]["code"]), (200, &json!("backend_failed")));
    let chunks = gateway.ask(&question("Hello", true)).await.chunks();
    assert_eq!(chunks.last().expect("chunks")["error"]["code"], "backend_failed");
}
