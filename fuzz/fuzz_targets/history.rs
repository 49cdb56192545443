//! A conversation as a client sends it back, and what it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| loopgate_fuzz::history(data));
