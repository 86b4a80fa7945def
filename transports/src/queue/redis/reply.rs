//! What a Redis server answers about the entries of a stream.
//!
//! Whoever reaches the server can add entries with any fields, so nothing is assumed of one but the name that the
//! server gave it. One that is not ours has no bytes, and ends as a dead letter: none is passed over, because
//! it would wait, and come again, for ever.
//!
//! Specification: docs/protocol.md §2.3.

use bytes::Bytes;
use redis::{Value, from_redis_value};

use super::super::head;

/// The field with the bytes of a message.
pub(super) const BYTES: &str = "b";
/// The field with the end of a message, in milliseconds since the Unix epoch.
pub(super) const EXPIRES: &str = "e";
/// The place before all entries.
pub(super) const FIRST: &str = "0-0";

/// An entry of a stream.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name that the server gave it.
    pub(crate) id: String,
    /// The message, if it is one.
    pub(crate) bytes: Bytes,
    /// When it ends, if it says so.
    pub(crate) expires: Option<u64>,
}

/// The entries in an answer to `XREADGROUP` that asked for one stream: `[[key, [entry…]]]`.
pub(crate) fn read(answer: Value) -> Vec<Entry> {
    let stream = items(answer).into_iter().next().map_or_else(Vec::new, items);
    stream.into_iter().nth(1).map_or_else(Vec::new, entries)
}

/// The entries in an answer to `XAUTOCLAIM`, `[place, [entry…], …]`, and the place to go on from.
pub(crate) fn claimed(answer: Value) -> (String, Vec<Entry>) {
    let mut parts = items(answer).into_iter();
    let place = parts.next().and_then(text).unwrap_or_else(|| FIRST.to_owned());
    (place, parts.next().map_or_else(Vec::new, entries))
}

/// How often the first entry in an answer to `XPENDING` was handed out: `[[id, consumer, milliseconds, count]…]`.
pub(super) fn count(answer: Value) -> Option<u32> {
    let row = items(answer).into_iter().next().map_or_else(Vec::new, items);
    from_redis_value(row.into_iter().nth(3)?).ok()
}

/// Without those that are gone, in whose place there is nothing.
fn entries(answer: Value) -> Vec<Entry> {
    items(answer).into_iter().filter_map(entry).collect()
}

/// `[id, [name, value, …]]`. Of a field that is there more than once the first counts, and others do not.
fn entry(answer: Value) -> Option<Entry> {
    let mut parts = items(answer).into_iter();
    let id = parts.next().and_then(text)?;
    let (mut bytes, mut expires) = (None, None);
    let mut fields = parts.next().map_or_else(Vec::new, items).into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (fields.next(), fields.next())
    {
        match name {
            name if name == BYTES.as_bytes() => drop(bytes.get_or_insert(value)),
            name if name == EXPIRES.as_bytes() => drop(expires.get_or_insert(value)),
            _ => {}
        }
    }
    let expires = expires.and_then(|text| head::expires(&text));
    Some(Entry { id, bytes: bytes.unwrap_or_default().into(), expires })
}

fn items(answer: Value) -> Vec<Value> {
    match answer {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn text(answer: Value) -> Option<String> {
    match answer {
        Value::BulkString(text) => String::from_utf8(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of the stream `k`, with these fields.
    fn stream(fields: &[&[u8]]) -> Value {
        let bulk = |bytes: &&[u8]| Value::BulkString(bytes.to_vec());
        let entry = Value::Array(vec![bulk(&&b"7-1"[..]), Value::Array(fields.iter().map(bulk).collect())]);
        Value::Array(vec![Value::Array(vec![bulk(&&b"k"[..]), Value::Array(vec![entry])])])
    }

    #[test]
    fn fields_are_read_in_any_order_and_the_first_of_each() {
        for fields in [
            &[&b"b"[..], b"sealed", b"e", b"9"][..],
            &[b"e", b"9", b"b", b"sealed"],
            &[b"x", b"y", b"e", b"9", b"\xff", b"", b"b", b"sealed"],
            &[b"b", b"sealed", b"b", b"other", b"e", b"9", b"e", b"8"],
        ] {
            let found = read(stream(fields));
            assert_eq!(found.len(), 1, "{fields:?}");
            assert_eq!(found[0].id, "7-1");
            assert_eq!((&found[0].bytes[..], found[0].expires), (&b"sealed"[..], Some(9)), "{fields:?}");
        }
    }

    #[test]
    fn what_is_not_ours_is_an_entry_without_bytes() {
        for fields in [&[][..], &[&b"b"[..]], &[b"e", b"9"], &[b"B", b"x"], &[b"\xff\xfe", b"x"]] {
            let found = read(stream(fields));
            assert_eq!(found.len(), 1, "{fields:?}");
            assert!(found[0].bytes.is_empty(), "{fields:?}");
        }
        assert_eq!(read(stream(&[b"b", b"x", b"e", b"09"]))[0].expires, None);
        for gone in [Value::Nil, Value::Int(1), Value::Array(Vec::new())] {
            assert!(entries(Value::Array(vec![gone])).is_empty());
        }
    }

    #[test]
    fn an_answer_of_another_form_holds_nothing() {
        for answer in [Value::Nil, Value::Okay, Value::Int(3), Value::Array(vec![Value::Nil, Value::Nil])] {
            assert!(read(answer.clone()).is_empty());
            let (place, entries) = claimed(answer.clone());
            assert_eq!((place.as_str(), entries.len()), (FIRST, 0));
            assert_eq!(count(answer), None);
        }
    }
}
