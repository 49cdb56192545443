//! A request on which the gateway cannot act, or which it does not even read: handed on whole, and its answer handed back
//! as it comes.

use super::Call;
use super::attempts::Attempts;
use super::backend::Seat;
use super::balance::{Prefix, Request};
use super::client::{self, Patience, Sent};
use super::pool::Pool;
use super::trouble::{Trouble, in_stream};
use crate::chat::Failure;
use crate::sse::Frames;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method};
use memchr::memmem;
use std::time::Duration;

/// How a stream ends that was not cut.
const LAST_FRAME: &[u8] = b"data: [DONE]\n\n";

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
}

/// An answer that is passed through. Dropping it before its end aborts the request at the backend.
pub struct Forwarded {
    /// As the backend sent it.
    pub content_type: Option<HeaderValue>,
    /// As events, of which only whole ones are handed on.
    pub streamed: bool,
    answer: client::Answer,
    first: Option<Bytes>,
    /// The beginning of a frame whose end has not come yet: half a frame is never sent.
    tail: BytesMut,
    patience: Patience,
    begun: bool,
    done: bool,
    seat: Option<Seat>,
}

impl Pool {
    /// Makes one request as it is. With a `rid` it can be aborted. `streamed` says what form of answer it asks for.
    ///
    /// # Errors
    /// When every backend that may be tried has failed, or the request itself is refused.
    pub async fn forward(&self, call: Call<'_>, rid: Option<&str>, streamed: bool) -> Result<Forwarded, Failure> {
        let attempts = self.attempts(call, None).await?;
        self.forward_by(attempts, Some(streamed), || Sent::chat(rid, call.ask.body.render())).await
    }

    /// Makes one request of which the gateway knows little more than its path. Whether its answer is a stream, the answer
    /// says.
    ///
    /// # Errors
    /// As [`Pool::forward`].
    pub async fn forward_plain(&self, plain: &Plain) -> Result<Forwarded, Failure> {
        let model = plain.model.as_deref().unwrap_or_default();
        let prefix = if plain.is_prompt { Prefix::of(model, b"", &plain.body.concat()) } else { Prefix::default() };
        let attempts = Attempts::new(self, model, Request { prefix, ..Request::default() });
        let sent = || Sent {
            method: plain.method.clone(),
            path: &plain.path,
            content_type: plain.content_type.clone(),
            rid: None,
            pieces: plain.body.clone(),
        };
        self.forward_by(attempts, None, sent).await
    }

    async fn forward_by<'s>(
        &self,
        mut attempts: Attempts<'_>,
        streamed: Option<bool>,
        sent: impl Fn() -> Sent<'s>,
    ) -> Result<Forwarded, Failure> {
        while let Some(mut seat) = attempts.next().await {
            let begun = tokio::select! {
                begun = self.forward_to(&seat, attempts.patience, sent(), streamed) => begun,
                () = seat.backend.away() => Err(Trouble::unreachable()),
            };
            match begun {
                Ok((mut forwarded, first)) => {
                    seat.written(first.len(), true);
                    (forwarded.first, forwarded.seat) = (Some(first), Some(seat));
                    return Ok(forwarded);
                }
                Err(trouble) => attempts.failed(&mut seat, trouble)?,
            }
        }
        Err(attempts.exhausted())
    }

    async fn forward_to(
        &self,
        seat: &Seat,
        patience: Patience,
        sent: Sent<'_>,
        streamed: Option<bool>,
    ) -> Result<(Forwarded, Bytes), Trouble> {
        let answer = self.client.send(&seat.backend.details().target, patience, sent).await?;
        let streamed = streamed.unwrap_or_else(|| is_stream(answer.content_type.as_ref()));
        let mut forwarded = Forwarded {
            content_type: answer.content_type.clone(),
            answer,
            first: None,
            streamed,
            tail: BytesMut::new(),
            patience,
            begun: false,
            done: false,
            seat: None,
        };
        let first = forwarded.read_within(patience.first_byte).await.ok_or_else(|| Trouble::full(None))??;
        if streamed {
            refuse_hidden_error(&first).inspect_err(|_| forwarded.answer.over())?;
        }
        Ok((forwarded, first))
    }
}

fn is_stream(content_type: Option<&HeaderValue>) -> bool {
    content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// SGLang says in the first frame of a 200 that its queue is full or the context is exceeded.
fn refuse_hidden_error(first: &[u8]) -> Result<(), Trouble> {
    let mut frames = Frames::new(usize::MAX);
    frames.feed(first);
    let Ok(Some(frame)) = frames.next_frame() else { return Ok(()) };
    if !frame.starts_with(br#"{"error""#) {
        return Ok(());
    }
    let value: serde_json::Value = serde_json::from_slice(&frame).unwrap_or_default();
    Err(in_stream(&value["error"]))
}

impl Forwarded {
    /// The next bytes for the client: whole frames of a stream, anything of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let read = self.read_within(self.patience.idle).await;
        if let Some(seat) = &mut self.seat {
            match &read {
                Some(Ok(bytes)) => seat.written(bytes.len(), true),
                Some(Err(trouble)) => seat.failed(trouble),
                None => seat.succeeded(),
            }
        }
        read.map(|read| read.map_err(|trouble| trouble.failure))
    }

    async fn read_within(&mut self, wait: Duration) -> Option<Result<Bytes, Trouble>> {
        let patience = self.patience;
        patience.wait(wait, self.read()).await.unwrap_or_else(|trouble| Some(Err(trouble)))
    }

    async fn read(&mut self) -> Option<Result<Bytes, Trouble>> {
        loop {
            let bytes = match self.answer.bytes().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(trouble)) => return Some(Err(trouble)),
                None if self.streamed && !self.done && self.begun => {
                    self.done = true;
                    return Some(Err(Trouble::died()));
                }
                None => return None,
            };
            if !self.streamed {
                return Some(Ok(bytes));
            }
            let whole = self.whole_frames(bytes);
            if !whole.is_empty() {
                self.begun = true;
                self.done |= whole.ends_with(LAST_FRAME);
                return Some(Ok(whole));
            }
            if self.tail.len() > self.patience.frame_bytes_max {
                return Some(Err(Trouble::garbage()));
            }
        }
    }

    /// Everything up to the last frame's end; as it came, without a copy, when it came in whole frames.
    fn whole_frames(&mut self, bytes: Bytes) -> Bytes {
        if self.tail.is_empty() && bytes.ends_with(b"\n\n") {
            return bytes;
        }
        self.tail.extend_from_slice(&bytes);
        match memmem::rfind(&self.tail, b"\n\n") {
            Some(at) => self.tail.split_to(at + 2).freeze(),
            None => Bytes::new(),
        }
    }
}
