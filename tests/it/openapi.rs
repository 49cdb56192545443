//! The `OpenAPI` document says what the gateway does.

use crate::execute::{PATH, execute};
use crate::gateway::{Setup, four_ways, question, root, start};
use loopgate::access::KeyHash;
use loopgate::http::{StatusRow, statuses};
use loopgate::mock::{self, Version};
use serde_json::{Value, json};
use std::process::Command;
use tokio::task::block_in_place;

/// The schema of this name, with what it refers to.
fn schema(document: &Value, name: &str) -> jsonschema::Validator {
    let mut schema = json!({"$ref": format!("#/components/schemas/{name}")});
    schema["components"] = document["components"].clone();
    jsonschema::validator_for(&schema).expect("a schema")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_page_and_every_status_is_in_the_document() {
    let document = start().await.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let page = std::fs::read_to_string(root().join("docs/api.md")).expect("docs/api.md");
    let methods = ["GET", "POST", "PUT", "DELETE"].map(|method| format!("| `{method} "));
    let routes: Vec<_> =
        page.lines().filter(|line| methods.iter().any(|method| line.starts_with(method.as_str()))).collect();
    assert!(routes.len() >= 7, "{routes:?}");
    let mut listed = 0;
    for route in routes.iter().flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let Some((method, path)) = route.split_once(' ') else { continue };
        assert!(document["paths"][path][method.to_lowercase()].is_object(), "{route} is not in the document");
        listed += 1;
    }
    assert_eq!(operations(&document), listed, "docs/api.md lacks an operation");
    let [chat, execute] = ["/v1/chat/completions", "/v1/sandbox/execute"].map(|path| {
        let responses = &document["paths"][path]["post"]["responses"];
        move |row: &StatusRow| responses[row.status.as_str()]["description"].to_string().contains(row.when)
    });
    for row in statuses() {
        let of_no_path = row.status == 405 || row.when == "no such path";
        let of_files = matches!(row.code, Some("not_found" | "conflict" | "no_space"));
        let chats = !of_files && row.code != Some("no_interpreter");
        assert_eq!(chat(&row), !of_no_path && chats, "{row:?}");
        let of_a_model = [
            "context_length_exceeded",
            "model_not_found",
            "no_backend",
            "backend_failed",
            "key_refused",
            "answer_too_long",
            "backend_timeout",
        ];
        let executes = !of_files && row.code.is_none_or(|code| !of_a_model.contains(&code));
        assert_eq!(execute(&row), !of_no_path && executes, "{row:?}");
        let puts = &document["paths"]["/v1/sandbox/sessions/{id}/files/{path}"]["put"]["responses"];
        let puts = puts[row.status.as_str()]["description"].to_string().contains(row.when);
        assert_eq!(puts, !of_no_path && executes || matches!(row.code, Some("conflict" | "no_space")), "{row:?}");
    }
}

fn operations(document: &Value) -> usize {
    let paths = document["paths"].as_object().expect("paths");
    let members = paths.values().flat_map(|path| path.as_object().expect("a path").keys());
    members.filter(|member| *member != "parameters").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_sessions_and_files_are_what_the_document_says() {
    let gateway = Setup::default().rules("sessions.enabled = true").start().await;
    let put = gateway.send(http::Method::PUT, "/v1/sandbox/sessions/s/files/a", &[], "x").await;
    assert_eq!(put.status, 201, "{put:?}");
    let document = gateway.get("/openapi.json").await.json();
    for (path, asked) in [
        ("/v1/sandbox/sessions", "/v1/sandbox/sessions"),
        ("/v1/sandbox/sessions/{id}/files", "/v1/sandbox/sessions/s/files"),
    ] {
        let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
        let mut schema = content["application/json"]["schema"].clone();
        schema["components"] = document["components"].clone();
        let schema = jsonschema::validator_for(&schema).expect("a schema");
        let list = gateway.get(asked).await.json();
        assert!(list["data"].as_array().is_some_and(|data| data.len() == 1) && schema.is_valid(&list), "{list}");
        assert!(!schema.is_valid(&json!({"object": "list", "data": [{}]})), "it can fail");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_what_the_document_says() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let gateway = Setup::default().backend(mock::Settings { version, ..mock::Settings::default() }).start().await;
        let document = gateway.get("/openapi.json").await.json();
        let [whole, chunk, error] =
            ["ChatCompletion", "ChatCompletionChunk", "Error"].map(|name| schema(&document, name));
        let [execution, event] = ["SandboxExecution", "SandboxEvent"].map(|name| schema(&document, name));
        let holds = |schema: &jsonschema::Validator, value: &Value| {
            let wrong: Vec<_> = schema.iter_errors(value).map(|error| error.to_string()).collect();
            assert!(wrong.is_empty(), "{version}: {wrong:?} in {value}");
        };
        for text in ["Hello", "What is 12 * 34?", "Divide by zero", "Think first"] {
            for mut body in four_ways(text) {
                body["stream_options"] = json!({"include_usage": true});
                let answer = gateway.ask(&body).await;
                if body["stream"] == true {
                    answer.chunks().iter().for_each(|it| holds(&chunk, it));
                } else {
                    holds(&whole, &answer.json());
                }
            }
        }
        let mut body = question("Use the tool read_file with {\"path\": \"a\"}", false);
        body["tools"] =
            json!([{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}]);
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let answer = gateway.ask(&body).await;
            if stream {
                answer.chunks().iter().for_each(|it| holds(&chunk, it));
            } else {
                holds(&whole, &answer.json());
            }
        }
        holds(&error, &gateway.ask(&json!({})).await.json());
        for code in ["print(1)\n2", "import sys\nprint(3, file=sys.stderr)\n1 / 0", "x ="] {
            holds(&execution, &execute(&gateway, &json!({"code": code})).await.json());
            execute(&gateway, &json!({"code": code, "stream": true}))
                .await
                .chunks()
                .iter()
                .for_each(|it| holds(&event, it));
        }
        assert!(!execution.is_valid(&json!({})) && !event.is_valid(&json!({"event": "stdout"})), "these can fail too");
        assert!(!whole.is_valid(&json!({"error": {}})) && !error.is_valid(&json!({})), "the schemas can fail");
    }
}

