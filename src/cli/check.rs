//! `loopgate check`: is everything right, and what is in force.

use super::{ConfigFlags, Failed, runtime, start_log};
use crate::access::Access;
use crate::agent::Desk;
use crate::app;
use crate::config::{Origin, Resolved};
use crate::policy::Policy;
use crate::tools::Tools;
use std::process::ExitCode;

pub(super) fn run(flags: &ConfigFlags) -> Result<ExitCode, Failed> {
    let resolved = flags.resolve()?;
    start_log(&resolved.log);
    settings(&resolved);
    let desk = app::desk(&resolved)?;
    let access = Access::new(&resolved.access);
    policies(&access, &desk);
    let failed = runtime()?.block_on(examples(&desk, &access));
    if failed == 0 && resolved.left_out.is_empty() {
        say!("\nall is well");
        return Ok(ExitCode::SUCCESS);
    }
    say!("");
    for server in &resolved.left_out {
        say!("a backend is left out: {server}");
    }
    if failed > 0 {
        say!("{failed} of the examples failed");
    }
    Ok(ExitCode::FAILURE)
}

fn settings(resolved: &Resolved) {
    say!("settings");
    for line in resolved.describe() {
        let origin = match line.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(path) => path.display().to_string(),
            Origin::Env(name) => name.to_owned(),
            Origin::Flag(name) => format!("--{name}"),
        };
        say!("  {:<28} {:<44} {origin}", line.key, line.value);
    }
}

fn policies(access: &Access, desk: &Desk) {
    say!("\npolicies");
    for caller in access.everybody() {
        let policy: &Policy = desk.policy(caller);
        let (limits, bounds) = (&policy.limits, &policy.bounds);
        let granted: Vec<_> = policy.granted().collect();
        say!(
            "  {:<28} policy {}: {}, offered {}",
            caller.name(),
            policy.name,
            granted.join(", "),
            policy.offer.as_str()
        );
        say!(
            "  {:<28} {} ms, {} MiB, {} KiB of output a call; {} rounds, {} s, {} errors in a row",
            "",
            limits.wall_ms,
            limits.memory_bytes >> 20,
            limits.output_bytes >> 10,
            bounds.rounds,
            bounds.turn.as_secs(),
            bounds.errors_in_a_row
        );
        for tool in policy.granted() {
            say!("  {:<28} {tool}: {}", "", policy.why(tool).unwrap_or_default());
        }
    }
}

/// Runs every tool's examples through the real sandbox, each tool's as a caller that may use it. How many did something
/// else than they say.
async fn examples(desk: &Desk, access: &Access) -> usize {
    say!("\ntools");
    let (mut failed, tools): (_, &Tools) = (0, desk.tools());
    for tool in tools.iter() {
        say!("  {:<28} {}", tool.name, tool.description.lines().next().unwrap_or_default());
        let Some(caller) = access.everybody().find(|caller| desk.policy(caller).grants(&tool.name)) else {
            say!("    no policy grants it, so its examples were not run");
            continue;
        };
        let (who, policy) = (app::local(caller), desk.policy(caller));
        for example in &tool.examples {
            let mut interpreter = desk.interpreter();
            let done = desk.answer(&who, policy, &example.call(tool), &mut interpreter, |_, _| {}).await;
            let verdict = example.expect.unmet(&done.execution);
            failed += usize::from(verdict.is_some());
            let took = done.execution.duration_ms;
            say!("    {:<26} {}", example.name, verdict.unwrap_or_else(|| format!("ok, {took:.1} ms")));
        }
    }
    failed
}
