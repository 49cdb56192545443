//! What the model may call: reads `tools/`, compiles schemas; `RawCall → Checked`.

mod check;
mod example;
mod load;
mod same;

pub use check::{Invalid, Violation};
pub use example::{Example, Expect};
pub use load::LoadError;
pub(crate) use load::{entries, file_name, read_toml};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the tools are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder that holds one folder per tool.
    pub dir: PathBuf,
}

/// All tools, by name.
#[derive(Debug)]
pub struct Tools {
    by_name: BTreeMap<String, Arc<Tool>>,
}

/// A tool of `tools/`. Only [`Tools::load`] makes one, so what its parts promise each other holds.
#[derive(Debug)]
pub struct Tool {
    /// Its name, which is its folder's.
    pub name: String,
    /// What the model is told about it.
    pub description: String,
    /// The JSON schema (draft 2020-12) of its arguments, always of an object.
    pub schema: Value,
    /// How a call becomes a program.
    pub program: Program,
    /// What of one call the next one finds.
    pub state: State,
    /// Calls with known outcomes.
    pub examples: Vec<Example>,
    declaration: Bytes,
    /// The arguments in one short line, for a model that got them wrong.
    signature: String,
    validator: jsonschema::Validator,
}

/// How a tool's call becomes a program for the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Program {
    /// The named string argument is the program (`execute_code`).
    Argument(String),
    /// The text of the tool's `program.py`, which finds the call's arguments in the variable `arguments`, a dict.
    File(Arc<str>),
}

/// What of one call the next one finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The calls of a turn share an interpreter and run one after the other.
    Turn,
    /// Nothing: each call has an interpreter of its own, and several run side by side.
    None,
}

/// A call whose arguments fit its tool's schema. Only [`Tools::check`] makes one.
#[derive(Debug, Clone)]
pub struct Checked {
    tool: Arc<Tool>,
    id: String,
    arguments: Map<String, Value>,
}

impl Tools {
    /// The tool of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Tool>> {
        self.by_name.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// All tools, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.by_name.values()
    }
}

impl Tool {
    /// The tool as an element of a request's `tools` array, as JSON text.
    pub fn declaration(&self) -> Bytes {
        self.declaration.clone()
    }

    /// Whether a function that a client brings is this very tool: same name, same schema. What `description`s say
    /// may differ, for clients translate and shorten them.
    pub fn matches(&self, name: &str, parameters: &Value) -> bool {
        self.name == name && same::same_schema(&self.schema, parameters)
    }
}

impl Checked {
    /// The call's tool.
    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    /// The call's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its arguments, valid against the tool's schema.
    pub fn arguments(&self) -> &Map<String, Value> {
        &self.arguments
    }

    /// The program that the guest runs, and the arguments it finds: `None` when the program is itself the argument.
    pub fn program(&self) -> (&str, Option<&Map<String, Value>>) {
        match &self.tool.program {
            // `load` made sure that the schema requires the argument and that it is a string.
            Program::Argument(name) => (self.arguments.get(name).and_then(Value::as_str).unwrap_or_default(), None),
            Program::File(text) => (text, Some(&self.arguments)),
        }
    }
}
