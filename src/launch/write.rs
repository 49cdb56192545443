//! A recipe → text: a shell command, a compose file, and the gateway's configuration beside it.

use super::{Argument, Recipe};
use std::fmt::Write as _;

/// What clients call the model, whichever it is.
const ALIAS: &str = "qwen3-coder";
/// The gateway's service, as `docker/compose.yaml` has it: a test holds the two together.
const GATEWAY: &str = r#"  gateway:
    # Made from Loopgate's repository: docker build -f docker/Dockerfile -t loopgate:local .
    image: ${LOOPGATE_IMAGE:-loopgate:local}
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    environment:
      LOOPGATE_BACKENDS: {backends}
      LOOPGATE_ALIASES: {aliases}
      # The port below is this machine's alone. Where others reach it, list callers with keys instead.
      LOOPGATE_ALLOW_ANONYMOUS: "true"
      # 16 interpreters of 256 MiB and 64 MiB of files each are the 5 GiB that mem_limit has room for.
      LOOPGATE_INTERPRETERS_MAX: "16"
    ports: ["127.0.0.1:${LOOPGATE_PORT:-8080}:8080"]
    volumes:
      # What it remembers, and the audit.
      - "state:/var/lib/loopgate"
      # Begins as the compiled guest of the image. A CPU that cannot use that has its own compiled, once.
      - "cache:/var/cache/loopgate"
    mem_limit: 8g
    # Longer than server.shutdown_grace_ms.
    stop_grace_period: 30s
"#;

/// One server to be launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The address that it listens on.
    pub host: String,
    /// The port that it listens on.
    pub port: u16,
    /// The name under which the gateway reaches it.
    pub reached_at: String,
    /// The first of its GPUs, where others share its machine.
    pub first_gpu: Option<u32>,
}

/// Instances do not fit as they are wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// There are fewer that do.
    #[error(
        "{instances} instances take {wanted} GPUs, and a machine has {gpus}; a compose file is for one machine: write at \
         most --instances {fit}, or --format shell for several machines"
    )]
    Instances {
        /// How many.
        instances: u32,
        /// Their GPUs.
        wanted: u32,
        /// A machine's GPUs.
        gpus: u32,
        /// How many do.
        fit: u32,
    },
    /// Not even one does.
    #[error(
        "one instance takes {wanted} GPUs, and a machine has {gpus}; a compose file is for one machine: write --format \
         shell, which says how {machines} of them run it together"
    )]
    Machines {
        /// Its GPUs.
        wanted: u32,
        /// A machine's GPUs.
        gpus: u32,
        /// Over how many machines it is spread.
        machines: u32,
    },
}

/// Instances of a recipe. Those that fit share this machine, and a single one is on it, or begins there; else each has one
/// of its own.
pub fn instances(recipe: &Recipe, count: u32, host: Option<&str>, port: u16) -> Vec<Instance> {
    let shared = count == 1 || fits(recipe, count);
    let host = host.unwrap_or(if shared { "127.0.0.1" } else { "0.0.0.0" });
    // Who listens on every address is also reached at this machine's own.
    let here = if host == "0.0.0.0" { "127.0.0.1" } else { host };
    (0..count)
        .map(|at| Instance {
            host: host.to_owned(),
            port: if shared { port.saturating_add(u16::try_from(at).unwrap_or(u16::MAX)) } else { port },
            reached_at: if shared { here.to_owned() } else { format!("machine-{}", at + 1) },
            first_gpu: (shared && count > 1).then_some(at * recipe.tp),
        })
        .collect()
}

/// Whether one machine has the GPUs for so many instances.
pub fn fits(recipe: &Recipe, count: u32) -> bool {
    count.saturating_mul(recipe.tp) <= recipe.gpus
}

/// What to do where one machine has too few GPUs for so many instances.
pub fn placing(recipe: &Recipe, count: u32) -> Option<String> {
    if fits(recipe, count) {
        return None;
    }
    let Recipe { tp, gpus, .. } = recipe;
    let machines = recipe.machines();
    let spread = format!(
        "on {machines} machines, with --nnodes {machines} --dist-init-addr FIRST-MACHINE:PORT, and with --node-rank 0 to \
         {} one on each",
        machines.saturating_sub(1)
    );
    Some(match (count, machines) {
        (1, _) => {
            format!("One instance takes {tp} GPUs, and a machine has {gpus}: start its command {spread}.")
        }
        (_, 1) => format!(
            "{count} instances with {tp} GPUs each, and a machine has {gpus}: a machine for each. Put its name for machine-…"
        ),
        (_, _) => format!(
            "{count} instances with {tp} GPUs each, and a machine has {gpus}: {machines} machines for each, {} in all. Start \
             an instance's command {spread}. Put the name of its first machine for machine-…",
            count.saturating_mul(machines)
        ),
    })
}

