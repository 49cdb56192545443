//! One program, what it may use, and what it depends on beside itself.

use super::wasi::Conditions;
use crate::policy::Limits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub source: String,
    /// A JSON object, for a program that is not the model's own but a tool's.
    pub arguments: Option<String>,
    pub limits: Limits,
    pub conditions: Conditions,
}
