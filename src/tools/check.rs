//! `RawCall → Checked`, or what the model must do better. The arguments are the model's, so anything at all.

use super::{Checked, Tool, Tools};
use crate::chat::RawCall;
use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Bytes of a call's arguments. Chosen: about 300 000 tokens, more than the longest context of Qwen3-Coder (262 144).
const ARGUMENTS_BYTES_MAX: usize = 1 << 20;

/// Up to this size all violations are looked for, above it one: half a million wrong array items would each become an
/// error of some 200 bytes before the first is shown. Chosen.
const ALL_VIOLATIONS_BYTES_MAX: usize = 16 << 10;

/// Violations that are told at once. Chosen: more than a model mends in one go.
const VIOLATIONS_MAX: usize = 5;

/// Characters of one violation, and of its path. Chosen: two lines of a terminal.
const PROBLEM_CHARS_MAX: usize = 200;

/// Characters of the model's own text that are quoted back, so that it finds the place. Chosen.
const QUOTED_CHARS_MAX: usize = 40;

/// Tools that are listed for a model which called another, and alternatives of an `enum`. Chosen.
const LISTED_MAX: usize = 20;

/// Why a call is not run. [`fmt::Display`] is what the model is told, after `Error: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No such tool.
    #[error("there is no tool `{name}`; known: {known}")]
    UnknownTool {
        /// As the model wrote it, cut short.
        name: String,
        /// The tools there are.
        known: String,
    },
    /// More arguments than anybody needs.
    #[error("invalid arguments: {bytes} bytes are too many; the limit is {ARGUMENTS_BYTES_MAX}")]
    TooLong {
        /// How many were sent.
        bytes: usize,
    },
    /// Not JSON.
    #[error("invalid arguments: not JSON: {why}; expected: {expected}")]
    NotJson {
        /// The parser's words, which carry nothing of the input.
        why: String,
        /// The tool's signature.
        expected: String,
    },
    /// JSON that does not fit the schema, perhaps not even an object.
    #[error("invalid arguments: {}; expected: {expected}", list(violations, *more))]
    Schema {
        /// The first few violations, at least one.
        violations: Vec<Violation>,
        /// How many more there are.
        more: usize,
        /// The tool's signature.
        expected: String,
    },
}

/// One thing that is wrong with a call's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where, as a JSON pointer; empty for the arguments as a whole.
    pub path: String,
    /// What was expected and what was there.
    pub problem: String,
}

impl Tools {
    /// Checks a call against its tool's schema. Takes time in proportion to the arguments: patterns compile to
    /// automata, and the parser goes 128 levels deep and no deeper.
    pub fn check(&self, call: &RawCall) -> Result<Checked, Invalid> {
        let Some(tool) = self.get(&call.name) else {
            let known = ticked(self.names());
            return Err(Invalid::UnknownTool { name: cut(&call.name, QUOTED_CHARS_MAX), known });
        };
        let arguments = arguments_of(tool, &call.arguments)?;
        Ok(Checked { tool: Arc::clone(tool), id: call.id.clone(), arguments })
    }
}

fn arguments_of(tool: &Tool, text: &str) -> Result<Map<String, Value>, Invalid> {
    if text.len() > ARGUMENTS_BYTES_MAX {
        return Err(Invalid::TooLong { bytes: text.len() });
    }
    let expected = || tool.signature.clone();
    // Models send nothing at all for a tool that takes nothing, and backends pass that on.
    let arguments = if text.trim().is_empty() { Ok(Value::Object(Map::new())) } else { serde_json::from_str(text) };
    let arguments: Value =
        arguments.map_err(|error| Invalid::NotJson { why: error.to_string(), expected: expected() })?;
    match (tool.validator.is_valid(&arguments), arguments) {
        (true, Value::Object(arguments)) => Ok(arguments),
        // Every schema asks for an object, so this is also where anything else ends.
        (_, arguments) => {
            let (violations, more) = violations(tool, &arguments, text.len() <= ALL_VIOLATIONS_BYTES_MAX);
            Err(Invalid::Schema { violations, more, expected: expected() })
        }
    }
}

fn violations(tool: &Tool, arguments: &Value, all: bool) -> (Vec<Violation>, usize) {
    if !all {
        return (tool.validator.validate(arguments).err().iter().map(violation).collect(), 0);
    }
    let mut errors = tool.validator.iter_errors(arguments);
    let violations = errors.by_ref().take(VIOLATIONS_MAX).map(|error| violation(&error)).collect();
    (violations, errors.count())
}

