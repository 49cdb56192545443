//! A request on which the gateway cannot act, or which it does not even read: handed on whole, and its answer handed back
//! as it comes.

use super::Call;
use super::attempts::Attempts;
use super::backend::Seat;
use super::balance::{Prefix, Request};
use super::client::{Client, Patience, Sent, Target};
use super::pool::Pool;
use super::raw::{Form, LAST_FRAME, Raw};
use super::source::{Reading, Source};
use super::splice::Splice;
use super::trouble::Trouble;
use crate::chat::{Ask, Failure};
use bytes::Bytes;
use http::{HeaderValue, Method};
use std::borrow::Cow;
use std::sync::Arc;

/// A request that is handed on as it is.
#[derive(Debug, Clone)]
pub struct Plain {
    /// How it is asked.
    pub method: Method,
    /// Where, with the query.
    pub path: String,
    /// What the client says that its body is.
    pub content_type: Option<HeaderValue>,
    /// The pieces of the body.
    pub body: Vec<Bytes>,
    /// The model, by the name that [`Pool::resolve`] gave. Without one, any backend will do.
    pub model: Option<String>,
    /// The body is what a model reads, so that one that begins alike is best sent to the same backend.
    pub is_prompt: bool,
    /// Who asks.
    pub caller: String,
}

/// An answer that is passed through. Dropping it before its end aborts the request at the backend.
pub struct Forwarded {
    /// As the backend sent it.
    pub content_type: Option<HeaderValue>,
    /// As events, of which only whole ones are handed on.
    pub streamed: bool,
    attempts: Attempts,
    source: Source<Raw>,
    over: bool,
    /// Where another backend could go on.
    continuable: Option<Box<Continuable>>,
}

/// What is needed to go on.
struct Continuable {
    ask: Ask,
    rid: String,
    splice: Splice,
}

impl Pool {
    /// Makes one request as it is. With a `rid` it can be aborted, and a stream continued when its backend dies.
    /// `streamed` says what form of answer it asks for.
    ///
    /// # Errors
    /// When every backend that may be tried has failed, or the request itself is refused.
    pub async fn forward(
        self: &Arc<Self>,
        call: Call<'_>,
        rid: Option<&str>,
        streamed: bool,
    ) -> Result<Forwarded, Failure> {
        let mut attempts = self.attempts(call, None).await?;
        let form = if streamed { Form::Stream } else { Form::Completion };
        let sent = || Sent::chat(rid, call.ask.body.render());
        let source = Source::begin(&mut attempts, form, sent).await?;
        let continuable = rid
            .filter(|_| streamed && attempts.has_others())
            .map(|rid| Box::new(Continuable { ask: call.ask.clone(), rid: rid.to_owned(), splice: Splice::default() }));
        Ok(Forwarded::new(attempts, source, continuable))
    }

    /// Makes one request of which the gateway knows little more than its path. Whether its answer is a stream, the answer
    /// says.
    ///
    /// # Errors
    /// As [`Pool::forward`].
    pub async fn forward_plain(self: &Arc<Self>, plain: &Plain) -> Result<Forwarded, Failure> {
        let model = plain.model.as_deref().unwrap_or_default();
        let prefix = if plain.is_prompt && self.snapshot().policy.reads {
            // In pieces it is only where the model's name was put in.
            let body = match &plain.body[..] {
                [whole] => Cow::Borrowed(&whole[..]),
                pieces => Cow::Owned(pieces.concat()),
            };
            Prefix::of(model, b"", &body)
        } else {
            Prefix::default()
        };
        let mut attempts = Attempts::new(self.clone(), model, &plain.caller, Request { prefix, ..Request::default() });
        let sent = || Sent {
            method: plain.method.clone(),
            path: &plain.path,
            content_type: plain.content_type.clone(),
            rid: None,
            pieces: plain.body.clone(),
        };
        let source = Source::begin(&mut attempts, Form::Either, sent).await?;
        Ok(Forwarded::new(attempts, source, None))
    }
}

impl Forwarded {
    fn new(attempts: Attempts, source: Source<Raw>, continuable: Option<Box<Continuable>>) -> Self {
        let (content_type, streamed) = (source.reading.content_type(), source.reading.is_streamed());
        Self { content_type, streamed, attempts, source, over: false, continuable }
    }

    /// The next bytes for the client: whole frames of a stream, anything of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        while !self.over {
            match self.source.next(&self.attempts).await {
                Some(Ok(bytes)) => {
                    let out = match &mut self.continuable {
                        Some(it) => it.splice.pass(bytes),
                        None => bytes,
                    };
                    if !out.is_empty() {
                        return Some(Ok(out));
                    }
                }
                // Boxed, since it is large and rare: what is awaited for every chunk is moved for every chunk.
                Some(Err(trouble)) => match Box::pin(self.go_on(trouble)).await {
                    Ok(None) => {}
                    Ok(Some(last)) => return Some(Ok(last)),
                    Err(failure) => return Some(Err(failure)),
                },
                None => {
                    self.source.seat.succeeded();
                    self.over = true;
                }
            }
        }
        None
    }

    /// Has another backend go on, or the same one if it comes back. Gives the last bytes instead of what was complete.
    async fn go_on(&mut self, trouble: Trouble) -> Result<Option<Bytes>, Failure> {
        let failure = trouble.failure.clone();
        let tried = self.attempts.failed(&mut self.source.seat, trouble);
        let Some(Continuable { ask, rid, splice }) = self.continuable.as_deref_mut() else { return Err(failure) };
        let mut told = splice.cut();
        if told.is_over() {
            // Whatever it was about, the client has its answer.
            self.over = true;
            return Ok(Some(Bytes::from_static(LAST_FRAME)));
        }
        tried?;
        let rest = told.rest_of(ask).map_err(|why| {
            tracing::info!(rid, why, "a cut answer is not continued");
            failure
        })?;
        let sent = || Sent::chat(Some(rid), rest.render());
        self.source = Source::begin(&mut self.attempts, Form::Stream, sent).await?;
        splice.goes_on(told);
        self.attempts.pool.count_continued();
        Ok(None)
    }
}

impl Reading for Raw {
    type Step = Bytes;
    type Form = Form;

    fn begin(
        client: &Client,
        target: &Arc<Target>,
        patience: Patience,
        sent: Sent<'_>,
        form: Form,
    ) -> impl Future<Output = Result<(Self, Bytes), Trouble>> + Send {
        Raw::begin(client, target, patience, sent, form)
    }

    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, Trouble>>> + Send {
        Raw::next(self)
    }

    fn is_done(&self) -> bool {
        Raw::is_done(self)
    }

    fn note(bytes: &Bytes, seat: &mut Seat) {
        seat.written(bytes.len(), true);
    }
}
