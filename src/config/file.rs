//! The configuration file: TOML → keys with their texts, the callers, and the servers with details.

use super::{BACKENDS, CALLERS, CONFIG_FILE, CONFIG_VARIABLE, ConfigError, KEYS, Key, Sources};
use crate::access::{CallerSettings, NotAHash};
use crate::backend::WrittenServer;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What a file says.
pub struct File {
    pub values: Vec<(&'static Key, Vec<String>)>,
    pub callers: Vec<CallerSettings>,
    pub backends: Vec<WrittenServer>,
}

/// An element of `[[callers]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCaller {
    name: String,
    key_sha256: String,
    concurrent_max: Option<u32>,
}

/// The file to read, if any. One that was asked for is read even when it is not there, which is then an error.
pub fn find(sources: &Sources) -> Option<PathBuf> {
    let variable = || sources.env.get(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let searched = !sources.dir.as_os_str().is_empty();
    let beside = || searched.then(|| sources.dir.join(CONFIG_FILE)).filter(|path| may_be_there(path));
    sources.file.clone().or_else(variable).or_else(beside)
}

/// Also where nobody may look, and for a link to nothing: reading then says what is wrong. As if there were no file, its
/// callers would need no key.
fn may_be_there(path: &Path) -> bool {
    path.symlink_metadata().map_or_else(|error| error.kind() != ErrorKind::NotFound, |_| true)
}

pub fn read(path: &Path) -> Result<File, ConfigError> {
    let refuse = |why| ConfigError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| {
        refuse(format!("cannot be read: {error}; name another file with --config or {CONFIG_VARIABLE}"))
    })?;
    // toml's own message shows the line, in which a secret may stand.
    let broken = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        refuse(format!("line {line}: {}", error.message()))
    };
    let mut table: Table = toml::from_str(&text).map_err(broken)?;
    let callers = table.remove(CALLERS).map_or_else(|| Ok(Vec::new()), |callers| read_callers(path, callers))?;
    let backends = table.remove(BACKENDS).map_or_else(|| Ok(Vec::new()), |backends| read_backends(path, backends))?;
    let mut values = Vec::new();
    for (name, value) in flatten(table) {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let known = KEYS.iter().map(|key| key.name).chain([BACKENDS, CALLERS]);
            return Err(ConfigError::unknown(path.display().to_string(), "key", &name, known));
        };
        let place = || format!("{}: `{name}`", path.display());
        values.push((key, texts(value).map_err(|why| ConfigError::Value { place: place(), why })?));
    }
    Ok(File { values, callers, backends })
}

/// `[section] key = value` → `section.key = value`. What is no section is left as it stands.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let is_section = |name: &str| KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(it, _)| it == name));
    let mut flat = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(members) if is_section(&name) => {
                flat.extend(members.into_iter().map(|(member, value)| (format!("{name}.{member}"), value)));
            }
            value => flat.push((name, value)),
        }
    }
    flat
}

/// A value as the texts that a flag or a variable would bring.
fn texts(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(items) => items.into_iter().map(text).collect(),
        Value::Table(members) => members.into_iter().map(pair).collect(),
        scalar => text(scalar).map(|text| vec![text]),
    }
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Table(_) => Err("is nested too deep; write plain values".to_owned()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => Ok(value.to_string()),
    }
}

fn pair((name, value): (String, Value)) -> Result<String, String> {
    if name.contains('=') {
        return Err(format!("`{name}` holds a `=`, which parts names from values; write a name without it"));
    }
    Ok(format!("{name}={}", text(value)?))
}

fn read_backends(path: &Path, backends: Value) -> Result<Vec<WrittenServer>, ConfigError> {
    let read = |(at, value): (usize, Value)| {
        let place = format!("{}: `{BACKENDS}[{at}]`", path.display());
        value.try_into().map_err(|error: toml::de::Error| ConfigError::Value { place, why: error.message().to_owned() })
    };
    tables(path, BACKENDS, backends)?.into_iter().enumerate().map(read).collect()
}

fn tables(path: &Path, name: &str, value: Value) -> Result<Vec<Value>, ConfigError> {
    match value {
        Value::Array(tables) => Ok(tables),
        _ => Err(ConfigError::Value {
            place: format!("{}: `{name}`", path.display()),
            why: format!("is not a list of tables; write [[{name}]]"),
        }),
    }
}

/// No message here repeats a value: somebody may have pasted the key itself.
fn read_callers(path: &Path, callers: Value) -> Result<Vec<CallerSettings>, ConfigError> {
    let caller = |(at, value): (usize, Value)| {
        let refuse =
            |key: &str, why| ConfigError::Value { place: format!("{}: `{CALLERS}[{at}]{key}`", path.display()), why };
        let raw: RawCaller =
            value.try_into().map_err(|error: toml::de::Error| refuse("", error.message().to_owned()))?;
        let key_sha256 = raw.key_sha256.parse().map_err(|error: NotAHash| refuse(".key_sha256", error.to_string()))?;
        Ok(CallerSettings { name: raw.name, key_sha256, concurrent_max: raw.concurrent_max })
    };
    tables(path, CALLERS, callers)?.into_iter().enumerate().map(caller).collect()
}
