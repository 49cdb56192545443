//! A body → an [`Ask`]: what the gateway must know is read and checked; everything else stays as it came.

use crate::chat::{Ask, Execute, Failure, FailureKind, JsonObject, Nonsense, ToolChoice, ToolSpec, Walk};
use crate::dialect::Form;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// Bytes of a tool's or a model's name. OpenAI allows 64 for tools; model names are paths.
const NAME_BYTES_MAX: usize = 512;
/// Messages of one request. Chosen: ten times the longest conversations of agents, which have some thousand.
const MESSAGES_MAX: usize = 16_384;
/// Tools of one request. OpenAI's own limit is 128; agents with many MCP servers send more.
const TOOLS_MAX: usize = 1024;
/// Members in which clients name their session: Codex, Copilot, pi and Zed; OpenAI's older one.
const SESSION_NAMES: [&str; 2] = ["prompt_cache_key", "user"];

pub(super) fn read(body: Bytes, execute: Option<Execute>) -> Result<(Ask, Form), Failure> {
    let (body, bare) =
        JsonObject::parse_looking(body, "messages", all_bare).map_err(|error| invalid(error.to_string()))?;
    let model: Cow<'_, str> = member(&body, "model", "a string, such as \"qwen3-coder\"")?
        .ok_or_else(|| invalid("`model` is missing; GET /v1/models lists the models").param("model"))?;
    if model.is_empty() || model.len() > NAME_BYTES_MAX {
        let message = format!("`model` must have 1 to {NAME_BYTES_MAX} bytes; GET /v1/models lists the models");
        return Err(invalid(message).param("model"));
    }
    let model = model.into_owned();
    if bare.is_none() {
        // Another look, which finds out what is wrong, or that nothing is.
        messages(&body)?;
    }
    let form = Form { stream: flag(&body, "stream")?, include_usage: include_usage(&body)? };
    // The gateway's own takes its place.
    member::<Cow<'_, str>>(&body, "rid", "a string")?;
    let choices = choices(&body)?;
    let ask = Ask {
        session: session(&body),
        tools: tools(&body)?,
        tool_choice: tool_choice(&body)?,
        execute: execute.or(body_execute(&body)?),
        plain_only: plain_only(&body)?,
        bare: bare.unwrap_or(false),
        model,
        choices,
        body,
    };
    Ok((ask, form))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

fn member<'a, T: Deserialize<'a>>(body: &'a JsonObject, name: &str, wanted: &str) -> Result<Option<T>, Failure> {
    let wrong = |_| invalid(format!("`{name}` must be {wanted}")).param(name);
    body.read::<Option<T>>(name).map(Option::flatten).map_err(wrong)
}

/// Whatever else these members may be is the backend's business.
fn session(body: &JsonObject) -> Option<String> {
    let named = |name: &&str| body.read::<Option<String>>(name).ok()??.filter(|name| !name.is_empty());
    SESSION_NAMES.iter().find_map(named)
}

fn flag(body: &JsonObject, name: &str) -> Result<bool, Failure> {
    Ok(member(body, name, "true or false")?.unwrap_or(false))
}

/// Whether messages that all have a role have few members beside it.
fn all_bare<'a>(before: &Walk<'a>) -> Result<(bool, Walk<'a>), Nonsense> {
    let (mut messages, mut count, mut all_bare) = (before.inner_array()?, 0, true);
    while messages.goes_on()? {
        let (mut message, mut roles, mut bare) = (messages.inner_object()?, 0, true);
        while message.goes_on()? {
            let (key, value) = (message.key()?, message.value()?);
            match message.text(key) {
                // As no client writes it.
                key if key.contains(&b'\\') => return Err(Nonsense),
                b"\"role\"" if is_simple_text(message.text(value)) => roles += 1,
                b"\"role\"" => return Err(Nonsense),
                b"\"content\"" | b"\"name\"" | b"\"tool_call_id\"" => {}
                _ => bare = false,
            }
        }
        if roles != 1 {
            return Err(Nonsense);
        }
        messages.after(&message);
        (count, all_bare) = (count + 1, all_bare & bare);
    }
    if (1..=MESSAGES_MAX).contains(&count) { Ok((all_bare, messages)) } else { Err(Nonsense) }
}

