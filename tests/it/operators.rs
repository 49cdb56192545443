//! What operators see and change: backends at run time, another configuration, and the end.

use crate::cli::{Place, Serving};
use crate::gateway::{Answer, Gateway, Setup, events, question, send, start, until};
use crate::wires::NEVER;
use http::Method;
use loopgate::mock::{self, Running};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub const KEY: &str = "a-key-for-operators-only";
const ALL: &str = "/admin/backends";
const HELLO: &str = "Hello! How can I help you?";

async fn a_backend() -> Running {
    mock::start(mock::Settings::default()).await.expect("a backend")
}

async fn admin(gateway: &Gateway, method: Method, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
    gateway.send(method, path, &[("authorization", &format!("Bearer {KEY}"))], body).await
}

/// Asks, and goes on while the answer is made.
fn asked(gateway: &Gateway, body: &Value) -> JoinHandle<Answer> {
    let (url, body) = (gateway.url.clone(), body.to_string());
    tokio::spawn(async move { send(&url, Method::POST, "/v1/chat/completions", &[], body).await })
}

/// The backends as operators see them.
pub async fn list(gateway: &Gateway) -> Vec<Value> {
    let answer = admin(gateway, Method::GET, ALL, "").await;
    answer.json()["backends"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_not_there_without_a_key_and_closed_without_the_right_one() {
    assert_eq!(start().await.get(ALL).await.status, 404);
    let gateway = Setup::default().flag("admin-key", KEY).start().await;
    let backend = json!({"url": "http://127.0.0.1:1"}).to_string();
    for (method, path) in [(Method::GET, ALL), (Method::POST, ALL), (Method::DELETE, "/admin/backends/x")] {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", KEY)]] {
            gateway.send(method.clone(), path, headers, backend.clone()).await.refused(401);
        }
        let page = [("authorization", &*format!("Bearer {KEY}")), ("origin", "https://evil.example")];
        gateway.send(method, path, &page, backend.clone()).await.refused(403);
    }
    assert_eq!(list(&gateway).await.len(), 1, "nothing has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_change_is_refused_and_says_what_to_write() {
    let gateway = Setup::default().flag("admin-key", KEY).start().await;
    let there = gateway.backend.url();
    for (body, status, told) in [
        (json!("{"), 400, "http://10.0.0.7:30000"),
        (json!({}), 400, "missing field `url`"),
        (json!({"url": "ftp://a:1"}), 400, "`url`: `ftp://a:1` begins with neither"),
        (json!({"url": "http://u:secret@a"}), 400, "password"),
        (json!({"url": "http://a:1", "weight": 0.0}), 400, "`weight`: 0 is out of range"),
        (json!({"url": "http://a:1", "in_flight_max": 0}), 400, "`in_flight_max`"),
        (json!({"url": "http://a:1", "api_key_env": "HOME"}), 400, "`api_key_env`"),
        (json!({"url": "http://a:1", "wait": 1}), 400, "unknown field `wait`"),
        (json!({"url": there}), 409, "remove it first"),
    ] {
        let error = admin(&gateway, Method::POST, ALL, body.to_string()).await.refused(status);
        assert!(error["message"].as_str().expect("text").contains(told), "{body}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for (method, path) in [(Method::DELETE, ""), (Method::POST, "/drain"), (Method::POST, "/undrain")] {
        let error = admin(&gateway, method, &format!("{ALL}/nobody:1{path}"), "").await.refused(404);
        assert!(error["message"].as_str().expect("text").contains("`nobody:1`"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_added_drained_and_removed_while_requests_run() {
    let gateway = Setup::default().flag("admin-key", KEY).start().await;
    let added = a_backend().await;
    let body = json!({"url": added.url(), "labels": {"zone": "b"}}).to_string();
    assert_eq!(admin(&gateway, Method::POST, ALL, body).await.status, 201);
    let (old, new) = (gateway.backend.addr().to_string(), added.addr().to_string());
    until("it is up", async || list(&gateway).await.iter().all(|backend| backend["state"] == "up")).await;
    assert_eq!(list(&gateway).await[1]["labels"], json!({"zone": "b"}));

    // A turn of two rounds begins at each: the model calls a tool, and reads its result.
    let holds = [gateway.backend.hold_at(0, 0), added.hold_at(0, 0)];
    let turns = ["What is 12 * 34?", "What is 34 * 12?"].map(|text| asked(&gateway, &question(text, false)));
    gateway.backend.next_request().await;
    added.next_request().await;
    assert_eq!(admin(&gateway, Method::POST, &format!("{ALL}/{old}/drain"), "").await.status, 200);
    assert_eq!(list(&gateway).await[0]["state"], "draining");
    drop(holds);
    for turn in turns {
        let answer = tokio::time::timeout(NEVER, turn).await.expect("an end").expect("no panic");
        assert_eq!(answer.text(), "The result is 408.");
    }
    let rounds = [gateway.backend.requests().len(), added.requests().len()];
    assert_eq!(rounds, [2, 2], "each turn ends where it began");
    for _ in 0..3 {
        assert_eq!(gateway.ask(&question("Hello", false)).await.text(), HELLO);
    }
    assert_eq!([gateway.backend.requests().len(), added.requests().len()], [2, 5], "no new turn while it drains");
    let estimate = &list(&gateway).await[1]["estimate"];
    assert!(estimate["cached_tokens"].as_u64() > Some(0) && estimate["unread_tokens"] == 0, "{estimate}");

    assert_eq!(admin(&gateway, Method::POST, &format!("{ALL}/{old}/undrain"), "").await.status, 200);
    assert_eq!(admin(&gateway, Method::DELETE, &format!("{ALL}/{new}"), "").await.status, 200);
    assert_eq!(list(&gateway).await.len(), 1);
    assert_eq!(gateway.ask(&question("Hello", false)).await.text(), HELLO);
    assert_eq!([gateway.backend.requests().len(), added.requests().len()], [3, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_it_can_and_a_bad_file_changes_nothing() {
    let gateway = Setup::default().start().await;
    let mut body = question("Hello", false);
    body["model"] = json!("best");
    assert_eq!(gateway.ask(&body).await.status, 404);
    assert_eq!(gateway.reload("[aliases]\nbest = 'qwen3-coder'").expect("a good file"), [""; 0]);
    assert_eq!(gateway.ask(&body).await.text(), HELLO);

    for (file, told) in [
        ("[aliases]\nbest = ", "line 2"),
        ("[aliases]\nbest = 'qwen3-coder'\n[backend]\nattempts_max = 0", "`backend.attempts_max`"),
        ("[[backends]]\nurl = 'ftp://a'", "`backends[0].url`: `ftp://a` begins with neither http:// nor https://"),
        ("[[backends]]\nurl = 'http://a'\n[[backends]]\nurl = 'http://A/'", "listed twice"),
        ("[[backends]]\nurl = 'http://a'\napi_key_env = 'NO_SUCH'", "the variable `NO_SUCH` is not set"),
        ("[[callers]]\nname = 'nobody'\nkey_sha256 = 'x'", "`callers[0].key_sha256`"),
    ] {
        let refused = gateway.reload(file).expect_err(file);
        assert!(refused.contains(told), "{refused}");
        assert_eq!(gateway.ask(&body).await.text(), HELLO, "what was in force stays so: {file}");
    }
    let late = gateway.reload("[server]\nwrite_stall_ms = 1\n[sandbox]\nwait_ms = 1").expect("a good file");
    assert_eq!(late, ["server.write_stall_ms", "sandbox.wait_ms"]);
    assert_eq!(gateway.ask(&body).await.status, 404, "the alias is gone");
    let still = gateway.reload("[server]\nwrite_stall_ms = 1").expect("a good file");
    assert_eq!(still, ["server.write_stall_ms"], "it needs a restart until it is as it was at the start");
    assert_eq!(gateway.reload("").expect("a good file"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_for_operators_needs_a_restart_and_a_reload_says_so() {
    let file = |key: &str| format!("[admin]\nkey = '{key}'");
    let gateway = Setup::default().file(&file(KEY)).start().await;
    assert_eq!(gateway.reload(&file("another-key-for-operators")).expect("a good file"), ["admin.key"]);
    assert_eq!(list(&gateway).await.len(), 1, "the old one still opens");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_policies_follow_a_reload_and_a_running_turn_keeps_its_own() {
    let gateway = Setup::default().rules("").start().await;
    let hold = gateway.backend.hold_at(0, 0);
    let body = question("What is 12 * 34?", false);
    let running = asked(&gateway, &body);
    gateway.backend.next_request().await;
    std::fs::write(gateway.folder.path().join("policies/default.toml"), "callers = ['*']").expect("a policy");
    gateway.reload("").expect("a good policy");
    drop(hold);
    assert_eq!(running.await.expect("no panic").text(), "The result is 408.", "its policy is that of its beginning");
    assert!(!gateway.ask(&body).await.text().contains("408"), "nobody may run anything any more");
    let hash = loopgate::access::KeyHash::of("lg-a").hex();
    gateway.reload(&format!("[[callers]]\nname = 'a'\nkey_sha256 = '{hash}'")).expect("a good file");
    gateway.ask(&body).await.refused(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_runs_when_the_time_is_over_ends_with_a_clear_error() {
    for (tools, stream) in [(json!(null), true), (json!([]), true), (json!(null), false), (json!([]), false)] {
        let mut gateway = Setup::default().flag("shutdown-grace-ms", 100).start().await;
        let _hold = gateway.backend.hold_at(0, usize::from(stream) * 2);
        let mut body = question("Hello", stream);
        body["tools"] = tools.clone();
        let running = asked(&gateway, &body);
        gateway.backend.next_request().await;
        if stream {
            // It has begun.
            until("it is under way", async || !gateway.is_idle().await).await;
        }
        gateway.begin_to_stop();
        let answer = tokio::time::timeout(NEVER, running).await.expect("an end").expect("no panic");
        let error = match answer.status {
            200 => answer.chunks().last().expect("chunks")["error"].clone(),
            _ => answer.refused(503),
        };
        assert!(error["message"].as_str().expect("text").contains("stopping"), "{tools} {stream}: {error}");
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_still_run_then_and_who_waits_for_their_files_are_told_so_too() {
    let rules = "sessions.enabled = true\nlimits.wall_ms = 600000";
    let mut gateway =
        Setup::default().rules(rules).flag("shutdown-grace-ms", 100).flag("concurrent-max", 4).start().await;
    let program = json!({"code": "print('begun', flush=True)\nwhile True: pass", "session": "s", "stream": true});
    let mut running = gateway.begin_at(crate::execute::PATH, &program).await;
    running.until("a program that runs", |body| !events(body).is_empty()).await;
    let url = gateway.url.clone();
    let waiting = tokio::spawn(async move { send(&url, Method::GET, "/v1/sandbox/sessions/s/files", &[], "").await });
    // Of four places one is the program's, one that of who waits for it, and one that of who asks.
    until("somebody waits for its session", async || {
        gateway.get("/v1/sandbox/sessions").await.header("x-ratelimit-remaining-requests") == "1"
    })
    .await;
    gateway.begin_to_stop();
    let (ran, waited) =
        tokio::time::timeout(NEVER, async { tokio::join!(running.rest(), waiting) }).await.expect("an end");
    let told = [ran.chunks().pop().expect("events")["error"].clone(), waited.expect("no panic").refused(503)];
    for error in told {
        assert!(error["message"].as_str().expect("text").contains("stopping"), "{error}");
    }
    gateway.stop().await;
}

#[test]
fn the_binary_takes_over_a_changed_file_and_keeps_the_old_one_when_it_is_bad() {
    let place = Place::new().file("loopgate.toml", "");
    let mock = Serving::start(&mut place.command(&["mock", "--listen", "127.0.0.1:0"]), true);
    let args = ["serve", "--listen", "127.0.0.1:0", "--backend", &mock.url()];
    let gateway = Serving::start(&mut place.command(&args), false);
    let models = |text: &str| gateway.get("/v1/models").contains(text);
    let begun = std::time::Instant::now();
    while !models("qwen3-coder") {
        assert!(begun.elapsed() < NEVER, "its backend is never seen");
    }
    assert!(!models("\"best\""));
    std::fs::write(place.path("loopgate.toml"), "[aliases]\nbest = 'qwen3-coder'").expect("a file");
    // Looked at every second.
    let begun = std::time::Instant::now();
    while !models("\"best\"") {
        assert!(begun.elapsed() < NEVER, "it is never taken over");
        std::thread::yield_now();
    }
    std::fs::write(place.path("loopgate.toml"), "[aliases").expect("a file");
    gateway.hang_up();
    gateway.until_said("nothing is reloaded");
    assert!(gateway.get("/v1/models").contains("\"best\""));
}
