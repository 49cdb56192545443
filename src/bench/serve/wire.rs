//! The two ways to ask a server: what is sent, and what an event of the answer says.

use super::data::{Message, Says, Turn};
use crate::client::Failure;
use crate::sse::DONE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// By the names of `bench_serving`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// `SGLang`'s own `/generate`
    Sglang,
    /// `/v1/chat/completions`
    SglangOaiChat,
}

impl Backend {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Sglang => "/generate",
            Self::SglangOaiChat => "/v1/chat/completions",
        }
    }

    /// A request. Nothing is left to chance, and the answer does not end before its length.
    pub(super) fn body(self, model: &str, before: &[Message], turn: &Turn, output_tokens: u32) -> String {
        let conversation = |more: &[Message]| before.iter().chain(more).cloned().collect::<Vec<_>>();
        match self {
            Self::Sglang => {
                let (key, prompt) = match &turn.says {
                    Says::Text(text) => ("text", json!(text)),
                    Says::Ids(ids) => ("input_ids", json!(ids)),
                    Says::Messages(more) => ("text", json!(rendered(&conversation(more)))),
                };
                let sampling = json!({"temperature": 0.0, "max_new_tokens": output_tokens, "ignore_eos": true});
                json!({key: prompt, "sampling_params": sampling, "stream": true}).to_string()
            }
            Self::SglangOaiChat => {
                let messages = match &turn.says {
                    Says::Text(text) => json!([{"role": "user", "content": text}]),
                    // Refused before anything is sent.
                    Says::Ids(_) => json!([]),
                    Says::Messages(more) => json!(conversation(more)),
                };
                json!({
                    "model": model, "messages": messages, "temperature": 0.0, "max_completion_tokens": output_tokens,
                    "ignore_eos": true, "stream": true,
                })
                .to_string()
            }
        }
    }
}

/// A conversation as Qwen's template writes it, for the endpoint that knows only texts.
fn rendered(messages: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in messages {
        text.extend(["<|im_start|>", role, "\n", content, "<|im_end|>\n"]);
    }
    text.push_str("<|im_start|>assistant\n");
    text
}

/// What has been read of an answer.
#[derive(Debug)]
pub(super) struct Reading {
    backend: Backend,
    /// Of `/generate` the JSON of the last text, which is everything so far; else the text.
    text: String,
    /// Tokens so far, as `/generate` counts them.
    tokens: u32,
    /// Events that were read.
    pub events: u32,
    /// Tokens of the answer, if the server says it.
    pub output_tokens: Option<u32>,
    /// Seconds to the first token by the server's own clock.
    pub server_ttft: Option<f64>,
    /// It came to its end.
    pub ended: bool,
}

#[derive(Deserialize)]
struct Generated<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    meta_info: Option<Meta>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Meta {
    completion_tokens: Option<u32>,
    finish_reason: Option<Finish>,
    first_token_latency: Option<f64>,
}

#[derive(Deserialize)]
struct Finish {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u32>,
}

impl Reading {
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            text: String::new(),
            tokens: 0,
            events: 0,
            output_tokens: None,
            server_ttft: None,
            ended: false,
        }
    }

    /// Reads an event: how many tokens of text it brings. A chat's chunk is taken for one.
    pub fn hear(&mut self, event: &[u8]) -> Result<u32, Failure> {
        self.events += 1;
        if event == DONE {
            self.ended = true;
            return Ok(0);
        }
        match self.backend {
            Backend::Sglang => self.hear_generated(serde_json::from_slice(event).map_err(|_| Failure::garbage(event))?),
            Backend::SglangOaiChat => {
                self.hear_chunk(serde_json::from_slice(event).map_err(|_| Failure::garbage(event))?)
            }
        }
    }

    fn hear_generated(&mut self, event: Generated<'_>) -> Result<u32, Failure> {
        if let Some(error) = event.error {
            return Err(in_stream(error));
        }
        let meta = event.meta_info.unwrap_or_default();
        self.server_ttft = meta.first_token_latency.or(self.server_ttft);
        self.output_tokens = meta.completion_tokens.or(self.output_tokens);
        if let Some(finish) = meta.finish_reason {
            self.finish(&finish.kind)?;
        }
        let Some(text) = event.text.map(RawValue::get).filter(|text| !["\"\"", "null"].contains(text)) else {
            return Ok(0);
        };
        // What a server that does not count says in one event is taken for a token, as with chats.
        let counted = meta.completion_tokens.unwrap_or(self.tokens + u32::from(self.text != text));
        self.text.clear();
        self.text.push_str(text);
        let first = u32::from(self.tokens == 0);
        let more = counted.saturating_sub(self.tokens).max(first);
        self.tokens = counted.max(1);
        Ok(more)
    }

    fn hear_chunk(&mut self, chunk: Chunk<'_>) -> Result<u32, Failure> {
        if let Some(error) = chunk.error {
            return Err(in_stream(error));
        }
        self.output_tokens = chunk.usage.and_then(|usage| usage.completion_tokens).or(self.output_tokens);
        // A chunk without choices has the usage.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(0) };
        let before = self.text.len();
        if let Some(delta) = choice.delta {
            self.text.push_str(delta.reasoning_content.as_deref().unwrap_or_default());
            self.text.push_str(delta.content.as_deref().unwrap_or_default());
        }
        if let Some(reason) = choice.finish_reason {
            self.finish(&reason)?;
        }
        Ok(u32::from(self.text.len() > before))
    }

    fn finish(&mut self, reason: &str) -> Result<(), Failure> {
        self.ended = true;
        if reason == "abort" { Err(Failure::Aborted) } else { Ok(()) }
    }

    /// The answer's text.
    pub fn into_text(self) -> String {
        match self.backend {
            Backend::Sglang => serde_json::from_str(&self.text).unwrap_or_default(),
            Backend::SglangOaiChat => self.text,
        }
    }
}

