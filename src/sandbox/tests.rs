//! Against the real guest, as `make guest` builds it. All tests share one sandbox: to load it takes longer than to use it.

mod files;
mod hostile;
mod oracle;
mod python;

use super::job::Job;
use super::parked::Room;
use super::*;
use crate::chat::Status;
use crate::policy::Limits;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;
use tokio::sync::mpsc;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::start(&settings()).unwrap());

pub(super) const LIMITS: Limits = Limits {
    wall_ms: 60_000,
    cpu_ms: 60_000,
    memory_bytes: 128 << 20,
    output_bytes: 4096,
    result_bytes: 1024,
    files: 100,
    file_bytes: 1 << 20,
    recursion: 1_000_000_000,
    at_once: 100,
};

/// Runs begin in October 2025.
const SOME_DAY_NS: u64 = 1_760_000_000_000_000_000;

/// For programs that never end.
const SHORT: Limits = Limits { wall_ms: 200, ..LIMITS };

fn settings() -> Settings {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Settings::new(root.join("tools/execute_code/guest/build/python.wasm"), root.join("target/sandbox-cache"))
}

/// For what would disturb the other tests.
pub(super) fn own_sandbox(change: impl FnOnce(&mut Settings)) -> Sandbox {
    // Not two of them shall compile the guest at once.
    LazyLock::force(&SANDBOX);
    let mut settings = settings();
    change(&mut settings);
    Sandbox::start(&settings).unwrap()
}

pub(super) async fn run_in(interpreter: &mut Interpreter, source: &str, limits: Limits) -> Outcome {
    interpreter.run_job("caller", job(source, None, limits), |_, _| {}).await
}

fn job(source: &str, arguments: Option<&str>, limits: Limits) -> Job {
    Job {
        source: source.into(),
        arguments: arguments.map(Into::into),
        limits,
        conditions: Run::new(SOME_DAY_NS).conditions,
    }
}

async fn run(source: &str) -> Outcome {
    run_in(&mut SANDBOX.interpreter(), source, LIMITS).await
}

/// The last line of what the program's author reads.
fn last_line(outcome: &Outcome) -> &str {
    outcome.error.as_deref().unwrap_or_default().lines().last().unwrap_or_default()
}

// === what a program can do ===

#[tokio::test]
async fn the_value_of_the_last_expression_is_the_result() {
    let outcome = run("def factorial(n):\n    return 1 if n == 0 else n * factorial(n - 1)\nfactorial(10)").await;
    assert_eq!((outcome.ended, outcome.value.as_deref()), (Ended::Completed, Some("3628800")));
    assert_eq!(outcome.status(), Status::Completed);
}

#[tokio::test]
async fn printed_lines_are_output_and_none_is_no_result() {
    let outcome = run("import sys\nprint('out é')\nprint('err', file=sys.stderr)").await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out é\n", "err\n"));
    assert_eq!((outcome.value, outcome.error), (None, None));
}

#[tokio::test]
async fn a_program_may_print_and_have_a_result() {
    let outcome = run("print('working', end='')\n6 * 7").await;
    assert_eq!((outcome.stdout.as_str(), outcome.value.as_deref()), ("working", Some("42")));
}

#[tokio::test]
async fn output_is_heard_while_the_program_runs() {
    let mut heard = Vec::new();
    SANDBOX
        .interpreter()
        .run_job("caller", job("print('a')\nprint('b')", None, LIMITS), |stream, chunk| {
            heard.push((stream, chunk.to_vec()));
        })
        .await;
    assert_eq!(heard, [(Stream::Stdout, b"a\n".to_vec()), (Stream::Stdout, b"b\n".to_vec())]);
}

#[tokio::test]
async fn names_stay_from_run_to_run_and_die_with_the_interpreter() {
    let mut interpreter = SANDBOX.interpreter();
    run_in(&mut interpreter, "import math\nx = 4", LIMITS).await;
    assert_eq!(run_in(&mut interpreter, "math.sqrt(x)", LIMITS).await.value.as_deref(), Some("2.0"));
    assert_eq!(last_line(&run("x").await), "NameError: name 'x' is not defined");
}

