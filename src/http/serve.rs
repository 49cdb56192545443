//! Connections: accept, serve, and stop without cutting anybody off.

use super::doors::{Door, Doors};
use super::routes::Routes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ServeSettings {
    /// Connections at once; further ones wait in the system's queue.
    pub connections_max: usize,
    /// A connection that has not sent a request's head in this time is closed.
    pub header_timeout: Duration,
    /// A connection that takes no byte for so long, while bytes wait for it, is closed.
    pub write_stall: Duration,
    /// How long running requests may go on after the gateway was told to stop.
    pub grace: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        // Chosen: below the usual limit of open files, of which a turn takes two.
        Self {
            connections_max: 8192,
            header_timeout: Duration::from_mins(1),
            write_stall: Duration::from_mins(1),
            grace: Duration::from_secs(30),
        }
    }
}

/// What `accept()` failed on is likely to last a moment: too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long clients have to take the error with which their requests end. Chosen.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves `routes` until `stop` is done and running requests are finished, or the grace period is over. Then `over` is
/// cancelled, by which requests end with an error, and who has not taken that in [`LAST_WORDS`] is cut off.
pub async fn serve(
    listener: TcpListener,
    doors: &Doors,
    routes: Routes,
    settings: ServeSettings,
    stop: impl Future<Output = ()>,
    over: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(settings.connections_max));
    let (stopping, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, place))
        };
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some((accepted, place)) = accepted => match accepted {
                Ok((stream, _)) => {
                    let Some(door) = doors.emptiest() else { continue };
                    let runtime = door.runtime.clone();
                    let served = connection(stream, routes.clone(), settings, stopping.subscribe(), (place, door));
                    connections.spawn_on(served, &runtime);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    if timeout(settings.grace, all(&mut connections)).await.is_ok() {
        return;
    }
    tracing::warn!(connections = connections.len(), "the grace period is over; running requests end with an error");
    over.cancel();
    if timeout(LAST_WORDS, all(&mut connections)).await.is_err() {
        connections.shutdown().await;
    }
}

async fn all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Serves a connection to its end. What it holds in the meantime is `_held`.
async fn connection(
    stream: TcpStream,
    routes: Routes,
    settings: ServeSettings,
    mut stopping: watch::Receiver<bool>,
    _held: (OwnedSemaphorePermit, Door),
) {
    let Ok(stream) = taken_in(stream) else { return };
    // A client that does not read holds a turn, a slot and a backend's seat. Bytes that the system takes count as read.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(settings.write_stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .serve_connection(TokioIo::new(Box::pin(stream)), routes);
    let mut connection = pin!(connection);
    tokio::select! {
        served = connection.as_mut() => return noted(served),
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    noted(connection.await);
}

/// What happens on it is to be heard of here, not where it was accepted.
fn taken_in(stream: TcpStream) -> io::Result<TcpStream> {
    // Small frames must leave at once: a token that waits for the next one is a slow token.
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream.into_std()?)
}

/// Clients leave as they please; that is no news.
fn noted(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