fn is_simple_text(value: &[u8]) -> bool {
    value.starts_with(b"\"") && !value.iter().any(|byte| *byte == b'\\' || *byte < b' ')
}

/// Only what every backend would refuse is refused here; roles and contents are the backend's business.
fn messages(body: &JsonObject) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        #[expect(dead_code, reason = "that it is there and a string is all that matters")]
        role: Cow<'a, str>,
    }
    let wanted = "an array of objects that each have a `role`";
    let messages: Elements<'_> = member(body, "messages", wanted)?
        .ok_or_else(|| invalid(format!("`messages` is missing; it must be {wanted}")).param("messages"))?;
    if messages.count == 0 {
        return Err(invalid("`messages` is empty; send at least one message").param("messages"));
    }
    if messages.count > MESSAGES_MAX {
        let message = format!("`messages` has {} entries; at most {MESSAGES_MAX} are taken", messages.count);
        return Err(invalid(message).param("messages"));
    }
    for (at, message) in messages.first.iter().enumerate() {
        serde_json::from_str::<Message<'_>>(message.get()).map_err(|_| {
            let name = format!("messages[{at}]");
            invalid(format!("`{name}` must be an object with one `role`, which is a string")).param(name)
        })?;
    }
    Ok(())
}

/// An array's first elements, no more than are taken, and how many there are.
struct Elements<'a> {
    first: Vec<&'a RawValue>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;
        impl<'de> Visitor<'de> for Counting {
            type Value = Elements<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut elements = Elements { first: Vec::new(), count: 0 };
                while elements.count < MESSAGES_MAX {
                    let Some(element) = array.next_element()? else { return Ok(elements) };
                    elements.first.push(element);
                    elements.count += 1;
                }
                while array.next_element::<IgnoredAny>()?.is_some() {
                    elements.count += 1;
                }
                Ok(elements)
            }
        }
        deserializer.deserialize_seq(Counting)
    }
}

fn choices(body: &JsonObject) -> Result<u32, Failure> {
    let wanted = "a whole number from 1 to 128";
    // 1.0 is a whole number too: JSON does not tell them apart, and SGLang takes it.
    let sent: f64 = member(body, "n", wanted)?.unwrap_or(1.0);
    let whole = (1..=128_u32).find(|whole| f64::from(*whole).total_cmp(&sent).is_eq());
    whole.ok_or_else(|| invalid(format!("`n` is {sent}; it must be {wanted}")).param("n"))
}

fn include_usage(body: &JsonObject) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        include_usage: Option<bool>,
    }
    let options: Option<Options> = member(body, "stream_options", "an object, such as {\"include_usage\": true}")?;
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

fn tools(body: &JsonObject) -> Result<Option<Vec<ToolSpec>>, Failure> {
    #[derive(Deserialize)]
    struct Tool<'a> {
        // SGLang takes a function without it.
        #[serde(borrow, default)]
        r#type: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        function: Option<Function<'a>>,
    }
    #[derive(Deserialize)]
    struct Function<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(default)]
        parameters: Option<Value>,
    }
    let Some(entries) = member::<Vec<&RawValue>>(body, "tools", "an array of tools")? else { return Ok(None) };
    if entries.len() > TOOLS_MAX {
        let message = format!("`tools` has {} entries; at most {TOOLS_MAX} are taken", entries.len());
        return Err(invalid(message).param("tools"));
    }
    let read = |(at, entry): (usize, &&RawValue)| {
        let wanted = "{\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": {…}}}";
        let no_tool =
            || invalid(format!("`tools[{at}]` is not a tool; write it as {wanted}")).param(format!("tools[{at}]"));
        let tool: Tool<'_> = serde_json::from_str(entry.get()).map_err(|_| no_tool())?;
        let text = Bytes::copy_from_slice(entry.get().as_bytes());
        Ok(match tool.function {
            Some(function) => ToolSpec {
                name: function.name.into_owned(),
                // A function without parameters takes an empty object.
                parameters: Some(function.parameters.unwrap_or_else(|| serde_json::json!({"type": "object"}))),
                text,
            },
            None => ToolSpec { name: tool.r#type.ok_or_else(no_tool)?.into_owned(), parameters: None, text },
        })
    };
    entries.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>().map(Some)
}

