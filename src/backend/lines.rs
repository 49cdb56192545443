//! Connections to backends: opened, kept for a while, and driven by whoever waits for an answer on them.
//!
//! No task of their own drives them: an answer's bytes would go from that task to the answer's for every single chunk, and
//! what has come at once would leave one by one. That was three quarters of the cost of a chunk.

use super::client::Pieces;
use super::together::Together;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::{self, Handle};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// An idle connection is closed by us before uvicorn's own 5 s are over, so that few requests meet a dying one. Whoever
/// sends something looks for old ones, and the pool asks its backends something every few seconds.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(4);
/// Idle connections to one backend, of each runtime. Chosen: the requests that a large one runs at once.
const IDLE_MAX: usize = 256;

/// Where connections lead.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// Host and port.
    pub to: String,
    /// Over TLS, and whose certificate the other side has to show.
    pub certified: Option<ServerName<'static>>,
}

/// By place, and by the runtime that hears of what happens on them: another one could use them, but would be woken by that
/// one every time.
type Whither = (Arc<Place>, runtime::Id);

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The connections that nobody uses at the moment, the longest idle first.
type Idle = Arc<Mutex<HashMap<Whither, Vec<(Instant, Open)>>>>;

/// All connections.
#[derive(Clone)]
pub(super) struct Lines {
    idle: Idle,
    connect: Duration,
    tls: TlsConnector,
}

struct Open {
    sender: SendRequest<Pieces>,
    connection: Box<Connection<TokioIo<Stream>, Pieces>>,
}

/// A connection with an answer on it. Dropped before the answer's end it is closed, else kept.
pub(super) struct Line {
    to: Whither,
    /// `None` once it is closed, or kept.
    open: Option<Open>,
    /// The answer has come to its end, good or bad.
    end: Option<Result<(), hyper::Error>>,
    /// The other side has said something that is no answer yet.
    heard: bool,
    idle: Idle,
}

impl Lines {
    /// `connect` is how long it may take to open one, and how long TLS may take on it.
    pub fn new(connect: Duration, tls: TlsConnector) -> Self {
        Self { idle: Idle::default(), connect, tls }
    }

    /// Sends the request that `make` makes to a place, and waits for the head of the answer.
    ///
    /// A kept connection may be closed by the other side while the request is on its way: nobody is to blame, and the
    /// request is made once more on a new connection. That is also what becomes of one whose backend has just died, and
    /// no more than is done with requests that fail anyhow; if it is dead, there will be no new connection.
    pub async fn send(
        &self,
        to: &Arc<Place>,
        make: impl Fn() -> Request<Pieces>,
    ) -> io::Result<(Response<Incoming>, Line)> {
        let to = (to.clone(), Handle::current().id());
        while let Some(open) = self.kept(&to) {
            let mut line = self.line(&to, open);
            line.look().await;
            // It was closed while nobody looked.
            if line.open.is_none() {
                continue;
            }
            match line.ask(make()).await {
                Err(_) if line.open.is_none() && !line.heard => break,
                answered => return answered.map(|response| (response, line)),
            }
        }
        let mut line = self.line(&to, self.open(&to.0).await?);
        Ok((line.ask(make()).await?, line))
    }

    fn line(&self, to: &Whither, open: Open) -> Line {
        Line { to: to.clone(), open: Some(open), end: None, heard: false, idle: self.idle.clone() }
    }

    async fn open(&self, place: &Place) -> io::Result<Open> {
        let stream = self.connect(&place.to).await?;
        let stream = match &place.certified {
            None => Either::Left(stream),
            // Large and rare: not part of every request's future.
            Some(name) => Either::Right(Box::pin(self.secure(name, stream)).await?),
        };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Open { sender, connection: Box::new(connection) })
    }

    async fn secure(&self, name: &ServerName<'static>, stream: TcpStream) -> io::Result<Box<TlsStream<TcpStream>>> {
        let secured = timeout(self.connect, self.tls.connect(name.clone(), stream)).await;
        secured.unwrap_or_else(|_| Err(slow())).map(Box::new)
    }

    /// Of several addresses the first one that answers. None of them may take the others' time.
    async fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let addresses: Vec<_> = timeout(self.connect, lookup_host(to)).await.map_err(|_| slow())??.collect();
        let each = self.connect / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(each, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(slow())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The connection that was used last. Those that have been idle for too long are closed, to whomever they lead.
    fn kept(&self, to: &Whither) -> Option<Open> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|_, lines| {
            let old = lines.partition_point(|(since, _)| now.duration_since(*since) >= KEEP_ALIVE_IDLE);
            lines.drain(..old);
            !lines.is_empty()
        });
        idle.get_mut(to)?.pop().map(|(_, open)| open)
    }
}

