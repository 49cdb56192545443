//! The binary as a user runs it, in a folder of their own.

use crate::gateway::{Answer, cache_dir, root, send};
use crate::wires::NEVER;
use loopgate::mock;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use tempfile::TempDir;

/// A working directory in which `loopgate` is run with this repository's tools and policies.
pub struct Place(TempDir);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// A place whose only policy is this one.
    pub fn with_policy(text: &str) -> Self {
        Self::new().file("policies/default.toml", text)
    }

    pub fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        self
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopgate"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"LOOPGATE_")) {
            command.env_remove(name);
        }
        let policies = self.path("policies");
        let policies = if policies.exists() { policies } else { root().join("policies") };
        command.env("LOOPGATE_POLICY_DIR", policies).env("LOOPGATE_TOOLS_DIR", root().join("tools"));
        command.env("LOOPGATE_CACHE_DIR", cache_dir()).env("LOOPGATE_MEMORY", self.path("memory.redb"));
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).output().expect("a binary"))
    }

    /// `loopgate exec` with this program on its stdin.
    pub fn exec(&self, program: impl AsRef<[u8]>, args: &[&str]) -> Said {
        let args = [&["exec", "-"], args].concat();
        let mut command = self.command(&args);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("a binary");
        child.stdin.take().expect("a pipe").write_all(program.as_ref()).expect("a reader");
        said(child.wait_with_output().expect("an end"))
    }
}

fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Said {
    /// Bad usage or configuration: code 2, and a message with all of these in it.
    #[track_caller]
    pub fn assert_refused(&self, parts: &[&str]) {
        self.assert_failed(2, parts);
    }

    #[track_caller]
    pub fn assert_failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "`{part}` in {}", self.err);
        }
    }
}

/// A command that serves until it is told to stop. Dropping it kills it.
pub struct Serving {
    child: Child,
    address: String,
    /// What it says after its first line.
    said: Receiver<String>,
}

impl Serving {
    /// Reads the address from the first line that holds one.
    pub fn start(command: &mut Command, on_stdout: bool) -> Self {
        let stdout = if on_stdout { Stdio::piped() } else { Stdio::null() };
        let stderr = if on_stdout { Stdio::inherit() } else { Stdio::piped() };
        let mut child = command.stdout(stdout).stderr(stderr).spawn().expect("a binary");
        let said: Box<dyn Read + Send> = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => Box::new(stdout),
            (None, Some(stderr)) => Box::new(stderr),
            (None, None) => unreachable!("one of them is a pipe"),
        };
        let mut lines = BufReader::new(said).lines().map(|line| line.expect("text"));
        let address = lines.find_map(|line| Some(line.split_once("on http://")?.1.split(' ').next()?.to_owned()));
        // Read on, so that the pipe never fills up.
        let (says, said) = channel();
        std::thread::spawn(move || lines.for_each(|line| drop(says.send(line))));
        Self { child, address: address.expect("a line with the address"), said }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks for a chat completion.
    pub async fn ask(&self, body: &Value) -> Answer {
        send(&self.url(), http::Method::POST, "/v1/chat/completions", &[], body.to_string()).await
    }

    /// Says SIGKILL, and waits until it has worked.
    pub fn kill(&mut self) {
        self.child.kill().expect("a process");
        self.child.wait().expect("an end");
    }

    /// Says SIGHUP.
    pub fn hang_up(&self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::HUP)
            .expect("a process");
    }

    /// Waits until it has said this, in a line that comes back.
    pub fn until_said(&self, text: &str) -> String {
        loop {
            let line = self.said.recv_timeout(NEVER).unwrap_or_else(|_| panic!("it never says {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    }

    fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        ))
    }

    fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("a server");
        stream.write_all(request.as_bytes()).expect("a reader");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Says SIGTERM and waits for the exit code.
    fn terminate(mut self) -> Option<i32> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)
            .expect("a process");
        self.child.wait().expect("an end").code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === exec ===

