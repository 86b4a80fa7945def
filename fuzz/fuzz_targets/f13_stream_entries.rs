//! What a Redis server answers about the entries of a stream.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    onward_fuzz::f13_stream_entries(data);
});
