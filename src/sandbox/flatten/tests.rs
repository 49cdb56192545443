//! On a component that is put together as componentize-py's are, in small, and on the real one.

use super::*;
use std::path::Path;

/// The host's function is reached through a shim's table, the library's data and functions through globals.
const SMALL: &str = r#"(component
    (import "test:host/host@1.2.3" (instance $host (export "add" (func (param "x" u32) (result u32)))))
    (core module $shim
        (type (func (param i32) (result i32)))
        (table (export "$imports") 1 1 funcref)
        (func (export "0") (param i32) (result i32) local.get 0 i32.const 0 call_indirect (type 0)))
    (core module $fixup
        (import "" "0" (func (param i32) (result i32)))
        (import "" "$imports" (table 1 1 funcref))
        (elem (i32.const 0) func 0))
    (core module $env
        (memory (export "memory") 1)
        (table (export "table") 8 funcref)
        (global (export "stack") (mut i32) (i32.const 100))
        (global (export "base") i32 (i32.const 16))
        (global (export "got") (mut i32) (i32.const 3))
        (data (i32.const 20) "\2a"))
    (core module $library
        (import "env" "memory" (memory 1))
        (import "env" "table" (table 1 funcref))
        (import "env" "stack" (global $stack (mut i32)))
        (import "env" "base" (global $base i32))
        (import "env" "got" (global $got (mut i32)))
        (import "host" "add" (func $add (param i32) (result i32)))
        (global $four i32 (i32.const 4))
        (elem (offset (i32.add (i32.const 1) (i32.const 2))) func $add)
        (elem (i32.const 5) func $twice)
        (func $twice (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
        (func (export "run") (param i32) (result i32)
            (global.set $stack (i32.add (global.get $stack) (i32.const 1)))
            (i32.add
                (i32.load8_u offset=0 (i32.add (global.get $base) (global.get $four)))
                (i32.add
                    (call_indirect (param i32) (result i32) (local.get 0) (global.get $got))
                    (i32.add
                        (call_indirect (param i32) (result i32) (global.get $stack) (i32.const 5))
                        (call $add (i32.const 1000))))))
        (func (export "post") (param i32))
        (func (export "unused") (global.set $got (i32.const 5))))
    (core instance $shim (instantiate $shim))
    (core instance $env (instantiate $env))
    (core instance $library (instantiate $library
        (with "env" (instance $env))
        (with "host" (instance (export "add" (func $shim "0"))))))
    (core func $add (canon lower (func $host "add")))
    (core instance (instantiate $fixup
        (with "" (instance (export "0" (func $add)) (export "$imports" (table $shim "$imports"))))))
    (func (export "run") (param "x" u32) (result u32)
        (canon lift (core func $library "run") (post-return (func $library "post")))))"#;

fn small() -> Vec<u8> {
    wat::parse_str(SMALL).unwrap()
}

fn guest() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/execute_code/guest/build/python.wasm")).unwrap()
}

