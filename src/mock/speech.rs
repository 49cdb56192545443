//! A stream in time: pace, aborts and faults.

use super::Settings;
use super::fault::Fault;
use super::frames::Frames;
use super::kv::Growth;
use super::log::Entry;
use super::orders::Order;
use super::queue::Place;
use super::refusal::Refusal;
use super::server::Server;
use bytes::Bytes;
use futures_util::Stream;
use http_body::Frame;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The body ends in the middle of things: hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("the scripted fault: the connection is closed")]
pub struct Died;

/// Time per token. Late tokens are made up for, so that the pace holds on average whatever the timer's grain.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    due: Duration,
    server: Arc<Server>,
}

impl Clock {
    /// Starts now.
    pub fn new(server: Arc<Server>) -> Self {
        Self { start: Instant::now(), due: Duration::ZERO, server }
    }

    /// Time per token beside those that run now.
    fn pace(&self) -> Duration {
        let Settings { pace, pace_batch, .. } = self.server.settings;
        if pace_batch.is_zero() {
            return pace;
        }
        let others = self.server.queue.load().running.saturating_sub(1);
        pace + pace_batch * u32::try_from(others).unwrap_or(u32::MAX)
    }

    /// Waits until these tokens are written. False if the request was aborted meanwhile.
    pub async fn wait(&mut self, tokens: u32, abort: &CancellationToken) -> bool {
        let pace = self.pace();
        self.due += pace * tokens;
        let due = self.start + self.due;
        if pace.is_zero() || due <= Instant::now() {
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due) => true,
            () = abort.cancelled() => false,
        }
    }

    /// Tokens that are written by now, of so many.
    pub fn written(&self, tokens: u32) -> u32 {
        let pace = self.pace().as_nanos().max(1);
        u32::try_from(self.start.elapsed().as_nanos() / pace).unwrap_or(u32::MAX).min(tokens)
    }
}

/// A stream that is being spoken.
#[derive(Debug)]
pub struct Speech {
    /// What is said.
    pub frames: Frames,
    /// When.
    pub clock: Clock,
    /// When the request had arrived.
    pub asked: Instant,
    /// What goes wrong, and where it waits.
    pub order: Order,
    /// The answer in the KV cache.
    pub growth: Option<Growth>,
    /// `/abort_request` was called.
    pub abort: CancellationToken,
    /// The log's line.
    pub entry: Entry,
    /// Its place among the running requests.
    #[expect(dead_code, reason = "given back on drop")]
    pub place: Place,
}

impl Speech {
    /// As the body's stream.
    pub fn stream(self) -> impl Stream<Item = Result<Frame<Bytes>, Died>> + Send {
        futures_util::stream::unfold((self, 0), |(mut speech, sent)| async move {
            if sent > 0 {
                // hyper writes what it has when the body is pending: so every event is a write of its own, as it is
                // from the real server.
                tokio::task::yield_now().await;
            }
            speech.pause(sent).await;
            let item = match speech.fault_now(sent).await {
                Some(item) => item,
                None => Ok(speech.next().await?),
            };
            Some((item.map(Frame::data), (speech, sent + 1)))
        })
    }

    /// Waits where a test holds it, but not longer than until it is aborted.
    async fn pause(&self, sent: usize) {
        if let Some(pause) = &self.order.pause {
            tokio::select! {
                () = pause.wait(sent) => {}
                () = self.abort.cancelled() => {}
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.abort.is_cancelled() {
                self.abort = CancellationToken::new();
                self.frames.abort();
            }
            let Some((frame, tokens)) = self.frames.next() else {
                self.entry.answered();
                return None;
            };
            // A token that was being written when the abort came is lost.
            if !self.clock.wait(tokens, &self.abort).await {
                continue;
            }
            if tokens > 0 {
                self.frames.began(self.asked.elapsed());
            }
            if let Some(growth) = &mut self.growth {
                growth.wrote(tokens);
            }
            if frame.is_some() {
                return frame;
            }
        }
    }

    /// What goes wrong after so many events.
    async fn fault_now(&mut self, sent: usize) -> Option<Result<Bytes, Died>> {
        match self.order.fault? {
            Fault::DieAfter(after) if sent == after => {
                self.entry.answered();
                // The response's head and the events before must be on the wire first.
                tokio::task::yield_now().await;
                return Some(Err(Died));
            }
            Fault::StallAfter(after) if sent == after => std::future::pending().await,
            Fault::GarbageAfter(after) if sent == after => return Some(Ok(Bytes::from_static(GARBAGE))),
            Fault::ErrorAfter(after) if sent == after => {
                self.frames.break_off();
                return Some(Ok(Refusal::too_slow().event()));
            }
            Fault::EndAfter(after) if sent == after => self.frames.hush(),
            Fault::AbortAfter(after) if sent == after => self.abort.cancel(),
            _ => {}
        }
        None
    }
}

/// An event that is cut in its middle.
const GARBAGE: &[u8] = b"data: {\"id\":\"garb\n\n";
