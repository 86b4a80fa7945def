//! Disposable keys and what is sealed to them.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f8_exchange(data);
});
