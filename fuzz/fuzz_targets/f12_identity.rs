//! Identities and other signed structures.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f12_identity(data);
});
