//! What the gateway's tests build on: the log, faults, limits, aborts.

use super::client::{Received, ask, chat, code_tool, mock, open, send};
use crate::mock::{Fault, Outcome, Running, Settings, Version, start};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;

const VERSIONS: [Version; 2] = [Version::V0_5_7, Version::V0_5_23];

async fn faulty(fault: &str, more: Value) -> Option<Received> {
    let fault: Fault = fault.parse().expect("a fault");
    let running = mock(Settings { fault: Some(fault), ..Settings::default() }).await;
    let body = ask("Write a binary search", more);
    let answer = send(&running.url(), HeaderMap::new(), "POST", "/v1/chat/completions", Some(&body)).await;
    running.wait_until(|log| log.asked().all(|request| request.outcome == Outcome::Answered)).await;
    answer
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_way_out() {
    let running = mock(Settings::default()).await;
    let error = start(Settings { listen: running.addr(), ..Settings::default() }).await.expect_err("in use");
    assert!(error.to_string().contains(&running.addr().to_string()) && error.to_string().contains("port 0"), "{error}");
}

#[test]
fn versions_are_written_as_they_are_read() {
    let error = "0.5.8".parse::<Version>().expect_err("unknown").to_string();
    assert!(error.contains("`0.5.8`") && error.contains("0.5.23"), "{error}");
    for version in VERSIONS {
        assert_eq!(version.to_string().parse(), Ok(version));
    }
}

#[tokio::test]
async fn faults_strike_a_stream_after_so_many_events() {
    let stream = json!({"stream": true});
    let died = faulty("die-after=3", stream.clone()).await.expect("a head");
    assert_eq!((died.cut, died.events().len()), (true, 3));
    let died = faulty("die-after=0", stream.clone()).await.expect("a head");
    assert_eq!((died.cut, died.body.len()), (true, 0));
    let ended = faulty("end-after=3", stream.clone()).await.expect("a head");
    assert_eq!((ended.cut, ended.events().len()), (false, 3));
    let error = faulty("error-after=2", stream.clone()).await.expect("a head");
    assert_eq!((error.events().len(), error.chunks()[2]["error"]["code"].as_i64()), (4, Some(503)));
    let garbage = faulty("garbage-after=2", stream.clone()).await.expect("a head").events();
    assert!(serde_json::from_str::<Value>(&garbage[2]).is_err() && garbage.last().is_some_and(|last| last == "[DONE]"));
    let empty = faulty("empty-body", stream.clone()).await.expect("a head");
    assert_eq!((empty.status.as_u16(), empty.body.len()), (200, 0));
    assert_eq!(faulty("refuse-all", stream).await.expect("a head").status.as_u16(), 503);
}

#[tokio::test]
async fn faults_strike_whole_answers_too() {
    assert!(faulty("die-after=3", json!({})).await.is_none());
    assert_eq!(faulty("error-after=3", json!({})).await.expect("a head").status.as_u16(), 503);
    let garbage = faulty("garbage-after=3", json!({})).await.expect("a head");
    assert!(serde_json::from_slice::<Value>(&garbage.body).is_err() && !garbage.body.is_empty());
}

#[tokio::test]
async fn a_stalled_stream_waits_until_the_client_leaves_and_the_log_knows() {
    let running = mock(Settings { fault: Some(Fault::StallAfter(2)), ..Settings::default() }).await;
    let body = ask("Hello", json!({"stream": true}));
    let response =
        open(&running.url(), HeaderMap::new(), "POST", "/v1/chat/completions", Some(&body)).await.expect("a head");
    let mut events = response.into_body();
    for _ in 0..2 {
        events.frame().await.expect("an event").expect("no error");
    }
    assert_eq!(running.next_request().await.outcome, Outcome::Open);
    drop(events);
    running.wait_until(|log| log.asked().any(|request| request.outcome == Outcome::ClosedEarly)).await;
    assert_eq!(running.requests().len(), 1);
}

#[tokio::test]
async fn faults_can_be_changed_and_can_strike_only_once() {
    let running = mock(Settings::default()).await;
    running.fault_next(Fault::RefuseAll);
    assert_eq!(
        send(&running.url(), HeaderMap::new(), "GET", "/health", None).await.expect("an answer").status.as_u16(),
        200
    );
    assert_eq!(chat(&running.url(), "Hello", json!({})).await.status.as_u16(), 503);
    assert_eq!(chat(&running.url(), "Hello", json!({})).await.status.as_u16(), 200);
    running.set_fault(Some(Fault::Unhealthy));
    assert_eq!(
        send(&running.url(), HeaderMap::new(), "GET", "/health", None).await.expect("an answer").status.as_u16(),
        503
    );
    assert_eq!(chat(&running.url(), "Hello", json!({})).await.status.as_u16(), 200);
    running.set_fault(None);
    assert_eq!(
        send(&running.url(), HeaderMap::new(), "GET", "/health", None).await.expect("an answer").status.as_u16(),
        200
    );
}

#[tokio::test]
async fn a_fault_ordered_for_a_later_request_strikes_that_one_only() {
    let running = mock(Settings::default()).await;
    running.fault_at(1, Fault::RefuseAll);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        // Does not count.
        send(&running.url(), HeaderMap::new(), "GET", "/health", None).await.expect("an answer");
        statuses.push(chat(&running.url(), "Hello", json!({})).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 503, 200]);
}

