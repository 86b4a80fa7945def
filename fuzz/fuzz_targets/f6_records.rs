//! The records of a channel, at both ends.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f6_records(data);
});
