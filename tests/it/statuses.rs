//! The table of statuses is true: each row can be provoked, and the page shows the same.

use crate::execute::refused_as_busy;
use crate::gateway::{Answer, Gateway, Setup, question, root, start};
use crate::wires::{Line, Scripted, stream_of};
use http::{Method, StatusCode};
use loopgate::access::KeyHash;
use loopgate::http::{StatusRow, statuses};
use loopgate::mock::{self, Fault};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn every_row_can_be_provoked_and_says_whether_to_try_again() {
    for row in statuses() {
        // Nobody knows how to make the gateway make a mistake; who does has found one to mend.
        if row.status == StatusCode::INTERNAL_SERVER_ERROR {
            continue;
        }
        let answer = Box::pin(provoked(&row)).await;
        let error = answer.refused(row.status.as_u16());
        assert_eq!((&error["type"], &error["code"]), (&json!(row.kind), &json!(row.code)), "{row:?}");
        assert_eq!(answer.header("x-should-retry"), row.retry.to_string(), "{row:?}");
        if row.when.contains("Retry-After") {
            assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{answer:?}");
            assert!(answer.header("retry-after-ms").parse::<u64>().is_ok_and(|millis| millis >= 1), "{answer:?}");
        }
    }
}

async fn provoked(row: &StatusRow) -> Answer {
    let hello = question("Hello", true);
    match (row.status.as_u16(), row.code) {
        (400, None) => start().await.ask(&json!({})).await,
        (400, Some("answer_too_long")) => {
            let piece = json!({"delta": {"content": "a".repeat(1 << 20)}});
            let backend = Scripted::start(vec![stream_of(&vec![piece; 9])]).await;
            // The gateway's own wait: a slow machine must not begin the answer first.
            let setup = Setup::default().rules("silence.commit_after_ms = 60000").flag("backend", &backend.url);
            setup.start().await.ask(&question("Hello", false)).await
        }
        (400, Some(_)) => {
            let backend = mock::Settings { context_length: 500, ..mock::Settings::default() };
            Setup::default().backend(backend).start().await.ask(&question(&"word ".repeat(600), true)).await
        }
        (401, _) => {
            let callers = format!("[[callers]]\nname = 'a'\nkey_sha256 = '{}'\n", KeyHash::of("lg-a").hex());
            Setup::default().file(&callers).start().await.ask(&hello).await
        }
        (403, _) => {
            let gateway = Setup::default().policy("callers = ['*']").start().await;
            post(&gateway, &[("x-loopgate-execute", "gateway")], hello.to_string()).await
        }
        (404, None) => start().await.get("/no/such").await,
        (404, Some("not_found")) => with_sessions().await.get("/v1/sandbox/sessions/s/files").await,
        (404, Some(_)) => {
            let body = json!({"model": "no/such", "messages": hello["messages"]});
            start().await.ask(&body).await
        }
        (405, _) => start().await.get(CHAT).await,
        (408, _) => {
            let gateway = Setup::default().flag("body-ms", 50).start().await;
            let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
            Line::send(&gateway, head.as_bytes()).await.answer().await
        }
        (409, _) => {
            let gateway = with_sessions().await;
            put(&gateway, "/v1/sandbox/sessions/s/files/folder/a").await;
            put(&gateway, "/v1/sandbox/sessions/s/files/folder").await
        }
        (413, Some(_)) => {
            let gateway = Setup::default().rules("sessions.enabled = true\nlimits.files = 0").start().await;
            put(&gateway, "/v1/sandbox/sessions/s/files/a").await
        }
        (413, None) => {
            let gateway = Setup::default().flag("body-bytes-max", 1024).start().await;
            post(&gateway, &[], " ".repeat(1025)).await
        }
        (415, _) => post(&start().await, &[("content-encoding", "br")], hello.to_string()).await,
        (429, _) => {
            let gateway = Setup::default().flag("concurrent-max", 1).start().await;
            gateway.backend.set_fault(Some(Fault::StallAfter(2)));
            let mut line = Line::ask(&gateway, &hello).await;
            line.until("\"role\":\"assistant\"").await;
            gateway.ask(&hello).await
        }
        (502, Some("key_refused")) => {
            let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            let backend = Scripted::start(vec![vec![refusal.into()]; 4]).await;
            Setup::default().flag("backend", &backend.url).start().await.ask(&hello).await
        }
        (502, _) => failing(Setup::default(), Fault::DieAfter(0)).await,
        (503, Some("no_interpreter")) => refused_as_busy().await,
        (503, _) => failing(Setup::default(), Fault::RefuseAll).await,
        (504, _) => failing(Setup::default().flag("first-byte-ms", 50), Fault::StallAfter(0)).await,
        _ => panic!("nobody knows how to provoke {row:?}"),
    }
}

