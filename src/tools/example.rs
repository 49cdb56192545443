//! Calls with known outcomes. `loopgate check` runs them through the real sandbox.

use super::Tool;
use crate::chat::{Execution, RawCall, Status};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One file of a tool's `examples/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// The call's arguments.
    pub arguments: Map<String, Value>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
}

/// What must come of an example's call. What is left out may be anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// How the call ends; `completed` when left out.
    pub status: Status,
    /// `repr()` of the last expression, whole.
    pub value: Option<String>,
    /// What was written to stdout, whole.
    pub stdout: Option<String>,
    /// A part of the error.
    pub error: Option<String>,
}

impl Default for Expect {
    fn default() -> Self {
        Self { status: Status::Completed, value: None, stdout: None, error: None }
    }
}

impl Example {
    /// The example as a model would send it.
    pub fn call(&self, tool: &Tool) -> RawCall {
        let arguments = Value::Object(self.arguments.clone()).to_string();
        RawCall { id: format!("example_{}", self.name), name: tool.name.clone(), arguments }
    }
}

impl Expect {
    /// The first difference between this and what became of the call, in words.
    pub fn unmet(&self, got: &Execution) -> Option<String> {
        if self.status != got.status {
            let why = got.error.as_deref().unwrap_or(&got.output);
            return Some(format!("expected `{}`, got `{}`: {why}", self.status.as_str(), got.status.as_str()));
        }
        if let Some(value) = &self.value
            && Some(value) != got.result.as_ref()
        {
            return Some(format!("expected the value `{value}`, got `{}`", got.result.as_deref().unwrap_or("none")));
        }
        if let Some(stdout) = &self.stdout
            && *stdout != got.stdout
        {
            return Some(format!("expected {stdout:?} on stdout, got {:?}", got.stdout));
        }
        let error = got.error.as_deref().unwrap_or_default();
        match &self.error {
            Some(part) if !error.contains(part) => Some(format!("expected an error with `{part}`, got `{error}`")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution() -> Execution {
        Execution {
            id: "c".to_owned(),
            execution_id: None,
            name: "t".to_owned(),
            arguments: "{}".to_owned(),
            status: Status::Error,
            output: String::new(),
            stdout: "a\n".to_owned(),
            stderr: String::new(),
            result: None,
            error: Some("ZeroDivisionError: division by zero".to_owned()),
            duration_ms: 1.0,
            truncated: false,
            round: 1,
        }
    }

    #[test]
    fn each_expectation_that_is_not_met_is_named() {
        let unmet = |toml: &str| toml::from_str::<Expect>(toml).expect("an expectation").unmet(&execution());
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(unmet(""), is("expected `completed`, got `error`: ZeroDivisionError: division by zero"));
        assert_eq!(unmet("status = 'error'\nvalue = '1'"), is("expected the value `1`, got `none`"));
        assert_eq!(unmet("status = 'error'\nstdout = 'b'"), is("expected \"b\" on stdout, got \"a\\n\""));
        assert_eq!(
            unmet("status = 'error'\nerror = 'KeyError'"),
            is("expected an error with `KeyError`, got `ZeroDivisionError: division by zero`")
        );
        assert_eq!(unmet("status = 'error'\nstdout = \"a\\n\"\nerror = 'ZeroDivisionError'"), None);
    }
}
