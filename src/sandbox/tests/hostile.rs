//! Guests that nobody would build: each calls its host in one way that it should not, and is stopped for it.

use super::*;
use crate::sandbox::wasi::Lasting;
use crate::sandbox::{engine, guest::Image, memory::Memories, worker::Line};
use wasmtime::Module;

/// A guest whose `run` does this. It may call `f`, which is the import, and `$give`, after which memory that it hands out
/// lies at that address.
fn guest(import: &str, ty: &str, run: &str) -> String {
    format!(
        r#"(module
            (import {import} (func $f {ty}))
            (memory (export "memory") 1 2)
            (memory (export "stop") 1 1)
            (global $at (mut i32) (i32.const 1024))
            (func $give (param i32) (global.set $at (local.get 0)))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (global.get $at))
            (func (export "wake"))
            (func (export "cabi_post_wake"))
            (func (export "run") (param i32 i32 i32 i32 i32 i32) (result i32) {run})
            (func (export "cabi_post_run") (param i32)))"#
    )
}

fn outcome_of(guest: &str) -> Outcome {
    let guest = wat::parse_str(guest).unwrap();
    let image = Image::new(Memories::blank(), Lasting::default(), |engine| Module::new(engine, guest)).unwrap();
    // Its stack is larger than a test's.
    let run = move || image.start(&Arc::new(Line::nowhere()), None).unwrap().run(&job("x", None, SHORT)).1;
    std::thread::Builder::new().stack_size(engine::STACK_BYTES).spawn(run).unwrap().join().unwrap()
}

