//! The harness: a gateway on a real socket in front of a scripted backend, and a client that sees what clients see.

use crate::wires::NEVER;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopgate::app::{App, Reloader};
use loopgate::config::{self, KEYS, Sources};
use loopgate::mock::{self, Running};
use loopgate::sse::{DONE, Frames};
use serde_json::{Value, json};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Between two looks. Chosen: short beside a test, and long enough to leave the cores to what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running gateway. Dropping it stops everything.
pub struct Gateway {
    /// `http://127.0.0.1:…`
    pub url: String,
    /// The scripted backend behind it.
    pub backend: Running,
    /// The audit, and whatever a test puts there.
    pub folder: TempDir,
    reloader: Reloader,
    sources: Sources,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// How a gateway is to be.
#[derive(Default)]
pub struct Setup {
    backend: mock::Settings,
    flags: Vec<(&'static str, Vec<String>)>,
    /// The text of `loopgate.toml`.
    file: String,
    policy: Option<String>,
    /// URLs of backends before the scripted one.
    others: Vec<String>,
}

impl Setup {
    pub fn backend(mut self, settings: mock::Settings) -> Self {
        self.backend = settings;
        self
    }

    /// Sets what `--<flag>` sets.
    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts alike, and nobody writes the `&`")]
    pub fn flag(mut self, flag: &'static str, value: impl ToString) -> Self {
        self.flags.push((flag, vec![value.to_string()]));
        self
    }

    pub fn file(mut self, text: &str) -> Self {
        text.clone_into(&mut self.file);
        self
    }

    /// The text of the one policy there is.
    pub fn policy(mut self, text: &str) -> Self {
        self.policy = Some(text.to_owned());
        self
    }

    /// Lines of a policy that grants everybody `execute_code`.
    pub fn rules(self, lines: &str) -> Self {
        let grant = "[[grants]]\ntools = ['execute_code']\nwhy = 'the tests run it'\n";
        self.policy(&format!("callers = ['*']\n{lines}\n{grant}"))
    }

    /// A backend of the test's own, beside the scripted one.
    pub fn other_backend(mut self, url: String) -> Self {
        self.others.push(url);
        self
    }

