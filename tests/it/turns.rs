//! Turns: what the model calls is run, told to the client, and given back to the model.

use crate::gateway::{Gateway, Setup, question, root, start};
use crate::wires::Line;
use loopgate::mock::{self, Version};
use serde_json::{Value, json};
use std::time::Duration;

/// The tools' results that the model was given in the last request.
fn results(gateway: &Gateway) -> Vec<String> {
    let requests = gateway.backend.requests();
    let messages = requests.last().expect("a request").json()["messages"].clone();
    let messages = messages.as_array().expect("messages").iter();
    messages.filter(|it| it["role"] == "tool").map(|it| it["content"].as_str().expect("text").to_owned()).collect()
}

/// Asks for a Python block to be run.
fn run(code: &str) -> String {
    format!("```python\n{code}\n```")
}

fn summary(chunks: &[Value]) -> &Value {
    chunks.iter().map(|chunk| &chunk["loopgate"]).find(|told| told["stop"].is_string()).expect("a summary")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_two_step_question_takes_three_model_calls_and_one_answer() {
    let gateway = start().await;
    let answer = gateway.ask(&question("First compute 12 + 30, then multiply the result by 5", false)).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "The result is 210.");
    assert_eq!(answer["loopgate"]["rounds"], 3);
    assert_eq!(answer["loopgate"]["stop"], "final");
    let rounds: Vec<_> = answer["choices"][0]["message"]["executed_tools"]
        .as_array()
        .expect("executions")
        .iter()
        .map(|it| (it["index"].clone(), it["round"].clone(), it["stdout"].clone()))
        .collect();
    assert_eq!(rounds, [(json!(0), json!(1), json!("42\n")), (json!(1), json!(2), json!("210\n"))]);
    let total = &answer["loopgate"]["usage_total"]["prompt_tokens"];
    assert!(total.as_u64() > answer["usage"]["prompt_tokens"].as_u64(), "usage is the last round's: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_of_one_message_are_answered_in_order() {
    for parser in [true, false] {
        let gateway = Setup::default().backend(mock::Settings { parser, ..mock::Settings::default() }).start().await;
        let answer = gateway.ask(&question("Run two programs: 3 + 4 and 5 * 6", true)).await;
        assert_eq!(answer.text(), "The results are 7 and 30.");
        assert_eq!(results(&gateway), ["7", "30"]);
        let events: Vec<_> =
            answer.chunks().iter().filter_map(|it| it["loopgate"]["event"].as_str().map(str::to_owned)).collect();
        assert_eq!(events, ["executing", "executed", "executing", "executed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_call_is_repaired_by_the_model_which_is_told_where_what_and_what_else() {
    let gateway = start().await;
    let answer = gateway.ask(&question("Call the tool wrongly", false)).await;
    assert_eq!(answer.text(), "The result is 42.");
    let told = &results(&gateway)[0];
    assert!(told.starts_with("Error: invalid arguments:"), "{told}");
    assert!(told.contains("`code`") || told.contains("\"code\""), "names what is missing: {told}");
    assert!(told.contains("expected: "), "{told}");
    let statuses: Vec<_> = gateway.audit().iter().map(|line| line["status"].clone()).collect();
    assert_eq!(statuses, ["invalid", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_raises_is_an_outcome_like_any_other() {
    let gateway = start().await;
    let answer = gateway.ask(&question("Divide by zero", false)).await;
    assert_eq!(answer.text(), "The code failed to run: ZeroDivisionError: division by zero");
    let executed = &answer.json()["choices"][0]["message"]["executed_tools"][0];
    assert_eq!(executed["status"], "error");
    assert!(results(&gateway)[0].starts_with("Traceback (most recent call last)"), "{:?}", results(&gateway));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_over_its_time_is_told_to_the_model_and_the_answer_still_comes() {
    let gateway = Setup::default().policy("limits.wall_ms = 300").start().await;
    let answer = gateway.ask(&question("Loop forever", false)).await;
    assert_eq!(answer.text(), "The code failed to run: Error: execution timed out after 300 ms");
    assert_eq!(answer.json()["choices"][0]["message"]["executed_tools"][0]["status"], "timeout");
    assert_eq!(results(&gateway), ["Error: execution timed out after 300 ms"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_cut_by_max_tokens_is_not_run() {
    for (version, parser) in
        [(Version::V0_5_7, true), (Version::V0_5_7, false), (Version::V0_5_23, true), (Version::V0_5_23, false)]
    {
        let backend = mock::Settings { version, parser, ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        for stream in [true, false] {
            let mut body = question("Calculate the factorial of 10 using Python", stream);
            body["max_tokens"] = json!(40);
            let answer = gateway.ask(&body).await;
            let what = format!("{version} parser {parser} stream {stream}: {answer:?}");
            assert_eq!(answer.text().trim_end(), "I'll run this with Python.", "{what}");
            let finish = if stream {
                answer.chunks().iter().find_map(|it| it["choices"][0]["finish_reason"].as_str().map(str::to_owned))
            } else {
                answer.json()["choices"][0]["finish_reason"].as_str().map(str::to_owned)
            };
            assert_eq!(finish.as_deref(), Some("length"), "{what}");
        }
        assert!(gateway.audit().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_lives_into_the_next_turn() {
    // One interpreter at a time, so that the next turn would meet the first one's if it were kept.
    let gateway = Setup::default().flag("interpreters-max", 1).start().await;
    for _ in 0..2 {
        let answer = gateway.ask(&question(&run("seen = globals().get('seen', 0) + 1\nseen"), false)).await;
        assert_eq!(answer.text(), "The result is 1.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_one_message_share_an_interpreter() {
    let calls = json!([
        {"index": 0, "id": "a", "type": "function", "function": {"name": "execute_code", "arguments": "{\"code\": \"x = 20\"}"}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "execute_code", "arguments": "{\"code\": \"x + 1\"}"}},
    ]);
    let backend = crate::wires::Scripted::start(vec![
        stream_of(&[
            json!({"delta": {"role": "assistant", "tool_calls": calls}}),
            json!({"delta": {}, "finish_reason": "tool_calls"}),
        ]),
        stream_of(&[json!({"delta": {"content": "Done."}}), json!({"delta": {}, "finish_reason": "stop"})]),
    ])
    .await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let answer = gateway.ask(&question("Anything", false)).await.json();
    let executed = &answer["choices"][0]["message"]["executed_tools"];
    assert_eq!((&executed[0]["output"], &executed[1]["output"]), (&json!("(no output)"), &json!("21")), "{answer}");
}

/// A whole SSE answer of these choices.
pub fn stream_of(choices: &[Value]) -> Vec<Vec<u8>> {
    let frames = choices.iter().map(|choice| format!("data: {}\n\n", json!({"id": "x", "choices": [choice]})));
    let body: String = frames.chain(["data: [DONE]\n\n".to_owned()]).collect();
    vec![
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_tool_that_nobody_knows_is_answered_with_the_tools_there_are() {
    let calls = json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "shell", "arguments": "{}"}}]);
    let backend = crate::wires::Scripted::start(vec![
        stream_of(&[json!({"delta": {"tool_calls": calls}}), json!({"delta": {}, "finish_reason": "tool_calls"})]),
        stream_of(&[json!({"delta": {"content": "Sorry."}}), json!({"delta": {}, "finish_reason": "stop"})]),
    ])
    .await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let answer = gateway.ask(&question("Anything", false)).await.json();
    let executed = &answer["choices"][0]["message"]["executed_tools"][0];
    assert_eq!(executed["status"], "invalid");
    assert_eq!(executed["output"], "Error: there is no tool `shell`; known: `execute_code`");
    assert_eq!(answer["choices"][0]["message"]["content"], "Sorry.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_of_tool_calls_without_any_call_reaches_the_client_as_a_stop() {
    let script = || {
        stream_of(&[json!({"delta": {"content": "Use `<x>`."}}), json!({"delta": {}, "finish_reason": "tool_calls"})])
    };
    let backend = crate::wires::Scripted::start(vec![script(), script()]).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let whole = gateway.ask(&question("Anything", false)).await.json();
    assert_eq!((&whole["choices"][0]["finish_reason"], &whole["loopgate"]["rounds"]), (&json!("stop"), &json!(1)));
    let chunks = gateway.ask(&question("Anything", true)).await.chunks();
    assert!(chunks.iter().any(|it| it["choices"][0]["finish_reason"] == "stop"), "{chunks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_is_asked_for_once_more_and_never_sent() {
    for stream in [false, true] {
        let gateway = start().await;
        let answer = gateway.ask(&question("Say nothing once", stream)).await;
        assert_eq!(answer.text(), "You asked again, so I say something.");
        assert_eq!(gateway.backend.requests().len(), 2);
        let answer = gateway.ask(&question("Say nothing", stream)).await;
        assert_eq!(answer.text(), "The model gave no answer.");
        assert_eq!(gateway.backend.requests().len(), 4, "asked once more, not for ever");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_choice_holds_for_the_first_call_only() {
    let gateway = start().await;
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "execute_code"}})] {
        let mut body = question("What is 12 * 34?", false);
        body["tools"] = json!([{"type": "code_interpreter"}]);
        body["tool_choice"] = choice.clone();
        assert_eq!(gateway.ask(&body).await.text(), "The result is 408.", "{choice}");
        let requests = gateway.backend.requests();
        let [.., first, second] = &requests[..] else { panic!("two rounds") };
        assert_eq!((&first.json()["tool_choice"], &second.json()["tool_choice"]), (&choice, &json!("auto")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thinking_is_passed_on_as_thinking() {
    let gateway = start().await;
    let whole = gateway.ask(&question("Think first", false)).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "The user wants me to think. Done.");
    assert_eq!(message["content"], "I have thought about it.");
    let chunks = gateway.ask(&question("Think first", true)).await.chunks();
    let thought: String =
        chunks.iter().filter_map(|it| it["choices"][0]["delta"]["reasoning_content"].as_str()).collect();
    assert_eq!(thought, "The user wants me to think. Done.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_message_shows_the_client_its_own_calls_only() {
    let gateway = Setup::default().policy("offer = 'always'").start().await;
    for stream in [false, true] {
        let mut body = question(r#"Use read_file with {"path": "a"} and run 1 + 2"#, stream);
        body["tools"] = json!([{"type": "function", "function": {"name": "read_file", "parameters":
            {"type": "object", "properties": {"path": {"type": "string"}}}}}]);
        let answer = gateway.ask(&body).await;
        let (calls, finish, executed) = if stream {
            let chunks = answer.chunks();
            let choices = || chunks.iter().map(|it| &it["choices"][0]);
            let calls = choices().map(|it| &it["delta"]["tool_calls"]).find(|it| it.is_array()).expect("calls").clone();
            assert_eq!(calls[0]["index"], 0);
            let finish = choices().map(|it| &it["finish_reason"]).find(|it| it.is_string()).expect("a finish").clone();
            assert_eq!(summary(&chunks)["stop"], "client_tools");
            let executed = choices().map(|it| &it["delta"]["executed_tools"]).find(|it| it.is_array());
            (calls, finish, executed.expect("executions").clone())
        } else {
            let choice = answer.json()["choices"][0].clone();
            let message = &choice["message"];
            (message["tool_calls"].clone(), choice["finish_reason"].clone(), message["executed_tools"].clone())
        };
        assert_eq!(calls.as_array().map(Vec::len), Some(1), "{calls}");
        assert_eq!(calls[0]["function"]["name"], "read_file");
        assert_eq!(calls[0]["function"]["arguments"], r#"{"path": "a"}"#);
        assert!(calls[0]["id"].as_str().is_some_and(|id| !id.is_empty()));
        assert_eq!((finish, &executed[0]["stdout"]), (json!("tool_calls"), &json!("3\n")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_empty_deltas_after_the_role_which_comes_first_and_once() {
    let backend = mock::Settings { ttft: Duration::from_millis(700), ..mock::Settings::default() };
    let gateway = Setup::default()
        .backend(backend)
        .policy("silence.heartbeat_ms = 100\nsilence.commit_after_ms = 100")
        .start()
        .await;
    let chunks = gateway.ask(&question("What is 12 * 34?", true)).await.chunks();
    let roles: Vec<_> = chunks.iter().map(|it| it["choices"][0]["delta"]["role"].is_string()).collect();
    assert_eq!((roles[0], roles.iter().filter(|role| **role).count()), (true, 1));
    let beats = chunks.iter().filter(|it| it["choices"][0]["delta"] == json!({}) && it["loopgate"].is_null()).count();
    // Two waits of 700 ms.
    assert!((8..=14).contains(&beats), "{beats} heartbeats in {chunks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_kept_alive_by_white_space_also_while_its_text_is_written() {
    let backend = mock::Settings {
        ttft: Duration::from_millis(500),
        pace: Duration::from_millis(30),
        ..mock::Settings::default()
    };
    let gateway = Setup::default()
        .backend(backend)
        .policy("offer = 'always'\nsilence.heartbeat_ms = 100\nsilence.commit_after_ms = 100")
        .start()
        .await;
    let answer = gateway.ask(&question("Who are you?", false)).await;
    assert!(answer.json()["choices"][0]["message"]["content"].as_str().expect("text").contains("demo model"));
    let blanks = answer.body.iter().take_while(|byte| **byte == b' ').count();
    // 500 ms until the first token, then some 40 tokens of 30 ms.
    assert!((10..=30).contains(&blanks), "{blanks} in {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_status_is_an_error_body_inside_the_200() {
    let backend = mock::Settings { ttft: Duration::from_millis(300), ..mock::Settings::default() };
    let gateway = Setup::default().backend(backend).policy("silence.commit_after_ms = 50").start().await;
    gateway.backend.set_fault(Some(mock::Fault::DieAfter(1)));
    let whole = gateway.ask(&question("Hello", false)).await;
    assert_eq!((whole.status, &whole.json()["error"]["code"]), (200, &json!("backend_failed")));
    let chunks = gateway.ask(&question("Hello", true)).await.chunks();
    assert_eq!(chunks.last().expect("chunks")["error"]["code"], "backend_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_dropped_in_as_a_folder_works_without_rust() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = folder.path().join("tools");
    let code = tools.join("execute_code");
    std::fs::create_dir_all(&code).expect("a folder");
    for file in ["tool.toml", "schema.json"] {
        std::fs::copy(root().join("tools/execute_code").join(file), code.join(file)).expect("a copy");
    }
    let temperature = tools.join("temperature");
    std::fs::create_dir(&temperature).expect("a folder");
    for (name, text) in [
        ("tool.toml", "description = 'Converts a temperature'\nstate = 'none'\nprogram = 'program.py'\n"),
        (
            "schema.json",
            r#"{"type": "object", "required": ["value", "to"], "properties": {
                "value": {"type": "number"}, "digits": {"type": "integer", "minimum": 0},
                "to": {"enum": ["celsius", "fahrenheit"]}, "label": {"type": "string"}}}"#,
        ),
        ("program.py", PROGRAM),
    ] {
        std::fs::write(temperature.join(name), text).expect("a file");
    }
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).expect("a folder");
    let policy = "callers = ['*']\n[[grants]]\ntools = ['execute_code', 'temperature']\nwhy = 'the test runs them'\n";
    std::fs::write(policies.join("default.toml"), policy).expect("a policy");
    for parser in [true, false] {
        let gateway = Setup::default()
            .backend(mock::Settings { parser, ..mock::Settings::default() })
            .flag("tools-dir", tools.display())
            .flag("policy-dir", policies.display())
            .start()
            .await;
        let ask =
            r#"Use the tool temperature with {"value": 100, "digits": 1, "to": "fahrenheit", "label": "it's \"hot\""}"#;
        let answer = gateway.ask(&question(ask, false)).await;
        assert_eq!(answer.text(), "The result is it's \"hot\": 212.0 fahrenheit.", "parser {parser}: {answer:?}");
        let wrong = r#"Use the tool temperature with {"value": 1, "to": "kelvin"}"#;
        let answer = gateway.ask(&question(wrong, false)).await.json();
        let output = &answer["choices"][0]["message"]["executed_tools"][0]["output"];
        let output = output.as_str().expect("text");
        for part in ["to", "celsius", "fahrenheit", "kelvin"] {
            assert!(output.contains(part), "where, expected and got: {output}");
        }
    }
}

/// Reads its arguments by the name that the guest gives them.
const PROGRAM: &str = r#"
value, to = arguments["value"], arguments["to"]
assert isinstance(arguments.get("digits", 0), int)
converted = value * 9 / 5 + 32 if to == "fahrenheit" else (value - 32) * 5 / 9
print(f"{arguments.get('label', 'result')}: {converted:.{arguments.get('digits', 2)}f} {to}")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_its_line_before_the_outcome_is_told() {
    let gateway = start().await;
    let mut line = Line::ask(&gateway, &question("What is 12 * 34?", true)).await;
    line.until("\"event\":\"executed\"").await;
    let audit = gateway.audit();
    assert_eq!(audit.len(), 1);
    for (member, value) in [
        ("caller", json!("anonymous")),
        ("tool", json!("execute_code")),
        ("code", json!("print(12 * 34)")),
        ("status", json!("completed")),
        ("output_head", json!("408\n")),
        ("output_bytes", json!(4)),
    ] {
        assert_eq!(audit[0][member], value, "{member}");
    }
    assert_eq!(audit[0]["limits"]["wall_ms"], 30_000);
    let request = gateway.backend.requests()[0].json()["rid"].as_str().expect("a rid").to_owned();
    assert!(request.starts_with(audit[0]["request_id"].as_str().expect("an id")), "{request}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_written_down_is_withheld() {
    // Every write to it fails, although it opens.
    let gateway = Setup::default().flag("audit", "/dev/full").start().await;
    let answer = gateway.ask(&question("What is 12 * 34?", false)).await;
    assert!(!String::from_utf8_lossy(&answer.body).contains("408"), "{answer:?}");
    let executed = &answer.json()["choices"][0]["message"]["executed_tools"][0];
    assert_eq!((&executed["status"], &executed["stdout"]), (&json!("error"), &json!("")));
    assert!(results(&gateway)[0].contains("withheld"), "{:?}", results(&gateway));
    let metrics = gateway.get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("loopgate_audit_failures_total 1"));
}