#[tokio::test]
async fn a_held_request_waits_for_its_release_and_the_others_do_not() {
    for (version, stream) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        let running = mock(Settings { version, ..Settings::default() }).await;
        let (url, more) = (running.url(), json!({"stream": stream}));
        let hold = running.hold_at(0, 0);
        let waiting = tokio::spawn({
            let (url, more) = (url.clone(), more.clone());
            async move { chat(&url, "Hello", more).await }
        });
        running.next_request().await;
        chat(&url, "Hello", more.clone()).await;
        let outcomes: Vec<_> = running.requests().iter().map(|request| request.outcome).collect();
        assert_eq!(outcomes, [Outcome::Open, Outcome::Answered]);
        drop(hold);
        let answer = waiting.await.expect("an answer");
        assert!(String::from_utf8_lossy(&answer.body).contains("stop"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_stream_is_held_after_so_many_events_until_it_is_released_or_aborted() {
    for aborted in [false, true] {
        let running = mock(Settings::default()).await;
        let hold = running.hold_at(0, 2);
        let body = ask("Hello", json!({"stream": true, "rid": "mine"}));
        let url = running.url();
        let open = open(&url, HeaderMap::new(), "POST", "/v1/chat/completions", Some(&body));
        let mut events = open.await.expect("a head").into_body();
        for _ in 0..2 {
            events.frame().await.expect("an event").expect("no error");
        }
        chat(&url, "Hello", json!({"stream": true})).await;
        assert_eq!(running.requests()[0].outcome, Outcome::Open, "although the other is answered");
        if aborted {
            let body = Some(r#"{"rid":"mine"}"#);
            send(&url, HeaderMap::new(), "POST", "/abort_request", body).await.expect("an answer");
        } else {
            drop(hold);
        }
        let rest = events.collect().await.expect("a good end").to_bytes();
        let finish = if aborted { "abort" } else { "stop" };
        assert!(String::from_utf8_lossy(&rest).contains(&format!("\"finish_reason\":\"{finish}\"")), "{rest:?}");
    }
}

#[tokio::test]
async fn the_log_keeps_what_arrived_byte_for_byte() {
    let running = mock(Settings::default()).await;
    let body = "{ \"messages\" : [{\"role\":\"user\",\"content\":\"Hi\"}] ,\"odd\":1.50}";
    let headers =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-odd"), http::HeaderValue::from_static("yes"))]);
    send(&running.url(), HeaderMap::new(), "GET", "/health?x=1", None).await.expect("an answer");
    send(&running.url(), headers, "POST", "/v1/chat/completions", Some(body)).await.expect("an answer");
    let request = running.next_request().await;
    assert_eq!(
        (request.number, &request.body[..], request.path.as_str()),
        (1, body.as_bytes(), "/v1/chat/completions")
    );
    assert_eq!((request.headers["x-odd"].as_bytes(), running.log().requests().count()), (&b"yes"[..], 2));
}

#[tokio::test]
async fn stop_closes_the_port_and_another_server_can_take_it() {
    // Bound and not listening: no other test is given this port while nobody serves it.
    let kept = tokio::net::TcpSocket::new_v4().expect("a socket");
    kept.set_reuseaddr(true).expect("an option");
    kept.bind(Settings::default().listen).expect("a port");
    let listen = kept.local_addr().expect("an address");
    let running = mock(Settings { listen, fault: Some(Fault::StallAfter(1)), ..Settings::default() }).await;
    let (url, addr) = (running.url(), running.addr());
    let body = ask("Hello", json!({"stream": true}));
    let open = open(&url, HeaderMap::new(), "POST", "/v1/chat/completions", Some(&body)).await.expect("a head");
    running.stop().await;
    assert!(open.into_body().collect().await.is_err(), "the connection is closed");
    assert!(send(&url, HeaderMap::new(), "GET", "/health", None).await.is_none(), "the port is closed");
    let again = mock(Settings { listen: addr, ..Settings::default() }).await;
    assert_eq!(again.addr(), addr);
}

#[tokio::test]
async fn an_aborted_whole_answer_has_the_words_that_were_written() {
    for version in VERSIONS {
        let running = mock(Settings { version, pace: Duration::from_secs(100), ..Settings::default() }).await;
        let url = running.url();
        let (answer, ()) = tokio::join!(chat(&url, "Hello", json!({"rid": "mine"})), async {
            running.next_request().await;
            send(&url, HeaderMap::new(), "POST", "/abort_request", Some(r#"{"rid":"mine"}"#)).await.expect("an answer");
        });
        assert_eq!(
            (answer.json()["choices"][0]["finish_reason"].as_str(), answer.json()["id"].as_str()),
            (Some("abort"), Some("mine"))
        );
    }
}

#[tokio::test]
async fn a_request_is_aborted_with_all_whose_ids_begin_with_its_own_also_when_its_client_leaves() {
    for leaves in [false, true] {
        let running = mock(Settings::default()).await;
        let url = running.url();
        let _holds = [0, 1, 2].map(|request| running.hold_at(request, 2));
        let mut bodies = Vec::new();
        for rid in ["mine", "mine-2", "yours"] {
            let body = ask("Hello", json!({"stream": true, "rid": rid}));
            let open = open(&url, HeaderMap::new(), "POST", "/v1/chat/completions", Some(&body));
            bodies.push(open.await.expect("a head").into_body());
        }
        let (mine, longer) = (bodies.remove(0), bodies.remove(0));
        if leaves {
            drop(mine);
        } else {
            let body = Some(r#"{"rid":"mine"}"#);
            send(&url, HeaderMap::new(), "POST", "/abort_request", body).await.expect("an answer");
            mine.collect().await.expect("a good end");
        }
        let rest = longer.collect().await.expect("a good end").to_bytes();
        assert!(String::from_utf8_lossy(&rest).contains("\"finish_reason\":\"abort\""), "{rest:?}");
        assert_eq!(running.requests()[2].outcome, Outcome::Open, "whose id begins otherwise");
    }
}

#[tokio::test]
async fn ignore_eos_writes_exactly_the_tokens_that_were_asked_for() {
    let running = mock(Settings::default()).await;
    let more =
        json!({"stream": true, "ignore_eos": true, "max_tokens": 300, "stream_options": {"include_usage": true}});
    let answer = chat(&running.url(), "Hello", more).await;
    let usage = answer.chunks().pop().expect("a chunk")["usage"].take();
    assert_eq!((usage["completion_tokens"].as_i64(), answer.events().len()), (Some(300), 304));

    let body = json!({"text": "Hello", "sampling_params": {"max_new_tokens": 20, "ignore_eos": true}, "stream": true})
        .to_string();
    let native =
        send(&running.url(), HeaderMap::new(), "POST", "/generate", Some(&body)).await.expect("an answer").chunks();
    assert_eq!((native.len(), native[19]["meta_info"]["finish_reason"]["length"].as_i64()), (20, Some(20)));
    let told = |event: &Value| event["meta_info"]["first_token_latency"].as_f64().is_some_and(|it| it > 0.0);
    assert!(told(&native[19]) && !told(&native[18]), "the server's own clock, at the end");
    assert!(
        native.windows(2).all(|pair| pair[1]["text"].as_str() > pair[0]["text"].as_str()),
        "the text is cumulative"
    );

    // A little longer than the answer would be by itself.
    let body = json!({"text": "xx yy", "sampling_params": {"max_new_tokens": 280, "ignore_eos": true}, "stream": true})
        .to_string();
    let longer =
        send(&running.url(), HeaderMap::new(), "POST", "/generate", Some(&body)).await.expect("an answer").chunks();
    assert_eq!((longer.len(), longer[279]["meta_info"]["completion_tokens"].as_i64()), (280, Some(280)));
}

#[tokio::test]
async fn a_larger_batch_writes_more_slowly() {
    let micros = Duration::from_micros;
    let running = mock(Settings { pace: micros(100), pace_batch: micros(5_000), ..Settings::default() }).await;
    let more = || json!({"ignore_eos": true, "max_tokens": 40});
    let begun = std::time::Instant::now();
    chat(&running.url(), "Hello", more()).await;
    let alone = begun.elapsed();
    let begun = std::time::Instant::now();
    let held = running.hold_at(1, 0);
    let url = running.url();
    let other = tokio::spawn(async move { chat(&url, "Hi", more()).await });
    running.wait_until(|log| log.asked().any(|request| request.number == 1 && request.prompt_tokens > 0)).await;
    chat(&running.url(), "Hello", more()).await;
    assert!(begun.elapsed() > alone.max(micros(39 * 5_000)), "{alone:?}, {:?}", begun.elapsed());
    drop(held);
    other.await.expect("an answer");
}

#[tokio::test]
async fn the_usage_tells_of_cached_tokens_only_with_a_report() {
    for (version, cache_report) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        let settings = Settings { version, kv_tokens: Some(1000), cache_report, ..Settings::default() };
        let running = mock(settings).await;
        let first = chat(&running.url(), "Hello", json!({})).await.json();
        assert_eq!(first["usage"]["prompt_tokens_details"], Value::Null, "nothing was cached: {first}");
        let whole = chat(&running.url(), "Hello", json!({})).await.json()["usage"].take();
        let more = json!({"stream": true, "stream_options": {"include_usage": true}});
        let streamed = chat(&running.url(), "Hello", more).await.chunks().pop().expect("a chunk")["usage"].take();
        let cached = whole["prompt_tokens"].as_u64().map(|all| all - 1);
        let told = if cache_report { json!({"cached_tokens": cached}) } else { Value::Null };
        assert_eq!((&whole["prompt_tokens_details"], &streamed["prompt_tokens_details"]), (&told, &told));
        let logged: Vec<_> = running.requests().iter().map(|it| u64::from(it.cached_tokens)).collect();
        assert_eq!((logged[0], Some(logged[1]), Some(logged[2])), (0, cached, cached));
    }
}

#[tokio::test]
async fn a_prompt_takes_time_for_what_is_not_cached() {
    let prefill = Duration::from_millis(10);
    let running = mock(Settings { kv_tokens: Some(1000), prefill, ..Settings::default() }).await;
    for _ in 0..2 {
        let start = std::time::Instant::now();
        chat(&running.url(), "Hello", json!({})).await;
        let asked = running.requests().pop().expect("a request");
        let least = prefill * (asked.prompt_tokens - asked.cached_tokens);
        assert!(start.elapsed() >= least, "{:?} for {asked:?}", start.elapsed());
    }
}

#[tokio::test]
async fn prompts_are_computed_one_after_the_other_and_find_what_the_one_before_has_left() {
    let prefill = Duration::from_millis(10);
    let running = mock(Settings { kv_tokens: Some(1000), prefill, ..Settings::default() }).await;
    let url = running.url();
    tokio::join!(chat(&url, "Hello", json!({})), chat(&url, "Hello", json!({})));
    let asked = running.requests();
    let computed = asked.iter().map(|asked| asked.prompt_tokens - asked.cached_tokens).sum::<u32>();
    assert_eq!(computed, asked[0].prompt_tokens + 1, "all but the last token of the second was there: {asked:?}");
}

#[tokio::test]
async fn a_call_is_text_without_the_parser_and_the_same_call_with_it() {
    for version in VERSIONS {
        let tools = json!({"tools": [code_tool()], "stream": true});
        let off = mock(Settings { version, parser: false, ..Settings::default() }).await;
        let text = chat(&off.url(), "What is 1 + 2?", tools.clone()).await.content();
        assert_eq!(
            text,
            "<tool_call>\n<function=execute_code>\n<parameter=code>\nprint(1 + 2)\n</parameter>\n</function>\n</tool_call>"
        );
        let on = mock(Settings { version, ..Settings::default() }).await;
        let calls = chat(&on.url(), "What is 1 + 2?", tools).await.chunks();
        let pieces = calls
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str());
        assert_eq!(pieces.collect::<String>(), r#"{"code": "print(1 + 2)"}"#);
    }
}

#[tokio::test]
async fn several_arguments_are_cut_into_fragments_that_make_one_object() {
    let tool = json!({"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}});
    for version in VERSIONS {
        let running = mock(Settings { version, ..Settings::default() }).await;
        let more = json!({"tools": [tool], "stream": true});
        let chunks =
            chat(&running.url(), r#"Use the tool move with {"from": "a", "to": [1, null], "now": true}"#, more)
                .await
                .chunks();
        let pieces = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str());
        let arguments: Value = serde_json::from_str(&pieces.collect::<String>()).expect("an object");
        assert_eq!(arguments, json!({"from": "a", "to": [1, null], "now": true}));
    }
}

#[tokio::test]
async fn a_begun_answer_is_continued_where_the_request_asks_for_it() {
    let (user, begun) = (json!({"role": "user", "content": "Count aloud from 1 to 9"}), "1, 2, 3");
    let messages = json!([user, {"role": "assistant", "content": [{"type": "text", "text": begun}]}]);
    for (version, stream) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        let running = mock(Settings { version, ..Settings::default() }).await;
        let ask = async |more: Value| {
            let answer = chat(&running.url(), "", more).await;
            if stream {
                return answer.content();
            }
            answer.json()["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
        };
        let whole = ask(json!({"messages": [user], "stream": stream})).await;
        let unasked = ask(json!({"messages": messages, "stream": stream})).await;
        let rest = ask(json!({"messages": messages, "stream": stream, "continue_final_message": true})).await;
        assert_eq!((begun.to_owned() + &rest, &unasked), (whole.clone(), &whole));
        let tokens: Vec<u32> = running.requests().iter().map(|request| request.prompt_tokens).collect();
        assert!(tokens[0] < tokens[2] && tokens[2] < tokens[1], "the beginning is read, and no turn: {tokens:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_text_is_continued_in_its_middle() {
    let running = mock(Settings { parser: false, ..Settings::default() }).await;
    let asked = json!({"role": "user", "content": "What is 1 + 2?"});
    let begun = "<tool_call>\n<function=execute_code>\n<parameter=code>\nprint(1";
    let messages = json!([asked, {"role": "assistant", "content": begun}]);
    let more = json!({"messages": messages, "tools": [code_tool()], "continue_final_message": true, "stream": true});
    let rest = chat(&running.url(), "", more).await.content();
    assert_eq!(rest, " + 2)\n</parameter>\n</function>\n</tool_call>");
}

#[tokio::test]
async fn thinking_comes_apart_and_first() {
    for version in VERSIONS {
        let running = mock(Settings { version, ..Settings::default() }).await;
        let whole = chat(&running.url(), "Think first", json!({})).await.json();
        let thought = whole["choices"][0]["message"]["reasoning_content"].as_str().expect("text").to_owned();
        let streamed = chat(&running.url(), "Think first", json!({"stream": true})).await;
        let chunks = streamed.chunks();
        let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["reasoning_content"].as_str());
        assert_eq!((pieces.collect::<String>(), streamed.content().as_str()), (thought, "I have thought about it."));
    }
}

#[tokio::test]
async fn the_second_of_two_same_questions_can_have_another_answer() {
    let running = mock(Settings::default()).await;
    assert_eq!(said(&running, "Say nothing once").await, "");
    assert_ne!(said(&running, "Say nothing once").await, "");
    assert_eq!(said(&running, "Say nothing").await, "");
    assert_eq!(said(&running, "Say nothing").await, "");
}

async fn said(running: &Running, user: &str) -> String {
    chat(&running.url(), user, json!({"stream": true})).await.content()
}
