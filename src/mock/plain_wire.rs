//! The shapes of `/v1/completions` and of SGLang's own `/generate`: a small part of them, for benches and evals.

use super::Version;
use super::chat_wire::Envelope;
use super::steps::Ending;
use crate::chat::Finish;
use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// `/v1/completions`.
    Completion,
    /// `/generate`: the text of every event is the whole text so far.
    Generate,
}

/// The text so far.
#[derive(Debug, Default)]
pub struct Text {
    /// All of it.
    pub so_far: String,
    /// What the last step added.
    pub last: String,
    /// Tokens of all of it.
    pub tokens: u32,
    /// When the first of them was written, after the request had come.
    pub first_token: Option<Duration>,
}

impl Plain {
    /// The event after a step.
    pub fn frame(self, envelope: &Envelope, text: &Text, ending: Option<&Ending>) -> Bytes {
        let value = match self {
            Self::Completion => {
                let mut chunk = completion(envelope, &text.last, ending);
                chunk["usage"] = Value::Null;
                chunk
            }
            Self::Generate => generated(envelope, text, ending),
        };
        format!("data: {value}\n\n").into()
    }

    /// The whole answer.
    pub fn whole(self, envelope: &Envelope, text: &Text, ending: &Ending) -> String {
        match self {
            Self::Completion => {
                let mut body = completion(envelope, &text.so_far, Some(ending));
                body["usage"] = serde_json::from_str(&envelope.usage(text.tokens, 0)).unwrap_or_default();
                body["metadata"] = envelope.metadata(text.tokens);
                body.to_string()
            }
            Self::Generate => generated(envelope, text, Some(ending)).to_string(),
        }
    }
}

fn completion(envelope: &Envelope, text: &str, ending: Option<&Ending>) -> Value {
    json!({
        "id": &*envelope.id, "object": "text_completion", "created": envelope.created, "model": &*envelope.model,
        "choices": [{
            "index": 0, "text": text, "logprobs": null, "finish_reason": ending.map(|ending| ending.reason.as_str()),
            "matched_stop": ending.map(|ending| &ending.matched),
        }],
    })
}

fn generated(envelope: &Envelope, text: &Text, ending: Option<&Ending>) -> Value {
    let finish = ending.map(|ending| match ending.reason {
        Finish::Length => json!({"type": "length", "length": text.tokens}),
        reason => json!({"type": reason.as_str(), "matched": ending.matched}),
    });
    let retractions = match envelope.version {
        Version::V0_5_7 => "total_retractions",
        Version::V0_5_23 => "num_retractions",
    };
    let mut event = json!({
        "text": text.so_far, "output_ids": [],
        "meta_info": {
            "id": &*envelope.id, "finish_reason": finish, "prompt_tokens": envelope.prompt_tokens,
            "weight_version": "default", retractions: 0, "completion_tokens": text.tokens, "cached_tokens": envelope.cached_tokens,
        },
    });
    // 0.5.23 says at the end what its own clock says.
    if let (Some(first), Some(_), Version::V0_5_23) = (text.first_token, ending, envelope.version) {
        event["meta_info"]["first_token_latency"] = first.as_secs_f64().into();
    }
    event
}
