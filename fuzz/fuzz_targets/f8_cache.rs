//! Operations on the key cache, beside a model.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f8_cache(data);
});
