//! Answers whose backend dies in the middle: another one goes on, and the client sees one answer.

use crate::gateway::{Answer, Gateway, Setup, four_ways, question, until};
use crate::wires::{Scripted, stream_of};
use loopgate::mock::{self, Fault};
use serde_json::{Value, json};

const LONG: &str = "Count aloud from 1 to 40";

/// A gateway in turn before a backend that fails when told to and one that never does.
async fn two_backends(settings: mock::Settings) -> (Gateway, mock::Running) {
    let good = mock::start(settings.clone()).await.expect("a backend");
    let setup = Setup::default()
        .backend(settings)
        .flag("admin-key", crate::operators::KEY)
        .flag("balance", "round-robin")
        .flag("first-byte-ms", 500)
        .flag("idle-ms", 300)
        .flag("breaker-failures", 1000)
        .other_backend(good.url());
    let gateway = setup.start().await;
    until("both are up", async || {
        let backends = crate::operators::list(&gateway).await;
        backends.len() == 2 && backends.iter().all(|backend| backend["state"] == "up")
    })
    .await;
    (gateway, good)
}

/// Asks until each of the two backends has had the first word.
async fn ask_twice(gateway: &Gateway, body: &Value) -> Vec<Answer> {
    vec![gateway.ask(body).await, gateway.ask(body).await]
}

fn faults(after: usize) -> [Fault; 6] {
    [
        Fault::DieAfter(after),
        Fault::StallAfter(after),
        Fault::GarbageAfter(after),
        Fault::ErrorAfter(after),
        Fault::EndAfter(after),
        Fault::AbortAfter(after),
    ]
}

/// Counts of the last chunk or of the whole answer.
fn usage(answer: &Answer, is_stream: bool) -> Value {
    if is_stream {
        answer.chunks().into_iter().rev().find(|chunk| chunk["usage"].is_object()).expect("counts")["usage"].clone()
    } else {
        answer.json()["usage"].clone()
    }
}

