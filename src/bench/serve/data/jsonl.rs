//! `jsonl`: a file with a request a line, in its order.

use super::{Message, NoData, Says, Turn, Wanted};
use crate::bench::serve::tokenizer::Unusable;
use crate::bench::serve::tokens::Tokens;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// One line. What else it has is of no concern.
#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(alias = "conversation")]
    conversations: Option<Vec<Said>>,
    output_len: Option<u32>,
    tools: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(alias = "value")]
    content: String,
}

pub(super) fn read(wanted: &Wanted, tokens: &Tokens) -> Result<Vec<Turn>, NoData> {
    let needed = "--dataset-name jsonl needs --dataset-path FILE, with a request a line: {\"prompt\": \"…\", \"output_len\": 100}";
    let path = wanted.path.as_ref().ok_or(NoData::Missing(needed))?;
    let wrong = |why: String| NoData::File { path: path.clone(), why };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let turns: Vec<_> = lines
        .take(wanted.prompts as usize)
        .map(|(number, line)| turn(line, wanted, tokens).map_err(|why| wrong(format!("line {}: {why}", number + 1))))
        .collect::<Result<_, _>>()?;
    if turns.is_empty() { Err(wrong("it has no line".to_owned())) } else { Ok(turns) }
}

fn turn(line: &str, wanted: &Wanted, tokens: &Tokens) -> Result<Turn, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let output_tokens = line.output_len.unwrap_or(wanted.output_len);
    let unusable = |error: Unusable| error.to_string();
    let text = |text: &str, output_tokens| {
        let says = match tokens.tokenizer().filter(|_| wanted.as_ids) {
            Some(tokenizer) => Says::Ids(tokenizer.encode(text).map_err(unusable)?),
            None => Says::Text(text.to_owned()),
        };
        Ok::<_, String>(Turn { says, input_tokens: tokens.count(text).map_err(unusable)?, output_tokens })
    };
    let turn = match line {
        Line { tools: Some(_), .. } => return Err("its `tools` would not be sent; leave them out".to_owned()),
        Line { messages: Some(messages), .. } if messages.is_empty() => {
            return Err("its `messages` are none".to_owned());
        }
        Line { prompt: Some(prompt), .. } => text(&prompt, output_tokens)?,
        Line { messages: Some(messages), .. } => {
            let counts = messages.iter().map(|message| tokens.count(&message.content));
            let input_tokens = counts.sum::<Result<u32, _>>().map_err(unusable)?;
            Turn { says: Says::Messages(messages), input_tokens, output_tokens }
        }
        Line { conversations: Some(said), .. } => match &said[..] {
            [asked, answered, ..] => {
                let as_long = tokens.count(&answered.content).map_err(unusable)?;
                text(&asked.content, line.output_len.unwrap_or(as_long))?
            }
            _ => {
                return Err(
                    "its conversation has no two messages: a question and an answer as long as wanted".to_owned()
                );
            }
        },
        _ => return Err("it has neither `prompt` nor `messages` nor `conversations`".to_owned()),
    };
    if turn.output_tokens == 0 { Err("its answer is to have no token".to_owned()) } else { Ok(turn) }
}
