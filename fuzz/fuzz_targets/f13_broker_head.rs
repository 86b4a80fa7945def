//! What a broker carries beside a message.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f13_broker_head(data);
});