/// Roles, finishes and ids that a client was told, and the calls as it puts them together.
fn told(answer: &Answer) -> Value {
    let chunks = answer.chunks();
    let deltas: Vec<_> = chunks.iter().filter_map(|chunk| chunk["choices"].get(0)).collect();
    let mut calls: Vec<Value> = Vec::new();
    for piece in deltas.iter().flat_map(|delta| delta["delta"]["tool_calls"].as_array().into_iter().flatten()) {
        if piece["function"]["name"].is_string() {
            calls.push(json!([piece["function"]["name"], ""]));
        }
        let so_far = calls.last().expect("a call that began")[1].as_str().expect("text").to_owned();
        let more = piece["function"]["arguments"].as_str().unwrap_or_default();
        calls.last_mut().expect("a call")[1] = json!(so_far + more);
    }
    let mut ids: Vec<_> = chunks.iter().map(|chunk| chunk["id"].clone()).collect();
    ids.dedup();
    json!({
        "text": answer.text(),
        "calls": calls,
        "roles": deltas.iter().filter(|delta| delta["delta"]["role"].is_string()).count(),
        "finishes": deltas.iter().filter(|delta| delta["finish_reason"].is_string()).count(),
        "ids": ids.len(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_the_same_as_one_that_was_not_wherever_it_was_cut() {
    let (gateway, _good) = two_backends(mock::Settings::default()).await;
    for mut body in four_ways(LONG) {
        let is_stream = body["stream"] == true;
        if is_stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        gateway.backend.set_fault(None);
        let whole = gateway.ask(&body).await;
        for fault in [0, 1, 2, 7, 30].into_iter().flat_map(faults) {
            gateway.backend.set_fault(Some(fault));
            for answer in ask_twice(&gateway, &body).await {
                assert_eq!((answer.status, answer.text()), (200, whole.text()), "{fault}: {body}");
                assert_eq!(usage(&answer, is_stream), usage(&whole, is_stream), "{fault}: {body}");
                if is_stream {
                    assert_eq!(told(&answer), told(&whole), "{fault}: {body}");
                }
            }
        }
    }
    let metrics = gateway.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).expect("text");
    let continued = metrics.lines().find_map(|line| line.strip_prefix("loopgate_answers_continued_total "));
    assert!(continued.and_then(|count| count.parse::<u32>().ok()) > Some(20), "{continued:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_a_clients_own_call_goes_on_from_the_text_before_it() {
    for parser in [true, false] {
        let settings = mock::Settings { parser, ..mock::Settings::default() };
        let (gateway, _good) = two_backends(settings).await;
        let mut body = question("Use the tool look_up with {\"word\": \"a \\\"quoted\\\" word\"}", true);
        let parameters = json!({"type": "object", "properties": {"word": {"type": "string"}}});
        body["tools"] = json!([{"type": "function", "function": {"name": "look_up", "parameters": parameters}}]);
        let whole = gateway.ask(&body).await;
        for fault in (0..12).flat_map(|after| [Fault::DieAfter(after), Fault::AbortAfter(after)]) {
            gateway.backend.set_fault(Some(fault));
            for answer in ask_twice(&gateway, &body).await {
                assert_eq!(told(&answer), told(&whole), "parser {parser}, {fault}");
            }
        }
    }
}

/// A way to a backend that breaks while the backend goes on: it still has a request of that name.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_off_on_its_way_goes_on_when_its_backend_has_noticed() {
    let mut cut = stream_of(&[json!({"delta": {"content": "one "}}), json!({"delta": {"content": "lost"}})]);
    let end = cut[0].windows(4).rposition(|bytes| bytes == b"lost").expect("text");
    cut[0].truncate(end);
    let body = r#"{"object":"error","message":"Duplicate request ID detected: x","code":400}"#;
    let refused =
        format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let rest = stream_of(&[json!({"delta": {"content": "two"}}), json!({"delta": {}, "finish_reason": "stop"})]);
    for stream in [true, false] {
        let backend = Scripted::start(vec![cut.clone(), vec![refused.clone().into()], rest.clone()]).await;
        let gateway = Setup::default().flag("backend", &backend.url).start().await;
        assert_eq!(gateway.ask(&question("Anything", stream)).await.text(), "one two", "stream {stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_goes_on_whichever_of_its_model_calls_is_cut() {
    let (gateway, _good) = two_backends(mock::Settings::default()).await;
    let body = question("First compute 12 + 30, then multiply the result by 5", true);
    let whole = gateway.ask(&body).await;
    assert!(whole.text().contains("210"), "{}", whole.text());
    for after in [0, 1, 3, 6, 9] {
        gateway.backend.set_fault(Some(Fault::DieAfter(after)));
        for answer in ask_twice(&gateway, &body).await {
            assert_eq!(
                (answer.text(), told(&answer)["finishes"].clone()),
                (whole.text(), json!(1)),
                "cut after {after}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_continued_ends_with_an_error_that_says_so() {
    let (gateway, _good) = two_backends(mock::Settings::default()).await;
    let mut body = question(LONG, true);
    body["tools"] = json!([]);
    body["response_format"] = json!({"type": "json_object"});
    gateway.backend.set_fault(Some(Fault::DieAfter(5)));
    let answers = ask_twice(&gateway, &body).await;
    let errors: Vec<_> = answers.iter().filter_map(|answer| answer.chunks().last()?.get("error").cloned()).collect();
    assert_eq!(errors.len(), 1, "{answers:?}");
    assert!(errors[0]["message"].as_str().is_some_and(|text| text.contains("send the request again")), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_two_calls_goes_on_from_the_text_before_the_first() {
    let (gateway, _good) = two_backends(mock::Settings::default()).await;
    let mut body = question("Use the tool look_up with {\"word\": \"a\"} and run 6 * 7", true);
    let parameters = json!({"type": "object", "properties": {"word": {"type": "string"}}});
    body["tools"] = json!([{"type": "function", "function": {"name": "look_up", "parameters": parameters}}]);
    body["loopgate"] = json!({"execute": "gateway"});
    let whole = gateway.ask(&body).await;
    assert_eq!(told(&whole)["calls"].as_array().map(Vec::len), Some(1), "{whole:?}");
    for after in 0..16 {
        gateway.backend.set_fault(Some(Fault::DieAfter(after)));
        for answer in ask_twice(&gateway, &body).await {
            let (answer, whole) = (told(&answer), told(&whole));
            for part in ["text", "calls", "roles", "finishes"] {
                assert_eq!(answer[part], whole[part], "cut after {after}");
            }
        }
    }
}
