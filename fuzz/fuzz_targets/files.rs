//! A program and a client at the files of one interpreter.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| loopgate_fuzz::files(data));
