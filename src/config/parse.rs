//! Text → values. An error says what the text is not and what to write instead; the caller adds where it stands.

use crate::access::KeyHash;
use crate::backend::{Address, ApiKey, Server, balance};
use crate::calls;
use crate::memory::{RAM, Store};
use http::HeaderValue;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use tracing_subscriber::EnvFilter;

/// Chosen: what cannot be guessed by trying, if it was chosen by chance.
const ADMIN_KEY_CHARS_MIN: usize = 16;

pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address; write ip:port, for example 127.0.0.1:8080"))
}

pub fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false; write one of them"))
}

pub fn number<N>(text: &str, range: RangeInclusive<N>, unit: &str) -> Result<N, String>
where
    N: FromStr + PartialOrd + Display,
{
    let (from, to) = (range.start(), range.end());
    let number = text.parse().map_err(|_| format!("`{text}` is not a number; write {from} to {to} ({unit})"))?;
    if !range.contains(&number) {
        return Err(format!("{number} is out of range; write {from} to {to} ({unit})"));
    }
    Ok(number)
}

pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty; write one, or leave the key out".to_owned());
    }
    Ok(text.into())
}

pub fn store(text: &str) -> Result<Store, String> {
    if text == RAM { Ok(Store::Ram) } else { path(text).map(Store::Disk) }
}

/// The name of a choice.
pub fn name_of<T: Copy + PartialEq>(choice: T, choices: &[(&str, T)]) -> String {
    choices.iter().find(|(_, known)| *known == choice).map_or("", |(name, _)| name).to_owned()
}

pub fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("`{text}` is unknown; write {}", names.join(" or "))
    })
}

pub fn log_filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}` is no log filter: {error}; write for example info or info,loopgate=debug")),
    }
}

/// The servers, and why others are left out. An error is a list in which no server is left.
pub fn backends(texts: &[String]) -> Result<(Vec<Server>, Vec<String>), String> {
    if texts.is_empty() {
        return Err("the list is empty; write at least one server, for example http://127.0.0.1:30000".to_owned());
    }
    let (mut servers, mut left_out): (Vec<Server>, Vec<String>) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse::<Address>() {
            Ok(address) if servers.iter().any(|server| server.address.name() == address.name()) => {
                left_out.push(format!("`{address}` is listed twice; keep one"));
            }
            Ok(address) => servers.push(Server::at(address)),
            Err(error) => left_out.push(error.to_string()),
        }
    }
    if servers.is_empty() { Err(left_out.join("; ")) } else { Ok((servers, left_out)) }
}

/// Origins as browsers write them: a browser's `Origin` is compared byte for byte.
pub fn origins(texts: &[String]) -> Result<Vec<HeaderValue>, String> {
    if texts.len() > 1 && texts.iter().any(|text| text == "*") {
        return Err("`*` is every origin; write it alone".to_owned());
    }
    texts.iter().map(|text| origin(text)).collect()
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let wrong =
        || format!("`{text}` is not an origin; write it as browsers do, for example https://app.example.com, or *");
    if text != "*" {
        let url: http::Uri = text.parse().map_err(|_| wrong())?;
        let written =
            format!("{}://{}", url.scheme_str().unwrap_or_default(), url.authority().map_or("", |it| it.as_str()));
        if url.authority().is_none_or(|authority| authority.as_str().contains('@')) || text != written.to_lowercase() {
            return Err(wrong());
        }
    }
    HeaderValue::from_str(text).map_err(|_| wrong())
}

/// `NAME=MODEL`.
pub fn alias(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, model)) if !name.is_empty() && !model.is_empty() => Ok((name.to_owned(), model.to_owned())),
        _ => Err(format!("`{text}` is no alias; write NAME=MODEL, the name that clients use and the backends' own")),
    }
}

/// A backend's key. The text is a secret, so no error repeats it.
pub fn api_key(text: &str) -> Result<ApiKey, String> {
    ApiKey::new(text).ok_or_else(|| "the key has characters that no HTTP header can carry".to_owned())
}

/// The key for operators. No error repeats it, and only its hash is kept.
pub fn admin_key(text: &str) -> Result<KeyHash, String> {
    if text.chars().count() < ADMIN_KEY_CHARS_MIN {
        return Err(format!(
            "the key is shorter than {ADMIN_KEY_CHARS_MIN} characters; `openssl rand -hex 32` makes one"
        ));
    }
    Ok(KeyHash::of(text))
}

pub fn balance(text: &str) -> Result<String, String> {
    let names: Vec<_> = balance::ALL.iter().map(|policy| (policy.name, policy.name)).collect();
    one_of(text, &names).map(str::to_owned)
}

pub fn call_parser(text: &str) -> Result<&'static calls::Parser, String> {
    let names: Vec<_> = calls::ALL.iter().map(|parser| (parser.name, parser)).collect();
    one_of(text, &names)
}
