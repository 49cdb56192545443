//! A backend that costs next to nothing: a loop on bare sockets that sends prepared bytes.
//!
//! What it is to send stands at the beginning of a request's body: `max_tokens` is the number of events, `stream` whether
//! they are events at all, and `seed` the microseconds between two, or [`FOREVER_US`].

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// After its first event the answer stays open.
pub const FOREVER_US: u64 = 1 << 40;

const EVENT: &str = concat!(
    r#"data: {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1764000000,"#,
    r#""model":"qwen3-coder","choices":[{"index":0,"delta":{"role":null,"content":" token","reasoning_content":null,"#,
    r#""tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}"#,
    "\n\n"
);
const LAST: &str = concat!(
    r#"data: {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1764000000,"#,
    r#""model":"qwen3-coder","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","#,
    r#""matched_stop":151645}],"usage":null}"#,
    "\n\n"
);
const WHOLE: &str = concat!(
    r#"{"id":"0123456789abcdef0123456789abcdef","object":"chat.completion","created":1764000000,"model":"qwen3-coder","#,
    r#""choices":[{"index":0,"message":{"role":"assistant","content":" token token token token token token token token"},"#,
    r#""logprobs":null,"finish_reason":"stop","matched_stop":151645}],"usage":{"prompt_tokens":8,"total_tokens":16,"#,
    r#""completion_tokens":8}}"#
);
const MODELS: &str = r#"{"object":"list","data":[{"id":"qwen3-coder"}]}"#;

/// Starts it on a thread of its own.
pub fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A proxy that closes a connection ends it, and nothing else.
                tokio::spawn(async { serve(stream).await.unwrap_or_default() });
            }
        });
    });
    address
}

/// One connection's requests, one after another.
async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, chunk) = (vec![0; 64 << 10], chunked(EVENT));
    let end = chunked(LAST) + &chunked("data: [DONE]\n\n") + "0\r\n\r\n";
    while let Some(asked) = read_request(&mut stream, &mut buffer).await? {
        if !asked.stream {
            let body = if asked.tokens == 0 { MODELS } else { WHOLE };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
            stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
            continue;
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        for _ in 0..asked.tokens {
            stream.write_all(chunk.as_bytes()).await?;
            if asked.pause_us == FOREVER_US {
                // Until the proxy closes it.
                let _ = stream.read(&mut buffer).await?;
                return Ok(());
            }
            if asked.pause_us > 0 {
                tokio::time::sleep(Duration::from_micros(asked.pause_us)).await;
            }
        }
        stream.write_all(end.as_bytes()).await?;
    }
    Ok(())
}

fn chunked(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

struct Asked {
    stream: bool,
    tokens: u64,
    pause_us: u64,
}

async fn read_request(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<Option<Asked>> {
    let mut have = 0;
    let head_end = loop {
        let read = stream.read(&mut buffer[have..]).await?;
        if read == 0 {
            return Ok(None);
        }
        have += read;
        if let Some(at) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
    let length = number_after(head.as_bytes(), b"content-length: ").unwrap_or(0);
    let mut left = usize::try_from(length).unwrap().saturating_sub(have - head_end);
    // The first few members tell everything.
    while left > 0 && have < head_end + 128 {
        let read = stream.read(&mut buffer[have..]).await?;
        (have, left) = (have + read, left.saturating_sub(read));
    }
    let body = &buffer[head_end..have.min(head_end + 128)];
    let asked = Asked {
        stream: memchr::memmem::find(body, b"\"stream\":true").is_some(),
        tokens: number_after(body, b"\"max_tokens\":").unwrap_or(0),
        pause_us: number_after(body, b"\"seed\":").unwrap_or(0),
    };
    while left > 0 {
        match stream.read(buffer).await? {
            0 => return Ok(None),
            read => left = left.saturating_sub(read),
        }
    }
    Ok(Some(asked))
}

fn number_after(text: &[u8], name: &[u8]) -> Option<u64> {
    let rest = &text[memchr::memmem::find(text, name)? + name.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}
