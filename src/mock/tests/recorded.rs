//! Replays recorded requests and compares the shape of the answers: the same sequence of events, the same members in
//! the same order, the same nulls. Ids, times, counts and the model's own words differ.
//!
//! `tests/fixtures/sglang/VERSION/GROUP/NAME.txt` is what SGLang itself answered, byte for byte, on a CPU with tiny
//! weights trained for it: comment lines (what, server arguments, request, status), an empty line, the body.

use super::client::{Received, mock, send};
use crate::mock::{Running, Settings, Version};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use std::fs;

const BOTH: &[&str] = &[
    "parser/text_nonstream",
    "parser/text_stream",
    "parser/text_stream_no_usage",
    "parser/text_stream_continuous_usage",
    "parser/text_truncated_nonstream",
    "parser/text_truncated_stream",
    "parser/one_call_nonstream",
    "parser/one_call_stream",
    "parser/one_call_after_prose_nonstream",
    "parser/one_call_after_prose_stream",
    "parser/two_calls_nonstream",
    "parser/two_calls_stream",
    "parser/auto_no_parallel_stream",
    "parser/answer_after_result_nonstream",
    "parser/answer_after_result_stream",
    "parser/call_truncated_nonstream",
    "parser/call_truncated_stream",
    "parser/call_truncated_early_nonstream",
    "parser/call_truncated_early_stream",
    "parser/prose_with_tags_nonstream",
    "parser/prose_with_tags_stream",
    "parser/tool_choice_none_stream",
    "parser/two_choices_nonstream",
    "parser/two_choices_stream",
    "parser/stop_string_nonstream",
    "parser/stop_string_stream",
    "parser/unknown_model",
    "parser/unknown_member",
    "parser/max_tokens_zero",
    "parser/error_bad_json",
    "parser/error_content_type",
    "parser/error_context_nonstream",
    "parser/error_context_stream",
    "parser/error_context_with_output_nonstream",
    "parser/error_context_with_output_stream",
    "parser/error_history_arguments_not_json",
    "parser/error_history_arguments_not_object",
    "parser/error_max_tokens",
    "parser/error_method",
    "parser/error_model",
    "parser/error_named_tool_missing",
    "parser/error_no_messages",
    "parser/error_required_without_tools",
    "parser/error_role",
    "parser/error_route",
    "parser/error_temperature",
    "parser/abort_unknown_rid",
    "parser/models",
    "parser/model",
    "parser/health",
    "parser/health_generate",
    "parser/ready",
    "parser/get_load",
    "parser/loads_core",
    "no-parser/one_call_nonstream",
    "no-parser/one_call_stream",
    "no-parser/one_call_after_prose_stream",
    "no-parser/two_calls_nonstream",
    "no-parser/two_calls_stream",
    "no-parser/call_truncated_nonstream",
    "no-parser/call_truncated_stream",
    "no-parser/answer_after_result_stream",
    "limits/no_key",
    "limits/wrong_key",
    "limits/models_no_key",
    "limits/health_no_key",
];

/// What 0.5.7 answers here is cut by weights that do not know the forced format.
const ONLY_NEW: &[&str] = &[
    "parser/required_nonstream",
    "parser/required_stream",
    "parser/required_no_parallel_nonstream",
    "parser/required_no_parallel_stream",
    "parser/named_nonstream",
    "parser/named_stream",
];

/// 0.5.23 has more members here than the mock.
const ONLY_OLD: &[&str] = &["parser/model_info", "parser/get_model_info", "no-parser/model_info"];

#[tokio::test]
async fn answers_have_the_recorded_shape_of_0_5_7() {
    for name in BOTH.iter().chain(ONLY_OLD) {
        compare(Version::V0_5_7, name).await;
    }
}

#[tokio::test]
async fn answers_have_the_recorded_shape_of_0_5_23() {
    for name in BOTH.iter().chain(ONLY_NEW) {
        compare(Version::V0_5_23, name).await;
    }
}

