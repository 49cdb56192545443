//! Files → [`Policies`]. Every name in them is known and every number in its range, or there are no policies.

use super::{Bounds, Limits, Offer, Policies, Policy, Sessions, Settings, Silence};
use crate::tools::{LoadError, Tools, entries, file_name, read_toml};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Stands for every caller that no policy names.
const EVERYBODY: &str = "*";

/// A policy file. What it leaves out is as in `policies/default.toml`, which explains every number.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    callers: Vec<String>,
    #[serde(default)]
    offer: Offer,
    #[serde(default)]
    progress: bool,
    #[serde(default)]
    grants: Vec<Grant>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    bounds: RawBounds,
    #[serde(default)]
    silence: RawSilence,
    #[serde(default)]
    sessions: RawSessions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    tools: Vec<String>,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    wall_ms: u64,
    cpu_ms: u64,
    memory_mib: u64,
    output_kib: u64,
    result_kib: u64,
    files: u64,
    file_mib: u64,
    recursion: u64,
    at_once: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBounds {
    rounds: u64,
    turn_seconds: u64,
    errors_in_a_row: u64,
    completion_tokens: u64,
    calls_per_round: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSilence {
    heartbeat_ms: u64,
    commit_after_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSessions {
    enabled: bool,
    keep_minutes: u64,
    count: u64,
    mib: u64,
}

impl Default for RawSessions {
    fn default() -> Self {
        Self { enabled: false, keep_minutes: 60, count: 16, mib: 64 }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        let limits = Limits::default();
        let Limits { wall_ms, cpu_ms, memory_bytes, output_bytes, result_bytes, .. } = limits;
        let Limits { files, file_bytes, recursion, at_once, .. } = limits;
        Self {
            wall_ms,
            cpu_ms,
            memory_mib: (memory_bytes >> 20) as u64,
            output_kib: (output_bytes >> 10) as u64,
            result_kib: (result_bytes >> 10) as u64,
            files: files.into(),
            file_mib: file_bytes >> 20,
            recursion: recursion.into(),
            at_once: at_once.into(),
        }
    }
}

impl Default for RawBounds {
    fn default() -> Self {
        Self { rounds: 10, turn_seconds: 300, errors_in_a_row: 3, completion_tokens: 0, calls_per_round: 16 }
    }
}

impl Default for RawSilence {
    fn default() -> Self {
        Self { heartbeat_ms: 10_000, commit_after_ms: 5_000 }
    }
}

impl Policies {
    /// Reads every `.toml` file of the policies' folder. A caller has the policy that names it, or else the one for
    /// `*`; a caller with neither is an error, since its first request would be too late to find out.
    ///
    /// `callers` are the names under which requests can come in.
    pub fn load(settings: &Settings, tools: &Tools, callers: &[&str]) -> Result<Self, LoadError> {
        let mut claims: BTreeMap<String, (PathBuf, Arc<Policy>)> = BTreeMap::new();
        for path in entries(&settings.dir, "set `policy.dir` to the folder that holds the policies")? {
            let Some(name) = file_name(&path).strip_suffix(".toml").map(str::to_owned) else { continue };
            let file: File = read_toml(&path, "make the file readable")?;
            check_callers(&path, &name, &file.callers, callers)?;
            let policy = Arc::new(policy(&path, name, &file, tools)?);
            for caller in file.callers {
                if let Some((other, _)) = claims.get(&caller) {
                    let what = format!("`callers`: {} claims `{caller}` too; take it out of one", other.display());
                    return Err(LoadError::new(&path, what));
                }
                claims.insert(caller, (path.clone(), Arc::clone(&policy)));
            }
        }
        let mut by_caller = HashMap::new();
        for caller in callers {
            let Some((_, policy)) = claims.get(*caller).or_else(|| claims.get(EVERYBODY)) else {
                let what =
                    format!("no policy for the caller `{caller}`; name it in one, or write callers = [\"*\"] in one");
                return Err(LoadError::new(&settings.dir, what));
            };
            by_caller.insert((*caller).to_owned(), Arc::clone(policy));
        }
        let nothing = || {
            let nothing = File { offer: Offer::Never, ..File::default() };
            policy(Path::new("(none)"), "(none)".to_owned(), &nothing, tools).map(Arc::new)
        };
        let others = claims.remove(EVERYBODY).map_or_else(nothing, |(_, policy)| Ok(policy))?;
        Ok(Self { by_caller, others })
    }
}

fn check_callers(path: &Path, policy: &str, named: &[String], known: &[&str]) -> Result<(), LoadError> {
    if named.is_empty() {
        let what = "`callers` is empty, so the policy is nobody's; name callers or write [\"*\"]";
        return Err(LoadError::new(path, what));
    }
    match named.iter().find(|name| *name != EVERYBODY && !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let known = ticked(known.iter().copied());
            Err(LoadError::new(path, format!("policy `{policy}`: unknown caller `{name}`; known: `*`, {known}")))
        }
    }
}

fn policy(path: &Path, name: String, file: &File, tools: &Tools) -> Result<Policy, LoadError> {
    let grants = grants(path, &name, &file.grants, tools)?;
    let numbers = Numbers { path };
    Ok(Policy {
        offer: file.offer,
        progress: file.progress,
        limits: limits(&numbers, &file.limits)?,
        bounds: bounds(&numbers, &file.bounds)?,
        silence: silence(&numbers, &file.silence)?,
        sessions: sessions(&numbers, &file.sessions)?,
        name,
        grants,
    })
}

fn grants(path: &Path, policy: &str, list: &[Grant], tools: &Tools) -> Result<BTreeMap<String, String>, LoadError> {
    let mut grants = BTreeMap::new();
    for grant in list {
        if grant.why.trim().is_empty() {
            let tools = ticked(grant.tools.iter().map(String::as_str));
            let what = format!("policy `{policy}`: `why` is empty; say why {tools} is granted");
            return Err(LoadError::new(path, what));
        }
        for tool in &grant.tools {
            if tools.get(tool).is_none() {
                let what = format!("policy `{policy}`: unknown tool `{tool}`; known: {}", ticked(tools.names()));
                return Err(LoadError::new(path, what));
            }
            if grants.insert(tool.clone(), grant.why.clone()).is_some() {
                let what = format!("policy `{policy}`: `{tool}` is granted twice; keep the grant whose `why` is true");
                return Err(LoadError::new(path, what));
            }
        }
    }
    Ok(grants)
}

// The ranges. Lower ends are what still makes sense, upper ends what one gateway can stand; all chosen, except where
// a line says otherwise.

fn limits(numbers: &Numbers<'_>, raw: &RawLimits) -> Result<Limits, LoadError> {
    // Ten minutes: no client waits longer (openai-python gives up after 600 s).
    let wall_ms = numbers.within("limits.wall_ms", raw.wall_ms, 1..=600_000, "milliseconds")?;
    let cpu_ms = numbers.within("limits.cpu_ms", raw.cpu_ms, 1..=600_000, "milliseconds")?;
    // The interpreter itself takes some 32 MiB; 4095 MiB are the most that 32-bit WebAssembly can address.
    let memory_mib = numbers.within("limits.memory_mib", raw.memory_mib, 64..=4095, "MiB")?;
    let output_kib = numbers.within("limits.output_kib", raw.output_kib, 1..=16_384, "KiB")?;
    let result_kib = numbers.within("limits.result_kib", raw.result_kib, 1..=16_384, "KiB")?;
    let file_mib = numbers.within("limits.file_mib", raw.file_mib, 0..=1024, "MiB")?;
    let bytes = |count: u32, unit: usize| count as usize * unit;
    Ok(Limits {
        wall_ms: wall_ms.into(),
        cpu_ms: cpu_ms.into(),
        memory_bytes: bytes(memory_mib, 1 << 20),
        output_bytes: bytes(output_kib, 1 << 10),
        result_bytes: bytes(result_kib, 1 << 10),
        files: numbers.within("limits.files", raw.files, 0..=100_000, "files and folders")?,
        file_bytes: u64::from(file_mib) << 20,
        // The standard library itself needs some dozens; the stack is for about a hundred thousand.
        recursion: numbers.within("limits.recursion", raw.recursion, 100..=100_000, "calls")?,
        at_once: numbers.within("limits.at_once", raw.at_once, 1..=10_000, "interpreters")?,
    })
}

fn bounds(numbers: &Numbers<'_>, raw: &RawBounds) -> Result<Bounds, LoadError> {
    let turn = numbers.within("bounds.turn_seconds", raw.turn_seconds, 1..=86_400, "seconds")?;
    Ok(Bounds {
        rounds: numbers.within("bounds.rounds", raw.rounds, 1..=1000, "model calls")?,
        turn: Duration::from_secs(turn.into()),
        errors_in_a_row: numbers.within("bounds.errors_in_a_row", raw.errors_in_a_row, 1..=1000, "answers")?,
        completion_tokens: Some(raw.completion_tokens).filter(|tokens| *tokens > 0),
        calls_per_round: numbers.within("bounds.calls_per_round", raw.calls_per_round, 1..=1000, "calls")?,
    })
}

fn silence(numbers: &Numbers<'_>, raw: &RawSilence) -> Result<Silence, LoadError> {
    // Clients give up after 120 s without a header (qwen-code) and 240 s without a chunk.
    let heartbeat = numbers.within("silence.heartbeat_ms", raw.heartbeat_ms, 100..=120_000, "milliseconds")?;
    let commit_after = numbers.within("silence.commit_after_ms", raw.commit_after_ms, 1..=100_000, "milliseconds")?;
    Ok(Silence {
        heartbeat: Duration::from_millis(heartbeat.into()),
        commit_after: Duration::from_millis(commit_after.into()),
    })
}

fn sessions(numbers: &Numbers<'_>, raw: &RawSessions) -> Result<Sessions, LoadError> {
    let minutes = numbers.within("sessions.keep_minutes", raw.keep_minutes, 1..=10_080, "minutes")?;
    let mib = numbers.within("sessions.mib", raw.mib, 1..=65_536, "MiB")?;
    Ok(Sessions {
        enabled: raw.enabled,
        keep: Duration::from_secs(60 * u64::from(minutes)),
        count: numbers.within("sessions.count", raw.count, 1..=10_000, "sessions")?,
        bytes: (mib as usize) << 20,
    })
}

/// The file whose numbers are looked at.
struct Numbers<'a> {
    path: &'a Path,
}

