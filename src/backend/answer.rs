//! A streamed answer, step by step, from whichever backends give it.

use super::attempts::Attempts;
use super::backend::{Away, Seat};
use super::client::Stream;
use super::resume::{KEPT_BYTES_MAX, Told};
use super::trouble::Trouble;
use crate::chat::{Ask, Delta, Failure, JsonObject};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// An answer under way. Dropping it before its end aborts the request at the backend.
///
/// When its backend dies, another one goes on from the text so far. A native call has no text to go on from: its pieces,
/// and what text comes after them, are held back until the answer's end, so that the model can write it once more.
pub struct Answer {
    attempts: Attempts,
    ask: Ask,
    rid: String,
    source: Source,
    told: Told,
    /// From the first piece of a call on.
    held: Delta,
    held_bytes: usize,
}

/// Where steps come from now.
struct Source {
    stream: Stream,
    seat: Seat,
    /// It was found out that nobody is there.
    away: Away,
    first: Option<Delta>,
}

impl Answer {
    pub(super) async fn begin(mut attempts: Attempts, ask: &Ask, rid: &str) -> Result<Self, Failure> {
        let source = Source::begin(&mut attempts, rid, &ask.body).await?;
        let (ask, rid) = (ask.clone(), rid.to_owned());
        Ok(Self { attempts, ask, rid, source, told: Told::default(), held: Delta::default(), held_bytes: 0 })
    }

    /// The backend that gives it.
    pub fn backend(&self) -> &str {
        &self.source.seat.backend.name
    }

    /// The next step; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Delta, Failure>> {
        loop {
            match self.source.next(&self.attempts).await {
                Some(Ok(delta)) => return Some(Ok(self.tell(delta))),
                Some(Err(trouble)) if self.told.is_over() => {
                    // Only counts were to come.
                    self.source.seat.failed(&trouble);
                    return None;
                }
                Some(Err(trouble)) => {
                    if let Err(failure) = self.go_on(trouble).await {
                        return Some(Err(failure));
                    }
                }
                None => {
                    self.source.seat.succeeded();
                    return None;
                }
            }
        }
    }

    fn tell(&mut self, mut delta: Delta) -> Delta {
        if !self.held.calls.is_empty() || !delta.calls.is_empty() {
            self.hold(&mut delta);
        }
        delta.usage = delta.usage.map(|usage| self.told.whole(usage));
        self.told.hear(&delta);
        delta
    }

    /// Holds back what is said in a step, or gives back all that was held.
    fn hold(&mut self, delta: &mut Delta) {
        self.held_bytes += delta.content.len() + delta.reasoning.len();
        self.held_bytes += delta.calls.iter().map(|call| call.arguments.len()).sum::<usize>();
        self.held.content.push_str(&std::mem::take(&mut delta.content));
        self.held.reasoning.push_str(&std::mem::take(&mut delta.reasoning));
        self.held.calls.append(&mut delta.calls);
        if delta.finish.is_some() || self.held_bytes > KEPT_BYTES_MAX {
            let held = std::mem::take(&mut self.held);
            (delta.content, delta.reasoning, delta.calls) = (held.content, held.reasoning, held.calls);
        }
    }

    /// Has another backend go on, or the same one if it comes back.
    async fn go_on(&mut self, trouble: Trouble) -> Result<(), Failure> {
        let rest = self.told.rest_of(&self.ask);
        let failure = trouble.failure.clone();
        self.attempts.failed(&mut self.source.seat, trouble)?;
        let rest = rest.map_err(|why| {
            tracing::info!(rid = self.rid, why, "a cut answer is not continued");
            failure
        })?;
        self.source = Source::begin(&mut self.attempts, &self.rid, &rest).await?;
        self.attempts.pool.count_continued();
        (self.held, self.held_bytes) = (Delta::default(), 0);
        Ok(())
    }
}

impl Source {
    async fn begin(attempts: &mut Attempts, rid: &str, body: &JsonObject) -> Result<Self, Failure> {
        while let Some(mut seat) = attempts.next().await {
            let target = seat.backend.details().target.clone();
            let begun = attempts.pool.client.stream(&target, attempts.patience, rid, body.render());
            let mut away = seat.backend.away();
            let begun = tokio::select! {
                biased;
                begun = begun => begun,
                () = &mut away => Err(Trouble::unreachable()),
            };
            match begun {
                Ok((stream, first)) => {
                    seat.heard(&first);
                    return Ok(Self { stream, seat, away, first: Some(first) });
                }
                Err(trouble) => attempts.failed(&mut seat, trouble)?,
            }
        }
        Err(attempts.exhausted())
    }

    async fn next(&mut self, attempts: &Attempts) -> Option<Result<Delta, Trouble>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let step = {
            let mut next = pin!(self.stream.next());
            // Whether anybody is there is asked only when nothing is.
            poll_fn(|context| match next.as_mut().poll(context) {
                Poll::Ready(step) => Poll::Ready(Some(step)),
                Poll::Pending => self.away.as_mut().poll(context).map(|()| None),
            })
            .await
        };
        let step = match step {
            Some(step) => step,
            None => Box::pin(self.last_words(attempts)).await,
        };
        if let Some(Ok(delta)) = &step {
            self.seat.heard(delta);
        }
        step
    }

    async fn last_words(&mut self, attempts: &Attempts) -> Option<Result<Delta, Trouble>> {
        self.away = self.seat.backend.away();
        if !attempts.has_another_than(&self.seat.backend) {
            return self.stream.next().await;
        }
        self.seat.last_words(self.stream.next()).await
    }
}
