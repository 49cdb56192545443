//! What is in the audit can be made again: `loopgate exec --replay`.

use crate::cli::{Place, Said};
use crate::execute::execute;
use crate::gateway::{Gateway, Setup, question};
use crate::turns::calling;
use http::Method;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;

/// Asks for all that differs from run to run, and waits.
const PROGRAM: &str = "import asyncio, datetime, os, random, secrets, time, uuid\n\
    print(random.random(), uuid.uuid4(), uuid.uuid1(), os.urandom(4).hex(), secrets.token_hex(4))\n\
    await asyncio.sleep(0.1)\n\
    print(time.time(), datetime.datetime.now(), time.perf_counter())\n\
    time.sleep(0.1)\n\
    time.monotonic_ns()";

impl Place {
    fn replay(&self, id: &str, args: &[&str]) -> Said {
        self.run(&[&["exec", "--replay", id], args].concat())
    }

    /// The lines of its audit.
    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("audit.jsonl")).expect("an audit");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn id(line: &Value) -> String {
    line["execution_id"].as_str().expect("an id").to_owned()
}

#[test]
fn what_cannot_be_made_again_is_refused_with_the_way_out() {
    let place = Place::new();
    place.replay("run-0", &[]).assert_refused(&["audit.jsonl", "No such file", "--audit"]);
    assert!(!place.path("audit.jsonl").exists(), "nothing is made by looking");
    assert_eq!(place.exec("print('x')", &[]).code, Some(0));
    place.replay("run-0", &[]).assert_refused(&["no execution `run-0`", "audit.jsonl", "`execution_id`", "--audit"]);

    let line = place.audit().remove(0);
    let id = id(&line);
    place.replay(&id, &["program.py"]).assert_refused(&["--replay"]);
    let with = |text: String| Place::new().file("audit.jsonl", text).replay(&id, &[]);
    let whole = line.to_string();
    with(format!("{{}}\n{}\n", &whole[..whole.len() - 3])).assert_refused(&["line 2", "audit.jsonl", &id, "damaged"]);
    for (member, value, parts) in [
        ("status", json!("abandoned"), ["its client left", &*id]),
        ("outcome_sha256", json!(null), ["did not run", &id]),
        ("code", json!("print("), ["not the whole code", "1048576"]),
        ("replay_of", json!("run-0"), ["a replay itself", "`run-0`"]),
        ("after", json!("run-0"), ["goes on from what `run-0` left", "audit.keep_files"]),
        ("files_changed", json!(true), ["files were changed", "/v1/sandbox/sessions"]),
        ("seed", json!("é".repeat(32)), ["`seed`", &id]),
        ("caller", json!("bob"), ["unknown caller `bob`", "known: anonymous"]),
        ("tool", json!("gone"), ["", ""]),
    ] {
        let mut line = line.clone();
        line[member] = value;
        let said = with(format!("{line}\n"));
        match member {
            "tool" => said.assert_failed(5, &["there is no tool `gone`", "execute_code"]),
            _ => said.assert_refused(&parts),
        }
    }
}

