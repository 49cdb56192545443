//! What a client shows of a conversation, as keys.
//!
//! Clients write their JSON anew for every request: other key order, other escapes, content as a string or as parts,
//! members that come and go. Two requests show the same when roles, texts, images and calls are the same by value.

use crate::chat::JsonObject;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use sha2::{Digest, Sha256};

/// A SHA-256 of something visible.
pub(super) type Seen = [u8; 32];

/// A conversation up to some message.
#[derive(Clone, Default)]
pub(super) struct Trail(Sha256);

/// One message of the client's, as far as it is looked at.
pub(super) struct Message {
    /// As it was sent. `None`: no JSON object, or one with a member twice, which is left as it is.
    pub object: Option<JsonObject>,
    pub role: String,
    pub calls: Vec<Call>,
    /// Of a result: the call's id.
    pub result_of: Option<String>,
    pub text: Bytes,
}

/// A call in a message of the model's.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub id: String,
    /// Name and arguments.
    pub seen: Seen,
}

impl Trail {
    pub fn add(&mut self, message: &Message) {
        field(&mut self.0, message.role.as_bytes());
        match &message.object {
            Some(object) => content(&mut self.0, object.sent("content")),
            None => as_it_is(&mut self.0, &message.text),
        }
        self.calls(&message.calls);
        field(&mut self.0, message.result_of.as_deref().unwrap_or_default().as_bytes());
    }

    /// The conversation until here.
    pub fn seen(&self) -> Seen {
        self.0.clone().finalize().into()
    }

    /// The conversation until here and this answer after it.
    pub fn answered(&self, text: &str) -> Seen {
        let mut all = self.clone();
        field(&mut all.0, b"assistant");
        texts(&mut all.0, text, &[]);
        all.calls(&[]);
        field(&mut all.0, b"");
        all.seen()
    }

    fn calls(&mut self, calls: &[Call]) {
        count(&mut self.0, calls.len());
        for call in calls {
            field(&mut self.0, call.id.as_bytes());
            self.0.update(call.seen);
        }
    }
}

impl Message {
    pub fn read(text: &Bytes) -> Self {
        let Ok(object) = JsonObject::parse(text.clone()) else {
            return Self { object: None, role: String::new(), calls: Vec::new(), result_of: None, text: text.clone() };
        };
        let string = |name| object.read::<String>(name).ok().flatten();
        let calls: Vec<SentCall> = object.read("tool_calls").ok().flatten().unwrap_or_default();
        Self {
            role: string("role").unwrap_or_default(),
            calls: calls.into_iter().map(SentCall::seen).collect(),
            result_of: string("tool_call_id"),
            text: text.clone(),
            object: Some(object),
        }
    }
}

#[derive(Deserialize)]
struct SentCall {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Function,
}

#[derive(Default, Deserialize)]
struct Function {
    #[serde(default)]
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl SentCall {
    fn seen(self) -> Call {
        let mut seen = Sha256::new();
        field(&mut seen, self.function.name.as_bytes());
        let arguments = match self.function.arguments {
            Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
            other => other,
        };
        // The model's history has an empty object for what is none, and so may the client's.
        let no_object = || Value::Object(serde_json::Map::new());
        value(&mut seen, &if arguments.is_object() { arguments } else { no_object() });
        Call { id: self.id.unwrap_or_default(), seen: seen.finalize().into() }
    }
}

/// With its length in front; with [`count`] in front of lists, and a letter where one of several things may follow, no two
/// conversations give the same bytes.
fn field(to: &mut Sha256, bytes: &[u8]) {
    count(to, bytes.len());
    to.update(bytes);
}

fn count(to: &mut Sha256, of: usize) {
    to.update((of as u64).to_le_bytes());
}

/// A string and a list of one text are the same. What is no text counts byte for byte.
fn content(to: &mut Sha256, sent: Option<&str>) {
    #[derive(Deserialize)]
    struct Part {
        text: String,
    }
    let sent = sent.filter(|sent| *sent != "null").unwrap_or("\"\"");
    if let Ok(text) = serde_json::from_str::<String>(sent) {
        return texts(to, &text, &[]);
    }
    let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(sent) else { return as_it_is(to, sent.as_bytes()) };
    let mut text = String::new();
    let mut others = Vec::new();
    for part in parts {
        match serde_json::from_str::<Part>(part.get()) {
            Ok(part) => text.push_str(&part.text),
            Err(_) => others.push(part.get()),
        }
    }
    texts(to, &text, &others);
}

/// The text without the white space around it, which some clients trim, and what there is besides.
fn texts(to: &mut Sha256, text: &str, others: &[&str]) {
    to.update(b"t");
    field(to, text.trim().as_bytes());
    count(to, others.len());
    for other in others {
        field(to, other.as_bytes());
    }
}

/// What is not understood.
fn as_it_is(to: &mut Sha256, bytes: &[u8]) {
    to.update(b"r");
    field(to, bytes);
}

/// A JSON value whatever its key order and its way to write numbers: JavaScript makes 1 of 1.0. Recursion is as deep
/// as the value, which `serde_json` bounds.
fn value(to: &mut Sha256, it: &Value) {
    match it {
        Value::Null => to.update(b"n"),
        Value::Bool(it) => to.update([b'b', u8::from(*it)]),
        Value::Number(number) => {
            to.update(b"d");
            field(to, digits(number).as_bytes());
        }
        Value::String(text) => {
            to.update(b"s");
            field(to, text.as_bytes());
        }
        Value::Array(items) => {
            to.update(b"a");
            count(to, items.len());
            for item in items {
                value(to, item);
            }
        }
        Value::Object(members) => {
            to.update(b"o");
            count(to, members.len());
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name.as_str());
            for (name, member) in members {
                field(to, name.as_bytes());
                value(to, member);
            }
        }
    }
}

