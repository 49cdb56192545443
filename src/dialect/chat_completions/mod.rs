//! `/v1/chat/completions`.

mod error;
mod read;
mod schema;
mod streamed;
mod whole;

use super::{Dialect, Form, Shapes, Stamp, Writer};
use crate::chat::{Ask, Ending, Execute, Failure, FailureKind};
use bytes::Bytes;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;

/// OpenAI's chat completions, as SGLang and the clients speak them.
pub(super) struct ChatCompletions;

impl Dialect for ChatCompletions {
    fn path(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn read(&self, body: Bytes, execute: Option<Execute>) -> Result<(Ask, Form), Failure> {
        read::read(body, execute)
    }

    fn writer(&self, stamp: Stamp, form: Form) -> Box<dyn Writer> {
        if form.stream {
            Box::new(streamed::Streamed::new(stamp, form.include_usage))
        } else {
            Box::new(whole::Whole::new(stamp))
        }
    }

    fn sign_of_life(&self, stamp: &Stamp) -> Bytes {
        streamed::sign_of_life(stamp)
    }

    fn shapes(&self, generator: &mut SchemaGenerator) -> Shapes {
        schema::shapes(generator)
    }

    fn error(&self, failure: &Failure) -> Bytes {
        error::body(failure)
    }

    fn error_names(&self, kind: FailureKind) -> (&'static str, Option<&'static str>) {
        error::names(kind)
    }

    fn error_in_stream(&self, failure: &Failure) -> Bytes {
        error::in_stream(failure)
    }
}

/// What the gateway did, under a name that clients ignore.
#[derive(Serialize, JsonSchema)]
struct Summary<'a> {
    request_id: &'a str,
    rounds: u32,
    stop: &'static str,
    usage_total: crate::chat::Usage,
    restored: u32,
    backend: &'a str,
}

impl<'a> Summary<'a> {
    fn of(stamp: &'a Stamp, ending: &'a Ending) -> Self {
        Self {
            request_id: &stamp.request_id,
            rounds: ending.rounds,
            stop: ending.stop.as_str(),
            usage_total: ending.usage_total,
            restored: ending.restored,
            backend: &ending.backend,
        }
    }
}

/// An execution as a client sees it: the fields of Groq's `executed_tools`, and what else is known.
#[derive(Serialize, JsonSchema)]
struct ExecutedTool {
    index: usize,
    r#type: &'static str,
    #[serde(flatten)]
    execution: crate::chat::Execution,
}

impl ExecutedTool {
    fn new(index: usize, execution: crate::chat::Execution) -> Self {
        Self { index, r#type: "function", execution }
    }
}

/// One of the client's own calls, complete. `index` is for streams only.
#[derive(Serialize)]
struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: &'a str,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> ToolCall<'a> {
    fn new(index: Option<usize>, call: &'a crate::chat::RawCall) -> Self {
        let function = Function { name: &call.name, arguments: &call.arguments };
        Self { index, id: &call.id, r#type: "function", function }
    }
}

/// JSON of our own types, which cannot fail to serialise.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