async fn with_sessions() -> Gateway {
    Setup::default().rules("sessions.enabled = true").start().await
}

async fn put(gateway: &Gateway, path: &str) -> Answer {
    gateway.send(Method::PUT, path, &[], "x").await
}

async fn post(gateway: &Gateway, headers: &[(&str, &str)], body: String) -> Answer {
    gateway.send(Method::POST, CHAT, headers, body).await
}

async fn failing(setup: Setup, fault: Fault) -> Answer {
    let gateway = setup.start().await;
    gateway.backend.set_fault(Some(fault));
    gateway.ask(&question("Hello", true)).await
}

#[test]
fn the_page_has_the_table() {
    let page = std::fs::read_to_string(root().join("docs/api.md")).expect("docs/api.md");
    let (_, table) =
        page.split_once("| status | `type` | `code` | again | when |\n|---|---|---|---|---|\n").expect("the table");
    let shown: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let rows: Vec<_> = statuses().iter().map(line).collect();
    assert_eq!(shown, rows, "docs/api.md should have\n{}", rows.join("\n"));
}

fn line(row: &StatusRow) -> String {
    let code = row.code.map_or_else(String::new, |code| format!("`{code}` "));
    let again = if row.retry { "yes" } else { "no" };
    format!("| {} | `{}` | {code}| {again} | {} |", row.status.as_u16(), row.kind, row.when)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_use_no_tool_may_not_insist_on_one() {
    let gateway = Setup::default().policy("callers = ['*']").start().await;
    let mut body = question("What is 12 * 34?", false);
    body["tools"] = json!([{"type": "code_interpreter"}]);
    // What does not insist is answered without the tool.
    assert_eq!(gateway.ask(&body).await.status, 200);
    body["tool_choice"] = json!({"type": "code_interpreter"});
    let error = gateway.ask(&body).await.refused(403);
    assert!(error["message"].as_str().expect("text").contains("policy `default`"), "{error}");
    let mut body = question("What is 12 * 34?", false);
    body["loopgate"] = json!({"execute": "gateway"});
    gateway.ask(&body).await.refused(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_member_at_fault_is_named() {
    let gateway = start().await;
    for (member, value) in [("model", json!("no/such")), ("n", json!(0)), ("tools", json!(7))] {
        let mut body = question("Hello", false);
        body[member] = value;
        let answer = gateway.ask(&body).await;
        assert_eq!(answer.json()["error"]["param"], member, "{answer:?}");
    }
    assert_eq!(gateway.get("/no/such").await.json()["error"]["param"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_tell_how_many_more_requests_may_run() {
    let gateway = Setup::default().flag("concurrent-max", 2).start().await;
    let told = |answer: &Answer| {
        ["limit", "remaining", "reset"].map(|what| answer.header(&format!("x-ratelimit-{what}-requests")).to_owned())
    };
    for tools in [json!(null), json!([])] {
        let mut body = question("Hello", false);
        body["tools"] = tools;
        assert_eq!(told(&gateway.ask(&body).await), ["2", "1", "0s"]);
    }
    gateway.backend.set_fault(Some(Fault::StallAfter(2)));
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut line = Line::ask(&gateway, &question("Hello", true)).await;
        line.until("\"role\":\"assistant\"").await;
        lines.push(line);
    }
    let full = gateway.ask(&question("Hello", false)).await;
    full.refused(429);
    assert_eq!(told(&full), ["2", "0", "1s"]);
}
