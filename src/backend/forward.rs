//! A request on which the gateway cannot act: handed on whole, and its answer handed back as it comes.

use super::Call;
use super::attempts::Attempts;
use super::backend::Seat;
use super::pool::Pool;
use super::raw::{LAST_FRAME, Raw};
use super::splice::Splice;
use super::trouble::Trouble;
use crate::chat::{Ask, Failure, JsonObject};
use bytes::Bytes;
use http::HeaderValue;
use std::sync::Arc;

/// An answer that is passed through. Dropping it before its end aborts the request at the backend.
pub struct Forwarded {
    /// As the backend sent it.
    pub content_type: Option<HeaderValue>,
    attempts: Attempts,
    source: Source,
    /// Where another backend could go on.
    continuable: Option<Box<Continuable>>,
}

/// Where bytes come from now.
struct Source {
    raw: Raw,
    seat: Seat,
    first: Option<Bytes>,
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
        let source = Source::begin(&mut attempts, &call.ask.body, rid, streamed).await?;
        let continuable = rid
            .filter(|_| streamed && attempts.has_others())
            .map(|rid| Box::new(Continuable { ask: call.ask.clone(), rid: rid.to_owned(), splice: Splice::default() }));
        Ok(Forwarded { content_type: source.raw.content_type(), attempts, source, continuable })
    }
}

impl Forwarded {
    /// The next bytes for the client: whole frames of a stream, anything of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            match self.source.next().await {
                Some(Ok(bytes)) => {
                    let out = match &mut self.continuable {
                        Some(it) => it.splice.pass(bytes),
                        None => bytes,
                    };
                    if !out.is_empty() {
                        return Some(Ok(out));
                    }
                }
                Some(Err(trouble)) => match self.go_on(trouble).await {
                    Ok(None) => {}
                    Ok(Some(last)) => return Some(Ok(last)),
                    Err(failure) => return Some(Err(failure)),
                },
                None => {
                    self.source.seat.succeeded();
                    return None;
                }
            }
        }
    }

    /// Has another backend go on, or the same one if it comes back. Gives the last bytes instead of what was complete.
    async fn go_on(&mut self, trouble: Trouble) -> Result<Option<Bytes>, Failure> {
        let failure = trouble.failure.clone();
        let tried = self.attempts.failed(&mut self.source.seat, trouble);
        let Some(Continuable { ask, rid, splice }) = self.continuable.as_deref_mut() else { return Err(failure) };
        let mut told = splice.cut();
        if told.is_over() {
            // Whatever it was about, the client has its answer. Nothing more comes from there.
            return Ok(Some(Bytes::from_static(LAST_FRAME)));
        }
        tried?;
        let rest = told.rest_of(ask).map_err(|why| {
            tracing::info!(rid, why, "a cut answer is not continued");
            failure
        })?;
        self.source = Source::begin(&mut self.attempts, &rest, Some(rid), true).await?;
        splice.goes_on(told);
        self.attempts.pool.count_continued();
        Ok(None)
    }
}

impl Source {
    async fn begin(
        attempts: &mut Attempts,
        body: &JsonObject,
        rid: Option<&str>,
        streamed: bool,
    ) -> Result<Self, Failure> {
        while let Some(mut seat) = attempts.next().await {
            let target = seat.backend.details().target.clone();
            let begun = Raw::begin(&attempts.pool.client, &target, attempts.patience, rid, body.render(), streamed);
            let begun = tokio::select! {
                begun = begun => begun,
                () = seat.backend.away() => Err(Trouble::unreachable()),
            };
            match begun {
                Ok((raw, first)) => {
                    seat.written(first.len(), true);
                    return Ok(Self { raw, seat, first: Some(first) });
                }
                Err(trouble) => attempts.failed(&mut seat, trouble)?,
            }
        }
        Err(attempts.exhausted())
    }

    async fn next(&mut self) -> Option<Result<Bytes, Trouble>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let read = self.raw.next().await;
        if let Some(Ok(bytes)) = &read {
            self.seat.written(bytes.len(), true);
        }
        read
    }
}
