//! A client that leaves takes everything with it: the backend's work, the guest, its place and its slot.

use crate::gateway::{Gateway, Setup, question, until};
use crate::wires::{Line, NEVER, Scripted, stream_of};
use loopgate::mock::{self, Fault, Outcome, Version};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Both forms of an acted and of a forwarded request.
fn forms(text: &str) -> Vec<Value> {
    let mut forms = Vec::new();
    for stream in [true, false] {
        forms.push(question(text, stream));
        let mut forwarded = question(text, stream);
        forwarded["tools"] = json!([]);
        forms.push(forwarded);
    }
    forms
}

/// A gateway with one place of everything.
fn narrow() -> Setup {
    Setup::default().flag("concurrent-max", 1).flag("interpreters-max", 1)
}

/// Everything of the last request is given back; how long that took since `left`, for the reader: the aim is 100 ms on an
/// idle machine, and tests share theirs.
async fn given_back(gateway: &Gateway, left: Instant, what: &str) -> Duration {
    let request = gateway.backend.requests().pop().expect("a request");
    let rid = request.json()["rid"].as_str().expect("a rid").to_owned();
    let closed = gateway.backend.wait_until(|log| {
        log.aborts().any(|abort| abort == rid) && log.asked().all(|request| request.outcome != Outcome::Open)
    });
    tokio::time::timeout(NEVER, closed).await.unwrap_or_else(|_| panic!("{what}: not closed or not aborted"));
    let took = left.elapsed();
    nothing_runs(gateway, what).await;
    took
}

/// No turn is under way and no request at a backend.
async fn nothing_runs(gateway: &Gateway, what: &str) {
    until(format!("{what}: nothing runs any more"), async || gateway.is_idle().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_model_writes() {
    let mut worst = Duration::ZERO;
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let gateway = narrow().backend(mock::Settings { version, ..mock::Settings::default() }).start().await;
        for body in forms("Hello") {
            // Nothing comes any more, so that only the closed connection can tell.
            gateway.backend.fault_next(Fault::StallAfter(2));
            let mut line = Line::ask(&gateway, &body).await;
            gateway.backend.next_request().await;
            if body["stream"] == true {
                line.until("\"role\":\"assistant\"").await;
            }
            let left = Instant::now();
            drop(line);
            let what = format!("{version} {body}");
            worst = worst.max(given_back(&gateway, left, &what).await);
            assert_eq!(gateway.ask(&question("Hello", false)).await.status, 200, "{what}: the slot is free");
            gateway.backend.next_request().await;
        }
    }
    eprintln!("left while the model writes: all given back after at most {worst:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_token() {
    let mut worst = Duration::ZERO;
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let backend = mock::Settings { version, ttft: NEVER * 10, ..mock::Settings::default() };
        let gateway = narrow().backend(backend).start().await;
        for body in forms("Hello") {
            let line = Line::ask(&gateway, &body).await;
            gateway.backend.next_request().await;
            let left = Instant::now();
            drop(line);
            worst = worst.max(given_back(&gateway, left, &format!("{version} {body}")).await);
        }
    }
    eprintln!("left before the first token: all given back after at most {worst:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_program_runs() {
    let gateway = narrow().rules("limits.wall_ms = 600000").start().await;
    for stream in [true, false] {
        let mut line = Line::ask(&gateway, &question("Loop forever", stream)).await;
        if stream {
            line.until("\"event\":\"executing\"").await;
        } else {
            // The model's message is whole when its answer is: the program follows at once.
            gateway.backend.next_request().await;
            gateway.backend.wait_until(|log| log.asked().all(|it| it.outcome != Outcome::Open)).await;
        }
        let left = Instant::now();
        drop(line);
        nothing_runs(&gateway, "a loop").await;
        let noticed = left.elapsed();
        // It needs the only interpreter and the only slot.
        let asked = tokio::time::timeout(NEVER, gateway.ask(&question("What is 12 * 34?", false))).await;
        let answer = asked.unwrap_or_else(|_| panic!("stream {stream}: the interpreter is not free"));
        assert_eq!(answer.text(), "The result is 408.", "stream {stream}");
        eprintln!("left while a program runs: noticed after {noticed:?}, another has run after {:?}", left.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_body_is_whole() {
    let gateway = narrow().start().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\nexpect: 100-continue\r\n\r\n";
    let mut line = Line::send(&gateway, head.as_bytes()).await;
    // The body is asked for when the request has its slot.
    line.until("100 Continue").await;
    line.more(b"{").await;
    let hello = question("Hello", false);
    assert_eq!(gateway.ask(&hello).await.status, 429, "there is one slot");
    drop(line);
    until("the slot is free again", async || gateway.ask(&hello).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_gives_everything_back() {
    for tools in [json!(null), json!([])] {
        // Far more than the sockets' buffers hold.
        let piece = "word ".repeat(8 << 10);
        let backend = Scripted::start(vec![stream_of(&vec![json!({"delta": {"content": piece}}); 2000])]).await;
        let gateway = narrow().flag("backend", &backend.url).flag("write-stall-ms", 200).start().await;
        let mut body = question("Tell me everything", true);
        body["tools"] = tools.clone();
        let mut line = Line::ask(&gateway, &body).await;
        line.until("word").await;
        until(format!("tools {tools}: its seat is free"), async || {
            gateway.get("/health").await.json()["backends"][0]["in_flight"] == 0
        })
        .await;
        assert_ne!(gateway.ask(&question("Hello", false)).await.status, 429, "tools {tools}: its slot is free too");
    }
}
