//! One program, what it may use, and what it depends on beside itself.

use super::wasi::Conditions;
use crate::policy::{Limits, Permit};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub source: String,
    /// A JSON object, for a program that is not the model's own but a tool's.
    pub arguments: Option<String>,
    pub limits: Limits,
    pub conditions: Conditions,
}

impl Job {
    /// What a call asks for, as it was permitted.
    pub fn of(permit: &Permit, conditions: Conditions) -> Self {
        let (source, arguments) = permit.checked().program();
        let arguments = arguments.map(|object| serde_json::Value::Object(object.clone()).to_string());
        Self { source: source.to_owned(), arguments, limits: *permit.limits(), conditions }
    }
}
