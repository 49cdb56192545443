//! File + environment + flags → [`Resolved`], once, at start, with errors that name the place, the key and the way out.
//!
//! A flag beats the environment, which beats the file, which beats the default. [`KEYS`] is the one list of what can be
//! set. Relative paths are relative to the working directory, wherever they are written.

mod error;
mod file;
mod keys;
mod parse;
mod servers;
mod settings;

pub use error::ConfigError;
pub use keys::{KEYS, Key, Set};
pub use settings::{AdminSettings, LogFormat, LogSettings, MemorySettings, SandboxSettings, ServerSettings};

use crate::record::AuditSettings;
use crate::{access, backend, calls, policy, tools};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Names the configuration file where no flag does.
pub const CONFIG_VARIABLE: &str = "LOOPGATE_CONFIG";

/// Read where neither flag nor environment names a file, and only if it is there.
pub const CONFIG_FILE: &str = "loopgate.toml";

/// The list of callers. It is no [`Key`]: a list of tables fits neither a flag nor a variable.
const CALLERS: &str = "callers";

/// The list of servers with details. No [`Key`] either.
const BACKENDS: &str = "backends";

/// No setting: where `loopgate connect` has clients look for their key, maybe in the shell that starts the gateway.
pub const CLIENT_KEY_VARIABLE: &str = "LOOPGATE_API_KEY";

/// Every variable that starts like this must be a known one: a misspelt limit would be no limit.
const VARIABLE_PREFIX: &str = "LOOPGATE_";

/// Where settings come from, besides the file. Who calls reads the real flags and the real environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// What was given on the command line. A switch has the value `true`.
    pub flags: Vec<(&'static Key, Vec<String>)>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// Where [`CONFIG_FILE`] is looked for: the working directory. Empty: it is not looked for.
    pub dir: PathBuf,
}

/// Everything that can be set, as it is in force.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The front door.
    pub server: ServerSettings,
    /// The pages for operators.
    pub admin: AdminSettings,
    /// The model servers.
    pub backend: backend::Settings,
    /// How the models write calls.
    pub calls: calls::Settings,
    /// Who may come in.
    pub access: access::Settings,
    /// Where the tools are.
    pub tools: tools::Settings,
    /// Where the policies are.
    pub policy: policy::Settings,
    /// Where and how programs run.
    pub sandbox: SandboxSettings,
    /// What outlives a request.
    pub memory: MemorySettings,
    /// What is written down.
    pub audit: AuditSettings,
    /// What is said while running.
    pub log: LogSettings,
    /// Servers that are not used, each with its place and why: one that is written wrong does not stop the others.
    pub left_out: Vec<String>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Of every key that is not at its default.
    origins: BTreeMap<&'static str, Origin>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// This file.
    File(PathBuf),
    /// The environment variable of this name.
    Env(&'static str),
    /// The flag of this name, without its dashes.
    Flag(&'static str),
}

/// One key, for `loopgate check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The key.
    pub key: String,
    /// Its value, as text. Secrets are `***`.
    pub value: String,
    /// Who says so.
    pub origin: Origin,
}

/// Puts the sources together.
pub fn resolve(sources: &Sources) -> Result<Resolved, ConfigError> {
    let mut resolved = Resolved::defaults(&sources.env);
    let mut servers = None;
    if let Some(path) = file::find(sources) {
        let file = file::read(&path)?;
        resolved.file = Some(path.clone());
        let origin = Origin::File(path);
        for (key, values) in &file.values {
            resolved.set(key, values, origin.clone())?;
        }
        let callers = resolved.access.set_callers(file.callers);
        callers.map_err(|error| ConfigError::Value { place: origin.place(CALLERS), why: error.to_string() })?;
        resolved.origins.insert(CALLERS, origin.clone());
        servers = Some((file.backends, origin));
    }
    for (key, values) in env_values(&sources.env)? {
        resolved.set(key, &values, Origin::Env(key.env))?;
    }
    for (key, values) in &sources.flags {
        resolved.set(key, values, Origin::Flag(key.flag))?;
    }
    let urls = resolved.origin("backend.urls").place("backend.urls");
    resolved.left_out.iter_mut().for_each(|why| *why = format!("{urls}: {why}"));
    if let Some((listed, origin)) = servers {
        servers::merge(&mut resolved, listed, &sources.env, &origin)?;
    }
    if resolved.origin("sandbox.guest") == Origin::Default {
        resolved.sandbox.guest = resolved.tools.dir.join(settings::GUEST);
    }
    refuse_exposure(&resolved)?;
    refuse_open_admin(&resolved)?;
    refuse_no_room(&resolved)?;
    Ok(resolved)
}

