//! One request to one backend: connect, send, read the answer, and clean up when nobody wants it any more.

use super::lines::{Line, Lines, Place};
use super::trouble::{self, Trouble};
use super::{Settings, delta, tls};
use crate::chat::Delta;
use crate::sse::{DONE, Frames};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

/// Bytes of an error answer or of a small GET that are read. Chosen: the longest validation errors stay below it.
const SMALL_BODY_BYTES_MAX: usize = 1 << 20;
/// Aborts waiting to be sent. One is a request id and an address; when this is full, closing the connection has to do.
const ABORTS_MAX: u32 = 1024;
/// Aborts sent at the same time, so that a backend that hangs does not hold up the others' aborts. Chosen.
const ABORTS_AT_ONCE: usize = 16;
/// Errors of the system that say nothing of a backend: no descriptor, memory, buffer or port is left here.
const OWN_SHORTAGES: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL];
/// How long the end of an answer's body is waited for after its last event. Chosen: they come together.
const END_WAIT: Duration = Duration::from_millis(20);
/// How long a backend may take over an abort, or over the text of an error. Chosen.
const SMALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Speaks HTTP to all backends and keeps their connections.
#[derive(Clone)]
pub(super) struct Client {
    lines: Lines,
    aborts: Aborts,
}

/// Where a backend is called, and with which key.
#[derive(Debug)]
pub(super) struct Target {
    place: Arc<Place>,
    host: Option<HeaderValue>,
    key: Option<HeaderValue>,
}

impl Target {
    /// `host` is what the server is called in requests.
    pub fn new(host: &str, place: Place, key: Option<&ApiKey>) -> Self {
        Self { place: place.into(), host: HeaderValue::from_str(host).ok(), key: key.map(|key| key.0.clone()) }
    }
}

/// A backend's key. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// `None` when the key holds characters that no HTTP header can carry.
    pub fn new(key: &str) -> Option<Self> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
        bearer.set_sensitive(true);
        Some(Self(bearer))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// How long one model call may take, by its parts and as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub first_byte: Duration,
    pub idle: Duration,
    pub frame_bytes_max: usize,
    total: Duration,
    /// When `total` is over, retries included.
    pub deadline: Instant,
}

impl Patience {
    /// It begins now.
    pub fn of(settings: &Settings) -> Self {
        let total = Duration::from_millis(settings.total_ms);
        Self {
            first_byte: Duration::from_millis(settings.first_byte_ms),
            idle: Duration::from_millis(settings.idle_ms),
            frame_bytes_max: settings.frame_bytes_max,
            total,
            deadline: Instant::now() + total,
        }
    }

    /// Waits for something for so long, but not beyond the deadline. No `async fn`, which would keep it twice: as given,
    /// and as awaited.
    pub fn wait<T>(
        &self,
        wait: Duration,
        something: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Trouble>> {
        self.wait_on(Duration::ZERO, wait, something)
    }

    /// The same where some of the wait is over.
    pub fn wait_on<T>(
        &self,
        waited: Duration,
        wait: Duration,
        something: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Trouble>> {
        let (left, total) = (self.deadline.saturating_duration_since(Instant::now()), self.total);
        let rest = wait.saturating_sub(waited);
        let over = move |_| if left < rest { Trouble::overdue(total) } else { Trouble::silent(wait) };
        timeout(left.min(rest), something).map(move |done| done.map_err(over))
    }
}

/// A request as a backend gets it.
pub(super) struct Sent<'a> {
    pub method: Method,
    /// With the query.
    pub path: &'a str,
    pub content_type: Option<HeaderValue>,
    /// With it the request can be aborted.
    pub rid: Option<&'a str>,
    pub pieces: Vec<Bytes>,
}

impl<'a> Sent<'a> {
    /// A chat request.
    pub fn chat(rid: Option<&'a str>, pieces: Vec<Bytes>) -> Self {
        Self { method: Method::POST, path: "/v1/chat/completions", content_type: Some(JSON), rid, pieces }
    }
}

/// What SGLang wants a body to be: it refuses anything else.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request that a backend should stop working on.
pub(super) struct Abort {
    target: Arc<Target>,
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
    ///
    /// # Errors
    /// When the certificates that are to be believed cannot be read.
    pub fn new(settings: &Settings) -> Result<(Self, mpsc::UnboundedReceiver<Abort>), String> {
        let tls = tls::connector(settings.tls_ca.as_deref())?;
        let lines = Lines::new(Duration::from_millis(settings.connect_ms), tls);
        let (aborts, queue) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(ABORTS_MAX as usize));
        let client = Self { lines, aborts: Aborts { queue: aborts, places } };
        Ok((client, queue))
    }

