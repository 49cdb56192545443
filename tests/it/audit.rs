//! Everything that runs is written down, before anybody hears of it.

use crate::gateway::{Setup, question, start, until};
use crate::turns::results;
use crate::wires::Line;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_its_line_before_the_outcome_is_told() {
    let gateway = start().await;
    let mut line = Line::ask(&gateway, &question("What is 12 * 34?", true)).await;
    line.until("\"event\":\"executed\"").await;
    let audit = gateway.audit();
    assert_eq!(audit.len(), 1);
    for (member, value) in [
        ("caller", json!("anonymous")),
        ("tool", json!("execute_code")),
        ("code", json!("print(12 * 34)")),
        ("status", json!("completed")),
        ("output_head", json!("408\n")),
        ("output_bytes", json!(4)),
    ] {
        assert_eq!(audit[0][member], value, "{member}");
    }
    assert_eq!(audit[0]["limits"]["wall_ms"], 30_000);
    let request = gateway.backend.requests()[0].json()["rid"].as_str().expect("a rid").to_owned();
    assert!(request.starts_with(audit[0]["request_id"].as_str().expect("an id")), "{request}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_written_down_is_withheld() {
    // Every write to it fails, although it opens.
    let gateway = Setup::default().flag("audit", "/dev/full").start().await;
    let answer = gateway.ask(&question("What is 12 * 34?", false)).await;
    assert!(!answer.text().contains("408"), "{answer:?}");
    let executed = &answer.json()["choices"][0]["message"]["executed_tools"][0];
    assert_eq!((&executed["status"], &executed["stdout"]), (&json!("error"), &json!("")));
    assert!(!executed["output"].as_str().expect("text").contains("408"), "{executed}");
    assert!(results(&gateway)[0].contains("withheld"), "{:?}", results(&gateway));
    let metrics = gateway.get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("loopgate_audit_failures_total 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_client_left_is_in_the_audit_too() {
    let gateway = Setup::default().rules("limits.wall_ms = 600000").start().await;
    let mut line = Line::ask(&gateway, &question("Loop forever", true)).await;
    line.until("\"event\":\"executing\"").await;
    drop(line);
    until("a line", async || !gateway.audit().is_empty()).await;
    let line = &gateway.audit()[0];
    assert_eq!((&line["code"], &line["status"]), (&json!("while True:\n    pass"), &json!("abandoned")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_has_the_client_s_name_for_the_request_too() {
    let gateway = start().await;
    let body = question("What is 12 * 34?", false).to_string();
    for headers in [&[("x-request-id", "mine-7")][..], &[]] {
        gateway.send(http::Method::POST, "/v1/chat/completions", headers, body.clone()).await;
    }
    let audit = gateway.audit();
    assert_eq!((&audit[0]["client_request_id"], audit[1].get("client_request_id")), (&json!("mine-7"), None));
}
