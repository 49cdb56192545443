//! SDKs as clients: the same conversations with each of them, streamed and whole.

use crate::gateway::{Gateway, Setup, question, root, start};
use crate::sdks::{Answer, Conversation, SDKS, Seen, User, all_see, side_by_side, users};
use crate::wires::NEVER;
use loopgate::access::KeyHash;
use loopgate::mock::{self, Fault, Outcome};
use serde_json::{Value, json};

pub const FACTORIAL: &str = "Calculate the factorial of 10 using Python";

/// The one answer of a conversation in which nothing failed.
fn only_answer(user: User, seen: &Seen) -> &Answer {
    assert!(seen.error.is_none() && seen.answers.len() == 1, "{user:?}: {seen:?}");
    &seen.answers[0]
}

fn assert_text(user: User, answer: &Answer, text: &str) {
    assert!(answer.text.contains(text), "{user:?}: {answer:?}");
    assert_eq!((answer.finish.as_deref(), answer.calls.len()), (Some("stop"), 0), "{user:?}: {answer:?}");
    assert!(answer.tokens > Some(0), "{user:?}: {answer:?}");
}

/// An answer that consists of one call, with these arguments.
fn assert_call(user: User, answer: &Answer, name: &str, arguments: &Value) {
    assert_eq!(answer.finish.as_deref(), Some("tool_calls"), "{user:?}: {answer:?}");
    let [call] = &answer.calls[..] else { panic!("{user:?}: one call, not {answer:?}") };
    assert!(call.name == name && !call.id.is_empty(), "{user:?}: {call:?}");
    assert_eq!(&serde_json::from_str::<Value>(&call.arguments).expect("JSON"), arguments, "{user:?}");
}

/// What the gateway executed, as far as the SDK shows it.
fn assert_executed(user: User, answer: &Answer, results: &[&str]) {
    let Some(executed) = &answer.executed else { return assert!(!user.sdk.shows_executed, "{user:?}: {answer:?}") };
    let seen: Vec<_> = executed.iter().map(|one| (&one["status"], &one["output"])).collect();
    let wanted: Vec<_> = results.iter().map(|output| (json!("completed"), json!(output))).collect();
    assert_eq!(seen, wanted.iter().map(|(status, output)| (status, output)).collect::<Vec<_>>(), "{user:?}");
}

pub fn read_file() -> Value {
    let path = json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]});
    json!({"type": "function", "function": {"name": "read_file", "description": "Reads a file", "parameters": path}})
}

