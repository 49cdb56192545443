//! Bare sockets: a client that can leave at any moment, and backends that send exactly the bytes they are given.

use crate::gateway::{Answer, Gateway, until};
use loopgate::mock::{self, Running};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// A bound on failure, not a pace: what takes longer than this never comes.
pub const NEVER: Duration = Duration::from_secs(20);

/// A port of this test alone, whether or not anybody listens on it: a freed one may be given to the test beside it.
pub struct Port {
    pub address: SocketAddr,
    /// Bound, so that the system gives the port to nobody, and not listening, so that whoever names it can have it.
    _kept: TcpSocket,
}

impl Port {
    pub fn new() -> Self {
        let kept = TcpSocket::new_v4().expect("a socket");
        kept.set_reuseaddr(true).expect("an option");
        kept.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        Self { address: kept.local_addr().expect("an address"), _kept: kept }
    }

    /// A scripted backend on this port. What another test has just begun to start as a process of its own holds, for a
    /// moment, all sockets of this one, and among them one that was closed meanwhile.
    pub async fn backend(&self, settings: mock::Settings) -> Running {
        let mut running = None;
        until("a free port", async || {
            match mock::start(mock::Settings { listen: self.address, ..settings.clone() }).await {
                Ok(backend) => running = Some(backend),
                Err(error) => assert_eq!(error.error.kind(), ErrorKind::AddrInUse, "{error}"),
            }
            running.is_some()
        })
        .await;
        running.expect("a backend")
    }
}

/// A client's connection. Dropping it is the client leaving.
pub struct Line {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Line {
    /// Sends a chat request and does not wait for its answer.
    pub async fn ask(gateway: &Gateway, body: &Value) -> Self {
        Self::ask_with(gateway, body, "accept: */*").await
    }

    /// The same with one more header.
    pub async fn ask_with(gateway: &Gateway, body: &Value, header: &str) -> Self {
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n{header}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self::send(gateway, (head + &body).as_bytes()).await
    }

    /// Sends bytes that may be no request at all.
    pub async fn send(gateway: &Gateway, bytes: &[u8]) -> Self {
        let address = gateway.url.strip_prefix("http://").expect("http");
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(bytes).await.expect("sent");
        Self { stream, seen: Vec::new() }
    }

    /// Sends bytes after what was sent.
    pub async fn more(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// Reads until `text` has come; everything up to now.
    pub async fn until(&mut self, text: &str) -> String {
        let reading = async {
            while !String::from_utf8_lossy(&self.seen).contains(text) {
                let mut piece = [0; 4096];
                let count = self.stream.read(&mut piece).await.expect("a readable connection");
                assert!(count > 0, "closed before {text:?}: {}", String::from_utf8_lossy(&self.seen));
                self.seen.extend_from_slice(&piece[..count]);
            }
        };
        tokio::time::timeout(NEVER, reading).await.unwrap_or_else(|_| panic!("{text:?} never came"));
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

impl Line {
    /// Reads an answer whose length is announced.
    pub async fn answer(mut self) -> Answer {
        let text = self.until("\r\n\r\n").await;
        let (head, _) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers: http::HeaderMap = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect();
        let length: usize = headers["content-length"].to_str().expect("text").parse().expect("a length");
        let whole = head.len() + 4 + length;
        while self.seen.len() < whole {
            assert!(self.stream.read_buf(&mut self.seen).await.expect("a readable connection") > 0, "{text}");
        }
        Answer { status, headers, body: self.seen[head.len() + 4..whole].to_vec().into() }
    }
}

/// A backend that answers every chat request with the next of its scripts, byte for byte, and then closes. It knows no
/// other route.
pub struct Scripted {
    pub url: String,
    /// One for each piece that may be sent after an answer's first.
    pub pieces: Arc<Semaphore>,
    task: JoinHandle<()>,
}

/// A way to a backend that counts its connections.
pub struct Relay {
    pub url: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.expect("a connection");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(to).await.expect("the backend");
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { url, connections, task }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Pieces of an answer, each sent as a packet of its own.
pub type Script = Vec<Vec<u8>>;

impl Scripted {
    pub async fn start(scripts: Vec<Script>) -> Self {
        let scripted = Self::paused(scripts).await;
        scripted.pieces.add_permits(Semaphore::MAX_PERMITS);
        scripted
    }

    /// One that waits after the first piece of an answer.
    pub async fn paused(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let scripts = Arc::new(Mutex::new(VecDeque::from(scripts)));
        let pieces = Arc::new(Semaphore::new(0));
        let may_go = pieces.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(answer(stream, scripts.clone(), may_go.clone()));
            }
        });
        Self { url, pieces, task }
    }

    /// Takes no connections any more. Answers that have begun go on.
    pub fn close(&self) {
        self.task.abort();
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that says 200 to everything, with the body that `answer` gives for the path. Without one it says nothing for
/// ever.
pub struct Pages {
    pub url: String,
    task: JoinHandle<()>,
}

impl Pages {
    pub async fn start(answer: fn(&str) -> Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    let Some(head) = read_request(&mut stream).await else { return };
                    let Some(body) = answer(head.split(' ').nth(1).unwrap_or_default()) else {
                        // Open until the other side is tired of it.
                        let _ = stream.read(&mut [0]).await;
                        return;
                    };
                    let head =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all((head + body).as_bytes()).await;
                });
            }
        });
        Self { url, task }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole SSE answer of these choices.
pub fn stream_of(choices: &[Value]) -> Script {
    let frames = choices.iter().map(|choice| format!("data: {}\n\n", json!({"id": "x", "choices": [choice]})));
    let body: String = frames.chain(["data: [DONE]\n\n".to_owned()]).collect();
    vec![
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into(),
    ]
}

async fn answer(mut stream: TcpStream, scripts: Arc<Mutex<VecDeque<Script>>>, pieces: Arc<Semaphore>) {
    let _ = stream.set_nodelay(true);
    let Some(head) = read_request(&mut stream).await else { return };
    let chat = head.starts_with("POST /v1/chat/completions ");
    let script = chat.then(|| scripts.lock().expect("the scripts").pop_front()).flatten();
    let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    for (at, piece) in script.unwrap_or_else(|| vec![not_found]).into_iter().enumerate() {
        if at > 0 {
            pieces.acquire().await.expect("an open semaphore").forget();
        }
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
}

/// Reads a request to its end; its head.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        seen.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&seen);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if body.len() >= length.trim().parse().unwrap_or(0) {
            return Some(head.to_owned());
        }
    }
}
