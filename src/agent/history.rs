//! Hidden rounds, put back: what a turn really consisted of, kept under what its client saw of it.
//!
//! A client's next request has the visible answer only. The model would not know what it had run, and the backend's
//! prefix cache would end at the first difference. So the true messages, byte for byte as the backend had them, take the
//! visible one's place. What is not found stays as the client sent it: nothing is made up, and nothing fails.

use super::visible::{Message, Seen, Trail};
use super::{arguments, remembered};
use crate::access::Caller;
use crate::chat::{JsonObject, RawCall};
use crate::memory::{Key, Memory};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// What clients send back of an answer although it is none of the model's business.
const ECHOES: &[&str] = &["executed_tools", "loopgate", "refusal", "provider_specific_fields", "extra_content"];
/// The same within a call.
const CALL_ECHOES: &[&str] = &["index", "provider_specific_fields", "extra_content"];

/// Bytes of remembered turns that are put back into one request. Chosen, as the largest request: a small one that names a
/// large turn again and again must not become a huge one.
const RESTORED_BYTES_MAX: usize = 64 << 20;

/// A conversation of more bytes is read, and put together again, on a thread of its own. Chosen, as the front door's bound
/// on bodies.
const HERE_BYTES_MAX: usize = 1 << 20;

/// What restoring found.
#[derive(Default)]
pub(super) struct Restored {
    /// The conversation as the client sees it.
    pub trail: Trail,
    /// The conversation up to each of its messages.
    pub messages: Vec<Seen>,
    /// Messages of the client's that had hidden rounds.
    pub turns: u32,
}

/// The hidden messages of the turn that is under way.
#[derive(Default)]
pub(super) struct Hidden {
    text: String,
}

/// A request's messages, and where in them something may be hidden.
struct Conversation {
    /// As they were sent.
    elements: Vec<Bytes>,
    /// The same, read.
    messages: Vec<Message>,
    trail: Trail,
    /// The conversation up to each message.
    positions: Vec<Seen>,
    /// Under which something may be remembered behind the message at a place. For a message with several calls, the last
    /// that leads anywhere counts.
    keys: Vec<(usize, Key)>,
}

/// A change to a request's messages.
struct Edit {
    /// The place of the first message that goes.
    at: usize,
    /// How many go; at least one.
    taken: usize,
    instead: Bytes,
    /// Whether hidden rounds are put back.
    restores: bool,
}

// === impl Hidden ===

impl Hidden {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// A message (JSON text) that the client will not see as it is.
    pub fn message(&mut self, message: &str) {
        self.piece("message", message);
    }

    /// Here the client will put its own result.
    pub fn result_of(&mut self, call: &RawCall) {
        self.piece("result_of", &serde_json::Value::from(call.id.as_str()).to_string());
    }

    fn piece(&mut self, name: &str, value: &str) {
        let lead = if self.text.is_empty() { "[{\"" } else { ",{\"" };
        for part in [lead, name, "\":", value, "}"] {
            self.text.push_str(part);
        }
    }

    /// Keeps the turn under the visible answer that ended it.
    pub async fn keep_as_answer(self, seen: Seen, caller: &Caller, memory: &Memory) {
        self.keep(&[answer_key(caller, &seen)], memory).await;
    }

    /// Keeps the turn under the client's own calls that ended it. `before` is the conversation that it answers.
    pub async fn keep_as_calls(self, calls: &[RawCall], before: Seen, caller: &Caller, memory: &Memory) {
        let keys: Vec<_> = calls.iter().flat_map(|call| call_keys(caller, &before, &call.id)).collect();
        self.keep(&keys, memory).await;
    }

    async fn keep(mut self, keys: &[Key], memory: &Memory) {
        if !self.is_empty() {
            self.text.push(']');
            // The turn goes on without it; the memory has counted that and said so in the log.
            let _ = memory.remember(keys, self.text.into()).await;
        }
    }
}

fn answer_key(caller: &Caller, seen: &Seen) -> Key {
    Key::new(caller, "answer", seen)
}

/// A call is known by its place and, since clients rewrite what came before, by its id alone if nobody else has that:
/// some parsers of SGLang's count their calls (`functions.read_file:0`).
fn call_keys(caller: &Caller, before: &Seen, id: &str) -> impl Iterator<Item = Key> {
    let by_id = is_random(id).then(|| Key::new(caller, "call", id.as_bytes()));
    let in_place = Key::new(caller, "call in place", &[before, id.as_bytes()].concat());
    by_id.into_iter().chain([in_place])
}

/// Whether two calls hardly have this id both: it has 16 letters and digits in a row, digits among them, which is 64 bits of
/// a hexadecimal number.
fn is_random(id: &str) -> bool {
    let runs = id.split(|c: char| !c.is_ascii_alphanumeric());
    runs.into_iter().any(|run| run.len() >= 16 && run.bytes().any(|byte| byte.is_ascii_digit()))
}