fn violation(error: &ValidationError<'_>) -> Violation {
    Violation {
        path: cut(error.instance_path().as_str(), PROBLEM_CHARS_MAX),
        problem: cut(&problem(error), PROBLEM_CHARS_MAX),
    }
}

fn problem(error: &ValidationError<'_>) -> String {
    let got = got(error.instance());
    match error.kind() {
        ValidationErrorKind::Required { property } => format!("missing required property {property}"),
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            format!("unknown property {}", commas(unexpected.iter().map(|name| quoted(name))))
        }
        ValidationErrorKind::Type { kind: TypeKind::Single(name) } => {
            format!("expected {}, got {got}", with_article(name.as_str()))
        }
        ValidationErrorKind::Type { kind: TypeKind::Multiple(names) } => {
            let names: Vec<_> = names.iter().map(|name| with_article(name.as_str())).collect();
            format!("expected {}, got {got}", names.join(" or "))
        }
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            format!("expected one of {}, got {got}", commas(options.iter().map(Value::to_string)))
        }
        // The crate's words for the rest are good ones, as long as the value is not quoted in full.
        _ => format!("{}, got {got}", error.masked()),
    }
}

/// A value in a few words. Never a whole one: it may be a megabyte.
fn got(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(it) => format!("a boolean ({it})"),
        Value::Number(it) if it.is_f64() => format!("a number ({it})"),
        Value::Number(it) => format!("an integer ({it})"),
        Value::String(it) => format!("a string ({})", quoted(it)),
        Value::Array(it) => format!("an array of {}", it.len()),
        Value::Object(it) => format!("an object of {}", it.len()),
    }
}

fn with_article(kind: &str) -> String {
    match kind {
        "null" => kind.to_owned(),
        "array" | "integer" | "object" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// Text of the model's, as a JSON string cut short.
fn quoted(text: &str) -> String {
    Value::String(cut(text, QUOTED_CHARS_MAX)).to_string()
}

/// The first characters of a text, with a mark where more followed.
fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn commas(items: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    for (at, item) in items.enumerate() {
        match at {
            0 => out += &item,
            LISTED_MAX => return out + ", …",
            _ => out = out + ", " + &item,
        }
    }
    out
}

fn ticked<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names = commas(names.map(|name| format!("`{name}`")));
    if names.is_empty() { "none".to_owned() } else { names }
}

fn list(violations: &[Violation], more: usize) -> String {
    let mut parts: Vec<_> = violations.iter().map(ToString::to_string).collect();
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return out.write_str(&self.problem);
        }
        write!(out, "at {}: {}", self.path, self.problem)
    }
}

/// The arguments that a schema asks for in one short line, such as `{"city": string, "unit"?: "C" | "F"}`.
pub(super) fn signature(schema: &Value) -> String {
    let required = |name: &str| {
        schema["required"].as_array().is_some_and(|names| names.iter().any(|other| other.as_str() == Some(name)))
    };
    let members = schema["properties"].as_object().into_iter().flatten().map(|(name, of)| {
        let optional = if required(name) { "" } else { "?" };
        format!("{}{optional}: {}", Value::from(name.as_str()), kind(of))
    });
    format!("{{{}}}", commas(members))
}

