//! Requests to the key service, and its answers.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f9_service(data);
});