fn env_values(env: &BTreeMap<String, String>) -> Result<Vec<(&'static Key, Vec<String>)>, ConfigError> {
    let mut values = Vec::new();
    for (name, value) in env {
        if !name.starts_with(VARIABLE_PREFIX) || [CONFIG_VARIABLE, CLIENT_KEY_VARIABLE].contains(&name.as_str()) {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.env == name) else {
            let known = KEYS.iter().map(|key| key.env).chain([CONFIG_VARIABLE]);
            return Err(ConfigError::unknown("environment", "variable", name, known));
        };
        // Compose files pass variables that are not set on as empty ones.
        if !value.is_empty() {
            let items = match key.set {
                Set::Many(_) => value.split(',').map(|item| item.trim().to_owned()).collect(),
                Set::One(_) | Set::Switch(_) => vec![value.clone()],
            };
            values.push((key, items));
        }
    }
    Ok(values)
}

/// A sandbox for whoever passes by is nobody's intention, so it has to be spelt out.
fn refuse_exposure(resolved: &Resolved) -> Result<(), ConfigError> {
    let server = &resolved.server;
    if server.listen.ip().is_loopback() || server.allow_anonymous || !resolved.access.callers().is_empty() {
        return Ok(());
    }
    Err(ConfigError::Exposed { place: resolved.origin("server.listen").place("server.listen"), listen: server.listen })
}

/// Who reaches these pages can send everybody's conversations elsewhere.
fn refuse_open_admin(resolved: &Resolved) -> Result<(), ConfigError> {
    let AdminSettings { listen, key } = &resolved.admin;
    match listen {
        Some(listen) if !listen.ip().is_loopback() && key.is_none() => {
            let why = format!(
                "{listen} can be reached from other machines, and admin.key is not set; set it (LOOPGATE_ADMIN_KEY), or write \
                 127.0.0.1:{}",
                listen.port()
            );
            Err(ConfigError::Value { place: resolved.origin("admin.listen").place("admin.listen"), why })
        }
        _ => Ok(()),
    }
}

/// The largest body would be asked to come again for ever.
fn refuse_no_room(resolved: &Resolved) -> Result<(), ConfigError> {
    let (one, all) = (resolved.server.body_bytes_max, resolved.server.bodies_bytes_max);
    if one <= all {
        return Ok(());
    }
    let why = format!("{all} bytes are too few for one body of server.body_bytes_max; write at least {one}");
    Err(ConfigError::Value { place: resolved.origin("server.bodies_bytes_max").place("server.bodies_bytes_max"), why })
}

impl Resolved {
    fn set(&mut self, key: &'static Key, values: &[String], origin: Origin) -> Result<(), ConfigError> {
        let set = match (&key.set, values) {
            (Set::One(set), [value]) => set(self, value),
            (Set::Switch(set), [value]) => parse::switch(value).map(|on| set(self, on)),
            (Set::Many(set), values) => set(self, values),
            (Set::One(_) | Set::Switch(_), values) => Err(format!("takes one value, not {}", values.len())),
        };
        set.map_err(|why| ConfigError::Value { place: origin.place(key.name), why })?;
        self.origins.insert(key.name, origin);
        Ok(())
    }

    /// Who set this key.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every key with its value in force and where it comes from, then what `[[backends]]` says, then the callers.
    pub fn describe(&self) -> Vec<InForce> {
        let key =
            |key: &Key| InForce { key: key.name.to_owned(), value: (key.show)(self), origin: self.origin(key.name) };
        let caller = |caller: &access::CallerSettings| InForce {
            key: format!("{CALLERS}.{}", caller.name),
            value: format!(
                "key_sha256 {:?}, concurrent_max {}",
                caller.key_sha256,
                caller.concurrent_max.unwrap_or(self.access.concurrent_max)
            ),
            origin: self.origin(CALLERS),
        };
        let server = |server: &backend::Server| InForce {
            key: format!("{BACKENDS}.{}", server.address.name()),
            value: servers::describe(server),
            origin: self.origin(BACKENDS),
        };
        let servers = self.backend.servers.iter().filter(|server| servers::is_special(server)).map(server);
        KEYS.iter().map(key).chain(servers).chain(self.access.callers().iter().map(caller)).collect()
    }
}

impl Origin {
    /// The value's place as errors name it.
    fn place(&self, key: &str) -> String {
        match self {
            Self::Default => format!("`{key}`"),
            Self::File(path) => format!("{}: `{key}`", path.display()),
            Self::Env(name) => format!("environment variable {name}"),
            Self::Flag(name) => format!("--{name}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File(path) => path.display().fmt(out),
            Self::Env(name) => out.write_str(name),
            Self::Flag(name) => write!(out, "--{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
