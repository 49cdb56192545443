//! The gateway's connections to its backends: used again, and given up when they are of no use any more.

use crate::gateway::{Gateway, Setup, until};
use crate::wires::NEVER;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// More than the buffers of two sockets take.
const LARGE_BYTES: usize = 32 << 20;

/// A backend of which the test is the model: it gets every chat request with the connection on which that came.
struct Peer {
    url: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    again: mpsc::UnboundedSender<Asked>,
    task: JoinHandle<()>,
}

struct Asked {
    connection: usize,
    stream: TcpStream,
    /// Of the request, but for what is too large.
    body: String,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (tell, asked) = mpsc::unbounded_channel();
        let (again, mut goes_on) = mpsc::unbounded_channel::<Asked>();
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let (connection, stream) = tokio::select! {
                    accepted = listener.accept() => (connection, accepted.expect("a connection").0),
                    Some(asked) = goes_on.recv() => (asked.connection, asked.stream),
                };
                tokio::spawn(listen(connection, stream, tell.clone()));
            }
        });
        Self { url, asked, again, task }
    }

    /// The next chat request.
    async fn asked(&mut self) -> Asked {
        timeout(NEVER, self.asked.recv()).await.expect("a request comes").expect("a request")
    }

    /// Answers a request well, and listens for the next one on its connection.
    async fn answer(&self, mut asked: Asked) {
        asked.say(&whole("Hello")).await;
        self.again.send(asked).expect("it listens");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asked {
    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("somebody listens");
    }

    /// Waits until the gateway closes the connection.
    async fn closed(mut self) {
        let mut rest = vec![0; 1 << 20];
        let reading = async { while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
        timeout(NEVER, reading).await.expect("it is closed");
    }
}

fn whole(text: &str) -> String {
    let body =
        json!({"id": "x", "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]});
    let (body, head) = (body.to_string(), "HTTP/1.1 200 OK\r\ncontent-type: application/json");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Answers whatever is asked of any server, until there is a chat request.
async fn listen(connection: usize, mut stream: TcpStream, tell: mpsc::UnboundedSender<Asked>) {
    loop {
        let (mut seen, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        let (head, body) = loop {
            let Ok(read @ 1..) = stream.read(&mut piece).await else { return };
            seen.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&seen);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            let length: usize = length.parse().expect("a length");
            if body.len() == length || length > LARGE_BYTES {
                break (head.to_owned(), body.to_owned());
            }
        };
        if head.starts_with("POST /v1/chat/completions ") {
            let _ = tell.send(Asked { connection, stream, body });
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    }
}

/// A client with one connection, so that one thread of the gateway's serves all it asks.
struct Client(TcpStream);

impl Client {
    async fn of(gateway: &Gateway) -> Self {
        let address = gateway.url.strip_prefix("http://").expect("an address");
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    async fn ask(&mut self, body: &Value) {
        let body = body.to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(request.as_bytes()).await.expect("somebody listens");
    }

    /// Reads the answer until it has this in it.
    async fn until(&mut self, what: &str) -> String {
        let mut seen = Vec::new();
        let reading = async {
            while memchr::memmem::find(&seen, what.as_bytes()).is_none() {
                let read = self.0.read_buf(&mut seen).await.expect("an answer");
                assert!(read > 0, "no {what:?} in {}", String::from_utf8_lossy(&seen));
            }
        };
        let read = timeout(NEVER, reading).await;
        let seen = String::from_utf8_lossy(&seen).into_owned();
        read.unwrap_or_else(|_| panic!("no {what:?} in {seen}"));
        seen
    }

    /// Reads a good answer to its end.
    async fn good(&mut self) {
        let answer = self.until("\r\n0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Hello"), "{answer}");
    }
}

/// A question that is handed on.
fn question(stream: bool) -> Value {
    json!({"model": "any", "stream": stream, "tools": [], "messages": [{"role": "user", "content": "Hi"}]})
}

async fn before(peer: &Peer) -> Gateway {
    Setup::default().flag("backend", &peer.url).start().await
}

async fn metrics(gateway: &Gateway) -> String {
    String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text")
}

/// What the backend is blamed for, and how often somebody was asked again.
async fn blame(gateway: &Gateway) -> (u64, u64) {
    let page = metrics(gateway).await;
    let number = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).expect("a metric");
        line.trim().parse().expect("a number")
    };
    (number("loopgate_backend_failures_total{backend=\"0\"}"), number("loopgate_backend_retries_total"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_after_a_whole_answer() {
    let mut peer = Peer::start().await;
    let gateway = before(&peer).await;
    let mut client = Client::of(&gateway).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        client.ask(&question(false)).await;
        let asked = peer.asked().await;
        connections.push(asked.connection);
        peer.answer(asked).await;
        client.good().await;
    }
    assert_eq!(connections, [connections[0]; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_nobody_used_it_is_nobodys_fault() {
    let mut peer = Peer::start().await;
    let gateway = before(&peer).await;
    let mut client = Client::of(&gateway).await;
    for _ in 0..3 {
        client.ask(&question(false)).await;
        let mut asked = peer.asked().await;
        asked.say(&whole("Hello")).await;
        client.good().await;
    }
    assert_eq!(blame(&gateway).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_meets_a_closing_connection_is_made_once_more_on_a_new_one() {
    let mut peer = Peer::start().await;
    let gateway = before(&peer).await;
    let mut client = Client::of(&gateway).await;
    client.ask(&question(false)).await;
    let first = peer.asked().await;
    let kept = first.connection;
    peer.answer(first).await;
    client.good().await;
    client.ask(&question(false)).await;
    let lost = peer.asked().await;
    assert_eq!(lost.connection, kept);
    let sent = lost.body.clone();
    drop(lost);
    let again = peer.asked().await;
    assert!(again.connection != kept && again.body == sent, "{}", again.body);
    peer.answer(again).await;
    client.good().await;
    assert_eq!(blame(&gateway).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_that_is_closed_without_a_word_is_the_backends_fault() {
    let mut peer = Peer::start().await;
    let gateway = before(&peer).await;
    let mut client = Client::of(&gateway).await;
    client.ask(&question(false)).await;
    drop(peer.asked().await);
    // The pool's own next try.
    let again = peer.asked().await;
    peer.answer(again).await;
    client.good().await;
    assert_eq!(blame(&gateway).await, (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_dies_in_its_answer_is_the_backends_fault() {
    for begin in ["HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"] {
        let mut peer = Peer::start().await;
        let gateway = before(&peer).await;
        let mut client = Client::of(&gateway).await;
        client.ask(&question(false)).await;
        let first = peer.asked().await;
        peer.answer(first).await;
        client.good().await;
        client.ask(&question(false)).await;
        let mut cut = peer.asked().await;
        cut.say(begin).await;
        drop(cut);
        let again = peer.asked().await;
        peer.answer(again).await;
        client.good().await;
        assert_eq!(blame(&gateway).await, (1, 1), "{begin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_closes_the_connection_to_the_backend() {
    let mut peer = Peer::start().await;
    let gateway = before(&peer).await;
    let mut client = Client::of(&gateway).await;
    client.ask(&question(true)).await;
    let mut asked = peer.asked().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
    asked.say(&format!("{head}{:x}\r\n{event}\r\n", event.len())).await;
    client.until("Hello").await;
    drop(client);
    asked.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_request_was_answered_before_it_was_read_is_closed() {
    let mut peer = Peer::start().await;
    let gateway = before(&peer).await;
    let mut client = Client::of(&gateway).await;
    let mut large = question(false);
    large["messages"][0]["content"] = "x".repeat(LARGE_BYTES + 1).into();
    client.ask(&large).await;
    let mut asked = peer.asked().await;
    let first = asked.connection;
    asked.say(&whole("Hello")).await;
    client.good().await;
    client.ask(&question(false)).await;
    let next = peer.asked().await;
    assert_ne!(next.connection, first);
    peer.answer(next).await;
    client.good().await;
    asked.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_no_connection_is_given_up_after_the_time_for_that() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(0).expect("a listener");
    let address = listener.local_addr().expect("an address");
    // Who waits to be accepted fills the queue; the system lets one more in than it says.
    let _waiting = TcpStream::connect(address).await.expect("a connection");
    let setup = Setup::default().other_backend(format!("http://{address}"));
    // A probe's own patience is longer than the test's.
    let gateway = setup.flag("connect-ms", 100).flag("probe-timeout-ms", 60_000).start().await;
    until("it is down", async || {
        let page = metrics(&gateway).await;
        page.contains("loopgate_backend_up{backend=\"0\"} 0") && page.contains("loopgate_backend_up{backend=\"1\"} 1")
    })
    .await;
}
