//! F17: typed payloads, as workers take and give them.

use std::collections::BTreeMap;

use onward_workers::{Payload, Raw, Serde};

/// A type with minicbor's traits, and a serde type within.
#[derive(Debug, PartialEq, minicbor::Decode, minicbor::Encode)]
struct Order {
    #[n(0)]
    id: u64,
    #[n(1)]
    lines: Vec<String>,
    #[n(2)]
    note: Option<Serde<Note>>,
}

/// A serde type with each kind of variant.
#[derive(Debug, PartialEq, serde::Deserialize, serde::Serialize)]
enum Note {
    Empty,
    Text(String),
    Pair(i64, bool),
    Table { rows: BTreeMap<String, Vec<u32>>, sum: Option<i32> },
}

/// Any bytes as values of several types: what decodes, encodes to bytes that decode to the same value.
pub fn f17_payload(data: &[u8]) -> bool {
    let raw = Raw::decode_payload(data).map(|raw| raw.0);
    assert!(raw.is_ok_and(|raw| raw == data), "raw payloads are taken as they are");
    // No short cut: each type is tried.
    [
        same::<u64>(data),
        same::<String>(data),
        same::<Vec<Option<i16>>>(data),
        same::<Order>(data),
        same::<Serde<Note>>(data),
        same::<Serde<(u8, char, Vec<Note>)>>(data),
        same::<(Serde<Note>, u8, Serde<Note>)>(data),
        same::<Result<Order, String>>(data),
        same::<Result<Serde<Note>, u32>>(data),
    ]
    .contains(&true)
}

fn same<T: Payload + PartialEq + std::fmt::Debug>(data: &[u8]) -> bool {
    let Ok(value) = T::decode_payload(data) else {
        return false;
    };
    let mut bytes = Vec::new();
    if let Err(error) = value.encode_payload(&mut bytes) {
        panic!("a decoded value does not encode: {error}");
    }
    match T::decode_payload(&bytes) {
        Ok(again) => assert_eq!(again, value),
        Err(error) => panic!("refused what it encoded itself: {error}"),
    }
    true
}