/// An integer's own digits, whatever their number: as a float, two long ids could be the same. A float's shortest ones.
fn digits(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        // No sign before a zero, as in JavaScript.
        Some(float) => (float + 0.0).to_string(),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(messages: &[&str]) -> Seen {
        let mut trail = Trail::default();
        for message in messages {
            trail.add(&Message::read(&Bytes::copy_from_slice(message.as_bytes())));
        }
        trail.seen()
    }

    #[test]
    fn the_same_conversation_written_in_another_way_is_seen_as_the_same() {
        let plain = [
            r#"{"role":"user","content":"Hi \u00e9"}"#,
            r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"b\": 1.0, \"a\": [\"x\"]}"}}]}"#,
            r#"{"role":"tool","tool_call_id":"c1","content":"done"}"#,
        ];
        let other = [
            r#"{"content":[{"type":"text","text":"Hi é","cache_control":{"type":"ephemeral"}}],"role":"user"}"#,
            r#"{"refusal":null,"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":[\"x\"],\"b\":1}","name":"f"},"id":"c1"}],"content":"","role":"assistant"}"#,
            r#"{"role":"tool","content":[{"type":"text","text":"done\n"}],"tool_call_id":"c1","name":"f"}"#,
        ];
        assert_eq!(seen(&plain), seen(&other));
    }

    #[test]
    fn what_differs_for_a_reader_is_seen_as_different() {
        let base = r#"{"role":"user","content":"a"}"#;
        for other in [
            r#"{"role":"system","content":"a"}"#,
            r#"{"role":"user","content":"b"}"#,
            r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"x"}}]}"#,
            r#"{"role":"user","content":"a","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]}"#,
            r#"{"role":"user","content":"a","tool_call_id":"c"}"#,
            r#"["user","a"]"#,
        ] {
            assert_ne!(seen(&[base]), seen(&[other]), "{other}");
        }
        let call = |arguments: &str| {
            let function = serde_json::json!({"name": "f", "arguments": arguments});
            serde_json::json!({"role": "assistant", "tool_calls": [{"id": "c", "function": function}]}).to_string()
        };
        assert_ne!(seen(&[&call(r#"{"a":1}"#)]), seen(&[&call(r#"{"a":2}"#)]));
        // One and the same as floats.
        assert_ne!(seen(&[&call(r#"{"id":9007199254740993}"#)]), seen(&[&call(r#"{"id":9007199254740992}"#)]));
        assert_ne!(seen(&[&call(r#"{"a":"1"}"#)]), seen(&[&call(r#"{"a":1}"#)]));
        assert_ne!(seen(&[&call(r#"{"a":[1,[2]]}"#)]), seen(&[&call(r#"{"a":[[1],2]}"#)]));
        // What is no object is nothing, however it is written; a call without arguments is not one with some.
        for nothing in ["", "{\"a", "[1]", "null"] {
            assert_eq!(seen(&[&call(nothing)]), seen(&[&call("{}")]), "{nothing}");
        }
    }

    #[test]
    fn numbers_are_the_same_as_javascript_writes_them_anew() {
        let of = |text: &str| digits(&serde_json::from_str(text).expect("a number"));
        for (sent, anew) in [
            ("1.0", "1"),
            ("-0.0", "0"),
            ("1.50", "1.5"),
            ("1e2", "100"),
            ("1e20", "100000000000000000000"),
            ("1e17", "100000000000000000"),
            ("9223372036854775808.0", "9223372036854776000"),
            ("1E-7", "1e-7"),
        ] {
            assert_eq!(of(sent), of(anew), "{sent}");
        }
    }

    #[test]
    fn what_is_no_text_does_not_run_into_what_follows() {
        // A part more, or a field after it.
        let mut one = Sha256::new();
        texts(&mut one, "a", &["x"]);
        field(&mut one, b"y");
        let mut other = Sha256::new();
        texts(&mut other, "a", &["x", "y"]);
        assert_ne!(one.finalize(), other.finalize());
    }

    #[test]
    fn an_answer_that_comes_back_is_found() {
        let mut trail = Trail::default();
        trail.add(&Message::read(&Bytes::from_static(br#"{"role":"user","content":"a"}"#)));
        let told = trail.answered("The answer.\n");
        assert_eq!(
            told,
            seen(&[r#"{"role":"user","content":"a"}"#, r#"{"role":"assistant","content":"The answer."}"#])
        );
    }
}
