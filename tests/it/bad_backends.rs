//! Backends that are away, full, slow, dying or none at all.

use crate::gateway::{Setup, four_ways, question, start};
use crate::wires::{Line, NEVER, Port, Scripted};
use loopgate::mock::{self, Fault, Version};
use serde_json::json;

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
    assert_eq!(gateway.ask(&question("Hello", false)).await.refused(502)["code"], "backend_failed");
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
