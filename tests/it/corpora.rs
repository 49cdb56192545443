//! Many programs, as data in `tests/corpus`, through the whole gateway: those that mean harm, uses of the standard
//! library, and `HumanEval`.

#[path = "../corpus/load.rs"]
mod load;

use crate::gateway::{Gateway, Setup, question};
use futures_util::{StreamExt, stream};
use http::Method;
use load::{Expected, Hostile, hostile, human_eval, stdlib, witness};
use loopgate::access::KeyHash;
use loopgate::mock;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use tempfile::TempDir;

/// Two callers, by their keys: programs that end by themselves get time enough, also on a machine that others keep busy, to
/// whom they give way; those that never end get little.
const PATIENT: &str = "lg-patient";
const HASTY: &str = "lg-hasty";

/// Their policies.
const POLICIES: [(&str, &str, u32); 2] = [("patient", PATIENT, 600_000), ("hasty", HASTY, 300)];

/// Programs at a time, each with a witness after it. The harness's gateways have four interpreters.
const SIDE_BY_SIDE: usize = 4;

struct Desk {
    gateway: Gateway,
    /// The policies.
    _folder: TempDir,
}

impl Desk {
    async fn open(isolation: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut callers = String::new();
        for (name, key, wall_ms) in POLICIES {
            let limits = format!("limits = {{ wall_ms = {wall_ms}, memory_mib = 128, recursion = 100000 }}");
            let grant = "[[grants]]\ntools = ['execute_code']\nwhy = 'the tests run it'\n";
            let policy = format!("callers = ['{name}']\n{limits}\n{grant}");
            fs::write(folder.path().join(format!("{name}.toml")), policy).expect("a policy");
            let hash = KeyHash::of(key).hex();
            writeln!(callers, "[[callers]]\nname = '{name}'\nkey_sha256 = '{hash}'").expect("a text takes it");
        }
        // The longest programs have a megabyte.
        let backend = mock::Settings { context_length: 10_000_000, ..mock::Settings::default() };
        let setup = Setup::default().backend(backend).file(&callers);
        let setup = setup.flag("isolation", isolation).flag("policy-dir", folder.path().display());
        Self { gateway: setup.start().await, _folder: folder }
    }

    /// Has the model run a program, in an interpreter of its own. The client's stream of it must be whole.
    async fn run(&self, key: &str, code: &str) -> Ran {
        let ask = question(&format!("Use the tool execute_code with {}", json!({ "code": code })), true).to_string();
        let key = format!("Bearer {key}");
        let headers = [("authorization", key.as_str())];
        let answer = self.gateway.send(Method::POST, "/v1/chat/completions", &headers, ask).await;
        let chunks = answer.chunks();
        let executed = |chunk: &Value| chunk["choices"][0]["delta"]["executed_tools"].as_array().cloned();
        let executed = chunks.iter().find_map(executed).unwrap_or_else(|| panic!("nothing ran: {chunks:?}"));
        let text = |member: &str| executed[0][member].as_str().expect("text").to_owned();
        Ran { status: text("status"), told: text("output") }
    }
}

/// What became of a program.
#[derive(Debug)]
struct Ran {
    status: String,
    /// What the model read.
    told: String,
}

/// Why it did not end as expected.
fn fault(program: &Hostile, ran: &Ran) -> Option<String> {
    let as_expected = ran.status == program.status
        && ran.told.contains(&program.tells)
        && program.lacks.as_ref().is_none_or(|lacks| !ran.told.contains(lacks));
    let told: String = ran.told.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
    (!as_expected).then(|| format!("{}: {}: …{told}", program.name, ran.status))
}

