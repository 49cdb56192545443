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
    wanted.chain(absent).filter_map(|(argument, wanted)| line(argument, wanted, info)).collect()
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
