//! The house rules that the compiler does not keep: who may import whom.

use crate::gateway::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Room → the rooms that it may import. `chat` holds everybody's words and may be imported by all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("chat", &[]),
    ("sse", &[]),
    ("access", &[]),
    ("calls", &[]),
    ("tools", &[]),
    ("policy", &["access", "tools"]),
    ("sandbox", &["policy"]),
    ("backend", &["sse"]),
    ("dialect", &["sse"]),
    ("mock", &["sse"]),
    ("record", &["access", "policy", "sandbox"]),
    ("agent", &["backend", "calls", "tools", "policy", "record", "sandbox"]),
    ("http", &["dialect", "agent", "record", "access", "backend"]),
    // Nothing of theirs but their settings.
    ("config", &["access", "backend", "calls", "policy", "record", "tools"]),
    ("app", &["access", "agent", "backend", "config", "http", "policy", "record", "sandbox", "tools"]),
    // The words of the commands' own rooms, besides `app` and `config`.
    ("cli", &["access", "agent", "app", "config", "mock", "policy", "record", "sandbox", "sse"]),
    ("main", &["cli"]),
];

#[test]
fn rooms_import_only_what_the_table_lists() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (room, files) in rooms() {
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == room);
        let allowed = allowed.unwrap_or_else(|| panic!("the room `{room}` is not in the table")).1;
        for file in files {
            for other in imports(&std::fs::read_to_string(&file).expect("a source file")) {
                if other != room && other != "chat" && !allowed.contains(&other.as_str()) {
                    wrong.push(format!("{}: {room} may not import {other}", file.display()));
                }
                seen.insert((room.clone(), other));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let unused: Vec<_> = MAY_IMPORT
        .iter()
        .flat_map(|(room, others)| others.iter().map(move |other| (room.to_string(), other.to_string())))
        .filter(|edge| !seen.contains(edge))
        .collect();
    assert!(unused.is_empty(), "edges that nobody needs any more: {unused:?}");
}

#[test]
fn only_the_recorder_runs_an_interpreter() {
    for (room, files) in rooms() {
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file");
            let calls = text.contains("interpreter.run(");
            assert!(!calls || ["record", "sandbox"].contains(&room.as_str()), "{} runs code unseen", file.display());
        }
    }
}

/// The rooms of `src`, each with its files.
fn rooms() -> BTreeMap<String, Vec<PathBuf>> {
    let mut rooms: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("src")).expect("src") {
        let path = entry.expect("an entry").path();
        let room = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        if room != "lib" {
            collect(&path, rooms.entry(room).or_default());
        }
    }
    rooms
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            collect(&entry.expect("an entry").path(), files);
        }
    } else {
        files.push(path.to_owned());
    }
}

/// The rooms named after `crate::` or `loopgate::`, also in lists: `crate::{a, b}`. Comments do not count.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut rooms = BTreeSet::new();
    for start in ["crate::", "loopgate::"] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => top_level(list),
                None => vec![rest],
            };
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !name.is_empty() {
                    rooms.insert(name);
                }
            }
        }
    }
    rooms
}

/// The items of a list up to its closing brace.
fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut items) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[begin..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items
}
