//! Turns: what the model calls is run, told to the client, and given back to the model.

use crate::gateway::{Gateway, Setup, question, start};
use crate::wires::{Scripted, stream_of};
use loopgate::mock::{self, Version};
use serde_json::{Value, json};

/// The tools' results that the model was given in the last request.
pub fn results(gateway: &Gateway) -> Vec<String> {
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
async fn a_program_over_its_memory_is_told_to_the_model_as_such() {
    let gateway = Setup::default().rules("limits.memory_mib = 128").start().await;
    let answer = gateway.ask(&question("Use all the memory", false)).await;
    assert_eq!(answer.text(), "The code failed to run: Error: memory limit of 128 MiB exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_texts_of_two_model_calls_are_a_paragraph_apart_in_both_forms() {
    let gateway = start().await;
    for stream in [false, true] {
        let answer = gateway.ask(&question("Calculate the factorial of 10 using Python", stream)).await;
        assert_eq!(answer.text(), "I'll run this with Python.\n\nThe result is 3628800.", "stream {stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_beside_each_other_keep_to_themselves() {
    let gateway = std::sync::Arc::new(start().await);
    let mut turns = tokio::task::JoinSet::new();
    for number in 0..24 {
        let gateway = gateway.clone();
        turns.spawn(async move {
            let text = format!("First compute {number} + 1000, then multiply the result by 3");
            let answer = gateway.ask(&question(&text, number % 2 == 0)).await;
            assert_eq!(answer.text(), format!("The result is {}.", (number + 1000) * 3));
        });
    }
    while let Some(turn) = turns.join_next().await {
        turn.expect("its own answer");
    }
    assert_eq!(gateway.audit().len(), 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_goes_on_at_another_backend_when_its_own_fails_between_two_rounds() {
    let other = mock::start(mock::Settings::default()).await.expect("a backend");
    let gateway = Setup::default().other_backend(other.url()).start().await;
    // Whichever has the first round refuses the second.
    for backend in [&gateway.backend, &other] {
        backend.fault_at(1, mock::Fault::RefuseAll);
    }
    let answer = gateway.ask(&question("What is 12 * 34?", true)).await;
    let (first, second) =
        if other.requests().len() == 2 { (&other, &gateway.backend) } else { (&gateway.backend, &other) };
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1), "it was asked again first");
    assert_eq!(answer.text(), "The result is 408.");
    assert_eq!(summary(&answer.chunks())["backend"], json!(second.addr().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_over_its_time_is_told_to_the_model_and_the_answer_still_comes() {
    let gateway = Setup::default().rules("limits.wall_ms = 300").start().await;
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
    let backend = Scripted::start(vec![
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

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_tool_that_nobody_knows_is_answered_with_the_tools_there_are() {
    let calls = json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "shell", "arguments": "{}"}}]);
    let backend = Scripted::start(vec![
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
    let backend = Scripted::start(vec![script(), script()]).await;
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
    assert!(whole["usage"]["reasoning_tokens"].as_u64() > Some(0), "{whole}");
    assert_eq!(whole["loopgate"]["usage_total"], whole["usage"]);
    assert!(whole["usage"].get("completion_tokens_details").is_none(), "the backend says nothing there: {whole}");
    let chunks = gateway.ask(&question("Think first", true)).await.chunks();
    let thought: String =
        chunks.iter().filter_map(|it| it["choices"][0]["delta"]["reasoning_content"].as_str()).collect();
    assert_eq!(thought, "The user wants me to think. Done.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_message_shows_the_client_its_own_calls_only() {
    let gateway = Setup::default().rules("offer = 'always'").start().await;
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

/// A backend that makes these calls of `execute_code`, one a message, and then answers.
pub async fn calling(programs: &[&str]) -> Scripted {
    let call = |code: &&str| {
        let function = json!({"name": "execute_code", "arguments": json!({"code": code}).to_string()});
        let calls = json!([{"index": 0, "id": "a", "type": "function", "function": function}]);
        stream_of(&[json!({"delta": {"tool_calls": calls}}), json!({"delta": {}, "finish_reason": "tool_calls"})])
    };
    let last = stream_of(&[json!({"delta": {"content": "Done."}}), json!({"delta": {}, "finish_reason": "stop"})]);
    Scripted::start(programs.iter().map(call).chain([last]).collect()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_failed_is_not_run_again_until_another_one_has_succeeded() {
    let backend = calling(&["1 / 0", "1 / 0", "x = 1", "1 / 0"]).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let answer = gateway.ask(&question("Anything", false)).await.json();
    let executed = answer["choices"][0]["message"]["executed_tools"].as_array().expect("executions").clone();
    let statuses: Vec<_> = executed.iter().map(|it| it["status"].as_str().unwrap_or("?")).collect();
    assert_eq!(statuses, ["error", "denied", "completed", "error"], "{answer}");
    let told = executed[1]["output"].as_str().unwrap_or_default();
    assert_eq!(told, "Error: not allowed: the same call has failed before; change it, or answer without it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_told_as_thinking_where_the_policy_wants_it() {
    for stream in [false, true] {
        let gateway = Setup::default().rules("progress = true").start().await;
        let answer = gateway.ask(&question("What is 12 * 34?", stream)).await;
        assert_eq!(answer.text(), "The result is 408.");
        let thinking: String = if stream {
            let chunks = answer.chunks();
            chunks.iter().filter_map(|it| it["choices"][0]["delta"]["reasoning_content"].as_str()).collect()
        } else {
            answer.json()["choices"][0]["message"]["reasoning_content"].as_str().unwrap_or_default().to_owned()
        };
        assert!(thinking.contains("Running execute_code:\n```python\nprint(12 * 34)\n```"), "{thinking}");
        assert!(thinking.contains("completed after") && thinking.contains("```\n408\n```"), "{thinking}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_broken_off() {
    let long = "a".repeat(1 << 20);
    let call = |id: &str, name: &str, arguments: &str| {
        let function = json!({"name": name, "arguments": arguments});
        json!({"tool_calls": [{"index": 0, "id": id, "function": function}]})
    };
    for piece in [json!({"content": long}), call(&long, "a", ""), call("a", &long, ""), call("a", "a", &long)] {
        let piece = json!({"delta": piece});
        let backend = Scripted::start(vec![stream_of(&vec![piece; 9])]).await;
        let gateway = Setup::default().flag("backend", &backend.url).start().await;
        let answer = gateway.ask(&question("Anything", true)).await;
        let error = answer.chunks().pop().expect("a last event")["error"].clone();
        assert!(error["message"].as_str().is_some_and(|it| it.contains("more than 8388608 bytes")), "{error}");
        // Clients send a `server_error` again, which would be as long.
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!("answer_too_long")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ended_before_its_first_word_says_why() {
    for (finish, why) in [("length", "max_tokens"), ("content_filter", "filter")] {
        for stream in [false, true] {
            let nothing = json!({"delta": {"content": ""}, "finish_reason": finish});
            let backend = Scripted::start(vec![stream_of(&[nothing])]).await;
            let gateway = Setup::default().flag("backend", &backend.url).start().await;
            let answer = gateway.ask(&question("Anything", stream)).await;
            assert!(answer.text().contains(why), "{answer:?}");
            let ends = if stream { answer.chunks() } else { vec![answer.json()] };
            assert!(ends.iter().any(|it| it["choices"][0]["finish_reason"] == finish), "{answer:?}");
        }
    }
}