/// Puts back what is remembered of the conversation in `body`, and takes out what clients echo.
pub(super) async fn restore(body: &mut JsonObject, caller: &Caller, memory: &Memory) -> Restored {
    let (sent, of, bytes) = (body.clone(), caller.clone(), body.sent("messages").map_or(0, str::len));
    let Some(conversation) = aside(bytes, move || Conversation::read(&sent, &of)).await else {
        return Restored::default();
    };
    let found = conversation.recall(memory).await;
    let bytes = bytes + found.values().map(Bytes::len).sum::<usize>();
    let read = aside(bytes, move || {
        let edits = conversation.edits(&found);
        (conversation, edits)
    });
    let Some((conversation, edits)) = read.await else { return Restored::default() };
    let turns = edits.iter().map(|edit| u32::from(edit.restores)).sum();
    for edit in edits {
        let last = edit.at + edit.taken - 1;
        let (first, last) = (&conversation.elements[edit.at], &conversation.elements[last]);
        body.replace_elements("messages", first, last, edit.instead);
    }
    Restored { trail: conversation.trail, messages: conversation.positions, turns }
}

/// Does work on so many bytes; on many, where nobody else waits for the thread. `None`: it panicked, which is in the log,
/// and the conversation goes on as it was sent.
async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes <= HERE_BYTES_MAX {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

// === impl Conversation ===

impl Conversation {
    fn read(body: &JsonObject, caller: &Caller) -> Self {
        let elements = body.elements("messages");
        let messages: Vec<Message> = elements.iter().map(Message::read).collect();
        let mut trail = Trail::default();
        let (mut keys, mut positions) = (Vec::new(), Vec::with_capacity(messages.len()));
        for (at, message) in messages.iter().enumerate() {
            if message.role == "assistant" && !message.calls.is_empty() {
                let before = trail.seen();
                let calls = message.calls.iter().flat_map(|call| call_keys(caller, &before, &call.id));
                keys.extend(calls.map(|key| (at, key)));
            }
            trail.add(message);
            positions.push(trail.seen());
            if message.role == "assistant" && message.calls.is_empty() {
                keys.push((at, answer_key(caller, &trail.seen())));
            }
        }
        Self { elements, messages, trail, positions, keys }
    }

    /// What is remembered behind each message, by its place.
    async fn recall(&self, memory: &Memory) -> HashMap<usize, Bytes> {
        if self.keys.is_empty() {
            return HashMap::new();
        }
        let (places, keys): (Vec<_>, Vec<_>) = self.keys.iter().copied().unzip();
        let found = memory.recall(&keys, RESTORED_BYTES_MAX).await;
        places.into_iter().zip(found).filter_map(|(at, found)| Some((at, found?))).collect()
    }

    /// What is to be changed, in the messages' order. A value is looked at once, and so put back once at most: a request
    /// that names it again and again costs no more.
    fn edits(&self, found: &HashMap<usize, Bytes>) -> Vec<Edit> {
        let mut looked_at = HashSet::new();
        let mut edits = Vec::new();
        let mut at = 0;
        while at < self.messages.len() {
            let value = found.get(&at).filter(|value| looked_at.insert(value.as_ptr()));
            let edit = value.and_then(|value| self.put_back(at, value, found)).or_else(|| self.acceptable(at));
            at += edit.as_ref().map_or(1, |edit| edit.taken);
            edits.extend(edit);
        }
        edits
    }

    fn put_back(&self, at: usize, value: &Bytes, found: &HashMap<usize, Bytes>) -> Option<Edit> {
        let shows_more = |next: &usize| {
            // The memory gives one value once, however many keys lead there.
            self.messages[*next].role == "tool" || found.get(next).is_some_and(|other| other.as_ptr() == value.as_ptr())
        };
        let is_answer = self.messages[at].calls.is_empty();
        let more = if is_answer { 0 } else { (at + 1..self.messages.len()).take_while(shows_more).count() };
        let (messages, elements) = (&self.messages[at..=at + more], &self.elements[at..=at + more]);
        let (instead, taken) = remembered::put_back(value, messages, elements)?;
        Some(Edit { at, taken, instead, restores: true })
    }

    fn acceptable(&self, at: usize) -> Option<Edit> {
        let instead = acceptable(&self.messages[at])?;
        Some(Edit { at, taken: 1, instead, restores: false })
    }
}

/// The message without what the client only echoes, and with arguments that a backend takes, if that is another one.
fn acceptable(message: &Message) -> Option<Bytes> {
    let object = message.object.as_ref().filter(|_| message.role == "assistant")?;
    let mut clean = object.clone();
    let mut any = remove(&mut clean, ECHOES);
    for call in object.elements("tool_calls") {
        if let Some(cleaned) = acceptable_call(&call) {
            clean.replace_elements("tool_calls", &call, &call, cleaned);
            any = true;
        }
    }
    any.then(|| clean.render().concat().into())
}

fn acceptable_call(call: &Bytes) -> Option<Bytes> {
    let mut object = JsonObject::parse(call.clone()).ok()?;
    let echoed = remove(&mut object, CALL_ECHOES);
    let repaired = repair(&mut object).is_some();
    (echoed || repaired).then(|| object.render().concat().into())
}

/// A client that was given a call whose arguments are no JSON object sends it back like that, and SGLang would refuse its
/// conversation from then on. `None`: there is nothing to repair.
fn repair(call: &mut JsonObject) -> Option<()> {
    let mut function = JsonObject::parse(call.value("function")?).ok()?;
    let arguments: String = function.read("arguments").ok().flatten()?;
    let acceptable = arguments::acceptable(&arguments);
    if acceptable == arguments {
        return None;
    }
    function.set("arguments", serde_json::Value::from(acceptable).to_string());
    call.set("function", Bytes::from(function.render().concat()));
    Some(())
}

fn remove(object: &mut JsonObject, names: &[&str]) -> bool {
    let there: Vec<_> = names.iter().filter(|name| object.sent(name).is_some()).collect();
    for name in &there {
        object.remove(name);
    }
    !there.is_empty()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::access::Access;
    use crate::memory::{ENTRY_BYTES_MAX, Settings, Store};
    use futures_util::FutureExt;
    use serde_json::json;
    use std::time::Duration;

    pub fn memory() -> Memory {
        let settings = Settings {
            path: Store::Ram,
            entries_max: 10,
            bytes_max: 1 << 30,
            keep: Duration::from_hours(1),
            entry_bytes_max: ENTRY_BYTES_MAX,
        };
        Memory::open(&settings, jiff::Timestamp::now).expect("a memory")
    }

    pub fn caller() -> Caller {
        Access::new(&crate::access::Settings::default()).anonymous().clone()
    }

    /// A hidden turn that ended in a call of the client's, and its visible message.
    fn turn_with_a_call() -> (Bytes, serde_json::Value) {
        let function = json!({"name": "f", "arguments": "{}"});
        let calls = json!([{"id": "c", "type": "function", "function": function}]);
        let pieces = json!([
            {"message": {"role": "tool", "tool_call_id": "h", "content": "hidden"}},
            {"message": {"role": "assistant", "content": "", "tool_calls": calls}},
            {"result_of": "c"},
        ]);
        (pieces.to_string().into(), json!({"role": "assistant", "content": "", "tool_calls": calls}))
    }

    fn conversation(messages: &serde_json::Value) -> Conversation {
        let body = JsonObject::parse(json!({"messages": messages}).to_string().into()).expect("an object");
        Conversation::read(&body, &caller())
    }

    /// Place, number of messages that go, whether something hidden comes.
    fn outline(edits: &[Edit]) -> Vec<(usize, usize, bool)> {
        edits.iter().map(|edit| (edit.at, edit.taken, edit.restores)).collect()
    }

    #[test]
    fn keys_lead_to_the_places_of_the_model_s_messages() {
        let (_, visible) = turn_with_a_call();
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "theirs"});
        let answer = json!({"role": "assistant", "content": "Done"});
        let shown = conversation(&json!([{"role": "user", "content": "Go"}, visible, result, answer]));
        let places: Vec<_> = shown.keys.iter().map(|(at, _)| *at).collect();
        assert_eq!(places, [1, 3]);
        let mut before = Trail::default();
        before.add(&Message::read(&json!({"role": "user", "content": "Go"}).to_string().into()));
        assert_eq!(Some(shown.keys[0].1), call_keys(&caller(), &before.seen(), "c").next());
        assert_eq!(shown.keys[1].1, answer_key(&caller(), &shown.trail.seen()));
    }

    #[test]
    fn a_turn_takes_the_place_of_its_message_and_results_and_echoes_go_elsewhere() {
        let (hidden, visible) = turn_with_a_call();
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "theirs"});
        let echo = json!({"role": "assistant", "content": "Done", "refusal": null});
        let shown = conversation(&json!([{"role": "user", "content": "Go"}, visible, result, echo]));
        let edits = shown.edits(&HashMap::from([(1, hidden)]));
        assert_eq!(outline(&edits), [(1, 2, true), (3, 1, false)]);
        assert!(edits[0].instead.starts_with(br#"{"role":"tool","tool_call_id":"h""#));
        assert!(edits[0].instead.ends_with(result.to_string().as_bytes()));
        assert_eq!(edits[1].instead, &br#"{"role":"assistant","content":"Done"}"#[..]);
    }

    #[test]
    fn what_was_found_but_is_another_turn_changes_nothing() {
        let (hidden, mut visible) = turn_with_a_call();
        visible["tool_calls"][0]["function"]["arguments"] = json!(r#"{"edited": true}"#);
        let shown = conversation(&json!([visible]));
        assert!(shown.edits(&HashMap::from([(0, hidden)])).is_empty());
    }

    #[test]
    fn a_request_that_names_a_large_turn_again_and_again_does_not_become_a_huge_one() {
        let (hidden, visible) = turn_with_a_call();
        let other = json!({"role": "user", "content": "Go on"});
        let shown = conversation(&json!([visible, other, visible, visible]));
        let found: HashMap<_, _> = [0, 2, 3].into_iter().map(|at| (at, hidden.clone())).collect();
        assert_eq!(outline(&shown.edits(&found)), [(0, 1, true)]);
    }

    #[test]
    fn a_large_conversation_keeps_nobody_else_from_the_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (memory, caller) = (memory(), &caller());
        let body = |bytes: usize| {
            let messages = json!([{"role": "user", "content": "x".repeat(bytes)}]);
            JsonObject::parse(json!({"messages": messages}).to_string().into()).expect("an object")
        };
        let (mut small, mut large) = (body(HERE_BYTES_MAX - 100), body(HERE_BYTES_MAX));
        runtime.block_on(async {
            // The only other thread is busy, so that nothing can be done there.
            let busy = tokio::task::spawn_blocking(move || held.recv());
            assert!(restore(&mut small, caller, &memory).now_or_never().is_some());
            let mut restoring = Box::pin(restore(&mut large, caller, &memory));
            assert!((&mut restoring).now_or_never().is_none());
            drop(release);
            assert_eq!(restoring.await.messages.len(), 1);
            assert!(busy.await.expect("its end").is_err());
        });
    }

    #[test]
    fn only_an_id_that_nobody_else_has_is_enough() {
        for id in [
            "call_6d59acd02cd158a000000001",
            "chatcmpl-tool-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "call_aB3dE5fG7hI9jK1lM3nO5pQ7",
        ] {
            assert!(is_random(id), "{id}");
        }
        for id in ["", "c", "functions.read_file:0", "call_1", "read_file_with_long_name:12", "getcurrentweathertoday"]
        {
            assert!(!is_random(id), "{id}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_with_one_counted_id_belong_to_their_own_conversations() {
        let (memory, caller) = (memory(), &caller());
        let id = "functions.f:0";
        let call = RawCall { id: id.to_owned(), name: "f".to_owned(), arguments: "{}".to_owned() };
        let calls = json!([{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        let question = |text: &str| json!({"role": "user", "content": text});
        for text in ["one", "two"] {
            let mut before = Trail::default();
            before.add(&Message::read(&question(text).to_string().into()));
            let mut hidden = Hidden::default();
            hidden.message(
                &json!({"role": "tool", "tool_call_id": "h", "content": format!("hidden {text}")}).to_string(),
            );
            hidden.message(&json!({"role": "assistant", "content": "", "tool_calls": calls}).to_string());
            hidden.result_of(&call);
            hidden.keep_as_calls(std::slice::from_ref(&call), before.seen(), caller, &memory).await;
        }
        for text in ["one", "two", "three"] {
            let visible = json!({"role": "assistant", "content": "", "tool_calls": calls});
            let request = json!({"messages": [question(text), visible]}).to_string();
            let mut body = JsonObject::parse(request.into()).expect("an object");
            let turns = restore(&mut body, caller, &memory).await.turns;
            assert_eq!(turns, u32::from(text != "three"), "{text}");
            let hidden = String::from_utf8(body.render().concat()).expect("UTF-8");
            assert_eq!(hidden.contains(&format!("hidden {text}")), text != "three", "{hidden}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_turn_with_the_longest_answer_and_much_that_was_printed_is_remembered() {
        let (memory, caller) = (memory(), &caller());
        let mut hidden = Hidden::default();
        // 8 MiB of quotes, each of which is escaped.
        hidden.message(&json!({"role": "assistant", "content": "\"".repeat(8 << 20)}).to_string());
        hidden.message(&json!({"role": "tool", "tool_call_id": "h", "content": "x".repeat(30 << 20)}).to_string());
        hidden.message(r#"{"role": "assistant", "content": "Done"}"#);
        let mut trail = Trail::default();
        let question = json!({"role": "user", "content": "Go"});
        trail.add(&Message::read(&question.to_string().into()));
        hidden.keep_as_answer(trail.answered("Done"), caller, &memory).await;
        assert_eq!((memory.entries(), memory.too_large()), (1, 0));
        let request = json!({"messages": [question, {"role": "assistant", "content": "Done"}]}).to_string();
        let mut body = JsonObject::parse(request.into()).expect("an object");
        assert_eq!(restore(&mut body, caller, &memory).await.turns, 1);
    }
}
