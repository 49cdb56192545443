//! The main job: a question in, code run, one answer out.

use crate::gateway::{Setup, question, start};
use loopgate::mock::{self, Version};
use serde_json::{Value, json};

const FACTORIAL: &str = "Calculate the factorial of 10 using Python";

/// Every form in which a backend can send a call.
fn backends() -> Vec<mock::Settings> {
    [Version::V0_5_7, Version::V0_5_23]
        .into_iter()
        .flat_map(|version| [true, false].map(|parser| mock::Settings { version, parser, ..mock::Settings::default() }))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn code_runs_whichever_way_the_backend_sends_calls_and_whichever_form_the_client_wants() {
    for backend in backends() {
        let what = format!("{} parser {}", backend.version, backend.parser);
        let gateway = Setup::default().backend(backend).start().await;
        for stream in [false, true] {
            let answer = gateway.ask(&question(FACTORIAL, stream)).await;
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            assert!(answer.text().contains("3628800"), "{what} stream {stream}: {}", answer.text());
        }
        assert_eq!(gateway.audit().len(), 2, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_call_shows_in_no_form() {
    let gateway = start().await;
    let mut body = question(FACTORIAL, true);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = gateway.ask(&body).await.chunks();
    let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["role"].is_string()).count();
    assert_eq!((roles, &chunks[0]["choices"][0]["delta"]["role"]), (1, &json!("assistant")));
    let finishes: Vec<_> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).filter(|finish| finish.is_string()).collect();
    assert_eq!(finishes, [&json!("stop")]);
    let with_usage: Vec<_> = chunks.iter().filter(|chunk| chunk["usage"].is_object()).collect();
    assert_eq!(with_usage, [chunks.last().expect("chunks")]);
    assert_eq!(with_usage[0]["choices"], json!([]));
    for chunk in &chunks {
        assert!(chunk["choices"][0]["delta"]["tool_calls"].is_null(), "{chunk}");
        assert_eq!(chunk["id"], chunks[0]["id"]);
    }
    let executed: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["executed_tools"]).filter(|it| it.is_array()).collect();
    assert_eq!(executed.len(), 1);
    assert_eq!(executed[0][0]["status"], "completed");
    assert_eq!(executed[0][0]["result"], "3628800");
}
