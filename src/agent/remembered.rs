//! A remembered turn and what a client shows of it, put together: the true messages with the client's own results in them.

use super::visible::{Call, Message};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// A part of a remembered turn.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece<'a> {
    /// A message as the backend had it.
    #[serde(borrow)]
    Message(&'a RawValue),
    /// The place of the client's own result for this call.
    ResultOf(String),
}

/// What a client shows of the turn.
struct Shown<'a> {
    /// Its calls, by the model's message or by their result.
    calls: HashSet<&'a str>,
    /// The client's results, by their calls.
    results: Vec<(Option<&'a str>, &'a [u8])>,
    /// How many messages these are.
    taken: usize,
}

/// The true messages for the first of `messages` and those behind it that show the same turn, and how many they replace.
/// `None` when they are not the same turn: ids may come twice, and users edit.
pub(super) fn put_back(value: &[u8], messages: &[Message], elements: &[Bytes]) -> Option<(Bytes, usize)> {
    let pieces: Vec<Piece<'_>> = serde_json::from_slice(value).ok()?;
    let (place, last) = last_of_assistant(&pieces)?;
    let mut shown = Shown::of(&last.calls, messages, elements)?;
    let last = without_calls(&last, &gone(&pieces, &shown));
    let mut whole: Vec<&[u8]> = Vec::with_capacity(pieces.len() + shown.results.len());
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Message(_) if at == place => whole.push(&last),
            Piece::Message(message) => whole.push(message.get().as_bytes()),
            Piece::ResultOf(id) => whole.extend(shown.take_result(id)),
        }
    }
    // Results for calls that nobody made are the client's affair.
    whole.extend(shown.results.iter().map(|(_, result)| *result));
    Some((whole.join(&b","[..]).into(), shown.taken))
}

// === impl Shown ===

impl<'a> Shown<'a> {
    /// What `messages` show of a message with the calls `made`: the first of them, with the results behind it, and those
    /// that follow where a client makes a message of each call. `None`: the first shows other calls.
    fn of(made: &[Call], messages: &'a [Message], elements: &'a [Bytes]) -> Option<Self> {
        let mut shown = Self { calls: HashSet::new(), results: Vec::new(), taken: 0 };
        for (message, element) in messages.iter().zip(elements) {
            if message.role == "tool" {
                shown.calls.extend(message.result_of.as_deref());
                shown.results.push((message.result_of.as_deref(), element));
            } else if shown.is_more(made, message) {
                shown.calls.extend(message.calls.iter().map(|call| &*call.id));
            } else {
                break;
            }
            shown.taken += 1;
        }
        (shown.taken > 0).then_some(shown)
    }

    /// Whether these calls were made, and are shown for the first time.
    fn is_more(&self, made: &[Call], message: &Message) -> bool {
        let is_made = |call: &Call| made.iter().any(|made| made.id == call.id && made.seen == call.seen);
        message.calls.iter().all(|call| is_made(call) && !self.calls.contains(&*call.id))
    }

    fn take_result(&mut self, id: &str) -> Option<&'a [u8]> {
        let at = self.results.iter().position(|(of, _)| *of == Some(id))?;
        Some(self.results.remove(at).1)
    }
}

/// The last message of the model's in a remembered turn, and its place.
fn last_of_assistant(pieces: &[Piece<'_>]) -> Option<(usize, Message)> {
    let messages = pieces.iter().enumerate().rev().filter_map(|(at, piece)| match piece {
        Piece::Message(message) => Some((at, Message::read(&Bytes::copy_from_slice(message.get().as_bytes())))),
        Piece::ResultOf(_) => None,
    });
    messages.into_iter().find(|(_, message)| message.role == "assistant")
}

/// The client's calls that it does not show any more. Some clients take one call of several and drop the rest, and no
/// backend takes a call without its result.
fn gone<'a>(pieces: &'a [Piece<'_>], shown: &Shown<'_>) -> Vec<&'a str> {
    let of_client = pieces.iter().filter_map(|piece| match piece {
        Piece::ResultOf(id) => Some(id.as_str()),
        Piece::Message(_) => None,
    });
    of_client.filter(|id| !shown.calls.contains(id)).collect()
}

