//! A running server's `/server_info` against a recipe.

use super::{Argument, Recipe};
use serde_json::Value;

/// One argument of the recipe, and what the server says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The argument.
    pub flag: String,
    /// What the recipe has. A switch is `true`.
    pub wanted: String,
    /// What is in force. `None`: the server does not say.
    pub running: Option<String>,
}

impl Line {
    /// It is as the recipe wants it.
    pub fn is_as_wanted(&self) -> bool {
        self.running.as_ref() == Some(&self.wanted)
    }
}

/// Every argument of which servers say what is in force; with `for_gateway` also those that a gateway makes use of.
pub fn compare(recipe: &Recipe, for_gateway: bool, info: &Value) -> Vec<Line> {
    let gateway = if for_gateway { &recipe.gateway_arguments[..] } else { &[] };
    let lines = recipe.arguments.iter().chain(gateway).filter_map(|Argument { flag, value, field }| {
        let running = info.get(field.as_ref()?).filter(|value| !value.is_null()).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let wanted = value.clone().unwrap_or_else(|| true.to_string());
        Some(Line { flag: flag.clone(), wanted, running })
    });
    lines.collect()
}