#[tokio::test]
async fn a_tools_program_finds_its_arguments_and_leaves_no_names() {
    let mut interpreter = SANDBOX.interpreter();
    let job = job("y = arguments['left']\narguments", Some(r#"{"left": [1, 2], "right": "é"}"#), LIMITS);
    let outcome = interpreter.run_job("caller", job, |_, _| {}).await;
    assert_eq!(outcome.value.as_deref(), Some("{'left': [1, 2], 'right': 'é'}"));
    for name in ["y", "arguments"] {
        assert_eq!(run_in(&mut interpreter, name, LIMITS).await.ended, Ended::Raised, "{name}");
    }
}

#[tokio::test]
async fn await_works_at_top_level_and_asyncio_run_beside_it() {
    let source = "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.001)\n    return n\n";
    let outcome = run(&format!("{source}await asyncio.gather(f(1), f(2))")).await;
    assert_eq!(outcome.value.as_deref(), Some("[1, 2]"));
    let outcome = run(&format!("{source}asyncio.run(f(3))")).await;
    assert_eq!(outcome.value.as_deref(), Some("3"));
}

#[tokio::test]
async fn threads_run_and_a_wait_that_cannot_end_says_so() {
    let source = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as pool:\n    print(list(pool.map(abs, [-1, 2])))\nimport queue\nqueue.Queue().get()";
    let outcome = run(source).await;
    assert_eq!(outcome.stdout, "[1, 2]\n");
    assert!(last_line(&outcome).starts_with("RuntimeError: deadlock: threads run one after another"), "{outcome:?}");
}

#[tokio::test]
async fn the_standard_library_is_there() {
    // The last ones are not imported in the image: they come from the library in memory.
    let outcome = run("import sqlite3, decimal, hashlib, zlib, csv, http.client, mailbox, wave\n\
         sqlite3.connect(':memory:').execute('select 1 + 1').fetchone()")
    .await;
    assert_eq!(outcome.value.as_deref(), Some("(2,)"), "{outcome:?}");
}

#[tokio::test]
async fn two_interpreters_draw_different_random_numbers() {
    let draw = "import random, uuid, os\nrandom.random(), random.randrange(2**64), os.urandom(8), uuid.uuid4()";
    assert_ne!(run(draw).await.value, run(draw).await.value);
    assert_ne!(run("import random\nrandom.random()").await.value, run("import random\nrandom.random()").await.value);
}

// === how a program fails ===

#[tokio::test]
async fn a_traceback_shows_the_programs_own_lines_only() {
    let source = "import json\ndef read(text):\n    return json.loads(text)\nread('{bad')";
    let expected = "Traceback (most recent call last):
  File \"<call 1>\", line 4, in <module>
    read('{bad')
    ~~~~^^^^^^^^
  File \"<call 1>\", line 3, in read
    return json.loads(text)
           ~~~~~~~~~~^^^^^^
json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
";
    let outcome = run(source).await;
    assert_eq!((outcome.ended, outcome.error.as_deref()), (Ended::Raised, Some(expected)));
    assert_eq!(outcome.status(), Status::Error);
}

#[tokio::test]
async fn a_traceback_shows_lines_of_earlier_runs() {
    let mut interpreter = SANDBOX.interpreter();
    run_in(&mut interpreter, "def half(x):\n    return x / 0", LIMITS).await;
    let error = run_in(&mut interpreter, "half(1)", LIMITS).await.error.unwrap();
    assert!(error.contains("File \"<call 1>\", line 2, in half\n    return x / 0\n           ~~^~~\n"), "{error}");
}

#[tokio::test]
async fn a_syntax_error_points_at_its_place() {
    let expected = "  File \"<call 1>\", line 1\n    print('a'\n         ^\nSyntaxError: '(' was never closed\n";
    assert_eq!(run("print('a'").await.error.as_deref(), Some(expected));
}

#[tokio::test]
async fn input_has_nobody_to_ask() {
    let outcome = run("input('name? ')").await;
    assert_eq!(outcome.stdout, "name? ");
    assert!(last_line(&outcome).starts_with("EOFError: input() has nobody to ask"), "{outcome:?}");
}

#[tokio::test]
async fn the_host_cannot_be_seen() {
    let outcome = run("import os, sys\ndict(os.environ), sys.argv, sys.path, sys.stdin.read()").await;
    assert_eq!(outcome.value.as_deref(), Some("({}, ['main.py'], [''], '')"));
}

#[tokio::test]
async fn exit_is_judged_by_its_code() {
    for (source, ended, error) in [
        ("import sys\nsys.exit()", Ended::Completed, None),
        ("exit(0)", Ended::Completed, None),
        ("quit(3)", Ended::Raised, Some("SystemExit: 3\n")),
        ("raise SystemExit('no data')", Ended::Raised, Some("SystemExit: no data\n")),
    ] {
        let outcome = run(source).await;
        assert_eq!((outcome.ended, outcome.error.as_deref()), (ended, error), "{source}");
    }
}

#[tokio::test]
async fn an_exception_that_cannot_be_shown_is_still_reported() {
    let source = "class Odd(BaseException):\n    __str__ = __repr__ = __class__ = None\nraise Odd";
    let outcome = run(source).await;
    assert_eq!(outcome.ended, Ended::Raised);
    assert!(outcome.error.unwrap().contains("Odd"));
}

// === what is stopped ===

#[tokio::test]
async fn a_program_that_never_ends_is_stopped_with_its_output_kept() {
    let (busy, asleep) = (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import time\ntime.sleep(10**6)",
    );
    for endless in [busy, asleep, "sum(range(10**12))", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"] {
        let outcome = run_in(&mut SANDBOX.interpreter(), &format!("print('begun')\n{endless}"), SHORT).await;
        assert_eq!((outcome.ended, outcome.stdout.as_str()), (Ended::Timeout, "begun\n"), "{endless}");
        assert_eq!(outcome.status(), Status::Timeout);
        assert!(outcome.error.unwrap().starts_with("execution timed out after 200 ms"));
        assert!(outcome.duration < Duration::from_secs(1), "{endless}: {:?}", outcome.duration);
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_is_as_if_it_had_not_been() {
    let mut interpreter = SANDBOX.interpreter();
    // Also the first one, before which there is nothing.
    for broken in ["x = 7\nwhile True: pass", "import os\nos._exit(0)"] {
        run_in(&mut interpreter, broken, SHORT).await;
    }
    assert_eq!(last_line(&run_in(&mut interpreter, "x", LIMITS).await), "NameError: name 'x' is not defined");
    run_in(&mut interpreter, "x = [1]\ndef f(): return x", LIMITS).await;
    for broken in [
        "x.append(2)\nwhile True: pass",
        "x.append(3)\nimport os\nos._exit(0)",
        "del x\nx = None\nfor i in range(500_000): x = (x,)\ndel x",
    ] {
        let outcome = run_in(&mut interpreter, broken, Limits { wall_ms: 2000, ..LIMITS }).await;
        assert!(outcome.ended != Ended::Completed, "{outcome:?}");
        let next = run_in(&mut interpreter, "f()", LIMITS).await;
        assert_eq!((next.value.as_deref(), next.state_lost), (Some("[1]"), false), "{broken}");
    }
}

#[tokio::test]
async fn cpu_time_has_a_limit_of_its_own() {
    let outcome = run_in(&mut SANDBOX.interpreter(), "while True: pass", Limits { cpu_ms: 100, ..LIMITS }).await;
    assert_eq!((outcome.ended, outcome.status()), (Ended::Timeout, Status::Timeout));
    assert_eq!(outcome.error.as_deref(), Some("execution used up its 100 ms of CPU time"));
    // To sleep is no work.
    let limits = Limits { cpu_ms: 200, ..LIMITS };
    let asleep = run_in(&mut SANDBOX.interpreter(), "import time\ntime.sleep(0.3)", limits).await;
    assert_eq!(asleep.ended, Ended::Completed);
}

#[tokio::test]
async fn calls_go_as_deep_as_the_limit_says() {
    let to =
        |depth: usize| format!("import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return n and f(n - 1)\nf({depth})");
    let limits = Limits { recursion: 3000, ..LIMITS };
    assert_eq!(run_in(&mut SANDBOX.interpreter(), &to(2900), limits).await.ended, Ended::Completed);
    let outcome = run_in(&mut SANDBOX.interpreter(), &to(3000), limits).await;
    assert!(last_line(&outcome).starts_with("RecursionError"), "{outcome:?}");
}

#[tokio::test]
async fn the_same_conditions_make_the_same_outcome() {
    let source = "import random, time, uuid, os, asyncio, datetime\nawait asyncio.sleep(0.01)\n\
        print(random.random(), uuid.uuid4(), os.urandom(4), time.time(), time.perf_counter(), datetime.datetime.now())";
    let first = job(source, None, LIMITS);
    let outcome = SANDBOX.interpreter().run_job("caller", first.clone(), |_, _| {}).await;
    let mut again = first.clone();
    (again.conditions.readings, again.conditions.again) = (outcome.readings.clone(), true);
    let second = SANDBOX.interpreter().run_job("caller", again, |_, _| {}).await;
    assert_eq!((&second.stdout, &second.error), (&outcome.stdout, &outcome.error));
    assert_ne!(SANDBOX.interpreter().run_job("caller", first, |_, _| {}).await.stdout, outcome.stdout);
}

#[tokio::test]
async fn too_much_memory_is_a_memory_error_that_names_the_limit() {
    let mut interpreter = SANDBOX.interpreter();
    let outcome = run_in(&mut interpreter, "x = []\nwhile True: x.append('a' * 10**6)", LIMITS).await;
    assert_eq!(outcome.ended, Ended::Memory);
    let error = outcome.error.unwrap();
    assert!(
        error.contains("x.append('a' * 10**6)") && error.contains("MemoryError\n(the memory limit is 128 MiB"),
        "{error}"
    );
    let next = run_in(&mut interpreter, "len(x) > 10", LIMITS).await;
    assert_eq!((next.value.as_deref(), next.state_lost), (Some("True"), false));
}

#[tokio::test]
async fn a_program_has_no_error_by_saying_so_and_no_memory_error_by_naming_it() {
    let outcome = run("import wit_world\nwit_world.emit(wit_world.Channel.ERROR, 'none' * 10_000)\n1").await;
    assert_eq!((outcome.ended, outcome.error, outcome.omitted_bytes), (Ended::Completed, None, 0));
    let outcome = run("raise Exception('x\\nMemoryError')").await;
    assert_eq!((outcome.ended, last_line(&outcome)), (Ended::Raised, "MemoryError"));
}

#[tokio::test]
async fn memory_that_breaks_the_interpreter_is_named_too() {
    let outcome = run_in(
        &mut SANDBOX.interpreter(),
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)",
        // Unoptimised, on a busy machine, it takes its time to fill it.
        Limits { wall_ms: 300_000, cpu_ms: 300_000, ..LIMITS },
    )
    .await;
    assert_eq!((outcome.ended, outcome.status()), (Ended::Memory, Status::Error));
    assert!(outcome.error.unwrap().starts_with("memory limit of 128 MiB exceeded"));
}

#[tokio::test]
async fn recursion_of_every_kind_is_contained() {
    let unlimited = "import sys, json, copy, re, ast\nsys.setrecursionlimit(10**9)\n";
    let nested = "x = []\nfor i in range(50_000): x = [x]\n";
    for (source, expected) in [
        (format!("{unlimited}json.loads('[' * 200_000)"), "RecursionError"),
        (format!("{unlimited}class A:\n    def __repr__(self): return repr(self)\nrepr(A())"), "RecursionError"),
        (
            format!("{unlimited}class A:\n    def __getattr__(self, n): return getattr(self, n)\nA().x"),
            "RecursionError",
        ),
        (format!("{unlimited}{nested}repr(x)"), "RecursionError"),
        (format!("{nested}import copy\ncopy.deepcopy(x)"), "RecursionError"),
        ("def f(n): return f(n + 1)\nf(0)".into(), "RecursionError"),
        ("import json\njson.loads('[' * 200_000)".into(), "RecursionError"),
        ("import re\nre.compile('(' * 5000 + ')' * 5000)".into(), "RecursionError"),
        ("import ast\nast.literal_eval('[' * 5000 + ']' * 5000)".into(), "MemoryError"),
        ("eval('-' * 100_000 + '1')".into(), "MemoryError"),
    ] {
        let outcome = run(&source).await;
        assert!(last_line(&outcome).starts_with(expected), "{source}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_recursion_that_overflows_the_stack_takes_only_its_interpreter() {
    let mut interpreter = SANDBOX.interpreter();
    // Freeing it goes one level deeper for each tuple.
    let outcome = run_in(&mut interpreter, "x = None\nfor i in range(500_000): x = (x,)\ndel x", LIMITS).await;
    assert_eq!(outcome.ended, Ended::Crashed, "{outcome:?}");
    assert!(outcome.error.unwrap().starts_with("the recursion was too deep for the stack"));
    assert_eq!(run_in(&mut interpreter, "1 + 1", LIMITS).await.value.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_program_that_ends_its_process_takes_only_its_interpreter() {
    let outcome = run("import os\nos._exit(0)").await;
    assert_eq!(outcome.ended, Ended::Raised);
    assert!(outcome.error.unwrap().starts_with("the program ended its own process"));
}

#[tokio::test]
async fn output_and_result_are_cut_in_the_middle() {
    let outcome = run("import sys\nprint('a' * 10**6)\nprint('é' * 10**5, file=sys.stderr)\n'b' * 5000").await;
    let (stdout, value) = (outcome.stdout, outcome.value.unwrap());
    assert!(
        stdout.starts_with("aaa") && stdout.ends_with("aaa\n") && stdout.contains("…[995905 bytes omitted]…"),
        "{stdout}"
    );
    assert!(
        value.starts_with("'bbb") && value.ends_with("bbb'") && value.contains("…[3978 bytes omitted]…"),
        "{value}"
    );
    assert!(outcome.stderr.contains("éé…[") && !outcome.stderr.contains('\u{fffd}'));
    assert!(outcome.omitted_bytes > 995_905 + 3978);
}

#[tokio::test]
async fn a_flood_of_what_is_no_text_is_cut_as_any_other_and_costs_no_interpreter() {
    let mut interpreter = SANDBOX.interpreter();
    let source = "import sys\nkept = 7\nfor stream in sys.stdout, sys.stderr: stream.buffer.write(b'\\xff' * 65536)\n\
                  raise ValueError('é' * 65536)";
    let limits = Limits { output_bytes: 64 << 10, ..LIMITS };
    let outcome = run_in(&mut interpreter, source, limits).await;
    assert_eq!(outcome.ended, Ended::Raised, "{outcome:?}");
    // Python has made a character of three bytes of each.
    for text in [outcome.stdout, outcome.stderr] {
        assert!((21_000..22_000).contains(&text.matches('\u{fffd}').count()), "{text}");
    }
    assert_eq!(run_in(&mut interpreter, "kept", limits).await.value.as_deref(), Some("7"));
}

// === places ===

/// Waits until as many places are free again as there were. The test's own time limit is the bound.
pub(super) async fn until_free(sandbox: &Sandbox, places: usize) {
    while sandbox.free() < places {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_dropped_run_stops_and_frees_its_place() {
    let sandbox = own_sandbox(|settings| settings.interpreters_max = 1);
    for endless in ["while True: pass", "import time\ntime.sleep(10**6)"] {
        let mut interpreter = sandbox.interpreter();
        let (say, mut said) = mpsc::unbounded_channel();
        let job = job(&format!("print('begun')\n{endless}"), None, LIMITS);
        tokio::select! {
            outcome = interpreter.run_job("caller", job, |_, _| say.send(()).unwrap()) => panic!("{outcome:?}"),
            _ = said.recv() => {}
        }
        let dropped = Instant::now();
        until_free(&sandbox, 1).await;
        assert!(dropped.elapsed() < Duration::from_secs(1), "{endless}: {:?}", dropped.elapsed());
        assert!(run_in(&mut interpreter, "1", LIMITS).await.state_lost);
    }
}

#[tokio::test]
async fn a_run_that_nobody_asks_after_ends_in_its_time_all_the_same() {
    // More than the worker's socket holds.
    let limits = Limits { wall_ms: 3000, output_bytes: 8 << 20, ..LIMITS };
    let mut interpreter = SANDBOX.interpreter();
    let (say, mut said) = mpsc::unbounded_channel();
    let job = job("print('begun', flush=True)\nimport time\ntime.sleep(0.1)\nprint('x' * (4 << 20))\n7", None, limits);
    let run = interpreter.run_job("caller", job, |_, _| say.send(()).unwrap());
    tokio::pin!(run);
    tokio::select! {
        biased;
        outcome = &mut run => panic!("{outcome:?}"),
        _ = said.recv() => {}
    }
    run_in(&mut SANDBOX.interpreter(), "import time\ntime.sleep(4)", LIMITS).await;
    let outcome = run.await;
    assert_eq!((outcome.ended, outcome.value.as_deref()), (Ended::Completed, Some("7")));
}

#[tokio::test]
async fn a_dropped_interpreter_frees_its_place() {
    let sandbox = own_sandbox(|settings| settings.interpreters_max = 1);
    let mut interpreter = sandbox.interpreter();
    run_in(&mut interpreter, "1", LIMITS).await;
    assert_eq!(sandbox.free(), 0);
    drop(interpreter);
    until_free(&sandbox, 1).await;
}

#[tokio::test]
async fn a_run_waits_for_a_place_but_not_for_ever_and_not_in_a_crowd() {
    let sandbox =
        own_sandbox(|settings| (settings.interpreters_max, settings.waiting_max, settings.wait_ms) = (1, 1, 50));
    let mut first = sandbox.interpreter();
    run_in(&mut first, "1", LIMITS).await;
    let outcome = run_in(&mut sandbox.interpreter(), "2", LIMITS).await;
    assert_eq!((outcome.ended, outcome.status()), (Ended::Busy, Status::Error));

    let (mut second, mut third) = (sandbox.interpreter(), sandbox.interpreter());
    let waiting = run_in(&mut second, "2", LIMITS);
    let crowded = async {
        let outcome = run_in(&mut third, "3", LIMITS).await;
        drop(first);
        outcome
    };
    let (waited, crowded) = tokio::join!(biased; waiting, crowded);
    assert_eq!((waited.value.as_deref(), crowded.ended), (Some("2"), Ended::Busy));
}

#[tokio::test]
async fn who_waits_for_its_own_places_takes_none_from_others_in_the_queue() {
    let sandbox = own_sandbox(|settings| (settings.interpreters_max, settings.waiting_max) = (2, 1));
    let narrow = Limits { at_once: 1, ..LIMITS };
    let (mut small, mut alice) = (sandbox.interpreter(), sandbox.interpreter());
    run_in(&mut small, "1", narrow).await;
    let as_alice = async |interpreter: &mut Interpreter, source: &str| {
        interpreter.run_job("alice", job(source, None, LIMITS), |_, _| {}).await
    };
    as_alice(&mut alice, "2").await;
    let (mut again, mut crowd, mut next) = (sandbox.interpreter(), sandbox.interpreter(), sandbox.interpreter());
    let (waited, crowded, others, ()) = tokio::join!(
        biased;
        run_in(&mut again, "3", narrow),
        run_in(&mut crowd, "4", narrow),
        as_alice(&mut next, "5"),
        // All of them wait by now who are going to.
        async { drop((small, alice)) },
    );
    assert_eq!(crowded.ended, Ended::Busy, "so many of its own and no more");
    assert_eq!((waited.value.as_deref(), others.value.as_deref()), (Some("3"), Some("5")));
}

#[tokio::test]
async fn a_full_house_keeps_time_limits() {
    let sandbox = own_sandbox(|settings| settings.ready = 1);
    let mut interpreters: Vec<_> = (0..4).map(|_| sandbox.interpreter()).collect();
    let runs = interpreters.iter_mut().map(|interpreter| run_in(interpreter, "while True: pass", SHORT));
    for outcome in futures_util::future::join_all(runs).await {
        assert!(outcome.duration < Duration::from_secs(1), "{:?}", outcome.duration);
    }
}

#[tokio::test]
async fn a_sandbox_may_be_dropped_in_async_code_with_a_run_in_flight() {
    let sandbox = own_sandbox(|_| {});
    let mut interpreter = sandbox.interpreter();
    let run = run_in(&mut interpreter, "while True: pass", SHORT);
    drop(sandbox);
    assert_eq!(run.await.ended, Ended::Timeout);
}

#[test]
fn a_worker_that_cannot_start_is_refused_with_the_way_out() {
    // Not two of them shall compile the guest at once.
    LazyLock::force(&SANDBOX);
    for (program, why) in [("/bin/false", "it ended"), ("/no/such/program", "No such file")] {
        let settings = Settings { isolation: Isolation::Process, program: program.into(), ..settings() };
        let refused = Sandbox::start(&settings).err().unwrap().to_string();
        assert!(refused.contains(why) && refused.contains("sandbox.isolation = \"thread\""), "{refused}");
    }
}

// === sessions ===

const SESSIONS: policy::Sessions =
    policy::Sessions { enabled: true, keep: Duration::from_mins(1), count: 4, bytes: 64 << 20 };

pub(super) fn session(sandbox: &Sandbox, name: &str) -> Interpreter {
    session_under(sandbox, name, SESSIONS)
}

fn session_under(sandbox: &Sandbox, name: &str, rules: policy::Sessions) -> Interpreter {
    let access = crate::access::Access::new(&crate::access::Settings::default());
    let key = SessionKey::new(access.named(crate::access::ANONYMOUS).unwrap(), name).unwrap();
    sandbox.session(key, rules, Moment::default())
}

/// A turn of one program in the session `s`: the value that it comes to, and whether it was told of a loss.
async fn turn(sandbox: &Sandbox, source: &str) -> (Option<String>, bool) {
    let outcome = run_in(&mut session(sandbox, "s"), source, LIMITS).await;
    (outcome.value, outcome.state_lost)
}

#[tokio::test]
async fn a_session_that_falls_back_within_a_turn_says_so_once_to_the_next_one() {
    let sandbox = own_sandbox(|_| {});
    turn(&sandbox, "n = 1").await;
    let mut own = session(&sandbox, "s");
    // So much that it cannot be undone what the next one does.
    run_in(&mut own, "n = 2\nlarge = b'x' * (70 << 20)", LIMITS).await;
    assert_eq!(run_in(&mut own, "import os\nos._exit(1)", LIMITS).await.ended, Ended::Raised);
    drop(own);
    assert_eq!(turn(&sandbox, "n").await, (Some("1".into()), true));
    assert_eq!(turn(&sandbox, "n").await, (Some("1".into()), false));
    // Who is told within the turn need not be told after it.
    let mut own = session(&sandbox, "s");
    run_in(&mut own, "n = 2\nlarge = b'x' * (70 << 20)", LIMITS).await;
    run_in(&mut own, "import os\nos._exit(1)", LIMITS).await;
    assert!(run_in(&mut own, "n", LIMITS).await.state_lost);
    drop(own);
    assert_eq!(turn(&sandbox, "n").await, (Some("1".into()), false));
}

#[tokio::test]
async fn a_session_that_cannot_be_parked_falls_back_and_says_so() {
    let sandbox = own_sandbox(|_| {});
    turn(&sandbox, "n = 1").await;
    let mut own = session(&sandbox, "s");
    run_in(&mut own, "n = 2", LIMITS).await;
    own.held.as_mut().unwrap().worker.end();
    drop(own);
    assert_eq!(turn(&sandbox, "n").await, (Some("1".into()), true));
    assert_eq!(turn(&sandbox, "n").await, (Some("1".into()), false));
    // Nothing is lost where nothing was left.
    let mut own = session(&sandbox, "s");
    run_in(&mut own, "n = 2\nwhile True: pass", SHORT).await;
    own.held.as_mut().unwrap().worker.end();
    drop(own);
    assert_eq!(turn(&sandbox, "n").await, (Some("1".into()), false));
}

#[tokio::test]
async fn a_session_that_is_larger_than_it_may_be_is_not_kept_and_says_so() {
    let sandbox = own_sandbox(|_| {});
    let tight = policy::Sessions { bytes: 1000, ..SESSIONS };
    for lost in [false, true] {
        let outcome = run_in(&mut session_under(&sandbox, "s", tight), "n = 1", LIMITS).await;
        assert_eq!((outcome.ended, outcome.state_lost), (Ended::Completed, lost));
        until_free(&sandbox, 64).await;
    }
}

#[tokio::test]
async fn a_loss_is_told_to_a_program_that_runs_not_to_one_that_finds_no_place() {
    let sandbox = own_sandbox(|settings| (settings.interpreters_max, settings.wait_ms) = (1, 50));
    let brief = policy::Sessions { keep: Duration::from_millis(1), ..SESSIONS };
    run_in(&mut session_under(&sandbox, "s", brief), "n = 1", LIMITS).await;
    until_free(&sandbox, 1).await;
    let mut other = sandbox.interpreter();
    run_in(&mut other, "1", LIMITS).await;
    // By now it has ended: a look at a list takes longer than it was to be kept.
    let access = crate::access::Access::new(&crate::access::Settings::default());
    while !sandbox.sessions(access.named(crate::access::ANONYMOUS).unwrap()).is_empty() {}
    let busy = run_in(&mut session(&sandbox, "s"), "n", LIMITS).await;
    assert_eq!((busy.ended, busy.state_lost), (Ended::Busy, false));
    drop(other);
    until_free(&sandbox, 1).await;
    let told = run_in(&mut session(&sandbox, "s"), "n = 2", LIMITS).await;
    assert_eq!((told.ended, told.state_lost), (Ended::Completed, true));
    until_free(&sandbox, 1).await;
    assert_eq!(turn(&sandbox, "n").await, (Some("2".into()), false));
}

#[tokio::test]
async fn an_interpreter_comes_back_into_as_much_memory_as_it_has_and_into_no_less() {
    let ready = &SANDBOX.shared.ready;
    let parked = async |source: &str| {
        let (worker, _) = ready.take().await.unwrap().run(&job(source, None, LIMITS), &mut |_, _| {}).await;
        let state = worker.unwrap().park(PARKED_BYTES_MAX).await.unwrap();
        let has = State::unpack(&state, Room::of(&LIMITS).bytes).unwrap().changes.memory_bytes;
        (state, has)
    };
    let comes_back = async |state: &[u8], memory_bytes| {
        let room = Room { memory_bytes, ..Room::of(&LIMITS) };
        ready.take().await.unwrap().restore(state.to_vec(), room).await.map(drop).map_err(|error| error.to_string())
    };
    let (large, has) = parked("x = bytes(30 << 20)").await;
    comes_back(&large, has).await.unwrap();
    let why = comes_back(&large, has - 1).await.unwrap_err();
    assert!(why.contains(&format!("its memory has {has} bytes, where {} are the most", has - 1)), "{why}");
    // One that says so of itself, as a worker can that was taken over.
    let mut lies = State::unpack(&large, Room::of(&LIMITS).bytes).unwrap();
    lies.changes.memory_bytes = 4 << 30;
    comes_back(&lies.pack(), LIMITS.memory_bytes).await.unwrap_err();
    // As it is in the image, it is never too large.
    let (small, image) = parked("1").await;
    assert!(image < has);
    comes_back(&small, 0).await.unwrap();
}

#[tokio::test]
async fn a_session_that_fits_its_limits_no_more_begins_anew_and_says_so() {
    let sandbox = own_sandbox(|_| {});
    turn(&sandbox, "n = bytes(60 << 20)").await;
    let less = Limits { memory_bytes: 64 << 20, ..LIMITS };
    assert_eq!(run_in(&mut session(&sandbox, "s"), "n", less).await.ended, Ended::Unavailable);
    let outcome = run_in(&mut session(&sandbox, "s"), "'n' in globals()", less).await;
    assert_eq!((outcome.value.as_deref(), outcome.state_lost), (Some("False"), true));
}

#[tokio::test]
async fn a_session_is_there_again_with_all_its_names_in_another_worker() {
    let sandbox = own_sandbox(|_| {});
    let source = "import random\nrandom.seed(7)\nclass A:\n    def f(self): return self.x\na = A()\na.x = {i: str(i) for i in range(1000)}";
    assert_eq!(run_in(&mut session(&sandbox, "s"), source, LIMITS).await.ended, Ended::Completed);
    for turn in 0..5 {
        // Also one in between that fails, and one that breaks.
        for broken in ["1 / 0", "a.x.clear()\nimport os\nos._exit(1)"] {
            run_in(&mut session(&sandbox, "s"), broken, LIMITS).await;
        }
        let mut own = session(&sandbox, "s");
        let outcome = run_in(&mut own, &format!("a.x[{turn}] = 'é'\nlen(a.f()), a.f()[0], a.f()[999]"), LIMITS).await;
        assert_eq!((outcome.value.as_deref(), outcome.state_lost), (Some("(1000, 'é', '999')"), false), "{outcome:?}");
    }
    let mut other = session(&sandbox, "other");
    assert_eq!(last_line(&run_in(&mut other, "a", LIMITS).await), "NameError: name 'a' is not defined");
}

#[tokio::test]
async fn a_long_run_gives_way_and_the_next_one_moves() {
    let sandbox = own_sandbox(|_| {});
    let mut interpreter = sandbox.interpreter();
    let long = "import time\nend = time.monotonic() + 0.2\nwhile time.monotonic() < end: pass";
    run_in(&mut interpreter, long, LIMITS).await;
    assert_eq!(run_in(&mut interpreter, "end > 0", LIMITS).await.value.as_deref(), Some("True"));
}

#[tokio::test]
async fn a_caller_has_no_more_interpreters_at_once_than_its_policy_says() {
    let sandbox = own_sandbox(|settings| (settings.waiting_max, settings.wait_ms) = (10, 50));
    let limits = Limits { at_once: 1, ..LIMITS };
    let mut first = sandbox.interpreter();
    run_in(&mut first, "1", limits).await;
    assert_eq!(run_in(&mut sandbox.interpreter(), "2", limits).await.ended, Ended::Busy);
    let others = sandbox.interpreter().run_job("other", job("3", None, limits), |_, _| {}).await;
    assert_eq!(others.value.as_deref(), Some("3"));
    drop(first);
    until_free(&sandbox, 64).await;
    assert_eq!(run_in(&mut sandbox.interpreter(), "2", limits).await.value.as_deref(), Some("2"));
}