    /// Sends the aborts of dropped answers, for as long as the client lives.
    pub async fn send_aborts(self, queue: mpsc::UnboundedReceiver<Abort>) {
        let queue = stream::unfold(queue, async |mut queue| queue.recv().await.map(|abort| (abort, queue)));
        queue
            .for_each_concurrent(ABORTS_AT_ONCE, async |Abort { target, rid, _waiting }| {
                let body = serde_json::json!({ "rid": rid }).to_string();
                let pieces = vec![body.into()];
                let sent = Sent { path: "/abort_request", ..Sent::chat(None, pieces) };
                let sent = self.request(&target, sent);
                // A backend without that route has noticed the closed connection instead.
                let _ = timeout(SMALL_TIMEOUT, sent).await;
            })
            .await;
    }

    /// Waits until every abort so far is sent, but no longer for all than a backend may take over one.
    pub async fn aborts_sent(&self) {
        let _ = timeout(SMALL_TIMEOUT, self.aborts.places.acquire_many(ABORTS_MAX)).await;
    }

    /// A small GET, such as `/v1/models`, which may take so long.
    pub async fn get(&self, target: &Target, path: &str, wait: Duration) -> Result<(StatusCode, Bytes), Trouble> {
        let answer = async {
            let sent = Sent { method: Method::GET, path, content_type: None, rid: None, pieces: Vec::new() };
            let (response, line) = self.request(target, sent).await?;
            let (status, body) = (response.status(), response.into_body());
            Ok((status, small(body, line).await?))
        };
        timeout(wait, answer).await.map_err(|_| Trouble::silent(wait))?
    }

    /// Sends a chat request whose `stream` is true and waits for the first event.
    pub async fn stream(
        &self,
        target: &Arc<Target>,
        patience: Patience,
        sent: Sent<'_>,
    ) -> Result<(Stream, Delta), Trouble> {
        let begun = async {
            let answer = self.send(target, sent).await?;
            let frames = Frames::new(patience.frame_bytes_max);
            let mut stream = Stream { answer, frames, patience, spoke: false, begun: false, finished: false };
            // SGLang 0.5.7 answers 200 and nothing when its queue is full.
            let first = stream.read().await.unwrap_or_else(|| Err(Trouble::full(None)))?;
            Ok((stream, first))
        };
        patience.wait(patience.first_byte, begun).await?
    }

    /// Sends a request as it is and hands the answer on. Errors are read and become troubles. How long that may take is
    /// for whoever waits for the first of the answer.
    pub async fn send(&self, target: &Arc<Target>, sent: Sent<'_>) -> Result<Answer, Trouble> {
        let rid = sent.rid.map(str::to_owned);
        let mut guard = AbortGuard { rid, target: target.clone(), aborts: self.aborts.clone() };
        let (response, line) = match self.request(target, sent).await {
            Ok(answered) => answered,
            Err(trouble) => {
                // A backend that cannot be reached works on nothing.
                guard.disarm();
                return Err(trouble);
            }
        };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            guard.disarm();
            let body = timeout(SMALL_TIMEOUT, small(body, line)).await.map_err(|_| Trouble::silent(SMALL_TIMEOUT))?;
            return Err(trouble::answered(head.status.as_u16(), retry_after(&head.headers), &body.unwrap_or_default()));
        }
        Ok(Answer { body, line, content_type: head.headers.get(header::CONTENT_TYPE).cloned(), guard })
    }

    async fn request(&self, target: &Target, sent: Sent<'_>) -> Result<(Response<Incoming>, Line), Trouble> {
        let path: Uri = sent.path.parse().map_err(|_| Trouble::unreachable())?;
        let kind = sent.content_type.map(|kind| (header::CONTENT_TYPE, kind));
        let host = target.host.clone().map(|host| (header::HOST, host));
        let key = target.key.clone().map(|key| (header::AUTHORIZATION, key));
        let make = || {
            let mut request = Request::new(Pieces::of(sent.pieces.clone()));
            *request.method_mut() = sent.method.clone();
            *request.uri_mut() = path.clone();
            request.headers_mut().extend([&host, &kind, &key].into_iter().flatten().cloned());
            request
        };
        self.lines.send(&target.place, make).await.map_err(|error| {
            if error.raw_os_error().is_some_and(|code| OWN_SHORTAGES.contains(&code)) {
                tracing::error!(%error, "the gateway cannot open a connection");
                return Trouble::own_shortage();
            }
            tracing::debug!(%error, "backend request failed");
            Trouble { cause: Some(cause_of(&error).into()), ..Trouble::unreachable() }
        })
    }
}

