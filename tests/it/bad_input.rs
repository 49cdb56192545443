//! Bad requests and bad backends get a clear error in OpenAI's envelope, and nothing is lost or hangs.

use crate::gateway::{Answer, Gateway, Setup, question, start};
use crate::wires::{Line, NEVER, Scripted};
use http::Method;
use loopgate::access::new_key;
use loopgate::mock::{self, Fault, Version};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";

/// The error of an answer, whose envelope must be whole.
fn refused(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|it| !it.is_empty()), "{body}");
    assert!(error["type"].is_string(), "{body}");
    for member in ["param", "code"] {
        assert!(error.get(member).is_some_and(|it| it.is_string() || it.is_null()), "{member} in {body}");
    }
    assert!(!answer.header("x-request-id").is_empty());
    assert!(answer.header("content-type").starts_with("application/json"));
    error.clone()
}

async fn post(gateway: &Gateway, body: impl Into<bytes::Bytes>) -> Answer {
    gateway.send(Method::POST, CHAT, &[], body).await
}

/// A request that is forwarded, and one in which the gateway acts, in both forms.
fn four_ways(text: &str) -> Vec<Value> {
    let mut ways = Vec::new();
    for stream in [false, true] {
        ways.push(question(text, stream));
        let mut forwarded = question(text, stream);
        forwarded["tools"] = json!([]);
        ways.push(forwarded);
    }
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_body_is_said_and_never_quoted() {
    let gateway = start().await;
    for (body, named) in [
        ("", "JSON"),
        ("{\"model\": SECRET", "JSON"),
        ("[\"SECRET\"]", "JSON"),
        ("\u{feff}{}", "JSON"),
        (r#"{"model":"SECRET","model":"SECRET","messages":[]}"#, "model"),
        (r#"{"messages":[{"role":"user","content":"SECRET"}]}"#, "`model`"),
        (r#"{"model":["SECRET"],"messages":[{"role":"user"}]}"#, "`model`"),
        (r#"{"model":"qwen3-coder","messages":"SECRET"}"#, "`messages`"),
        (r#"{"model":"qwen3-coder","messages":[]}"#, "`messages`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":7}]}"#, "`messages`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"stream":"SECRET"}"#, "`stream`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"tools":"SECRET"}"#, "`tools`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"tools":[{"function":"SECRET"}]}"#, "`tools[0]`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"loopgate":"SECRET"}"#, "`loopgate`"),
    ] {
        let error = refused(&post(&gateway, body).await, 400);
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(named) && !message.contains("SECRET"), "{body}: {message}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let deep = format!(r#"{{"model":"qwen3-coder","messages":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    refused(&post(&gateway, deep).await, 400);
    refused(&post(&gateway, vec![b'{', b'"', 0xff, b'"']).await, 400);
    assert!(gateway.backend.requests().is_empty(), "no backend was bothered");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_backend_can_judge_comes_back_without_its_paths_and_echoes() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let gateway = Setup::default().backend(mock::Settings { version, ..mock::Settings::default() }).start().await;
        for mut body in four_ways("Hello") {
            body["messages"][0]["role"] = json!("SECRET");
            let answer = gateway.ask(&body).await;
            let error = refused(&answer, 400);
            let message = error["message"].as_str().expect("text");
            assert!(message.contains("role") && message.contains("must be one of"), "{message}");
            for leak in ["SECRET", "/venv", ".py", "http_server", "ctx"] {
                assert!(!message.contains(leak), "{leak} in {message}");
            }
            assert_eq!(answer.header("x-should-retry"), "false");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_a_404_that_lists_the_known_ones() {
    let gateway = start().await;
    let mut body = question("Hello", true);
    body["model"] = json!("no/such");
    let error = refused(&gateway.ask(&body).await, 404);
    assert_eq!(error["code"], "model_not_found");
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("`no/such`") && message.contains("qwen3-coder"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_the_client_is_told_when_to_come_back() {
    // A port that nobody listens on any more.
    let gone = mock::start(mock::Settings::default()).await.expect("a backend");
    let url = gone.url();
    let gateway = Setup::default().flag("backend", &url).start().await;
    gone.stop().await;
    for body in four_ways("Hello").into_iter().chain(four_ways("Hello")) {
        let answer = gateway.ask(&body).await;
        assert_eq!(refused(&answer, 503)["code"], "no_backend");
        let seconds: u64 = answer.header("retry-after").parse().expect("whole seconds");
        let millis: u64 = answer.header("retry-after-ms").parse().expect("milliseconds");
        assert!(seconds >= 1 && millis.div_ceil(1000) == seconds);
        assert_eq!(answer.header("x-should-retry"), "true");
        assert!(!String::from_utf8_lossy(&answer.body).contains("127.0.0.1"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let gateway = Setup::default().flag("body-bytes-max", 2000).start().await;
    let error = refused(&post(&gateway, vec![b' '; 3000]).await, 413);
    assert!(error["message"].as_str().expect("text").contains("2000 bytes"), "{error}");
    // Far more than the sockets' buffers hold: the client hears of it all the same.
    refused(&post(&gateway, vec![b' '; 8 << 20]).await, 413);
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let chunk = format!("{:x}\r\n{}\r\n", 3000, " ".repeat(3000));
    let mut line = Line::send(&gateway, (head + &chunk).as_bytes()).await;
    let answer = line.until("\"error\"").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let fits = question("Hello", false).to_string();
    assert_eq!(post(&gateway, format!("{fits:<2000}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_routes_and_methods_have_the_envelope_too() {
    let gateway = start().await;
    let error = refused(&gateway.get("/v2/nothing").await, 404);
    assert!(error["message"].as_str().expect("text").contains("/v1/chat/completions"), "{error}");
    for (method, path) in [(Method::GET, CHAT), (Method::DELETE, CHAT), (Method::POST, "/v1/models")] {
        let answer = gateway.send(method, path, &[], "").await;
        refused(&answer, 405);
        assert!(!answer.header("allow").is_empty(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_header_values_are_named() {
    let gateway = start().await;
    let body = question("Hello", false).to_string();
    for (name, value, status) in [("x-loopgate-execute", "perhaps", 400), ("content-encoding", "br", 415)] {
        let answer = gateway.send(Method::POST, CHAT, &[(name, value)], body.clone()).await;
        refused(&answer, status);
    }
    assert!(gateway.backend.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_what_their_callers_policy_allows() {
    let (alice, alice_hash) = new_key().expect("a key");
    let (bob, bob_hash) = new_key().expect("a key");
    let callers = format!(
        "[[callers]]\nname = 'alice'\nkey_sha256 = '{}'\n[[callers]]\nname = 'bob'\nkey_sha256 = '{}'\n",
        alice_hash.hex(),
        bob_hash.hex(),
    );
    let policies = tempfile::tempdir().expect("a folder");
    let grant = "[[grants]]\ntools = ['execute_code']\nwhy = 'test'\n";
    for (file, text) in [
        ("all.toml", format!("callers = ['*']\n{grant}")),
        ("bob.toml", format!("callers = ['bob']\noffer = 'never'\n{grant}")),
    ] {
        std::fs::write(policies.path().join(file), text).expect("a policy");
    }
    let gateway = Setup::default().file(&callers).flag("policy-dir", policies.path().display()).start().await;
    let body = question("What is 12 * 34?", false).to_string();
    let bearer = |key: &str| format!("Bearer {key}");
    for wrong in [None, Some("Bearer wrong".to_owned()), Some(alice.clone()), Some("Bearer ".to_owned())] {
        let headers: Vec<_> = wrong.iter().map(|value| ("authorization", value.as_str())).collect();
        for (method, path) in [(Method::POST, CHAT), (Method::GET, "/v1/models"), (Method::GET, "/v1/models/x")] {
            let answer = gateway.send(method, path, &headers, body.clone()).await;
            let error = refused(&answer, 401);
            assert_eq!(error["code"], "invalid_api_key");
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
    }
    assert!(gateway.backend.requests().is_empty());
    for (key, text) in [(&alice, "The result is 408."), (&bob, "No tool to run this is offered")] {
        let answer = gateway.send(Method::POST, CHAT, &[("authorization", &bearer(key))], body.clone()).await;
        assert!(answer.text().starts_with(text), "{answer:?}");
    }
    assert_eq!(gateway.audit()[0]["caller"], "alice");
    for request in gateway.backend.requests() {
        assert!(request.headers.get("authorization").is_none(), "a client's key goes nowhere");
    }
    // Who watches has no key.
    for page in ["/liveness", "/readiness", "/metrics"] {
        assert_eq!(gateway.get(page).await.status, 200, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_over_its_concurrency_is_told_to_wait() {
    let gateway = Setup::default().flag("concurrent-max", 1).start().await;
    gateway.backend.set_fault(Some(Fault::StallAfter(2)));
    let mut line = Line::ask(&gateway, &question("Hello", true)).await;
    line.until("\"role\":\"assistant\"").await;
    let answer = gateway.ask(&question("Hello", false)).await;
    let error = refused(&answer, 429);
    assert_eq!((&error["type"], answer.header("retry-after")), (&json!("rate_limit_error"), "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_before_its_answer_begins_is_replaced_by_another() {
    for fault in [Fault::DieAfter(0), Fault::RefuseAll, Fault::EmptyBody, Fault::GarbageAfter(0), Fault::ErrorAfter(0)]
    {
        for body in four_ways("Hello") {
            // A whole forwarded answer is read by nobody but its client.
            let whole_forwarded = body["tools"].is_array() && body["stream"] == false;
            let forwarded = body["tools"].is_array();
            if matches!(fault, Fault::GarbageAfter(_)) && (whole_forwarded || forwarded) {
                continue;
            }
            let good = mock::start(mock::Settings::default()).await.expect("a backend");
            let gateway = Setup::default().other_backend(good.url()).start().await;
            gateway.backend.set_fault(Some(fault));
            // Which one is asked first is the balance policy's business: after two requests both were.
            for _ in 0..2 {
                let answer = gateway.ask(&body).await;
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (200, "Hello! How can I help you?"),
                    "{fault} {body}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_alone_is_an_error_with_a_status() {
    for (fault, status) in [
        (Fault::DieAfter(0), 502),
        (Fault::RefuseAll, 503),
        (Fault::EmptyBody, 503),
        (Fault::GarbageAfter(0), 502),
        (Fault::ErrorAfter(0), 503),
    ] {
        let gateway = start().await;
        gateway.backend.set_fault(Some(fault));
        let error = refused(&gateway.ask(&question("Hello", true)).await, status);
        assert!(!error["message"].as_str().expect("text").contains("garb"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_after_it_has_begun_ends_in_an_error_event_and_done() {
    for fault in [Fault::DieAfter(2), Fault::GarbageAfter(2), Fault::ErrorAfter(2), Fault::EndAfter(2)] {
        for forwarded in [false, true] {
            if forwarded && matches!(fault, Fault::GarbageAfter(_)) {
                continue;
            }
            let gateway = start().await;
            gateway.backend.set_fault(Some(fault));
            let mut body = question("Hello", true);
            if forwarded {
                body["tools"] = json!([]);
            }
            let answer = gateway.ask(&body).await;
            assert_eq!(answer.status, 200);
            let chunks = answer.chunks();
            let error = &chunks.last().expect("chunks")["error"];
            assert!(error["message"].is_string(), "{fault} forwarded {forwarded}: {chunks:?}");
            assert!(chunks.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()), "{chunks:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_dies_is_an_error_with_a_status() {
    let gateway = start().await;
    gateway.backend.set_fault(Some(Fault::DieAfter(2)));
    assert_eq!(refused(&gateway.ask(&question("Hello", false)).await, 502)["code"], "backend_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_stalls_is_given_up_after_the_idle_time() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let backend = mock::Settings { version, ..mock::Settings::default() };
        let setup = Setup::default().backend(backend).flag("idle-ms", 200).flag("first-byte-ms", 200);
        let gateway = setup.start().await;
        for after in [0, 2] {
            gateway.backend.set_fault(Some(Fault::StallAfter(after)));
            for body in four_ways("Hello") {
                let what = format!("{version} {after} {body}");
                let asked = tokio::time::timeout(NEVER, gateway.ask(&body)).await;
                let answer = asked.unwrap_or_else(|_| panic!("{what}: never given up"));
                if answer.status == 200 {
                    assert_eq!(answer.chunks().last().expect("chunks")["error"]["code"], "backend_timeout", "{what}");
                } else {
                    assert_eq!(refused(&answer, 504)["code"], "backend_timeout", "{what}");
                }
                let rid = gateway.backend.requests().pop().expect("a request").json()["rid"].clone();
                let rid = rid.as_str().expect("a rid").to_owned();
                let told = gateway.backend.wait_until(|log| log.aborts().any(|it| it == rid));
                tokio::time::timeout(NEVER, told).await.unwrap_or_else(|_| panic!("{what}: no abort"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_a_503_in_every_way_in_which_backends_say_it() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let backend = mock::Settings { version, running_max: Some(1), queue_max: Some(0), ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        gateway.backend.fault_next(Fault::StallAfter(2));
        let mut line = Line::ask(&gateway, &question("Hello", true)).await;
        line.until("\"role\":\"assistant\"").await;
        for body in four_ways("Hello") {
            let answer = gateway.ask(&body).await;
            let error = refused(&answer, 503);
            assert_eq!((&error["code"], answer.header("retry-after")), (&json!("no_backend"), "1"), "{version} {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_over_the_context_is_named_so_that_clients_shorten_it() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let backend = mock::Settings { version, context_length: 500, ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        for mut body in four_ways(&"word ".repeat(600)) {
            let error = refused(&gateway.ask(&body).await, 400);
            assert_eq!(error["code"], "context_length_exceeded", "{version} {body}");
            let message = error["message"].as_str().expect("text");
            assert!(message.contains("maximum context length is 500 tokens"), "{message}");
            body["messages"][0]["content"] = json!("Hello");
            body["max_tokens"] = json!(499);
            let error = refused(&gateway.ask(&body).await, 400);
            assert!(
                error["message"].as_str().expect("text").contains("maximum context length is 500 tokens"),
                "{error}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_an_error_like_a_dead_backend() {
    for script in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 20\r\n\r\ndata: <html></html>\n",
        "",
    ] {
        let backend = Scripted::start(vec![vec![script.into()]; 2]).await;
        let gateway = Setup::default().flag("backend", &backend.url).start().await;
        let begun = Instant::now();
        let answer = gateway.ask(&question("Hello", true)).await;
        assert!([502, 503].contains(&answer.status), "{script:?}: {answer:?}");
        refused(&answer, answer.status);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
