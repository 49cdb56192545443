//! `loopgate eval`, as its user runs it.

use crate::gateway::Setup;
use crate::wires::Pages;
use loopgate::mock::{self, Fault, Settings};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Output};

/// The second question cannot be right: the scripted model knows only how to calculate.
const QUESTIONS: &str = "{\"question\": \"Ann counts.\\nWhat is 12 * 34?\", \"answer\": \"#### 408\"}\n\
    {\"question\": \"Bob counts.\\nWhat is 2 + 2?\", \"answer\": \"#### 5\"}\n";

fn gsm8k(arguments: &[&str]) -> Output {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(QUESTIONS.as_bytes()).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopgate"));
    command.args(["eval", "gsm8k", "--num-shots", "0", "--data-path"]).arg(file.path()).args(arguments);
    tokio::task::block_in_place(|| command.output()).expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_runs_programs_is_counted_with_them() {
    let gateway = Setup::default().start().await;
    let done = gsm8k(&["--base-url", &gateway.url, "--mode", "tools"]);
    let said = text(&done.stdout);
    assert!(said.starts_with("Accuracy: 0.500\nInvalid: 0.000\nLatency: "), "{said}{}", text(&done.stderr));
    assert!(said.contains(" token/s\nExecutions: 2, 0 of them failed, in 2 questions\n"), "{said}");
    assert!(done.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_go_through_the_gateway_in_every_mode_and_each_is_in_the_json() {
    let gateway = Setup::default().start().await;
    for mode in ["completion", "chat"] {
        let done = gsm8k(&["--base-url", &gateway.url, "--mode", mode, "--json", "-"]);
        let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!((report["mode"].as_str(), report["executions"].as_u64()), (Some(mode), Some(0)), "{report}");
        assert_eq!(report["answers"][0]["prompt"], "Question: Ann counts.\nWhat is 12 * 34?\nAnswer:");
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_answer_errors_or_nonsense_are_counted_by_reason() {
    let failures = |url: &str| {
        let done = gsm8k(&["--base-url", url, "--json", "-"]);
        let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        (done.status.code(), report["failures"].clone())
    };
    for (fault, reason) in [
        (Fault::RefuseAll, "status 503"),
        (Fault::GarbageAfter(0), "unreadable"),
        (Fault::EmptyBody, "unreadable"),
        (Fault::DieAfter(0), "the connection broke"),
    ] {
        let server = mock::start(Settings { fault: Some(fault), ..Settings::default() }).await.expect("a server");
        assert_eq!(failures(&server.url()), (Some(1), json!({reason: 2})), "{fault:?}");
    }
    let other = Pages::start(|_| Some("{\"object\": \"list\", \"text\": 1}")).await;
    assert_eq!(failures(&other.url), (Some(1), json!({"unreadable": 2})));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_is_no_key() {
    let server = mock::start(Settings::default()).await.expect("a server");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(QUESTIONS.as_bytes()).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopgate"));
    command.args(["eval", "gsm8k", "--num-shots", "0", "--base-url", &server.url(), "--data-path"]).arg(file.path());
    command.env("OPENAI_API_KEY", "");
    let done = tokio::task::block_in_place(|| command.output()).expect("it runs");
    assert!(done.status.success(), "{}", text(&done.stderr));
    let sent = server.requests();
    assert!(!sent.is_empty() && sent.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_does_not_take_the_answers() {
    let gateway = Setup::default().start().await;
    let done = gsm8k(&["--base-url", &gateway.url, "--json", "/no/such/file"]);
    let (said, error) = (text(&done.stdout), text(&done.stderr));
    assert!(said.starts_with("Accuracy: ") && error.contains("--json /no/such/file: No such file"), "{said}{error}");
    assert_eq!(done.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_nobody_answers_are_named_and_the_command_fails() {
    let done = gsm8k(&["--base-url", "http://127.0.0.1:1"]);
    let said = text(&done.stdout);
    let named = "Not answered by http://127.0.0.1:1: 2: cannot connect: ";
    assert!(said.contains("Accuracy: 0.000") && said.contains(named), "{said}");
    assert_eq!(done.status.code(), Some(1));
    let done = gsm8k(&["--base-url", "http://127.0.0.1:1", "--mode=chat"]);
    let error = text(&done.stderr);
    assert!(error.contains("http://127.0.0.1:1/v1/models: cannot connect") && error.contains("--base-url"), "{error}");
    let gateway = Setup::default().start().await;
    let done = gsm8k(&["--base-url", &gateway.url, "--mode=chat", "--model=nobody"]);
    let said = text(&done.stdout);
    assert!(said.contains("2: status 404; first status 404: ") && said.contains("nobody"), "{said}");
    let none = Command::new(env!("CARGO_BIN_EXE_loopgate")).args(["eval", "gsm8k"]).output().expect("it runs");
    assert!(text(&none.stderr).contains("--data-path is missing. GSM8K's test set is"), "{}", text(&none.stderr));
    assert_eq!(none.status.code(), Some(2));
}
