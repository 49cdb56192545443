//! The SDKs whose conversations the tests watch: one table, and the processes that carry the conversations out.
//!
//! An SDK is a script of `tests/clients` and a row here. Its process is started once, since an import may take ten
//! seconds, and ends with this one, when its stdin does.

use crate::gateway::{Gateway, root};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// An SDK that has not come back by then hangs. Chosen: the longest conversation takes 5 s, the slowest import 10 s on
/// an idle machine.
const CONVERSATION_MAX: Duration = Duration::from_mins(2);

/// All that are tested. Every test goes through all of them.
pub static SDKS: [Sdk; 5] = [
    Sdk::python("openai_python.py", &WAYS, openai_error).showing_executed(),
    Sdk::node("openai_node.mjs", &WAYS, openai_error).showing_executed(),
    // Its `generateText` and `streamText`, and LangChain's sum of chunks, leave nothing to be put together by hand.
    Sdk::node("ai_sdk.mjs", &["whole", "streamed"], |_| "AI_APICallError"),
    Sdk::python("langchain_python.py", &["whole", "streamed"], langchain_error),
    Sdk::python("litellm_python.py", &["whole", "streamed"], litellm_error).hiding_codes(),
];

/// The same answer, taken as one body, put together by hand from chunks, and by the SDK's own helper.
const WAYS: [&str; 3] = ["whole", "streamed", "accumulated"];

/// One SDK.
pub struct Sdk {
    script: &'static str,
    program: &'static str,
    /// What `make clients` leaves behind.
    installed: &'static str,
    pub ways: &'static [&'static str],
    /// It hands on members of a message that it does not know.
    pub shows_executed: bool,
    /// It hands on the `code` of an error.
    pub shows_codes: bool,
    /// The name of what it raises for a status.
    pub error_of: fn(u16) -> &'static str,
    process: OnceLock<Process>,
}

/// One way to use an SDK.
#[derive(Clone, Copy)]
pub struct User {
    pub sdk: &'static Sdk,
    pub way: &'static str,
}

/// A conversation that an SDK is to have.
#[derive(Debug, Clone)]
pub struct Conversation(Value);

/// What the SDK saw of it.
#[derive(Debug, Deserialize)]
pub struct Seen {
    /// The complete answers, in order.
    pub answers: Vec<Answer>,
    /// The text that came in pieces for the last answer, complete or not.
    pub heard: String,
    pub error: Option<Raised>,
}

#[derive(Debug, Deserialize)]
pub struct Answer {
    pub text: String,
    pub finish: Option<String>,
    pub calls: Vec<Call>,
    /// `None` for an SDK that does not show it.
    pub executed: Option<Vec<Value>>,
    pub tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// JSON text. Some SDKs parse it and write it anew.
    pub arguments: String,
}

/// What an SDK raised.
#[derive(Debug, Deserialize)]
pub struct Raised {
    pub name: String,
    pub status: Option<u16>,
    pub code: Option<Value>,
    #[expect(dead_code, reason = "for the reader of a failed test")]
    message: String,
}

/// Every way to use every SDK.
pub fn users() -> impl Iterator<Item = User> {
    SDKS.iter().flat_map(|sdk| sdk.ways.iter().map(move |way| User { sdk, way }))
}

/// Has every user have a conversation, side by side.
pub async fn all_see(gateway: &Gateway, conversation: &Conversation) -> Vec<(User, Seen)> {
    side_by_side(users(), gateway, conversation).await
}

/// Has these users have a conversation, side by side.
pub async fn side_by_side(
    users: impl Iterator<Item = User>,
    gateway: &Gateway,
    conversation: &Conversation,
) -> Vec<(User, Seen)> {
    join_all(users.map(async |user| (user, user.sees(gateway, conversation).await))).await
}

// === impl Conversation ===

impl Conversation {
    /// The user's words, turn by turn.
    pub fn of(turns: &[&str]) -> Self {
        Self(json!({
            "turns": turns, "model": "qwen3-coder", "key": "EMPTY", "headers": {}, "options": {}, "tools": [],
            "result": null, "idle_ms": 60_000, "leaves": false,
        }))
    }

    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        assert!(self.0.get(member).is_some(), "{member} is a member of a conversation");
        self.0[member] = value.into();
        self
    }

    /// Declares tools; `result` is the client's answer to every call of them.
    pub fn tools(self, tools: &[Value], result: &str) -> Self {
        self.with("tools", tools).with("result", result)
    }
}

// === impl User ===

