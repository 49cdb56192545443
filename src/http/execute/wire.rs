//! What goes over the wire: a body → a [`Script`], an [`Execution`] → bytes.

use crate::agent::Script;
use crate::chat::{Execution, Failure, FailureKind, JsonObject, Status};
use crate::dialect::{self, Shapes};
use crate::sse;
use axum::body::Bytes;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// Bytes of a program. Chosen: with each of them escaped as `\n` is, it fits into the arguments that a call may have.
const CODE_BYTES_MAX: usize = 512 << 10;

/// Characters of a member's name that are given back.
const NAME_CHARS_MAX: usize = 64;

/// The largest number that JSON's writers and readers agree on.
const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;

/// What a body may have. The type only describes; [`read`] goes by it.
#[derive(JsonSchema)]
#[schemars(rename = "ExecuteRequest", deny_unknown_fields)]
#[expect(dead_code, reason = "the type is read by the derive macro only")]
struct Asked {
    /// The Python program, at most 512 KiB of it.
    code: String,
    /// The name of the interpreter to run in; the header `x-loopgate-session` says the same, and wins. Absent: a fresh one.
    session: Option<String>,
    /// Milliseconds after which the program is stopped, at most `limits.wall_ms` of the caller's policy, which is also
    /// what holds without it.
    #[schemars(range(min = 1))]
    timeout_ms: Option<u64>,
    /// Whether what the program writes comes as Server-Sent Events while it runs.
    stream: Option<bool>,
}

const MEMBERS: [&str; 4] = ["code", "session", "timeout_ms", "stream"];

/// What became of a program.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SandboxExecution")]
struct Executed {
    /// Of the request and of its line in the audit.
    id: String,
    /// The execution's name in the audit, which no other one has.
    execution_id: Option<String>,
    /// How it ended: `completed`, `error` or `timeout`.
    status: Status,
    /// What the program wrote to stdout, cut at the policy's limit.
    stdout: String,
    /// What the program wrote to stderr, cut at the policy's limit.
    stderr: String,
    /// `repr()` of the program's last expression.
    value: Option<String>,
    /// The traceback, or one line that says what went wrong.
    error: Option<String>,
    /// All of it in one text, as a model would be given it.
    output: String,
    /// Wall-clock time of the run, in milliseconds.
    duration_ms: f64,
    /// Some output was cut.
    truncated: bool,
}

/// An event of a stream. After `executed` comes `[DONE]` instead.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
#[schemars(rename = "SandboxEvent")]
enum Event {
    /// The program has written to stdout. Of more than the policy's limit keeps, the beginning is told.
    Stdout { text: String },
    /// The program has written to stderr.
    Stderr { text: String },
    /// It has ended.
    Executed(Executed),
}

/// For the `OpenAPI` document.
pub(in crate::http) fn shapes(generator: &mut SchemaGenerator) -> Shapes {
    Shapes {
        request: generator.subschema_for::<Asked>(),
        whole: generator.subschema_for::<Executed>(),
        chunk: generator.subschema_for::<Event>(),
        error: dialect::ERRORS.shapes(generator).error,
    }
}

/// Reads a body: the program, and whether the answer is to be a stream. `session` is what the header says.
pub(super) fn read(body: Bytes, session: Option<String>) -> Result<(Script, bool), Failure> {
    let body = JsonObject::parse(body).map_err(|error| invalid(error.to_string()))?;
    if let Some(name) = body.names().find(|name| !MEMBERS.contains(name)) {
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let message = format!("unknown member `{name}`; known: `{}`", MEMBERS.join("`, `"));
        return Err(invalid(message).param(name));
    }
    let wanted = "a string, such as \"print(1 + 1)\"";
    let code: String = member(&body, "code", wanted)?
        .ok_or_else(|| invalid(format!("`code` is missing; it must be {wanted}")).param("code"))?;
    if code.len() > CODE_BYTES_MAX {
        let message = format!("`code` has {} bytes; at most {CODE_BYTES_MAX} are taken", code.len());
        return Err(invalid(message).param("code"));
    }
    let own_session = member(&body, "session", "a string")?;
    let script = Script { code, timeout_ms: timeout_ms(&body)?, session: session.or(own_session) };
    Ok((script, member(&body, "stream", "true or false")?.unwrap_or(false)))
}

