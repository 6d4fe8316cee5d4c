//! libFuzzer's way into `imds_fuzz::record`.
//! Must not do anything itself: the test of the corpus runs the same body without libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| imds_fuzz::record::run(data));
