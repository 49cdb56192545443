//! A request's body, read as SGLang reads it: what is asked, or what is wrong with it.

use super::Version;
use super::model::{Conversation, Forced};
use super::refusal::Refusal;
use super::template::{self, text_of};
use super::tokens;
use super::writing::Limits;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// The model's name; it is not checked.
    pub model: Arc<str>,
    /// What the model looks at.
    pub conversation: Conversation,
    /// The beginning of its answer, which it goes on with (`continue_final_message`). Empty without one.
    pub begun: String,
    /// Where its text has to end. [`Question::fit`] sets the token count.
    pub limits: Limits,
    /// `max_tokens`.
    wanted: Option<u32>,
    /// The client's id for the request.
    pub rid: Option<String>,
    /// `n`.
    pub choices: u32,
    /// What the model reads.
    pub prompt: String,
    /// Tokens of it.
    pub prompt_tokens: u32,
    /// Prompts with different ones share nothing in the cache (`cache_salt`, `extra_key`).
    pub salt: String,
    /// At most one call (`parallel_tool_calls: false`).
    pub one_call: bool,
    /// As events.
    pub stream: bool,
    /// Where in a stream the usage is told.
    pub usage: Usage,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Nowhere.
    Nowhere,
    /// In a chunk at the end (`include_usage`).
    AtEnd,
    /// On every chunk as well (`continuous_usage_stats`).
    Everywhere,
}

/// The server's settings that a question is read with.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Whose errors.
    pub version: Version,
    /// Tokens of prompt and answer together.
    pub context_length: u32,
    /// Tokens that the KV cache holds, if there is one.
    pub kv_tokens: Option<usize>,
}

/// A prompt, or prompt and answer, that the server has no room for.
pub struct Unfit {
    /// What the client is told.
    pub refusal: Refusal,
    /// It is found out when a stream has begun, and is told in it.
    pub late: bool,
}

/// Tokens of the KV cache that a prompt cannot have (`max_req_input_len` of SGLang's scheduler: 1000 leave 994).
const KV_TOKENS_KEPT: usize = 6;

impl Question {
    /// Reads the body of `/v1/chat/completions`.
    pub fn chat(body: &[u8], rules: Rules) -> Result<Self, Refusal> {
        let body = object(body, rules.version)?;
        check_types(&body, rules.version)?;
        let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
        if messages.is_empty() {
            return Err(Refusal::bad_request("Messages cannot be empty."));
        }
        check_history(messages, rules.version)?;
        let (messages, begun) = begun(messages, body.get("continue_final_message"));
        let conversation = Conversation { tools: offered(&body)?, forced: forced(&body)?, ..conversation(messages) };
        let tools = body.get("tools").and_then(Value::as_array).filter(|_| !conversation.tools.is_empty());
        let prompt = template::prompt(messages, tools.map_or(&[], Vec::as_slice)) + &begun;
        let options = &body.get("stream_options").cloned().unwrap_or_default();
        let mut question = Self::of(&body, conversation, prompt, body.get("stop"));
        question.begun = begun;
        question.one_call =
            question.conversation.forced.is_some() && body.get("parallel_tool_calls") == Some(&Value::Bool(false));
        question.usage = match (options["include_usage"] == true, options["continuous_usage_stats"] == true) {
            (false, _) => Usage::Nowhere,
            (true, false) => Usage::AtEnd,
            (true, true) => Usage::Everywhere,
        };
        question.choices =
            body.get("n").and_then(Value::as_u64).map_or(1, |n| u32::try_from(n).unwrap_or(1).clamp(1, CHOICES_MAX));
        let wanted = body.get("max_completion_tokens").filter(|value| !value.is_null()).or(body.get("max_tokens"));
        question.want(wanted, None, rules)?;
        Ok(question)
    }

    /// Reads the body of `/v1/completions` (`prompt`) or, with its sampling parameters apart, of `/generate` (`text`).
    pub fn plain(body: &[u8], native: bool, rules: Rules) -> Result<Self, Refusal> {
        let body = object(body, rules.version)?;
        let text = body.get(if native { "text" } else { "prompt" }).and_then(Value::as_str).unwrap_or_default();
        let conversation = Conversation { user: text.to_owned(), ..Conversation::default() };
        let empty = Map::new();
        let sampling =
            if native { body.get("sampling_params").and_then(Value::as_object).unwrap_or(&empty) } else { &body };
        let mut question = Self::of(&body, conversation, text.to_owned(), sampling.get("stop"));
        question.limits.ignore_eos = sampling.get("ignore_eos") == Some(&Value::Bool(true));
        let (name, default) = if native { ("max_new_tokens", 128) } else { ("max_tokens", 16) };
        question.want(sampling.get(name), Some(default), rules)?;
        Ok(question)
    }

