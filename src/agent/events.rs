//! A turn as a stream of events that does its work while it is polled.

use crate::chat::Event;
use futures_util::Stream;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Events that a turn may be ahead of its listener: a slow reader slows its own turn, and nobody else's.
const AHEAD_MAX: usize = 16;

/// The events of a turn. Dropping them drops the turn: its model call, its guest, its place in every queue.
pub struct Events {
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    heard: mpsc::Receiver<Event>,
}

/// Where a turn says what happens.
pub(super) struct Teller(mpsc::Sender<Event>);

impl Teller {
    /// Waits until the listener keeps up. The listener lives as long as the turn, so nothing is lost.
    pub async fn tell(&self, event: Event) {
        let _ = self.0.send(event).await;
    }
}

impl Events {
    pub(super) fn of<F: Future<Output = ()> + Send + 'static>(turn: impl FnOnce(Teller) -> F) -> Self {
        let (teller, heard) = mpsc::channel(AHEAD_MAX);
        Self { turn: Some(Box::pin(turn(Teller(teller)))), heard }
    }

    /// Those of a turn in which nothing happens.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::of(|_| async {})
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Poll::Ready(Some(event)) = self.heard.poll_recv(context) {
            return Poll::Ready(Some(event));
        }
        if let Some(turn) = &mut self.turn
            && turn.as_mut().poll(context).is_ready()
        {
            self.turn = None;
        }
        // Without its turn the channel is closed, so that the stream ends after the last event.
        Poll::Ready(ready!(self.heard.poll_recv(context)))
    }
}
