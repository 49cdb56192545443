//! A tool that is a folder and nothing else.

use crate::gateway::{Setup, question, root};
use loopgate::mock;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_dropped_in_as_a_folder_works_without_rust() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = folder.path().join("tools");
    let code = tools.join("execute_code");
    std::fs::create_dir_all(&code).expect("a folder");
    for file in ["tool.toml", "schema.json"] {
        std::fs::copy(root().join("tools/execute_code").join(file), code.join(file)).expect("a copy");
    }
    let temperature = tools.join("temperature");
    std::fs::create_dir(&temperature).expect("a folder");
    for (name, text) in [
        ("tool.toml", "description = 'Converts a temperature'\nstate = 'none'\nprogram = 'program.py'\n"),
        (
            "schema.json",
            r#"{"type": "object", "required": ["value", "to"], "properties": {
                "value": {"type": "number"}, "digits": {"type": "integer", "minimum": 0},
                "to": {"enum": ["celsius", "fahrenheit"]}, "label": {"type": "string"}}}"#,
        ),
        ("program.py", PROGRAM),
    ] {
        std::fs::write(temperature.join(name), text).expect("a file");
    }
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).expect("a folder");
    let policy = "callers = ['*']\n[[grants]]\ntools = ['execute_code', 'temperature']\nwhy = 'the test runs them'\n";
    std::fs::write(policies.join("default.toml"), policy).expect("a policy");
    for parser in [true, false] {
        let gateway = Setup::default()
            .backend(mock::Settings { parser, ..mock::Settings::default() })
            .flag("tools-dir", tools.display())
            .flag("policy-dir", policies.display())
            .start()
            .await;
        let ask =
            r#"Use the tool temperature with {"value": 100, "digits": 1, "to": "fahrenheit", "label": "it's \"hot\""}"#;
        let answer = gateway.ask(&question(ask, false)).await;
        assert_eq!(answer.text(), "The result is it's \"hot\": 212.0 fahrenheit.", "parser {parser}: {answer:?}");
        let wrong = r#"Use the tool temperature with {"value": 1, "to": "kelvin"}"#;
        let answer = gateway.ask(&question(wrong, false)).await.json();
        let output = &answer["choices"][0]["message"]["executed_tools"][0]["output"];
        let output = output.as_str().expect("text");
        for part in ["to", "celsius", "fahrenheit", "kelvin"] {
            assert!(output.contains(part), "where, expected and got: {output}");
        }
    }
    // A grant of one tool is no leave to insist on another.
    std::fs::write(policies.join("default.toml"), policy.replace("'execute_code', ", "")).expect("a policy");
    let gateway =
        Setup::default().flag("tools-dir", tools.display()).flag("policy-dir", policies.display()).start().await;
    let mut body = question("What is 12 * 34?", false);
    (body["tools"], body["tool_choice"]) = (json!([{"type": "code_interpreter"}]), json!({"type": "code_interpreter"}));
    let error = gateway.ask(&body).await.refused(403);
    assert!(error["message"].as_str().is_some_and(|it| it.contains("no `execute_code`")), "{error}");
}

/// Reads its arguments by the name that the guest gives them.
const PROGRAM: &str = r#"
value, to = arguments["value"], arguments["to"]
assert isinstance(arguments.get("digits", 0), int)
converted = value * 9 / 5 + 32 if to == "fahrenheit" else (value - 32) * 5 / 9
print(f"{arguments.get('label', 'result')}: {converted:.{arguments.get('digits', 2)}f} {to}")
"#;
