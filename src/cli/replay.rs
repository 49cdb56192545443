//! `loopgate exec --replay`: an execution of the audit once more, and whether it comes to the same.

use super::exec::{Live, exit_code, json, print_json, print_rest, unknown_caller};
use super::{ConfigFlags, Failed, quiet_by_default, runtime, start_log};
use crate::access::Access;
use crate::agent::{Desk, Done};
use crate::app;
use crate::record::{Recorded, Who};
use serde_json::json;
use std::process::ExitCode;

/// It came to another outcome than the one that is recorded.
const DIFFERENT: u8 = 6;

pub(super) fn run(id: &str, as_json: bool, config: &ConfigFlags) -> Result<ExitCode, Failed> {
    let mut resolved = config.resolve()?;
    quiet_by_default(&mut resolved, "warn,loopgate::sandbox=info");
    start_log(&resolved.log);
    // Before the desk, which would make an audit file where there is none.
    let chain = Recorded::find(&resolved.audit, id).map_err(|error| Failed::Usage(error.to_string()))?;
    let desk = app::desk(&resolved)?;
    let access = Access::new(&resolved.access);
    let Some((last, before)) = chain.split_last() else { return Err(Failed::Other("nothing to replay".into())) };
    let caller = access.named(&last.caller).ok_or_else(|| unknown_caller(&last.caller, &access))?;
    let mut live = Live::new(!as_json);
    let (done, differences) = runtime()?.block_on(replay(&desk, &app::local(caller), (before, last), &mut live));
    if as_json {
        let mut outcome = json(&done);
        outcome["replay"] = json!({ "of": id, "same": differences.is_empty(), "differences": differences });
        print_json(&outcome);
    } else {
        print_rest(&done, &live);
    }
    if done.ended.is_none() {
        return Ok(exit_code(&done));
    }
    if differences.is_empty() {
        eprintln!("loopgate: the same outcome as that of {id}");
        return Ok(exit_code(&done));
    }
    eprintln!("loopgate: not the outcome of {id}: {}", differences.join("; "));
    Ok(ExitCode::from(DIFFERENT))
}

/// All in one interpreter, the last of them heard.
async fn replay(
    desk: &Desk,
    who: &Who,
    (before, last): (&[Recorded], &Recorded),
    live: &mut Live,
) -> (Done, Vec<String>) {
    let policy = desk.policy(&who.caller);
    let mut interpreter = desk.interpreter();
    let mut all = Vec::new();
    for earlier in before {
        let (_, differences) = desk.answer_again(who, policy, earlier, &mut interpreter, |_, _| {}).await;
        let of_it = |difference: String| format!("{}, from which it goes on: {difference}", earlier.id);
        all.extend(differences.into_iter().map(of_it));
    }
    let hear = |stream, chunk: &[u8]| live.hear(stream, chunk);
    let (done, differences) = desk.answer_again(who, policy, last, &mut interpreter, hear).await;
    // Where the last one came to the same all the same, nothing is amiss.
    if differences.is_empty() {
        all.clear();
    } else {
        all.extend(differences);
    }
    (done, all)
}