fn kind(schema: &Value) -> String {
    let bars = |items: &[Value], show: fn(&Value) -> String| items.iter().map(show).collect::<Vec<_>>().join(" | ");
    if let Some(options) = schema["enum"].as_array() {
        return cut(&bars(options, Value::to_string), PROBLEM_CHARS_MAX);
    }
    match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => bars(names, |name| name.as_str().unwrap_or_default().to_owned()),
        _ => "any".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::tests::tools;
    use super::*;
    use proptest::prelude::*;

    fn told(name: &str, arguments: &str) -> String {
        let call = RawCall { id: "c1".to_owned(), name: name.to_owned(), arguments: arguments.to_owned() };
        tools().check(&call).expect_err("an invalid call").to_string()
    }

    #[test]
    fn an_unknown_tool_is_told_the_known_ones() {
        assert_eq!(told("exec", "{}"), "there is no tool `exec`; known: `execute_code`, `weather`");
        assert!(told(&"x".repeat(100_000), "{}").len() < 200);
    }

    #[test]
    fn arguments_that_are_no_object_are_refused() {
        for (arguments, expected) in [
            (r#"{"code": "#, "not JSON: EOF while parsing a value at line 1 column 9"),
            ("{} {}", "not JSON: trailing characters at line 1 column 4"),
            ("\"print(1)\"", "expected an object, got a string (\"print(1)\")"),
            ("[1,2]", "expected an object, got an array of 2"),
            ("null", "expected an object, got null"),
        ] {
            let expected = format!("invalid arguments: {expected}; expected: {{\"code\": string}}");
            assert_eq!(told("execute_code", arguments), expected);
        }
        assert!(told("execute_code", &"[".repeat(100_000)).contains("recursion limit exceeded"));
        assert_eq!(
            told("execute_code", &" ".repeat(ARGUMENTS_BYTES_MAX + 1)),
            "invalid arguments: 1048577 bytes are too many; the limit is 1048576"
        );
    }

    #[test]
    fn every_violation_names_its_place_and_both_sides() {
        for (name, arguments, expected) in [
            ("execute_code", r#"{"code": 42}"#, "at /code: expected a string, got an integer (42)"),
            ("execute_code", r#"{"code": null}"#, "at /code: expected a string, got null"),
            ("execute_code", r#"{"Code": "1"}"#, "missing required property \"code\""),
            ("execute_code", "", "missing required property \"code\""),
            (
                "weather",
                r#"{"city": "", "days": 1.5, "unit": "K", "x": 1}"#,
                "at /city: value is shorter than 1 character, got a string (\"\"); \
                 at /days: expected null or an integer, got a number (1.5); \
                 at /unit: expected one of \"C\", \"F\", got a string (\"K\"); unknown property \"x\"",
            ),
            (
                "weather",
                r#"{"city": "a", "days": 99}"#,
                "at /days: value is greater than the maximum of 14, got an integer (99)",
            ),
        ] {
            let told = told(name, arguments);
            let signature = match name {
                "weather" => r#"{"city": string, "days"?: integer | null, "unit"?: "C" | "F", "tags"?: array}"#,
                _ => r#"{"code": string}"#,
            };
            assert_eq!(told, format!("invalid arguments: {expected}; expected: {signature}"));
        }
    }

    #[test]
    fn what_is_told_stays_short_whatever_was_sent() {
        let long = "x".repeat(ALL_VIOLATIONS_BYTES_MAX / 4);
        let wrong_items = format!(r#"{{"city": "a", "tags": [{}]}}"#, vec!["1"; 1000].join(","));
        for (name, arguments) in [
            ("execute_code", format!(r#"{{"code": ["{long}"]}}"#)),
            ("weather", format!(r#"{{"city": "a", "{long}": 1}}"#)),
            ("weather", format!(r#"{{"city": "a", "unit": "{long}"}}"#)),
            ("weather", wrong_items.clone()),
            ("weather", wrong_items.replace('1', &"1,".repeat(400).trim_end_matches(',').replace(',', ", "))),
        ] {
            let told = told(name, &arguments);
            assert!(told.len() < 1000, "{} bytes: {told}", told.len());
        }
        assert!(told("weather", &wrong_items).contains("; and 995 more; expected: "));
    }

    #[test]
    fn a_call_that_fits_is_checked() {
        let check = |name: &str, arguments: &str| {
            let call = RawCall { id: "c1".to_owned(), name: name.to_owned(), arguments: arguments.to_owned() };
            tools().check(&call).expect("a valid call")
        };
        let code = check("execute_code", r#"{"code": "print(1)", "extra": 1}"#);
        assert_eq!((code.id(), code.tool().name.as_str()), ("c1", "execute_code"));
        assert_eq!(code.program(), ("print(1)", None));

        let weather = check("weather", r#"{"city": "Oslo", "days": 3, "unit": "C"}"#);
        let (program, arguments) = weather.program();
        assert_eq!(program, "arguments['city']\n");
        assert_eq!(arguments, Some(weather.arguments()));
        assert_eq!(weather.arguments()["days"], 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_model_sends_is_checked_or_told_in_short(
            name in "execute_code|weather|.{0,9}",
            text in r#"\PC{0,60}|\{"(city|code|x)": ("\PC{0,300}"|[0-9\[\]{}]{0,9})\}"#,
        ) {
            let call = RawCall { id: "c1".to_owned(), name, arguments: text };
            if let Err(invalid) = tools().check(&call) {
                prop_assert!(invalid.to_string().chars().count() < 1000);
            }
        }
    }
}
