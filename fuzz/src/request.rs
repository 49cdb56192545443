//! A client's body: read without trouble, and never changed beyond what is edited.

use crate::chat::JsonObject;
use crate::dialect;
use bytes::Bytes;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A message that a later round adds.
const MESSAGE: &str = r#"{"role":"tool","content":"42"}"#;

/// Reads a body, renders it with and without edits.
pub fn request(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    // What is wrong within a value is the backend's to refuse.
    let Ok(read) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(data) else { return };
    let Ok(object) = JsonObject::parse(body.clone()) else { return };
    assert!(read.iter().all(|(name, value)| object.sent(name) == Some(value.get())), "all that a parser finds");
    assert_eq!(text(&object), body, "what is not edited leaves as it came");
    check_edits(&object);
    for dialect in dialect::ALL {
        if let Ok((ask, _)) = dialect.read(body.clone(), None) {
            assert_eq!(text(&ask.body), body, "reading edits nothing");
            let mut ask = ask;
            ask.push(MESSAGE);
            let sent: Vec<&RawValue> = ask.body.read("messages").expect("messages").expect("messages");
            let rendered = text(&ask.body);
            let all: BTreeMap<String, &RawValue> = members(&rendered);
            let now: Vec<&RawValue> = serde_json::from_str(all["messages"].get()).expect("an array");
            assert_eq!(now.len(), sent.len() + 1);
            assert!(now.iter().zip(&sent).all(|(now, sent)| now.get() == sent.get()), "no message is rewritten");
            assert_eq!(now[sent.len()].get(), MESSAGE);
        }
    }
}

/// Any members, edited in any way, leave an object of the others as they were.
fn check_edits(object: &JsonObject) {
    let before = text(object);
    let before = members(&before);
    let mut edited = object.clone();
    // Every third member is taken out, every third replaced.
    for (at, name) in before.keys().enumerate() {
        match at % 3 {
            0 => edited.remove(name),
            1 => edited.set(name, "[1]"),
            _ => {}
        }
    }
    edited.set("one more", "null");
    let after = text(&edited);
    let after = members(&after);
    for (at, (name, value)) in before.iter().enumerate().filter(|(_, (name, _))| *name != "one more") {
        let wanted = [None, Some("[1]"), Some(value.get())][at % 3];
        assert_eq!(after.get(name).map(|value| value.get()), wanted, "{name:?}");
    }
    assert_eq!(after["one more"].get(), "null");
}

fn members(text: &[u8]) -> BTreeMap<String, &RawValue> {
    serde_json::from_slice(text).expect("an object")
}

fn text(object: &JsonObject) -> Vec<u8> {
    object.render().concat()
}
