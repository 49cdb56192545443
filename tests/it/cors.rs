//! Web pages of other origins.

use crate::gateway::{Answer, Gateway, Setup, question, start};
use http::Method;

const CHAT: &str = "/v1/chat/completions";
const WANTED: &str = "authorization, content-type, x-stainless-os, x-stainless-retry-count, x-loopgate-execute";

async fn preflight(gateway: &Gateway, origin: &str) -> Answer {
    let headers =
        [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", WANTED)];
    gateway.send(Method::OPTIONS, CHAT, &headers, "").await
}

async fn ask(gateway: &Gateway, origin: &str) -> Answer {
    gateway.send(Method::POST, CHAT, &[("origin", origin)], question("Hello", false).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_may_ask_unless_somebody_says_so() {
    let gateway = start().await;
    let answer = preflight(&gateway, "https://evil.example").await;
    answer.refused(405);
    for answer in [answer, ask(&gateway, "https://evil.example").await] {
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_page_gets_nothing_done_where_no_key_is_asked_for() {
    let gateway = Setup::default().file("server.cors_origins = ['https://app.example']").start().await;
    // The last is a name that has come to mean this machine: its page needs no leave to read.
    for origin in [
        "https://evil.example",
        "null",
        "https://localhost.evil.example",
        "http://evil.example:8080",
        "http://203.0.113.9",
        "https://[2001:db8::1]",
    ] {
        let error = ask(&gateway, origin).await.refused(403);
        assert!(error["message"].as_str().is_some_and(|it| it.contains("server.cors_origins")), "{origin}: {error}");
        let execute = r#"{"code": "1"}"#;
        gateway.send(Method::POST, "/v1/sandbox/execute", &[("origin", origin)], execute).await.refused(403);
        gateway.send(Method::DELETE, "/v1/sandbox/sessions/s", &[("origin", origin)], "").await.refused(403);
    }
    assert!(gateway.backend.requests().is_empty() && gateway.audit().is_empty());
    for origin in ["https://app.example", "http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:1"] {
        assert_eq!(ask(&gateway, origin).await.status, 200, "{origin}");
    }
    // A key is what no strange page has.
    let hash = loopgate::access::KeyHash::of("lg-alice").hex();
    let file = format!("[[callers]]\nname = \"alice\"\nkey_sha256 = \"{hash}\"\n");
    let gateway = Setup::default().file(&file).start().await;
    let headers = [("origin", "https://evil.example"), ("authorization", "Bearer lg-alice")];
    let answer = gateway.send(Method::POST, CHAT, &headers, question("Hello", false).to_string()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_listed_origins_may_ask_and_read_the_headers_that_count() {
    let gateway =
        Setup::default().file("server.cors_origins = ['https://app.example', 'http://localhost:3000']").start().await;
    for origin in ["https://app.example", "http://localhost:3000"] {
        let answer = preflight(&gateway, origin).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, origin));
        assert!(answer.header("access-control-allow-methods").contains("POST"), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-headers"), WANTED);
        assert!(!answer.header("x-request-id").is_empty());
        let answer = ask(&gateway, origin).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, origin));
        for name in ["x-request-id", "x-ratelimit-remaining-requests", "retry-after", "x-should-retry"] {
            assert!(answer.header("access-control-expose-headers").contains(name), "{name} {answer:?}");
        }
        assert!(answer.headers.get("access-control-allow-credentials").is_none());
    }
    for origin in ["https://evil.example", "http://app.example", "https://app.example.evil", "null"] {
        for answer in [preflight(&gateway, origin).await, ask(&gateway, origin).await] {
            assert!(answer.headers.get("access-control-allow-origin").is_none(), "{origin} {answer:?}");
        }
    }
    // A page must be able to read why it was refused.
    let refused = gateway.send(Method::POST, CHAT, &[("origin", "https://app.example")], "{}").await;
    refused.refused(400);
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_may_put_and_delete_files_and_end_sessions() {
    let gateway = Setup::default().flag("cors-origin", "*").start().await;
    let (session, file) = ("/v1/sandbox/sessions/s", "/v1/sandbox/sessions/s/files/a.txt");
    for (method, path) in [("PUT", file), ("DELETE", file), ("DELETE", session)] {
        let headers = [("origin", "https://any.example"), ("access-control-request-method", method)];
        let answer = gateway.send(Method::OPTIONS, path, &headers, "").await;
        let allowed = answer.header("access-control-allow-methods");
        assert!(answer.status == 200 && allowed.split(',').any(|it| it.trim() == method), "{method} {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_lets_every_page_ask() {
    let gateway = Setup::default().flag("cors-origin", "*").start().await;
    for answer in [preflight(&gateway, "https://any.example").await, ask(&gateway, "https://any.example").await] {
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "*"));
    }
}
