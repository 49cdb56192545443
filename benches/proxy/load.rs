//! Clients on bare sockets, which cost as little as the backend.

use crate::backend::FOREVER_US;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// What is asked, again and again.
#[derive(Clone)]
pub struct Question {
    bytes: Arc<Vec<u8>>,
}

impl Question {
    /// A conversation of about so many bytes, and an answer of so many events with pauses between them; without events to
    /// be, a whole answer.
    pub fn new(bytes: usize, events: Option<u64>, pause_us: u64) -> Self {
        let (stream, tokens) = (events.is_some(), events.unwrap_or(8));
        let mut body = format!(
            r#"{{"model":"qwen3-coder","stream":{stream},"max_tokens":{tokens},"seed":{pause_us},"messages":["#
        );
        body += r#"{"role":"system","content":"You are a coding agent.\nAnswer with code."},"#;
        let mut turn = 0;
        while body.len() + TURN.len() < bytes {
            body += &TURN.replace("NUMBER", &turn.to_string());
            turn += 1;
        }
        body += r#"{"role":"user","content":"And what does it do?"}]}"#;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n";
        let bytes = format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        Self { bytes: Arc::new(bytes) }
    }
}

/// A question and an answer with code in it, as agents write it: quotes, line ends, some 1.5 KB.
const TURN: &str = concat!(
    r#"{"role":"user","content":"Read src/module_NUMBER.py and say what is wrong with it.\nThe test `test_NUMBER` fails."},"#,
    r#"{"role":"assistant","content":"It is this function:\n\n```python\ndef merge(left, right):\n    \"\"\"Two sorted lists as one.\"\"\"\n"#,
    r#"    merged, i, j = [], 0, 0\n    while i < len(left) and j < len(right):\n        if left[i] <= right[j]:\n            merged.append(left[i])\n"#,
    r#"            i += 1\n        else:\n            merged.append(right[j])\n            j += 1\n    return merged + left[i:]\n```\n\n"#,
    r#"What is left of `right` is lost: the last line has to be `return merged + left[i:] + right[j:]`. The test compares the "#,
    r#"result of two lists of which the second is longer, so it is the only one that sees it. There is nothing else wrong with "#,
    r#"the file as far as I can tell; the other functions are covered by tests that pass.\n"},"#,
);

/// Sends `count` requests over so many connections at once.
pub async fn ask(to: SocketAddr, question: &Question, connections: usize, count: usize) {
    let left = Arc::new(AtomicUsize::new(count));
    let clients = (0..connections).map(|_| {
        let (left, question) = (left.clone(), question.clone());
        tokio::spawn(async move {
            let mut client = Client::new(to).await;
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                client.ask(&question).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

/// A client with one connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn new(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 64 << 10] }
    }

    /// One request and all of its answer; how long its first byte took.
    pub async fn ask(&mut self, question: &Question) -> Duration {
        let asked = Instant::now();
        self.stream.write_all(&question.bytes).await.unwrap();
        let mut first = None;
        let mut answer = Answer::default();
        while !answer.is_whole {
            let read = self.stream.read(&mut self.buffer).await.unwrap();
            first.get_or_insert_with(|| asked.elapsed());
            answer.read(&self.buffer[..read]);
        }
        first.unwrap()
    }
}

/// How much of an answer has come: its head tells its length, or its last chunk is empty.
#[derive(Default)]
struct Answer {
    left: Option<usize>,
    tail: Vec<u8>,
    began: bool,
    is_whole: bool,
}

impl Answer {
    fn read(&mut self, mut bytes: &[u8]) {
        assert!(!bytes.is_empty(), "the connection was closed in an answer");
        if !self.began {
            // The head comes in one piece from all that are measured here.
            assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(bytes));
            let head = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap() + 4;
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            self.left = length.map(|length| length.parse().unwrap());
            (self.began, bytes) = (true, &bytes[head..]);
        }
        if let Some(left) = &mut self.left {
            *left -= bytes.len();
            self.is_whole = *left == 0;
        } else {
            self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(5)..]);
            self.tail.drain(..self.tail.len().saturating_sub(5));
            self.is_whole = self.tail == b"0\r\n\r\n";
        }
    }
}

/// Streams of which one event has come, and no more will.
pub async fn idle(to: SocketAddr, count: usize) -> Vec<Client> {
    let question = Question::new(0, Some(1), FOREVER_US);
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::new(to).await;
        // One buffer for all would do; small ones are close to that.
        client.buffer = vec![0; 2 << 10];
        client.stream.write_all(&question.bytes).await.unwrap();
        let mut seen = Vec::new();
        while memchr::memmem::find(&seen, b"\n\n\r\n").is_none() {
            let read = client.stream.read(&mut client.buffer).await.unwrap();
            assert!(read > 0, "closed: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&client.buffer[..read]);
        }
        clients.push(client);
    }
    clients
}

/// A client that takes a few bytes of an answer without end, ten times a second.
pub async fn read_slowly(to: SocketAddr) {
    let question = Question::new(0, Some(u64::from(u32::MAX)), 0);
    let socket = TcpSocket::new_v4().unwrap();
    // As small as the system lets it be, so that what is not read waits in the proxy.
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(&question.bytes).await.unwrap();
    let mut buffer = [0; 512];
    loop {
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
