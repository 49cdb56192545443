//! The house rules that the compiler does not keep: who may import whom.

use crate::gateway::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where the table of ARCHITECTURE.md begins: room → the rooms that it may import, besides `chat`.
const TABLE: &str = "| room | may import |\n|---|---|\n";

#[test]
fn rooms_import_only_what_the_table_lists() {
    let may_import = may_import();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (room, files) in rooms() {
        let allowed = may_import.get(&room).unwrap_or_else(|| panic!("the room `{room}` is not in the table"));
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file");
            for other in imports(&text, if room == "main" { "loopgate::" } else { "crate::" }) {
                if other != room && other != "chat" && !allowed.contains(&other) {
                    wrong.push(format!("{}: {room} may not import {other}", file.display()));
                }
                seen.insert((room.clone(), other));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let listed = may_import.iter().flat_map(|(room, others)| others.iter().map(|other| (room.clone(), other.clone())));
    let unused: Vec<_> = listed.filter(|edge| !seen.contains(edge)).collect();
    assert!(unused.is_empty(), "edges that nobody needs any more: {unused:?}");
}

#[test]
fn public_fields_hand_on_only_rooms_that_the_table_lists() {
    let may_import = may_import();
    let mut wrong = Vec::new();
    for (room, files) in rooms() {
        let importers: Vec<_> = may_import.iter().filter(|(_, others)| others.contains(&room)).collect();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file");
            let from = names(&text);
            for field in shared_fields(&text) {
                for other in words(field).filter_map(|word| from.get(word)) {
                    let unlisted = importers.iter().filter(|(name, listed)| *name != other && !listed.contains(other));
                    wrong.extend(
                        unlisted.map(|(name, _)| format!("{}: {name} gets at {other}: {field}", file.display())),
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
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

#[test]
fn headers_are_named_once_and_in_the_front_door() {
    let mut named = Vec::new();
    for (room, files) in rooms() {
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for header in code.flat_map(|line| line.match_indices("x-").map(|(at, _)| &line[at..])) {
                if ["x-loopgate-", "x-ratelimit-"].iter().any(|start| header.starts_with(start)) {
                    assert_eq!(room, "http", "{} names a header: {header}", file.display());
                    named.push(header.split('"').next().expect("a name").to_owned());
                }
            }
        }
    }
    named.sort();
    let ours = ["x-loopgate-execute", "x-loopgate-session"];
    let openais = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    assert_eq!(named, [&ours[..], &openais].concat());
}

/// The table: every word in backticks of a row, the first of which is the room itself.
fn may_import() -> BTreeMap<String, Vec<String>> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, table) = page.split_once(TABLE).expect("the table of imports in ARCHITECTURE.md");
    let rows = table.lines().take_while(|row| row.starts_with('|'));
    rows.map(|row| {
        let mut names = row.split('`').skip(1).step_by(2).map(str::to_owned);
        (names.next().expect("a room"), names.collect())
    })
    .collect()
}

/// The rooms of `src`, each with its files, but for those that hold only tests: these may use what they like.
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
    if path.is_dir() && !path.ends_with("tests") {
        for entry in std::fs::read_dir(path).expect("a folder") {
            collect(&entry.expect("an entry").path(), files);
        }
    } else if path.is_file() && path.file_stem().is_some_and(|name| name != "tests") {
        files.push(path.to_owned());
    }
}

/// The rooms named after `start`, also in lists: `crate::{a, b}`. Comments do not count.
fn imports(text: &str, start: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut rooms = BTreeSet::new();
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
    rooms
}

/// Types that are imported by name, each with its room.
fn names(text: &str) -> BTreeMap<&str, String> {
    let imports = text.split("\nuse crate::").skip(1).filter_map(|import| import.split(';').next()?.split_once("::"));
    imports.flat_map(|(room, names)| words(names).map(|name| (name, room.to_owned()))).collect()
}

/// The public fields that share something at work, of structs that other rooms can see.
fn shared_fields(text: &str) -> impl Iterator<Item = &str> {
    let structs = text.split("\npub struct ").skip(1).filter_map(|rest| rest.split("\n}").next());
    let fields = structs.flat_map(str::lines).map(str::trim);
    fields.filter(|field| field.starts_with("pub ") && field.contains(": Arc<"))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
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
