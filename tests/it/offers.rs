//! Whose a call is: what the gateway offers and owns, and what stays the client's.

use crate::gateway::{Answer, Gateway, Setup, question, start};
use http::Method;
use serde_json::{Value, json};

const SUM: &str = "What is 12 * 34?";

/// The tool that the Qwen3-Coder cookbook's page declares.
fn cookbook_tool() -> Value {
    json!({"type": "function", "function": {
        "name": "execute_code",
        "description": "Execute Python code and return the result",
        "parameters": {"type": "object", "properties": {"code": {"type": "string", "description": "The Python code to execute"}}, "required": ["code"]},
    }})
}

fn other_tool() -> Value {
    json!({"type": "function", "function": {"name": "read_file", "parameters": {"type": "object", "properties": {}}}})
}

fn asked(members: &Value) -> Value {
    let mut body = question(SUM, false);
    for (name, value) in members.as_object().expect("members") {
        body[name] = value.clone();
    }
    body
}

/// The names of the tools in the last request to the backend.
fn offered(gateway: &Gateway) -> Vec<String> {
    let request = gateway.backend.requests().pop().expect("a request").json();
    let name = |tool: &Value| tool["function"]["name"].as_str().unwrap_or("?").to_owned();
    request["tools"].as_array().into_iter().flatten().map(name).collect()
}