/// schemathesis makes requests from the document, good and bad, and holds the answers against it.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let program = root().join(".venv-schemathesis/bin/st");
    assert!(root().join(".venv-schemathesis/clients").exists(), "schemathesis is missing: run `make clients` first");
    let caller = format!("[[callers]]\nname = 'st'\nkey_sha256 = '{}'\n", KeyHash::of("lg-st").hex());
    let gateway = Setup::default().file(&caller).start().await;
    let mut document = gateway.get("/openapi.json").await.json();
    let schemas = &mut document["components"]["schemas"];
    // Other models are not found, which would end every request early.
    schemas["ChatCompletionRequest"]["properties"]["model"]["enum"] = json!(["qwen3-coder"]);
    // Whether a call can be required is the backend's to judge: it depends on the tools that are sent along.
    schemas["ToolChoiceWord"]["enum"] = json!(["auto", "none"]);
    // Who insists on code is refused what rules that out, which the document says in words only.
    schemas["Execute"]["enum"] = json!(["client", "off"]);
    // What a policy gives is not in the document.
    let members = &mut schemas["ExecuteRequest"]["properties"];
    members["timeout_ms"]["maximum"] = json!(30_000);
    // The policy has none.
    members["session"] = json!({"type": "null"});
    for path in ["/v1/chat/completions", PATH] {
        let parameters = document["paths"][path]["post"]["parameters"].as_array_mut();
        parameters.expect("parameters").retain(|it| it["name"] != "x-loopgate-session");
    }
    let parameters = document["paths"]["/v1/chat/completions"]["post"]["parameters"].as_array_mut();
    let execute = parameters.into_iter().flatten().find(|it| it["name"] == "x-loopgate-execute");
    execute.expect("the header")["schema"]["enum"] = json!(["client", "off"]);
    // Which paths a file may have is said in words only.
    document["paths"].as_object_mut().expect("paths").remove("/v1/sandbox/sessions/{id}/files/{path}");
    // What a backend makes of a body that is handed on is the backend's own affair.
    let is_handed_on = |operation: &Value| operation["post"]["tags"] == json!(["handed on"]);
    document["paths"].as_object_mut().expect("paths").retain(|_, operation| !is_handed_on(operation));
    let narrowed = gateway.folder.path().join("openapi.json");
    std::fs::write(&narrowed, document.to_string()).expect("a file");
    let mut command = Command::new(program);
    command.args(["run", "--no-color", "--seed", "1", "--checks", "all", "--max-examples", "100"]);
    command.args(["--header", "Authorization: Bearer lg-st", "--url", &gateway.url]).arg(narrowed);
    // It writes reports into its folder.
    command.current_dir(gateway.folder.path()).env("NO_PROXY", "*").env("no_proxy", "*");
    let output = block_in_place(|| command.output()).expect("a program that can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("Tested: {}", operations(&document))), "{said}");
}
