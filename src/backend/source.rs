//! Where an answer comes from now: one try at one backend, begun and read.

use super::attempts::Attempts;
use super::backend::{Away, Seat};
use super::client::{Client, Patience, Sent, Target};
use super::trouble::Trouble;
use crate::chat::Failure;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// An answer under way, as one of the ways to read it has it.
pub(super) trait Reading: Sized {
    /// What is read at once.
    type Step: Send;
    /// What the answer has to be.
    type Form: Copy;

    /// Sends a request and waits for the first step.
    fn begin(
        client: &Client,
        target: &Arc<Target>,
        patience: Patience,
        sent: Sent<'_>,
        form: Self::Form,
    ) -> impl Future<Output = Result<(Self, Self::Step), Trouble>> + Send;

    /// The next step; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Option<Result<Self::Step, Trouble>>> + Send;

    /// The last step has been given, though the backend has not closed yet.
    fn is_done(&self) -> bool;

    /// Has the seat take note of a step.
    fn note(step: &Self::Step, seat: &mut Seat);
}

pub(super) struct Source<R: Reading> {
    pub reading: R,
    pub seat: Seat,
    /// It was found out that nobody is there.
    away: Away,
    first: Option<R::Step>,
}

impl<R: Reading> Source<R> {
    /// Tries one backend after the other until one has begun its answer. `sent` makes the request once more for each.
    pub async fn begin<'s>(
        attempts: &mut Attempts,
        form: R::Form,
        sent: impl Fn() -> Sent<'s>,
    ) -> Result<Self, Failure> {
        while let Some(mut seat) = attempts.next().await {
            let target = seat.backend.details().target.clone();
            let begun = R::begin(&attempts.pool.client, &target, attempts.patience, sent(), form);
            let mut away = seat.backend.away();
            let begun = tokio::select! {
                biased;
                begun = begun => begun,
                () = &mut away => Err(Trouble::unreachable()),
            };
            match begun {
                Ok((reading, first)) => {
                    R::note(&first, &mut seat);
                    return Ok(Self { reading, seat, away, first: Some(first) });
                }
                Err(trouble) => attempts.failed(&mut seat, trouble)?,
            }
        }
        Err(attempts.exhausted())
    }

    /// The next step; `None` after the last.
    pub async fn next(&mut self, attempts: &Attempts) -> Option<Result<R::Step, Trouble>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let read = {
            let mut next = pin!(self.reading.next());
            // Whether anybody is there is asked only when nothing is.
            poll_fn(|context| match next.as_mut().poll(context) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => self.away.as_mut().poll(context).map(|()| None),
            })
            .await
        };
        let read = match read {
            Some(read) => read,
            // Boxed, since it is rare: what is awaited for every step is moved for every step.
            None => Box::pin(self.last_words(attempts)).await,
        };
        if let Some(Ok(step)) = &read {
            R::note(step, &mut self.seat);
        }
        read
    }

    async fn last_words(&mut self, attempts: &Attempts) -> Option<Result<R::Step, Trouble>> {
        self.away = self.seat.backend.away();
        if self.reading.is_done() {
            return None;
        }
        if !attempts.has_another_than(&self.seat.backend) {
            return self.reading.next().await;
        }
        self.seat.last_words(self.reading.next()).await
    }
}
