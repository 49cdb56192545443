//! One request to one backend: connect, send, read the answer, and clean up when nobody wants it any more.

use super::trouble::{self, Trouble};
use super::{Settings, delta};
use crate::chat::Delta;
use crate::sse::{DONE, Frames};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pooled, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

/// An idle connection is closed by us before uvicorn's own 5 s are over, so that no request meets a dying one.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(4);
/// Bytes of an error answer or of a small GET that are read. Chosen: the longest validation errors stay below it.
const SMALL_BODY_BYTES_MAX: usize = 1 << 20;
/// Aborts waiting to be sent. One is a request id and an address; when this is full, closing the connection has to do.
const ABORTS_MAX: u32 = 1024;
/// Aborts sent at the same time, so that a backend that hangs does not hold up the others' aborts. Chosen.
const ABORTS_AT_ONCE: usize = 16;
/// How long a backend may take over an abort or a probe.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Speaks HTTP to all backends and keeps their connections.
#[derive(Clone)]
pub(super) struct Client {
    http: Pooled<HttpConnector, Pieces>,
    aborts: Aborts,
    pub(super) first_byte: Duration,
    pub(super) idle: Duration,
    pub(super) frame_bytes_max: usize,
    key: Option<HeaderValue>,
}

/// A request that a backend should stop working on.
pub(super) struct Abort {
    base: Uri,
    rid: String,
    _waiting: OwnedSemaphorePermit,
}

/// The aborts that are to be sent. The queue itself has no bound: each abort in it holds one of the places.
#[derive(Clone)]
struct Aborts {
    queue: mpsc::UnboundedSender<Abort>,
    places: Arc<Semaphore>,
}

impl Client {
    /// A client, and the queue that [`Client::send_aborts`] must work off.
    pub fn new(settings: &Settings) -> (Self, mpsc::UnboundedReceiver<Abort>) {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_millis(settings.connect_ms)));
        let http = Pooled::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_ALIVE_IDLE)
            .build(connector);
        let (aborts, queue) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(ABORTS_MAX as usize));
        let client = Self {
            http,
            aborts: Aborts { queue: aborts, places },
            first_byte: Duration::from_millis(settings.first_byte_ms),
            idle: Duration::from_millis(settings.idle_ms),
            frame_bytes_max: settings.frame_bytes_max,
            key: settings.api_key.as_ref().map(|key| {
                let mut value = key.bearer();
                value.set_sensitive(true);
                value
            }),
        };
        (client, queue)
    }

    /// Sends the aborts of dropped answers, for as long as the client lives.
    pub async fn send_aborts(self, queue: mpsc::UnboundedReceiver<Abort>) {
        let queue = stream::unfold(queue, async |mut queue| queue.recv().await.map(|abort| (abort, queue)));
        queue
            .for_each_concurrent(ABORTS_AT_ONCE, async |Abort { base, rid, _waiting }| {
                let body = serde_json::json!({ "rid": rid }).to_string();
                let sent = self.request(&base, Method::POST, "/abort_request", Pieces::of(vec![body.into()]));
                // A backend without that route has noticed the closed connection instead.
                let _ = timeout(PROBE_TIMEOUT, sent).await;
            })
            .await;
    }

    /// Waits until every abort so far is sent, but no longer for all than a backend may take over one.
    pub async fn aborts_sent(&self) {
        let _ = timeout(PROBE_TIMEOUT, self.aborts.places.acquire_many(ABORTS_MAX)).await;
    }

    /// A small GET, such as `/v1/models`.
    pub async fn get(&self, base: &Uri, path: &str) -> Result<(StatusCode, Bytes), Trouble> {
        let answer = async {
            let response = self.request(base, Method::GET, path, Pieces::of(Vec::new())).await?;
            let status = response.status();
            Ok((status, small(response.into_body()).await?))
        };
        timeout(PROBE_TIMEOUT, answer).await.map_err(|_| Trouble::silent(PROBE_TIMEOUT))?
    }

    /// Sends a chat request whose `stream` is true and waits for the first event.
    pub async fn stream(&self, base: &Uri, rid: String, pieces: Vec<Bytes>) -> Result<Stream, Trouble> {
        let answer = self.chat(base, Some(rid), pieces).await?;
        let frames = Frames::new(self.frame_bytes_max);
        let mut stream = Stream { answer, frames, idle: self.idle, first: None, begun: false, finished: false };
        stream.first = Some(match timeout(self.first_byte, stream.read()).await {
            Ok(Some(read)) => read?,
            // SGLang 0.5.7 answers 200 and nothing when its queue is full.
            Ok(None) => return Err(Trouble::full()),
            Err(_) => return Err(Trouble::silent(self.first_byte)),
        });
        Ok(stream)
    }

    /// Sends a chat request as it is and hands the answer on. Errors are read and become troubles.
    pub async fn chat(&self, base: &Uri, rid: Option<String>, pieces: Vec<Bytes>) -> Result<Answer, Trouble> {
        let mut guard = AbortGuard { rid, base: base.clone(), aborts: self.aborts.clone() };
        let sent = self.request(base, Method::POST, "/v1/chat/completions", Pieces::of(pieces));
        let response = match timeout(self.first_byte, sent).await.map_err(|_| Trouble::silent(self.first_byte))? {
            Ok(response) => response,
            Err(trouble) => {
                // A backend that cannot be reached works on nothing.
                guard.disarm();
                return Err(trouble);
            }
        };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            guard.disarm();
            let body = timeout(PROBE_TIMEOUT, small(body)).await.map_err(|_| Trouble::silent(PROBE_TIMEOUT))?;
            return Err(trouble::answered(head.status.as_u16(), &body.unwrap_or_default()));
        }
        Ok(Answer { body, content_type: head.headers.get(header::CONTENT_TYPE).cloned(), guard })
    }

    async fn request(
        &self,
        base: &Uri,
        method: Method,
        path: &str,
        body: Pieces,
    ) -> Result<Response<Incoming>, Trouble> {
        let uri = format!("{}{path}", base.to_string().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_end_stream() {
            // SGLang refuses anything else.
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key.clone());
        }
        let request = request.body(body).map_err(|_| Trouble::unreachable())?;
        self.http.request(request).await.map_err(|error| {
            tracing::debug!(%error, "backend request failed");
            Trouble::unreachable()
        })
    }
}

