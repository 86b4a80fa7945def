//! The fuzz targets: plain functions over arbitrary bytes that panic when a property is broken.
//!
//! A target never panics for bad input, which a decoder must refuse; it returns whether the input
//! was accepted. To add one: write the function, name it in [`TARGETS`], add `fuzz_targets/<name>.rs`
//! with its `[[bin]]`, and put inputs into `corpus/<name>/`, those that must be refused under names
//! that begin with `refused-`. An input that once broke a target is kept in `regressions/<name>/`.

mod cache;
mod handshake;
mod party;
mod payload;
mod queue;
mod reassembly;
mod records;
mod service;
mod stream;

pub use cache::{f8_cache, f8_cache_message};
pub use handshake::f5_handshake;
pub use payload::f17_payload;
pub use queue::{f10_queue, f13_broker_head, f13_queue_message, f13_served_queue, f13_stream_entries};
pub use reassembly::f11_reassembly;
pub use records::f6_records;
pub use service::{f9_service, f9_store, f15_policy};
pub use stream::f1_stream;

use onward_channels::identity::fuzzing;
use onward_routing::{Address, ErrorReport, Message, PAYLOAD_BYTES_MAX, Route};

/// A target: panics when the input breaks a property, and returns whether it was accepted.
pub type Target = fn(&[u8]) -> bool;

/// Every target by name, for the replay of the corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("f1_stream", f1_stream),
    ("f2_route", f2_route),
    ("f3_message", f3_message),
    ("f4_datagram", f4_datagram),
    ("f5_handshake", f5_handshake),
    ("f6_records", f6_records),
    ("f8_cache", f8_cache),
    ("f8_cache_message", f8_cache_message),
    ("f8_exchange", f8_exchange),
    ("f9_service", f9_service),
    ("f9_store", f9_store),
    ("f10_queue", f10_queue),
    ("f11_reassembly", f11_reassembly),
    ("f12_identity", f12_identity),
    ("f13_broker_head", f13_broker_head),
    ("f13_queue_message", f13_queue_message),
    ("f13_served_queue", f13_served_queue),
    ("f13_stream_entries", f13_stream_entries),
    ("f15_policy", f15_policy),
    ("f17_payload", f17_payload),
];

/// The text form of addresses and routes: what is accepted is printed as it was written.
pub fn f2_route(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string(), text, "an address has one spelling");
        let again = Address::from_parts(address.kind(), address.value());
        assert_eq!(again.as_ref(), Ok(&address), "the value is the text after the prefix");
    }
    let Ok(route) = text.parse::<Route>() else {
        return false;
    };
    assert_eq!(route.to_string(), text, "a route has one spelling");
    true
}

/// The wire form of a message: what is accepted encodes to bytes that mean the same, and the hop
/// rule ends.
pub fn f3_message(data: &[u8]) -> bool {
    let Ok(mut message) = Message::decode(data, PAYLOAD_BYTES_MAX) else {
        return false;
    };
    let mut once = Vec::new();
    message.encode(&mut once);
    assert_eq!(once.len(), message.encoded_len());
    assert!(once.len() <= data.len(), "the encoding accepted is the shortest");
    let mut twice = Vec::new();
    match Message::decode(&once, PAYLOAD_BYTES_MAX) {
        Ok(again) => again.encode(&mut twice),
        Err(error) => panic!("refused what it encoded itself: {error}"),
    }
    assert_eq!(once, twice);

    if let Some(report) = ErrorReport::decode(message.payload()) {
        assert_eq!(report.encode(), message.payload(), "a report has one encoding");
    }
    let mut hops = usize::from(message.hops());
    while message.next().is_some() && message.hop().is_ok() {
        hops -= 1;
    }
    assert_eq!(hops, usize::from(message.hops()), "each hop costs exactly one");
    true
}

/// UDP datagrams: what decodes has one encoding, and a socket holds and sends no more than it may, whatever
/// comes.
pub fn f4_datagram(data: &[u8]) -> bool {
    onward_transports::fuzzing::datagrams(data)
}

/// Disposable keys and what is sealed to them: what decodes has one encoding, and nothing opens that nobody sealed.
pub fn f8_exchange(data: &[u8]) -> bool {
    onward_channels::ok2cry::fuzzing::objects(data)
}

/// Identities, histories, attestations and credentials: what decodes has one encoding.
pub fn f12_identity(data: &[u8]) -> bool {
    fuzzing::identity(data)
}
