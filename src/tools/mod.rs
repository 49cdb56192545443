//! What the model may call: reads `tools/`, compiles schemas; `RawCall → Checked`.

use serde_json::{Map, Value};
use std::sync::Arc;

/// How a tool's call becomes a program for the guest.
#[derive(Debug, Clone, PartialEq)]
pub enum Program {
    /// The named string argument is the program (`execute_code`).
    Argument(String),
    /// The text of the tool's `program.py`, which finds the call's arguments in the variable `arguments`, a dict.
    File(Arc<str>),
}

/// A tool of `tools/`.
#[derive(Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// How a call becomes a program.
    pub program: Program,
}

/// A call whose arguments fit its tool's schema. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Checked {
    tool: Arc<Tool>,
    id: String,
    arguments: Map<String, Value>,
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
    /// The program that the guest runs: `(source, arguments)`; arguments are `None` when the program is itself the argument.
    pub fn program(&self) -> (&str, Option<&Map<String, Value>>) {
        match &self.tool.program {
            Program::Argument(name) => (self.arguments.get(name).and_then(Value::as_str).unwrap_or_default(), None),
            Program::File(text) => (text, Some(&self.arguments)),
        }
    }
}