#[tokio::test]
async fn a_full_queue_answers_as_recorded() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        for name in
            ["limits/queue_full_nonstream", "limits/queue_full_stream", "limits/loads_busy", "limits/get_load_busy"]
        {
            let running = mock(settings(version, name)).await;
            let long = [busy(&running, "long-1").await, busy(&running, "long-2").await];
            compare_with(&running, version, name).await;
            for rid in ["long-2", "long-1"] {
                abort(&running, rid).await;
            }
            for long in long {
                long.await.expect("an answer");
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_is_aborted_in_the_queue_ends_as_recorded() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        for (name, rid) in
            [("limits/abort_waiting_nonstream", "waiting-False"), ("limits/abort_waiting_stream", "waiting-True")]
        {
            let running = mock(settings(version, name)).await;
            let long = busy(&running, "long-1").await;
            tokio::join!(compare_with(&running, version, name), async {
                running.next_request().await;
                abort(&running, rid).await;
            });
            abort(&running, "long-1").await;
            long.await.expect("an answer");
            assert_eq!(running.log().aborts().collect::<Vec<_>>(), [rid, "long-1"]);
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_aborted_ends_as_recorded() {
    for version in [Version::V0_5_7, Version::V0_5_23] {
        let name = "parser/abort_stream";
        let running = mock(Settings { pace: std::time::Duration::from_millis(1), ..settings(version, name) }).await;
        tokio::join!(compare_with(&running, version, name), async {
            running.next_request().await;
            // By the time of this second answer a few tokens of the first are written.
            send(
                &running.url(),
                HeaderMap::new(),
                "POST",
                "/v1/completions",
                Some(r#"{"prompt":"Hello","max_tokens":5}"#),
            )
            .await;
            abort(&running, "abort-True").await;
        });
    }
}

#[tokio::test]
async fn an_error_in_mid_stream_is_as_recorded() {
    for name in ["timeout/error_mid_nonstream", "timeout/error_mid_stream"] {
        let fault = Some(crate::mock::Fault::ErrorAfter(5));
        let running = mock(Settings { fault, ..settings(Version::V0_5_23, name) }).await;
        compare_with(&running, Version::V0_5_23, name).await;
    }
}

/// A request that takes an hour, unless it is aborted. It is in the queue when this returns.
async fn busy(running: &Running, rid: &str) -> tokio::task::JoinHandle<Received> {
    let body = json!({"model": "x", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3000, "ignore_eos": true, "rid": rid});
    let (url, headers, body) = (running.url(), key("secret-key"), body.to_string());
    let task = tokio::spawn(async move {
        send(&url, headers, "POST", "/v1/chat/completions", Some(&body)).await.expect("an answer")
    });
    running.next_request().await;
    task
}

async fn abort(running: &Running, rid: &str) {
    let body = json!({"rid": rid}).to_string();
    send(&running.url(), key("secret-key"), "POST", "/abort_request", Some(&body)).await.expect("an answer");
}

fn key(key: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}")).expect("text"))])
}

/// The settings of the recorded server of a group.
fn settings(version: Version, name: &str) -> Settings {
    let limits = name.starts_with("limits/");
    Settings {
        version,
        parser: !name.starts_with("no-parser/"),
        models: vec!["Qwen/Qwen3-Coder-30B-A3B-Instruct".to_owned()],
        context_length: 8192,
        api_key: limits.then(|| "secret-key".to_owned()),
        running_max: limits.then_some(1),
        queue_max: limits.then_some(1),
        pace: if limits { std::time::Duration::from_secs(1) } else { std::time::Duration::ZERO },
        ..Settings::default()
    }
}

async fn compare(version: Version, name: &str) {
    compare_with(&mock(settings(version, name)).await, version, name).await;
}

async fn compare_with(running: &Running, version: Version, name: &str) {
    let trace = Trace::read(version, name);
    let answer = send(&running.url(), trace.headers.clone(), &trace.method, &trace.path, trace.body.as_deref())
        .await
        .expect("an answer");
    assert_eq!(answer.status.as_u16(), trace.status, "{version} {name}: {:?}", answer.body);
    assert_eq!(answer.content_type, trace.content_type, "{version} {name}");
    assert_eq!(shapes(&answer.body), shapes(trace.answer.as_bytes()), "{version} {name}");
}

/// A recorded exchange.
struct Trace {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Option<String>,
    status: u16,
    content_type: Option<String>,
    answer: String,
}

impl Trace {
    fn read(version: Version, name: &str) -> Self {
        let path = format!("{}/tests/fixtures/sglang/{version}/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (head, answer) = text.split_once("\n\n").expect("an empty line after the header");
        let mut lines = head.lines().filter_map(|line| line.strip_prefix("# ")).skip(2);
        let (method, path) = lines.next().and_then(|line| line.split_once(' ')).expect("a request line");
        let mut trace = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: if name.starts_with("limits/") { key("secret-key") } else { HeaderMap::new() },
            body: None,
            status: 0,
            content_type: None,
            answer: answer.to_owned(),
        };
        for line in lines {
            trace.header_line(line);
        }
        trace
    }

    fn header_line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("HTTP ") {
            let (status, kind) = rest.split_once(", content-type: ").expect("a status line");
            self.status = status.parse().expect("a status");
            self.content_type = (kind != "None").then(|| kind.to_owned());
        } else if let Some(headers) = line.strip_prefix("request headers: ") {
            let headers: Map<String, Value> = serde_json::from_str(headers).expect("headers");
            let kind = headers["content-type"].as_str().expect("text");
            self.headers.insert(header::CONTENT_TYPE, HeaderValue::try_from(kind).expect("text"));
        } else if line == "no API key sent" {
            self.headers.clear();
        } else if line == "wrong API key sent" {
            self.headers = key("wrong");
        } else if line.starts_with('{') {
            // The recorder shortened long prompts.
            let long = |bytes: usize| "word ".repeat(bytes / 5);
            let line = line.replace("word word word word word... (45000 characters)", &long(45_000));
            self.body = Some(line.replace("word word word word word... (7500 characters)", &long(7500)));
        }
    }
}

/// The shapes of all events of a stream, or of the one body. Equal ones that follow each other count once, since how many
/// tokens a text has is not ours to say.
fn shapes(body: &[u8]) -> Vec<String> {
    let received =
        Received { status: http::StatusCode::OK, content_type: None, body: body.to_vec().into(), cut: false };
    if !body.starts_with(b"data: ") {
        let text = String::from_utf8_lossy(body).into_owned();
        return vec![serde_json::from_str(&text).map_or(text, |value| shape("", &value).to_string())];
    }
    let mut shapes: Vec<(i64, String)> = received
        .events()
        .iter()
        .map(|event| match serde_json::from_str::<Value>(event) {
            Ok(value) => (value["choices"][0]["index"].as_i64().unwrap_or(i64::MAX), shape("", &value).to_string()),
            Err(_) => (i64::MAX, event.clone()),
        })
        .collect();
    // Which choice speaks first is up to the scheduler.
    shapes.sort_by_key(|(index, _)| *index);
    shapes.dedup();
    shapes.into_iter().map(|(_, shape)| shape).collect()
}

fn shape(name: &str, value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(name, value))).collect(),
        Value::Array(values) => values.iter().map(|value| shape(name, value)).collect(),
        Value::Number(_) if !["index", "code"].contains(&name) => json!(0),
        Value::String(text) => match name {
            "id" | "model_path" | "tokenizer_path" | "timestamp" | "model_type" | "architectures" => json!("…"),
            "content" if !text.is_empty() => json!("…"),
            "arguments" => json!(arguments_shape(text)),
            "message" => json!(
                text.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("0")
            ),
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

/// The code itself is the model's own.
fn arguments_shape(text: &str) -> String {
    match text.split_once("\"code\": \"") {
        Some((before, code)) => format!("{before}\"code\": \"…{}", &code[code.rfind('"').expect("the code's end")..]),
        None => text.to_owned(),
    }
}
