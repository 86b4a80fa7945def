//! Handshakes, at both ends.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f5_handshake(data);
});