/// An error with what is behind it, which it may not say itself.
fn cause_of(error: &io::Error) -> String {
    // Nobody with TLS, or not with a certificate that is believed.
    if let Some(inner) = error.get_ref()
        && inner.is::<rustls::Error>()
    {
        return format!("TLS: {error}");
    }
    match error.get_ref().and_then(|inner| inner.source()) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Seconds that the answer asks to wait. Its other form, a date, is nothing that SGLang or what stands before it sends.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn small(mut body: Incoming, mut line: Line) -> Result<Bytes, Trouble> {
    let mut read = BytesMut::new();
    while let Some(bytes) = line.bytes(&mut body).await {
        read.extend_from_slice(&bytes.map_err(|_| Trouble::died())?);
        if read.len() > SMALL_BODY_BYTES_MAX {
            return Err(Trouble::died());
        }
    }
    Ok(read.freeze())
}

/// An answer under way. Dropping it before its end closes the connection and has the backend abort the request.
pub(super) struct Answer {
    body: Incoming,
    line: Line,
    /// As the backend sent it.
    pub content_type: Option<HeaderValue>,
    guard: AbortGuard,
}

impl Answer {
    /// Whether it says so of itself.
    pub fn is(&self, content_type: &str) -> bool {
        self.content_type.as_ref().is_some_and(|kind| kind.as_bytes().starts_with(content_type.as_bytes()))
    }

    /// The backend has ended the request by itself: there is nothing to abort.
    pub fn over(&mut self) {
        self.guard.disarm();
    }

    /// The next bytes; `None` at the end.
    pub async fn bytes(&mut self) -> Option<Result<Bytes, Trouble>> {
        match self.line.bytes(&mut self.body).await {
            Some(Ok(bytes)) => Some(Ok(bytes)),
            end => {
                self.guard.disarm();
                end.map(|_| Err(Trouble::died()))
            }
        }
    }
}

/// Has the backend abort a request whose answer nobody reads to its end. SGLang 0.5.7 notices a closed connection
/// after 2 s, and for answers that are not streamed never.
struct AbortGuard {
    rid: Option<String>,
    target: Arc<Target>,
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
            let _ = self.aborts.queue.send(Abort { target: self.target.clone(), rid, _waiting: place });
        }
    }
}

/// A streamed answer, read into steps.
pub(super) struct Stream {
    answer: Answer,
    frames: Frames,
    patience: Patience,
    /// Bytes have come.
    spoke: bool,
    begun: bool,
    finished: bool,
}

impl Stream {
    /// The next step; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Delta, Trouble>> {
        let patience = self.patience;
        patience.wait(patience.idle, self.read()).await.unwrap_or_else(|trouble| Some(Err(trouble)))
    }

    async fn read(&mut self) -> Option<Result<Delta, Trouble>> {
        loop {
            match self.frames.next_frame() {
                Ok(Some(frame)) if frame == DONE => {
                    self.answer.over();
                    // Read to its end, the connection can be used again.
                    let _ = timeout(END_WAIT, self.answer.bytes()).await;
                    return if self.finished { None } else { Some(Err(Trouble::died())) };
                }
                Ok(Some(frame)) => {
                    self.begun = true;
                    let step = delta::read(&frame);
                    self.finished |= step.as_ref().is_ok_and(|delta| delta.finish.is_some());
                    if step.as_ref().is_err_and(|trouble| trouble.over) {
                        self.answer.over();
                    }
                    return Some(step);
                }
                Err(_) => return Some(Err(Trouble::garbage())),
                Ok(None) => match self.answer.bytes().await {
                    Some(Ok(bytes)) => {
                        self.spoke = true;
                        self.frames.feed(&bytes);
                    }
                    Some(Err(trouble)) => return Some(Err(trouble)),
                    // Some servers close without `[DONE]`; an answer that has its finish is whole all the same.
                    None if self.finished => return None,
                    None if !self.spoke => return None,
                    None if !self.begun && !self.frames.is_mid_frame() => return Some(Err(Trouble::garbage())),
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
