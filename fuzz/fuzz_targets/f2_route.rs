//! The text form of addresses and routes.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f2_route(data);
});