fn slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it took too long to connect")
}

impl Line {
    /// Lets the connection hear what has happened while it was kept.
    async fn look(&mut self) {
        poll_fn(|context| {
            self.drive(context);
            Poll::Ready(())
        })
        .await;
    }

    /// The head of the answer.
    async fn ask(&mut self, request: Request<Pieces>) -> io::Result<Response<Incoming>> {
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut answer = pin!(open.sender.send_request(request));
        let answered = poll_fn(|context| {
            self.drive(context);
            answer.as_mut().poll(context)
        });
        answered.await.map_err(io::Error::other)
    }

    /// Lets the connection read and write what it can.
    fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(open) = &mut self.open
            && Pin::new(&mut *open.connection).poll(context).is_ready()
        {
            let over = self.open.take().map(|open| open.connection.into_parts());
            self.heard = over.is_some_and(|parts| !parts.read_buf.is_empty());
        }
    }

    /// The next bytes of the answer: all that are there, within a bound. `None` after the last.
    pub async fn bytes(&mut self, body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
        poll_fn(|context| self.poll_bytes(body, context)).await
    }

    fn poll_bytes(
        &mut self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let together = self.gather(body, context);
        if !together.is_empty() {
            return Poll::Ready(Some(Ok(together.bytes())));
        }
        let Some(end) = self.end.replace(Ok(())) else {
            self.end = None;
            return Poll::Pending;
        };
        match end {
            Ok(()) => {
                self.drive(context);
                self.keep();
                Poll::Ready(None)
            }
            Err(error) => {
                self.open = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// Takes from the body what is there, and has the connection read more until there is nothing to read.
    fn gather(&mut self, body: &mut Incoming, context: &mut Context<'_>) -> Together {
        let (mut together, mut driven) = (Together::default(), false);
        while self.end.is_none() && !together.is_full() {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    driven = false;
                    // Trailers are of no use to anybody.
                    together.extend(frame.into_data().unwrap_or_default());
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(error)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending if driven => break,
                Poll::Pending => {
                    self.drive(context);
                    driven = true;
                }
            }
        }
        together
    }

    /// For the next request, if the connection is ready for one: a request that was answered before it was read to its
    /// end, or a server that wants to close, leaves one that is not.
    fn keep(&mut self) {
        let Some(open) = self.open.take().filter(|open| open.sender.is_ready()) else { return };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = idle.entry(self.to.clone()).or_default();
        if lines.len() < IDLE_MAX {
            lines.push((Instant::now(), open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tls;
    use super::*;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server that answers everything, and its address.
    async fn server() -> Arc<Place> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
                    }
                });
            }
        });
        Arc::new(Place { to: address, certified: None })
    }

    fn request() -> Request<Pieces> {
        let mut request = Request::new(Pieces::of(Vec::new()));
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("test"));
        request
    }

    fn lines() -> Lines {
        Lines::new(Duration::from_secs(2), tls::connector(None).expect("a connector"))
    }

    fn idle(lines: &Lines) -> usize {
        lines.idle.lock().expect("no panic").values().map(Vec::len).sum()
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_too_long_is_closed_whoever_sends_something() {
        let (lines, to, other) = (lines(), server().await, server().await);
        let (response, mut line) = lines.send(&to, request).await.expect("an answer");
        let mut body = response.into_body();
        assert_eq!(line.bytes(&mut body).await.expect("bytes").expect("bytes"), "hi");
        assert!(line.bytes(&mut body).await.is_none() && line.bytes(&mut body).await.is_none());
        assert_eq!(idle(&lines), 1);
        for line in lines.idle.lock().expect("no panic").values_mut().flatten() {
            line.0 -= KEEP_ALIVE_IDLE;
        }
        let _other = lines.send(&other, request).await.expect("an answer");
        assert_eq!(idle(&lines), 0);
        assert!(lines.idle.lock().expect("no panic").is_empty(), "nor is the backend remembered");
    }

    #[tokio::test]
    async fn no_more_connections_are_kept_than_may_be() {
        let (lines, to) = (lines(), server().await);
        let mut answers = Vec::new();
        for _ in 0..=IDLE_MAX {
            answers.push(lines.send(&to, request).await.expect("an answer"));
        }
        for (response, mut line) in answers {
            let mut body = response.into_body();
            while line.bytes(&mut body).await.is_some() {}
            assert!(body.frame().await.is_none());
        }
        assert_eq!(idle(&lines), IDLE_MAX);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_to_its_end_closes_its_connection() {
        let (lines, to) = (lines(), server().await);
        drop(lines.send(&to, request).await.expect("an answer"));
        assert_eq!(idle(&lines), 0);
    }
}
