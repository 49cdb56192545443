//! Programs without a conversation: `POST /v1/sandbox/execute`.

use crate::gateway::{Answer, Begun, Gateway, Setup, events, question, start, until};
use http::Method;
use loopgate::access::KeyHash;
use loopgate::sse::DONE;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

pub const PATH: &str = "/v1/sandbox/execute";

/// Says that it runs, and does so until it is stopped.
const ENDLESS: &str = "print('begun', flush=True)\nwhile True: pass";

pub async fn execute(gateway: &Gateway, body: &Value) -> Answer {
    gateway.send(Method::POST, PATH, &[], body.to_string()).await
}

/// What became of a program, whatever that is.
async fn ran(gateway: &Gateway, code: &str) -> Value {
    let answer = execute(gateway, &json!({"code": code})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// A program that has begun and goes on.
async fn endless(gateway: &Gateway) -> Begun {
    let mut answer = gateway.begin_at(PATH, &json!({"code": ENDLESS, "stream": true})).await;
    answer.until("a program that runs", |body| !events(body).is_empty()).await;
    answer
}

/// A gateway whose only interpreter is in use, and the program that uses it.
async fn full(setup: Setup) -> (Gateway, Begun) {
    let gateway = setup.flag("interpreters-max", 1).start().await;
    let running = endless(&gateway).await;
    (gateway, running)
}

/// Refused, because no interpreter is free.
pub async fn refused_as_busy() -> Answer {
    let (gateway, _running) = full(Setup::default().flag("waiting-max", 0)).await;
    execute(&gateway, &json!({"code": "1"})).await
}

/// What a stream tells of one of the program's two outputs, put together.
fn told(events: &[Value], name: &str) -> String {
    events.iter().filter(|event| event["event"] == name).filter_map(|event| event["text"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_body_is_said_and_nothing_runs() {
    let gateway = start().await;
    for (body, param) in [
        (json!([]), json!(null)),
        (json!({}), json!("code")),
        (json!({"code": 7}), json!("code")),
        (json!({"code": "1", "language": "python"}), json!("language")),
        (json!({"code": "1", "timeout_ms": 0}), json!("timeout_ms")),
        (json!({"code": "1", "stream": "yes"}), json!("stream")),
    ] {
        let error = execute(&gateway, &body).await.refused(400);
        assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &param), "{body}: {error}");
    }
    for body in [vec![b'{', b'"', 0xff, b'"'], "[".repeat(100_000).into_bytes(), Vec::new()] {
        gateway.send(Method::POST, PATH, &[], body).await.refused(400);
    }
    gateway.get(PATH).await.refused(405);
    assert!(gateway.audit().is_empty());
}

/// A program in a session, which is named in the body and in the header.
async fn in_session(gateway: &Gateway, name: &str, code: &str) -> [Answer; 2] {
    let in_body = execute(gateway, &json!({"code": code, "session": name})).await;
    let headers = [("x-loopgate-session", name)];
    [in_body, gateway.send(Method::POST, PATH, &headers, json!({"code": code}).to_string()).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_needs_a_policy_that_has_them_and_a_name_that_is_one() {
    for answer in in_session(&start().await, "mine", "1").await {
        let error = answer.refused(403);
        assert_eq!(error["param"], "session");
        assert!(error["message"].as_str().expect("text").contains("has no sessions"), "{error}");
    }
    for answer in in_session(&Setup::default().rules("sessions.enabled = true").start().await, "a/b", "1").await {
        assert_eq!(answer.refused(400)["param"], "session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_stay_in_a_session() {
    let gateway = Setup::default().rules("sessions.enabled = true").start().await;
    let [first, second] = in_session(&gateway, "mine", "n = globals().get('n', 0) + 1\nn").await;
    assert_eq!((&first.json()["value"], &second.json()["value"]), (&json!("1"), &json!("2")));
    let [other, _] = in_session(&gateway, "other", "n").await;
    assert!(other.json()["error"].as_str().expect("an error").contains("NameError"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_the_limits_and_the_encodings_of_every_other() {
    let gateway = Setup::default().flag("body-bytes-max", 1024).start().await;
    gateway.send(Method::POST, PATH, &[], " ".repeat(1025)).await.refused(413);
    gateway.send(Method::POST, PATH, &[("content-encoding", "br")], "{}").await.refused(415);
    let gateway = start().await;
    let long = "#".repeat((512 << 10) + 1);
    let error = execute(&gateway, &json!({"code": long})).await.refused(400);
    assert_eq!(error["param"], "code");
    assert_eq!(ran(&gateway, &format!("7{}", &long[2..])).await["value"], "7", "one byte less is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_or_no_grant_is_refused() {
    let callers = format!("[[callers]]\nname = 'a'\nkey_sha256 = '{}'\n", KeyHash::of("lg-a").hex());
    let gateway = Setup::default().file(&callers).policy("callers = ['a']").start().await;
    let code = json!({"code": "print(1)"}).to_string();
    for key in ["", "Bearer lg-b"] {
        gateway.send(Method::POST, PATH, &[("authorization", key)], code.clone()).await.refused(401);
    }
    assert!(gateway.audit().is_empty());
    for stream in [false, true] {
        let body = json!({"code": "print(1)", "stream": stream}).to_string();
        let answer = gateway.send(Method::POST, PATH, &[("authorization", "Bearer lg-a")], body).await;
        let message = answer.refused(403)["message"].as_str().expect("text").to_owned();
        for part in ["policy `default` grants no `execute_code`", "can grant it in policies/"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let audit = gateway.audit();
    assert_eq!(audit.len(), 2, "a denial is written down");
    assert_eq!((&audit[0]["caller"], &audit[0]["status"]), (&json!("a"), &json!("denied")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_too_much_running_is_told_to_wait() {
    let gateway = Setup::default().flag("concurrent-max", 1).start().await;
    let running = endless(&gateway).await;
    let answer = execute(&gateway, &json!({"code": "1"})).await;
    answer.refused(429);
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), "0");
    assert_eq!(gateway.ask(&question("Hello", false)).await.status, 429, "conversations have no places of their own");
    drop(running);
    until("the place is free", async || execute(&gateway, &json!({"code": "1"})).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_interpreter_is_told_to_come_again() {
    let (gateway, _running) = full(Setup::default().flag("waiting-max", 0)).await;
    for stream in [false, true] {
        let answer = execute(&gateway, &json!({"code": "1", "stream": stream})).await;
        let error = answer.refused(503);
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("no_interpreter")));
        assert!(error["message"].as_str().expect("text").contains("every interpreter is busy"), "{error}");
        assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("1", "true"));
    }
    assert_eq!(gateway.audit().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_after_the_status_is_told_in_the_stream() {
    let setup = Setup::default().flag("wait-ms", 300).rules("silence.commit_after_ms = 1\nsilence.heartbeat_ms = 100");
    let (gateway, _running) = full(setup).await;
    let answer = execute(&gateway, &json!({"code": "1", "stream": true})).await;
    assert_eq!(answer.status, 200);
    let [error] = &answer.chunks()[..] else { panic!("{answer:?}") };
    assert_eq!(error["error"]["code"], "no_interpreter");
    // Of a whole answer the status waits.
    execute(&gateway, &json!({"code": "1"})).await.refused(503);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_written_down_is_withheld() {
    let gateway = Setup::default().flag("audit", "/dev/full").start().await;
    let error = execute(&gateway, &json!({"code": "print('to' + 'ld')"})).await.refused(503);
    let message = error["message"].as_str().expect("text");
    assert!(message.contains("withheld") && !message.contains("told"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_program_did_is_an_answer() {
    let gateway = Setup::default().rules("limits.memory_mib = 64").start().await;
    for (code, status, error) in [
        ("1 / 0", "error", "ZeroDivisionError"),
        ("x = (", "error", "SyntaxError"),
        ("raise SystemExit(3)", "error", ""),
        ("x = bytearray(200 << 20)", "error", "64 MiB"),
        ("import os\nos._exit(1)", "error", "os._exit"),
        ("'\\ud800'", "completed", ""),
        ("", "completed", ""),
    ] {
        let outcome = ran(&gateway, code).await;
        assert_eq!(outcome["status"], status, "{code}: {outcome}");
        assert!(outcome["error"].as_str().unwrap_or_default().contains(error), "{code}: {outcome}");
        assert_eq!(outcome["error"].is_null(), status == "completed", "{code}: {outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_may_be_given_less_time_than_the_policy_gives_and_not_more() {
    let gateway = Setup::default().rules("limits.wall_ms = 20000").start().await;
    let begun = Instant::now();
    let outcome =
        execute(&gateway, &json!({"code": "print('here')\nwhile True: pass", "timeout_ms": 250})).await.json();
    assert_eq!((&outcome["status"], &outcome["stdout"]), (&json!("timeout"), &json!("here\n")), "{outcome}");
    assert!(outcome["error"].as_str().expect("text").ends_with("timed out after 250 ms"), "{outcome}");
    assert!(outcome["duration_ms"].as_f64().is_some_and(|took| took >= 250.0), "{outcome}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(gateway.audit()[0]["limits"]["wall_ms"], 250);

    assert_eq!(execute(&gateway, &json!({"code": "1", "timeout_ms": 20000})).await.status, 200, "just as much");
    let error = execute(&gateway, &json!({"code": "1", "timeout_ms": 20001})).await.refused(400);
    assert_eq!(error["param"], "timeout_ms");
    let message = error["message"].as_str().expect("text");
    assert!(
        message.contains("20001") && message.contains("policy `default`") && message.contains("20000;"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_whole_and_has_the_name_that_the_audit_has() {
    let gateway = start().await;
    let code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7";
    let answer = execute(&gateway, &json!({"code": code})).await;
    assert!(answer.header("content-type").starts_with("application/json"), "{answer:?}");
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "1024");
    let mut outcome = answer.json();
    let id = outcome["id"].take();
    assert!(id.as_str().is_some_and(|id| id.starts_with("exec-") && id == answer.header("x-request-id")), "{id}");
    let execution_id = outcome["execution_id"].take();
    assert!(outcome["duration_ms"].take().as_f64().is_some_and(|took| took > 0.0));
    let expected = json!({
        "id": null, "execution_id": null, "status": "completed", "stdout": "out\n", "stderr": "err\n", "value": "42", "error": null,
        "output": "out\n42\n[stderr]\nerr", "duration_ms": null, "truncated": false,
    });
    assert_eq!(outcome, expected);
    let audit = gateway.audit();
    for (member, value) in [
        ("call_id", &id),
        ("request_id", &id),
        ("execution_id", &execution_id),
        ("tool", &json!("execute_code")),
        ("code", &json!(code)),
        ("caller", &json!("anonymous")),
        ("status", &json!("completed")),
    ] {
        assert_eq!(&audit[0][member], value, "{member}");
    }
    let named = gateway.send(Method::POST, PATH, &[("x-request-id", "mine")], json!({"code": "1"}).to_string()).await;
    assert_eq!((named.header("x-request-id"), &gateway.audit()[1]["client_request_id"]), ("mine", &json!("mine")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_has_an_interpreter_of_its_own() {
    let gateway = start().await;
    assert_eq!(ran(&gateway, "secret = 1").await["status"], "completed");
    let outcome = ran(&gateway, "secret").await;
    assert!(outcome["error"].as_str().expect("an error").contains("NameError"), "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_many_clients_run_at_once_and_each_gets_its_own_answer() {
    let gateway = start().await;
    let clients = (0..32).map(|client| {
        let gateway = &gateway;
        async move {
            let code = format!("import time\nprint({client})\ntime.sleep(0.01)\n{client} * 2");
            let answer = execute(gateway, &json!({"code": code, "stream": client % 2 == 0})).await;
            let outcome = if client % 2 == 0 { answer.chunks().pop().expect("events") } else { answer.json() };
            assert_eq!(outcome["stdout"], format!("{client}\n"), "{outcome}");
            assert_eq!(outcome["value"], (client * 2).to_string(), "{outcome}");
            outcome["id"].as_str().expect("an id").to_owned()
        }
    });
    let ids: HashSet<_> = futures_util::future::join_all(clients).await.into_iter().collect();
    let written: HashSet<_> =
        gateway.audit().iter().map(|line| line["call_id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!((ids.len(), &ids), (32, &written));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_is_written_while_the_program_runs_and_its_end_after_the_audit() {
    let gateway = start().await;
    let running = endless(&gateway).await;
    assert_eq!(events(&running.seen), [json!({"event": "stdout", "text": "begun\n"})]);
    assert!(gateway.audit().is_empty(), "it runs");
    drop(running);
    until("the line of what is over", async || gateway.audit().len() == 1).await;

    let mut answer = gateway.begin_at(PATH, &json!({"code": "print('out')\n6 * 7", "stream": true})).await;
    answer.until("the end", |body| events(body).iter().any(|event| event["event"] == "executed")).await;
    let audit = gateway.audit();
    let answer = answer.rest().await;
    assert!(answer.header("content-type").starts_with("text/event-stream"), "{answer:?}");
    let events = answer.chunks();
    let last = events.last().expect("events");
    assert_eq!(
        (&last["value"], &last["stdout"], &last["status"]),
        (&json!("42"), &json!("out\n"), &json!("completed"))
    );
    assert_eq!((audit.len(), &audit[1]["call_id"]), (2, &last["id"]));
    assert!(answer.body.ends_with(&[b"data: ", DONE, b"\n\n"].concat()), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_in_the_order_in_which_they_were_written() {
    let gateway = start().await;
    let code = "import sys\nfor n in range(50):\n    print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True)";
    let events = execute(&gateway, &json!({"code": code, "stream": true})).await.chunks();
    let (last, pieces) = events.split_last().expect("events");
    let all: String = pieces.iter().filter_map(|event| event["text"].as_str()).collect();
    let lines: Vec<_> = (0..50).map(|number| format!("{number}\n")).collect();
    assert_eq!(all, lines.concat());
    assert_eq!(told(pieces, "stdout"), last["stdout"]);
    assert_eq!(told(pieces, "stderr"), last["stderr"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_piece_ends_in_half_a_character_and_what_is_no_text_is_marked() {
    let gateway = start().await;
    let code = "import sys\nfor byte in '€😀'.encode() + b'\\xff!' + b'\\xe2\\x82':\n    \
                sys.stdout.buffer.write(bytes([byte]))\n    sys.stdout.flush()";
    let events = execute(&gateway, &json!({"code": code, "stream": true})).await.chunks();
    let (last, pieces) = events.split_last().expect("events");
    assert_eq!(last["stdout"], "€😀\u{fffd}!\u{fffd}");
    assert_eq!(told(pieces, "stdout"), last["stdout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_output_beyond_the_limit_both_ends_are_kept_and_the_beginning_is_streamed() {
    let gateway = Setup::default().rules("limits.output_kib = 1").start().await;
    let body = |stream: bool| json!({"code": "print('€' * 5000 + 'end', end='')", "stream": stream});
    let whole = execute(&gateway, &body(false)).await.json();
    let events = execute(&gateway, &body(true)).await.chunks();
    let (last, pieces) = events.split_last().expect("events");
    for outcome in [&whole, last] {
        let stdout = outcome["stdout"].as_str().expect("text");
        assert_eq!(outcome["truncated"], true);
        assert!(stdout.len() < 1100 && stdout.contains("bytes omitted") && stdout.ends_with("€end"), "{stdout}");
    }
    let told = told(pieces, "stdout");
    assert!(told.len() > 400 && last["stdout"].as_str().expect("text").starts_with(&told), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_comments() {
    let gateway = Setup::default().rules("silence.heartbeat_ms = 100\nsilence.commit_after_ms = 100").start().await;
    let begun = Instant::now();
    let code = "import time\ntime.sleep(1)\nprint('late')";
    let answer = execute(&gateway, &json!({"code": code, "stream": true})).await;
    let beats = String::from_utf8_lossy(&answer.body).matches(":\n\n").count();
    assert!(
        beats >= 3 && Duration::from_millis(100) * u32::try_from(beats).expect("few") <= begun.elapsed(),
        "{beats}"
    );
    assert_eq!(told(&answer.chunks(), "stdout"), "late\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_its_program_and_gives_everything_back() {
    let narrow = Setup::default().flag("interpreters-max", 1).flag("waiting-max", 0);
    let gateway = narrow.flag("concurrent-max", 2).rules("limits.wall_ms = 600000").start().await;
    let status = async || execute(&gateway, &json!({"code": "1"})).await.status;
    let abandoned = || gateway.audit().iter().filter(|line| line["status"] == "abandoned").count();

    drop(endless(&gateway).await);
    until("its line", async || abandoned() == 1).await;
    until("its interpreter is free", async || status().await == 200).await;

    // Of a whole answer nothing tells that the program runs, but that others find no interpreter. The one before may be the
    // reason for that; then the program has not begun, and leaves no line.
    let whole = json!({"code": ENDLESS});
    until("the line of a whole answer", async || {
        tokio::select! {
            begun = gateway.begin_at(PATH, &whole) => drop(begun),
            () = until("a program that runs", async || status().await == 503) => {}
        }
        until("its interpreter is free", async || status().await == 200).await;
        abandoned() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_stops_its_program() {
    // Far more than the sockets' buffers hold: each of these bytes takes six in JSON.
    let rules = "limits.output_kib = 16384\nlimits.wall_ms = 600000";
    let gateway = Setup::default().flag("write-stall-ms", 200).rules(rules).start().await;
    let code = "while True: print('\\x01' * 8000)";
    let mut answer = gateway.begin_at(PATH, &json!({"code": code, "stream": true})).await;
    answer.until("its beginning", |body| !body.is_empty()).await;
    until("its line", async || gateway.audit().iter().any(|line| line["status"] == "abandoned")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_keeps_no_interpreter_and_changes_no_outcome() {
    // Far more than the sockets' buffers hold, and all of it told before the program ends.
    let setup = Setup::default().flag("interpreters-max", 1).rules("limits.output_kib = 16384");
    let gateway = setup.start().await;
    let code = "print('\\x01' * (15 << 20), flush=True)\nimport time\ntime.sleep(0.2)\n6 * 7";
    let mut answer = gateway.begin_at(PATH, &json!({"code": code, "stream": true})).await;
    answer.until("its beginning", |body| !body.is_empty()).await;
    until("its line", async || !gateway.audit().is_empty()).await;
    let line = &gateway.audit()[0];
    assert_eq!((&line["status"], &line["output_head"]), (&json!("completed"), &json!("\u{1}".repeat(1024))));
    assert_eq!(ran(&gateway, "6 * 7").await["value"], "42", "its interpreter is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_of_a_program_whose_client_left_is_in_the_audit() {
    let gateway = Setup::default().rules("limits.wall_ms = 600000").start().await;
    drop(endless(&gateway).await);
    until("its line", async || !gateway.audit().is_empty()).await;
    let line = &gateway.audit()[0];
    assert_eq!(
        (&line["status"], &line["output_bytes"], &line["output_head"]),
        (&json!("abandoned"), &json!(6), &json!("begun\n"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_the_longest_program_whole() {
    let gateway = start().await;
    let code = format!("7{}", "#".repeat((512 << 10) - 1));
    ran(&gateway, &code).await;
    assert_eq!(gateway.audit()[0]["code"], code);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_under_their_route() {
    let gateway = start().await;
    ran(&gateway, "1").await;
    execute(&gateway, &json!({})).await.refused(400);
    let metrics = String::from_utf8_lossy(&gateway.get("/metrics").await.body).into_owned();
    for line in [
        "loopgate_http_requests_total{route=\"/v1/sandbox/execute\",status=\"200\"} 1",
        "loopgate_http_requests_total{route=\"/v1/sandbox/execute\",status=\"400\"} 1",
        "loopgate_executions_total{tool=\"execute_code\",status=\"completed\"} 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
}
