//! Messages that come in pieces.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f11_reassembly(data);
});
