//! A streamed answer that was cut, continued by another backend: what its client has of it, and the request for the rest.
//!
//! SGLang goes on with an assistant message that ends a conversation when it is asked to (`continue_final_message`). So
//! the rest of an answer is the answer to the same request with the beginning as its last message.

use crate::chat::{Ask, Delta, JsonObject, ToolChoice, Usage};
use serde_json::{Value, json};

/// Bytes of an answer that are kept for its continuation; a longer one is not continued. Chosen: eight times what a model
/// writes in one answer at most, 32768 tokens.
pub(super) const KEPT_BYTES_MAX: usize = 1 << 20;

/// Members of a request that have every token of the answer follow a grammar. It would begin anew in the middle.
const GRAMMARS: [&str; 4] = ["regex", "ebnf", "json_schema", "structural_tag"];

/// Bounds on an answer, of which the beginning has used up a part.
const BOUNDS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// What a client has of an answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    text: String,
    /// Steps with text: what SGLang writes in one is a token, or more when it is busy.
    steps: u64,
    /// Steps that the request for the rest had in it.
    carried: u64,
    is_over: bool,
    /// Why the rest cannot be asked for.
    lost: Option<&'static str>,
}

impl Told {
    /// Takes note of what the client is told now.
    pub fn hear(&mut self, delta: &Delta) {
        if !delta.content.is_empty() {
            self.steps += 1;
            self.text.push_str(&delta.content);
        }
        if !delta.reasoning.is_empty() {
            self.lose("its thinking cannot be given back to the model");
        }
        if !delta.calls.is_empty() {
            self.lose("a call of it was told");
        }
        self.is_over |= delta.finish.is_some();
        if self.text.len() > KEPT_BYTES_MAX {
            self.lose_all();
        }
    }

    /// Nobody knows any more what the client was told.
    pub fn lose_all(&mut self) {
        self.lose("it is too long to be kept");
    }

    /// The answer was complete, but for what may follow its end.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn lose(&mut self, why: &'static str) {
        self.lost = Some(why);
        self.text = String::new();
    }

    /// The request for the rest of the answer to `ask`.
    ///
    /// # Errors
    /// When the rest cannot be asked for: why.
    pub fn rest_of(&mut self, ask: &Ask) -> Result<JsonObject, &'static str> {
        if let Some(why) = self.lost {
            return Err(why);
        }
        if self.is_over {
            return Err("it was complete but for its counts");
        }
        let mut body = ask.body.clone();
        self.carried = self.steps;
        if self.text.is_empty() {
            return Ok(body);
        }
        if ask.tool_choice == ToolChoice::Forced || follows_grammar(&body) {
            return Err("a grammar holds for it as a whole");
        }
        if body.read::<bool>("continue_final_message").ok().flatten() == Some(true) {
            return Err("it continues a message of the client's");
        }
        body.append("messages", json!({ "role": "assistant", "content": self.text }).to_string());
        body.set("continue_final_message", "true");
        for bound in BOUNDS {
            if let Ok(Some(tokens)) = body.read::<u64>(bound) {
                body.set(bound, tokens.saturating_sub(self.steps).max(1).to_string());
            }
        }
        Ok(body)
    }

    /// The counts of the whole answer, from those of the request for its rest.
    pub fn whole(&self, rest: Usage) -> Usage {
        let carried = self.carried.min(rest.prompt_tokens);
        let prompt_tokens = rest.prompt_tokens - carried;
        Usage {
            prompt_tokens,
            completion_tokens: rest.completion_tokens + carried,
            cached_tokens: rest.cached_tokens.map(|cached| cached.min(prompt_tokens)),
            ..rest
        }
    }
}

fn follows_grammar(body: &JsonObject) -> bool {
    let is_set = |member: &&str| body.value(member).is_some_and(|value| &*value != b"null");
    let format: Option<Value> = body.read("response_format").ok().flatten();
    let is_text = format.is_none_or(|format| format["type"] == "text");
    !is_text || GRAMMARS.iter().any(is_set)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::Bytes;

    /// A request with these members beside a message.
    pub fn ask(members: &str) -> Ask {
        let members: serde_json::Map<String, Value> = serde_json::from_str(members).unwrap();
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(members);
        Ask {
            body: JsonObject::parse(Bytes::from(body.to_string())).unwrap(),
            model: "m".into(),
            tools: None,
            tool_choice: ToolChoice::Auto,
            execute: None,
            session: None,
            choices: 1,
            plain_only: None,
            bare: false,
        }
    }

    fn told(texts: &[&str]) -> Told {
        let mut told = Told::default();
        for text in texts {
            told.hear(&Delta { content: (*text).to_owned(), ..Delta::default() });
        }
        told
    }

    fn rest_of(told: &mut Told, members: &str) -> Value {
        serde_json::from_slice(&told.rest_of(&ask(members)).unwrap().render().concat()).unwrap()
    }

    #[test]
    fn a_grammar_thinking_and_a_message_of_the_clients_are_not_continued() {
        for members in [
            r#"{"response_format":{"type":"json_object"}}"#,
            r#"{"regex":"a+"}"#,
            r#"{"ebnf":"root ::= a"}"#,
            r#"{"continue_final_message":true}"#,
        ] {
            assert!(told(&["a"]).rest_of(&ask(members)).is_err(), "{members}");
            // Nothing is lost while nothing was told.
            assert!(told(&[""]).rest_of(&ask(members)).is_ok(), "{members}");
        }
        let mut thinking = told(&["a"]);
        thinking.hear(&Delta { reasoning: "hm".into(), ..Delta::default() });
        assert!(thinking.rest_of(&ask("{}")).is_err());
    }

    #[test]
    fn the_beginning_is_the_last_message_of_the_request_for_the_rest() {
        let rest = rest_of(
            &mut told(&["one ", "\"two\""]),
            r#"{"max_tokens":10,"response_format":{"type":"text"},"regex":null}"#,
        );
        assert_eq!(rest["messages"][1], json!({"role": "assistant", "content": "one \"two\""}));
        assert_eq!((&rest["continue_final_message"], &rest["max_tokens"]), (&json!(true), &json!(8)));
    }

    #[test]
    fn nothing_told_is_the_same_request_once_more() {
        let ask = ask(r#"{"max_tokens":10}"#);
        assert_eq!(told(&[]).rest_of(&ask).unwrap().render().concat(), ask.body.render().concat());
    }

    #[test]
    fn counts_are_those_of_one_answer() {
        let mut told = told(&["a", "b"]);
        let rest = Usage {
            prompt_tokens: 12,
            completion_tokens: 3,
            total_tokens: 15,
            cached_tokens: Some(12),
            ..Usage::default()
        };
        assert_eq!(told.whole(rest), rest);
        rest_of(&mut told, "{}");
        let whole = Usage {
            prompt_tokens: 10,
            completion_tokens: 5,
            total_tokens: 15,
            cached_tokens: Some(10),
            ..Usage::default()
        };
        assert_eq!(told.whole(rest), whole);
    }
}
