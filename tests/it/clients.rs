//! OpenAI's own SDKs as clients. Their side is in `tests/clients`; both print what they saw in the same form.

use crate::gateway::{Gateway, Setup, root, start};
use loopgate::access::KeyHash;
use loopgate::mock::{self, Fault, Outcome};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::task::block_in_place;

/// The same answer, taken as one body, put together by hand from chunks, and by the SDK's own helper.
const WAYS: [&str; 3] = ["whole", "streamed", "accumulated"];

#[derive(Debug, Clone, Copy)]
enum Sdk {
    Python,
    Node,
}

const SDKS: [Sdk; 2] = [Sdk::Python, Sdk::Node];

impl Sdk {
    /// A scene of its script, about to be run.
    fn command(self, gateway: &Gateway, scene: &str) -> Command {
        let (program, script, needed) = match self {
            Self::Python => (".venv/bin/python", "openai_python.py", ".venv/clients"),
            Self::Node => ("node", "openai_node.mjs", "tests/clients/node_modules/clients"),
        };
        assert!(root().join(needed).exists(), "{needed} is missing: run `make clients` first");
        let mut command = match self {
            Self::Python => Command::new(root().join(program)),
            Self::Node => Command::new(program),
        };
        command.arg(root().join("tests/clients").join(script)).arg(format!("{}/v1", gateway.url)).arg(scene);
        command.env_remove("OPENAI_API_KEY").env("NO_PROXY", "*").env("no_proxy", "*");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// What it saw.
    fn sees(self, gateway: &Gateway, scene: &str) -> Value {
        sees(&mut self.command(gateway, scene))
    }
}

fn sees(command: &mut Command) -> Value {
    let output = block_in_place(|| command.output()).expect("a program that can be run");
    assert!(output.status.success(), "{command:?} failed; its stderr is above");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("JSON of {command:?}, not {output:?}"))
}

