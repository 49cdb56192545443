//! A recipe → text: a shell command, a compose file, and the gateway's configuration beside it.

use super::{Argument, Recipe};
use std::fmt::Write as _;

/// The gateway's own port, in compose files.
const GATEWAY_PORT: u16 = 8080;
/// The gateway's service, walled in and with the volumes that `docker/compose.yaml` gives it.
const LOOPGATE: &str = r#"  loopgate:
    image: loopgate:local
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    environment:
      LOOPGATE_BACKENDS: "{urls}"
      LOOPGATE_ALIASES: "qwen3-coder={model}"
      LOOPGATE_LISTEN: "0.0.0.0:{port}"
      # The port below is this machine's alone. Where others reach it, list callers with keys instead.
      LOOPGATE_ALLOW_ANONYMOUS: "true"
    ports: ["127.0.0.1:{port}:{port}"]
    volumes:
      # What it remembers, and the audit.
      - "state:/var/lib/loopgate"
      # Begins as the compiled guest of the image. A CPU that cannot use that has its own compiled, once.
      - "cache:/var/cache/loopgate"
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

/// How one instance is spread over several machines, if it takes more than one.
pub fn spread(recipe: &Recipe) -> Option<String> {
    let Recipe { tp, gpus, .. } = recipe;
    let machines = recipe.machines();
    (machines > 1).then(|| {
        format!(
            "One instance takes {tp} GPUs, and a machine has {gpus}: start its command on {machines} machines, with \
             --nnodes {machines} --dist-init-addr FIRST-MACHINE:PORT, and with --node-rank 0 to {} one on each.",
            machines - 1
        )
    })
}

/// The page's command. With an instance, what the gateway makes use of comes after it.
pub fn shell(recipe: &Recipe, instance: Option<&Instance>) -> String {
    let mut text = String::new();
    for (name, value) in &recipe.environment {
        let _ = write!(text, "{name}={value} ");
    }
    text += &recipe.program;
    for Argument { flag, value, .. } in arguments(recipe, instance) {
        let _ = write!(text, " \\\n  {flag}");
        if let Some(value) = value {
            let _ = write!(text, " {value}");
        }
    }
    text
}

/// `loopgate.toml` in front of these.
pub fn gateway(recipe: &Recipe, instances: &[Instance]) -> String {
    let urls: Vec<_> = instances.iter().map(|it| format!("    \"{}\",\n", it.url())).collect();
    format!("[backend]\nurls = [\n{}]\n\n[aliases]\nqwen3-coder = \"{}\"\n", urls.concat(), recipe.model)
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
        let service = LOOPGATE.replace("{urls}", &urls.join(",")).replace("{model}", &recipe.model);
        text += &service.replace("{port}", &GATEWAY_PORT.to_string());
    }
    text += "volumes:\n  models: {}\n";
    if gateway {
        text += "  state: {}\n  cache: {}\n";
    }
    Ok(text)
}

fn service(recipe: &Recipe, number: usize, instance: &Instance, gateway: bool) -> String {
    let mut text = format!("  sglang-{number}:\n    image: {}\n    command:\n", recipe.image);
    let mut word = |word: &str| {
        let _ = writeln!(text, "      - \"{word}\"");
    };
    recipe.program.split(' ').for_each(&mut word);
    let mut arguments = arguments(recipe, Some(instance));
    if !gateway {
        // In a container also the page's command needs an address by which it is reached.
        let added = &recipe.gateway_arguments;
        arguments.retain(|it| it.value.is_some() || !added.iter().any(|added| added.flag == it.flag));
    }
    for Argument { flag, value, .. } in arguments {
        word(&flag);
        if let Some(value) = value {
            word(&value);
        }
    }
    text += "    environment:\n      HF_TOKEN: \"${HF_TOKEN:-}\"\n      HF_HOME: /models\n";
    for (name, value) in &recipe.environment {
        let _ = writeln!(text, "      {name}: \"{value}\"");
    }
    if !gateway {
        let _ = writeln!(text, "    ports: [\"127.0.0.1:{0}:{0}\"]", instance.port);
    }
    text += "    volumes: [\"models:/models\"]\n    ipc: host\n";
    for line in recipe.devices.trim().lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

fn arguments(recipe: &Recipe, instance: Option<&Instance>) -> Vec<Argument> {
    let mut arguments = recipe.arguments.clone();
    let Some(instance) = instance else { return arguments };
    arguments.extend_from_slice(&recipe.gateway_arguments);
    if instance.first_gpu.is_some() {
        arguments.extend_from_slice(&recipe.shared_machine_arguments);
    }
    for value in arguments.iter_mut().filter_map(|argument| argument.value.as_mut()) {
        *value = value.replace("{host}", &instance.host).replace("{port}", &instance.port.to_string());
        *value = value.replace("{gpu}", &instance.first_gpu.unwrap_or_default().to_string());
    }
    arguments
}

impl Instance {
    /// Where the gateway finds it.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.reached_at, self.port)
    }
}