impl Numbers<'_> {
    fn within(&self, key: &str, value: u64, range: RangeInclusive<u32>, unit: &str) -> Result<u32, LoadError> {
        u32::try_from(value).ok().filter(|value| range.contains(value)).ok_or_else(|| {
            let (from, to) = range.into_inner();
            LoadError::new(self.path, format!("`{key}`: {value} is out of range; write {from} to {to} ({unit})"))
        })
    }
}

/// A list of names for a message.
pub(super) fn ticked<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::decide;
    use super::*;
    use crate::access::{ANONYMOUS, Access, Caller, CallerSettings, KeyHash};
    use crate::chat::RawCall;
    use std::fs;

    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    fn tools() -> Tools {
        Tools::load(&crate::tools::Settings { dir: format!("{ROOT}/tools").into() }).expect("the repository's tools")
    }

    fn load(files: &[(&str, &str)]) -> Result<Policies, String> {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        let root = format!("{}", dir.path().display());
        Policies::load(&Settings { dir: dir.path().to_owned() }, &tools(), &["red", "blue"])
            .map_err(|error| error.to_string().replace(&root, "policies"))
    }

    fn refused(text: &str) -> String {
        load(&[("red.toml", text)]).expect_err("a bad policy")
    }

    fn caller(name: &str) -> Caller {
        let one = CallerSettings { name: name.to_owned(), key_sha256: KeyHash::of(name), concurrent_max: None };
        let mut settings = crate::access::Settings::default();
        settings.set_callers(vec![one]).expect("one caller");
        Access::new(&settings).identify(Some(&format!("Bearer {name}"))).expect("its key")
    }

    #[test]
    fn unknown_keys_are_refused_with_the_known_ones() {
        for (text, line, known) in [
            (
                "callers = ['*']\nofer = 'never'",
                2,
                "`callers`, `offer`, `progress`, `grants`, `limits`, `bounds`, `silence`, `sessions`",
            ),
            (
                "callers = ['*']\n[limits]\nwall = 1",
                3,
                "`wall_ms`, `cpu_ms`, `memory_mib`, `output_kib`, `result_kib`, `files`, `file_mib`, `recursion`",
            ),
            ("callers = ['*']\n[[grants]]\ntool = []", 3, "`tools` or `why`"),
        ] {
            let told = refused(text);
            let start = format!("policies/red.toml: TOML parse error at line {line}, column 1");
            assert!(told.starts_with(&start) && told.contains(known) && told.contains("unknown field"), "{told}");
        }
        let told = refused("callers = ['*']\noffer = 'sometimes'");
        assert!(told.ends_with("expected one of `never`, `when-no-tools`, `always`"), "{told}");
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        for (text, expected) in [
            ("callers = []", "`callers` is empty, so the policy is nobody's; name callers or write [\"*\"]"),
            ("callers = ['grey']", "policy `red`: unknown caller `grey`; known: `*`, `red`, `blue`"),
            (
                "callers = ['*']\n[[grants]]\ntools = ['exec']\nwhy = 'a'",
                "policy `red`: unknown tool `exec`; known: `execute_code`",
            ),
            (
                "callers = ['*']\n[[grants]]\ntools = ['execute_code']\nwhy = ' '",
                "policy `red`: `why` is empty; say why `execute_code` is granted",
            ),
            (
                "callers = ['*']\n[[grants]]\ntools = ['execute_code', 'execute_code']\nwhy = 'a'",
                "policy `red`: `execute_code` is granted twice; keep the grant whose `why` is true",
            ),
        ] {
            assert_eq!(refused(text), format!("policies/red.toml: {expected}"));
        }
        let told = refused("callers = ['*']\n[[grants]]\ntools = ['execute_code']");
        assert!(told.ends_with("missing field `why`"), "{told}");
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        for (section, expected) in [
            ("limits.wall_ms = 0", "`limits.wall_ms`: 0 is out of range; write 1 to 600000 (milliseconds)"),
            ("limits.memory_mib = 4096", "`limits.memory_mib`: 4096 is out of range; write 64 to 4095 (MiB)"),
            ("limits.output_kib = 0", "`limits.output_kib`: 0 is out of range; write 1 to 16384 (KiB)"),
            (
                "limits.result_kib = 99999999999",
                "`limits.result_kib`: 99999999999 is out of range; write 1 to 16384 (KiB)",
            ),
            ("bounds.rounds = 0", "`bounds.rounds`: 0 is out of range; write 1 to 1000 (model calls)"),
            (
                "silence.heartbeat_ms = 1",
                "`silence.heartbeat_ms`: 1 is out of range; write 100 to 120000 (milliseconds)",
            ),
        ] {
            assert_eq!(refused(&format!("callers = ['*']\n{section}")), format!("policies/red.toml: {expected}"));
        }
        assert!(refused("callers = ['*']\nlimits.wall_ms = -1").contains("limits.wall_ms = -1"));
    }

    #[test]
    fn two_policies_for_one_caller_are_refused_and_both_are_named() {
        for (one, two, claimed) in [("'*'", "'*'", "*"), ("'red'", "'blue', 'red'", "red")] {
            let one = format!("callers = [{one}]");
            let two = format!("callers = [{two}]");
            let told = load(&[("a.toml", &one), ("b.toml", &two)]).expect_err("a conflict");
            assert_eq!(
                told,
                format!("policies/b.toml: `callers`: policies/a.toml claims `{claimed}` too; take it out of one")
            );
        }
    }

    #[test]
    fn a_caller_without_a_policy_is_refused() {
        assert_eq!(
            load(&[("red.toml", "callers = ['red']"), ("README.md", "")]).expect_err("blue has none"),
            "policies: no policy for the caller `blue`; name it in one, or write callers = [\"*\"] in one"
        );
        let nowhere = Policies::load(&Settings { dir: "no/such/dir".into() }, &tools(), &["red"]);
        assert!(
            nowhere
                .expect_err("nothing there")
                .to_string()
                .ends_with("set `policy.dir` to the folder that holds the policies")
        );
    }

    #[test]
    fn a_policy_that_names_the_caller_beats_the_one_for_everybody() {
        let policies = load(&[
            ("all.toml", "callers = ['*']\noffer = 'always'"),
            ("red.toml", "callers = ['red']\nbounds.completion_tokens = 5"),
        ])
        .expect("good policies");
        let red = policies.of(&caller("red"));
        assert_eq!((red.name.as_str(), red.offer, red.bounds.completion_tokens), ("red", Offer::WhenNoTools, Some(5)));
        assert_eq!(policies.of(&caller("blue")).name, "all");
        assert_eq!(policies.of(&caller("blue")).offer, Offer::Always);
    }

    #[test]
    fn only_a_granted_tool_gets_a_permit() {
        let granting =
            "callers = ['red']\n[[grants]]\ntools = ['execute_code']\nwhy = 'research'\n[limits]\nwall_ms = 7";
        let policies = load(&[("red.toml", granting), ("rest.toml", "callers = ['*']")]).expect("good policies");
        let arguments = r#"{"code": "1"}"#.to_owned();
        let call = RawCall { id: "c".to_owned(), name: "execute_code".to_owned(), arguments };
        let decide = |name: &str| {
            let caller = caller(name);
            decide(policies.of(&caller), &caller, tools().check(&call).expect("a valid call"))
        };
        assert_eq!(
            decide("blue").expect_err("no grant").to_string(),
            "not allowed: policy `rest` grants no `execute_code`; granted: none"
        );
        assert_eq!(
            decide("stranger").expect_err("no grant").to_string(),
            "not allowed: policy `rest` grants no `execute_code`; granted: none"
        );
        let permit = decide("red").expect("granted");
        assert_eq!((permit.caller().name(), permit.checked().id(), permit.limits().wall_ms), ("red", "c", 7));
        assert_eq!(policies.of(&caller("red")).why("execute_code"), Some("research"));
    }

    #[test]
    fn the_default_policy_says_what_a_policy_that_leaves_everything_out_says() {
        let dir = format!("{ROOT}/policies").into();
        let policies = Policies::load(&Settings { dir }, &tools(), &[ANONYMOUS]).expect("good policies");
        let written = policies.by_caller[ANONYMOUS].as_ref();
        let left_out = load(&[("a.toml", "callers = ['*']")]).expect("a good policy");
        let left_out = left_out.by_caller["red"].as_ref();
        assert_eq!(written.offer, left_out.offer);
        assert_eq!(
            (written.limits, written.bounds, written.silence),
            (left_out.limits, left_out.bounds, left_out.silence)
        );
        assert!(written.grants("execute_code"));
    }
}
