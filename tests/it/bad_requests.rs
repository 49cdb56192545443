//! Bad requests get a clear error in OpenAI's envelope.

use crate::gateway::{Answer, Gateway, Setup, four_ways, question, start};
use crate::wires::Line;
use http::Method;
use loopgate::access::new_key;
use loopgate::mock::{self, Fault, Version};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

async fn post(gateway: &Gateway, body: impl Into<bytes::Bytes>) -> Answer {
    gateway.send(Method::POST, CHAT, &[], body).await
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
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"},{"role":7}]}"#, "`messages[1]`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"stream":"SECRET"}"#, "`stream`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"tools":"SECRET"}"#, "`tools`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"tools":[{"function":"SECRET"}]}"#, "`tools[0]`"),
        (r#"{"model":"qwen3-coder","messages":[{"role":"user"}],"loopgate":"SECRET"}"#, "`loopgate`"),
    ] {
        let error = post(&gateway, body).await.refused(400);
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(named) && !message.contains("SECRET"), "{body}: {message}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let deep = format!(r#"{{"model":"qwen3-coder","messages":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    post(&gateway, deep).await.refused(400);
    post(&gateway, vec![b'{', b'"', 0xff, b'"']).await.refused(400);
    assert!(gateway.backend.requests().is_empty(), "no backend was bothered");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_backend_can_judge_comes_back_without_its_paths_and_echoes() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let gateway = Setup::default().backend(mock::Settings { version, ..mock::Settings::default() }).start().await;
        for mut body in four_ways("Hello") {
            body["messages"][0]["role"] = json!("SECRET");
            let answer = gateway.ask(&body).await;
            let error = answer.refused(400);
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
    let error = gateway.ask(&body).await.refused(404);
    assert_eq!(error["code"], "model_not_found");
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("`no/such`") && message.contains("qwen3-coder"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let gateway = Setup::default().flag("body-bytes-max", 2000).start().await;
    let error = post(&gateway, vec![b' '; 3000]).await.refused(413);
    assert!(error["message"].as_str().expect("text").contains("2000 bytes"), "{error}");
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
async fn a_client_that_still_sends_hears_of_its_refusal() {
    let gateway = Setup::default().flag("body-bytes-max", 1 << 20).start().await;
    // Far more than the sockets' buffers hold.
    let body = bytes::Bytes::from(vec![b' '; 16 << 20]);
    for (name, value, status) in
        [("x-nothing", "", 413), ("content-encoding", "br", 415), ("x-loopgate-execute", "?", 400)]
    {
        for _ in 0..5 {
            gateway.send(Method::POST, CHAT, &[(name, value)], body.clone()).await.refused(status);
        }
    }
    // Asked first, it is told before it sends anything.
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\nexpect: 100-continue\r\n\r\n");
    let answer = Line::send(&gateway, head.as_bytes()).await.until("\"error\"").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_routes_and_methods_have_the_envelope_too() {
    let gateway = start().await;
    let error = gateway.get("/v2/nothing").await.refused(404);
    assert!(error["message"].as_str().expect("text").contains("/v1/chat/completions"), "{error}");
    for (method, path) in [(Method::GET, CHAT), (Method::DELETE, CHAT), (Method::POST, "/v1/models")] {
        let answer = gateway.send(method, path, &[], "").await;
        answer.refused(405);
        assert!(!answer.header("allow").is_empty(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_header_values_are_named() {
    let gateway = start().await;
    let body = question("Hello", false).to_string();
    for (name, value, status) in [("x-loopgate-execute", "perhaps", 400), ("content-encoding", "br", 415)] {
        let answer = gateway.send(Method::POST, CHAT, &[(name, value)], body.clone()).await;
        answer.refused(status);
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
            let error = answer.refused(401);
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
    let error = answer.refused(429);
    assert_eq!((&error["type"], answer.header("retry-after")), (&json!("rate_limit_error"), "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_over_the_context_is_named_so_that_clients_shorten_it() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let backend = mock::Settings { version, context_length: 500, ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        for mut body in four_ways(&"word ".repeat(600)) {
            let error = gateway.ask(&body).await.refused(400);
            assert_eq!(error["code"], "context_length_exceeded", "{version} {body}");
            let message = error["message"].as_str().expect("text");
            assert!(message.contains("maximum context length is 500 tokens"), "{message}");
            body["messages"][0]["content"] = json!("Hello");
            body["max_tokens"] = json!(499);
            let error = gateway.ask(&body).await.refused(400);
            assert!(
                error["message"].as_str().expect("text").contains("maximum context length is 500 tokens"),
                "{error}"
            );
        }
        // The same where not the context but the KV cache is too small.
        let backend = mock::Settings { version, kv_tokens: Some(506), ..mock::Settings::default() };
        let gateway = Setup::default().backend(backend).start().await;
        for body in four_ways(&"word ".repeat(600)) {
            let error = gateway.ask(&body).await.refused(400);
            assert_eq!(error["code"], "context_length_exceeded", "{version} {body}");
            let message = error["message"].as_str().expect("text");
            assert!(message.contains("maximum context length is 500 tokens"), "{message}");
        }
    }
}
