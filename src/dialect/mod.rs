//! The wire formats that clients speak: a body becomes an [`Ask`], events become bytes.

mod chat_completions;

use crate::chat::{Ask, Event, Execute, Failure, FailureKind};
use bytes::Bytes;
use schemars::{Schema, SchemaGenerator};
use std::sync::Arc;

/// A client API. One file each; everything that knows them reads [`ALL`].
pub trait Dialect: Send + Sync {
    /// Its path.
    fn path(&self) -> &'static str;

    /// Reads a request. `execute` is what the header `x-loopgate-execute` says; it wins over the body.
    ///
    /// # Errors
    /// When the body is no request of this API. The message says what is wrong with which member.
    fn read(&self, body: Bytes, execute: Option<Execute>) -> Result<(Ask, Form), Failure>;

    /// A writer for one answer.
    fn writer(&self, stamp: Stamp, form: Form) -> Box<dyn Writer>;

    /// What a stream is sent that a backend is going to write and has not begun: an event that says nothing.
    fn sign_of_life(&self, stamp: &Stamp) -> Bytes;

    /// What goes over the wire, for the `OpenAPI` document.
    fn shapes(&self, generator: &mut SchemaGenerator) -> Shapes;

    /// A failure as this API's error body.
    fn error(&self, failure: &Failure) -> Bytes;

    /// What this API calls such a failure: its `type`, and its `code` if it has one.
    fn error_names(&self, kind: FailureKind) -> (&'static str, Option<&'static str>);

    /// A failure as the rest of a stream that has already begun.
    fn error_in_stream(&self, failure: &Failure) -> Bytes;
}

/// Turns the events of one turn into bytes.
pub trait Writer: Send {
    /// The bytes that this event sends, which may be none.
    fn hear(&mut self, event: Event) -> Bytes;

    /// Bytes that say nothing but that the answer is still coming.
    fn heartbeat(&mut self) -> Bytes;
}

/// All APIs.
pub static ALL: &[&dyn Dialect] = &[&chat_completions::ChatCompletions];

/// In whose words errors are told where no API is spoken: every client knows OpenAI's.
pub static ERRORS: &dyn Dialect = &chat_completions::ChatCompletions;

/// The schemas of an API.
pub struct Shapes {
    /// A request's body.
    pub request: Schema,
    /// A whole answer.
    pub whole: Schema,
    /// An event of a stream.
    pub chunk: Schema,
    /// A failure.
    pub error: Schema,
}

/// How a client wants its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// As a stream of events.
    pub stream: bool,
    /// With a last event of token counts.
    pub include_usage: bool,
}

/// What all chunks of one answer share.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The request's id.
    pub request_id: Arc<str>,
    /// Seconds since 1970.
    pub created: i64,
    /// The model's name as the client wrote it.
    pub model: String,
}