fn in_stream(error: &RawValue) -> Failure {
    let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
    let code = match &error["code"] {
        Value::Null => "without a code".to_owned(),
        Value::String(code) => code.clone(),
        code => code.to_string(),
    };
    let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
    Failure::InStream(code, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(backend: Backend, events: &[&str]) -> (Vec<Result<u32, String>>, Reading) {
        let mut reading = Reading::new(backend);
        let hear = |event: &&str| reading.hear(event.as_bytes()).map_err(|failure| failure.to_string());
        (events.iter().map(hear).collect(), reading)
    }

    #[test]
    fn errors_in_streams_are_failures() {
        for backend in [Backend::Sglang, Backend::SglangOaiChat] {
            for (event, why) in [
                (r#"{"error":{"message":"queue full","code":503}}"#, "error 503 in the stream: queue full"),
                (r#"{"error":"Unauthorized"}"#, "error without a code in the stream: \"Unauthorized\""),
                ("{\"id\":\"garb", "unreadable: {\"id\":\"garb"),
            ] {
                assert_eq!(read(backend, &[event]).0, [Err(why.to_owned())]);
            }
        }
        let aborted = r#"{"text":"a","meta_info":{"finish_reason":{"type":"abort"},"completion_tokens":1}}"#;
        assert_eq!(read(Backend::Sglang, &[aborted]).0, [Err("aborted by the server".to_owned())]);
    }

    #[test]
    fn generated_text_is_cumulative_and_counted_by_the_server() {
        let (heard, reading) = read(
            Backend::Sglang,
            &[
                r#"{"text":"","meta_info":{"finish_reason":null,"completion_tokens":1}}"#,
                r#"{"text":"a","meta_info":{"finish_reason":null,"completion_tokens":2}}"#,
                r#"{"text":"a","meta_info":{"finish_reason":null,"completion_tokens":2}}"#,
                r#"{"text":"a\nbcd","meta_info":{"finish_reason":{"type":"length","length":5},"completion_tokens":5,"first_token_latency":0.5}}"#,
                "[DONE]",
            ],
        );
        assert_eq!(heard, [Ok(0), Ok(2), Ok(0), Ok(3), Ok(0)]);
        assert_eq!((reading.output_tokens, reading.server_ttft, reading.ended), (Some(5), Some(0.5), true));
        assert_eq!(reading.into_text(), "a\nbcd");
    }

    #[test]
    fn a_server_that_does_not_count_has_not_counted_nought() {
        let (heard, reading) = read(
            Backend::Sglang,
            &[
                r#"{"text":"a","meta_info":{"finish_reason":null}}"#,
                r#"{"text":"ab"}"#,
                r#"{"text":"ab","meta_info":{"finish_reason":{"type":"length","length":2}}}"#,
            ],
        );
        assert_eq!((heard, reading.output_tokens, reading.ended), (vec![Ok(1), Ok(1), Ok(0)], None, true));
    }

    #[test]
    fn a_chat_s_chunk_is_one_token_and_its_usage_the_truth() {
        let (heard, reading) = read(
            Backend::SglangOaiChat,
            &[
                r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                r#"{"choices":[{"delta":{"reasoning_content":"h"},"finish_reason":null}]}"#,
                r#"{"choices":[{"delta":{"content":"m"},"finish_reason":null}]}"#,
                r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
                r#"{"choices":[],"usage":{"completion_tokens":9}}"#,
            ],
        );
        assert_eq!(heard, [Ok(0), Ok(1), Ok(1), Ok(0), Ok(0)]);
        assert_eq!((reading.output_tokens, reading.ended), (Some(9), true));
        assert_eq!(reading.into_text(), "hm");
    }

    #[test]
    fn a_conversation_is_written_as_the_model_reads_it_where_only_texts_go() {
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let turn = Turn { says: Says::Messages(vec![message("user", "b")]), input_tokens: 2, output_tokens: 3 };
        let body = |backend: Backend| backend.body("m", &[message("system", "a")], &turn, 3).parse::<Value>().unwrap();
        let text = "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(body(Backend::Sglang)["text"], text);
        assert_eq!(body(Backend::SglangOaiChat)["messages"][1]["content"], "b");
    }
}