fn finish(answer: &Answer) -> String {
    answer.json()["choices"][0]["finish_reason"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_against_a_tool_is_forwarded_without_one() {
    let gateway = start().await;
    for members in [
        json!({"tools": []}),
        json!({"tool_choice": "none"}),
        json!({"n": 2}),
        json!({"logprobs": true}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"regex": "[0-9]+"}),
        json!({"ebnf": "root ::= [0-9]"}),
        json!({"ignore_eos": true, "max_tokens": 5}),
        json!({"continue_final_message": true}),
        json!({"tools": [other_tool()]}),
        json!({"loopgate": {"execute": "off"}}),
        json!({"loopgate": {"execute": "client"}}),
    ] {
        let answer = gateway.ask(&asked(&members)).await;
        assert_eq!(answer.status, 200, "{members}: {answer:?}");
        assert!(!offered(&gateway).contains(&"execute_code".to_owned()), "{members}");
        assert!(answer.json()["loopgate"].is_null(), "{members}");
        let choices = answer.json()["choices"].as_array().map(Vec::len);
        assert_eq!(choices, members["n"].as_u64().map_or(Some(1), |n| usize::try_from(n).ok()), "{members}");
    }
    assert!(gateway.audit().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_says_to_whom_tools_are_offered() {
    for (policy, without_tools, with_tools) in
        [("never", false, false), ("when-no-tools", true, false), ("always", true, true)]
    {
        let gateway = Setup::default().rules(&format!("offer = '{policy}'")).start().await;
        for (members, expected) in [(json!({}), without_tools), (json!({"tools": [other_tool()]}), with_tools)] {
            let answer = gateway.ask(&asked(&members)).await;
            assert_eq!(offered(&gateway).contains(&"execute_code".to_owned()), expected, "{policy} {members}");
            assert_eq!(answer.text() == "The result is 408.", expected, "{policy} {members}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookbooks_tool_is_the_gateways_whatever_its_description() {
    let gateway = Setup::default().rules("offer = 'never'").start().await;
    for tools in [json!([cookbook_tool()]), json!([other_tool(), cookbook_tool()])] {
        let answer = gateway.ask(&asked(&json!({ "tools": tools }))).await;
        assert_eq!((finish(&answer).as_str(), answer.text().as_str()), ("stop", "The result is 408."));
        let request = gateway.backend.requests().pop().expect("a request").json();
        assert_eq!(request["tools"], tools, "as the client declared them");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_of_the_same_name_with_another_schema_stays_the_clients() {
    let gateway = Setup::default().rules("offer = 'always'").start().await;
    let answer = gateway.ask(&asked(&json!({ "tools": [others_tool_of_that_name()] }))).await;
    assert_eq!(finish(&answer), "tool_calls");
    let call = &answer.json()["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "execute_code");
    assert_eq!(offered(&gateway), ["execute_code"]);
    assert!(gateway.audit().is_empty());
}

/// The cookbook's tool with a parameter more.
fn others_tool_of_that_name() -> Value {
    let mut tool = cookbook_tool();
    tool["function"]["parameters"]["properties"]["language"] = json!({"type": "string"});
    tool
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_means_two_tools_is_never_run_by_the_gateway() {
    let gateway = Setup::default().rules("offer = 'always'").start().await;
    let interpreter = json!({"type": "code_interpreter"});
    let both = |one: &Value, other: &Value| [json!([one, other]), json!([other, one])];
    for tools in both(&cookbook_tool(), &others_tool_of_that_name()) {
        let answer = gateway.ask(&asked(&json!({"tools": tools}))).await;
        assert_eq!(finish(&answer), "tool_calls", "{tools}");
    }
    for (tools, execute) in both(&interpreter, &others_tool_of_that_name()).iter().zip(["gateway", "client"]) {
        for body in [json!({"tools": tools}), json!({"tools": tools, "loopgate": {"execute": execute}})] {
            let error = gateway.ask(&asked(&body)).await.refused(400);
            assert_eq!(error["param"], "tools", "{body}");
            assert!(error["message"].as_str().is_some_and(|it| it.contains("rename the function")), "{error}");
        }
        let off = json!({"tools": tools, "loopgate": {"execute": "off"}});
        assert_eq!(finish(&gateway.ask(&asked(&off)).await), "tool_calls", "there is no interpreter then");
    }
    for tools in both(&interpreter, &cookbook_tool()) {
        assert_eq!(gateway.ask(&asked(&json!({"tools": tools}))).await.text(), "The result is 408.");
        assert_eq!(offered(&gateway), ["execute_code"], "one and the same: {tools}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_of_what_is_left_out_does_not_reach_the_backend() {
    let gateway = start().await;
    let interpreter = json!({"type": "code_interpreter"});
    for (tools, choice, reaches) in [
        (json!([interpreter]), json!("required"), Value::Null),
        (json!([interpreter]), interpreter.clone(), Value::Null),
        (json!([interpreter, other_tool()]), interpreter.clone(), Value::Null),
        (json!([interpreter, other_tool()]), json!("auto"), json!("auto")),
    ] {
        let body = asked(&json!({"tools": tools, "tool_choice": choice, "loopgate": {"execute": "off"}}));
        assert_eq!(gateway.ask(&body).await.status, 200, "{body}");
        assert_eq!(gateway.backend.requests().pop().expect("a request").json()["tool_choice"], reaches, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_and_body_say_who_runs_the_calls_and_the_header_wins() {
    let gateway = start().await;
    let tools = json!([cookbook_tool()]);
    for (header, body, ran) in [
        (None, None, true),
        (Some("gateway"), None, true),
        (Some("client"), None, false),
        (Some("off"), None, false),
        (None, Some("gateway"), true),
        (None, Some("client"), false),
        (None, Some("off"), false),
        (Some("gateway"), Some("client"), true),
        (Some("client"), Some("gateway"), false),
    ] {
        let mut asking = asked(&json!({ "tools": tools }));
        if let Some(body) = body {
            asking["loopgate"] = json!({ "execute": body });
        }
        let headers: Vec<_> = header.iter().map(|value| ("x-loopgate-execute", *value)).collect();
        let answer = gateway.send(Method::POST, "/v1/chat/completions", &headers, asking.to_string()).await;
        let expected = if ran { "stop" } else { "tool_calls" };
        assert_eq!(finish(&answer), expected, "header {header:?} body {body:?}: {answer:?}");
        assert_eq!(answer.text() == "The result is 408.", ran);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_as_a_wish_offers_what_the_policy_would_not() {
    let gateway = Setup::default().rules("offer = 'never'").start().await;
    let answer = gateway.ask(&asked(&json!({"loopgate": {"execute": "gateway"}}))).await;
    assert_eq!(answer.text(), "The result is 408.");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_without_a_grant_whatever_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("default.toml"), "callers = ['*']\noffer = 'always'\n").expect("a policy");
    let gateway = Setup::default().flag("policy-dir", folder.path().display()).start().await;
    for members in [json!({}), json!({"tools": [cookbook_tool()], "loopgate": {"execute": "gateway"}})] {
        let answer = gateway.ask(&asked(&members)).await;
        assert!(answer.json()["loopgate"].is_null(), "forwarded: {answer:?}");
    }
    assert!(gateway.audit().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_interpreter_is_the_gateways_tool() {
    let gateway = Setup::default().rules("offer = 'never'").start().await;
    let answer = gateway.ask(&asked(&json!({"tools": [{"type": "code_interpreter"}, other_tool()]}))).await;
    assert_eq!(answer.text(), "The result is 408.");
    assert_eq!(offered(&gateway), ["execute_code", "read_file"]);
    let off = asked(&json!({"tools": [{"type": "code_interpreter"}], "loopgate": {"execute": "off"}}));
    assert_eq!(gateway.ask(&off).await.status, 200);
    assert!(offered(&gateway).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_answers_of_a_tool_that_the_gateway_runs_are_refused_with_the_way_out() {
    let gateway = start().await;
    let answer = gateway.ask(&asked(&json!({"tools": [cookbook_tool()], "n": 2}))).await;
    let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert_eq!(answer.status, 400);
    assert!(message.contains("`n` is 2") && message.contains("x-loopgate-execute: client"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_s_name_can_say_who_runs_calls_and_the_header_wins() {
    let gateway = start().await;
    let own = json!([other_tool()]);
    // (model, header, tools of the request, does the gateway run the call)
    for (model, header, tools, runs) in [
        ("qwen3-coder+code", None, &own, true),
        ("qwen3-coder", None, &own, false),
        ("qwen3-coder+plain", None, &Value::Null, false),
        ("qwen3-coder+plain", Some("gateway"), &own, true),
        ("qwen3-coder+code", Some("off"), &Value::Null, false),
    ] {
        let headers: Vec<_> = header.map(|value| ("x-loopgate-execute", value)).into_iter().collect();
        let body = asked(&json!({"model": model, "tools": tools}));
        let answer = gateway.send(Method::POST, "/v1/chat/completions", &headers, body.to_string()).await;
        assert_eq!(answer.status, 200, "{model}: {answer:?}");
        assert_eq!(offered(&gateway).contains(&"execute_code".to_owned()), runs, "{model} {header:?}");
        assert_eq!(gateway.backend.requests().pop().expect("a request").json()["model"], "qwen3-coder", "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_model_calls_cannot_give_is_refused_when_a_tool_is_the_gateways() {
    let gateway = start().await;
    for member in ["logprobs", "continue_final_message"] {
        // Also behind one that would be no hindrance.
        for beside in ["stream", "ignore_eos"] {
            let mut body = asked(&json!({"tools": [cookbook_tool()]}));
            (body[beside], body[member]) = (json!(true), json!(true));
            let error = gateway.ask(&body).await.refused(400);
            assert_eq!(error["param"], member, "{beside}: {error}");
            assert!(error["message"].as_str().is_some_and(|it| it.contains("x-loopgate-execute: client")), "{error}");
        }
    }
    assert!(gateway.backend.requests().is_empty(), "no backend was bothered");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_insists_on_code_is_told_what_is_in_its_way() {
    let gateway = start().await;
    for (member, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("continue_final_message", json!(true)),
        ("regex", json!("a+")),
        ("response_format", json!({"type": "json_object"})),
    ] {
        for tools in [json!(null), json!([])] {
            let mut body = question("What is 12 * 34?", false);
            body["model"] = json!("qwen3-coder+code");
            body["tools"] = tools;
            body[member] = value.clone();
            let error = gateway.ask(&body).await.refused(400);
            assert_eq!(error["param"], member, "{error}");
            assert!(error["message"].as_str().expect("text").contains("`execute_code`"), "{error}");
            // Without insisting it is served, and nothing is offered.
            body["model"] = json!("qwen3-coder");
            assert_eq!(gateway.ask(&body).await.status, 200, "{member}");
        }
    }
    assert!(gateway.audit().is_empty());
    let mut body = question("What is 12 * 34?", false);
    (body["model"], body["tools"]) = (json!("qwen3-coder+code"), json!([]));
    assert_eq!(gateway.ask(&body).await.text(), "The result is 408.", "an empty list is no refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_brings_its_tools_as_functions_is_offered_none() {
    let gateway = start().await;
    gateway.ask(&asked(&json!({"functions": [{"name": "f", "parameters": {"type": "object"}}]}))).await;
    assert_eq!(offered(&gateway), [""; 0]);
    gateway.ask(&asked(&json!({"functions": null}))).await;
    assert_eq!(offered(&gateway), ["execute_code"]);
}