#[test]
fn exec_refuses_what_it_cannot_read() {
    let place = Place::new().file("latin1.py", b"print('\xe9')");
    place.run(&["exec", "nothing.py"]).assert_refused(&["nothing.py", "No such file"]);
    place.run(&["exec", "latin1.py"]).assert_refused(&["latin1.py is not UTF-8 text"]);
    place.run(&["exec", "--as", "bob", "latin1.py"]).assert_refused(&["latin1.py"]);
    place.exec("1", &["--as", "bob"]).assert_refused(&["unknown caller `bob`", "known: anonymous"]);
    place.run(&["exec", "--jsno", "-"]).assert_refused(&["--jsno", "--json"]);
}

#[test]
fn exec_shows_output_and_value_of_a_program() {
    let place = Place::new();
    let program = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7";
    let said = place.exec(program, &[]);
    assert_eq!((said.code, &*said.out, &*said.err), (Some(0), "out\n42\n", "err\n"));
    let from_file = Place::new().file("program.py", program).run(&["exec", "program.py"]);
    assert_eq!((from_file.code, from_file.out, from_file.err), (said.code, said.out, said.err));
    let none = place.exec("x = 1", &[]);
    assert_eq!((none.code, &*none.out, &*none.err), (Some(0), "", ""));
}

#[test]
fn exec_says_by_its_code_how_a_program_ended() {
    let limited = |limit: &str| {
        let grant = "callers = [\"*\"]\n[[grants]]\ntools = [\"execute_code\"]\nwhy = \"test\"\n[limits]\n";
        Place::with_policy(&format!("{grant}{limit}"))
    };
    let place = limited("memory_mib = 64");
    let raised = place.exec("print('before')\n1 / 0", &[]);
    raised.assert_failed(1, &["Traceback (most recent call last)", "ZeroDivisionError"]);
    assert_eq!(raised.out, "before\n");
    let fill = "blocks = []\nwhile True:\n    blocks.append(bytearray(1 << 20))";
    place.exec(fill, &[]).assert_failed(4, &["64 MiB"]);
    place.exec("{}", &["--tool", "nothing"]).assert_failed(5, &["nothing", "execute_code"]);
    // The others would hit this one on a slow machine.
    let hurried = limited("wall_ms = 500");
    hurried.exec("while True: pass", &[]).assert_failed(3, &["500 ms"]);
    hurried.exec("import time\ntime.sleep(60)", &[]).assert_failed(3, &["500 ms"]);
    for place in [place, hurried] {
        let audit = fs::read_to_string(place.path("audit.jsonl")).expect("an audit in the working directory");
        assert!(audit.lines().count() >= 2, "{audit}");
    }
}

#[test]
fn exec_denies_what_no_policy_grants() {
    let place = Place::with_policy("callers = [\"*\"]\n");
    place.exec("print('ran')", &[]).assert_failed(5, &["execute_code"]);
    let json = place.exec("print('ran')", &["--json"]);
    let outcome: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.code, &outcome["status"], &outcome["stdout"]), (Some(5), &"denied".into(), &"".into()));
}

#[test]
fn exec_prints_the_whole_outcome_as_json() {
    let said = Place::new().exec("print('out')\n'value'", &["--json"]);
    assert_eq!((said.code, &*said.err), (Some(0), ""));
    let outcome: Value = serde_json::from_str(&said.out).expect("JSON");
    for (key, value) in [("status", "completed"), ("stdout", "out\n"), ("result", "'value'"), ("ended", "completed")] {
        assert_eq!(outcome[key], value, "{key} in {outcome}");
    }
}

