//! Backends that are away, full, slow, dying or none at all.

use crate::cli::{Place, Serving};
use crate::gateway::{Setup, four_ways, question, start, until};
use crate::wires::{Line, NEVER, Pages, Port, Scripted, stream_of};
use loopgate::mock::{self, Fault, Version};
use serde_json::json;
use std::time::{Duration, Instant};

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
        (Fault::ErrorAfter(0), 504),
    ] {
        let gateway = start().await;
        gateway.backend.set_fault(Some(fault));
        let error = gateway.ask(&question("Hello", true)).await.refused(status);
        assert!(!error["message"].as_str().expect("text").contains("garb"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_after_it_has_begun_ends_in_an_error_event_and_done() {
    for fault in
        [Fault::DieAfter(2), Fault::GarbageAfter(2), Fault::ErrorAfter(2), Fault::EndAfter(2), Fault::AbortAfter(2)]
    {
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
    assert_eq!(gateway.ask(&question("Hello", false)).await.refused(502)["code"], "backend_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_was_aborted_is_an_error_with_a_status() {
    let gateway = start().await;
    gateway.backend.set_fault(Some(Fault::AbortAfter(2)));
    for body in four_ways("Hello").iter().filter(|body| body["stream"] == false) {
        let error = gateway.ask(body).await.refused(502);
        assert!(error["message"].as_str().is_some_and(|text| text.contains("aborted")), "{body}: {error}");
    }
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
                    assert_eq!(answer.refused(504)["code"], "backend_timeout", "{what}");
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
            let error = answer.refused(503);
            assert_eq!((&error["code"], answer.header("retry-after")), (&json!("no_backend"), "1"), "{version} {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_an_error_like_a_dead_backend() {
    for script in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ncontent-length: 20\r\n\r\ndata: <html></html>\n",
        "",
    ] {
        let backend = Scripted::start(vec![vec![script.into()]; 16]).await;
        let gateway = Setup::default().flag("backend", &backend.url).start().await;
        let asked = tokio::time::timeout(NEVER, gateway.ask(&question("Hello", true))).await;
        let answer = asked.unwrap_or_else(|_| panic!("{script:?}: no answer"));
        assert!([502, 503].contains(&answer.status), "{script:?}: {answer:?}");
        answer.refused(answer.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_the_client_is_told_when_to_come_back() {
    // A port that nobody listens on any more.
    let port = Port::new();
    let gone = port.backend(mock::Settings::default()).await;
    let url = gone.url();
    let gateway = Setup::default().flag("backend", &url).start().await;
    gone.stop().await;
    for body in four_ways("Hello").into_iter().chain(four_ways("Hello")) {
        let answer = gateway.ask(&body).await;
        assert_eq!(answer.refused(503)["code"], "no_backend");
        let seconds: u64 = answer.header("retry-after").parse().expect("whole seconds");
        let millis: u64 = answer.header("retry-after-ms").parse().expect("milliseconds");
        assert!(seconds >= 1 && millis.div_ceil(1000) == seconds);
        assert_eq!(answer.header("x-should-retry"), "true");
        assert!(!String::from_utf8_lossy(&answer.body).contains("127.0.0.1"), "{answer:?}");
    }
}

/// What stands before a server, or in its place, says 200 to everything.
const PAGE: &str = "<html>\n\n<body>Welcome</body>\n</html>\n";

/// A whole 200 of this kind, on a connection that is closed after it.
fn whole_of(kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_completion_is_no_answer_whatever_its_status_says() {
    for (kind, body) in [
        ("text/html", PAGE),
        ("application/json", r#"{"hello":"world"}"#),
        ("application/json", "[]"),
        ("text/plain", "choices"),
        ("text/event-stream", "data: {\"choices\":[]}\n\ndata: [DONE]\n\n"),
    ] {
        let good = mock::start(mock::Settings::default()).await.expect("a backend");
        let bad = Scripted::start(vec![vec![whole_of(kind, body)]; 64]).await;
        let setup = Setup::default().flag("balance", "round-robin").flag("admin-key", crate::operators::KEY);
        let gateway = setup.other_backend(bad.url.clone()).other_backend(good.url()).start().await;
        // One that comes up begins with a clean record.
        until("all are up", async || crate::operators::list(&gateway).await.iter().all(|it| it["state"] == "up")).await;
        let mut forwarded = question("Hello", false);
        forwarded["tools"] = json!([]);
        // A third of them, ten, open its breaker.
        for _ in 0..33 {
            let answer = gateway.ask(&forwarded).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "Hello! How can I help you?"), "{kind} {body}");
        }
        let backends = crate::operators::list(&gateway).await;
        let seen = backends.iter().find(|it| bad.url.ends_with(it["name"].as_str().expect("a name"))).expect("listed");
        assert_eq!(seen["breaker"], "open", "{kind} {body}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_list_of_models_is_no_server_whatever_its_status_says() {
    for page in [(|_| Some(PAGE)) as fn(&str) -> Option<&'static str>, |_| Some("{}"), |_| Some("")] {
        let other = Pages::start(page).await;
        let setup = Setup::default().flag("admin-key", crate::operators::KEY).other_backend(other.url.clone());
        let gateway = setup.start().await;
        let seen = async || {
            let backends = crate::operators::list(&gateway).await;
            backends
                .into_iter()
                .find(|it| other.url.ends_with(it["name"].as_str().expect("a name")))
                .expect("it is listed")
        };
        until("it was looked at", async || seen().await["state"] != "unknown").await;
        let seen = seen().await;
        assert_eq!(seen["state"], "down", "{seen}");
        assert!(seen["last_error"].to_string().contains("no list of models"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_report_that_never_comes_is_named_in_the_log() {
    let silent = |path: &str| (!path.contains("load")).then_some(r#"{"data":[]}"#);
    let (backend, place) = (Pages::start(silent).await, Place::new());
    let waits = ["--load-ms", "20", "--probe-timeout-ms", "200"];
    let args = [&["serve", "--listen", "127.0.0.1:0", "--backend", &backend.url], &waits[..]].concat();
    Serving::start(&mut place.command(&args), false).until_said("the backend's load report does not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_ends_is_no_whole_answer() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hi\n\n".to_vec();
    let backend = Scripted::paused(vec![vec![head, vec![]]]).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let mut forwarded = question("Hello", false);
    forwarded["tools"] = json!([]);
    let answer = tokio::time::timeout(NEVER, gateway.ask(&forwarded)).await.expect("an answer");
    assert_eq!(answer.refused(502)["code"], "backend_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_not_the_beginning_of_an_answer() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let full = r#"data: {"error":{"message":"The request queue is full.","code":503}}"#;
    let good = stream_of(&[json!({"delta": {"content": "Hello!"}}), json!({"delta": {}, "finish_reason": "stop"})]);
    for streamed in four_ways("Hello").iter().filter(|body| body["stream"] == true) {
        for frames in [format!("{head}: hi\n\n{full}\n\n"), format!("{head}: hi\n\nevent: x\n{full}\n\n")] {
            let backend = Scripted::start(vec![vec![frames.into()], good.clone()]).await;
            let gateway = Setup::default().flag("backend", &backend.url).start().await;
            let answer = gateway.ask(streamed).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "Hello!"), "{streamed}");
        }
        let pieces = [head, ": keepalive\n\n", ": keepalive\n\n"].map(|piece| piece.as_bytes().to_vec());
        let backend = Scripted::paused(vec![pieces.to_vec()]).await;
        backend.pieces.add_permits(1);
        let gateway = Setup::default().flag("backend", &backend.url).flag("first-byte-ms", 300).start().await;
        let answer = tokio::time::timeout(NEVER, gateway.ask(streamed)).await.expect("an answer");
        assert_eq!(answer.refused(504)["code"], "backend_timeout", "{streamed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_alone_do_not_keep_an_answer_alive() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let first = format!("{head}data: {}\n\n", json!({"choices": [{"delta": {"content": "Hello"}}]}));
    let script = [vec![first.into_bytes()], vec![b": keepalive\n\n".to_vec(); 1000]].concat();
    for streamed in four_ways("Hello").iter().filter(|body| body["stream"] == true) {
        let backend = Scripted::paused(vec![script.clone()]).await;
        let setup = Setup::default().flag("backend", &backend.url).flag("attempts-max", 1);
        let gateway = setup.flag("idle-ms", 500).start().await;
        let mut asked = std::pin::pin!(gateway.ask(streamed));
        let mut comments = 0;
        let answer = loop {
            if let Ok(answer) = tokio::time::timeout(Duration::from_millis(50), &mut asked).await {
                break answer;
            }
            comments += 1;
            assert!(comments < 200, "{streamed}: it goes on and on");
            backend.pieces.add_permits(1);
        };
        let error = &answer.chunks().pop().expect("chunks")["error"];
        assert_eq!(error["code"], "backend_timeout", "{streamed}: {answer:?}");
        assert!(error["message"].as_str().expect("text").contains("500ms"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_may_end_in_crlf_wherever_a_stream_is_cut() {
    let mut script =
        stream_of(&[json!({"delta": {"content": "Hello!"}}), json!({"delta": {}, "finish_reason": "stop"})]);
    let text = String::from_utf8(script.remove(0)).expect("text");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    let body = body.replace('\n', "\r\n");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let mut forwarded = question("Hello", true);
    forwarded["tools"] = json!([]);
    let cuts: Vec<_> = body.match_indices(['\r', '\n']).map(|(at, _)| at).collect();
    let cut_at = |at: &usize| vec![head.into(), body[..*at].into(), body[*at..].into()];
    let backend = Scripted::start(cuts.iter().map(cut_at).collect()).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    for at in &cuts {
        let answer = gateway.ask(&forwarded).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello!"), "cut at {at}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_the_first_byte_is_one_for_the_head_and_what_follows_it() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
    for streamed in four_ways("Hello").iter().filter(|body| body["stream"] == true) {
        let backend = Scripted::paused(vec![vec![vec![], head.clone(), vec![]]]).await;
        let gateway = Setup::default().flag("backend", &backend.url).flag("first-byte-ms", 2_000).start().await;
        let asked_at = Instant::now();
        let mut asked = std::pin::pin!(gateway.ask(streamed));
        let early = tokio::time::timeout(Duration::from_millis(1_500), &mut asked).await;
        assert!(early.is_err(), "{early:?}");
        backend.pieces.add_permits(1);
        asked.await.refused(504);
        assert!(asked_at.elapsed() < Duration::from_secs(3), "{streamed}: {:?}", asked_at.elapsed());
    }
}