async fn small(body: Incoming) -> Result<Bytes, Trouble> {
    let read = Limited::new(body, SMALL_BODY_BYTES_MAX).collect().await;
    read.map(http_body_util::Collected::to_bytes).map_err(|_| Trouble::died())
}

/// An answer under way. Dropping it before its end closes the connection and has the backend abort the request.
pub(super) struct Answer {
    body: Incoming,
    /// As the backend sent it.
    pub content_type: Option<HeaderValue>,
    guard: AbortGuard,
}

impl Answer {
    /// The next bytes; `None` at the end.
    pub async fn bytes(&mut self) -> Option<Result<Bytes, Trouble>> {
        loop {
            return match self.body.frame().await {
                None => {
                    self.guard.disarm();
                    None
                }
                Some(Err(_)) => {
                    self.guard.disarm();
                    Some(Err(Trouble::died()))
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Some(Ok(bytes)),
                    Err(_trailers) => continue,
                },
            };
        }
    }
}

/// Has the backend abort a request whose answer nobody reads to its end. SGLang 0.5.7 notices a closed connection
/// after 2 s, and for answers that are not streamed never.
struct AbortGuard {
    rid: Option<String>,
    base: Uri,
    aborts: Aborts,
}

impl AbortGuard {
    fn disarm(&mut self) {
        self.rid = None;
    }
}

impl Drop for AbortGuard {
    fn drop(&mut self) {
        let Some(rid) = self.rid.take() else { return };
        if let Ok(place) = self.aborts.places.clone().try_acquire_owned() {
            let _ = self.aborts.queue.send(Abort { base: self.base.clone(), rid, _waiting: place });
        }
    }
}

/// A streamed answer, read into steps.
pub(super) struct Stream {
    answer: Answer,
    frames: Frames,
    idle: Duration,
    first: Option<Delta>,
    begun: bool,
    finished: bool,
}

impl Stream {
    /// The next step; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Delta, Trouble>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        match timeout(self.idle, self.read()).await {
            Ok(step) => step,
            Err(_) => Some(Err(Trouble::silent(self.idle))),
        }
    }

    async fn read(&mut self) -> Option<Result<Delta, Trouble>> {
        loop {
            match self.frames.next_frame() {
                Ok(Some(frame)) if frame == DONE => {
                    self.answer.guard.disarm();
                    return if self.finished { None } else { Some(Err(Trouble::died())) };
                }
                Ok(Some(frame)) => {
                    self.begun = true;
                    let step = delta::read(&frame);
                    self.finished |= step.as_ref().is_ok_and(|delta| delta.finish.is_some());
                    return Some(step);
                }
                Err(_) => return Some(Err(Trouble::garbage())),
                Ok(None) => match self.answer.bytes().await {
                    Some(Ok(bytes)) => self.frames.feed(&bytes),
                    Some(Err(trouble)) => return Some(Err(trouble)),
                    // Some servers close without `[DONE]`; an answer that has its finish is whole all the same.
                    None if self.finished => return None,
                    None if !self.begun && !self.frames.is_mid_frame() => return None,
                    None => return Some(Err(Trouble::died())),
                },
            }
        }
    }
}

/// A request body of known length, in pieces that are not copied together.
pub(super) struct Pieces {
    left: VecDeque<Bytes>,
    bytes: u64,
}

impl Pieces {
    pub fn of(pieces: Vec<Bytes>) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { left: pieces.into(), bytes }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.left.pop_front();
        self.bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}
