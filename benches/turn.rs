//! What the gateway itself adds to a turn: from the last byte of a model's tool call to the first byte of the next
//! model call, less the time for which the code ran.
//!
//! A plain TCP server stands in for the backend, since only it knows when its bytes left and the next ones came.
//! Exits with 1 when the median is above the bar.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and stops at the first trouble")]

use loopgate::app::App;
use loopgate::config::{self, KEYS, Sources};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Turns before the first that counts: connections are open and pages are warm by then.
const WARM_UP: usize = 30;
const TURNS: usize = 300;
/// The bar for the median.
const P50_MAX: Duration = Duration::from_millis(3);

const CALL: &str = concat!(
    r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"id":"call_1","index":0,"type":"function","function":{"name":"execute_code","arguments":"{\"code\": \"print(1+1)\"}"}}]}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    "\n\ndata: [DONE]\n\n"
);
const ANSWER: &str = concat!(
    r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"2"}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    "\n\ndata: [DONE]\n\n"
);
const QUESTION: &str = r#"{"model":"bench","messages":[{"role":"user","content":"1+1"}]}"#;

fn main() -> ExitCode {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", backend.local_addr().unwrap());
    let (gaps, measured) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in backend.incoming().flatten() {
            let gaps = gaps.clone();
            std::thread::spawn(move || serve(stream, &gaps));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let app = runtime.block_on(App::start(&resolved(&url, folder.path()))).unwrap();
    let gateway = app.addr().unwrap();
    let serving = runtime.spawn(app.serve(std::future::pending()));
    let mut added: Vec<Duration> = (0..WARM_UP + TURNS)
        .map(|_| {
            let ran = ask(gateway);
            measured.recv_timeout(Duration::from_secs(10)).unwrap().saturating_sub(ran)
        })
        .skip(WARM_UP)
        .collect();
    serving.abort();
    added.sort();
    let percentile = |percent: usize| added[(added.len() * percent / 100).min(added.len() - 1)];
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (p50, p90, p99) = (percentile(50), percentile(90), percentile(99));
    println!("tool call to next model call, without the code's own time, {TURNS} turns");
    println!(
        "  p50 {:.2} ms   p90 {:.2} ms   p99 {:.2} ms   (bar: p50 <= {:.0} ms)",
        millis(p50),
        millis(p90),
        millis(p99),
        millis(P50_MAX)
    );
    if p50 <= P50_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn resolved(backend: &str, folder: &Path) -> config::Resolved {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let flags = [
        ("listen", "127.0.0.1:0".to_owned()),
        ("backend", backend.to_owned()),
        ("tools-dir", root.join("tools").display().to_string()),
        ("policy-dir", root.join("policies").display().to_string()),
        ("cache-dir", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache").display().to_string()),
        ("memory", folder.join("memory.redb").display().to_string()),
        ("audit", folder.join("audit.jsonl").display().to_string()),
    ];
    let key = |name| KEYS.iter().find(|key| key.flag == name).unwrap();
    let flags = flags.into_iter().map(|(name, value)| (key(name), vec![value])).collect();
    let mut resolved = config::resolve(&Sources { flags, dir: folder.to_owned(), ..Sources::default() }).unwrap();
    resolved.sandbox.program = env!("CARGO_BIN_EXE_loopgate").into();
    resolved
}

/// One connection of the gateway's: a call for the first message of a turn, an answer for the second.
fn serve(mut stream: TcpStream, gaps: &mpsc::Sender<Duration>) {
    stream.set_nodelay(true).unwrap();
    let mut call_sent: Option<Instant> = None;
    while let Some((arrived, request)) = read_request(&mut stream) {
        let second = request.contains(r#""role":"tool""#);
        let (kind, body) = match (request.starts_with("POST /v1/chat"), second) {
            (true, false) => ("text/event-stream", CALL),
            (true, true) => {
                if let Some(sent) = call_sent.take() {
                    let _ = gaps.send(arrived.saturating_duration_since(sent));
                }
                ("text/event-stream", ANSWER)
            }
            (false, _) => ("application/json", r#"{"object":"list","data":[{"id":"bench"}]}"#),
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).unwrap();
        call_sent = Some(Instant::now());
    }
}

/// When a request's first byte came, and the request.
fn read_request(stream: &mut TcpStream) -> Option<(Instant, String)> {
    let mut request = Vec::new();
    let mut chunk = [0; 16 << 10];
    let mut arrived = None;
    loop {
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        arrived.get_or_insert_with(Instant::now);
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some((arrived?, text.into_owned()));
        }
    }
}

/// One turn through the gateway; how long its code ran.
fn ask(gateway: SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(gateway).unwrap();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{QUESTION}",
        QUESTION.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let text = answer.split_once("\"duration_ms\":").expect("an execution").1;
    let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    Duration::from_secs_f64(digits.parse::<f64>().unwrap() / 1e3)
}
