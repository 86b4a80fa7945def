//! The key service's store.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f9_store(data);
});