fn timeout_ms(body: &JsonObject) -> Result<Option<u64>, Failure> {
    let wanted = "a whole number of milliseconds, 1 or more";
    // 1.0 is a whole number too: JSON does not tell them apart.
    let Some(sent) = member::<f64>(body, "timeout_ms", wanted)? else { return Ok(None) };
    if sent.fract() != 0.0 || !(1.0..=WHOLE_MAX).contains(&sent) {
        return Err(invalid(format!("`timeout_ms` is {sent}; it must be {wanted}")).param("timeout_ms"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and within 1 to 2^53")]
    Ok(Some(sent as u64))
}

fn member<'a, T: Deserialize<'a>>(body: &'a JsonObject, name: &str, wanted: &str) -> Result<Option<T>, Failure> {
    let wrong = |_| invalid(format!("`{name}` must be {wanted}")).param(name);
    body.read::<Option<T>>(name).map(Option::flatten).map_err(wrong)
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

impl From<Execution> for Executed {
    fn from(execution: Execution) -> Self {
        let Execution {
            id, execution_id, status, output, stdout, stderr, result, error, duration_ms, truncated, ..
        } = execution;
        Self { id, execution_id, status, stdout, stderr, value: result, error, output, duration_ms, truncated }
    }
}

/// A whole answer.
pub(super) fn execution(execution: Execution) -> Vec<u8> {
    json(&Executed::from(execution))
}

pub(super) fn stdout(text: String) -> Bytes {
    frame(&Event::Stdout { text })
}

pub(super) fn stderr(text: String) -> Bytes {
    frame(&Event::Stderr { text })
}

/// The end of a stream.
pub(super) fn last_event(execution: Execution) -> Bytes {
    [frame(&Event::Executed(execution.into())), sse::frame(sse::DONE)].concat().into()
}

fn frame(event: &Event) -> Bytes {
    sse::frame(&json(event))
}

/// Nothing in these types can fail to be written.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(body: &str) -> (Script, bool) {
        read(Bytes::copy_from_slice(body.as_bytes()), None).expect("a good body")
    }

    #[test]
    fn bad_members_are_named_and_their_values_are_not_quoted() {
        let long = format!(r#"{{"code":"{}"}}"#, "x".repeat(CODE_BYTES_MAX + 1));
        for (body, param) in [
            ("SECRET", None),
            (r#"["SECRET"]"#, None),
            (r#"{"code":"SECRET","code":"SECRET"}"#, None),
            ("{}", Some("code")),
            (r#"{"code":null}"#, Some("code")),
            (r#"{"code":["SECRET"]}"#, Some("code")),
            (&long, Some("code")),
            (r#"{"code":"","lang":"SECRET"}"#, Some("lang")),
            (r#"{"code":"","session":7}"#, Some("session")),
            (r#"{"code":"","stream":"SECRET"}"#, Some("stream")),
            (r#"{"code":"","timeout_ms":"SECRET"}"#, Some("timeout_ms")),
            (r#"{"code":"","timeout_ms":0}"#, Some("timeout_ms")),
            (r#"{"code":"","timeout_ms":-5}"#, Some("timeout_ms")),
            (r#"{"code":"","timeout_ms":1.5}"#, Some("timeout_ms")),
            (r#"{"code":"","timeout_ms":1e300}"#, Some("timeout_ms")),
        ] {
            let failure = read(Bytes::copy_from_slice(body.as_bytes()), None).expect_err(body);
            assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::Invalid, param), "{failure}");
            assert!(!failure.message.contains("SECRET"), "{failure}");
        }
    }

    #[test]
    fn an_unknown_name_is_given_back_in_part() {
        let failure = read(format!(r#"{{"{}":1}}"#, "x".repeat(9000)).into(), None).expect_err("unknown");
        assert!(failure.message.len() < 200, "{failure}");
    }

    #[test]
    fn null_members_are_absent_members_and_a_whole_number_may_have_a_point() {
        let script = |timeout_ms| Script { code: "1".to_owned(), timeout_ms, session: None };
        assert_eq!(taken(r#"{"code":"1","session":null,"timeout_ms":null,"stream":null}"#), (script(None), false));
        assert_eq!(taken(r#"{"code":"1","timeout_ms":250.0,"stream":true}"#), (script(Some(250)), true));
    }

    #[test]
    fn the_header_wins_over_the_member() {
        let session = |header: Option<&str>| {
            let body = Bytes::from_static(br#"{"code":"","session":"body"}"#);
            read(body, header.map(str::to_owned)).expect("a good body").0.session
        };
        assert_eq!((session(None).as_deref(), session(Some("header")).as_deref()), (Some("body"), Some("header")));
    }
}
