//! Many programs, as data in `tests/corpus`, through the whole gateway: those that mean harm, uses of the standard
//! library, and `HumanEval`.

#[path = "../corpus/load.rs"]
mod load;

use crate::gateway::{Gateway, Setup, question};
use futures_util::{StreamExt, stream};
use load::{Expected, Hostile, human_eval, hostile, stdlib, witness};
use loopgate::mock;
use serde_json::{Value, json};

/// What programs have that shall end by themselves.
const PATIENT: &str = "limits = { wall_ms = 60000, memory_mib = 128, output_kib = 16 }";

/// What programs have that never end.
const HASTY: &str = "limits = { wall_ms = 300, memory_mib = 128, output_kib = 16 }";

/// Programs at a time, each with a witness after it. The harness's gateways have four interpreters.
const SIDE_BY_SIDE: usize = 4;

async fn gateway(isolation: &str, limits: &str) -> Gateway {
    // The longest programs have a megabyte.
    let backend = mock::Settings { context_length: 10_000_000, ..mock::Settings::default() };
    Setup::default().backend(backend).flag("isolation", isolation).rules(limits).start().await
}

/// What became of a program.
#[derive(Debug)]
struct Ran {
    status: String,
    /// What the model read.
    told: String,
}

/// Has the model run a program, in an interpreter of its own. The client's stream of it must be whole.
async fn run(gateway: &Gateway, code: &str) -> Ran {
    let ask = format!("Use the tool execute_code with {}", json!({ "code": code }));
    let chunks = gateway.ask(&question(&ask, true)).await.chunks();
    let executed = |chunk: &Value| chunk["choices"][0]["delta"]["executed_tools"].as_array().cloned();
    let executed = chunks.iter().find_map(executed).unwrap_or_else(|| panic!("nothing ran: {chunks:?}"));
    let text = |member: &str| executed[0][member].as_str().expect("text").to_owned();
    Ran { status: text("status"), told: text("output") }
}

/// Why it did not end as expected.
fn fault(program: &Hostile, ran: &Ran) -> Option<String> {
    let as_expected = ran.status == program.status
        && ran.told.contains(&program.tells)
        && program.lacks.as_ref().is_none_or(|lacks| !ran.told.contains(lacks));
    let told: String = ran.told.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
    (!as_expected).then(|| format!("{}: {}: …{told}", program.name, ran.status))
}

/// Each program, and after it a witness in a new interpreter. The faults of all.
async fn all_run(gateway: &Gateway, programs: &[&Hostile]) -> Vec<String> {
    let clean = run(gateway, &witness()).await;
    assert!(clean.status == "completed" && clean.told.starts_with("{'sum': 42, "), "{clean:?}");
    let clean = clean.told;
    let one = async |(number, program): (usize, &&Hostile)| {
        let mut faults = Vec::from_iter(fault(program, &run(gateway, &program.code()).await));
        // Not the same request as another one, which would be a re-send.
        let after = run(gateway, &format!("{}# after number {number}", witness())).await;
        if after.told != clean {
            faults.push(format!("after {}: {after:?}", program.name));
        }
        faults
    };
    let faults = stream::iter(programs.iter().enumerate()).map(one).buffer_unordered(SIDE_BY_SIDE);
    let faults: Vec<String> = faults.flat_map(stream::iter).collect().await;
    let lines = gateway.audit().len();
    let refused = programs.iter().filter(|program| program.status == "invalid").count();
    assert!(lines + refused > 2 * programs.len(), "{lines} lines in the audit");
    faults
}

async fn all_hostile_programs_end_as_expected(isolation: &str) {
    let programs = hostile();
    assert!(programs.len() >= 60, "{} programs", programs.len());
    let (endless, ending): (Vec<_>, Vec<_>) = programs.iter().partition(|program| program.status == "timeout");
    let mut faults = all_run(&gateway(isolation, HASTY).await, &endless).await;
    faults.extend(all_run(&gateway(isolation, PATIENT).await, &ending).await);
    assert!(faults.is_empty(), "{} of {} programs:\n{}", faults.len(), programs.len(), faults.join("\n"));
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
    let gateway = gateway("thread", PATIENT).await;
    let clean = run(&gateway, &witness()).await.told;
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
        let ran = run(&gateway, &format!("{plant}\n{}", witness())).await;
        assert_ne!(ran.told, clean, "{plant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_library_works_or_says_why_not() {
    let (gateway, probes) = (gateway("process", PATIENT).await, stdlib());
    let works = probes.iter().filter(|probe| matches!(probe.expected, Expected::Works(_))).count();
    assert!(probes.len() >= 93 && works >= 70, "{works} of {} work", probes.len());
    let mut faults = Vec::new();
    for probe in &probes {
        let ran = run(&gateway, &probe.code).await;
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
    let (gateway, tasks) = (gateway("process", PATIENT).await, human_eval());
    assert_eq!(tasks.len(), 164);
    for task in &tasks {
        let right = run(&gateway, &task.program(&task.canonical_solution)).await;
        assert_eq!((right.status.as_str(), right.told), ("completed", task.sentinel()), "{}", task.id);
        let wrong = run(&gateway, &task.program("    return None\n")).await;
        assert!(wrong.status == "error" && !wrong.told.contains(&task.sentinel()), "{}: {wrong:?}", task.id);
    }
}
