//! `audit.jsonl`: one line per execution, rotated by size.

use super::Who;
use super::ran::{Begun, Over};
use crate::chat::{Status, millis};
use crate::policy::Limits;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes of output that a line keeps: enough to recognise it, too little to fill a disk.
pub(super) const HEAD_BYTES_MAX: usize = 1024;
/// Bytes of code that a line keeps: as many as the arguments of a call can have (`tools`). The hash always covers all of what
/// there is.
pub(super) const CODE_BYTES_MAX: usize = 1 << 20;

/// Where the audit is written and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file. Older ones stand beside it as `<file>.1`, `<file>.2`, …
    pub path: PathBuf,
    /// A file that has grown beyond this many bytes is rotated.
    pub rotate_bytes: u64,
    /// How many rotated files are kept.
    pub keep_files: u32,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { path: "audit.jsonl".into(), rotate_bytes: 64 << 20, keep_files: 8 }
    }
}

/// The audit cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("audit file `{}`: {error}; set audit.path to a file that can be written", path.display())]
pub struct AuditError {
    path: PathBuf,
    error: io::Error,
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    time: String,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_request_id: Option<String>,
    caller: String,
    tool: String,
    call_id: String,
    code_sha256: String,
    code: String,
    arguments_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    status: &'static str,
    /// Nothing ran: the outcome is that of the same call when the request was sent before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    /// What began, if anything did; of a call that was answered with an earlier outcome only the id, of that one.
    #[serde(flatten)]
    begun: Option<Begun>,
    /// What else it takes to have it again.
    #[serde(flatten)]
    over: Option<Over>,
    duration_ms: f64,
    output_bytes: usize,
    output_head: String,
}

impl Entry {
    /// `code` is what varies from call to call: the program, or the arguments where it is not the model's or none ran.
    pub fn new(time: jiff::Timestamp, who: &Who, tool: &str, call_id: &str, code: &str, arguments: &str) -> Self {
        Self {
            time: time.to_string(),
            request_id: who.request_id.to_string(),
            client_request_id: who.client_id.as_deref().map(str::to_owned),
            caller: who.caller.name().to_owned(),
            tool: head(tool, 128),
            call_id: head(call_id, 128),
            code_sha256: format!("{:x}", Sha256::digest(code)),
            code: head(code, CODE_BYTES_MAX),
            arguments_bytes: arguments.len(),
            limits: None,
            status: "",
            replayed: false,
            begun: None,
            over: None,
            duration_ms: 0.0,
            output_bytes: 0,
            output_head: String::new(),
        }
    }

    pub fn begun(mut self, begun: Begun, limits: &Limits) -> Self {
        (self.begun, self.limits) = (Some(begun), Some(*limits));
        self
    }

    pub fn over(mut self, over: Option<Over>) -> Self {
        self.over = over;
        self
    }

    /// Stopped because nobody waited for its outcome any more. What it had written until then may have been seen.
    pub fn abandoned(mut self, duration: Duration, output_bytes: usize, output_head: &[u8]) -> Self {
        self.status = "abandoned";
        self.duration_ms = millis(duration);
        self.output_bytes = output_bytes;
        self.output_head = head(&String::from_utf8_lossy(output_head), HEAD_BYTES_MAX);
        self
    }

    /// Nothing ran: this is the outcome of an earlier execution.
    pub fn replayed(mut self, execution_id: Option<String>) -> Self {
        self.replayed = true;
        self.begun = execution_id.map(Begun::only_id);
        self
    }

    pub fn ended(mut self, status: Status, duration: Duration, outputs: &[&str]) -> Self {
        self.status = status.as_str();
        self.duration_ms = millis(duration);
        self.output_bytes = outputs.iter().map(|output| output.len()).sum();
        self.output_head = head(&outputs.concat(), HEAD_BYTES_MAX);
        self
    }
}

fn head(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

pub(super) struct Audit {
    settings: AuditSettings,
    // A std Mutex: it is held for one write(2), on threads that may block.
    open: Mutex<Open>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl Audit {
    pub fn open(settings: &AuditSettings) -> Result<Self, AuditError> {
        let open = open(&settings.path).map_err(|error| AuditError { path: settings.path.clone(), error })?;
        Ok(Self { settings: settings.clone(), open: Mutex::new(open) })
    }

    pub fn write(&self, entry: &Entry) -> Result<(), AuditError> {
        let failed = |error| AuditError { path: self.settings.path.clone(), error };
        let mut line = serde_json::to_vec(entry).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.settings.rotate_bytes {
            *open = self.rotated().map_err(failed)?;
        }
        // One write per line: O_APPEND keeps lines of several processes apart.
        open.file.write_all(&line).map_err(failed)?;
        open.bytes += line.len() as u64;
        Ok(())
    }

    fn rotated(&self) -> io::Result<Open> {
        let path = &self.settings.path;
        if self.settings.keep_files == 0 {
            File::create(path)?;
            return open(path);
        }
        for number in (1..self.settings.keep_files).rev() {
            match rename(numbered(path, number), numbered(path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        rename(path, numbered(path, 1))?;
        open(path)
    }
}

pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    // The audit holds callers' code: nobody else's business.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{self, Access};

    fn who() -> Who {
        let caller = Access::new(&access::Settings::default()).anonymous().clone();
        Who { request_id: "req-1".into(), client_id: None, caller }
    }

    fn entry(code: &str) -> Entry {
        Entry::new(jiff::Timestamp::UNIX_EPOCH, &who(), "execute_code", "call_1", code, "{}").ended(
            Status::Completed,
            Duration::from_millis(2),
            &["out", "err"],
        )
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let settings = AuditSettings { path: "/nowhere/at/all.jsonl".into(), ..AuditSettings::default() };
        let error = Audit::open(&settings).err().expect("no such folder").to_string();
        assert!(error.contains("/nowhere/at/all.jsonl") && error.contains("audit.path"), "{error}");
    }

    #[test]
    fn lines_are_whole_and_files_rotate() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let audit =
            Audit::open(&AuditSettings { path: path.clone(), rotate_bytes: 1000, keep_files: 2 }).expect("an audit");
        for number in 0..20 {
            audit.write(&entry(&format!("print({number})"))).expect("written");
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a file");
        let newest = read("audit.jsonl");
        let last: serde_json::Value = serde_json::from_str(newest.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["code"], "print(19)");
        assert_eq!(last["output_bytes"], 6);
        assert!(read("audit.jsonl.1").len() <= 1000 && read("audit.jsonl.2").len() <= 1000);
        assert!(!folder.path().join("audit.jsonl.3").exists());
    }

    #[test]
    fn long_code_is_cut_but_its_hash_is_of_all() {
        let long = "é".repeat(CODE_BYTES_MAX);
        let line = entry(&long);
        assert!(line.code.len() <= CODE_BYTES_MAX);
        assert_ne!(line.code_sha256, entry(&line.code).code_sha256);
    }
}
