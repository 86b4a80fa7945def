//! The file of a queue.
#![no_main]
libfuzzer_sys::fuzz_target!(
    init: {
        // The database panics at some damaged files, and the queue catches that: a panic ends this process
        // only when the target itself does not.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    },
    |data: &[u8]| {
        onward_fuzz::f10_queue(data);
    }
);
