//! The flags that set what [`KEYS`] lists, made from that list.

use super::Failed;
use crate::config::{self, KEYS, Key, Resolved, Set, Sources};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// Keeps them apart from a command's own flags in its help.
const HEADING: &str = "Settings";

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigFlags {
    file: Option<PathBuf>,
    given: Vec<(&'static Key, Vec<String>)>,
}

impl ConfigFlags {
    /// Puts flags, environment, file and defaults together.
    pub fn resolve(&self) -> Result<Resolved, Failed> {
        let dir = std::env::current_dir()?;
        let (flags, file) = (self.given.clone(), self.file.clone());
        resolved(&Sources { flags, env: environment(), file, dir })
    }

    /// The same without the file that happens to lie in the working directory, for a command that must work in any.
    pub fn resolve_anywhere(&self) -> Result<Resolved, Failed> {
        let (flags, file) = (self.given.clone(), self.file.clone());
        resolved(&Sources { flags, env: environment(), file, ..Sources::default() })
    }
}

fn resolved(sources: &Sources) -> Result<Resolved, Failed> {
    let mut resolved = config::resolve(sources)?;
    // This program as Linux calls it, also when its file was replaced. Another one that uses the library is no worker.
    resolved.sandbox.program = "/proc/self/exe".into();
    Ok(resolved)
}

fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self { file: matches.get_one::<PathBuf>("config").cloned(), given: Vec::new() };
        for key in KEYS {
            let values: Vec<String> = match key.set {
                Set::Switch(_) => matches.get_flag(key.flag).then(|| "true".to_owned()).into_iter().collect(),
                Set::One(_) | Set::Many(_) => {
                    matches.get_many::<String>(key.flag).map(|values| values.cloned().collect()).unwrap_or_default()
                }
            };
            if !values.is_empty() {
                flags.given.push((key, values));
            }
        }
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help_heading(HEADING)
            .help("configuration file [env: LOOPGATE_CONFIG] [default: loopgate.toml, if there is one]");
        let flag = |key: &'static Key| {
            let default = key.default_text();
            let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            let help = format!("{} [env: {}]{default}", key.help, key.env);
            let flag = Arg::new(key.flag).long(key.flag).help_heading(HEADING).help(help);
            match key.set {
                Set::Switch(_) => flag.action(ArgAction::SetTrue),
                Set::One(_) => flag.action(ArgAction::Set).value_name(value_name(key)),
                Set::Many(_) => flag.action(ArgAction::Append).value_name(value_name(key)),
            }
        };
        command.arg(file).args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn value_name(key: &Key) -> &'static str {
    match key.name {
        "server.listen" | "admin.listen" => "IP:PORT",
        "backend.urls" => "URL",
        "aliases" => "NAME=MODEL",
        name if name.ends_with("_ms") => "MS",
        name if name.ends_with("_bytes") || name.ends_with("_bytes_max") => "BYTES",
        name if name.ends_with("dir") || name.ends_with("path") || name.ends_with("guest") => "PATH",
        name if name.ends_with("_max") || name.ends_with("_files") => "N",
        _ => "VALUE",
    }
}
