//! An interpreter at rest, from a worker that a program has taken over.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| loopgate_fuzz::parked(data));
