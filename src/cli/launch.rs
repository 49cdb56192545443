//! `loopgate launch`: the command that starts SGLang for a model, as SGLang's own page for it has it.

use super::Failed;
use crate::client::{Failure, Patience, Target};
use crate::launch::{Choice, OURS, Recipe, Recipes, compare, write};
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// SGLang's own.
const PORT: u16 = 30_000;
/// All that a machine has.
const EVERY_ADDRESS: &str = "0.0.0.0";
/// Where a server says what it was started with: in newer versions of SGLang, and in older ones.
const INFO_PATHS: [&str; 2] = ["/server_info", "/get_server_info"];
/// As for the gateway itself.
const KEY_VARIABLE: &str = "LOOPGATE_BACKEND_API_KEY";
/// Chosen: it is answered at once, but may be asked for far away.
const PATIENCE: Duration = Duration::from_secs(10);

// A test holds the names and defaults below against the rules: they are not read before they are needed.
#[derive(Args)]
#[command(
    after_help = "Names and defaults are those of the rules for Qwen3-Coder; with --recipes they are the file's own, which \
    --list shows."
)]
pub(super) struct Flags {
    /// The GPUs: mi300x, mi325x, mi355x, b200, gb200 [default: mi300x]
    #[arg(long, value_name = "NAME")]
    hardware: Option<String>,
    /// The model: 480b, 30b [default: 480b]
    #[arg(long, value_name = "SIZE")]
    model_size: Option<String>,
    /// How its weights are stored: bf16, fp8, nvfp4 [default: bf16]
    #[arg(long, value_name = "FORMAT")]
    quantization: Option<String>,
    /// Whether SGLang finds tool calls itself: disabled, enabled [default: disabled]
    #[arg(long, value_name = "WORD")]
    tool_call_parser: Option<String>,
    /// Add what Loopgate makes use of: metrics, the cache report, host and port
    #[arg(long)]
    for_gateway: bool,
    /// So many servers, and the loopgate.toml in front of them; goes with --for-gateway
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    instances: u32,
    /// The address that they listen on; goes with --for-gateway [default: 127.0.0.1; 0.0.0.0 where each has its own machine]
    #[arg(long, value_name = "IP", value_parser = host)]
    host: Option<String>,
    /// The port of the first; goes with --for-gateway [default: 30000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// As a command for a shell, or as a compose file
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Format::Shell)]
    format: Format,
    /// Print every choice with its model and GPUs, or why there is none, and the defaults
    #[arg(long, conflicts_with_all = ["hardware", "model_size", "quantization", "tool_call_parser", "for_gateway",
          "instances", "host", "port", "format", "check"])]
    list: bool,
    /// Compare a running server with the command; ends with 1 when they differ
    #[arg(long, value_name = "URL", conflicts_with_all = ["instances", "host", "port", "format"])]
    check: Option<String>,
    /// The server's key, for --check; the variable `LOOPGATE_BACKEND_API_KEY` keeps it out of the command line
    #[arg(long, value_name = "KEY", requires = "check")]
    api_key: Option<String>,
    /// Rules of your own instead of Qwen3-Coder's, with names and defaults of their own
    #[arg(long, value_name = "FILE")]
    recipes: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Shell,
    Compose,
}

