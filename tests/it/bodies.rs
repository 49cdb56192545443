//! What all requests' bodies may take together.

use crate::encodings::gzip;
use crate::gateway::{Answer, Gateway, Setup, question, send, until};
use crate::wires::Line;
use http::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

const ALL: usize = 10_000;

/// A question of so many bytes that is handed on, or in which the gateway acts.
fn of(bytes: usize, acts: bool) -> String {
    let mut body = question("Hello", false);
    if !acts {
        body["tools"] = Value::Array(Vec::new());
    }
    let body = body.to_string();
    let blanks = " ".repeat(bytes - body.len());
    body + &blanks
}

async fn narrow() -> Gateway {
    Setup::default().flag("body-bytes-max", ALL).flag("bodies-bytes-max", ALL).start().await
}

fn asked(gateway: &Gateway, body: String) -> JoinHandle<Answer> {
    let url = gateway.url.clone();
    tokio::spawn(async move { send(&url, Method::POST, "/v1/chat/completions", &[], body).await })
}

async fn post(gateway: &Gateway, headers: &[(&str, &str)], body: impl Into<bytes::Bytes>) -> Answer {
    gateway.send(Method::POST, "/v1/chat/completions", headers, body).await
}

fn refused(answer: &Answer) {
    let error = answer.refused(503);
    assert!(error["message"].as_str().expect("text").contains("server.bodies_bytes_max"), "{error}");
    assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("1", "true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_have_no_room_beside_those_that_are_held_are_refused_until_these_are_gone() {
    let gateway = narrow().await;
    let holds = [0, 1].map(|request| gateway.backend.hold_at(request, 0));
    let held = [false, true].map(|acts| asked(&gateway, of(4_000, acts)));
    gateway.backend.wait_until(|log| log.asked().count() == 2).await;
    refused(&post(&gateway, &[], of(2_500, false)).await);
    let inflates = [("content-encoding", "gzip")];
    refused(&post(&gateway, &inflates, gzip(of(2_500, true).as_bytes())).await);
    assert_eq!(post(&gateway, &[], of(1_500, true)).await.status, 200, "what has room is taken");
    drop(holds);
    for held in held {
        assert_eq!(held.await.expect("no panic").status, 200);
    }
    until("all room is free", async || post(&gateway, &[], of(ALL, false)).await.status == 200).await;
    until("again", async || post(&gateway, &inflates, gzip(of(ALL - 500, false).as_bytes())).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_takes_room_as_it_arrives_and_not_as_it_is_announced() {
    let gateway = narrow().await;
    let head = format!("POST /generate HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {ALL}\r\n\r\n");
    let mut slow = Line::send(&gateway, head.as_bytes()).await;
    // By then it is being read.
    slow.until("100 Continue").await;
    assert_eq!(post(&gateway, &[], of(ALL, false)).await.status, 200);
    slow.more(&[b' '; 6_000]).await;
    until("what has come is counted", async || post(&gateway, &[], of(5_000, false)).await.status == 503).await;
    drop(slow);
    until("its room is free", async || post(&gateway, &[], of(ALL, false)).await.status == 200).await;
}
