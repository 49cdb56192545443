//! One frame of a backend's stream → a [`Delta`], or the error that SGLang hides inside a 200.

use super::trouble::{self, Trouble};
use crate::chat::{CallFragment, Delta, Finish, Usage};
use serde::Deserialize;
use std::borrow::Cow;

/// Reads a frame (not `[DONE]`).
///
/// # Errors
/// When the frame is an error of the backend's, the end of a request that was aborted there, or no chunk at all.
pub(super) fn read(frame: &[u8]) -> Result<Delta, Trouble> {
    let chunk: Chunk<'_> = serde_json::from_slice(frame).map_err(|_| Trouble::garbage())?;
    if let Some(error) = chunk.error {
        return Err(trouble::in_stream(&error));
    }
    let mut delta = Delta { usage: chunk.usage, ..Delta::default() };
    // The gateway acts on requests for one answer only (`n` = 1).
    let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) else {
        return Ok(delta);
    };
    delta.finish = choice.finish_reason.as_deref().map(Finish::from_wire);
    if delta.finish == Some(Finish::Abort) {
        // Nobody reads an answer that the gateway aborts.
        return Err(Trouble::aborted());
    }
    if let Some(message) = choice.delta {
        delta.content = message.content.map_or_else(String::new, Cow::into_owned);
        delta.reasoning = message.reasoning_content.map_or_else(String::new, Cow::into_owned);
        delta.calls = message.tool_calls.unwrap_or_default().into_iter().map(Fragment::owned).collect();
    }
    Ok(delta)
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Fragment<'a>>>,
}

#[derive(Deserialize)]
struct Fragment<'a> {
    #[serde(default)]
    index: Option<i64>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

impl Fragment<'_> {
    fn owned(self) -> CallFragment {
        let function = self.function.unwrap_or_default();
        CallFragment {
            index: self.index.unwrap_or(-1),
            id: self.id.map(Cow::into_owned),
            name: function.name.map(Cow::into_owned),
            arguments: function.arguments.map_or_else(String::new, Cow::into_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_members_mean_the_same() {
        let null = br#"{"choices":[{"index":0,"delta":{"role":null,"content":null,"tool_calls":null},"finish_reason":null}],"usage":null}"#;
        let absent = br#"{"choices":[{"delta":{}}]}"#;
        assert_eq!(read(null).expect("a chunk"), Delta::default());
        assert_eq!(read(absent).expect("a chunk"), Delta::default());
    }

    #[test]
    fn garbage_and_hidden_errors_are_no_chunks() {
        assert!(read(b"oops").is_err());
        assert!(read(br#"{"error":{"message":"The request queue is full.","code":503}}"#).is_err());
    }

    #[test]
    fn the_end_of_an_aborted_request_is_no_end_of_an_answer() {
        let aborted = br#"{"choices":[{"delta":{"content":"ab"},"finish_reason":"abort"}]}"#;
        assert_eq!(read(aborted), Err(Trouble::aborted()));
        let said = br#"{"choices":[{"delta":{"content":"abort"},"finish_reason":"stop"}]}"#;
        assert_eq!(read(said).expect("a chunk").finish, Some(Finish::Stop));
    }

    #[test]
    fn escapes_and_fragments_are_read() {
        let frame = br#"{"choices":[{"delta":{"content":"a\nb","tool_calls":[{"id":null,"index":1,"function":{"name":null,"arguments":"\"x\": 1"}}]},"finish_reason":"tool_calls"}]}"#;
        let delta = read(frame).expect("a chunk");
        assert_eq!(delta.content, "a\nb");
        assert_eq!(delta.calls, [CallFragment { index: 1, arguments: "\"x\": 1".into(), ..CallFragment::default() }]);
        assert_eq!(delta.finish, Some(Finish::ToolCalls));
    }
}
