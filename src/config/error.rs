//! What can be wrong with a configuration. The messages are for whoever starts the gateway.

use std::net::SocketAddr;
use std::path::PathBuf;

/// How alike two names must be (Jaro-Winkler, 0 to 1) for one to be taken as the other misspelt. Chosen: clap uses 0.7
/// for its flags; ours share long beginnings such as `server.`, which makes all of them alike.
const ALIKE_MIN: f64 = 0.8;

/// A configuration that is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or is no TOML.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system or the parser says, and the way out.
        why: String,
    },
    /// Nobody knows the name.
    #[error("{place}: unknown {what} `{name}`{}; known: {}", nearest_text(nearest.as_deref()), known.join(", "))]
    Unknown {
        /// The file, or the environment.
        place: String,
        /// What it would be there.
        what: &'static str,
        /// As it was written.
        name: String,
        /// The known one that may have been meant.
        nearest: Option<String>,
        /// All that could stand there.
        known: Vec<String>,
    },
    /// A value that cannot be.
    #[error("{place}: {why}")]
    Value {
        /// The file and key, the variable or the flag.
        place: String,
        /// What is wrong with it, and what to write.
        why: String,
    },
    /// The gateway would run programs for whoever can reach it.
    #[error(
        "{place}: {listen} can be reached from other machines, and no caller has a key; either add [[callers]] to the \
         configuration file (`loopgate key` makes a key), or listen on 127.0.0.1:{port}, or set server.allow_anonymous \
         to true (--allow-anonymous)",
        port = listen.port()
    )]
    Exposed {
        /// Who set the address.
        place: String,
        /// The address.
        listen: SocketAddr,
    },
}

impl ConfigError {
    pub(super) fn unknown<'a>(
        place: impl Into<String>,
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        let nearest = known
            .clone()
            .map(|other| (strsim::jaro_winkler(name, other), other))
            .filter(|(alike, _)| *alike >= ALIKE_MIN)
            .max_by(|left, right| left.0.total_cmp(&right.0));
        Self::Unknown {
            place: place.into(),
            what,
            name: name.to_owned(),
            nearest: nearest.map(|(_, other)| other.to_owned()),
            known: known.map(|name| format!("`{name}`")).collect(),
        }
    }
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
