//! A backend's answer on its way to the client, as it comes: with signs of life where it is silent, and an end when the
//! gateway stops.

use super::{form_headers, stopping};
use crate::access::Slot;
use crate::backend::Forwarded;
use crate::chat::Failure;
use crate::dialect::{Dialect, Form, Stamp};
use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::{Stream, StreamExt as _, stream};
use http::header;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

/// How the last piece of a stream ends. Nothing may come after it.
const DONE: &[u8] = b"[DONE]";

/// Who gets an answer.
pub(super) struct Receiver {
    pub dialect: &'static dyn Dialect,
    /// The gateway stops, and waits no longer.
    pub over: CancellationToken,
    /// `None`: nothing comes between the backend's bytes.
    pub life: Option<Life>,
    /// Its caller's place.
    #[expect(dead_code, reason = "given back on drop")]
    pub slot: Slot,
}

/// What breaks a silence.
pub(super) struct Life {
    pub stamp: Stamp,
    /// The answer was asked for as a stream, not as a whole.
    pub streamed: bool,
    /// After so long.
    pub heartbeat: Duration,
}

/// Hands back an answer that has begun.
pub(super) fn handed_back(to: Receiver, forwarded: Forwarded) -> Response {
    let (content_type, streamed) = (forwarded.content_type.clone(), forwarded.streamed);
    let mut response = Response::new(Body::from_stream(pieces(to, forwarded)));
    form_headers(&mut response, streamed);
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}

/// Gives its status to an answer that a backend has not begun when its client has waited long enough, and signs of life
/// until it does. From there on it is handed back like any other. `opening` waits for the beginning.
pub(super) fn late<Opening>(to: Receiver, opening: Pin<Box<Opening>>) -> Response
where
    Opening: Future<Output = Result<Forwarded, Failure>> + Send + 'static,
{
    let (streamed, heartbeat) = to.life.as_ref().map_or((false, Duration::MAX), |life| (life.streamed, life.heartbeat));
    let one = |bytes: Bytes| stream::iter([Ok(bytes)]).boxed();
    let waiting = stream::unfold((Some((opening, to)), Duration::ZERO), move |(state, wait)| async move {
        let (mut opening, to) = state?;
        let begun = tokio::select! {
            biased;
            begun = timeout(wait, &mut opening) => begun,
            () = to.over.cancelled() => Ok(Err(stopping())),
        };
        Some(match begun {
            Err(_) => (one(to.sign_of_life()), (Some((opening, to)), heartbeat)),
            Ok(Ok(forwarded)) => (pieces(to, forwarded).boxed(), (None, heartbeat)),
            Ok(Err(failure)) if streamed => (one(to.dialect.error_in_stream(&failure)), (None, heartbeat)),
            Ok(Err(failure)) => (one(to.dialect.error(&failure)), (None, heartbeat)),
        })
    });
    let mut response = Response::new(Body::from_stream(waiting.flatten()));
    form_headers(&mut response, streamed);
    response
}

impl Receiver {
    /// The same as in an answer of the gateway's own.
    fn sign_of_life(&self) -> Bytes {
        match &self.life {
            Some(Life { stamp, streamed: true, .. }) => self.dialect.sign_of_life(stamp),
            Some(Life { stamp, streamed: false, .. }) => {
                self.dialect.writer(stamp.clone(), Form::default()).heartbeat()
            }
            None => Bytes::new(),
        }
    }
}

/// What a backend says, until it has said everything or the gateway stops.
fn pieces(to: Receiver, forwarded: Forwarded) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    // Boxed, since what is handed from chunk to chunk is moved several times for each.
    let passing = Box::new(Passing::new(to, forwarded));
    stream::unfold(Some(passing), async |passing: Option<Box<Passing>>| passing?.next_bytes().await)
}

/// An answer that is being handed back.
struct Passing {
    to: Receiver,
    streamed: bool,
    next: Next,
    /// When there were bytes last.
    heard: Instant,
    /// Ends when somebody should look whether there were bytes in the meantime. Set anew only then, not for every piece.
    look: Option<Pin<Box<Sleep>>>,
}

/// The answer's next piece, and the answer. It is kept while signs of life are sent: what it waits for, and for how long,
/// must not begin anew.
type Next = ReusableBoxFuture<'static, (Option<Result<Bytes, Failure>>, Box<Forwarded>)>;

async fn next_of(mut forwarded: Box<Forwarded>) -> (Option<Result<Bytes, Failure>>, Box<Forwarded>) {
    (forwarded.next().await, forwarded)
}

impl Passing {
    fn new(to: Receiver, forwarded: Forwarded) -> Self {
        let streamed = forwarded.streamed;
        // A whole answer that has begun is there, or too large to wait for it: no blank may come between its parts.
        let look = to.life.as_ref().filter(|_| streamed).map(|life| Box::pin(sleep(life.heartbeat)));
        let next = ReusableBoxFuture::new(next_of(Box::new(forwarded)));
        Self { to, streamed, next, heard: Instant::now(), look }
    }

    /// The next bytes, and who gives those after them.
    async fn next_bytes(mut self: Box<Self>) -> Option<(io::Result<Bytes>, Option<Box<Self>>)> {
        let next = loop {
            tokio::select! {
                // What is there needs no ear for the end.
                biased;
                (next, forwarded) = poll_fn(|context| self.next.poll(context)) => {
                    self.next.set(next_of(forwarded));
                    break next?;
                }
                () = self.to.over.cancelled() => break Err(stopping()),
                () = ended(&mut self.look) => {
                    if self.is_silent() {
                        return Some((Ok(self.to.sign_of_life()), Some(self)));
                    }
                }
            }
        };
        match next {
            Ok(bytes) => {
                self.hear(&bytes);
                Some((Ok(bytes), Some(self)))
            }
            Err(failure) if self.streamed => Some((Ok(self.to.dialect.error_in_stream(&failure)), None)),
            // Half a JSON body cannot be mended; a cut connection says so.
            Err(failure) => Some((Err(io::Error::other(failure.message)), None)),
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.look.is_some() {
            self.heard = Instant::now();
            if bytes.trim_ascii_end().ends_with(DONE) {
                self.look = None;
            }
        }
    }

    /// Whether it was silent for as long as it may be. Sets the time of the next look.
    fn is_silent(&mut self) -> bool {
        let (Some(life), Some(look)) = (&self.to.life, &mut self.look) else { return false };
        let is_silent = self.heard.elapsed() >= life.heartbeat;
        if is_silent {
            self.heard = Instant::now();
        }
        look.as_mut().reset(self.heard + life.heartbeat);
        is_silent
    }
}

/// Waits for its end; where there is none, for ever.
async fn ended(look: &mut Option<Pin<Box<Sleep>>>) {
    match look {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}