/// The message as the backend had it, but for calls with these ids.
fn without_calls(message: &Message, gone: &[&str]) -> Bytes {
    let Some(object) = message.object.as_ref().filter(|_| !gone.is_empty()) else { return message.text.clone() };
    let calls = object.elements("tool_calls").into_iter().zip(&message.calls);
    let left: Vec<_> = calls.filter(|(_, call)| !gone.contains(&&*call.id)).map(|(element, _)| element).collect();
    let mut object = object.clone();
    object.set("tool_calls", [&b"["[..], &left.join(&b","[..]), b"]"].concat());
    object.render().concat().into()
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::{caller, memory};
    use super::super::history::{Hidden, restore};
    use super::super::visible::Trail;
    use crate::chat::{JsonObject, RawCall};
    use crate::memory::Memory;
    use serde_json::json;

    /// What a client was shown of a message with two calls of its own beside a hidden one, and its results, in the forms
    /// that clients give them.
    struct TwoCalls {
        memory: Memory,
        calls: [serde_json::Value; 2],
    }

    impl TwoCalls {
        async fn new() -> Self {
            let memory = memory();
            let ids = ["call_0123456789abcde1", "call_0123456789abcde2"];
            let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
            let calls = json!([call(ids[0]), call("hidden"), call(ids[1])]);
            let theirs = ids.map(|id| RawCall { id: id.into(), name: "f".into(), arguments: "{}".into() });
            let mut hidden = Hidden::default();
            hidden.message(&json!({"role": "assistant", "content": "Both", "tool_calls": calls}).to_string());
            hidden.result_of(&theirs[0]);
            hidden.message(&json!({"role": "tool", "tool_call_id": "hidden", "content": "42"}).to_string());
            hidden.result_of(&theirs[1]);
            hidden.keep_as_calls(&theirs, Trail::default().seen(), &caller(), &memory).await;
            Self { memory, calls: ids.map(call) }
        }

        fn message(&self, calls: &[usize]) -> serde_json::Value {
            let calls: Vec<_> = calls.iter().map(|at| &self.calls[*at]).collect();
            json!({"role": "assistant", "content": "Both", "tool_calls": calls})
        }

        fn result(&self, at: usize) -> serde_json::Value {
            json!({"role": "tool", "tool_call_id": self.calls[at]["id"], "content": "theirs"})
        }

        /// The messages that the model gets: of each its calls, or whose result it is. How many turns were put back.
        async fn restored(&self, messages: &[serde_json::Value]) -> (Vec<String>, u32) {
            let request = json!({"messages": messages}).to_string();
            let mut body = JsonObject::parse(request.into()).expect("an object");
            let turns = restore(&mut body, &caller(), &self.memory).await.turns;
            let body: serde_json::Value = serde_json::from_slice(&body.render().concat()).expect("JSON");
            let last = |id: &serde_json::Value| id.as_str().and_then(|id| id.chars().last()).map(String::from);
            let outline = |message: &serde_json::Value| match message["tool_calls"].as_array() {
                Some(calls) => calls.iter().filter_map(|call| last(&call["id"])).collect::<Vec<_>>().join("+"),
                None => last(&message["tool_call_id"]).unwrap_or_else(|| "-".to_owned()),
            };
            (body["messages"].as_array().expect("messages").iter().map(outline).collect(), turns)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_that_its_client_split_is_put_back_once_with_all_results() {
        let two = TwoCalls::new().await;
        let whole = [two.message(&[0, 1]), two.result(0), two.result(1)];
        let split = [two.message(&[0]), two.result(0), two.message(&[1]), two.result(1)];
        let turned = [two.message(&[1]), two.result(1), two.message(&[0]), two.result(0)];
        for messages in [&whole[..], &split, &turned] {
            let (outline, turns) = two.restored(messages).await;
            assert_eq!((outline.join(" ").as_str(), turns), ("1+n+2 1 n 2", 1), "{messages:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_call_that_is_put_back_has_its_result_whatever_its_client_dropped() {
        let two = TwoCalls::new().await;
        let user = || json!({"role": "user", "content": "Go on"});
        for (messages, wanted) in [
            (vec![two.message(&[0]), two.result(0)], "1+n 1 n"),
            (vec![two.message(&[1]), two.result(1)], "n+2 n 2"),
            // The call is gone, its result is not.
            (vec![two.message(&[0]), two.result(0), two.result(1)], "1+n+2 1 n 2"),
            // Too far apart to be one message; nothing hidden comes twice.
            (vec![two.message(&[0]), two.result(0), user(), two.message(&[1]), two.result(1)], "1+n 1 n - 2 2"),
            (vec![two.message(&[0]), two.result(0), two.message(&[0]), two.result(0)], "1+n 1 n 1 1"),
        ] {
            let (outline, turns) = two.restored(&messages).await;
            assert_eq!((outline.join(" ").as_str(), turns), (wanted, 1), "{messages:?}");
        }
    }
}