/// IPv4, since SGLang's own URLs have no brackets.
fn host(text: &str) -> Result<String, String> {
    text.parse::<std::net::Ipv4Addr>()
        .map(|ip| ip.to_string())
        .map_err(|_| "write an IP address, such as 0.0.0.0".to_owned())
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failed> {
    let recipes = read(flags)?;
    if flags.list {
        list(&recipes);
        return Ok(ExitCode::SUCCESS);
    }
    let of =
        |flag: &Option<String>, default: &String| flag.as_ref().map_or_else(|| default.clone(), |it| it.to_lowercase());
    let choice = Choice {
        hardware: of(&flags.hardware, &recipes.default.hardware),
        model_size: of(&flags.model_size, &recipes.default.model_size),
        quantization: of(&flags.quantization, &recipes.default.quantization),
        tool_call_parser: of(&flags.tool_call_parser, &recipes.default.tool_call_parser),
    };
    let recipe = recipes.recipe(&choice).map_err(|refused| Failed::Usage(refused.to_string()))?;
    if let Some(url) = &flags.check {
        return check(&recipe, flags, url);
    }
    let text = written(&recipe, flags)?;
    for tip in recipe.tips.iter().chain(&write::placing(&recipe, flags.instances)) {
        eprintln!("# {tip}");
    }
    say!("{}", text.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn read(flags: &Flags) -> Result<Recipes, Failed> {
    let Some(path) = &flags.recipes else {
        return Recipes::read(OURS).map_err(|error| Failed::Other(error.to_string()));
    };
    let wrong = |error: &dyn std::fmt::Display| Failed::Usage(format!("--recipes: {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    Recipes::read(&text).map_err(|error| wrong(&error))
}

/// The command or commands, in the form that is wanted.
fn written(recipe: &Recipe, flags: &Flags) -> Result<String, Failed> {
    let count = flags.instances;
    let for_gateway = flags.for_gateway || count > 1 || flags.host.is_some() || flags.port.is_some();
    let port = flags.port.unwrap_or(PORT);
    if u32::from(port) + count - 1 > u32::from(u16::MAX) {
        return Err(Failed::Usage(format!("--port: {count} instances from {port} on go beyond {}", u16::MAX)));
    }
    let instances = write::instances(recipe, count, flags.host.as_deref(), port);
    if flags.format == Format::Compose {
        if flags.host.is_some() {
            let why = "--host: containers have addresses of their own; in a compose file it is 0.0.0.0. Leave it out";
            return Err(Failed::Usage(why.to_owned()));
        }
        return write::compose(recipe, &instances, for_gateway).map_err(|error| Failed::Usage(error.to_string()));
    }
    if count == 1 {
        return Ok(write::shell(recipe, for_gateway.then_some(&instances[0])));
    }
    if let Some(host) = flags.host.as_deref().filter(|host| *host != EVERY_ADDRESS && !write::fits(recipe, count)) {
        return Err(Failed::Usage(format!(
            "--host: {count} instances do not fit on one machine, and {host} would be the address of each; write \
             {EVERY_ADDRESS}, or leave it out"
        )));
    }
    let command = |(number, instance): (u32, &write::Instance)| {
        format!("# instance {number} of {count}, {}\n{}\n\n", instance.url(), write::shell(recipe, Some(instance)))
    };
    let commands: Vec<_> = (1..).zip(&instances).map(command).collect();
    Ok(format!("{}# loopgate.toml\n{}", commands.concat(), write::gateway(recipe, &instances)))
}

fn list(recipes: &Recipes) {
    say!("{:<9} {:<11} {:<13} {:<48} {:>4}", "hardware", "model size", "quantization", "model", "GPUs");
    for choice in recipes.choices() {
        let Choice { hardware, model_size, quantization, .. } = &choice;
        match recipes.recipe(&choice) {
            Ok(recipe) => {
                say!("{hardware:<9} {model_size:<11} {quantization:<13} {:<48} {:>4}", recipe.model, recipe.tp);
            }
            Err(refused) => say!("{hardware:<9} {model_size:<11} {quantization:<13} no: {refused}"),
        }
    }
    let Choice { hardware, model_size, quantization, tool_call_parser } = &recipes.default;
    say!("\n--tool-call-parser is one of: {}", recipes.tool_call_parsers().join(", "));
    say!(
        "default: --hardware {hardware} --model-size {model_size} --quantization {quantization} \
         --tool-call-parser {tool_call_parser}"
    );
}

fn check(recipe: &Recipe, flags: &Flags, url: &str) -> Result<ExitCode, Failed> {
    let key = flags.api_key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok()).filter(|key| !key.is_empty());
    let has_key = key.is_some();
    let target = Target::new(url, key.as_deref(), Patience::of(PATIENCE)).map_err(Failed::Usage)?;
    let info = super::runtime()?.block_on(server_info(&target, has_key)).map_err(Failed::Other)?;
    let version = info.get("version").and_then(Value::as_str).unwrap_or("of an unknown version");
    say!("{url} runs SGLang {version}\n");
    let lines = compare::compare(recipe, flags.for_gateway, &info);
    say!("{:<22} {:<44} server", "argument", "recipe");
    for line in &lines {
        let (wanted, running) = (line.wanted.as_deref(), line.running.as_deref());
        let none = if line.said { "(not set)" } else { "(not said)" };
        let (wanted, running) = (wanted.unwrap_or("(not set)"), running.unwrap_or(none));
        let mark = if line.is_as_wanted() { "" } else { "differs" };
        say!("{}", format!("{:<22} {wanted:<44} {running:<44} {mark}", line.flag).trim_end());
    }
    let differ = lines.iter().filter(|line| !line.is_as_wanted()).count();
    if differ == 0 {
        say!("\nall as in the recipe");
        return Ok(ExitCode::SUCCESS);
    }
    say!("\n{differ} of {} differ", lines.len());
    Ok(ExitCode::FAILURE)
}

/// What a server says of itself. The error is for people.
async fn server_info(target: &Target, has_key: bool) -> Result<Value, String> {
    let url = target.url();
    for path in INFO_PATHS {
        match target.get(path).await {
            Ok(info) if info.is_object() => return Ok(info),
            Ok(_) => return Err(format!("{url}{path}: it has no settings; is that an SGLang server?")),
            // Older versions have the other name.
            Err(Failure::Status(404, _)) => {}
            Err(Failure::Status(401, _)) if has_key => return Err(format!("{url} takes another key than this one")),
            Err(Failure::Status(401, _)) => return Err(format!("{url} asks for a key; give it with --api-key")),
            Err(failure) => return Err(format!("{url}{path}: {failure}")),
        }
    }
    let [newer, older] = INFO_PATHS;
    Err(format!(
        "{url} has neither {newer} nor {older}; is that an SGLang server? Write its address alone, without /v1"
    ))
}
