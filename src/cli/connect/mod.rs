//! `loopgate connect`: tells a client of the gateway, in the client's own configuration.

mod clients;
mod file;
mod merge;

use super::Failed;
use crate::config::CLIENT_KEY_VARIABLE;
use clap::Args;
use clients::{CLIENTS, Client, Place};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct Flags {
    /// Which one; --list names them
    #[arg(required_unless_present = "list")]
    client: Option<String>,
    /// List the clients
    #[arg(long)]
    list: bool,
    /// Print what the client needs, and write nothing
    #[arg(long)]
    print: bool,
    /// Where clients reach the gateway, without /v1
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = url)]
    url: String,
    /// The model's name
    #[arg(long, default_value = "qwen3-coder", value_parser = model)]
    model: String,
    /// The environment variable that holds the caller's key; the key itself is never written
    #[arg(long, value_name = "NAME", default_value = CLIENT_KEY_VARIABLE, value_parser = variable)]
    key_env: String,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let Some(name) = flags.client.as_ref().filter(|_| !flags.list) else {
        for client in CLIENTS {
            say!("{:<14} {}", client.name, client.about);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let client = find(name)?;
    let text = flags.fill(client.text);
    match client.place {
        Place::Json(path) | Place::Yaml(path) if !flags.print => {
            let path = at_home(path)?;
            let done = match client.place {
                Place::Json(_) => file::add_json(&path, &text),
                Place::Yaml(_) | Place::Shown => file::add_text(&path, &text),
            };
            say!("{}", done.map_err(|why| Failed::Other(format!("{why}; add this to it yourself:\n{text}")))?);
        }
        Place::Json(path) | Place::Yaml(path) => {
            say!("{text}");
            eprintln!("belongs in ~/{path}");
        }
        Place::Shown => say!("{text}"),
    }
    if !client.then.is_empty() {
        eprintln!("{}", flags.fill(client.then));
    }
    Ok(ExitCode::SUCCESS)
}

impl Flags {
    /// The values are checked when they are parsed, so that none can end a string in any of the languages.
    fn fill(&self, text: &str) -> String {
        text.replace("<MODEL>+plain", &format!("{}+plain", self.bare_model()))
            .replace("<URL>", &self.url)
            .replace("<MODEL>", &self.model)
            .replace("<KEY>", &self.key_env)
    }

    /// The model's name without what it may say of who runs code.
    fn bare_model(&self) -> &str {
        let model = &self.model;
        ["+code", "+plain"].iter().find_map(|suffix| model.strip_suffix(suffix)).unwrap_or(model)
    }
}

fn find(name: &str) -> Result<&'static Client, Failed> {
    CLIENTS.iter().find(|client| client.name == name).ok_or_else(|| {
        let known: Vec<_> = CLIENTS.iter().map(|client| client.name).collect();
        Failed::Usage(format!("unknown client `{name}`; known: {}", known.join(", ")))
    })
}

/// Where a path in the home folder is. `.config` may be elsewhere, as the XDG Base Directory Specification has it, which
/// wants a relative folder to be ignored.
fn at_home(path: &str) -> Result<PathBuf, Failed> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    match (path.strip_prefix(".config/"), config) {
        (Some(path), Some(config)) => Ok(config.join(path)),
        _ => Ok(home()?.join(path)),
    }
}

fn home() -> Result<PathBuf, Failed> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    home.ok_or_else(|| Failed::Usage("HOME is not set; use --print".to_owned()))
}

fn url(text: &str) -> Result<String, String> {
    let root = text.trim_end_matches('/');
    let root = root.strip_suffix("/v1").unwrap_or(root);
    let host = root.strip_prefix("http://").or_else(|| root.strip_prefix("https://")).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/[]~%".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err("not a URL such as http://127.0.0.1:8080".to_owned());
    }
    Ok(root.to_owned())
}

fn model(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:/+@".contains(&byte);
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("a model's name has letters, digits and any of . - _ : / + @".to_owned());
    }
    Ok(text.to_owned())
}

/// Most likely somebody has given the key itself.
fn variable(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if !text.starts_with(|first: char| first.is_ascii_uppercase() || first == '_') || !text.bytes().all(plain) {
        return Err("not the name of a variable, such as LOOPGATE_API_KEY; put the key into one".to_owned());
    }
    Ok(text.to_owned())
}