/// The page's command. With an instance, what the gateway makes use of and its address come after it.
pub fn shell(recipe: &Recipe, instance: Option<&Instance>) -> String {
    let mut text = String::new();
    for (name, value) in &recipe.environment {
        let _ = write!(text, "{name}={} ", shell_word(value));
    }
    text += &recipe.program;
    for Argument { flag, value, .. } in arguments(recipe, instance, instance.is_some()) {
        let _ = write!(text, " \\\n  {}", shell_word(&flag));
        if let Some(value) = value {
            let _ = write!(text, " {}", shell_word(&value));
        }
    }
    text
}

/// `loopgate.toml` in front of these.
pub fn gateway(recipe: &Recipe, instances: &[Instance]) -> String {
    let urls: Vec<_> = instances.iter().map(|it| format!("    {},\n", toml_string(&it.url()))).collect();
    format!("[backend]\nurls = [\n{}]\n\n[aliases]\n{ALIAS} = {}\n", urls.concat(), toml_string(&recipe.model))
}

/// A compose file: the servers, and with `gateway` Loopgate in front of them.
///
/// # Errors
/// When they do not fit on one machine.
pub fn compose(recipe: &Recipe, instances: &[Instance], gateway: bool) -> Result<String, TooMany> {
    let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
    let (gpus, machines) = (recipe.gpus, recipe.machines());
    if machines > 1 {
        return Err(TooMany::Machines { wanted: recipe.tp, gpus, machines });
    }
    if !fits(recipe, count) {
        let wanted = count.saturating_mul(recipe.tp);
        return Err(TooMany::Instances { instances: count, wanted, gpus, fit: gpus / recipe.tp });
    }
    let mut text = String::from("services:\n");
    for (at, instance) in (1..).zip(instances) {
        // Each container has ports of its own, and is reached by its name.
        let instance = Instance { host: "0.0.0.0".to_owned(), ..instance.clone() };
        text += &service(recipe, at, &instance, gateway);
    }
    if gateway {
        let urls: Vec<_> = (1..).zip(instances).map(|(at, it)| format!("http://sglang-{at}:{}", it.port)).collect();
        let aliases = format!("{ALIAS}={}", recipe.model);
        let service = GATEWAY.replace("{backends}", &compose_string(&urls.join(",")));
        text += &service.replace("{aliases}", &compose_string(&aliases));
    }
    text += "volumes:\n  models: {}\n";
    if gateway {
        text += "  state: {}\n  cache: {}\n";
    }
    Ok(text)
}

fn service(recipe: &Recipe, number: usize, instance: &Instance, gateway: bool) -> String {
    let mut text = format!("  sglang-{number}:\n    image: {}\n    command:\n", compose_string(&recipe.image));
    let mut word = |word: &str| {
        let _ = writeln!(text, "      - {}", compose_string(word));
    };
    recipe.program.split_whitespace().for_each(&mut word);
    for Argument { flag, value, .. } in arguments(recipe, Some(instance), gateway) {
        word(&flag);
        if let Some(value) = value {
            word(&value);
        }
    }
    text += "    environment:\n      HF_TOKEN: \"${HF_TOKEN:-}\"\n      HF_HOME: /models\n";
    for (name, value) in &recipe.environment {
        let _ = writeln!(text, "      {name}: {}", compose_string(value));
    }
    if !gateway {
        let _ = writeln!(text, "    ports: [\"127.0.0.1:{0}:{0}\"]", instance.port);
    }
    text += "    volumes: [\"models:/models\"]\n    ipc: host\n    restart: unless-stopped\n";
    for line in recipe.devices.trim().lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

/// The page's, what a gateway makes use of, and the instance's own. A container needs its address also without a gateway.
fn arguments(recipe: &Recipe, instance: Option<&Instance>, gateway: bool) -> Vec<Argument> {
    let mut arguments = recipe.arguments.clone();
    if gateway {
        arguments.extend_from_slice(&recipe.gateway_arguments);
    }
    let Some(instance) = instance else { return arguments };
    arguments.extend_from_slice(&recipe.address_arguments);
    if instance.first_gpu.is_some() {
        arguments.extend_from_slice(&recipe.shared_machine_arguments);
    }
    for value in arguments.iter_mut().filter_map(|argument| argument.value.as_mut()) {
        *value = value.replace("{host}", &instance.host).replace("{port}", &instance.port.to_string());
        *value = value.replace("{gpu}", &instance.first_gpu.unwrap_or_default().to_string());
    }
    arguments
}

/// A word of a shell's command. Plain ones stay as they are, as on the page.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A string of a compose file: YAML takes JSON's. Compose would put a variable's value for a `$`.
fn compose_string(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}

/// A string of a TOML file.
fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl Instance {
    /// Where the gateway finds it.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.reached_at, self.port)
    }
}
