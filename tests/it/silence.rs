//! How long a client hears nothing.

use crate::gateway::{Setup, events, question, until};
use loopgate::mock::{self, Fault, Outcome};
use serde_json::json;
use std::time::{Duration, Instant};

const RULES: &str = "offer = 'always'\nsilence.heartbeat_ms = 100\nsilence.commit_after_ms = 100";
const HEARTBEAT: Duration = Duration::from_millis(100);

fn beats(body: &[u8]) -> usize {
    let is_beat = |it: &&serde_json::Value| it["choices"][0]["delta"] == json!({}) && it["loopgate"].is_null();
    events(body).iter().filter(is_beat).count()
}

fn blanks(body: &[u8]) -> usize {
    body.iter().take_while(|byte| **byte == b' ').count()
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_empty_deltas_after_the_role_which_comes_first_and_once() {
    let gateway = Setup::default().rules(RULES).start().await;
    // The model is silent over the question, and again over the result.
    let holds = [0, 1].map(|request| gateway.backend.hold_at(request, 0));
    let asked = Instant::now();
    let mut answer = gateway.begin(&question("What is 12 * 34?", true)).await;
    for (hold, known) in holds.into_iter().zip(["\"role\"", "\"event\":\"executed\""]) {
        answer.until(known, |body| String::from_utf8_lossy(body).contains(known)).await;
        let before = beats(&answer.seen);
        answer.until("three heartbeats", |body| beats(body) >= before + 3).await;
        drop(hold);
    }
    let answer = answer.rest().await;
    let chunks = answer.chunks();
    let roles: Vec<_> = chunks.iter().map(|it| it["choices"][0]["delta"]["role"].is_string()).collect();
    assert_eq!((roles[0], roles.iter().filter(|role| **role).count()), (true, 1));
    let (beats, silence) = (beats(&answer.body), asked.elapsed());
    assert!(HEARTBEAT * u32::try_from(beats).expect("few") <= silence, "{beats} heartbeats in {silence:?}: {chunks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_kept_alive_by_white_space() {
    let gateway = Setup::default().rules(RULES).start().await;
    let hold = gateway.backend.hold_at(0, 0);
    let asked = Instant::now();
    let mut answer = gateway.begin(&question("Who are you?", false)).await;
    answer.until("three blanks", |body| blanks(body) >= 3).await;
    drop(hold);
    let answer = answer.rest().await;
    assert!(answer.json()["choices"][0]["message"]["content"].as_str().expect("text").contains("demo model"));
    let (blanks, silence) = (blanks(&answer.body), asked.elapsed());
    assert!(HEARTBEAT * u32::try_from(blanks).expect("few") <= silence, "{blanks} blanks in {silence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_kept_alive_also_while_its_text_is_written() {
    // More than ten seconds of text: the test is over before the answer is.
    let backend = mock::Settings { pace: Duration::from_millis(50), ..mock::Settings::default() };
    let gateway = Setup::default().backend(backend).rules(RULES).start().await;
    let mut answer = gateway.begin(&question("Write a binary search", false)).await;
    // One, by which the answer begins, comes also if tokens are taken for signs of life.
    answer.until("four blanks", |body| blanks(body) >= 4).await;
    assert_eq!(gateway.backend.next_request().await.outcome, Outcome::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_status_is_an_error_body_inside_the_200() {
    // With a second try the answer would be continued.
    let gateway = Setup::default().rules("silence.commit_after_ms = 50").flag("attempts-max", 1).start().await;
    for (request, stream) in [(0, false), (1, true)] {
        // It dies when the client has its status.
        let hold = gateway.backend.hold_at(request, 0);
        gateway.backend.fault_at(request, Fault::DieAfter(1));
        let answer = gateway.begin(&question("Hello", stream)).await;
        drop(hold);
        let answer = answer.rest().await;
        let error = if stream { answer.chunks().pop().expect("chunks") } else { answer.json() };
        assert_eq!((answer.status, &error["error"]["code"]), (200, &json!("backend_failed")));
    }
}

/// A question that the gateway hands on.
fn passed_on(text: &str) -> serde_json::Value {
    passed_on_as(text, true)
}

fn passed_on_as(text: &str, stream: bool) -> serde_json::Value {
    let mut body = question(text, stream);
    body["tools"] = json!([]);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_passed_through_is_kept_alive_until_its_first_event() {
    let gateway = Setup::default().rules(RULES).start().await;
    let hold = gateway.backend.hold_at(0, 0);
    let mut answer = gateway.begin(&passed_on("Who are you?")).await;
    answer.until("three signs of life", |body| beats(body) >= 3).await;
    let silent = events(&answer.seen);
    assert_eq!(silent.iter().filter(|it| it["choices"][0]["delta"] != json!({})).count(), 0, "{silent:?}");
    drop(hold);
    let answer = answer.rest().await;
    assert!(answer.text().contains("demo model"), "{answer:?}");
    let chunks = answer.chunks();
    let names: std::collections::HashSet<_> = chunks.iter().map(|it| (&it["id"], &it["model"])).collect();
    assert_eq!(names.len(), 1, "one answer with one name: {names:?}");
    let roles = chunks.iter().filter(|it| it["choices"][0]["delta"]["role"].is_string()).count();
    assert_eq!(roles, 1, "the backend's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_stream_that_fails_ends_in_an_error_event() {
    let gateway = Setup::default().rules(RULES).flag("attempts-max", 1).start().await;
    let hold = gateway.backend.hold_at(0, 0);
    gateway.backend.fault_at(0, Fault::DieAfter(0));
    let mut answer = gateway.begin(&passed_on("Hello")).await;
    answer.until("a sign of life", |body| beats(body) >= 1).await;
    drop(hold);
    let answer = answer.rest().await;
    let last = answer.chunks().pop().expect("a last event");
    assert_eq!((answer.status, &last["error"]["code"]), (200, &json!("backend_failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_late_stream_leaves_the_backend_too() {
    let gateway = Setup::default().rules(RULES).start().await;
    let _hold = gateway.backend.hold_at(0, 0);
    let mut answer = gateway.begin(&passed_on("Hello")).await;
    answer.until("a sign of life", |body| beats(body) >= 1).await;
    drop(answer);
    until("its request is given up", async || {
        gateway.backend.requests().iter().all(|request| request.outcome != Outcome::Open)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_waits_in_the_gateways_own_queue_is_kept_alive_too() {
    let backend = mock::Settings { kv_tokens: Some(16_000), ..mock::Settings::default() };
    let setup = Setup::default().backend(backend).rules(RULES).flag("admin-key", crate::operators::KEY);
    let gateway = setup.flag("load-ms", 20).start().await;
    until("the cache's size is known", async || {
        crate::operators::list(&gateway).await.iter().any(|it| it["load"]["kv_tokens_max"] == 16_000)
    })
    .await;
    // Two contexts, each of which has room in the cache alone.
    let [first, second] = ["alpha ", "omega "].map(|word| passed_on(&word.repeat(6_000)));
    let _hold = gateway.backend.hold_at(0, 0);
    let mut held = gateway.begin(&first).await;
    held.until("a sign of life", |body| beats(body) >= 1).await;
    let mut waiting = gateway.begin(&second).await;
    waiting.until("two signs of life", |body| beats(body) >= 2).await;
    assert_eq!(gateway.backend.requests().len(), 1, "the second one has not left the gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_passed_through_is_kept_alive_while_a_call_is_held_back() {
    let other = mock::start(mock::Settings::default()).await.expect("a backend");
    let setup = Setup::default().rules(RULES).other_backend(other.url()).flag("admin-key", crate::operators::KEY);
    let gateway = setup.start().await;
    until("both are up", async || crate::operators::list(&gateway).await.iter().all(|it| it["state"] == "up")).await;
    // The call has begun by then, and has not ended.
    let holds = [&gateway.backend, &other].map(|backend| backend.hold_at(0, 3));
    let mut body = question(r#"Use the tool read_file with {"path": "a/long/path/to/some/file"}"#, true);
    let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    body["tools"] = json!([{"type": "function", "function": {"name": "read_file", "parameters": schema}}]);
    let mut answer = gateway.begin(&body).await;
    answer.until("three signs of life", |body| beats(body) >= 3).await;
    let so_far = events(&answer.seen);
    assert!(so_far.iter().any(|it| it["choices"][0]["delta"]["role"].is_string()), "it has begun: {so_far:?}");
    assert!(so_far.iter().all(|it| !it["choices"][0]["delta"]["tool_calls"].is_array()), "{so_far:?}");
    drop(holds);
    let chunks = answer.rest().await.chunks();
    let arguments: String = chunks
        .iter()
        .filter_map(|it| it["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, r#"{"path": "a/long/path/to/some/file"}"#);
    let mut ids: Vec<_> = chunks.iter().map(|it| &it["id"]).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_do_not_keep_a_backend_that_has_fallen_silent() {
    let gateway = Setup::default().rules(RULES).flag("idle-ms", 500).flag("attempts-max", 1).start().await;
    gateway.backend.fault_at(0, Fault::StallAfter(2));
    let answer = gateway.ask(&passed_on("Hello")).await;
    let last = answer.chunks().pop().expect("a last event");
    assert_eq!(last["error"]["code"], "backend_timeout", "{answer:?}");
    assert!(beats(&answer.body) >= 1, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_is_passed_through_is_kept_alive_by_white_space() {
    let gateway = Setup::default().rules(RULES).start().await;
    let hold = gateway.backend.hold_at(0, 0);
    let mut answer = gateway.begin(&passed_on_as("Who are you?", false)).await;
    answer.until("three blanks", |body| blanks(body) >= 3).await;
    drop(hold);
    let answer = answer.rest().await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert!(answer.text().contains("demo model"), "{answer:?}");
    assert_eq!(answer.body[blanks(&answer.body)], b'{', "no blank is within it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_whole_answer_that_fails_is_an_error_body_inside_the_200() {
    let gateway = Setup::default().rules(RULES).flag("attempts-max", 1).start().await;
    let hold = gateway.backend.hold_at(0, 0);
    gateway.backend.fault_at(0, Fault::GarbageAfter(1));
    let mut answer = gateway.begin(&passed_on_as("Hello", false)).await;
    answer.until("a blank", |body| blanks(body) >= 1).await;
    drop(hold);
    let answer = answer.rest().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (200, &json!("backend_failed")));
}