impl Debug for User {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.sdk.script, self.way)
    }
}

impl User {
    /// What it sees of a conversation with the gateway.
    pub async fn sees(self, gateway: &Gateway, conversation: &Conversation) -> Seen {
        let mut job = conversation.0.clone();
        job["base_url"] = format!("{}/v1", gateway.url).into();
        job["way"] = self.way.into();
        let seen = self.sdk.process.get_or_init(|| Process::start(self.sdk)).carry_out(job);
        let seen = tokio::time::timeout(CONVERSATION_MAX, seen).await;
        let seen = seen.unwrap_or_else(|_| panic!("{self:?} hangs")).expect("its stderr, above, says why it has ended");
        serde_json::from_value(seen).expect("the form that all SDKs' scripts print")
    }
}

// === impl Sdk ===

impl Sdk {
    const fn python(script: &'static str, ways: &'static [&'static str], error_of: fn(u16) -> &'static str) -> Self {
        let (program, installed) = (".venv/bin/python", ".venv/clients");
        Self {
            script,
            program,
            installed,
            ways,
            shows_executed: false,
            shows_codes: true,
            error_of,
            process: OnceLock::new(),
        }
    }

    const fn node(script: &'static str, ways: &'static [&'static str], error_of: fn(u16) -> &'static str) -> Self {
        let (program, installed) = ("node", "tests/clients/node_modules/clients");
        Self {
            script,
            program,
            installed,
            ways,
            shows_executed: false,
            shows_codes: true,
            error_of,
            process: OnceLock::new(),
        }
    }

    const fn showing_executed(mut self) -> Self {
        self.shows_executed = true;
        self
    }

    const fn hiding_codes(mut self) -> Self {
        self.shows_codes = false;
        self
    }
}

/// Of openai-python and openai-node alike.
fn openai_error(status: u16) -> &'static str {
    match status {
        400 => "BadRequestError",
        401 => "AuthenticationError",
        404 => "NotFoundError",
        429 => "RateLimitError",
        _ => "InternalServerError",
    }
}

/// Each is a subclass of what openai-python raises.
fn langchain_error(status: u16) -> &'static str {
    match status {
        400 => "OpenAIInvalidRequestError",
        401 => "OpenAIAuthenticationError",
        404 => "OpenAIModelNotFoundError",
        429 => "OpenAIRateLimitError",
        _ => "OpenAIAPIError",
    }
}

fn litellm_error(status: u16) -> &'static str {
    match status {
        503 => "ServiceUnavailableError",
        other => openai_error(other),
    }
}

/// A running script.
struct Process {
    stdin: Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which conversation.
#[derive(Default)]
struct Waiting {
    numbers: u64,
    listeners: HashMap<u64, oneshot::Sender<Value>>,
}

#[derive(Deserialize)]
struct Done {
    number: u64,
    seen: Value,
}

impl Process {
    fn start(sdk: &Sdk) -> Self {
        assert!(root().join(sdk.installed).exists(), "{} is missing: run `make clients` first", sdk.installed);
        // A program without a slash is looked for in PATH.
        let program = if sdk.program.contains('/') { root().join(sdk.program) } else { sdk.program.into() };
        let mut child = Command::new(program)
            .arg(root().join("tests/clients").join(sdk.script))
            .env("NO_PROXY", "*")
            .env("no_proxy", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program that can be run");
        let waiting = Arc::<Mutex<Waiting>>::default();
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let listening = Arc::clone(&waiting);
        thread::spawn(move || {
            listen(stdout, &listening);
            // Whoever still waits, waits for nothing.
            listening.lock().expect("no panic").listeners.clear();
            let _ = child.wait();
        });
        Self { stdin: Mutex::new(stdin), waiting }
    }

    fn carry_out(&self, mut job: Value) -> oneshot::Receiver<Value> {
        let (listener, seen) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect("no panic");
        job["number"] = waiting.numbers.into();
        let number = waiting.numbers;
        waiting.numbers += 1;
        waiting.listeners.insert(number, listener);
        drop(waiting);
        writeln!(self.stdin.lock().expect("no panic"), "{job}").expect("its stderr, above, says why it has ended");
        seen
    }
}

fn listen(stdout: ChildStdout, waiting: &Mutex<Waiting>) {
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("text");
        let done: Done = serde_json::from_str(&line).unwrap_or_else(|_| panic!("a conversation, not {line:?}"));
        if let Some(listener) = waiting.lock().expect("no panic").listeners.remove(&done.number) {
            let _ = listener.send(done.seen);
        }
    }
}