const EMIT: (&str, &str) = (r#""$root" "emit""#, "(param i32 i32 i32)");
const POLL: (&str, &str) = (r#""wasi:io/poll@0.2.0" "poll""#, "(param i32 i32 i32)");
const BLOCK: (&str, &str) = (r#""wasi:io/poll@0.2.0" "[method]pollable.block""#, "(param i32)");
const DROP: (&str, &str) = (r#""wasi:io/poll@0.2.0" "[resource-drop]pollable""#, "(param i32)");
const TIMER: (&str, &str) = (r#""wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration""#, "(param i64) (result i32)");
const RANDOM: (&str, &str) = (r#""wasi:random/random@0.2.0" "get-random-bytes""#, "(param i64 i32)");
const NOW: (&str, &str) = (r#""wasi:clocks/wall-clock@0.2.0" "now""#, "(param i32)");
const STDIN: (&str, &str) = (r#""wasi:cli/stdin@0.2.0" "get-stdin""#, "(result i32)");
const SYNC: (&str, &str) = (r#""wasi:filesystem/types@0.2.0" "[method]descriptor.sync""#, "(param i32 i32)");
const ROOTS: (&str, &str) = (r#""wasi:filesystem/preopens@0.2.0" "get-directories""#, "(param i32)");
const READ: (&str, &str) = (r#""wasi:io/streams@0.2.0" "[method]input-stream.read""#, "(param i32 i64 i32)");
const UNKNOWN: (&str, &str) =
    (r#""wasi:filesystem/types@0.2.0" "[method]descriptor.is-same-object""#, "(param i32 i32)");

#[tokio::test]
async fn a_guest_that_misuses_its_host_is_stopped() {
    for ((import, ty), run, expected) in [
        (EMIT, "(call $f (i32.const 0) (i32.const 65000) (i32.const 1000))", "1000 bytes at 65000, which is outside"),
        (EMIT, "(call $f (i32.const 0) (i32.const -1) (i32.const 1))", "outside its memory"),
        (EMIT, "(call $f (i32.const 0) (i32.const 0) (i32.const -1))", "4294967295 bytes at once"),
        (EMIT, "(call $f (i32.const 4) (i32.const 0) (i32.const 0))", "channel 4"),
        (POLL, "(call $f (i32.const 0) (i32.const 0) (i32.const 0))", "waits for nothing"),
        (POLL, "(call $f (i32.const 0) (i32.const 1) (i32.const 0))", "handle 0, which it has not got"),
        (POLL, "(call $f (i32.const 0) (i32.const 0x40000001) (i32.const 0))", "bytes at once"),
        (BLOCK, "(call $f (i32.const 1))", "handle 1, which it has not got"),
        (BLOCK, "(call $f (i32.const -1))", "which it has not got"),
        (DROP, "(call $f (i32.const 7))", "handle 7, which it has not got"),
        (TIMER, "(loop (drop (call $f (i64.const -1))) (br 0))", "1024 handles"),
        (STDIN, "(loop (drop (call $f)) (br 0))", "1024 handles"),
        (RANDOM, "(call $f (i64.const -1) (i32.const 0))", "random bytes at once"),
        (RANDOM, "(call $f (i64.const 1048577) (i32.const 0))", "1048577 random bytes at once"),
        (RANDOM, "(call $give (i32.const 65530)) (call $f (i64.const 100) (i32.const 0))", "outside its memory"),
        (RANDOM, "(call $f (i64.const 100) (i32.const 65532))", "outside its memory"),
        (NOW, "(call $f (i32.const 65530))", "outside its memory"),
        (SYNC, "(call $f (i32.const 1) (i32.const 0))", "handle 1, which it has not got"),
        (ROOTS, "(loop (call $f (i32.const 0)) (br 0))", "opens the root too often"),
        (ROOTS, "(call $give (i32.const 65530)) (call $f (i32.const 0))", "outside its memory"),
        (READ, "(call $f (i32.const -1) (i64.const -1) (i32.const 0))", "which it has not got"),
        (UNKNOWN, "(call $f (i32.const 0) (i32.const 0))", "descriptor.is-same-object"),
    ] {
        let outcome = outcome_of(&guest(import, ty, &format!("{run} (i32.const 0)")));
        assert_eq!(outcome.ended, Ended::Crashed, "{import} {run}");
        assert!(outcome.error.as_ref().unwrap().contains(expected), "{import} {run}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_guest_gets_what_it_may_have() {
    for ((import, ty), run) in [
        (EMIT, "(call $f (i32.const 0) (i32.const 65535) (i32.const 1))"),
        (RANDOM, "(call $f (i64.const 1000) (i32.const 0))"),
        (NOW, "(call $f (i32.const 65524))"),
    ] {
        let outcome = outcome_of(&guest(import, ty, &format!("{run} (i32.const 0)")));
        assert_eq!((outcome.ended, outcome.error), (Ended::Completed, None), "{import} {run}");
    }
}

#[tokio::test]
async fn a_wait_without_end_stops_at_the_limit() {
    let two = r#"(import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
    let (import, ty) = TIMER;
    let guest = guest(import, ty, "(call $block (call $f (i64.const -1))) (i32.const 0)")
        .replace("(module", &format!("(module {two}"));
    assert_eq!(outcome_of(&guest).ended, Ended::Timeout);
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_crash() {
    let (import, ty) = NOW;
    let outcome = outcome_of(&guest(import, ty, "(i32.const 2)"));
    assert_eq!(outcome.ended, Ended::Crashed);
    assert!(outcome.error.unwrap().contains("it answers 2"));
}

#[tokio::test]
async fn a_guest_that_gives_no_memory_for_its_program_is_stopped() {
    let (import, ty) = NOW;
    let guest = guest(import, ty, "(i32.const 0)").replace("(i32.const 1024)", "(i32.const 65536)");
    let outcome = outcome_of(&guest);
    assert_eq!(outcome.ended, Ended::Crashed);
    assert!(outcome.error.unwrap().contains("wants 1 bytes at 65536, which is outside its memory"));
}

#[tokio::test]
async fn a_guest_that_imports_with_another_type_is_refused() {
    let module = wat::parse_str(guest(NOW.0, "(param i64)", "(i32.const 0)")).unwrap();
    let error = Image::new(Memories::blank(), Lasting::default(), |engine| Module::new(engine, module)).err().unwrap();
    assert!(format!("{error:#}").contains("incompatible import type"), "{error:#}");
}