#[test]
fn what_is_put_together_otherwise_is_named() {
    for (from, to, expected) in [
        (
            r#"(canon lower (func $host "add"))"#,
            r#"(canon lower (func $host "add") async (memory $env "memory"))"#,
            "it has a Lower",
        ),
        ("8 funcref", "8 externref", "it has a table of 8"),
        ("8 funcref", "2000000 funcref", "it has a table of 2000000"),
        ("(mut i32) (i32.const 100)", "i64 (i64.const 100)", "a global of type i64"),
        ("(i32.add (i32.const 1) (i32.const 2))", "(i32.mul (i32.const 1) (i32.const 2))", "a first value has I32Mul"),
        ("(i32.const 5) func $twice", "(i32.const 8) func $twice", "entries beyond a table's end"),
        ("(elem (i32.const 5) func $twice)", "(elem func $twice)", "table entries that no table begins with"),
        (r#"(data (i32.const 20) "\2a")"#, r#"(data "\2a")"#, "data that no memory begins with"),
        (r#"(memory (export "memory") 1)"#, r#"(memory (export "memory") 1) (memory 1)"#, "it has 2 memories"),
        (
            r#"(func (export "post") (param i32))"#,
            r#"(func (export "post") (param i32)) (func $s) (start $s)"#,
            "StartSection",
        ),
        (
            "(core instance $env (instantiate $env))",
            "(core instance $env (instantiate $env)) (core instance (instantiate $env))",
            "two instances",
        ),
    ] {
        let text = SMALL.replacen(from, to, 1);
        assert_ne!(text, SMALL);
        let message = match wat::parse_str(text) {
            Ok(component) => flatten(&component).err().unwrap().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected), "{to}: {message}");
    }
}

#[test]
fn bytes_that_are_no_component_are_an_error() {
    for bytes in [b"".as_slice(), b"text", b"\0asm\x0d\0\x01\0", b"\0asm\x01\0\0\0"] {
        assert!(flatten(bytes).is_err());
    }
}

#[test]
fn no_damage_to_a_component_is_a_panic() {
    let small = small();
    for place in 0..small.len() {
        let _ = flatten(&small[..place]);
        let mut damaged = small.clone();
        for bit in 0..8 {
            damaged[place] = small[place] ^ 1 << bit;
            let _ = flatten(&damaged);
        }
        damaged[place] = 0xff;
        let _ = flatten(&damaged);
    }
}

#[test]
fn a_cut_guest_is_an_error() {
    let guest = guest();
    for part in 1..16 {
        assert!(flatten(&guest[..guest.len() * part / 16]).is_err());
    }
}

#[test]
fn constants_unused_code_and_detours_are_gone() {
    let flat = flatten(&small()).unwrap();
    let module = module::read(&flat.module).unwrap();
    let imports: Vec<_> = module.imports.iter().map(|import| (import.module, import.name)).collect();
    assert_eq!(imports, [("test:host/host@1.2.3", "add")]);
    let exports: Vec<_> = module.exports.iter().map(|export| export.name).collect();
    assert_eq!(exports, ["memory", "stop", "global 0", "run", "cabi_post_run"]);
    let counts = (module.memories.len(), module.tables.len(), module.globals.len(), module.functions.len());
    assert_eq!(counts, (2, 1, 1, 3));
}

#[test]
fn every_loop_and_every_circle_of_calls_can_be_stopped_and_little_else() {
    let more = r#"(func $leaf)
        (func $itself (call $itself))
        (func $ping (call $pong))
        (func $pong (call $leaf) (call $ping))
        (func $loops (loop (br_if 0 (i32.const 0)) (loop)))
        (func $between (call $ping))
        (func (export "post") (param i32) (call $itself) (call $between) (call $loops))"#;
    let text = SMALL.replacen(r#"(func (export "post") (param i32))"#, more, 1);
    let flat = flatten(&wat::parse_str(text).unwrap()).unwrap();
    let stops = |body: &wasmparser::FunctionBody| {
        let operators = body.get_operators_reader().unwrap().into_iter();
        operators.filter(|it| matches!(it, Ok(wasmparser::Operator::I32AtomicLoad8U { .. }))).count()
    };
    let found: Vec<_> = module::read(&flat.module).unwrap().bodies.iter().map(stops).collect();
    // `$twice`; `run`, which calls by the table; `$leaf`, `$itself`, `$ping`, `$pong`, `$loops`, `$between`, and the last.
    assert_eq!(found, [0, 1, 0, 1, 1, 1, 2, 0, 0]);
}

#[test]
fn the_real_guest_becomes_one_memory_beside_the_page_that_stops_it_one_table_and_one_global() {
    let flat = flatten(&guest()).unwrap();
    let module = module::read(&flat.module).unwrap();
    assert_eq!((module.memories.len(), module.tables.len(), module.globals.len()), (2, 1, 1));
    let exports: Vec<_> = module.exports.iter().map(|export| export.name).collect();
    assert_eq!(
        exports,
        ["memory", "stop", "global 0", "wake", "cabi_post_wake", "run", "cabi_post_run", "cabi_realloc"]
    );
}

#[test]
fn the_module_computes_what_the_component_does() {
    let engine = wasmtime::Engine::default();
    let expected = {
        let mut linker = wasmtime::component::Linker::new(&engine);
        let mut host = linker.instance("test:host/host@1.2.3").unwrap();
        host.func_wrap("add", |_, (x,): (u32,)| Ok((x + 7,))).unwrap();
        let component = wasmtime::component::Component::new(&engine, small()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let run = instance.get_typed_func::<(u32,), (u32,)>(&mut store, "run").unwrap();
        [1, 2].map(|x| run.call(&mut store, (x,)).unwrap().0)
    };
    let mut linker = wasmtime::Linker::new(&engine);
    linker.func_wrap("test:host/host@1.2.3", "add", |x: u32| x + 7).unwrap();
    let flat = flatten(&small()).unwrap();
    let module = wasmtime::Module::new(&engine, flat.module).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    for (address, bytes) in flat.data {
        memory.write(&mut store, address as usize, &bytes).unwrap();
    }
    let run = instance.get_typed_func::<u32, u32>(&mut store, "run").unwrap();
    assert_eq!([1, 2].map(|x| run.call(&mut store, x).unwrap()), expected);
    assert_eq!(expected, [42 + 8 + 202 + 1007, 42 + 9 + 204 + 1007]);
}