fn tool_choice(body: &JsonObject) -> Result<ToolChoice, Failure> {
    let wanted = "\"none\", \"auto\", \"required\", or an object that names a function";
    match member::<Value>(body, "tool_choice", wanted)? {
        None => Ok(ToolChoice::Auto),
        Some(Value::Object(_)) => Ok(ToolChoice::Forced),
        Some(Value::String(choice)) if choice == "auto" => Ok(ToolChoice::Auto),
        Some(Value::String(choice)) if choice == "none" => Ok(ToolChoice::None),
        Some(Value::String(choice)) if choice == "required" => Ok(ToolChoice::Forced),
        Some(_) => Err(invalid(format!("`tool_choice` must be {wanted}")).param("tool_choice")),
    }
}

fn body_execute(body: &JsonObject) -> Result<Option<Execute>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Loopgate {
        #[serde(default)]
        execute: Option<How>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum How {
        Gateway,
        Client,
        Off,
    }
    let wanted = "an object like {\"execute\": \"gateway\"}; `execute` is gateway, client or off";
    let said: Option<Loopgate> = member(body, "loopgate", wanted)?;
    Ok(said.and_then(|said| said.execute).map(|how| match how {
        How::Gateway => Execute::Gateway,
        How::Client => Execute::Client,
        How::Off => Execute::Off,
    }))
}