/// Each program, and after it a witness in a new interpreter, which finds what it would have found before.
async fn all_hostile_programs_end_as_expected(isolation: &str) {
    let (desk, programs) = (Desk::open(isolation).await, hostile());
    assert!(programs.len() >= 60, "{} programs", programs.len());
    let clean = desk.run(PATIENT, &witness()).await;
    assert!(clean.status == "completed" && clean.told.starts_with("{'sum': 42, "), "{clean:?}");
    let one = async |(number, program): (usize, &Hostile)| {
        let key = if program.status == "timeout" { HASTY } else { PATIENT };
        let mut faults = Vec::from_iter(fault(program, &desk.run(key, &program.code()).await));
        // Not the same request as another one, which would be a re-send.
        let after = desk.run(PATIENT, &format!("{}# after number {number}", witness())).await;
        if after.told != clean.told {
            faults.push(format!("after {}: {after:?}", program.name));
        }
        faults
    };
    let faults = stream::iter(programs.iter().enumerate()).map(one).buffer_unordered(SIDE_BY_SIDE);
    let faults: Vec<String> = faults.flat_map(stream::iter).collect().await;
    assert!(faults.is_empty(), "{} of {} programs:\n{}", faults.len(), programs.len(), faults.join("\n"));
    // Everything that ran was written down.
    let invalid = programs.iter().filter(|program| program.status == "invalid").count();
    let ran = 1 + 2 * programs.len() - invalid;
    let written = desk.gateway.audit().iter().filter(|line| line["status"] != "invalid").count();
    assert_eq!(written, ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_programs_in_processes_get_nowhere_and_leave_nothing() {
    all_hostile_programs_end_as_expected("process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_programs_on_threads_get_nowhere_and_leave_nothing() {
    all_hostile_programs_end_as_expected("thread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_witness_sees_what_a_program_leaves_behind() {
    let desk = Desk::open("thread").await;
    let clean = desk.run(PATIENT, &witness()).await.told;
    for plant in [
        "planted = 1",
        "__builtins__.planted = 1",
        "import json; json.loads = lambda text: text",
        "import sys; sys.modules['planted'] = sys",
        "import sys; sys.modules['json'] = 1",
        "import sys; sys.meta_path.clear()",
        "import sys; sys.settrace(lambda *_: None)",
        "import sys; sys.setrecursionlimit(500)",
        "import sys; sys.path.append('/')",
        "import os; os.environ['A'] = '1'",
        "import gc; gc.callbacks.append(lambda *_: None)",
        "import gc; gc.get_referents(int.__dict__)[0]['bit_count'] = 1",
        "import atexit; atexit.register(len)",
    ] {
        let ran = desk.run(PATIENT, &format!("{plant}\n{}", witness())).await;
        assert_ne!(ran.told, clean, "{plant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_library_works_or_says_why_not() {
    let (desk, probes) = (Desk::open("process").await, stdlib());
    let works = probes.iter().filter(|probe| matches!(probe.expected, Expected::Works(_))).count();
    assert!(probes.len() >= 93 && works >= 70, "{works} of {} work", probes.len());
    let mut faults = Vec::new();
    for probe in &probes {
        let ran = desk.run(PATIENT, &probe.code).await;
        let as_expected = match &probe.expected {
            Expected::Works(prints) => ran.status == "completed" && ran.told == *prints,
            Expected::Refused(why) => {
                ran.status == "error" && ran.told.lines().last().is_some_and(|last| last.contains(why))
            }
        };
        if !as_expected {
            faults.push(format!("{}: {ran:?}", probe.name));
        }
    }
    assert!(faults.is_empty(), "{} of {} probes:\n{}", faults.len(), probes.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_human_eval_passes_and_a_wrong_solution_does_not() {
    let (desk, tasks) = (Desk::open("process").await, human_eval());
    assert_eq!(tasks.len(), 164);
    for task in &tasks {
        let right = desk.run(PATIENT, &task.program(&task.canonical_solution)).await;
        assert_eq!((right.status.as_str(), right.told), ("completed", task.sentinel()), "{}", task.id);
        let wrong = desk.run(PATIENT, &task.program("    return None\n")).await;
        assert!(wrong.status == "error" && !wrong.told.contains(&task.sentinel()), "{}: {wrong:?}", task.id);
    }
}
