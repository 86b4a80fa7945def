//! Requests to the key cache, its answers and its evidence.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f8_cache_message(data);
});
