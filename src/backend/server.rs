//! A server as the configuration names it: its address, and what is true of it alone.

use super::client::ApiKey;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Weights that make sense. Chosen: a server of the newest kind is not a hundred times one of the oldest.
const WEIGHTS: RangeInclusive<f64> = 0.01..=100.0;
/// Requests at one server. Chosen: many times what SGLang runs at once.
const IN_FLIGHT: RangeInclusive<usize> = 1..=100_000;

/// Where a server is: `http://host:port`, or `dns+http://name:port` for all servers that the name has addresses of. With
/// `https` instead of `http` it is reached over TLS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Host and port. Without one it is the scheme's own, so that no server is two.
    authority: String,
    secure: bool,
    found: bool,
}

/// A server, or the servers behind a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// Its own key; `None`: that of all.
    pub api_key: Option<ApiKey>,
    /// Its share of the work beside others'; 1 is usual.
    pub weight: f64,
    /// Requests that it may have under way; `None`: as many as come.
    pub in_flight_max: Option<usize>,
    /// For operators.
    pub labels: BTreeMap<String, String>,
    /// The only models that it is asked for. Empty: all that it serves.
    pub models: Vec<String>,
}

/// A server as it is written, in `[[backends]]` and for `POST /admin/backends`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenServer {
    url: String,
    api_key: Option<String>,
    api_key_env: Option<String>,
    weight: Option<f64>,
    in_flight_max: Option<usize>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    models: Vec<String>,
}

/// The member of a [`WrittenServer`] without which it is nobody.
pub const URL: &str = "url";

/// The member of a [`WrittenServer`] that is wrong, and why. No message repeats a key.
pub type WrongMember = (&'static str, String);

/// Text that is no address. The message says why and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// Whatever is wrong with it.
    #[error("`{0}` {1}; write the server's root, for example http://127.0.0.1:30000")]
    Wrong(String, &'static str),
    /// It is not repeated: it holds a secret.
    #[error("a URL with a password; write http://{0} without it")]
    Password(String),
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let wrong = |what| NotAnAddress::Wrong(text.to_owned(), what);
        let url: http::Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        let Some(authority) = url.authority() else { return Err(wrong("is not a URL")) };
        if authority.as_str().contains('@') {
            return Err(NotAnAddress::Password(authority.host().to_owned()));
        }
        let (secure, found) = match url.scheme_str() {
            Some("http") => (false, false),
            Some("https") => (true, false),
            Some("dns+http") => (false, true),
            Some("dns+https") => (true, true),
            _ => return Err(wrong("begins with neither http:// nor https://")),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong("has a path"));
        }
        if secure && ServerName::try_from(authority.host().trim_matches(['[', ']'])).is_err() {
            return Err(wrong("has a host that no certificate can be for"));
        }
        if authority.as_str() != authority.host() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("has no port that can be called"));
        }
        let port = authority.port_u16().unwrap_or(port_of(secure));
        // Names are the same in capitals, and must not be listed twice by that.
        Ok(Self { authority: format!("{}:{port}", authority.host().to_ascii_lowercase()), secure, found })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dns, s) = (if self.found { "dns+" } else { "" }, if self.secure { "s" } else { "" });
        write!(out, "{dns}http{s}://{}", self.host_header())
    }
}

impl Address {
    /// Host and port: what a backend is called.
    pub fn name(&self) -> &str {
        &self.authority
    }

    /// The name to look up, with a port: each of its addresses is a server.
    pub(super) fn to_look_up(&self) -> Option<String> {
        self.found.then(|| self.authority.clone())
    }

    /// Over TLS, and then whose certificate a server there has to have.
    pub(super) fn certified(&self) -> Option<ServerName<'static>> {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        // An IPv6 address is written in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.secure.then(|| ServerName::try_from(host.to_owned()).ok()).flatten()
    }

    /// As it stands in a URL and in `Host`, where the scheme's own port is left out.
    pub(super) fn host_header(&self) -> &str {
        let own = format!(":{}", port_of(self.secure));
        self.authority.strip_suffix(&own).unwrap_or(&self.authority)
    }
}

