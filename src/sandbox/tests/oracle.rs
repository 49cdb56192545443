//! The component as componentize-py built it, in wasmtime's own component host: what the flattened guest must agree with.

use super::*;
use bindings::{Channel, Ending};
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Engine, OptLevel, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

mod bindings {
    wasmtime::component::bindgen!({
        path: "tools/execute_code/guest/world.wit",
        world: "python",
        exports: { default: async },
    });
}

/// Each of them is one interpreter's runs. What they print must not depend on the time, on chance or on addresses.
const PROGRAMS: [&[&str]; 43] = [
    &["1 + 1"],
    &["print(1 + 1)"],
    &["None"],
    &[""],
    &["# nothing"],
    &["x = 1", "x + 1", "del x", "x"],
    &["def f(n): return n * 2", "import inspect\ninspect.getsource(f)", "f('é')"],
    &["class A:\n    def __init__(self): self.b = 1", "A().b", "A().c"],
    &["print('a', end='')\nprint('b')\n'c'"],
    &["import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.stdout.write('more')\nNone"],
    &["'é𝄞\\x00\\ud800'", "print('é𝄞\\x00')", "print('\\ud800')"],
    &["print('x' * 200_000)\n'y' * 200_000"],
    &["1 / 0", "try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError('v') from e"],
    &["def f(x):\n    return g(x)\ndef g(x):\n    return [][x]\nf(3)"],
    &["raise ExceptionGroup('many', [ValueError(1), TypeError(2)])"],
    &["if True print(1)", "'", "for x in", "\tx", "x = (1,\n2"],
    &["import sys\nsys.exit(3)", "sys.exit()", "raise SystemExit('why')", "raise KeyboardInterrupt"],
    &["assert 1 == 2, 'no'"],
    &["import time\na = time.monotonic()\ntime.sleep(0.02)\n0.02 <= time.monotonic() - a < 10"],
    &["import time\ntime.sleep(0)\ntime.time() > 1.7e9, time.perf_counter() >= 0, time.gmtime().tm_year > 2023"],
    &["import datetime\ndatetime.datetime(2024, 2, 29).isoformat(), datetime.datetime.now().year > 2023"],
    &["import os\nlen(os.urandom(5000)), os.urandom(8) != os.urandom(8)"],
    &["import random, uuid, secrets\n0 <= random.random() < 1, len(str(uuid.uuid4())), len(secrets.token_hex(9))"],
    &["import random\nrandom.seed(7)\nrandom.random(), random.sample(range(100), 5)"],
    &[
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(n / 1000)\n    return n\nawait asyncio.gather(f(3), f(1))",
    ],
    &["import asyncio\nasyncio.run(asyncio.wait_for(asyncio.sleep(9), 0.01))"],
    &["import socket\nsocket.socket()", "socket.socket(type=socket.SOCK_DGRAM)", "socket.getaddrinfo('localhost', 80)"],
    &["import os\nsorted(os.listdir('/'))", "open('/etc/passwd')", "os.getcwd()", "os.stat('no')", "os.mkdir('x')"],
    &[
        "import os, sys\ndict(os.environ), sys.argv, sys.path, sys.stdin.read()",
        "import tempfile\nlen(tempfile.mkdtemp())",
    ],
    &["import os\nos.isatty(0), os.isatty(1)", "os.write(2, b'direct')", "os.read(0, 10)", "os.pipe()"],
    &["import os\nos.getpid() > 0", "os.fork()", "os.kill(1, 9)", "import signal\nsignal.alarm(1)"],
    &["import select\nselect.select([0], [], [], 0.01)", "select.select([], [], [], 0.01)"],
    &["import sqlite3\nsqlite3.connect(':memory:').execute('select 1 + 1, sqrt(16)').fetchone()"],
    &[
        "import hashlib, zlib, json\nhashlib.sha256(b'x').hexdigest(), zlib.crc32(b'x'), json.loads('[1, {\"a\": null}]')",
    ],
    &[
        "import math, decimal, fractions\nmath.gamma(4.5), decimal.Decimal(1) / 7, fractions.Fraction(1, 3) + 1, 0.1 + 0.2",
    ],
    &["2 ** 1000, len(str(3 ** 10000)), pow(3, 10 ** 9, 10 ** 9 + 7)"],
    &["import re\nre.sub(r'(\\w+)@(\\w+)', r'\\2 at \\1', 'me@home you@work')"],
    &[
        "import concurrent.futures as f\nlist(f.ThreadPoolExecutor().map(abs, [-1, 2]))",
        "import queue\nqueue.Queue().get()",
    ],
    &["def f(n): return f(n + 1)\nf(0)", "1"],
    &["import json\njson.loads('[' * 100_000)", "eval('-' * 100_000 + '1')"],
    &["x = []\nwhile True: x.append('a' * 10**6)", "len(x) > 10"],
    &["bytearray(10 ** 10)", "bytearray(200 << 20)", "len(bytearray(50 << 20))"],
    &["import wave, mailbox, http.client, html.parser\nwave.Error.__name__", "import ctypes", "import numpy"],
];