/// As the cookbook's page declares it, which is as the gateway has it.
fn execute_code() -> Value {
    let schema = std::fs::read_to_string(root().join("tools/execute_code/schema.json")).expect("a schema");
    let parameters: Value = serde_json::from_str(&schema).expect("JSON");
    json!({"type": "function", "function": {"name": "execute_code", "description": "Runs Python", "parameters": parameters}})
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_read_a_plain_answer() {
    let gateway = start().await;
    for (user, seen) in all_see(&gateway, &Conversation::of(&["Hello"])).await {
        let answer = only_answer(user, &seen);
        assert_text(user, answer, "Hello! How can I help you?");
        assert_executed(user, answer, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_see_the_answer_of_a_program_and_no_call() {
    let gateway = start().await;
    for (user, seen) in all_see(&gateway, &Conversation::of(&[FACTORIAL])).await {
        let answer = only_answer(user, &seen);
        assert_text(user, answer, "3628800");
        assert_executed(user, answer, &["3628800"]);
    }
    assert_eq!(gateway.audit().len(), users().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookbook_page_s_examples_run_with_another_base_url() {
    let gateway = start().await;
    let chat = Conversation::of(&["Write a binary search function in Python, with docstring and type hints."])
        .with("model", "Qwen/Qwen3-Coder-480B-A35B-Instruct")
        .with("options", json!({"max_tokens": 2048, "temperature": 0.7}));
    for (user, seen) in all_see(&gateway, &chat).await {
        assert_text(user, only_answer(user, &seen), "def binary_search(");
    }
    let tool = Conversation::of(&[FACTORIAL])
        .with("model", "Qwen/Qwen3-Coder-30B-A3B-Instruct")
        .with("options", json!({"temperature": 0.7}))
        .with("tools", [execute_code()].to_vec());
    for (user, seen) in all_see(&gateway, &tool).await {
        assert_text(user, only_answer(user, &seen), "3628800");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_get_the_call_when_they_ask_to_run_it_themselves() {
    let gateway = start().await;
    let conversation = Conversation::of(&["What is 12 * 34?"])
        .with("headers", json!({"x-loopgate-execute": "client"}))
        .tools(&[execute_code()], "408");
    for (user, seen) in all_see(&gateway, &conversation).await {
        let [asked, answered] = &seen.answers[..] else { panic!("{user:?}: {seen:?}") };
        assert_call(user, asked, "execute_code", &json!({"code": "print(12 * 34)"}));
        assert_text(user, answered, "The result is 408.");
    }
    assert!(gateway.audit().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_use_a_tool_of_their_own() {
    let gateway = start().await;
    let conversation =
        Conversation::of(&[r#"Use the tool read_file with {"path": "notes.txt"}"#]).tools(&[read_file()], "buy milk");
    for (user, seen) in all_see(&gateway, &conversation).await {
        let [asked, answered] = &seen.answers[..] else { panic!("{user:?}: {seen:?}") };
        assert_call(user, asked, "read_file", &json!({"path": "notes.txt"}));
        assert_text(user, answered, "The result is buy milk.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_get_their_own_call_of_a_mixed_message_and_go_on_with_its_result() {
    let gateway = Setup::default().rules("offer = 'always'").start().await;
    let conversation =
        Conversation::of(&[r#"Use read_file with {"path": "a"} and run 1 + 2"#]).tools(&[read_file()], "buy milk");
    for (user, seen) in all_see(&gateway, &conversation).await {
        let [asked, answered] = &seen.answers[..] else { panic!("{user:?}: {seen:?}") };
        assert_call(user, asked, "read_file", &json!({"path": "a"}));
        assert_executed(user, asked, &["3"]);
        assert_text(user, answered, "buy milk.");
    }
    assert_eq!(gateway.audit().len(), users().count(), "the program ran once for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_raise_what_fits_the_status() {
    let gateway = start().await;
    let nonsense = Conversation::of(&["Hello"]).with("headers", json!({"x-loopgate-execute": "sometimes"}));
    assert_all_raise(&gateway, &nonsense, 400, None).await;
    let unknown = Conversation::of(&["Hello"]).with("model", "gpt-nothing");
    assert_all_raise(&gateway, &unknown, 404, Some("model_not_found")).await;
    gateway.backend.set_fault(Some(Fault::RefuseAll));
    assert_all_raise(&gateway, &Conversation::of(&["Hello"]), 503, Some("no_backend")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_are_told_when_a_caller_has_enough_running() {
    // The first answer would never end by itself.
    let backend = mock::Settings { fault: Some(Fault::StallAfter(2)), ..mock::Settings::default() };
    let gateway = Setup::default().backend(backend).flag("concurrent-max", 1).start().await;
    let (running, body) = (gateway.backend.wait_until(|log| log.asked().count() == 1), question("Hello", true));
    let first = gateway.ask(&body);
    let others = async {
        running.await;
        assert_all_raise(&gateway, &Conversation::of(&["Hello"]), 429, Some("rate_limit_exceeded")).await;
    };
    tokio::select! {
        answer = first => panic!("it ended: {answer:?}"),
        () = others => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_come_in_with_the_right_key_only() {
    let caller = format!("[[callers]]\nname = \"alice\"\nkey_sha256 = \"{}\"\n", KeyHash::of("lg-alice").hex());
    let gateway = Setup::default().file(&caller).start().await;
    assert_all_raise(&gateway, &Conversation::of(&["Hello"]), 401, Some("invalid_api_key")).await;
    for (user, seen) in all_see(&gateway, &Conversation::of(&["Hello"]).with("key", "lg-alice")).await {
        assert_text(user, only_answer(user, &seen), "Hello! How can I help you?");
    }
}

async fn assert_all_raise(gateway: &Gateway, conversation: &Conversation, status: u16, code: Option<&str>) {
    for (user, seen) in all_see(gateway, conversation).await {
        assert!(seen.answers.is_empty() && seen.heard.is_empty(), "{user:?}: {seen:?}");
        let Some(raised) = seen.error else { panic!("{user:?} raised nothing for {status}") };
        assert_eq!((raised.name.as_str(), raised.status), ((user.sdk.error_of)(status), Some(status)), "{raised:?}");
        if user.sdk.shows_codes {
            assert_eq!(raised.code, code.map(Value::from), "{user:?} {status}");
        }
    }
}

/// Of an answer in which the gateway acts, and of one that is passed through.
#[tokio::test(flavor = "multi_thread")]
async fn sdks_raise_when_a_stream_fails_in_its_middle() {
    for fault in [Fault::DieAfter(4), Fault::ErrorAfter(4), Fault::GarbageAfter(4), Fault::EndAfter(4)] {
        let backend = mock::Settings { fault: Some(fault), ..mock::Settings::default() };
        // With a second try the answer would be continued.
        let gateway = Setup::default().backend(backend).flag("attempts-max", 1).start().await;
        let acting = Conversation::of(&["Hello"]);
        let passing = acting.clone().tools(&[read_file()], "unused");
        for conversation in [&acting, &passing] {
            let streaming = users().filter(|user| user.way != "whole");
            for (user, seen) in side_by_side(streaming, &gateway, conversation).await {
                assert!(
                    seen.error.is_some() && seen.answers.is_empty(),
                    "{fault}, {user:?}, {conversation:?}: {seen:?}"
                );
                assert!(seen.heard.starts_with("Hello"), "{fault}, {user:?}, {conversation:?}: {seen:?}");
            }
        }
        // Last: a backend that closes the connection before a status is down until it answers a probe.
        for (conversation, passed_on) in [(&acting, false), (&passing, true)] {
            let whole = users().filter(|user| user.way == "whole");
            for (user, seen) in side_by_side(whole, &gateway, conversation).await {
                let Some(raised) = &seen.error else { panic!("{fault}, {user:?}, {conversation:?}: {seen:?}") };
                assert!(seen.answers.is_empty(), "{fault}, {user:?}: {seen:?}");
                // A body that is passed through may break after its status.
                assert!(passed_on || raised.status >= Some(500), "{fault}, {user:?}: {seen:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_timer_of_three_seconds_is_never_hit_by_a_slow_tool() {
    let slow = |program| Conversation::of(&[program]).with("idle_ms", 3000);
    let alive = Setup::default().rules("silence.heartbeat_ms = 1000\nsilence.commit_after_ms = 1000").start().await;
    // One SDK after another: their processes, all at once on two cores, keep each other from hearing for seconds.
    for sdk in &SDKS {
        let ways = sdk.ways.iter().map(|way| User { sdk, way });
        for (user, seen) in side_by_side(ways, &alive, &slow("Sleep for 4 seconds")).await {
            let answer = only_answer(user, &seen);
            assert_text(user, answer, "The result is slept.");
            assert_executed(user, answer, &["slept"]);
        }
    }
    let silent = start().await;
    // Long enough that nobody who is late at the timer finds an answer there.
    for (user, seen) in all_see(&silent, &slow("Sleep for 20 seconds")).await {
        assert!(seen.error.is_some(), "without signs of life {user:?} hits its timer: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_that_leaves_a_stream_leaves_no_request_behind() {
    for user in users().filter(|user| user.way != "whole") {
        // The answer would never end by itself.
        let backend = mock::Settings { fault: Some(Fault::StallAfter(6)), ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        let seen = user.sees(&gateway, &Conversation::of(&["Write a binary search"]).with("leaves", true)).await;
        assert!(!seen.heard.is_empty() && seen.answers.is_empty(), "{user:?}: {seen:?}");
        // The script lives on, so nothing but its leave ends the request.
        let closed = gateway.backend.wait_until(|log| {
            log.asked().all(|request| request.outcome == Outcome::ClosedEarly) && log.aborts().count() == 1
        });
        let closed = tokio::time::timeout(NEVER, closed).await;
        assert!(closed.is_ok(), "{user:?} does not let go");
    }
}