#[test]
fn exec_survives_a_reader_that_has_gone_away() {
    let place = Place::new();
    let mut command = place.command(&["exec", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a binary");
    drop(child.stdout.take());
    child.stdin.take().expect("a pipe").write_all(b"print('out')\n42").expect("a reader");
    let said = said(child.wait_with_output().expect("an end"));
    assert_eq!((said.code, &*said.err), (Some(0), ""));
}

// === settings ===

#[test]
fn bad_settings_are_refused_with_the_place_the_value_and_the_way_out() {
    let file = |text: &str| Place::new().file("loopgate.toml", text).run(&["check"]);
    file("[server]\nlisten_on = \"1\"").assert_refused(&[
        "loopgate.toml",
        "server.listen_on",
        "known:",
        "`server.listen`",
    ]);
    file("[server]\nlisten = \"here\"").assert_refused(&["loopgate.toml: `server.listen`", "`here`", "127.0.0.1:8080"]);
    file("server = ").assert_refused(&["loopgate.toml", "line 1"]);
    Place::new().run(&["check", "--config", "nothing.toml"]).assert_refused(&["nothing.toml", "--config"]);
    Place::new().run(&["check", "--listen", "here"]).assert_refused(&["--listen", "`here`", "127.0.0.1:8080"]);

    let variable = |name, value| said(Place::new().command(&["check"]).env(name, value).output().expect("a binary"));
    variable("LOOPGATE_LISTN", "x")
        .assert_refused(&["unknown variable `LOOPGATE_LISTN`", "did you mean `LOOPGATE_LISTEN`"]);
    variable("LOOPGATE_LISTEN", "here").assert_refused(&["LOOPGATE_LISTEN", "`here`", "127.0.0.1:8080"]);
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let place = Place::new();
    let port = |place: &Place, env: Option<&str>, flags: &[&str]| {
        let mut command = place.command(&[&["check"], flags].concat());
        command.envs(env.map(|port| ("LOOPGATE_LISTEN", port)));
        let said = said(command.output().expect("a binary"));
        assert_eq!(said.code, Some(0), "{said:?}");
        let line = said.out.lines().find(|line| line.contains("server.listen ")).expect("the setting").to_owned();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(port(&place, None, &[]), "127.0.0.1:8080 default");
    let place = place.file("loopgate.toml", "[server]\nlisten = \"127.0.0.1:1111\"");
    assert!(
        port(&place, None, &[]).starts_with("127.0.0.1:1111 ") && port(&place, None, &[]).ends_with("loopgate.toml")
    );
    assert_eq!(port(&place, Some("127.0.0.1:2222"), &[]), "127.0.0.1:2222 LOOPGATE_LISTEN");
    let flags = ["--listen", "127.0.0.1:3333"];
    assert_eq!(port(&place, Some("127.0.0.1:2222"), &flags), "127.0.0.1:3333 --listen");
}

#[test]
fn other_machines_are_not_served_without_a_key() {
    let said = Place::new().run(&["serve", "--listen", "0.0.0.0:0"]);
    said.assert_refused(&["0.0.0.0:0", "[[callers]]", "loopgate key", "--allow-anonymous"]);
}

#[test]
fn a_key_is_made_for_a_name_that_the_configuration_takes() {
    for name in ["a b", "", "anonymous"] {
        let said = Place::new().run(&["key", name]);
        assert!(said.code == Some(2) && said.out.is_empty(), "{said:?}");
    }
}

#[test]
fn what_key_prints_is_taken_as_configuration() {
    let key = Place::new().run(&["key", "alice"]);
    assert_eq!(key.code, Some(0), "{key:?}");
    let place = Place::new().file("loopgate.toml", &key.out);
    let said = place.run(&["check", "--listen", "0.0.0.0:0"]);
    assert!(said.code == Some(0) && said.out.contains("callers.alice"), "{said:?}");
}

// === check ===

#[test]
fn check_finds_bad_policies_and_tools() {
    let policy = |text: &str| Place::with_policy(text).run(&["check"]);
    policy("callers = [\"*\"]\n[limits]\nwall = 1").assert_failed(1, &["default.toml", "`wall`", "`wall_ms`"]);
    policy("callers = [\"*\"]\n[limits]\nwall_ms = 0").assert_failed(1, &["default.toml", "wall_ms", "600000"]);
    policy("callers = [\"*\"]\n[[grants]]\ntools = [\"exec\"]\nwhy = \"test\"")
        .assert_failed(1, &["`exec`", "`execute_code`"]);

    let tools = |path: &str, text: &str| {
        let guest = root().join("tools/execute_code/guest/build/python.wasm");
        let place = Place::new()
            .file("tools/hello/tool.toml", "description = \"Says hello\"\nprogram = \"program.py\"\nstate = \"none\"")
            .file("tools/hello/schema.json", "{\"type\": \"object\"}")
            .file("tools/hello/program.py", "'hello'")
            .file("policies/default.toml", "callers = [\"*\"]\n[[grants]]\ntools = [\"hello\"]\nwhy = \"test\"")
            .file(path, text);
        place.run(&["check", "--tools-dir", "tools", "--guest", &guest.display().to_string()])
    };
    tools("tools/hello/tool.toml", "description = \"x\"\nprogam = \"program.py\"")
        .assert_failed(1, &["hello", "progam"]);
    tools("tools/hello/schema.json", "{\"type\": \"objet\"}")
        .assert_failed(1, &["hello/schema.json", "`type`", "\"object\""]);
    let example = tools("tools/hello/examples/wrong.toml", "[arguments]\n[expect]\nvalue = \"'good bye'\"");
    assert_eq!(example.code, Some(1), "{example:?}");
    assert!(example.out.contains("wrong") && example.out.contains("'good bye'"), "{example:?}");
    let good = tools("tools/hello/examples/right.toml", "[arguments]\n[expect]\nvalue = \"'hello'\"");
    assert!(good.code == Some(0) && good.out.contains("all is well"), "{good:?}");
}

#[test]
fn check_is_content_with_what_is_in_this_repository() {
    let said = Place::new().run(&["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for part in ["server.listen", "policy default: execute_code", "factorial", "all is well"] {
        assert!(said.out.contains(part), "`{part}` in {}", said.out);
    }
}

// === serving ===

#[test]
fn simulate_compares_the_policies_with_the_numbers_that_it_is_given() {
    let place = Place::new();
    for (args, told) in [
        (&["simulate", "--balance", "fastest"][..], "unknown balance policy `fastest`; known: all, least-wait, "),
        (&["simulate", "--sessions", "4,none"], "'none'"),
        (&["simulate", "--kv-tokens", "1000"], "1000 is not in 130000"),
        (&["simulate", "--check", "--seconds", "60"], "cannot be used with"),
    ] {
        let said = place.run(args);
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(said.err.contains(told), "{args:?}: {said:?}");
    }
    let numbers = ["simulate", "--backends", "2", "--sessions", "3,4", "--seconds", "60", "--seed", "5,6"];
    let said = place.run(&[&numbers[..], &["--json"]].concat());
    let rows: Vec<Value> = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((said.code, rows.len()), (Some(0), 2 * loopgate::backend::balance::ALL.len()));
    for row in &rows {
        assert_eq!(row["runs"].as_array().map(Vec::len), Some(2), "{row}");
        assert!(row["runs"][0]["turns"].as_u64().is_some_and(|turns| turns > 0), "{row}");
    }
    let said = place.run(&[&numbers[..], &["--balance", "random"]].concat());
    assert!(
        said.out.starts_with("2 servers with 400000 KV tokens each; 60 s, of which the first 12 s"),
        "{}",
        said.out
    );
    assert_eq!(said.out.lines().filter(|line| line.contains(" random ")).count(), 2, "{}", said.out);
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for command in ["demo", "mock", "serve"] {
        let said = Place::new().run(&[command, "--listen", &address]);
        said.assert_failed(1, &[&format!("cannot listen on {address}"), "choose another address"]);
    }
}

#[test]
fn a_memory_needs_a_place_of_its_own_unless_it_is_the_demo_s() {
    let place = Place::new();
    let homeless = |args: &[&str]| {
        let mut command = place.command(args);
        command.env_remove("LOOPGATE_MEMORY").env_remove("HOME").env_remove("XDG_STATE_HOME");
        said(command.output().expect("a binary"))
    };
    homeless(&["serve", "--listen", "127.0.0.1:0"]).assert_failed(1, &["memory.path", "LOOPGATE_MEMORY", ":memory:"]);
    assert_eq!(homeless(&["demo", "--once", "--listen", "127.0.0.1:0"]).code, Some(0));
    let _first = Serving::start(&mut place.command(&["serve", "--listen", "127.0.0.1:0"]), false);
    let second = place.run(&["serve", "--listen", "127.0.0.1:0"]);
    second.assert_failed(1, &["memory.redb", "another process uses it", "LOOPGATE_MEMORY"]);
    for args in [&["check"] as &[_], &["demo", "--once", "--listen", "127.0.0.1:0"]] {
        assert_eq!(place.run(args).code, Some(0), "{args:?}");
    }
    assert_eq!(place.exec("6 * 7", &[]).code, Some(0));
}

#[test]
fn mock_serves_models_and_ends_on_sigterm() {
    let mock = Serving::start(&mut Place::new().command(&["mock", "--listen", "127.0.0.1:0"]), true);
    let answer = mock.get("/v1/models");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Qwen/Qwen3-Coder-30B-A3B-Instruct"), "{answer}");
    assert_eq!(mock.terminate(), Some(0));
}

#[test]
fn serve_answers_and_ends_on_sigterm() {
    let place = Place::new();
    let mock = Serving::start(&mut place.command(&["mock", "--listen", "127.0.0.1:0"]), true);
    let args = ["serve", "--listen", "127.0.0.1:0", "--backend", &mock.url()];
    let gateway = Serving::start(&mut place.command(&args), false);
    assert!(gateway.get("/liveness").starts_with("HTTP/1.1 200"));
    let question =
        "{\"model\": \"qwen3-coder\", \"messages\": [{\"role\": \"user\", \"content\": \"What is 12 * 34?\"}]}";
    let answer = gateway.post("/v1/chat/completions", question);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("The result is 408."), "{answer}");
    assert_eq!(gateway.terminate(), Some(0));
}

#[test]
fn demo_shows_a_whole_exchange_whatever_the_folder_is_set_up_for() {
    let place = Place::new().file("loopgate.toml", "[[callers]]\nname = \"alice\"\nkey_sha256 = \"\"");
    let said = place.run(&["demo", "--once", "--listen", "127.0.0.1:0"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let mut rest = said.out.as_str();
    for part in ["Calculate the factorial of 10", "def factorial(n)", "3628800", "completed", "The result is 3628800."]
    {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("`{part}` in its place in {}", said.out)).1;
    }
}

#[test]
fn the_guest_is_compiled_once_and_again_when_its_cache_is_corrupt() {
    let place = Place::new();
    let start = || {
        let said = place.exec("6 * 7", &["--log", "info", "--cache-dir", "cache"]);
        assert_eq!((said.code, &*said.out), (Some(0), "42\n"), "{said:?}");
        said.err
    };
    let compiling = "compiling the Python guest";
    let said = start();
    assert!(said.contains(compiling), "{said}");
    let said = start();
    assert!(!said.contains(compiling), "{said}");

    let compiled = only_folder(&place.path("cache")).join("code.cwasm");
    let mut bytes = fs::read(&compiled).expect("the compiled guest");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&compiled, &bytes).expect("a file");
    let said = start();
    assert!(said.contains("its files do not have their stored digests") && said.contains(compiling), "{said}");
}

fn only_folder(within: &Path) -> PathBuf {
    let entries = fs::read_dir(within).expect("a folder").map(|entry| entry.expect("an entry").path());
    let folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

// === words ===

#[test]
fn help_version_and_completions_are_there() {
    let place = Place::new();
    let help = place.run(&["--help"]).out;
    for command in ["serve", "check", "exec", "demo", "mock", "key", "completions"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {help}");
        let of_command = place.run(&[command, "--help"]);
        assert!(of_command.code == Some(0) && of_command.out.contains("Usage: loopgate"), "{of_command:?}");
    }
    let exec = place.run(&["exec", "--help"]).out;
    let unwrapped = exec.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains("Exit codes: 0 the program completed"), "{exec}");
    assert_eq!(place.run(&["--version"]).out, concat!("loopgate ", env!("CARGO_PKG_VERSION"), "\n"));
    for shell in ["bash", "zsh", "fish"] {
        let completions = place.run(&["completions", shell]);
        assert!(completions.code == Some(0) && completions.out.contains("allow-anonymous"), "{shell}");
    }
    place.run(&[]).assert_refused(&["Usage: loopgate"]);
    place.run(&["serv"]).assert_refused(&["serv", "serve"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_may_have_as_many_connections_as_the_system_lets_it() {
    let (place, backend) = (Place::new(), mock::start(mock::Settings::default()).await.expect("a backend"));
    let serve = place.command(&["serve", "--listen", "127.0.0.1:0", "--backend", &backend.url()]);
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -Sn 200; exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    few.current_dir(place.path("")).envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let serving = Serving::start(&mut few, false);
    let limits = fs::read_to_string(format!("/proc/{}/limits", serving.pid())).expect("limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let [soft, hard] = files.split_whitespace().take(2).collect::<Vec<_>>()[..] else { panic!("{files}") };
    assert_eq!(soft, hard);
}
