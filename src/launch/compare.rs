//! A running server's `/server_info` against a recipe.

use super::{Argument, Recipe};
use serde_json::Value;

/// One argument of the rules: what the recipe has for it, and what the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The argument.
    pub flag: String,
    /// What the recipe has. A switch is `true`. `None`: it is not to be set.
    pub wanted: Option<String>,
    /// What is in force. `None`: it is not set, or the server does not say.
    pub running: Option<String>,
    /// Whether the server says anything of it.
    pub said: bool,
}

impl Line {
    /// It is as the recipe wants it.
    pub fn is_as_wanted(&self) -> bool {
        self.running == self.wanted
    }
}

/// Every argument of which servers say what is in force, whether the recipe sets it or not; with `for_gateway` also those
/// that a gateway makes use of.
pub fn compare(recipe: &Recipe, for_gateway: bool, info: &Value) -> Vec<Line> {
    let gateway = if for_gateway { &recipe.gateway_arguments[..] } else { &[] };
    let wanted = recipe.arguments.iter().chain(gateway).map(|it| (it, Some(it.value.as_deref().unwrap_or("true"))));
    let absent = recipe.absent_arguments.iter().map(|it| (it, None));
    let command = info["launch_command"].as_str();
    let excused = |line: Line, argument: &Argument| match command {
        Some(command) if is_given_as_wanted(argument, line.wanted.as_deref(), command) => {
            Line { running: line.wanted.clone(), ..line }
        }
        _ => line,
    };
    let lines = wanted.chain(absent);
    lines.filter_map(|(argument, wanted)| Some(excused(line(argument, wanted, info)?, argument))).collect()
}

/// Whether the server was started as the recipe wants it, whatever it has made of that: by the GPU, SGLang resolves what is
/// not given, and some of what is, to something else. It tells of its command since 0.5.23, without quotes.
fn is_given_as_wanted(argument: &Argument, wanted: Option<&str>, command: &str) -> bool {
    let canonical = argument.field.as_ref().map(|field| format!("--{}", field.replace('_', "-")));
    let is_it = |name: &str| name == argument.flag || Some(name) == canonical.as_deref();
    let mut words = command.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if is_it(name) {
            let value = value.or_else(|| words.peek().copied().filter(|next| !next.starts_with("--")));
            return wanted == Some(value.unwrap_or("true"));
        }
    }
    wanted.is_none()
}

fn line(argument: &Argument, wanted: Option<&str>, info: &Value) -> Option<Line> {
    let said = |field: &String| match info.get(field)? {
        Value::Null | Value::Bool(false) => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let field = argument.field.as_ref()?;
    let mut running = said(field);
    // Weights from a folder of this machine's are known by the name that they are served under.
    let other = argument.or_field.as_ref().and_then(said).filter(|other| Some(other.as_str()) == wanted);
    running = other.or(running);
    if wanted.is_none() {
        running = running.filter(|running| Some(running) != argument.unset.as_ref());
    }
    Some(Line {
        flag: argument.flag.clone(),
        wanted: wanted.map(str::to_owned),
        running,
        said: info.get(field).is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_was_started_with_counts_and_not_what_it_made_of_that() {
        let argument = |flag: &str, field: &str| Argument {
            flag: flag.to_owned(),
            value: None,
            field: Some(field.to_owned()),
            or_field: None,
            unset: None,
        };
        let command = "--model-path m --enable-dp-attention --ep-size=2 --page-size 32 --quantization modelopt_fp4";
        for (flag, field, wanted, as_wanted) in [
            ("--model", "model_path", Some("m"), true),
            ("--model", "model_path", Some("n"), false),
            ("--enable-dp-attention", "enable_dp_attention", Some("true"), true),
            ("--ep", "ep_size", Some("2"), true),
            ("--page-size", "page_size", None, false),
            ("--tp", "tp_size", None, true),
            ("--tp", "tp_size", Some("8"), false),
        ] {
            assert_eq!(is_given_as_wanted(&argument(flag, field), wanted, command), as_wanted, "{flag} {wanted:?}");
        }
    }
}
