//! What clients do not send back: hidden rounds and the gateway's part of mixed turns are in the model's next request.

use crate::cli::{Place, Serving};
use crate::gateway::{Answer, Gateway, Setup, question, start};
use crate::wires::{Scripted, stream_of};
use loopgate::access::KeyHash;
use loopgate::mock;
use serde_json::{Value, json};

/// The messages of the last request that the backend got.
fn last_messages(backend: &mock::Running) -> Vec<Value> {
    let request = backend.requests().into_iter().rfind(mock::Arrived::asks).expect("a request");
    request.json()["messages"].as_array().expect("messages").clone()
}

/// The same as text, without the closing bracket: what a backend's cache knows.
fn last_prefix(gateway: &Gateway) -> String {
    let request = gateway.backend.requests().pop().expect("a request");
    let text = String::from_utf8(request.body.to_vec()).expect("UTF-8");
    let (_, messages) = text.split_once("\"messages\":[").expect("messages");
    messages.split_once("}]").expect("an end").0.to_owned() + "}"
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(answer: &Answer) -> Value {
    json!({"role": "assistant", "content": answer.text()})
}

/// What the client says next, after what it saw.
fn next(request: &mut Value, more: impl IntoIterator<Item = Value>) {
    request["messages"].as_array_mut().expect("messages").extend(more);
}

const TOOL: &str = r#"{"type":"function","function":{"name":"read_file","parameters":{"type":"object"}}}"#;
/// The mock calls both tools in one message, ours first.
const BOTH: &str = r#"Use read_file with {"path": "notes.txt", "lines": 1.0} and run 6 * 7"#;

/// A request in which the model calls a tool of both sides.
fn mixed() -> Value {
    let mut request = question(BOTH, false);
    request["tools"] = json!([serde_json::from_str::<Value>(TOOL).expect("JSON")]);
    request["loopgate"] = json!({"execute": "gateway"});
    request
}

/// The client's own call and its result, written as another JSON library would.
fn result_of(answer: &Answer, arguments: &str) -> [Value; 2] {
    let call = &answer.json()["choices"][0]["message"]["tool_calls"][0];
    let function = json!({"name": call["function"]["name"], "arguments": arguments});
    let call = json!({"index": 0, "id": call["id"], "type": "function", "function": function});
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "milk"}]});
    [json!({"role": "assistant", "content": "", "tool_calls": [call], "refusal": null}), result]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_round_is_in_the_next_request_byte_for_byte() {
    for stream in [false, true] {
        let gateway = start().await;
        let mut request = question("Calculate the factorial of 10 using Python", stream);
        let answer = gateway.ask(&request).await;
        let known = last_prefix(&gateway);
        next(&mut request, [assistant(&answer), user("Thanks")]);
        let answer = gateway.ask(&request).await;
        assert_eq!(answer.text(), "You are welcome.");
        let now = last_prefix(&gateway);
        assert!(now.starts_with(&known), "stream {stream}: {known}\n{now}");
        let roles: Vec<_> = last_messages(&gateway.backend).iter().map(|it| it["role"].clone()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
        assert_eq!(last_messages(&gateway.backend)[3]["content"], "The result is 3628800.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_the_one_that_was_given_stays_as_it_is() {
    let gateway = start().await;
    let mut request = question("What is 12 * 34?", false);
    let answer = gateway.ask(&request).await;
    assert_eq!(answer.text(), "The result is 408.");
    next(&mut request, [json!({"role": "assistant", "content": "The result is 409."}), user("Thanks")]);
    gateway.ask(&request).await;
    assert_eq!(json!(last_messages(&gateway.backend)), request["messages"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_parts_of_a_mixed_message_reach_the_model_in_call_order() {
    let gateway = start().await;
    let mut request = mixed();
    let answer = gateway.ask(&request).await;
    let calls = answer.json()["choices"][0]["message"]["tool_calls"].clone();
    assert_eq!((calls.as_array().map(Vec::len), &calls[0]["function"]["name"]), (Some(1), &json!("read_file")));
    next(&mut request, result_of(&answer, r#"{"lines":1,"path":"notes.txt"}"#));
    let last = gateway.ask(&request).await;
    assert_eq!(last.json()["loopgate"]["restored"], 1, "{:?}", last.json());
    let messages = last_messages(&gateway.backend);
    let names = messages[1]["tool_calls"].as_array().expect("calls").iter();
    let names: Vec<_> = names.map(|call| call["function"]["name"].clone()).collect();
    assert_eq!(names, ["execute_code", "read_file"]);
    assert_eq!(messages[1]["tool_calls"][1]["function"]["arguments"], r#"{"path": "notes.txt", "lines": 1.0}"#);
    let results: Vec<_> = messages[2..].iter().map(|it| (&it["tool_call_id"], it["content"].to_string())).collect();
    assert_eq!(results[0], (&messages[1]["tool_calls"][0]["id"], "\"42\"".to_owned()));
    assert_eq!((results[1].0, results.len()), (&messages[1]["tool_calls"][1]["id"], 2));
    // And once more, when the conversation goes on.
    next(&mut request, [assistant(&last), user("Thanks")]);
    assert_eq!(gateway.ask(&request).await.json()["loopgate"]["restored"], 1);
    assert_eq!(last_messages(&gateway.backend)[..4], messages[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_arguments_are_no_object_does_not_end_its_conversation() {
    let call = |at: u8, name: &str, arguments: &str| {
        let function = json!({"name": name, "arguments": arguments});
        json!({"index": at, "id": format!("call_0123456789abcde{at}"), "type": "function", "function": function})
    };
    for (arguments, shown) in [("", "{}"), ("{\"a", "{\"a"), ("[1]", "[1]")] {
        let calls = [call(0, "execute_code", r#"{"code": "6 * 7"}"#), call(1, "read_file", arguments)];
        let backend = Scripted::start(vec![
            stream_of(&[json!({"delta": {"tool_calls": calls}}), json!({"delta": {}, "finish_reason": "tool_calls"})]),
            stream_of(&[json!({"delta": {"content": "Done."}}), json!({"delta": {}, "finish_reason": "stop"})]),
        ])
        .await;
        let gateway = Setup::default().flag("backend", &backend.url).start().await;
        let mut request = mixed();
        let answer = gateway.ask(&request).await;
        assert_eq!(answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], shown);
        next(&mut request, result_of(&answer, shown));
        assert_eq!(gateway.ask(&request).await.json()["loopgate"]["restored"], 1, "{arguments:?}");
        // Where the turn is forgotten, before a backend that refuses such a history.
        let other = start().await;
        assert_eq!(other.ask(&request).await.status, 200, "{arguments:?}");
        assert_eq!(last_messages(&other.backend)[1]["tool_calls"][0]["function"]["arguments"], "{}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_edited_is_the_clients_own() {
    let gateway = start().await;
    let mut request = mixed();
    let answer = gateway.ask(&request).await;
    next(&mut request, result_of(&answer, r#"{"lines":2,"path":"notes.txt"}"#));
    gateway.ask(&request).await;
    let messages = last_messages(&gateway.backend);
    let calls = messages[1]["tool_calls"].as_array().expect("calls");
    assert_eq!((calls.len(), messages.len()), (1, 3));
    assert_eq!((calls[0].get("index"), messages[1].get("refusal")), (None, None), "echoes are taken out");
}

/// A gateway for alice and bob.
async fn for_two() -> Gateway {
    let caller = |name: &str| {
        let hash = KeyHash::of(&format!("lg-{name}")).hex();
        format!("[[callers]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n")
    };
    Setup::default().file(&(caller("alice") + &caller("bob"))).start().await
}

async fn ask_as(name: &str, gateway: &Gateway, body: &Value) -> Answer {
    let key = format!("Bearer lg-{name}");
    let path = "/v1/chat/completions";
    gateway.send(http::Method::POST, path, &[("authorization", &key)], body.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_what_belongs_to_another_caller() {
    let gateway = for_two().await;
    let mut request = question("What is 12 * 34?", false);
    let answer = ask_as("alice", &gateway, &request).await;
    next(&mut request, [assistant(&answer), user("Thanks")]);
    assert_eq!(ask_as("bob", &gateway, &request).await.json()["loopgate"]["restored"], 0);
    assert_eq!(ask_as("alice", &gateway, &request).await.json()["loopgate"]["restored"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_the_other_part_of_another_caller_s_mixed_message() {
    let gateway = for_two().await;
    let mut request = mixed();
    let answer = ask_as("alice", &gateway, &request).await;
    next(&mut request, result_of(&answer, r#"{"lines":1,"path":"notes.txt"}"#));
    // Bob knows her call's id, and everything else that she was shown.
    assert_eq!(ask_as("bob", &gateway, &request).await.json()["loopgate"]["restored"], 0);
    let messages = last_messages(&gateway.backend);
    assert_eq!((messages.len(), messages[1]["tool_calls"].as_array().map(Vec::len)), (3, Some(1)), "{messages:?}");
    assert_eq!(ask_as("alice", &gateway, &request).await.json()["loopgate"]["restored"], 1);
    assert_eq!(last_messages(&gateway.backend).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_killed_remembers() {
    let backend = mock::start(mock::Settings::default()).await.expect("a backend");
    let place = Place::new();
    let serve = || {
        let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--backend", &backend.url()]);
        tokio::task::block_in_place(|| Serving::start(&mut command, false))
    };
    let mut gateway = serve();
    let mut hidden = question("What is 12 * 34?", true);
    let mut both = mixed();
    let answers = [gateway.ask(&hidden).await, gateway.ask(&both).await];
    next(&mut hidden, [assistant(&answers[0]), user("Thanks")]);
    next(&mut both, result_of(&answers[1], r#"{"lines":1,"path":"notes.txt"}"#));
    // SIGKILL.
    gateway.kill();
    let gateway = serve();
    for (request, messages) in [(&hidden, 5), (&both, 4)] {
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(last_messages(&backend).len(), messages, "{:?}", last_messages(&backend));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_without_the_gateway_s_tools_has_the_hidden_rounds_of_those_before() {
    for (member, value) in [("tools", json!([])), ("loopgate", json!({"execute": "off"}))] {
        let gateway = start().await;
        let mut request = question("What is 12 * 34?", false);
        let answer = gateway.ask(&request).await;
        let mut echo = assistant(&answer);
        echo["executed_tools"] = answer.json()["choices"][0]["message"]["executed_tools"].clone();
        next(&mut request, [echo, user("Hello")]);
        request[member] = value;
        assert_eq!(gateway.ask(&request).await.text(), "Hello! How can I help you?");
        let roles: Vec<_> = last_messages(&gateway.backend).iter().map(|it| it["role"].clone()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"], "{member}");
        assert!(!last_prefix(&gateway).contains("executed_tools"), "{member}");
    }
}