#[test]
fn a_program_is_made_again_byte_for_byte() {
    let place = Place::new();
    let first = place.exec(PROGRAM, &[]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let raised = place.exec("import random\nraise ValueError(random.random())", &[]);
    assert_eq!(raised.code, Some(1), "{raised:?}");
    let ids: Vec<_> = place.audit().iter().map(id).collect();

    let again = place.replay(&ids[0], &[]);
    assert_eq!((again.code, &again.out), (Some(0), &first.out), "{again:?}");
    assert_eq!(again.err, format!("loopgate: the same outcome as that of {}\n", ids[0]));
    let again = place.replay(&ids[1], &[]);
    assert_eq!((again.code, &again.out), (Some(1), &raised.out));
    assert!(again.err.starts_with(&raised.err) && again.err.contains("the same outcome"), "{again:?}");

    // Also from a file that was put aside.
    fs::rename(place.path("audit.jsonl"), place.path("audit.jsonl.1")).expect("a file");
    let place = place.file("audit.jsonl", "");
    let again = place.replay(&ids[0], &["--json"]);
    let outcome: Value = serde_json::from_str(&again.out).expect("JSON");
    assert_eq!(outcome["replay"], json!({"of": ids[0], "same": true, "differences": []}));
    // It has a line, which is no execution of its own.
    let line = place.audit().remove(0);
    assert_eq!((&line["replay_of"], &line["execution_id"]), (&json!(ids[0]), &outcome["execution_id"]));
    place.replay(&id(&line), &[]).assert_refused(&["a replay itself", &ids[0]]);
}

#[test]
fn another_outcome_is_told_with_what_may_be_its_cause() {
    let place = Place::new();
    assert_eq!(place.exec("import random\nprint(random.random())", &[]).code, Some(0));
    let many = "import time\nfor _ in range(500): last = time.perf_counter_ns()\nprint(last)";
    assert_eq!(place.exec(many, &[]).code, Some(0));
    let [line, many] = &place.audit()[..] else { panic!("two lines") };
    place.replay(&id(many), &[]).assert_failed(6, &[&id(many), "256 times"]);

    let mut line = line.clone();
    (line["seed"], line["guest"]) = (json!("0".repeat(64)), json!("0123"));
    let changed = Place::new().file("audit.jsonl", format!("{line}\n"));
    changed.replay(&id(&line), &[]).assert_failed(6, &[&id(&line), "another one", "was 0123"]);
    let said = changed.replay(&id(&line), &["--json"]);
    let outcome: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((said.code, &outcome["replay"]["same"]), (Some(6), &json!(false)));
}

/// Makes all executions of a gateway's audit again, each by itself.
fn all_again(gateway: &Gateway) {
    let place = Place::new();
    let file = gateway.folder.path().join("audit.jsonl").display().to_string();
    for line in gateway.audit() {
        let again = place.replay(&id(&line), &["--audit", &file, "--json"]);
        let outcome: Value = serde_json::from_str(&again.out).unwrap_or_else(|_| panic!("{again:?}"));
        assert_eq!((&outcome["replay"]["same"], &outcome["status"]), (&json!(true), &line["status"]), "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_a_turn_are_made_again_with_what_they_build_on() {
    let second = "import time, uuid\ntime.sleep(0.05)\nprint(x, uuid.uuid4(), time.monotonic_ns())";
    // It takes the interpreter down, which is then as it was before.
    let third = "import os\nx = 0\nos._exit(1)";
    let backend = calling(&["import random\nx = random.random()\n1 / 0", second, third, "x += 1\nx"]).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let answer = gateway.ask(&question("Anything", false)).await.json();
    let executed = answer["choices"][0]["message"]["executed_tools"].as_array().expect("executions").clone();
    let audit = gateway.audit();
    let ids: Vec<_> = audit.iter().map(|line| &line["execution_id"]).collect();
    assert_eq!(executed.iter().map(|it| &it["execution_id"]).collect::<Vec<_>>(), ids);
    // The calls' own ids are all the same.
    assert!(audit.iter().all(|line| line["call_id"] == "a"));
    assert_eq!(audit.iter().map(id).collect::<HashSet<_>>().len(), 4);
    assert!(audit[3]["output_head"].as_str().is_some_and(|value| value.starts_with("1.")), "{audit:?}");
    let after: Vec<_> = audit.iter().map(|line| &line["after"]).collect();
    assert_eq!(after, [&json!(null), ids[0], ids[1], ids[2]]);
    all_again(&gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_again_without_what_was_stopped_until_its_files_are_changed() {
    let gateway = Setup::default().rules("sessions.enabled = true").start().await;
    let run = async |code: &str, timeout_ms: u64| {
        execute(&gateway, &json!({"code": code, "session": "s", "timeout_ms": timeout_ms})).await.json()
    };
    run("import random\nx = [random.random()]\nopen('f', 'w').write('here')", 20_000).await;
    let stopped = run("x.append(2)\nwhile True: pass", 200).await;
    assert_eq!(stopped["status"], "timeout");
    let last = run("x, open('f').read(), random.random()", 20_000).await;
    assert!(last["value"].as_str().is_some_and(|value| value.contains("'here'") && !value.contains(", 2]")), "{last}");
    let audit = gateway.audit();
    assert_eq!((&audit[1]["after"], &audit[2]["after"]), (&audit[0]["execution_id"], &audit[0]["execution_id"]));
    all_again(&gateway);

    gateway.send(Method::PUT, "/v1/sandbox/sessions/s/files/f", &[], "put").await;
    let last = run("x, open('f').read()", 20_000).await;
    let file = gateway.folder.path().join("audit.jsonl").display().to_string();
    Place::new().replay(&id(&last), &["--audit", &file]).assert_refused(&["files were changed"]);
}