/// More than any of them says, so that nothing is cut.
const ORACLE_LIMITS: Limits =
    Limits { output_bytes: 1 << 20, result_bytes: 1 << 20, files: 400, file_bytes: 8 << 20, ..LIMITS };

#[tokio::test]
async fn the_flattened_guest_agrees_with_the_component() {
    let programs_of_files = files::PROGRAMS.iter().map(|(source, _)| std::slice::from_ref(source));
    for runs in PROGRAMS.into_iter().chain(programs_of_files) {
        let mut expected = ORACLE.start().await;
        let mut interpreter = SANDBOX.interpreter();
        for source in runs {
            let (got, expected) =
                (run_in(&mut interpreter, source, ORACLE_LIMITS).await, expected.run(source, None).await);
            assert_same(source, &got, &expected);
        }
    }
}

#[tokio::test]
async fn the_flattened_guest_takes_arguments_as_the_component_does() {
    let mut expected = ORACLE.start().await;
    let mut interpreter = SANDBOX.interpreter();
    for (source, arguments) in [
        ("arguments", "{}"),
        ("sorted(arguments.items())", r#"{"left": [1, 2.5, null], "é": {"x": true}}"#),
        ("arguments['x']", "{}"),
        ("arguments", ""),
    ] {
        let got = interpreter.run_job("caller", job(source, Some(arguments), ORACLE_LIMITS), |_, _| {}).await;
        assert_same(source, &got, &expected.run(source, Some(arguments)).await);
    }
}

fn assert_same(source: &str, got: &Outcome, expected: &Said) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    // To know the limit of memory by its message is the host's part.
    let ended = if got.ended == Ended::Memory { Ended::Raised } else { got.ended };
    assert_eq!(Some(ended), expected.ended, "{source}: {got:?}\n{}", text(&expected.error));
    assert_eq!(
        (got.stdout.as_str(), got.stderr.as_str()),
        (&*text(&expected.stdout), &*text(&expected.stderr)),
        "{source}"
    );
    assert_eq!(got.value.as_deref().unwrap_or_default(), text(&expected.value), "{source}");
    // The host adds to `MemoryError` what the limit is.
    let error = got.error.as_deref().unwrap_or_default();
    let error = error.split_once("(the memory limit is").map_or(error, |(error, _)| error);
    if ended != Ended::Crashed {
        assert_eq!(error, text(&expected.error), "{source}");
    }
}

static ORACLE: LazyLock<Oracle> = LazyLock::new(Oracle::new);

struct Oracle {
    engine: Engine,
    python: bindings::PythonPre<State>,
}

struct OracleGuest {
    store: Store<State>,
    python: bindings::Python,
}

struct State {
    wasi: WasiCtx,
    /// What the guest sees as its root.
    _root: tempfile::TempDir,
    resources: ResourceTable,
    memory: StoreLimits,
    said: Said,
}

/// What one run came to.
#[derive(Default)]
struct Said {
    ended: Option<Ended>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    value: Vec<u8>,
    error: Vec<u8>,
}

impl Oracle {
    fn new() -> Self {
        let mut config = Config::new();
        // It is compiled for this one test, and not to be fast.
        config.cranelift_opt_level(OptLevel::None).max_wasm_stack(64 << 20).async_stack_size(66 << 20);
        let engine = Engine::new(&config).unwrap();
        let component = Component::from_file(&engine, settings().guest).unwrap();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        bindings::Python::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).unwrap();
        let python = bindings::PythonPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
        Self { engine, python }
    }

    async fn start(&self) -> OracleGuest {
        let root = tempfile::tempdir().unwrap();
        for name in ["tmp", "workspace"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let mut wasi = WasiCtx::builder();
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        wasi.preopened_dir(root.path(), "/", FsPerms::ReadWrite).unwrap();
        let state = State {
            wasi: wasi.build(),
            _root: root,
            resources: ResourceTable::new(),
            memory: StoreLimitsBuilder::new().memory_size(ORACLE_LIMITS.memory_bytes).build(),
            said: Said::default(),
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        let python = self.python.instantiate_async(&mut store).await.unwrap();
        python.call_wake(&mut store).await.unwrap();
        OracleGuest { store, python }
    }
}

impl OracleGuest {
    async fn run(&mut self, source: &str, arguments: Option<&str>) -> Said {
        self.store.data_mut().said = Said::default();
        let ended = match self.python.call_run(&mut self.store, source, arguments, ORACLE_LIMITS.recursion).await {
            Ok(Ending::Completed) => Ended::Completed,
            Ok(Ending::Raised) => Ended::Raised,
            Err(_trap) => Ended::Crashed,
        };
        Said { ended: Some(ended), ..std::mem::take(&mut self.store.data_mut().said) }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl bindings::PythonImports for State {
    fn emit(&mut self, channel: Channel, chunk: String) {
        let said = &mut self.said;
        match channel {
            Channel::Stdout => &mut said.stdout,
            Channel::Stderr => &mut said.stderr,
            Channel::Value => &mut said.value,
            Channel::Error => &mut said.error,
        }
        .extend(chunk.into_bytes());
    }
}
