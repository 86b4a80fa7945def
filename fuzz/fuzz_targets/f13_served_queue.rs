//! What brokers hand out.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f13_served_queue(data);
});