fn port_of(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

impl Server {
    /// A server with nothing special about it.
    pub fn at(address: Address) -> Self {
        Self { address, api_key: None, weight: 1.0, in_flight_max: None, labels: BTreeMap::new(), models: Vec::new() }
    }
}

impl WrittenServer {
    /// Reads it. `variable` gives the value of an environment variable.
    ///
    /// # Errors
    /// When a member cannot be what it is.
    pub fn read(self, variable: impl Fn(&str) -> Option<String>) -> Result<Server, WrongMember> {
        let address = self.url.parse().map_err(|error: NotAnAddress| (URL, error.to_string()))?;
        let weight = self.weight.unwrap_or(1.0);
        if !WEIGHTS.contains(&weight) {
            let (from, to) = (WEIGHTS.start(), WEIGHTS.end());
            return Err(("weight", format!("{weight} is out of range; write {from} to {to}, where 1 is usual")));
        }
        if let Some(max) = self.in_flight_max.filter(|max| !IN_FLIGHT.contains(max)) {
            let (from, to) = (IN_FLIGHT.start(), IN_FLIGHT.end());
            return Err(("in_flight_max", format!("{max} is out of range; write {from} to {to} (requests)")));
        }
        let api_key = key(self.api_key, self.api_key_env, variable)?;
        let (in_flight_max, labels, models) = (self.in_flight_max, self.labels, self.models);
        Ok(Server { address, api_key, weight, in_flight_max, labels, models })
    }
}

fn key(
    written: Option<String>,
    name: Option<String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<ApiKey>, WrongMember> {
    let (member, key) = match (written, name) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(("api_key", "is written here and named by api_key_env; keep one of them".to_owned()));
        }
        (Some(key), None) => ("api_key", key),
        (None, Some(name)) => {
            let unset = || format!("the variable `{name}` is not set; set it, or leave api_key_env out");
            let key = variable(&name).filter(|key| !key.is_empty());
            ("api_key_env", key.ok_or_else(|| ("api_key_env", unset()))?)
        }
    };
    let wrong = || (member, "the key has characters that no HTTP header can carry".to_owned());
    ApiKey::new(&key).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_with_the_way_out() {
        for text in [
            "",
            "localhost",
            "ftp://a:1",
            "https://a-:1",
            "http://a/v1",
            "http://a?b",
            "http://a:0",
            "http://a:99999",
            "http://",
        ] {
            let told = text.parse::<Address>().expect_err("no address").to_string();
            assert!(told.contains(&format!("`{text}`")) && told.contains("http://127.0.0.1:30000"), "{told}");
        }
        let told = "http://u:secret@a".parse::<Address>().expect_err("a password").to_string();
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn a_server_is_called_at_its_schemes_port_and_shows_a_certificate_for_its_host() {
        for (text, called, certified) in [
            ("http://a", "a:80", None),
            ("http://[::1]:7", "[::1]:7", None),
            ("https://a", "a:443", Some("a")),
            ("https://a.example:8443", "a.example:8443", Some("a.example")),
            ("https://[::1]", "[::1]:443", Some("::1")),
            ("https://10.0.0.7:1", "10.0.0.7:1", Some("10.0.0.7")),
        ] {
            let address: Address = text.parse().expect("an address");
            let name = address.certified().map(|name| name.to_str().into_owned());
            assert_eq!((address.name(), name.as_deref()), (called, certified), "{text}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_read_and_names_are_looked_up_with_a_port() {
        for (text, shown, name) in [
            ("http://A:1/", "http://a:1", None),
            ("dns+http://sglang.team.svc:30000", "dns+http://sglang.team.svc:30000", Some("sglang.team.svc:30000")),
            ("dns+http://sglang", "dns+http://sglang", Some("sglang:80")),
            ("dns+http://[::1]", "dns+http://[::1]", Some("[::1]:80")),
            ("https://Models.example", "https://models.example", None),
            ("http://a:80", "http://a", None),
            ("http://a:443", "http://a:443", None),
            ("https://a:443/", "https://a", None),
            ("dns+https://sglang.team.svc", "dns+https://sglang.team.svc", Some("sglang.team.svc:443")),
        ] {
            let address: Address = text.parse().expect("an address");
            assert_eq!((address.to_string().as_str(), address.to_look_up().as_deref()), (shown, name), "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
    }
}
