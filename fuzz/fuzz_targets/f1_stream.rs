//! What a stream connection receives.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f1_stream(data);
});
