//! Against the real guest, as `make guest` builds it. All tests share one sandbox: to load it takes longer than to use it.

use super::guest::Job;
use super::*;
use crate::chat::Status;
use crate::policy::Limits;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| sandbox(|_| {}));

const LIMITS: Limits = Limits { wall_ms: 20_000, memory_bytes: 128 << 20, output_bytes: 4096, result_bytes: 1024 };

fn sandbox(change: impl FnOnce(&mut Settings)) -> Sandbox {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guest = root.join("tools/execute_code/guest/build/python.wasm");
    let mut settings = Settings::new(guest, root.join("target/sandbox-cache"));
    change(&mut settings);
    Sandbox::start(&settings).unwrap()
}

async fn run_in(interpreter: &mut Interpreter, source: &str, limits: Limits) -> Outcome {
    interpreter.run_job(Job { source: source.into(), arguments: None, limits }, |_, _| {}).await
}

async fn run(source: &str) -> Outcome {
    run_in(&mut SANDBOX.interpreter(), source, LIMITS).await
}

#[tokio::test]
async fn look() {
    let mut files: Vec<_> = std::fs::read_dir("/tmp/sb/look").unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files {
        let mut i = SANDBOX.interpreter();
        for part in std::fs::read_to_string(&file).unwrap().split("#----\n") {
            let o = run_in(&mut i, part, Limits { wall_ms: 3000, ..LIMITS }).await;
            println!("==== {} {:?} {:?} lost={}\n{}{}value={:?}\n{}", file.file_name().unwrap().display(), o.ended, o.duration, o.state_lost, o.stdout, o.stderr, o.value, o.error.unwrap_or_default());
        }
    }
    let mut times = vec![];
    for _ in 0..300 {
        let began = Instant::now();
        let mut i = SANDBOX.interpreter();
        let o = run_in(&mut i, "print(1+1)", LIMITS).await;
        times.push((began.elapsed(), o.duration));
        assert_eq!(o.stdout, "2\n");
    }
    times.sort();
    println!("p50 {:?} p99 {:?}", times[150], times[297]);
}
