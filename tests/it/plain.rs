//! What the gateway does not interpret goes through the same pool, byte for byte.

use crate::gateway::{Answer, Gateway, Setup, send, start, until};
use crate::wires::NEVER;
use http::Method;
use loopgate::mock::{self, Arrived, Fault, Outcome, Running};
use serde_json::{Value, json};

/// Written as no serialiser would.
const GENERATE: &str = "{ \"text\" : \"Hello\",\n \"sampling_params\":{\"max_new_tokens\":64 , \"temperature\":0.0e0}, \"x\":123456789012345678901234567890 }\n";

async fn post(gateway: &Gateway, path: &str, body: &str) -> Answer {
    gateway.send(Method::POST, path, &[], body.to_owned()).await
}

/// The last request of this path and query.
fn last(backend: &Running, path: &str) -> Arrived {
    backend.log().requests().rfind(|request| request.path == path).unwrap_or_else(|| panic!("no {path}")).clone()
}

/// The same question to the backend itself.
async fn directly(gateway: &Gateway, path: &str, body: &str) -> Answer {
    send(&gateway.backend.url(), Method::POST, path, &[], body.to_owned()).await
}

/// Without what every answer has anew.
/// Without what two answers to one question differ in.
fn without_ids(body: &[u8]) -> String {
    let text = std::str::from_utf8(body).expect("UTF-8");
    let differs =
        |part: &str| ["id", "created", "first_token_latency"].iter().any(|it| part.contains(&format!("\"{it}\":")));
    text.split_inclusive([',', '}']).filter(|part| !differs(part)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_names_no_model_arrives_as_it_was_sent_and_its_answer_comes_back_so() {
    let gateway = start().await;
    for stream in [false, true] {
        let body = GENERATE.replace(" }\n", &format!(", \"stream\" :{stream} }}\n"));
        let answer = post(&gateway, "/generate?trace=a%20b&trace=c", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(last(&gateway.backend, "/generate?trace=a%20b&trace=c").body, body);
        let itself = directly(&gateway, "/generate", &body).await;
        assert_eq!(answer.header("content-type"), itself.header("content-type"));
        assert_eq!(without_ids(&answer.body), without_ids(&itself.body));
        assert!(!stream || answer.body.ends_with(b"data: [DONE]\n\n"));
        assert!(answer.header("x-ratelimit-limit-requests").parse::<u32>().is_ok(), "it had a place");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_completion_comes_back_as_it_was_sent() {
    let gateway = start().await;
    let body = r#"{"model":"qwen3-coder","prompt":"Hello", "max_tokens":64,"stream":true}"#;
    let answer = post(&gateway, "/v1/completions", body).await;
    assert_eq!(gateway.backend.next_request().await.body, body);
    let itself = directly(&gateway, "/v1/completions", body).await;
    assert_eq!(without_ids(&answer.body), without_ids(&itself.body));
    assert!(answer.chunks().len() > 3, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_gives_way_to_the_backends_name_and_all_else_stays() {
    let gateway = Setup::default().flag("alias", "small=qwen3-coder").start().await;
    let body = |name: &str| format!("{{\"input\" : [\"a\",\"b\"] ,\"model\":\"{name}\", \"y\":1.0e+05}}");
    for (name, known) in [("small", "qwen3-coder"), ("qwen3-coder", "qwen3-coder")] {
        let answer = post(&gateway, "/v1/embeddings", &body(name)).await;
        assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(2), "{answer:?}");
        assert_eq!(last(&gateway.backend, "/v1/embeddings").body, body(known));
    }
    let error = post(&gateway, "/v1/embeddings", &body("nobody")).await.refused(404);
    assert_eq!(error["code"], "model_not_found");
    for senseless in ["", "[]", "{\"model\":7}", "{\"model\":\"a\",\"model\":\"b\"}"] {
        post(&gateway, "/v1/embeddings", senseless).await.refused(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_page_that_the_backend_has_is_answered_by_it() {
    let gateway = start().await;
    for (path, body) in [
        ("/v1/rerank", json!({"query": "a", "documents": ["b", "aa"]})),
        ("/tokenize", json!({"model": "qwen3-coder", "prompt": "a b"})),
        ("/detokenize", json!({"tokens": [1, 2]})),
    ] {
        let answer = post(&gateway, path, &body.to_string()).await;
        assert_eq!(
            (answer.status, &answer.body),
            (200, &directly(&gateway, path, &body.to_string()).await.body),
            "{path}"
        );
    }
    for path in ["/model_info", "/get_model_info", "/server_info", "/get_server_info"] {
        let itself = send(&gateway.backend.url(), Method::GET, path, &[], "").await;
        assert_eq!(gateway.get(path).await.body, itself.body, "{path}");
    }
    for path in ["/v1/score", "/parse_function_call", "/separate_reasoning"] {
        post(&gateway, path, "{}").await.refused(404);
    }
    gateway.send(Method::GET, "/tokenize", &[], "").await.refused(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_own_key_is_not_told_with_what_it_says_of_itself() {
    let settings = mock::Settings { api_key: Some("sk-its-own".to_owned()), ..mock::Settings::default() };
    let gateway = Setup::default().backend(settings).flag("backend-api-key", "sk-its-own").start().await;
    for path in ["/server_info", "/get_server_info"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.json()["api_key"], "***", "{path}");
        assert!(answer.json()["max_total_num_tokens"].is_u64(), "all else is there: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_error_comes_in_the_envelope_of_all_errors() {
    let gateway = start().await;
    let error = post(&gateway, "/tokenize", "{\"prompt\":7}").await.refused(400);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("'prompt'")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_or_no_place_or_sends_too_much_is_refused_and_a_key_stays_here() {
    let key = loopgate::access::KeyHash::of("lg-a").hex();
    let file = format!("[[callers]]\nname = 'a'\nkey_sha256 = '{key}'\nconcurrent_max = 1\n");
    let gateway = Setup::default().file(&file).flag("body-bytes-max", 1024).start().await;
    let authorization = [("authorization", "Bearer lg-a")];
    for (method, path) in [(Method::POST, "/generate"), (Method::GET, "/server_info")] {
        gateway.send(method.clone(), path, &[], GENERATE).await.refused(401);
        assert_eq!(gateway.send(method, path, &authorization, GENERATE).await.status, 200);
    }
    let all = gateway.backend.log();
    assert!(all.requests().all(|request| !request.headers.contains_key("authorization")), "{all:?}");
    let large = " ".repeat(2048);
    gateway.send(Method::POST, "/generate", &authorization, large).await.refused(413);
    let hold = gateway.backend.hold_at(gateway.backend.requests().len() as u64, 0);
    let waiting = gateway.send(Method::POST, "/generate", &authorization, GENERATE);
    let (answer, ()) = tokio::join!(waiting, async {
        gateway.backend.wait_until(|log| log.asked().count() == 2).await;
        gateway.send(Method::GET, "/server_info", &authorization, "").await.refused(429);
        drop(hold);
    });
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_before_the_first_byte_is_not_the_last_one() {
    for fault in [Fault::DieAfter(0), Fault::RefuseAll, Fault::EmptyBody] {
        for stream in [false, true] {
            let gateway = start().await;
            gateway.backend.fault_next(fault);
            let body = json!({"text": "Hello", "stream": stream});
            let answer = post(&gateway, "/generate", &body.to_string()).await;
            assert_eq!(answer.status, 200, "{fault} {answer:?}");
            assert_eq!(gateway.backend.requests().len(), 2, "{fault}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_ends_with_an_error_event() {
    let gateway = start().await;
    for (fault, path) in [(Fault::DieAfter(2), "/generate"), (Fault::AbortAfter(2), "/v1/completions")] {
        gateway.backend.fault_next(fault);
        let body = json!({"model": "qwen3-coder", "prompt": "Hello", "text": "Hello", "stream": true});
        let answer = post(&gateway, path, &body.to_string()).await;
        let last: Value = answer.chunks().pop().expect("events");
        assert_eq!(last["error"]["code"], "backend_failed", "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_closes_the_backends_connection() {
    let gateway = start().await;
    for (path, body) in [
        ("/generate", json!({"text": "Hello", "stream": true})),
        ("/v1/completions", json!({"model": "qwen3-coder", "prompt": "Hello", "stream": true})),
    ] {
        gateway.backend.fault_next(Fault::StallAfter(2));
        let mut begun = gateway.begin_at(path, &body).await;
        begun.until("an event", |seen| seen.windows(2).any(|pair| pair == b"\n\n")).await;
        gateway.backend.next_request().await;
        drop(begun);
        let closed = gateway.backend.wait_until(|log| log.asked().all(|request| request.outcome != Outcome::Open));
        tokio::time::timeout(NEVER, closed).await.unwrap_or_else(|_| panic!("{path}: not closed"));
        until(format!("{path}: nothing runs any more"), async || gateway.is_idle().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_one_backend_has_is_asked_for_there() {
    let models = vec!["embedder".to_owned()];
    let other = mock::start(mock::Settings { models, ..mock::Settings::default() }).await.expect("a backend");
    let gateway = Setup::default().other_backend(other.url()).start().await;
    let known = async || gateway.get("/v1/models").await.json().to_string();
    until("both are known", async || known().await.contains("\"embedder\"") && known().await.contains("qwen3-coder"))
        .await;
    for _ in 0..4 {
        let body = json!({"model": "embedder", "input": "a"}).to_string();
        assert_eq!(post(&gateway, "/v1/embeddings", &body).await.status, 200);
    }
    assert_eq!(other.log().requests().filter(|request| request.path == "/v1/embeddings").count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_leaves_without_the_id_by_which_a_backend_would_abort_it_and_is_else_as_it_was() {
    let gateway = start().await;
    let posted = [
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/generate",
        "/tokenize",
        "/detokenize",
        "/parse_function_call",
        "/separate_reasoning",
    ];
    for path in posted {
        for (rid, left) in [
            (r#", "rid" : "chatcmpl-""#, ""),
            (r#", "rid":["chatcmpl-", "chatcmpl-"]"#, ""),
            (r#", "r\u0069d":"chatcmpl-""#, ""),
            (r#", "x" : {"rid": 1.0}"#, r#", "x" : {"rid": 1.0}"#),
        ] {
            let body = |rid: &str| format!("{{ \"prompt\":\"Hello\", \"text\" : \"Hello\"{rid},\n\"y\":1.0e+05}}\n");
            post(&gateway, path, &body(rid)).await;
            assert_eq!(last(&gateway.backend, path).body, body(left), "{path} {rid}");
        }
        post(&gateway, path, r#"{"rid":"a","rid":"b"}"#).await.refused(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ends_anybody_elses_answer_by_an_id_of_ones_own() {
    let gateway = start().await;
    let question = json!({"model": "qwen3-coder", "messages": [{"role": "user", "content": "Hello"}], "tools": [], "stream": true});
    let hold = gateway.backend.hold_at(0, 2);
    let mut begun = gateway.begin(&question).await;
    let event = |seen: &[u8]| seen.windows(2).any(|pair| pair == b"\n\n");
    begun.until("an event", event).await;
    for path in ["/generate", "/v1/completions"] {
        gateway.backend.fault_next(Fault::StallAfter(2));
        let hostile = json!({"text": "Hello", "prompt": "Hello", "stream": true, "rid": "chatcmpl-"});
        let mut leaving = gateway.begin_at(path, &hostile).await;
        leaving.until("an event", event).await;
        drop(leaving);
        let left =
            |log: &mock::Log| log.asked().rfind(|it| it.path == path).is_some_and(|it| it.outcome != Outcome::Open);
        gateway.backend.wait_until(left).await;
    }
    drop(hold);
    let answer = begun.rest().await;
    assert_eq!(answer.text(), "Hello! How can I help you?");
    let finishes: Vec<_> = answer.chunks().iter().map(|it| it["choices"][0]["finish_reason"].clone()).collect();
    assert!(finishes.contains(&json!("stop")), "{finishes:?}");
}
