//! Changes a client's configuration file: all of it or nothing, and not without a copy of what was there.

use super::merge::{Conflict, merge};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Adds a JSON text to the file's own; says what was done.
pub fn add_json(path: &Path, text: &str) -> Result<String, String> {
    let wanted: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Some(old) = read(path)? else {
        return write(path, None, &format!("{text}\n"));
    };
    let unreadable = |error| format!("{} is not plain JSON ({error}), and its comments would be lost", path.display());
    let known: Value = if old.trim().is_empty() {
        Value::Object(serde_json::Map::new())
    } else {
        serde_json::from_str(&old).map_err(unreadable)?
    };
    let mut merged = known.clone();
    merge(&mut merged, &wanted)
        .map_err(|Conflict(place)| format!("{} has something else at {place}", path.display()))?;
    if merged == known {
        return Ok(unchanged(path));
    }
    write(path, Some(&old), &format!("{merged:#}\n"))
}

/// Writes a text if there is no file yet; says what was done.
pub fn add_text(path: &Path, text: &str) -> Result<String, String> {
    let text = format!("{text}\n");
    match read(path)? {
        None => write(path, None, &text),
        Some(old) if old == text => Ok(unchanged(path)),
        Some(_) => Err(format!("{} is there already, and its comments would be lost", path.display())),
    }
}

fn unchanged(path: &Path) -> String {
    format!("{} has it already", path.display())
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Links that are followed from one to the next. As Linux has it (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

fn write(path: &Path, old: Option<&str>, new: &str) -> Result<String, String> {
    let failed = |path: &Path, error: io::Error| format!("cannot write {}: {error}", path.display());
    let target = target(path);
    let Some(old) = old else {
        target.parent().map_or(Ok(()), fs::create_dir_all).map_err(|error| failed(&target, error))?;
        replace(&target, new).map_err(|error| failed(&target, error))?;
        return Ok(format!("wrote {}", target.display()));
    };
    let backup = beside(&target, &format!("bak-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.fZ")));
    copy(&target, &backup, old).map_err(|error| failed(&backup, error))?;
    replace(&target, new).map_err(|error| failed(&target, error))?;
    Ok(format!("changed {}; what was there is in {}", path.display(), backup.display()))
}

/// Where a link leads, which may be to no file yet: a link, as people have who keep such files elsewhere, stays one.
fn target(path: &Path) -> PathBuf {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent().map_or(next.clone(), |folder| folder.join(&next));
    }
    target
}

/// As private as the original.
fn copy(original: &Path, backup: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(backup)?;
    file.set_permissions(fs::metadata(original)?.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// By a file beside it, so that nobody finds half a file.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, &format!("new-{}", std::process::id()));
    let mut file = File::create_new(&new)?;
    let written = (|| {
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
