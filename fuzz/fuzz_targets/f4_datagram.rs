//! What a UDP socket receives.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f4_datagram(data);
});
