//! What reaches the backend, and what comes back, is byte for byte what was sent.

use crate::gateway::{Answer, Gateway, Setup, start};
use crate::wires::Scripted;
use loopgate::chat::JsonObject;
use loopgate::mock::Arrived;

/// The messages of a client that writes JSON as no serialiser would.
const MESSAGES: &str = r#"[ {"content":"First compute 12 + 30, then multiply the result by 5" ,"role":"user","x_weight":1.0e+05,
    "big":123456789012345678901234567890, "\u00e9":"\ud83d\ude00 \u0041"} ]"#;

/// A body of odd forms around `messages`, with `members` besides.
fn odd(members: &str) -> String {
    format!(
        "{{ \"zeta\" : {{\"b\":-0.0,\"a\":[1E2,  2]}}, \"messages\":{MESSAGES}\t,\r\n{members}\"temperature\":0.70, \
         \"model\" : \"qwen3\\u002dcoder\", \"seed\":123456789012345678901234567890 , \"caf\\u00e9\":null}}\n"
    )
}

async fn post(gateway: &Gateway, body: &str) -> Answer {
    gateway.send(http::Method::POST, "/v1/chat/completions", &[], body.to_owned()).await
}

/// A member's bytes.
fn member(request: &Arrived, name: &str) -> String {
    JsonObject::parse(request.body.clone()).expect("an object").sent(name).unwrap_or("(absent)").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_which_the_gateway_cannot_act_arrives_as_it_was_sent_with_a_rid_at_its_end() {
    let gateway = start().await;
    for stream in [false, true] {
        let body = odd(&format!("\"tools\":[ ] , \"stream\": {stream} ,"));
        let answer = post(&gateway, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let request = gateway.backend.next_request().await;
        let rid = member(&request, "rid");
        let text = String::from_utf8(request.body.to_vec()).expect("UTF-8");
        assert_eq!(text.replace(&format!(",\"rid\":{rid}"), ""), body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rid_of_the_clients_own_gives_way_to_the_gateways_which_can_abort_nobody_else() {
    let gateway = start().await;
    for stream in [false, true] {
        // SGLang aborts every request whose id begins with this.
        let body = odd(&format!(r#""tools":[],"stream":{stream},"rid" : "chatcmpl-" ,"#));
        assert_eq!(post(&gateway, &body).await.status, 200);
        let request = gateway.backend.next_request().await;
        let rid = member(&request, "rid");
        assert_eq!(rid.len(), "\"chatcmpl-\"".len() + 24, "{rid}");
        let text = String::from_utf8(request.body.to_vec()).expect("UTF-8");
        assert_eq!(text.replace(&rid, "\"chatcmpl-\""), body);
    }
    post(&gateway, &odd(r#""tools":[],"n":2,"rid":"chatcmpl-","#)).await;
    assert_eq!(member(&gateway.backend.next_request().await, "rid"), "(absent)");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_member_does_not_reach_the_backend() {
    let gateway = start().await;
    let body = odd(r#""loopgate" : {"execute":"off"} , "rid":"mine","#);
    assert_eq!(post(&gateway, &body).await.status, 200);
    let sent = gateway.backend.next_request().await.body;
    let text = std::str::from_utf8(&sent).expect("UTF-8");
    assert!(!text.contains("loopgate"), "{text}");
    assert!(text.contains(MESSAGES) && text.contains("0.70") && text.ends_with("\"caf\\u00e9\":null}\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_acted_turn_messages_are_only_appended_to_and_other_members_stay() {
    let gateway = Setup::default().flag("alias", "qwen3-coder=Qwen/Qwen3-Coder-30B-A3B-Instruct").start().await;
    let answer = post(&gateway, &odd("")).await;
    assert!(answer.text().contains("210"), "{answer:?}");
    let requests = gateway.backend.requests();
    assert_eq!(requests.len(), 3);
    let kept = MESSAGES.trim_end_matches([' ', ']']).to_owned();
    let mut before = kept;
    for request in &requests {
        let messages = member(request, "messages");
        assert!(messages.starts_with(&before), "{messages}\n does not begin with \n{before}");
        before = messages.trim_end_matches(']').trim_end().to_owned();
        let text = std::str::from_utf8(&request.body).expect("UTF-8");
        for untouched in [
            "{ \"zeta\" : {\"b\":-0.0,\"a\":[1E2,  2]}, \"messages\":[ {",
            "\t,\r\n\"temperature\":0.70, \"model\" : ",
            ", \"seed\":123456789012345678901234567890 , \"caf\\u00e9\":null",
        ] {
            assert!(text.contains(untouched), "{text}");
        }
        assert_eq!(member(request, "model"), "\"Qwen/Qwen3-Coder-30B-A3B-Instruct\"");
        assert_eq!(member(request, "stream"), "true");
        assert!(member(request, "tools").contains("execute_code"));
    }
    // Nothing but the conversation and the request's id differs between two rounds.
    let rest = |request: &Arrived| {
        let text = String::from_utf8(request.body.to_vec()).expect("UTF-8");
        text.replace(&member(request, "messages"), "").replace(&member(request, "rid"), "")
    };
    assert_eq!(rest(&requests[0]), rest(&requests[1]));
    assert_eq!(rest(&requests[1]), rest(&requests[2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_of_the_clients_reaches_the_backend_in_its_own_bytes_beside_an_offered_one() {
    let gateway = Setup::default().rules("offer = 'always'").start().await;
    let tool = r#"{ "type":"function","function":{"strict":false, "name":"read_file","parameters":{"type":"object","properties":{"p\u0061th":{}}}}, "x":1.50 }"#;
    assert_eq!(post(&gateway, &odd(&format!("\"tools\" : [{tool}] , "))).await.status, 200);
    let tools = member(&gateway.backend.next_request().await, "tools");
    assert!(tools.starts_with(&format!("[{tool},")), "{tools}");
    assert!(tools.contains("\"execute_code\""), "{tools}");
}

/// As an SGLang server might send it, with everything that a re-serialiser would change.
const STREAM: &str = concat!(
    "data: {\"id\":\"a\" , \"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    ": a comment\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"caf\\u00e9 é\"},\"index\":0,\"x\":1.0e+05}],\"id\":\"a\"}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\",\"index\":0,\"matched_stop\":151645}],\"id\":\"a\"}\n\n",
    "data: [DONE]\n\n",
);

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_stream_comes_back_as_it_was_sent_wherever_it_is_cut() {
    for piece_bytes in [1, 7, 50, 10_000] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; x=1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            STREAM.len()
        );
        let pieces = [head.into_bytes()].into_iter().chain(STREAM.as_bytes().chunks(piece_bytes).map(<[u8]>::to_vec));
        let backend = Scripted::start(vec![pieces.collect()]).await;
        let gateway = Setup::default().flag("backend", &backend.url).start().await;
        let answer = post(&gateway, r#"{"model":"any","messages":[{"role":"user"}],"tools":[],"stream":true}"#).await;
        assert_eq!(std::str::from_utf8(&answer.body), Ok(STREAM), "pieces of {piece_bytes}");
        assert_eq!(answer.header("content-type"), "text/event-stream; x=1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_whole_answer_comes_back_as_it_was_sent() {
    let body = "{ \"choices\" : [ ] , \"x\" : 1.0e+05 ,\"\\u0061\":123456789012345678901234567890}\n";
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let backend = Scripted::start(vec![vec![head.into_bytes(), body[..9].into(), body[9..].into()]]).await;
    let gateway = Setup::default().flag("backend", &backend.url).start().await;
    let answer = post(&gateway, r#"{"model":"any","messages":[{"role":"user"}],"tools":[]}"#).await;
    assert_eq!(std::str::from_utf8(&answer.body), Ok(body));
}
