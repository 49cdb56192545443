//! `loopgate connect` in a home folder of its own.

use crate::gateway::root;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn with(path: &str, text: &str) -> Self {
        let home = Self::new();
        let path = home.path(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        home
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect("a file")
    }

    /// The names in the folder of this file.
    fn beside(&self, path: &str) -> Vec<String> {
        let names = fs::read_dir(self.path(path).parent().expect("a folder")).expect("a folder");
        names.map(|entry| entry.expect("an entry").file_name().display().to_string()).collect()
    }

    fn connect(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopgate"));
        command
            .arg("connect")
            .args(args)
            .env("HOME", self.0.path())
            .env_remove("XDG_CONFIG_HOME")
            .env("LOOPGATE_API_KEY", "lg-secret");
        command.output().expect("a binary")
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.connect(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    #[track_caller]
    fn refused(&self, code: i32, args: &[&str], parts: &[&str]) {
        let output = self.connect(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error}");
    }
}

#[test]
fn aider_gets_the_model_without_code_whatever_suffix_it_was_named_with() {
    for model in ["q", "q+code", "q+plain"] {
        let said = Home::new().done(&["aider", "--model", model]);
        assert!(said.contains("'openai/q+plain'"), "{said}");
    }
}

#[test]
fn a_config_folder_that_is_elsewhere_is_written_to_there() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let mut command = Command::new(env!("CARGO_BIN_EXE_loopgate"));
    command.args(["connect", "opencode"]).env("HOME", home.0.path()).env("XDG_CONFIG_HOME", elsewhere.0.path());
    assert!(command.status().expect("a binary").success());
    assert!(elsewhere.read("opencode/opencode.json").contains("Loopgate"));
    assert!(files(home.0.path()).is_empty(), "nothing is where nobody looks");
}

fn clients() -> Vec<String> {
    let list = Home::new().done(&["--list"]);
    list.lines().map(|line| line.split_whitespace().next().expect("a name").to_owned()).collect()
}

const QWEN: &str = ".qwen/settings.json";
const CONTINUE: &str = ".continue/config.yaml";

#[test]
fn nonsense_is_refused_with_the_way_out() {
    let home = Home::new();
    home.refused(2, &[], &["CLIENT"]);
    home.refused(2, &["emacs"], &["unknown client `emacs`", "qwen-code", "curl"]);
    home.refused(2, &["curl", "--url", "localhost:8080"], &["http://127.0.0.1:8080"]);
    home.refused(2, &["curl", "--url", "http://a'b"], &["not a URL"]);
    home.refused(2, &["curl", "--model", "a\"b"], &["letters, digits"]);
    home.refused(2, &["curl", "--key-env", "lg-secret"], &["put the key into one"]);
    assert!(fs::read_dir(home.0.path()).expect("a folder").next().is_none());
}

#[test]
fn a_file_that_cannot_be_merged_stays_as_it_is_and_the_text_is_shown() {
    for (client, path, text) in [
        ("qwen-code", QWEN, "{\n  // mine\n}"),
        ("qwen-code", QWEN, r#"{"modelProviders": {"openai": [{"id": "qwen3-coder", "baseUrl": "http://other/v1"}]}}"#),
        ("qwen-code", QWEN, "[]"),
        ("continue", CONTINUE, "# mine\nname: mine\n"),
    ] {
        let home = Home::with(path, text);
        home.refused(1, &[client], &[path, "add this to it yourself", "http://127.0.0.1:8080/v1"]);
        assert_eq!(home.read(path), text);
        assert_eq!(home.beside(path).len(), 1);
    }
}

#[test]
fn what_the_user_had_stays_and_a_copy_of_it_too() {
    let had = r#"{"theme": "dark", "modelProviders": {"openai": [{"id": "other", "baseUrl": "http://other/v1"}]}}"#;
    let home = Home::with(QWEN, had);
    home.done(&["qwen-code", "--url", "https://gw.example/v1/", "--model", "m+code", "--key-env", "GW_KEY"]);
    let now: Value = serde_json::from_str(&home.read(QWEN)).expect("JSON");
    let entry =
        json!({"id": "m+code", "name": "m+code (Loopgate)", "baseUrl": "https://gw.example/v1", "envKey": "GW_KEY"});
    let other = json!({"id": "other", "baseUrl": "http://other/v1"});
    assert_eq!(now, json!({"theme": "dark", "modelProviders": {"openai": [other, entry]}}));
    let names = home.beside(QWEN);
    let backup = names.iter().find(|name| name.starts_with("settings.json.bak-")).expect("a backup");
    assert_eq!(home.read(&format!(".qwen/{backup}")), had);
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_second_run_changes_nothing() {
    for client in clients() {
        let home = Home::new();
        home.done(&[&client]);
        let before = files(home.0.path());
        let said = home.done(&[&client]);
        assert_eq!(files(home.0.path()), before, "{client}");
        assert!(before.is_empty() || said.contains("has it already"), "{client}: {said}");
    }
}

#[test]
fn an_own_entry_follows_the_gateway_to_another_address() {
    let mut tried = Vec::new();
    for client in clients() {
        let home = Home::new();
        home.done(&[&client]);
        // What is no JSON is not merged.
        let Some((path, before)) = files(home.0.path()).into_iter().find(|(path, _)| has_ending(path, "json")) else {
            continue;
        };
        home.done(&[&client, "--url", "http://10.0.0.5:8080"]);
        let after = fs::read_to_string(path).expect("a file");
        let moved = before.replace("http://127.0.0.1:8080", "http://10.0.0.5:8080");
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(json(&after), json(&moved), "{client}");
        assert_ne!(before, moved, "{client}");
        tried.push(client);
    }
    assert_eq!(tried, ["qwen-code", "opencode", "zed"]);
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|it| it == ending)
}

#[test]
fn a_second_model_is_added_to_the_first() {
    let home = Home::new();
    home.done(&["opencode"]);
    home.done(&["opencode", "--model", "second"]);
    let now: Value = serde_json::from_str(&home.read(".config/opencode/opencode.json")).expect("JSON");
    assert_eq!(now["provider"]["loopgate"]["models"], json!({"qwen3-coder": {}, "second": {}}));
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_a_private_file_private() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let home = Home::with("dotfiles/qwen.json", "{}");
    let target = home.path("dotfiles/qwen.json");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::create_dir_all(home.path(".qwen")).expect("a folder");
    symlink(&target, home.path(QWEN)).expect("a link");
    home.done(&["qwen-code"]);
    assert!(home.path(QWEN).is_symlink() && home.read("dotfiles/qwen.json").contains("baseUrl"));
    for name in home.beside("dotfiles/qwen.json") {
        let mode = fs::metadata(home.path("dotfiles").join(&name)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_no_file_yet_stays_a_link() {
    use std::os::unix::fs::symlink;
    let home = Home::new();
    fs::create_dir_all(home.path(".qwen")).expect("a folder");
    symlink("../dotfiles/second.json", home.path(QWEN)).expect("a link");
    fs::create_dir_all(home.path("dotfiles")).expect("a folder");
    symlink("qwen.json", home.path("dotfiles/second.json")).expect("a link");
    home.done(&["qwen-code"]);
    assert!(home.path(QWEN).is_symlink() && home.path("dotfiles/second.json").is_symlink());
    assert!(home.read("dotfiles/qwen.json").contains("baseUrl"));
}

#[test]
fn no_key_is_written_or_printed() {
    for client in clients() {
        let home = Home::new();
        let printed = home.done(&[&client, "--print"]);
        home.done(&[&client]);
        let written: String = files(home.0.path()).into_iter().map(|(_, text)| text).collect();
        assert!(!printed.contains("lg-secret") && !written.contains("lg-secret"), "{client}");
    }
}

#[test]
fn the_page_shows_for_every_client_what_is_printed() {
    let page = fs::read_to_string(root().join("docs/clients.md")).expect("the page");
    let home = Home::new();
    for client in clients() {
        let section = page.split(&format!("\n`loopgate connect {client}`")).nth(1);
        let section = section.unwrap_or_else(|| panic!("docs/clients.md has no `loopgate connect {client}`"));
        let block = section.split_once("\n```").and_then(|(_, rest)| rest.split_once('\n'));
        let shown = block.and_then(|(_, rest)| rest.split_once("```")).map(|(shown, _)| shown);
        assert_eq!(shown, Some(home.done(&[&client, "--print"]).as_str()), "{client}");
    }
    assert_eq!(page.matches("\n`loopgate connect ").count(), clients().len());
}

/// Every file below a folder, with its text.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries
        .flat_map(|path| {
            if path.is_dir() { files(&path) } else { vec![(path.clone(), fs::read_to_string(&path).expect("text"))] }
        })
        .collect();
    found.sort();
    found
}
