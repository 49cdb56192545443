//! Sessions over HTTP: what programs leave for each other, and the files that clients put there and fetch.

use crate::execute::{PATH, execute};
use crate::gateway::{Answer, Gateway, Setup, events, question, start};
use http::Method;
use loopgate::access::KeyHash;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SESSIONS: &str = "/v1/sandbox/sessions";

fn with_sessions() -> Setup {
    Setup::default().rules("sessions.enabled = true")
}

async fn ask(gateway: &Gateway, method: Method, path: &str) -> Answer {
    gateway.send(method, &format!("{SESSIONS}{path}"), &[], "").await
}

async fn put(gateway: &Gateway, file: &str, bytes: impl Into<bytes::Bytes>) -> Answer {
    gateway.send(Method::PUT, &format!("{SESSIONS}{file}"), &[], bytes).await
}

/// What a program in the session `s` comes to.
async fn run(gateway: &Gateway, code: &str) -> Value {
    let answer = execute(gateway, &json!({"code": code, "session": "s"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The value of its last expression.
async fn value(gateway: &Gateway, code: &str) -> String {
    let outcome = run(gateway, code).await;
    outcome["value"].as_str().unwrap_or_else(|| panic!("no value: {outcome}")).to_owned()
}

async fn paths(gateway: &Gateway) -> Vec<String> {
    let list = ask(gateway, Method::GET, "/s/files").await.json();
    let files = list["data"].as_array().expect("a list").iter();
    files.map(|file| file["path"].as_str().expect("a path").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_elsewhere_are_refused_and_nothing_begins() {
    let gateway = with_sessions().start().await;
    let long = "x".repeat(256);
    for path in [
        "..",
        "../a",
        "a/../../b",
        "%2e%2e/a",
        "%2E%2E%2Fetc%2Fpasswd",
        "a/%2e%2e/b",
        "./a",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "a//b",
        "a/",
        "a%00b",
        "%ff",
        &long,
    ] {
        let file = format!("/s/files/{path}");
        let error = put(&gateway, &file, "x").await.refused(400);
        assert_eq!(error["param"], "path", "{path}: {error}");
        for method in [Method::GET, Method::DELETE] {
            // In a session that is not there, a path that could be is missing like any other.
            let status = ask(&gateway, method, &file).await.status;
            assert!(status == 400 || (path == long && status == 404), "{path}: {status}");
        }
    }
    for name in ["a%2Fb", "a%20b", "%00", &"x".repeat(129)] {
        assert_eq!(put(&gateway, &format!("/{name}/files/a"), "x").await.refused(400)["param"], "session", "{name}");
    }
    put(&gateway, "/s/files/", "x").await.refused(404);
    put(&gateway, "/s/files", "x").await.refused(405);
    assert_eq!(ask(&gateway, Method::GET, "").await.json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_sessions_is_told_so_by_every_path() {
    let gateway = start().await;
    for (method, path) in [
        (Method::GET, ""),
        (Method::DELETE, "/s"),
        (Method::GET, "/s/files"),
        (Method::GET, "/s/files/a"),
        (Method::PUT, "/s/files/a"),
        (Method::DELETE, "/s/files/a"),
    ] {
        let error = ask(&gateway, method, path).await.refused(403);
        assert!(error["message"].as_str().expect("text").contains("policy `default` has no sessions"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_missed() {
    let gateway = with_sessions().start().await;
    let missing = async |method: Method, path: &str| {
        assert_eq!(ask(&gateway, method, path).await.refused(404)["code"], "not_found", "{path}");
    };
    for (method, path) in
        [(Method::DELETE, "/s"), (Method::GET, "/s/files"), (Method::GET, "/s/files/a"), (Method::DELETE, "/s/files/a")]
    {
        missing(method, path).await;
    }
    assert_eq!(put(&gateway, "/s/files/folder/a", "x").await.status, 201);
    missing(Method::GET, "/s/files/b").await;
    missing(Method::DELETE, "/s/files/folder/b").await;
    for (method, path) in
        [(Method::GET, "/s/files/folder"), (Method::PUT, "/s/files/folder"), (Method::PUT, "/s/files/folder/a/b")]
    {
        assert_eq!(ask(&gateway, method, path).await.refused(409)["code"], "conflict", "{path}");
    }
    assert_eq!(paths(&gateway).await, ["folder/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_have_sessions_of_their_own() {
    let caller = |name: &str| {
        let hash = KeyHash::of(&format!("lg-{name}")).hex();
        format!("[[callers]]\nname = '{name}'\nkey_sha256 = '{hash}'\n")
    };
    let gateway = with_sessions().file(&(caller("a") + &caller("b"))).start().await;
    let send = async |key: &str, method: Method, path: &str| {
        let headers = [("authorization", key)];
        gateway.send(method, &format!("{SESSIONS}{path}"), &headers, "x").await
    };
    let (one, other) = ("Bearer lg-a", "Bearer lg-b");
    for path in ["", "/s/files"] {
        send("", Method::GET, path).await.refused(401);
    }
    assert_eq!(send(one, Method::PUT, "/s/files/a").await.status, 201);
    assert_eq!(send(other, Method::GET, "").await.json()["data"], json!([]));
    for (method, path) in
        [(Method::GET, "/s/files"), (Method::GET, "/s/files/a"), (Method::DELETE, "/s/files/a"), (Method::DELETE, "/s")]
    {
        send(other, method, path).await.refused(404);
    }
    // The same name is another session.
    assert_eq!(send(other, Method::PUT, "/s/files/b").await.status, 201);
    assert_eq!(send(one, Method::GET, "/s/files/b").await.status, 404);
    assert_eq!(send(one, Method::GET, "/s/files/a").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_the_bounds_of_the_policy_and_of_bodies() {
    let rules = "sessions.enabled = true\nlimits.files = 3\nlimits.file_mib = 2\nsessions.mib = 2";
    let gateway = Setup::default().rules(rules).flag("body-bytes-max", 3 << 20).start().await;
    let no_space = async |file: &str, bytes: Vec<u8>| {
        assert_eq!(put(&gateway, file, bytes).await.refused(413)["code"], "no_space", "{file}");
    };
    no_space("/s/files/large", vec![0; (2 << 20) + 1]).await;
    assert_eq!(put(&gateway, "/s/files/large", vec![0; (3 << 20) + 1]).await.refused(413)["code"], json!(null));
    assert_eq!(put(&gateway, "/s/files/folder/large", vec![0; 2 << 20]).await.status, 201);
    no_space("/s/files/b", vec![0]).await;
    assert_eq!(put(&gateway, "/s/files/folder/large", vec![0; 10]).await.status, 204, "it makes room");
    assert_eq!(put(&gateway, "/s/files/c", "c").await.status, 201);
    // Two files and a folder. What was refused has left no folder either.
    no_space("/s/files/d/e", vec![0]).await;
    assert_eq!(paths(&gateway).await, ["c", "folder/large"]);

    // With what else the session takes, a file that does not compress would go beyond `sessions.mib` by a little.
    assert_eq!(run(&gateway, "kept = 7").await["status"], "completed");
    assert_eq!(paths(&gateway).await.len(), 2);
    let bytes = ask(&gateway, Method::GET, "").await.json()["data"][0]["bytes"].as_u64().expect("a size");
    let random = (0_u32..).flat_map(|number| Sha256::digest(number.to_le_bytes()));
    let room = (2 << 20) - usize::try_from(bytes).expect("a size");
    no_space("/s/files/c", random.take(room + 1).collect()).await;
    assert_eq!(value(&gateway, "kept").await, "7", "nothing was lost over it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_use_is_waited_for_and_then_refused() {
    let gateway = with_sessions().flag("wait-ms", 200).start().await;
    let body = json!({"code": "print(1, flush=True)\nwhile True: pass", "stream": true, "session": "s"});
    let mut running = gateway.begin_at(PATH, &body).await;
    running.until("a program that runs", |body| !events(body).is_empty()).await;
    for (method, path) in [(Method::GET, "/s/files"), (Method::PUT, "/s/files/a"), (Method::DELETE, "/s")] {
        let answer = ask(&gateway, method, path).await;
        assert_eq!(answer.refused(503)["code"], "no_interpreter");
        assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("1", "true"));
    }
    assert_eq!(put(&gateway, "/other/files/a", "x").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_both_ways_in_processes_and_on_threads() {
    for isolation in ["process", "thread"] {
        let gateway = with_sessions().flag("isolation", isolation).start().await;
        // The session begins with it.
        let table = "name,count\nfoo,3\nbär,39\n";
        assert_eq!(put(&gateway, "/s/files/data/in.csv", table).await.status, 201);
        let code = "import csv\nwith open('/workspace/data/in.csv', encoding='utf-8') as file:\n    \
                    rows = list(csv.DictReader(file))\nsum(int(row['count']) for row in rows)";
        assert_eq!(value(&gateway, code).await, "42", "{isolation}");
        let code = "import sqlite3\nwith sqlite3.connect('/workspace/out.db') as db:\n    \
                    db.execute('create table t (name, count)')\n    \
                    db.executemany('insert into t values (:name, :count)', rows)\ndb.close()\n\
                    import hashlib\nhashlib.sha256(open('/workspace/out.db', 'rb').read()).hexdigest()";
        let digest = value(&gateway, code).await;
        let database = ask(&gateway, Method::GET, "/s/files/out.db").await;
        assert_eq!((database.status, database.header("content-type")), (200, "application/octet-stream"));
        assert_eq!(
            (database.header("x-content-type-options"), database.header("content-disposition")),
            ("nosniff", "attachment")
        );
        assert!(database.body.starts_with(b"SQLite format 3\0"), "{database:?}");
        assert_eq!(digest, format!("'{:x}'", Sha256::digest(&database.body)));
        // Back under another name, between two programs: names are still there.
        assert_eq!(put(&gateway, "/s/files/copy.db", database.body.clone()).await.status, 201);
        let code = "db = sqlite3.connect('/workspace/copy.db')\nfound = db.execute('select name from t').fetchall()\n\
                    db.close()\n(len(rows), found)";
        assert_eq!(value(&gateway, code).await, "(2, [('foo',), ('bär',)])");
        assert_eq!(paths(&gateway).await, ["copy.db", "data/in.csv", "out.db"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_replaced_and_removed_between_programs() {
    let gateway = with_sessions().start().await;
    value(&gateway, "import os\nos.makedirs('/workspace/empty')\nopen('/workspace/a b', 'w').write('xyz')").await;
    let list = ask(&gateway, Method::GET, "/s/files").await;
    assert_eq!(list.header("x-ratelimit-limit-requests"), "1024");
    let data = &list.json()["data"];
    assert_eq!((&data[0]["path"], &data[0]["bytes"], &data[1]["path"]), (&json!("a b"), &json!(3), &json!("empty/")));
    // Some time in this century.
    assert!(data[0]["modified"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{data}");
    assert_eq!(ask(&gateway, Method::GET, "/s/files/a%20b").await.body, "xyz");
    assert_eq!(put(&gateway, "/s/files/a%20b", "").await.status, 204);
    assert_eq!(put(&gateway, "/s/files/deep/er/c", "c").await.status, 201);
    assert_eq!(value(&gateway, "open('/workspace/a b').read() + open('/workspace/deep/er/c').read()").await, "'c'");
    assert_eq!(ask(&gateway, Method::DELETE, "/s/files/deep").await.status, 204);
    assert_eq!(ask(&gateway, Method::DELETE, "/s/files/a%20b").await.status, 204);
    assert_eq!(value(&gateway, "os.listdir('/workspace')").await, "['empty']");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_listed_until_it_is_ended_and_then_its_names_are_gone() {
    let gateway = with_sessions().start().await;
    assert_eq!(run(&gateway, "n = 41").await["status"], "completed");
    assert_eq!(value(&gateway, "n + 1").await, "42");
    assert!(paths(&gateway).await.is_empty());
    let list = ask(&gateway, Method::GET, "").await.json();
    let [session] = &list["data"].as_array().expect("a list")[..] else { panic!("{list}") };
    assert_eq!((&session["name"], session["idle_seconds"].is_u64()), (&json!("s"), true), "{session}");
    assert!(session["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{session}");
    let ended = ask(&gateway, Method::DELETE, "/s").await;
    assert_eq!((ended.status, ended.body.len()), (204, 0));
    ask(&gateway, Method::DELETE, "/s").await.refused(404);
    assert_eq!(ask(&gateway, Method::GET, "").await.json()["data"], json!([]));
    let error = run(&gateway, "n").await["error"].to_string();
    assert!(error.contains("NameError"), "{error}");
    let metrics = String::from_utf8_lossy(&gateway.get("/metrics").await.body).into_owned();
    for line in [
        "loopgate_http_requests_total{route=\"/v1/sandbox/sessions\",status=\"200\"} 2",
        "loopgate_http_requests_total{route=\"/v1/sandbox/sessions/{id}\",status=\"204\"} 1",
        "loopgate_http_requests_total{route=\"/v1/sandbox/sessions/{id}/files\",status=\"200\"} 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_at_once_after_its_program_does_not_come_back() {
    let gateway = with_sessions().start().await;
    for _ in 0..5 {
        assert_eq!(run(&gateway, "n = 1").await["status"], "completed");
        assert_eq!(ask(&gateway, Method::DELETE, "/s").await.status, 204);
        assert!(run(&gateway, "n").await["error"].to_string().contains("NameError"));
        assert_eq!(ask(&gateway, Method::DELETE, "/s").await.status, 204);
    }
}

/// The next message of a conversation in the session `s`, and what its program came to.
async fn turn(gateway: &Gateway, messages: &mut Vec<Value>, program: &str) -> String {
    messages.push(json!({"role": "user", "content": format!("Please run this:\n```python\n{program}\n```")}));
    let mut body = question("", false);
    body["messages"] = json!(messages);
    let headers = [("x-loopgate-session", "s")];
    let answer = gateway.send(Method::POST, "/v1/chat/completions", &headers, body.to_string()).await;
    let message = answer.json()["choices"][0]["message"].clone();
    messages.push(json!({"role": "assistant", "content": message["content"]}));
    message["executed_tools"][0]["output"].as_str().unwrap_or_else(|| panic!("nothing ran: {answer:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_share_names_and_one_that_is_made_again_starts_from_before_it() {
    let gateway = with_sessions().start().await;
    let count = "n = globals().get('n', 0) + 1\nopen('/workspace/log', 'a').write(str(n))\nprint('n is', n)";
    let mut messages = Vec::new();
    let first = turn(&gateway, &mut messages, count).await;
    assert!(first.contains("n is 1"), "{first}");
    let after_first = messages.clone();
    let second = turn(&gateway, &mut messages, count).await;
    assert!(second.contains("n is 2"), "{second}");
    assert_eq!(ask(&gateway, Method::GET, "/s/files/log").await.body, "12");
    // Another second turn.
    let other = turn(&gateway, &mut after_first.clone(), &format!("{count}\nprint('again')")).await;
    assert!(other.contains("n is 2"), "{other}");
    // The first one again.
    let again = turn(&gateway, &mut Vec::new(), count).await;
    assert!(again.contains("n is 1"), "{again}");
    assert_eq!(ask(&gateway, Method::GET, "/s/files/log").await.body, "1", "files are those of the latest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_into_what_the_conversation_has_come_to_last() {
    let gateway = with_sessions().start().await;
    let mut messages = Vec::new();
    let read = "import os\nprint(sorted(os.listdir('/workspace')))";
    assert_eq!(put(&gateway, "/s/files/a", "a").await.status, 201);
    assert!(turn(&gateway, &mut messages, read).await.contains("['a']"));
    assert_eq!(put(&gateway, "/s/files/b", "b").await.status, 201);
    let next = turn(&gateway, &mut messages, &format!("{read}\n# next")).await;
    assert!(next.contains("['a', 'b']"), "{next}");
    // From before the second file.
    let again = turn(&gateway, &mut Vec::new(), read).await;
    assert!(again.contains("['a']"), "{again}");
}
