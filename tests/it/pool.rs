//! Several backends: who gets a request, and what becomes of one whose backend fails, hangs, drains or comes back.

use crate::gateway::{Gateway, Setup, four_ways, question, until};
use crate::wires::{NEVER, Port, Scripted, stream_of};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use loopgate::mock::{self, Fault, Running};
use serde_json::{Value, json};
use std::pin::pin;
use std::time::{Duration, Instant};

const HELLO: &str = "Hello! How can I help you?";

async fn a_backend() -> Running {
    mock::start(mock::Settings::default()).await.expect("a backend")
}

/// A gateway whose page for operators is open.
fn setup() -> Setup {
    // A policy that gives everybody something to do, however little there is.
    Setup::default().flag("admin-key", crate::operators::KEY).flag("balance", "least-requests")
}

/// What operators see of a backend.
async fn seen(gateway: &Gateway, backend: &Running) -> Value {
    let name = backend.addr().to_string();
    let backends = crate::operators::list(gateway).await;
    backends.into_iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name} is not listed"))
}

async fn answers(gateway: &Gateway, body: &Value, what: &str) {
    let answer = tokio::time::timeout(NEVER, gateway.ask(body)).await.unwrap_or_else(|_| panic!("{what}: no answer"));
    assert_eq!((answer.status, answer.text().as_str()), (200, HELLO), "{what}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_at_a_backend_that_hangs_are_answered_by_another() {
    let good = a_backend().await;
    let setup = setup().flag("probe-ms", 100).flag("probe-timeout-ms", 200).other_backend(good.url());
    let gateway = setup.start().await;
    until("both are up", async || {
        seen(&gateway, &good).await["state"] == "up" && seen(&gateway, &gateway.backend).await["state"] == "up"
    })
    .await;
    gateway.backend.set_fault(Some(Fault::Hang));
    let begun = Instant::now();
    for _ in 0..2 {
        for body in four_ways("Hello") {
            answers(&gateway, &body, "a backend hangs").await;
        }
    }
    assert!(gateway.backend.requests().len() < 8, "it is not asked for ever");
    assert_eq!(seen(&gateway, &gateway.backend).await["state"], "down");
    eprintln!("8 requests with a hung backend, probes of 200 ms: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_backend_hangs_in_its_middle_goes_on_elsewhere_when_probes_have_found_that_out() {
    let good = a_backend().await;
    let setup = setup().flag("probe-ms", 100).flag("probe-timeout-ms", 200).other_backend(good.url());
    let gateway = setup.start().await;
    for body in four_ways("Count aloud from 1 to 40").iter().filter(|body| body["stream"] == true) {
        gateway.backend.set_fault(None);
        until("both are up", async || {
            seen(&gateway, &good).await["state"] == "up" && seen(&gateway, &gateway.backend).await["state"] == "up"
        })
        .await;
        let whole = gateway.ask(body).await.text();
        gateway.backend.set_fault(Some(Fault::StallAfter(5)));
        // Each of the two has one.
        let mut streams = [gateway.begin(body).await, gateway.begin(body).await];
        for stream in &mut streams {
            stream.until("something of the answer", |seen| String::from_utf8_lossy(seen).contains("\"1")).await;
        }
        // Its probes too are not answered any more.
        gateway.backend.set_fault(Some(Fault::Hang));
        for stream in streams {
            let answer = tokio::time::timeout(NEVER, stream.rest()).await.unwrap_or_else(|_| panic!("{body}: no end"));
            assert_eq!(answer.text(), whole, "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_backend_that_hangs_in_an_answer_may_come_back() {
    for body in four_ways("Hello").iter().filter(|body| body["stream"] == true) {
        let gateway = setup().flag("probe-ms", 100).flag("probe-timeout-ms", 200).start().await;
        let hold = gateway.backend.hold_at(0, 2);
        let mut stream = gateway.begin(body).await;
        stream.until("the beginning", |seen| String::from_utf8_lossy(seen).contains("assistant")).await;
        gateway.backend.set_fault(Some(Fault::Hang));
        until("it is down", async || seen(&gateway, &gateway.backend).await["state"] == "down").await;
        let mut rest = pin!(stream.rest());
        let early = tokio::time::timeout(Duration::from_secs(3), rest.as_mut()).await;
        assert!(early.is_err(), "{body}: given up: {early:?}");
        drop(hold);
        assert_eq!(rest.await.text(), HELLO, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_though_its_server_takes_no_connections_any_more() {
    let mut script = stream_of(&[json!({"delta": {"content": HELLO}}), json!({"delta": {}, "finish_reason": "stop"})]);
    let (first, rest) = script[0].split_at(script[0].len() - 60);
    script = vec![first.to_vec(), rest.to_vec()];
    for body in four_ways("Hello").iter().filter(|body| body["stream"] == true) {
        let backend = Scripted::paused(vec![script.clone()]).await;
        let setup = Setup::default().flag("admin-key", crate::operators::KEY).flag("probe-ms", 50);
        let gateway = setup.flag("backend", &backend.url).start().await;
        let mut stream = gateway.begin(body).await;
        stream.until("the beginning", |seen| String::from_utf8_lossy(seen).contains(HELLO)).await;
        backend.close();
        until("it is down", async || crate::operators::list(&gateway).await[0]["state"] == "down").await;
        backend.pieces.add_permits(1);
        assert_eq!(stream.rest().await.text(), HELLO, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_backend_that_fails_once_is_asked_again() {
    for fault in [Fault::DieAfter(0), Fault::RefuseAll, Fault::EmptyBody] {
        for body in four_ways("Hello") {
            let gateway = setup().start().await;
            gateway.backend.fault_next(fault);
            answers(&gateway, &body, &format!("{fault} {body}")).await;
            assert_eq!(gateway.backend.requests().len(), 2, "{fault}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_asks_for_time_gets_it() {
    let full = b"HTTP/1.1 503 Full\r\nretry-after: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_vec();
    let good = stream_of(&[json!({"delta": {"content": HELLO}}), json!({"delta": {}, "finish_reason": "stop"})]);
    let backend = Scripted::start(vec![vec![full], good]).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let begun = Instant::now();
    answers(&gateway, &question("Hello", true), "a second try").await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_not_waited_for_beyond_the_time_for_all_of_it() {
    for body in four_ways("Hello") {
        let gateway = setup().flag("total-ms", 300).start().await;
        gateway.backend.set_fault(Some(Fault::StallAfter(2)));
        let asked = tokio::time::timeout(NEVER, gateway.ask(&body)).await.expect("an end");
        let error = match asked.status {
            200 => asked.chunks().last().expect("chunks")["error"].clone(),
            _ => asked.refused(504),
        };
        assert!(error["message"].as_str().expect("text").contains("300ms"), "{body}: {error}");
        assert_eq!(error["code"], "backend_timeout");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_by_the_backends_faults_and_never_by_a_clients() {
    let good = a_backend().await;
    let setup = setup().flag("breaker-failures", 2).other_backend(good.url());
    let gateway = setup.start().await;
    let senseless = json!({"model": "qwen3-coder", "tools": [], "messages": [{"role": "clown", "content": "Hello"}]});
    for _ in 0..8 {
        assert_eq!(gateway.ask(&senseless).await.status, 400);
    }
    assert_eq!(seen(&gateway, &gateway.backend).await["breaker"], "closed");
    gateway.backend.set_fault(Some(Fault::GarbageAfter(0)));
    for _ in 0..8 {
        answers(&gateway, &question("Hello", true), "one sends garbage").await;
    }
    let state = seen(&gateway, &gateway.backend).await;
    assert_eq!((&state["breaker"], &state["state"], &state["failures"]), (&json!("open"), &json!("up"), &json!(2)));
    // Without another it is asked all the same, and told of as it is.
    good.stop().await;
    until("the other is gone", async || gateway.ask(&question("Hello", true)).await.status == 502).await;
    gateway.backend.set_fault(None);
    answers(&gateway, &question("Hello", true), "nobody else").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_back_gets_traffic_within_ten_seconds() {
    // The default, and one that gives a backend its share however little there is to do. With others it may wait until it
    // has all of its weight.
    for balance in ["least-wait", "round-robin"] {
        let port = Port::new();
        let dead = port.backend(mock::Settings::default()).await;
        let setup = Setup::default().flag("admin-key", crate::operators::KEY).flag("balance", balance);
        let gateway = setup.other_backend(dead.url()).start().await;
        dead.stop().await;
        until("it is found out", async || {
            gateway.ask(&question("Hello", false)).await;
            crate::operators::list(&gateway).await.iter().any(|backend| backend["state"] == "down")
        })
        .await;
        let back = port.backend(mock::Settings::default()).await;
        let begun = Instant::now();
        until(format!("with {balance} it gets a request"), async || {
            answers(&gateway, &question("Hello", false), "all the time").await;
            !back.requests().is_empty()
        })
        .await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{balance}: {:?}", begun.elapsed());
        assert!(seen(&gateway, &back).await["weight"].as_f64().expect("a weight") < 1.0, "{balance}: it starts slowly");
        eprintln!("with {balance} a backend that is back has its first request after {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_says_it_drains_gets_nothing_new_and_finishes_what_it_has() {
    let other = a_backend().await;
    let gateway = setup().flag("probe-ms", 50).other_backend(other.url()).start().await;
    until("both are up", async || {
        seen(&gateway, &other).await["state"] == "up" && seen(&gateway, &gateway.backend).await["state"] == "up"
    })
    .await;
    let holds = [gateway.backend.hold_at(0, 1), other.hold_at(0, 1)];
    let running = [gateway.begin(&question("Hello", true)).await, gateway.begin(&question("Hello", true)).await];
    gateway.backend.set_fault(Some(Fault::Unhealthy));
    until("it is out", async || seen(&gateway, &gateway.backend).await["state"] == "down").await;
    let before = gateway.backend.requests().len();
    drop(holds);
    for _ in 0..4 {
        answers(&gateway, &question("Hello", false), "the other").await;
    }
    assert_eq!(gateway.backend.requests().len(), before);
    for answer in running {
        assert_eq!(answer.rest().await.text(), HELLO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_has_no_more_requests_than_it_may_and_the_next_one_waits() {
    let alone = a_backend().await;
    let file = format!("[[backends]]\nurl = '{}'\nin_flight_max = 1", alone.url());
    let gateway = setup().flag("backend", alone.url()).file(&file).start().await;
    let hold = alone.hold_at(0, 1);
    let first = gateway.begin(&question("Hello", true)).await;
    let body = question("Hello", false);
    let second = gateway.ask(&body);
    let mut second = pin!(second);
    let early = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(early.is_err() && alone.requests().len() == 1, "{early:?}");
    drop(hold);
    assert_eq!(first.rest().await.text(), HELLO);
    assert_eq!(second.await.text(), HELLO);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_wait_for_a_seat_than_may_and_none_of_them_for_longer() {
    for (flag, value) in [("seat-waiting-max", 0), ("seat-wait-ms", 50)] {
        let alone = a_backend().await;
        let file = format!("[[backends]]\nurl = '{}'\nin_flight_max = 1", alone.url());
        let gateway = setup().flag("backend", alone.url()).flag(flag, value).file(&file).start().await;
        let hold = alone.hold_at(0, 1);
        let first = gateway.begin(&question("Hello", true)).await;
        for body in four_ways("Hello") {
            let answer = tokio::time::timeout(NEVER, gateway.ask(&body)).await.expect("an answer");
            let error = match answer.status {
                200 => answer.chunks().pop().expect("an event")["error"].clone(),
                _ => answer.refused(503),
            };
            assert_eq!(error["code"], "no_backend", "{flag}: {body}");
        }
        assert_eq!(alone.requests().len(), 1);
        drop(hold);
        assert_eq!(first.rest().await.text(), HELLO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_many_requests_leaves_another_room_to_wait_and_the_next_seat() {
    let alone = a_backend().await;
    let caller = |name| {
        let key = loopgate::access::KeyHash::of(&format!("lg-{name}")).hex();
        format!("[[callers]]\nname = '{name}'\nkey_sha256 = '{key}'\n")
    };
    let backend = format!("[[backends]]\nurl = '{}'\nin_flight_max = 1\n", alone.url());
    let file = backend + &caller("greedy") + &caller("modest");
    let gateway = setup().flag("backend", alone.url()).flag("seat-waiting-max", 3).file(&file).start().await;
    let ask = async |caller: &str, number: u32| {
        let mut body = question(&format!("Hello from the {caller}, {number}"), false);
        body["tools"] = json!([]);
        let key = format!("Bearer lg-{caller}");
        gateway.send(Method::POST, "/v1/chat/completions", &[("authorization", &key)], body.to_string()).await.status
    };
    let hold = alone.hold_at(0, 0);
    let later = async {
        alone.wait_until(|log| log.asked().count() == 1).await;
        let mut greedy: FuturesUnordered<_> = (1..=4).map(|number| ask("greedy", number)).collect();
        assert_eq!(greedy.next().await, Some(503), "three wait");
        let mut modest = pin!(ask("modest", 0));
        tokio::select! {
            status = &mut modest => panic!("it does not wait: {status}"),
            status = greedy.next() => assert_eq!(status, Some(503), "one of them made room"),
        }
        drop(hold);
        assert_eq!(tokio::join!(modest, greedy.collect::<Vec<_>>()), (200, vec![200, 200]));
    };
    assert_eq!(tokio::join!(ask("greedy", 0), later).0, 200);
    let requests = alone.requests();
    let said = requests.iter().map(|it| it.json()["messages"][0]["content"].as_str().expect("text").to_owned());
    let callers: Vec<_> = said.map(|it| it.contains("greedy")).collect();
    assert_eq!(callers, [true, true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_seat_gets_one_of_a_backend_that_comes_up() {
    let (full, port) = (Port::new(), Port::new());
    let file = format!("[[backends]]\nurl = 'http://{}'\nin_flight_max = 1", full.address);
    let settings = mock::Settings { listen: full.address, ..mock::Settings::default() };
    let setup = setup().backend(settings).other_backend(format!("http://{}", port.address)).file(&file);
    let gateway = setup.start().await;
    let _hold = gateway.backend.hold_at(0, 1);
    let _first = gateway.begin(&question("Hello", true)).await;
    let body = question("Hello", false);
    let mut second = pin!(gateway.ask(&body));
    let early = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(early.is_err() && gateway.backend.requests().len() == 1, "{early:?}");
    let _up =
        mock::start(mock::Settings { listen: port.address, ..mock::Settings::default() }).await.expect("its port");
    let answer = tokio::time::timeout(NEVER, second).await.expect("the other has a seat");
    assert_eq!(answer.text(), HELLO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_unknown_though_a_server_was_never_seen_unless_that_is_said_to_have_it() {
    let port = Port::new();
    for (file, status, code) in [
        (String::new(), 404, "model_not_found"),
        (format!("[[backends]]\nurl = 'http://{}'\nmodels = ['green']", port.address), 503, "no_backend"),
    ] {
        let gateway = setup().other_backend(format!("http://{}", port.address)).file(&file).start().await;
        until("both were looked at", async || {
            crate::operators::list(&gateway).await.iter().all(|it| it["state"] != "unknown")
        })
        .await;
        let mut body = question("Hello", false);
        body["model"] = json!("green");
        assert_eq!(gateway.ask(&body).await.refused(status)["code"], code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_why_a_server_cannot_be_reached() {
    let port = Port::new();
    for (url, why) in
        [(format!("http://{}", port.address), "Connection refused"), ("http://nobody.invalid:1".to_owned(), "lookup")]
    {
        let gateway = setup().other_backend(url.clone()).start().await;
        let name = url.strip_prefix("http://").expect("http").to_owned();
        let told = async || {
            let backends = crate::operators::list(&gateway).await;
            backends.into_iter().find(|it| it["name"] == *name).expect("it is listed")["last_error"].to_string()
        };
        until("it was looked at", async || told().await != "null").await;
        assert!(told().await.contains(why), "{}", told().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_backend_gets_its_own_key_and_only_the_models_that_it_is_for() {
    let [red, blue] = ["red", "blue"].map(|name| mock::Settings {
        api_key: Some(format!("key-of-{name}")),
        models: vec![name.to_owned(), "both".to_owned()],
        ..mock::Settings::default()
    });
    let (red, blue) = (mock::start(red).await.expect("red"), mock::start(blue).await.expect("blue"));
    let file = format!(
        "[[backends]]\nurl = '{}'\napi_key = 'key-of-red'\n[[backends]]\nurl = '{}'\nmodels = ['blue']\n",
        red.url(),
        blue.url()
    );
    let gateway = setup()
        .other_backend(red.url())
        .other_backend(blue.url())
        .flag("backend-api-key", "key-of-blue")
        .file(&file)
        .start()
        .await;
    until("both are up", async || {
        seen(&gateway, &red).await["state"] == "up" && seen(&gateway, &blue).await["state"] == "up"
    })
    .await;
    for (model, asked) in [("red", &red), ("blue", &blue), ("both", &red)] {
        for _ in 0..3 {
            let mut body = question("Hello", false);
            body["model"] = json!(model);
            answers(&gateway, &body, model).await;
            assert_eq!(asked.next_request().await.json()["model"], model);
        }
    }
    let mut body = question("Hello", false);
    body["model"] = json!("green");
    let error = gateway.ask(&body).await.refused(404);
    assert!(error["message"].as_str().expect("text").contains("`green`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_report_that_lies_or_a_parser_that_is_off_stops_nothing() {
    let backend = mock::Settings { parser: false, kv_tokens: Some(5000), ..mock::Settings::default() };
    let gateway = setup().backend(backend).flag("load-ms", 20).start().await;
    until("its load is known", async || seen(&gateway, &gateway.backend).await["load"]["kv_tokens_max"] == 5000).await;
    assert_eq!(seen(&gateway, &gateway.backend).await["finds_calls"], false);
    gateway.backend.set_fault(Some(Fault::LyingLoad));
    until("the lie has come", async || seen(&gateway, &gateway.backend).await["load"]["waiting"] != 0).await;
    let load = seen(&gateway, &gateway.backend).await["load"].clone();
    assert_eq!(load, json!({"running": 0, "waiting": 1_000_000, "used_tokens": 0, "kv_tokens_max": 5000}));
    answers(&gateway, &question("Hello", false), "all the same").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_gives_its_addresses_and_one_that_nobody_knows_stops_nothing() {
    let behind = a_backend().await;
    let name = format!("dns+http://localhost:{}", behind.addr().port());
    let setup = setup().other_backend("dns+http://nobody.invalid:1".to_owned()).other_backend(name.clone());
    let gateway = setup.flag("dns-ms", 50).start().await;
    until("it is found", async || {
        crate::operators::list(&gateway).await.iter().any(|it| it["found_by"] == name && it["state"] == "up")
    })
    .await;
    for _ in 0..4 {
        answers(&gateway, &question("Hello", false), "with names").await;
    }
    assert!(!behind.requests().is_empty(), "what was found is asked");
}
