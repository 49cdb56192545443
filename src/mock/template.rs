//! What the model reads: a conversation as Qwen3-Coder's chat template puts it into one text.
//!
//! Tokens are counted, and cached, over this text. So it matters where two conversations begin to differ, and that what
//! the model wrote reads the same when it comes back as a message: a call is rendered from the values of its arguments,
//! whichever way their JSON is spaced or escaped. The template's own instructions on tools are left out.

use super::model::Call;
use super::writing;
use serde_json::Value;

/// The text, up to where the model goes on writing.
pub fn prompt(messages: &[Value], tools: &[Value]) -> String {
    let mut text = String::new();
    let rest = match messages {
        [first, rest @ ..] if first["role"] == "system" => {
            push_system(&mut text, &text_of(&first["content"]), tools);
            rest
        }
        all => {
            push_system(&mut text, "", tools);
            all
        }
    };
    for (at, message) in rest.iter().enumerate() {
        let is_result = |message: Option<&Value>| message.is_some_and(|message| message["role"] == "tool");
        match message["role"].as_str().unwrap_or_default() {
            // Results in a row are one turn of the user's.
            "tool" => {
                let before = at.checked_sub(1).and_then(|at| rest.get(at));
                text.push_str(if is_result(before) { "" } else { "<|im_start|>user\n" });
                text.push_str(&format_result(message));
                text.push_str(if is_result(rest.get(at + 1)) { "" } else { "<|im_end|>\n" });
            }
            "assistant" if message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty()) => {
                push_calls(&mut text, message);
            }
            role => push_turn(&mut text, role, &text_of(&message["content"])),
        }
    }
    text.push_str("<|im_start|>assistant\n");
    text
}

/// A string, or the text parts of a list.
pub fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn push_system(text: &mut String, system: &str, tools: &[Value]) {
    if tools.is_empty() && system.is_empty() {
        return;
    }
    let mut content = system.to_owned();
    if !tools.is_empty() {
        content.push_str("\n\n# Tools\n");
    }
    for tool in tools {
        content.push('\n');
        content.push_str(&tool.to_string());
    }
    push_turn(text, "system", &content);
}

fn push_turn(text: &mut String, role: &str, content: &str) {
    for part in ["<|im_start|>", role, "\n", content, "<|im_end|>\n"] {
        text.push_str(part);
    }
}

fn push_calls(text: &mut String, message: &Value) {
    let prose = text_of(&message["content"]);
    let prose = prose.trim();
    let mut content = String::new();
    if !prose.is_empty() {
        content = format!("{prose}\n\n");
    }
    let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|call| {
        let function = &call["function"];
        let arguments = function["arguments"].as_str().unwrap_or_default();
        writing::call_text(&Call {
            name: function["name"].as_str().unwrap_or_default().to_owned(),
            arguments: serde_json::from_str(arguments).unwrap_or_default(),
        })
    });
    content.push_str(&calls.collect::<Vec<_>>().join("\n"));
    push_turn(text, "assistant", &content);
}

fn format_result(message: &Value) -> String {
    format!("<tool_response>\n{}\n</tool_response>\n", text_of(&message["content"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::model::Reply;
    use crate::mock::writing::{Limits, Writing};
    use serde_json::json;

    #[test]
    fn what_the_model_wrote_reads_the_same_as_a_message() {
        let replies = [
            Reply::text("The result is 4."),
            Reply { calls: vec![Call::code("print(\"ü\")\n\nx = 1")], ..Reply::default() },
            Reply {
                prose: "I run both.".to_owned(),
                calls: vec![Call::code("1"), Call::code("2")],
                ..Reply::default()
            },
        ];
        for reply in replies {
            let user = json!({"role": "user", "content": "Go"});
            // Re-serialised by a client: other escapes, other spacing.
            let calls: Vec<_> = (reply.calls.iter())
                .map(|call| {
                    let arguments = json!(call.arguments).to_string().replace('ü', "\\u00fc").replace(':', " : ");
                    json!({"id": "c", "type": "function", "function": {"name": call.name, "arguments": arguments}})
                })
                .collect();
            let mut message = json!({"role": "assistant", "content": reply.prose});
            if !calls.is_empty() {
                message["tool_calls"] = json!(calls);
            }
            let written = Writing::new(&reply, &Limits { tokens_max: 1000, ..Limits::default() }).text();
            let read = prompt(&[user.clone(), message], &[]);
            let before = prompt(&[user], &[]);
            assert_eq!(read, format!("{before}{written}<|im_end|>\n<|im_start|>assistant\n"));
        }
    }

    #[test]
    fn results_in_a_row_are_one_turn_and_tools_stand_in_the_systems() {
        let result = |text: &str| json!({"role": "tool", "content": [{"type": "text", "text": text}]});
        let messages = [json!({"role": "system", "content": "Be brief."}), result("a"), result("b")];
        assert_eq!(
            prompt(&messages, &[json!({"name": "x"})]),
            "<|im_start|>system\nBe brief.\n\n# Tools\n\n{\"name\":\"x\"}<|im_end|>\n<|im_start|>user\n<tool_response>\na\n\
             </tool_response>\n<tool_response>\nb\n</tool_response>\n<|im_end|>\n<|im_start|>assistant\n"
        );
    }
}