/// The first member that asks for an answer in a form of its own, with which an added tool would interfere. Those come
/// first that speak against any tool of the gateway's, the request's own included: none may hide behind another.
fn plain_only(body: &JsonObject) -> Result<Option<&'static str>, Failure> {
    for name in ["logprobs", "continue_final_message", "ignore_eos"] {
        if flag(body, name)? {
            return Ok(Some(name));
        }
    }
    for name in ["regex", "ebnf"] {
        if body.sent(name).is_some_and(|value| value != "null") {
            return Ok(Some(name));
        }
    }
    let format: Option<Map<String, Value>> =
        member(body, "response_format", "an object, such as {\"type\": \"text\"}")?;
    Ok(format.filter(|format| format.get("type").is_none_or(|kind| kind != "text")).map(|_| "response_format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Failure {
        let failure = read(Bytes::copy_from_slice(body.as_bytes()), None).expect_err("a bad request");
        assert_eq!(failure.kind, FailureKind::Invalid);
        failure
    }

    fn taken(body: &str) -> (Ask, Form) {
        read(Bytes::copy_from_slice(body.as_bytes()), None).expect("a good request")
    }

    #[test]
    fn bad_members_are_named() {
        for (body, named) in [
            ("nonsense", "not a JSON object"),
            (r#"{"messages":[{"role":"user"}]}"#, "`model`"),
            (r#"{"model":7,"messages":[{"role":"user"}]}"#, "`model`"),
            (r#"{"model":"","messages":[{"role":"user"}]}"#, "`model`"),
            (r#"{"model":"m"}"#, "`messages`"),
            (r#"{"model":"m","messages":[]}"#, "`messages`"),
            (r#"{"model":"m","messages":"hi"}"#, "`messages`"),
            (r#"{"model":"m","messages":[{"role":"user"},{"content":"hi"}]}"#, "`messages[1]`"),
            (r#"{"model":"m","messages":[{"role":"user","role":"system"}]}"#, "`messages[0]`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"stream":"yes"}"#, "`stream`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"n":0}"#, "`n`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"n":-1}"#, "`n`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"n":1.5}"#, "`n`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"n":129}"#, "`n`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"tools":{}}"#, "`tools`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"tools":[{"type":"function"},{"x":1}]}"#, "`tools[1]`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"tool_choice":"maybe"}"#, "`tool_choice`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"response_format":"text"}"#, "`response_format`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"loopgate":{"execute":"yes"}}"#, "`loopgate`"),
            (r#"{"model":"m","messages":[{"role":"user"}],"loopgate":{"exec":"off"}}"#, "`loopgate`"),
        ] {
            let Failure { message, param, .. } = refused(body);
            assert!(message.contains(named), "{body}: {message}");
            let member = named.strip_prefix('`').map(|name| name.trim_end_matches('`'));
            assert_eq!(param.as_deref(), member, "{body}");
        }
    }

    #[test]
    fn messages_are_counted_before_they_are_read() {
        let body = |count: usize| {
            let messages = vec![r#"{"role":"user"}"#; count].join(",");
            format!(r#"{{"model":"m","messages":[{messages}]}}"#)
        };
        taken(&body(MESSAGES_MAX));
        let Failure { message, param, .. } = refused(&body(MESSAGES_MAX + 1));
        assert_eq!(message, "`messages` has 16385 entries; at most 16384 are taken");
        assert_eq!(param.as_deref(), Some("messages"));
    }

    #[test]
    fn a_whole_number_may_have_a_point() {
        assert_eq!(taken(r#"{"model":"m","messages":[{"role":"user"}],"n":2.0}"#).0.choices, 2);
    }

    #[test]
    fn null_members_are_absent_members() {
        let (ask, form) = taken(
            r#"{"model":"a/b","messages":[{"role":"developer","content":null}],"stream":null,"n":null,"tools":null,"tool_choice":null,"stream_options":null,"rid":null,"response_format":null,"loopgate":null}"#,
        );
        assert_eq!(form, Form::default());
        assert_eq!((ask.tools, ask.tool_choice, ask.choices, ask.plain_only), (None, ToolChoice::Auto, 1, None));
    }

    #[test]
    fn a_session_has_the_name_that_the_client_gives_it_and_wrong_ones_are_no_error() {
        for (members, session) in [
            (r#","prompt_cache_key":"s1","user":"ann""#, Some("s1")),
            (r#","prompt_cache_key":7,"user":"ann""#, Some("ann")),
            (r#","prompt_cache_key":"","user":null"#, None),
            ("", None),
        ] {
            let (ask, _) = taken(&format!(r#"{{"model":"m","messages":[{{"role":"user"}}]{members}}}"#));
            assert_eq!(ask.session.as_deref(), session, "{members}");
        }
    }

    #[test]
    fn a_function_needs_no_type_and_what_has_neither_is_no_tool() {
        let body = |tool: &str| format!(r#"{{"model":"m","messages":[{{"role":"user"}}],"tools":[{tool}]}}"#);
        for tool in [r#"{"function":{"name":"f"}}"#, r#"{"type":null,"function":{"name":"f"}}"#] {
            let specs = taken(&body(tool)).0.tools.expect("tools");
            assert_eq!((specs[0].name.as_str(), &specs[0].text[..]), ("f", tool.as_bytes()));
        }
        for tool in ["{}", r#"{"type":null}"#, r#"{"name":"f"}"#] {
            let body = Bytes::from(body(tool));
            let failure = read(body, None).expect_err("no tool");
            assert_eq!(failure.param.as_deref(), Some("tools[0]"), "{tool}");
        }
    }

    #[test]
    fn what_forbids_an_added_tool_is_noticed() {
        for (member, name) in [
            (r#""logprobs":true"#, Some("logprobs")),
            (r#""logprobs":false"#, None),
            (r#""ignore_eos":true"#, Some("ignore_eos")),
            (r#""ignore_eos":true,"continue_final_message":true"#, Some("continue_final_message")),
            (r#""regex":"a+","ignore_eos":true,"logprobs":true"#, Some("logprobs")),
            (r#""regex":"a+""#, Some("regex")),
            (r#""response_format":{"type":"json_object"}"#, Some("response_format")),
            (r#""response_format":{"type":"text"}"#, None),
        ] {
            let (ask, _) = taken(&format!(r#"{{"model":"m","messages":[{{"role":"user"}}],{member}}}"#));
            assert_eq!(ask.plain_only, name, "{member}");
        }
    }
}