    fn of(body: &Map<String, Value>, conversation: Conversation, prompt: String, stop: Option<&Value>) -> Self {
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let flag = |name: &str| body.get(name) == Some(&Value::Bool(true));
        Self {
            model: text("model").unwrap_or("default").into(),
            conversation,
            begun: String::new(),
            limits: Limits { tokens_max: 0, ignore_eos: flag("ignore_eos"), stop: strings(stop) },
            wanted: None,
            rid: text("rid").map(str::to_owned),
            choices: 1,
            prompt_tokens: tokens::count(&prompt).max(1),
            prompt,
            salt: [text("cache_salt"), text("extra_key")].map(Option::unwrap_or_default).join("\0"),
            one_call: false,
            stream: flag("stream"),
            usage: Usage::Nowhere,
        }
    }

    fn want(&mut self, wanted: Option<&Value>, default: Option<u32>, rules: Rules) -> Result<(), Refusal> {
        let wanted = wanted.and_then(Value::as_u64).map(|wanted| u32::try_from(wanted).unwrap_or(u32::MAX)).or(default);
        // 0.5.7 takes a zero for "no limit".
        self.wanted = wanted.filter(|&wanted| wanted > 0 || rules.version == Version::V0_5_23);
        let context = rules.context_length;
        match self.wanted.filter(|&wanted| wanted > context) {
            Some(wanted) => Err(Refusal::bad_request(format!(
                "max_completion_tokens is too large: {wanted}.This model supports at most {context} completion tokens."
            ))),
            None => Ok(()),
        }
    }

    /// Fits prompt and answer into the context, and the prompt into the KV cache. Apart from the reading, since a stream
    /// may have begun by then: 0.5.7 always has, and the cache is the scheduler's business in both.
    pub fn fit(&mut self, rules: Rules) -> Result<(), Unfit> {
        let (prompt, context) = (self.prompt_tokens, rules.context_length);
        let unfit = |late: bool, message: String| Unfit {
            refusal: Refusal::bad_request(message),
            late: late || rules.version == Version::V0_5_7,
        };
        if prompt >= context {
            return Err(unfit(
                false,
                format!("The input ({prompt} tokens) is longer than the model's context length ({context} tokens)."),
            ));
        }
        let room = rules.kv_tokens.map(|tokens| tokens.saturating_sub(KV_TOKENS_KEPT));
        if let Some(room) = room.filter(|&room| prompt as usize > room) {
            return Err(unfit(
                true,
                format!(
                    "Input length ({prompt} tokens) exceeds the maximum allowed length ({room} tokens). Use a shorter \
                     input or enable --allow-auto-truncate."
                ),
            ));
        }
        if let Some(wanted) = self.wanted.filter(|&wanted| wanted > context - prompt) {
            return Err(unfit(
                false,
                format!(
                    "Requested token count exceeds the model's maximum context length of {context} tokens. You requested a \
                 total of {} tokens: {prompt} tokens from the input messages and {wanted} tokens for the completion. \
                 Please reduce the number of tokens in the input messages or the completion to fit within the limit.",
                    wanted + prompt
                ),
            ));
        }
        self.limits.tokens_max = self.wanted.unwrap_or(context - prompt);
        Ok(())
    }
}

/// Choices of one request. Chosen, so that one request cannot ask for a million answers.
const CHOICES_MAX: u32 = 16;

fn object(body: &[u8], version: Version) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body).map_err(|_| {
        let why = match version {
            Version::V0_5_7 => "Expecting value",
            Version::V0_5_23 => "unexpected end of data",
        };
        Refusal::invalid(version, &[format!(
            "{{'type': 'json_invalid', 'loc': ('body', {}), 'msg': 'JSON decode error', 'input': {{}}, 'ctx': {{'error': '{why}'}}}}",
            body.len()
        )])
    })
}

/// The few types that clients get wrong in practice.
fn check_types(body: &Map<String, Value>, version: Version) -> Result<(), Refusal> {
    let Some(messages) = body.get("messages").and_then(Value::as_array) else {
        let complaint = "{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {}}";
        return Err(Refusal::invalid(version, &[complaint.to_owned()]));
    };
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if !["system", "user", "assistant", "tool", "function", "developer"].contains(&role) {
            return Err(Refusal::invalid(version, &role_complaints(version, at, role)));
        }
    }
    for name in ["temperature", "top_p", "frequency_penalty", "presence_penalty"] {
        if let Some(Value::String(text)) = body.get(name) {
            return Err(Refusal::invalid(
                version,
                &[format!(
                    "{{'type': 'float_parsing', 'loc': ('body', '{name}'), 'msg': 'Input should be a valid number, unable to \
                 parse string as a number', 'input': '{text}'}}"
                )],
            ));
        }
    }
    Ok(())
}

