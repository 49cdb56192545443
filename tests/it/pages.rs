//! The pages beside the answers, and the gateway's end.

use crate::gateway::{Gateway, Setup, question, start, until};
use crate::wires::{Line, NEVER, Port, Relay};
use http::Method;
use loopgate::mock;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_with_their_aliases_and_found_by_names_with_slashes() {
    let gateway = Setup::default().flag("alias", "best=Qwen/Qwen3-Coder-480B-A35B-Instruct").start().await;
    let list = gateway.get("/v1/models").await.json();
    let ids: Vec<_> =
        list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert!(ids.contains(&"Qwen/Qwen3-Coder-480B-A35B-Instruct") && ids.contains(&"best"), "{ids:?}");
    assert!(ids.contains(&"best+code") && !ids.contains(&"best+plain"), "{ids:?}");
    for id in ["Qwen/Qwen3-Coder-480B-A35B-Instruct", "best", "best+code", "best+plain"] {
        let model = gateway.get(&format!("/v1/models/{id}")).await;
        assert_eq!((model.status, &model.json()["id"]), (200, &json!(id)));
        assert_eq!(model.json()["object"], "model");
    }
    let missing = gateway.get("/v1/models/no/such").await;
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_run_nothing_is_not_told_of_models_with_code() {
    let gateway = Setup::default().policy("callers = ['*']\n").start().await;
    let list = gateway.get("/v1/models").await;
    assert!(list.status == 200 && !String::from_utf8_lossy(&list.body).contains("+code"), "{list:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_backend_and_liveness_does_not() {
    let port = Port::new();
    let gone = port.backend(mock::Settings::default()).await;
    let gateway = Setup::default().flag("backend", gone.url()).start().await;
    assert_eq!(gateway.get("/readiness").await.status, 200);
    gone.stop().await;
    // The failed request is how the gateway notices.
    assert_eq!(gateway.ask(&question("Hello", false)).await.status, 503);
    for (path, status) in [("/readiness", 503), ("/health", 503), ("/liveness", 200)] {
        assert_eq!(gateway.get(path).await.status, status, "{path}");
    }
    let _back = port.backend(mock::Settings::default()).await;
    until("it is back in traffic", async || gateway.get("/readiness").await.status == 200).await;
    assert_eq!(gateway.ask(&question("Hello", false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_for_everybody_names_no_backend() {
    let gateway = start().await;
    gateway.ask(&question("Hello", false)).await;
    let port = gateway.backend.addr().port().to_string();
    for path in ["/", "/health", "/readiness", "/liveness"] {
        let page = gateway.get(path).await;
        assert!(!String::from_utf8_lossy(&page.body).contains(&port), "{page:?}");
    }
    // A number in it may have the port's digits.
    let metrics = metrics(&gateway).await;
    let labels: Vec<_> = metrics.lines().filter_map(|line| line.split_once("{backend=")?.1.split_once('}')).collect();
    assert!(!labels.is_empty() && labels.iter().all(|(label, _)| *label == "\"0\""), "{metrics}");
    assert!(!metrics.contains("127.0.0.1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_sent_is_given_back_in_part_only() {
    let gateway = start().await;
    let long = "x".repeat(4_000);
    let method = Method::from_bytes(long.as_bytes()).expect("a method");
    for (method, path, status) in [
        (Method::DELETE, format!("/v1/models/{long}"), 405),
        (method.clone(), "/v1/models".to_owned(), 405),
        (Method::GET, format!("/{long}"), 404),
        (method, "/no/such".to_owned(), 404),
    ] {
        let answer = gateway.send(method, &path, &[], "").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.len() < 500, "{} bytes", answer.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened_and_every_line_is_a_sample_or_a_comment() {
    let gateway = start().await;
    gateway.ask(&question("What is 12 * 34?", false)).await;
    let text = metrics(&gateway).await;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("loopgate_") && value.parse::<f64>().is_ok(), "{line}");
    }
    let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let distinct: std::collections::BTreeSet<_> = families.iter().collect();
    assert_eq!(distinct.len(), families.len(), "{families:?}");
    for sample in [
        "loopgate_turns_total{stop=\"final\"} 1",
        "loopgate_turns_running 0",
        "loopgate_executions_total{tool=\"execute_code\",status=\"completed\"} 1",
        "loopgate_memory_entries 1",
        "loopgate_memory_commits_total 1",
        "loopgate_memory_failures_total 0",
        "loopgate_memory_too_large_total 0",
        "loopgate_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

async fn metrics(gateway: &Gateway) -> String {
    String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_made_or_taken_over_and_always_told() {
    let gateway = start().await;
    let body = question("Hello", false).to_string();
    let made = gateway.send(Method::POST, "/v1/chat/completions", &[], body.clone()).await;
    assert!(made.header("x-request-id").starts_with("chatcmpl-"), "{made:?}");
    assert_eq!(made.json()["id"], made.header("x-request-id"));
    let taken = gateway.send(Method::POST, "/v1/chat/completions", &[("x-request-id", "mine-7")], body).await;
    assert_eq!(taken.header("x-request-id"), "mine-7");
    let refused = gateway.send(Method::GET, "/no/such", &[("x-request-id", "mine-8")], "").await;
    assert_eq!((refused.status, refused.header("x-request-id")), (404, "mine-8"));
    let long = "x".repeat(10_000);
    let replaced = gateway.send(Method::GET, "/liveness", &[("x-request-id", &long)], "").await;
    assert!(replaced.header("x-request-id").len() < 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_says_what_this_is() {
    let gateway = start().await;
    assert_eq!(gateway.get("/").await.json()["name"], "loopgate");
    assert_eq!(gateway.send(Method::HEAD, "/", &[], "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_turns_finish_and_takes_no_new_ones() {
    let port = Port::new();
    let gateway = Setup::default().flag("listen", port.address).start().await;
    let hold = gateway.backend.hold_at(1, 0);
    let mut line = Line::ask(&gateway, &question("What is 12 * 34?", true)).await;
    line.until("\"role\":\"assistant\"").await;
    let stopping = tokio::spawn(gateway.stop());
    until("no new connection", async || tokio::net::TcpStream::connect(port.address).await.is_err()).await;
    drop(hold);
    let all = line.until("data: [DONE]").await;
    assert!(all.contains("408") && all.contains("\"finish_reason\":\"stop\""), "{all}");
    tokio::time::timeout(NEVER, stopping).await.expect("an end").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_idle_connections() {
    let gateway = Setup::default().flag("shutdown-grace-ms", 3_600_000).start().await;
    let mut used = Line::ask(&gateway, &question("Hello", true)).await;
    used.until("[DONE]").await;
    let _unused = Line::send(&gateway, b"").await;
    tokio::time::timeout(NEVER, gateway.stop()).await.expect("an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_end_of_the_grace_period_cuts_is_aborted_at_the_backend() {
    let backend = mock::start(mock::Settings::default()).await.expect("a backend");
    let gateway = Setup::default().flag("backend", backend.url()).flag("shutdown-grace-ms", 100).start().await;
    backend.set_fault(Some(mock::Fault::StallAfter(2)));
    let mut lines = Vec::new();
    let mut rids = Vec::new();
    for tools in [json!(null), json!([])] {
        let mut body = question("Hello", true);
        body["tools"] = tools;
        lines.push(Line::ask(&gateway, &body).await);
        rids.push(backend.next_request().await.json()["rid"].as_str().expect("a rid").to_owned());
    }
    tokio::time::timeout(NEVER, gateway.stop()).await.expect("an end");
    let aborted = backend.wait_until(|log| rids.iter().all(|rid| log.aborts().any(|abort| abort == rid)));
    tokio::time::timeout(NEVER, aborted).await.expect("both aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_to_a_backend_is_used_again() {
    let backend = mock::start(mock::Settings::default()).await.expect("a backend");
    let relay = Relay::start(backend.addr()).await;
    let gateway = Setup::default().flag("backend", &relay.url).start().await;
    for turn in 0..20 {
        let mut body = question("First compute 12 + 30, then multiply the result by 5", turn % 2 == 0);
        if turn % 4 > 1 {
            body["tools"] = json!([]);
        }
        assert_eq!(gateway.ask(&body).await.status, 200);
        // Its connection is free only when the gateway has read its end.
        gateway.until_idle().await;
    }
    // One is the probes'; within a turn an answer's end may come after the next round's beginning.
    assert!(relay.connections() <= 4, "{} connections for 40 requests", relay.connections());
}
