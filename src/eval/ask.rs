//! One question: how it is asked, and what is read of the answer.

use crate::client::{Failure, Target};
use serde_json::{Value, json};

/// Where an answer ends, as `few_shot_gsm8k` has it. A model that may run programs ends by itself: these words would cut the
/// program that has one of them.
const STOP: [&str; 3] = ["Question", "Assistant:", "<|separator|>"];
/// Beside the examples, for a model that may run programs.
const ADVICE: &str = "You may run Python with execute_code. End with a line that has #### and the answer as a number.";

/// How questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// SGLang's /generate, as `few_shot_gsm8k` asks
    Completion,
    /// /v1/chat/completions, without execution
    Chat,
    /// /v1/chat/completions of a gateway, where the model may run programs
    Tools,
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Tokens that the model wrote, of all its calls.
    pub tokens: u64,
    /// Programs that the model had run.
    pub executions: Executions,
}

/// Programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Executions {
    /// All.
    pub count: u64,
    /// Those of them that did not complete.
    pub failed: u64,
}

impl Mode {
    /// As the flag names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Chat => "chat",
            Self::Tools => "tools",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Completion => "/generate",
            Self::Chat | Self::Tools => "/v1/chat/completions",
        }
    }

    fn body(self, model: &str, prompt: &str, tokens_max: u32) -> Value {
        let ask = json!({"role": "user", "content": prompt});
        let (messages, execute) = match self {
            Self::Completion => {
                let sampling = json!({"temperature": 0, "max_new_tokens": tokens_max, "stop": STOP});
                return json!({"text": prompt, "sampling_params": sampling});
            }
            Self::Chat => (json!([ask]), "off"),
            Self::Tools => (json!([{"role": "system", "content": ADVICE}, ask]), "gateway"),
        };
        let stop: &[&str] = if self == Self::Tools { &[] } else { &STOP };
        json!({
            "model": model, "messages": messages, "temperature": 0, "max_tokens": tokens_max, "stop": stop,
            // No server but a gateway knows it.
            "loopgate": {"execute": execute},
        })
    }

    /// Asks.
    pub(super) async fn ask(
        self,
        target: &Target,
        model: &str,
        prompt: &str,
        tokens_max: u32,
    ) -> Result<Answer, Failure> {
        let answer = target.post(self.path(), &self.body(model, prompt, tokens_max)).await?;
        self.read(&answer).ok_or_else(|| Failure::garbage(answer.to_string().as_bytes()))
    }

    fn read(self, answer: &Value) -> Option<Answer> {
        if self == Self::Completion {
            let text = answer["text"].as_str()?.to_owned();
            let tokens = answer["meta_info"]["completion_tokens"].as_u64().unwrap_or_default();
            return Some(Answer { text, tokens, executions: Executions::default() });
        }
        let message = answer["choices"][0].get("message")?;
        let text = message["content"].as_str().unwrap_or_default().to_owned();
        let total = &answer["loopgate"]["usage_total"]["completion_tokens"];
        let tokens = total.as_u64().or_else(|| answer["usage"]["completion_tokens"].as_u64()).unwrap_or_default();
        let executed = message["executed_tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let failed = executed.iter().filter(|it| it["status"] != "completed").count() as u64;
        Some(Answer { text, tokens, executions: Executions { count: executed.len() as u64, failed } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_all_rounds_and_programs_that_failed_are_counted() {
        let answer = json!({
            "choices": [{"message": {"content": "#### 4", "executed_tools": [{"status": "completed"}, {"status": "error"}]}}],
            "usage": {"completion_tokens": 5}, "loopgate": {"usage_total": {"completion_tokens": 30}},
        });
        let read = Mode::Tools.read(&answer).expect("an answer");
        assert_eq!(
            read,
            Answer { text: "#### 4".to_owned(), tokens: 30, executions: Executions { count: 2, failed: 1 } }
        );
        let plain = json!({"choices": [{"message": {"content": null}}], "usage": {"completion_tokens": 5}});
        assert_eq!(Mode::Chat.read(&plain), Some(Answer { tokens: 5, ..Answer::default() }));
        assert_eq!(Mode::Chat.read(&json!({"choices": []})), None);
        assert_eq!(Mode::Completion.read(&json!({"error": "x"})), None);
    }

    #[test]
    fn no_word_cuts_a_program() {
        for (mode, stop) in [(Mode::Chat, json!(STOP)), (Mode::Tools, json!([]))] {
            assert_eq!(mode.body("m", "?", 9)["stop"], stop);
        }
        assert_eq!(Mode::Completion.body("m", "?", 9)["sampling_params"]["stop"], json!(STOP));
    }
}