/// Pydantic tries each kind of message and complains for each.
fn role_complaints(version: Version, at: usize, role: &str) -> [String; 2] {
    let (before, after, roles) = match version {
        Version::V0_5_7 => ("", "", "'system', 'developer', 'assistant', 'tool', or 'function'"),
        Version::V0_5_23 => (
            "function-after[validate_thinking_parts_role(), ",
            "]",
            "'system', 'assistant', 'tool', 'function', 'developer', 'latest_reminder', 'root'",
        ),
    };
    let place = |kind: &str| format!("'loc': ('body', 'messages', {at}, '{before}{kind}{after}', 'role')");
    let demand = format!("'role' must be one of {roles} (case-insensitive).");
    [
        format!(
            "{{'type': 'value_error', {}, 'msg': \"Value error, {demand}\", 'input': '{role}', 'ctx': {{'error': \
             ValueError(\"{demand}\")}}}}",
            place("ChatCompletionMessageGenericParam")
        ),
        format!(
            "{{'type': 'literal_error', {}, 'msg': \"Input should be 'user'\", 'input': '{role}', 'ctx': {{'expected': \
             \"'user'\"}}}}",
            place("ChatCompletionMessageUserParam")
        ),
    ]
}

fn check_history(messages: &[Value], version: Version) -> Result<(), Refusal> {
    let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
    for arguments in calls.filter_map(|call| call["function"]["arguments"].as_str()) {
        let arguments = serde_json::from_str::<Value>(arguments).map_err(|_| Refusal::bad_history(version, false))?;
        if !arguments.is_object() {
            return Err(Refusal::bad_history(version, true));
        }
    }
    Ok(())
}

/// The names of the tools that the model gets to see.
fn offered(body: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let tools = body.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (at, tool) in tools.iter().enumerate() {
        let kind = &tool["function"]["parameters"]["type"];
        if kind.as_str().is_some_and(|kind| kind != "object") {
            return Err(Refusal::bad_request(format!(
                "Tool {at} function has invalid 'parameters' schema: {kind} is not valid under any of the given schemas"
            )));
        }
    }
    if body.get("tool_choice").is_some_and(|choice| choice == "none") {
        return Ok(Vec::new());
    }
    Ok(tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).map(str::to_owned).collect())
}

fn forced(body: &Map<String, Value>) -> Result<Option<Forced>, Refusal> {
    let choice = body.get("tool_choice").cloned().unwrap_or_default();
    let tools = offered(body)?;
    if choice == "required" {
        if tools.is_empty() {
            return Err(Refusal::bad_request("Tools cannot be empty if tool choice is set to required."));
        }
        return Ok(Some(Forced::Any));
    }
    let Some(name) = choice["function"]["name"].as_str() else {
        return Ok(None);
    };
    if !tools.iter().any(|tool| tool == name) {
        return Err(Refusal::bad_request(format!("Tool '{name}' not found in tools list.")));
    }
    Ok(Some(Forced::Tool(name.to_owned())))
}

/// A last message of the model's own is the beginning of its answer, if the request says so.
fn begun<'a>(messages: &'a [Value], asked: Option<&Value>) -> (&'a [Value], String) {
    match messages {
        [before @ .., last] if asked == Some(&Value::Bool(true)) && last["role"] == "assistant" => {
            (before, text_of(&last["content"]))
        }
        all => (all, String::new()),
    }
}

/// The last user message, and the tool results after it by round.
fn conversation(messages: &[Value]) -> Conversation {
    let last = messages.iter().rposition(|message| message["role"] == "user");
    let mut conversation = Conversation::default();
    for message in &messages[last.unwrap_or(0)..] {
        match message["role"].as_str() {
            Some("user") => conversation.user = text_of(&message["content"]),
            Some("assistant") if message["tool_calls"].is_array() => conversation.rounds.push(Vec::new()),
            Some("tool") => match conversation.rounds.last_mut() {
                Some(round) => round.push(text_of(&message["content"])),
                None => conversation.rounds.push(vec![text_of(&message["content"])]),
            },
            _ => {}
        }
    }
    conversation
}

fn strings(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
