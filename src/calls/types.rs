//! The types that the request's tools want for their parameters.
//!
//! Qwen3-Coder writes every value as bare text, so only the schema tells `42` the number from `42` the program.
//! SGLang 0.5.7 does not ask the schema and guesses; what it guessed wrong is put right here, too.

use crate::chat::ToolSpec;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// The names of a request's tools and the types of their parameters. Made once for a request; a clone shares it.
#[derive(Debug, Clone)]
pub struct Signatures(Arc<[Arc<Signature>]>);

#[derive(Debug)]
pub(super) struct Signature {
    pub(super) name: String,
    parameters: HashMap<String, Types>,
}

/// A set of JSON types. Empty: the schema does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types(u8);

const STRING: u8 = 1;
const NUMBER: u8 = 2;
const BOOLEAN: u8 = 4;
const NULL: u8 = 8;
const ARRAY: u8 = 16;
const OBJECT: u8 = 32;

/// How many (sub)schemas are read for one parameter. Chosen; schemas come from clients and may refer to themselves.
const SCHEMAS_MAX: u32 = 64;

impl Signatures {
    /// Reads them from the tools' schemas.
    pub fn of(tools: &[ToolSpec]) -> Self {
        Self(tools.iter().map(|tool| Arc::new(Signature::of(tool))).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Signature>> {
        self.0.iter().find(|tool| tool.name == name)
    }

    /// Whether some tool's name begins so.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        self.0.iter().any(|tool| tool.name.starts_with(prefix))
    }

    /// The arguments of a call with text put back where the schema wants a string and something else stands there.
    /// `None` when there is nothing to repair, or they are no JSON object.
    pub(super) fn repair(&self, tool: &str, arguments: &str) -> Option<String> {
        let signature = self.get(tool)?;
        let mut members: Map<String, Value> = serde_json::from_str(arguments).ok()?;
        let mut repaired = false;
        for (name, value) in &mut members {
            let types = signature.types(name);
            if types.has(STRING) && !types.fit(value) {
                *value = Value::String(as_written(value));
                repaired = true;
            }
        }
        repaired.then(|| Value::Object(members).to_string())
    }
}

impl Signature {
    fn of(tool: &ToolSpec) -> Self {
        let root = tool.parameters.as_ref().unwrap_or(&Value::Null);
        let properties = root.get("properties").and_then(Value::as_object);
        let parameters = properties.into_iter().flatten().map(|(name, schema)| {
            let mut budget = SCHEMAS_MAX;
            (name.clone(), Types(types(schema, root, &mut budget)))
        });
        Self { name: tool.name.clone(), parameters: parameters.collect() }
    }

    fn types(&self, parameter: &str) -> Types {
        self.parameters.get(parameter).copied().unwrap_or(Types(0))
    }

    /// What a parameter's bare text means: itself where a string will do, else the JSON that it is. Text that is
    /// nothing of what the schema wants stays text, so that the schema's check can tell the model.
    pub(super) fn value(&self, parameter: &str, text: &str) -> Value {
        let types = self.types(parameter);
        let word = text.trim_ascii();
        if types.has(NULL) && word == "null" {
            return Value::Null;
        }
        let value = match word {
            _ if types == Types(0) || types.has(STRING) => None,
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            _ => serde_json::from_str(word).ok(),
        };
        value.filter(|value| types.fit(value)).unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

impl Types {
    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    fn fit(self, value: &Value) -> bool {
        self.has(type_of(value))
    }
}

fn type_of(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(_) => NUMBER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

/// The types that `schema` allows, as far as it says so outright.
fn types(schema: &Value, root: &Value, budget: &mut u32) -> u8 {
    if *budget == 0 {
        return 0;
    }
    *budget -= 1;
    match schema.get("type") {
        Some(Value::String(name)) => return named(name),
        Some(Value::Array(names)) => {
            return names.iter().filter_map(Value::as_str).fold(0, |set, name| set | named(name));
        }
        _ => {}
    }
    let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten().chain(schema.get("const"));
    let mut set = values.fold(0, |set, value| set | type_of(value));
    for branches in ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()) {
        for branch in branches {
            set |= types(branch, root, budget);
        }
    }
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?));
    set | target.map_or(0, |target| types(target, root, budget))
}

fn named(name: &str) -> u8 {
    match name {
        "string" => STRING,
        "integer" | "number" => NUMBER,
        "boolean" => BOOLEAN,
        "null" => NULL,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => 0,
    }
}

/// The text that SGLang 0.5.7 took for `value`. It reads text as a Python literal, so words are Python's.
fn as_written(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}