/// Kills the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_read_a_plain_answer() {
    let gateway = start().await;
    for sdk in SDKS {
        let seen = sdk.sees(&gateway, "plain");
        for way in WAYS {
            let answer = &seen[way];
            assert_eq!(answer["text"], "Hello! How can I help you?", "{sdk:?} {way}: {seen}");
            assert_eq!(answer["finish"], "stop", "{sdk:?} {way}");
            assert_eq!((&answer["calls"], &answer["executed"]), (&json!([]), &json!([])), "{sdk:?} {way}");
            assert!(answer["tokens"].as_u64() > Some(0), "{sdk:?} {way}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_see_the_answer_of_a_program_and_no_call() {
    let gateway = start().await;
    for sdk in SDKS {
        let seen = sdk.sees(&gateway, "hidden");
        for way in WAYS {
            assert_factorial(&seen[way], &format!("{sdk:?} {way}"));
        }
    }
    assert_eq!(gateway.audit().len(), SDKS.len() * WAYS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookbook_page_s_examples_run_with_another_base_url() {
    let gateway = start().await;
    for sdk in SDKS {
        let seen = sdk.sees(&gateway, "page");
        let chat = seen["chat"]["text"].as_str().unwrap_or_default();
        assert!(chat.contains("def binary_search(") && chat.contains("\"\"\""), "{sdk:?}: {seen}");
        assert_factorial(&seen["tool"], &format!("{sdk:?}"));
    }
}

fn assert_factorial(answer: &Value, who: &str) {
    assert!(answer["text"].as_str().is_some_and(|text| text.contains("3628800")), "{who}: {answer}");
    assert_eq!((&answer["finish"], &answer["calls"]), (&json!("stop"), &json!([])), "{who}");
    assert!(answer["tokens"].as_u64() > Some(0), "{who}: {answer}");
    let executed = answer["executed"].as_array().expect("a list");
    assert_eq!(executed.len(), 1, "{who}: {answer}");
    assert_eq!((&executed[0]["status"], &executed[0]["result"]), (&json!("completed"), &json!("3628800")), "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_get_the_call_when_they_ask_to_run_it_themselves() {
    let gateway = start().await;
    for sdk in SDKS {
        let seen = sdk.sees(&gateway, "client_executes");
        for way in WAYS {
            let code = only_call(&seen[way], "execute_code", &format!("{sdk:?} {way}"))["code"].clone();
            assert!(code.as_str().is_some_and(|code| code.contains("factorial(10)")), "{sdk:?} {way}: {code}");
            assert_eq!(seen[way]["executed"], json!([]), "{sdk:?} {way}");
        }
    }
    assert!(gateway.audit().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_use_a_tool_of_their_own() {
    let gateway = start().await;
    for sdk in SDKS {
        let seen = sdk.sees(&gateway, "own_tool");
        for way in WAYS {
            let arguments = only_call(&seen["calls"][way], "read_file", &format!("{sdk:?} {way}"));
            assert_eq!(arguments, json!({"path": "notes.txt"}), "{sdk:?} {way}");
            let answer = &seen["answers"][way];
            assert_eq!((&answer["text"], &answer["calls"]), (&json!("The result is buy milk."), &json!([])));
        }
    }
}

/// The arguments of the one call that an answer consists of.
fn only_call(answer: &Value, name: &str, who: &str) -> Value {
    assert_eq!(answer["finish"], "tool_calls", "{who}: {answer}");
    let calls = answer["calls"].as_array().expect("a list");
    assert_eq!((calls.len(), &calls[0][0]), (1, &json!(name)), "{who}: {answer}");
    serde_json::from_str(calls[0][1].as_str().expect("text")).expect("arguments that are JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_raise_what_fits_the_status() {
    let gateway = start().await;
    for sdk in SDKS {
        let seen = sdk.sees(&gateway, "unknown_model");
        assert_raised(&seen, ("NotFoundError", 404, "model_not_found"), sdk);
        let seen = sdk.sees(&gateway, "bad_request");
        for way in ["whole", "streamed"] {
            assert_eq!((&seen[way]["error"], &seen[way]["status"]), (&json!("BadRequestError"), &json!(400)), "{seen}");
        }
    }
    gateway.backend.set_fault(Some(Fault::RefuseAll));
    for sdk in SDKS {
        assert_raised(&sdk.sees(&gateway, "failing"), ("InternalServerError", 503, "no_backend"), sdk);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_come_in_with_the_right_key_only() {
    let caller = format!("[[callers]]\nname = \"alice\"\nkey_sha256 = \"{}\"\n", KeyHash::of("lg-alice").hex());
    let gateway = Setup::default().file(&caller).start().await;
    for sdk in SDKS {
        assert_raised(&sdk.sees(&gateway, "failing"), ("AuthenticationError", 401, "invalid_api_key"), sdk);
        let seen = sees(sdk.command(&gateway, "plain").env("OPENAI_API_KEY", "lg-alice"));
        assert_eq!(seen["streamed"]["text"], "Hello! How can I help you?", "{sdk:?}");
    }
}

fn assert_raised(seen: &Value, (error, status, code): (&str, u16, &str), sdk: Sdk) {
    for way in ["whole", "streamed"] {
        assert_eq!(seen[way], json!({"error": error, "status": status, "code": code, "text": ""}), "{sdk:?} {way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_raise_when_a_stream_fails_in_its_middle() {
    for fault in [Fault::DieAfter(4), Fault::ErrorAfter(4), Fault::GarbageAfter(4), Fault::EndAfter(4)] {
        let backend = mock::Settings { fault: Some(fault), ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        for sdk in SDKS {
            let seen = sdk.sees(&gateway, "failing");
            let streamed = &seen["streamed"];
            assert_eq!((&streamed["error"], &streamed["status"]), (&json!("APIError"), &Value::Null), "{fault} {seen}");
            assert!(streamed["text"].as_str().is_some_and(|text| text.starts_with("Hello")), "{fault} {seen}");
            assert!(seen["whole"]["status"].as_u64() >= Some(500), "{fault} {seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_that_leaves_a_stream_leaves_no_request_behind() {
    for sdk in SDKS {
        // The answer would never end by itself.
        let backend = mock::Settings { fault: Some(Fault::StallAfter(6)), ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        let mut script = sdk.command(&gateway, "leaving");
        let mut script = Running(script.stdin(Stdio::piped()).spawn().expect("a program that can be run"));
        let mut left = String::new();
        let said = script.0.stdout.as_mut().expect("a pipe");
        block_in_place(|| BufReader::new(said).read_line(&mut left)).expect("a line");
        assert!(left.contains("heard"), "{sdk:?} said {left:?}; its stderr is above");
        // The script lives on, so nothing but its leave ends the request.
        let closed = gateway.backend.wait_until(|log| {
            log.asked().all(|request| request.outcome == Outcome::ClosedEarly) && log.aborts().count() == 1
        });
        tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the backend is let go");
        assert!(script.0.try_wait().expect("a status").is_none(), "{sdk:?} has ended");
    }
}