    pub async fn start(self) -> Gateway {
        let backend = mock::start(self.backend).await.expect("a backend");
        let folder = tempfile::tempdir().expect("a folder");
        let policies = match self.policy {
            None => root().join("policies"),
            Some(text) => {
                let policies = folder.path().join("policies");
                std::fs::create_dir(&policies).expect("a folder");
                std::fs::write(policies.join("default.toml"), text).expect("a policy");
                policies
            }
        };
        std::fs::write(folder.path().join("loopgate.toml"), self.file).expect("a config file");
        let mut flags = vec![
            ("listen", vec!["127.0.0.1:0".to_owned()]),
            ("backend", self.others.into_iter().chain([backend.url()]).collect()),
            // One guest for all tools' folders.
            ("guest", vec![root().join("tools/execute_code/guest/build/python.wasm").display().to_string()]),
            ("tools-dir", vec![root().join("tools").display().to_string()]),
            ("policy-dir", vec![policies.display().to_string()]),
            ("cache-dir", vec![cache_dir().display().to_string()]),
            ("audit", vec![folder.path().join("audit.jsonl").display().to_string()]),
            ("memory", vec![folder.path().join("memory.redb").display().to_string()]),
            ("interpreters-max", vec!["4".to_owned()]),
        ];
        flags.retain(|(name, _)| !self.flags.iter().any(|(set, _)| set == name));
        flags.extend(self.flags);
        let key = |name| KEYS.iter().find(|key| key.flag == name).expect("a known flag");
        let sources = Sources {
            flags: flags.into_iter().map(|(name, values)| (key(name), values)).collect(),
            file: Some(folder.path().join("loopgate.toml")),
            ..Sources::default()
        };
        let mut resolved = config::resolve(&sources).expect("a good configuration");
        resolved.sandbox.program = env!("CARGO_BIN_EXE_loopgate").into();
        let app = App::start(&resolved).await.expect("a gateway");
        app.pool().until_ready().await;
        let url = format!("http://{}", app.addr().expect("an address"));
        let reloader = app.reloader();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(app.serve(async {
            let _ = stopped.await;
        }));
        Gateway { url, backend, folder, reloader, sources, stop: Some(stop), serving }
    }
}

/// Looks now and then until it is so. For what can only be asked; what tells of itself is waited on instead.
pub async fn until(what: impl Display, mut so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !so().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(NEVER, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Sends a request to a gateway and takes its whole answer.
pub async fn send(
    url: &str,
    method: http::Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    begin(url, method, path, headers, body).await.rest().await
}

/// Sends a request to a gateway and takes the head of its answer.
async fn begin(url: &str, method: http::Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Begun {
    let mut request = http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in [("content-type", "application/json")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("a request");
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.expect("a response");
    let (head, body) = response.into_parts();
    Begun { head, body, seen: Vec::new() }
}

/// A gateway as it is without any settings of its own.
pub async fn start() -> Gateway {
    Setup::default().start().await
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// One compiled guest for all tests.
pub fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// An answer whose head has come. Dropping it is the client's leaving.
pub struct Begun {
    head: http::response::Parts,
    body: Incoming,
    /// The body so far.
    pub seen: Vec<u8>,
}

/// An answer as a client sees it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Begun {
    /// Reads on until the body so far is as wanted.
    pub async fn until(&mut self, what: &str, so: impl Fn(&[u8]) -> bool) {
        let reading = async {
            while !so(&self.seen) {
                let frame = self.body.frame().await.unwrap_or_else(|| panic!("it ended before {what}"));
                self.seen.extend(frame.expect("a readable body").into_data().expect("data"));
            }
        };
        tokio::time::timeout(NEVER, reading).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    pub async fn rest(mut self) -> Answer {
        self.seen.extend(self.body.collect().await.expect("a whole body").to_bytes());
        Answer { status: self.head.status.as_u16(), headers: self.head.headers, body: self.seen.into() }
    }
}

/// The events of a stream so far, but for `[DONE]`.
pub fn events(body: &[u8]) -> Vec<Value> {
    let mut frames = Frames::new(usize::MAX);
    frames.feed(body);
    let frames = std::iter::from_fn(|| frames.next_frame().expect("a frame")).filter(|frame| *frame != DONE);
    frames.map(|frame| serde_json::from_slice(&frame).unwrap_or_else(|_| panic!("a chunk, not {frame:?}"))).collect()
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON, not {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"))
    }

    /// The chunks of a streamed answer, which must end in `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let mut frames = Frames::new(usize::MAX);
        frames.feed(&self.body);
        let mut chunks = Vec::new();
        while let Some(frame) = frames.next_frame().expect("a frame") {
            if frame == DONE {
                assert!(!frames.is_mid_frame(), "[DONE] is last");
                return chunks;
            }
            chunks.push(serde_json::from_slice(&frame).unwrap_or_else(|_| panic!("a chunk, not {frame:?}")));
        }
        panic!("no [DONE] in {:?}", self.body);
    }

    /// The error of an answer, whose envelope must be whole.
    pub fn refused(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        let error = &body["error"];
        assert!(error["message"].as_str().is_some_and(|it| !it.is_empty()), "{body}");
        assert!(error["type"].is_string(), "{body}");
        for member in ["param", "code"] {
            assert!(error.get(member).is_some_and(|it| it.is_string() || it.is_null()), "{member} in {body}");
        }
        assert!(!self.header("x-request-id").is_empty());
        assert!(self.header("content-type").starts_with("application/json"));
        error.clone()
    }

    /// The text of a whole or a streamed answer.
    pub fn text(&self) -> String {
        if self.header("content-type").starts_with("application/json") {
            return self.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        }
        let chunks = self.chunks();
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
    }
}

/// A user's message as a request body.
pub fn question(text: &str, stream: bool) -> Value {
    json!({"model": "qwen3-coder", "stream": stream, "messages": [{"role": "user", "content": text}]})
}

/// A request that is forwarded, and one in which the gateway acts, in both forms.
pub fn four_ways(text: &str) -> Vec<Value> {
    let mut ways = Vec::new();
    for stream in [false, true] {
        ways.push(question(text, stream));
        let mut forwarded = question(text, stream);
        forwarded["tools"] = json!([]);
        ways.push(forwarded);
    }
    ways
}

impl Gateway {
    /// Asks for a chat completion.
    pub async fn ask(&self, body: &Value) -> Answer {
        self.send(http::Method::POST, "/v1/chat/completions", &[], body.to_string()).await
    }

    /// The same, up to the head of the answer.
    pub async fn begin(&self, body: &Value) -> Begun {
        self.begin_at("/v1/chat/completions", body).await
    }

    /// Posts a request to any path, up to the head of its answer.
    pub async fn begin_at(&self, path: &str, body: &Value) -> Begun {
        begin(&self.url, http::Method::POST, path, &[], body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(http::Method::GET, path, &[], String::new()).await
    }

    pub async fn send(
        &self,
        method: http::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        send(&self.url, method, path, headers, body).await
    }

    /// Waits until it is idle.
    pub async fn until_idle(&self) {
        until("an idle gateway", async || self.is_idle().await).await;
    }

    /// No turn is under way and no request at a backend.
    pub async fn is_idle(&self) -> bool {
        let busy = |line: &str| {
            let counts = ["loopgate_backend_in_flight{", "loopgate_turns_running "];
            counts.iter().any(|count| line.starts_with(count)) && !line.ends_with(" 0")
        };
        !String::from_utf8_lossy(&self.get("/metrics").await.body).lines().any(busy)
    }

    /// The lines of the audit.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).expect("an audit");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Takes over another text of `loopgate.toml`, as on SIGHUP; the keys that need a restart, or what is wrong.
    pub fn reload(&self, file: &str) -> Result<Vec<&'static str>, String> {
        std::fs::write(self.folder.path().join("loopgate.toml"), file).expect("a config file");
        let resolved = config::resolve(&self.sources).map_err(|error| error.to_string())?;
        self.reloader.reload(&resolved).map_err(|error| error.to_string())
    }

    /// Tells it to stop, and goes on.
    pub fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops as on SIGTERM, and waits for the end.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.serving).await.expect("a clean end");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
