//! A model's call on its way into a guest, and texts on their way out.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| loopgate_fuzz::call(data));
