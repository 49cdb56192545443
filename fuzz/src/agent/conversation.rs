//! A turn that was remembered, and what some client makes of what it saw of it.

use super::history::{Hidden, restore};
use super::visible::Trail;
use crate::access::{Access, Caller, Settings};
use crate::at_once;
use crate::chat::{JsonObject, RawCall};
use crate::memory::Memory;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Calls of one message. Chosen: enough for every order.
const CALLS_MAX: usize = 4;
/// What a model may write as arguments.
const ARGUMENTS: [&str; 5] = ["{}", r#"{"a": 1.0}"#, "", "[1]", r#"{"a"#];

/// Puts anything back into anything, and a turn into what a client shows of it.
pub fn history(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let done = if how & 1 == 0 { anything(&mut Unstructured::new(data)) } else { turn(&mut Unstructured::new(data)) };
    // An input that is too short for what it begins.
    done.unwrap_or_default();
}

/// Whatever is remembered, and whatever a client sends: what leaves is JSON.
fn anything(any: &mut Unstructured) -> Result<()> {
    let otherwise: &[u8] = any.arbitrary()?;
    let mut memory = Memory::default();
    memory.otherwise = Some(otherwise.to_vec().into());
    let sent = any.bytes(any.len())?;
    let Ok(mut body) = JsonObject::parse(sent.to_vec().into()) else { return Ok(()) };
    at_once(restore(&mut body, &caller(), &memory));
    let whole = serde_json::from_slice::<Value>(sent).is_ok();
    let left = serde_json::from_slice::<Value>(&body.render().concat());
    assert!(!whole || left.is_ok(), "what was JSON is none any more: {left:?}");
    Ok(())
}

/// A turn of hidden rounds that ends in calls of both sides, and a client that shows its calls and results in any way.
fn turn(any: &mut Unstructured) -> Result<()> {
    let turn = Turn::of(any)?;
    let memory = Memory::default();
    turn.remember(&memory);
    let shown = turn.shown(any)?;
    let mut body = JsonObject::parse(json!({"messages": shown}).to_string().into()).expect("an object");
    let turns = at_once(restore(&mut body, &caller(), &memory)).turns;
    let left: Value = serde_json::from_slice(&body.render().concat()).expect("JSON");
    turn.check(&shown, left["messages"].as_array().expect("messages"), turns);
    Ok(())
}

fn caller() -> Caller {
    Access::new(&Settings::default()).anonymous().clone()
}

struct Turn {
    /// Rounds that the client never saw.
    rounds: usize,
    /// Of the last message: whether it is ours, and its arguments.
    calls: Vec<(bool, &'static str)>,
    text: &'static str,
}

impl Turn {
    fn of(any: &mut Unstructured) -> Result<Self> {
        let mut turn =
            Self { rounds: any.int_in_range(0..=2)?, calls: Vec::new(), text: any.choose(&["", "Both", " padded\n"])? };
        for _ in 0..any.int_in_range(1..=CALLS_MAX)? {
            turn.calls.push((any.arbitrary()?, any.choose(&ARGUMENTS)?));
        }
        // Without one the turn ends in an answer.
        turn.calls[0].0 = false;
        Ok(turn)
    }

    fn call(&self, at: usize) -> Value {
        json!({"id": id(at), "type": "function", "function": {"name": "f", "arguments": self.calls[at].1}})
    }

    fn theirs(&self) -> impl Iterator<Item = usize> {
        (0..self.calls.len()).filter(|at| !self.calls[*at].0)
    }

    fn remember(&self, memory: &Memory) {
        let mut hidden = Hidden::default();
        for round in 0..self.rounds {
            let calls =
                json!([{"id": format!("r{round}"), "type": "function", "function": {"name": "g", "arguments": "{}"}}]);
            hidden.message(&json!({"role": "assistant", "content": "", "tool_calls": calls}).to_string());
            hidden.message(&hidden_result(&format!("r{round}")).to_string());
        }
        let call = |at| {
            let mut call = self.call(at);
            call["function"]["arguments"] = super::arguments::acceptable(self.calls[at].1).into();
            call
        };
        let calls: Vec<_> = (0..self.calls.len()).map(call).collect();
        hidden.message(&json!({"role": "assistant", "content": self.text, "tool_calls": calls}).to_string());
        let mut theirs = Vec::new();
        for (at, (ours, arguments)) in self.calls.iter().enumerate() {
            let call = RawCall { id: id(at), name: "f".to_owned(), arguments: (*arguments).to_owned() };
            if *ours {
                hidden.message(&hidden_result(&call.id).to_string());
            } else {
                hidden.result_of(&call);
                theirs.push(call);
            }
        }
        at_once(hidden.keep_as_calls(&theirs, Trail::default().seen(), &caller(), memory));
    }

    /// Messages in any order, some of them several times.
    fn shown(&self, any: &mut Unstructured) -> Result<Vec<Value>> {
        let theirs: Vec<_> = self.theirs().collect();
        let mut messages = Vec::new();
        for _ in 0..any.int_in_range(1..=12_usize)? {
            let at = *any.choose(&theirs)?;
            messages.push(match any.int_in_range(0..=5)? {
                0 => json!({"role": "assistant", "content": self.text, "tool_calls": theirs.iter().map(|at| self.call(*at)).collect::<Vec<_>>()}),
                1 => json!({"role": "assistant", "content": null, "tool_calls": [self.call(at)], "refusal": null}),
                2 => {
                    let mut call = self.call(at);
                    call["function"]["arguments"] = json!({"edited": true}).to_string().into();
                    json!({"role": "assistant", "content": self.text, "tool_calls": [call]})
                }
                3 => json!({"role": "user", "content": "Go on"}),
                _ => json!({"role": "tool", "tool_call_id": id(at), "content": format!("theirs {}", messages.len())}),
            });
        }
        Ok(messages)
    }

    fn check(&self, shown: &[Value], left: &[Value], turns: u32) {
        assert!(turns <= 1, "a turn is put back once");
        let of = |role: &str, messages: &[Value]| -> Vec<String> {
            let mut all: Vec<_> = messages
                .iter()
                .filter(|it| it["role"] == role && it["content"] != "hidden")
                .map(|it| it["content"].to_string())
                .collect();
            all.sort();
            all
        };
        for role in ["user", "tool"] {
            assert_eq!(of(role, left), of(role, shown), "what is the client's is neither lost nor made up");
        }
        let mut hidden = HashMap::new();
        for message in left.iter().filter(|it| it["content"] == "hidden") {
            *hidden.entry(message["tool_call_id"].as_str().expect("an id")).or_insert(0) += 1;
        }
        assert!(hidden.values().all(|count| *count == 1), "nothing hidden comes twice: {left:?}");
        let ours = self.calls.iter().filter(|(ours, _)| *ours).count();
        assert_eq!(hidden.len(), if turns == 0 { 0 } else { self.rounds + ours }, "{left:?}");
        for (at, message) in left.iter().enumerate() {
            let results = left[at + 1..].iter().take_while(|it| it["role"] == "tool");
            let answered: Vec<_> = results.map(|it| it["tool_call_id"].as_str().expect("an id")).collect();
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let arguments = call["function"]["arguments"].as_str().expect("text");
                assert_eq!(super::arguments::acceptable(arguments), arguments, "SGLang would refuse it: {left:?}");
                let id = call["id"].as_str().expect("an id");
                assert!(
                    !hidden.contains_key(id) || answered.contains(&id),
                    "a call of ours without its result: {left:?}"
                );
            }
        }
    }
}

/// Such as nobody else has.
fn id(at: usize) -> String {
    format!("call_0123456789abcde{at}")
}

fn hidden_result(id: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": "hidden"})
}
