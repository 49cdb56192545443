//! What the gateway and a worker say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| loopgate_fuzz::frames(data));
