//! See `skep::fuzz::TARGETS`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::run("config", bytes));
