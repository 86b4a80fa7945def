//! The key service's policy.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f15_policy(data);
});
