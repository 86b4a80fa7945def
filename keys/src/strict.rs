//! The strict decoder: one meaning, one byte string, for everything signed, hashed or used in a handshake.
//!
//! [`decode()`] accepts exactly the bytes that [`encode()`] would give back. It must never be replaced by a plain
//! CBOR decoder: those skip surplus elements and accept indefinite lengths and long integers, and then two
//! readers of one signed body may see two different statements.
//!
//! Specification: docs/protocol.md §0, "Encoding".

use core::ops::RangeInclusive;

use minicbor::data::Type;
use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

/// Arrays and maps open at once, the outermost counted; bytes that hold CBOR count anew.
pub const DEPTH_MAX: usize = 8;

/// Why bytes are not the deterministic encoding of the structure that was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// More bytes than the structure may have.
    #[error("{bytes} bytes where at most {bytes_max} are allowed")]
    TooLong {
        /// What was found.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// Not CBOR, or not of the structure's shape, ranges and lengths.
    #[error("not the expected structure")]
    Shape(#[source] decode::Error),
    /// Bytes follow the structure.
    #[error("{0} bytes after the end of the structure")]
    Trailing(usize),
    /// The same values have another, deterministic encoding.
    #[error("not deterministically encoded")]
    NotCanonical,
}

/// Decodes `bytes`, at most `bytes_max` of them, refusing all but the deterministic encoding of a `T`.
///
/// # Errors
/// [`Malformed`] says which rule was broken.
///
/// Source: docs/protocol.md §0.
pub fn decode<'b, T>(bytes: &'b [u8], bytes_max: usize) -> Result<T, Malformed>
where
    T: Decode<'b, ()> + Encode<()>,
{
    if bytes.len() > bytes_max {
        return Err(Malformed::TooLong { bytes: bytes.len(), bytes_max });
    }
    let mut decoder = Decoder::new(bytes);
    let value: T = decoder.decode().map_err(Malformed::Shape)?;
    let trailing = bytes.len().saturating_sub(decoder.position());
    if trailing > 0 {
        return Err(Malformed::Trailing(trailing));
    }
    if encode(&value) != bytes {
        return Err(Malformed::NotCanonical);
    }
    Ok(value)
}

/// Decodes `bytes`, at most `bytes_max` of them, by `read`, refusing all but one deterministically encoded item.
///
/// For messages that may carry secrets: nothing is encoded a second time, so nothing is left behind.
///
/// # Errors
/// As [`decode()`].
pub fn decode_once<'b, T>(
    bytes: &'b [u8],
    bytes_max: usize,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, decode::Error>,
) -> Result<T, Malformed> {
    if bytes.len() > bytes_max {
        return Err(Malformed::TooLong { bytes: bytes.len(), bytes_max });
    }
    let item = any(&mut Decoder::new(bytes), 0).map_err(|_| Malformed::NotCanonical)?;
    if item.len() < bytes.len() {
        return Err(Malformed::Trailing(bytes.len() - item.len()));
    }
    let mut decoder = Decoder::new(bytes);
    let value = read(&mut decoder).map_err(Malformed::Shape)?;
    if decoder.position() < bytes.len() {
        return Err(Malformed::Trailing(bytes.len() - decoder.position()));
    }
    Ok(value)
}

/// The deterministic encoding of `value`.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A Vec takes every write, and the structures here raise no errors of their own.
    let written = Encoder::new(&mut bytes).encode(value).map(|_| ());
    debug_assert!(written.is_ok(), "encoding into memory failed");
    bytes
}

/// Reads the head of an array of exactly `len` elements.
///
/// # Errors
/// Of shape, as of every reader here: the item is of another kind, or out of its bounds.
pub fn array(d: &mut Decoder<'_>, len: u64) -> Result<(), decode::Error> {
    match d.array()? {
        Some(found) if found == len => Ok(()),
        _ => Err(refuse(d, "array of another length")),
    }
}

/// Reads the head of a definite array and returns its length, which lies in `lens`.
pub fn array_within(d: &mut Decoder<'_>, lens: RangeInclusive<u64>) -> Result<u64, decode::Error> {
    match d.array()? {
        Some(found) if lens.contains(&found) => Ok(found),
        _ => Err(refuse(d, "array of a length out of range")),
    }
}

/// Reads the head of a definite map and returns its number of pairs, at most `pairs_max`.
pub fn map(d: &mut Decoder<'_>, pairs_max: u64) -> Result<u64, decode::Error> {
    match d.map()? {
        Some(found) if found <= pairs_max => Ok(found),
        _ => Err(refuse(d, "map of a length out of range")),
    }
}

/// Reads the version that opens every object.
pub fn version(d: &mut Decoder<'_>, expected: u8) -> Result<(), decode::Error> {
    if d.u8()? == expected { Ok(()) } else { Err(refuse(d, "unknown version")) }
}

/// Reads a byte string of exactly `N` bytes.
pub fn bytes_exact<const N: usize>(d: &mut Decoder<'_>) -> Result<[u8; N], decode::Error> {
    let bytes = d.bytes()?;
    bytes.try_into().map_err(|_| refuse(d, "byte string of another length"))
}

/// Reads a byte string of 1 to `bytes_max` bytes.
pub fn bytes<'b>(d: &mut Decoder<'b>, bytes_max: usize) -> Result<&'b [u8], decode::Error> {
    let bytes = d.bytes()?;
    if (1..=bytes_max).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(refuse(d, "byte string of a length out of range"))
    }
}

/// Reads a text of 1 to `bytes_max` bytes.
pub fn text<'b>(d: &mut Decoder<'b>, bytes_max: usize) -> Result<&'b str, decode::Error> {
    let text = d.str()?;
    if (1..=bytes_max).contains(&text.len()) {
        Ok(text)
    } else {
        Err(refuse(d, "text of a length out of range"))
    }
}

/// Reads null as `None`, anything else with `read`.
pub fn optional<'b, T>(
    d: &mut Decoder<'b>,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, decode::Error>,
) -> Result<Option<T>, decode::Error> {
    if d.datatype()? == Type::Null {
        d.null()?;
        Ok(None)
    } else {
        read(d).map(Some)
    }
}

/// Reads one item of any kind that §0 names, `depth` containers being open around it, and returns its bytes.
///
/// The kinds are integers, byte strings, texts, booleans, null, arrays and maps of uint keys; each must be
/// deterministically encoded, since raw bytes are not re-encoded later.
pub fn any<'b>(d: &mut Decoder<'b>, depth: usize) -> Result<&'b [u8], decode::Error> {
    let start = d.position();
    skip_any(d, depth)?;
    let end = d.position();
    d.input().get(start..end).ok_or_else(decode::Error::end_of_input)
}

/// Writes a byte string, or null in its place.
pub fn put_optional_bytes<W: Write>(
    e: &mut Encoder<W>,
    bytes: Option<impl AsRef<[u8]>>,
) -> Result<(), encode::Error<W::Error>> {
    match bytes {
        Some(bytes) => e.bytes(bytes.as_ref())?.ok(),
        None => e.null()?.ok(),
    }
}

/// An error of shape at the decoder's present position.
pub fn refuse(d: &Decoder<'_>, why: &'static str) -> decode::Error {
    decode::Error::message(why).at(d.position())
}

fn skip_any(d: &mut Decoder<'_>, depth: usize) -> Result<(), decode::Error> {
    let (major, argument) = head(d)?;
    match major {
        UNSIGNED => Ok(()),
        NEGATIVE if argument <= i64::MAX.unsigned_abs() => Ok(()),
        BYTES => content(d, argument).map(|_| ()),
        TEXT => {
            let text = content(d, argument)?;
            core::str::from_utf8(text).map(|_| ()).map_err(|_| refuse(d, "text that is not UTF-8"))
        }
        ARRAY | MAP if depth >= DEPTH_MAX => Err(refuse(d, "nested too deep")),
        ARRAY => (0..argument).try_for_each(|_| skip_any(d, depth + 1)),
        MAP => {
            let mut last = None;
            (0..argument).try_for_each(|_| {
                let (major, key) = head(d)?;
                if major != UNSIGNED || last.is_some_and(|last| key <= last) {
                    return Err(refuse(d, "map keys that are not ascending integers"));
                }
                last = Some(key);
                skip_any(d, depth + 1)
            })
        }
        SIMPLE if (FALSE..=NULL).contains(&argument) => Ok(()),
        _ => Err(refuse(d, "an item of a kind that is never used")),
    }
}

/// Reads an item's major type and argument, refusing indefinite lengths and all but the shortest form.
fn head(d: &mut Decoder<'_>) -> Result<(u8, u64), decode::Error> {
    let first = *content(d, 1)?.first().ok_or_else(decode::Error::end_of_input)?;
    let (width, least) = match first & 0x1f {
        small @ 0..=23 => return Ok((first >> 5, u64::from(small))),
        24 => (1, 24),
        25 => (2, 1 << 8),
        26 => (4, 1 << 16),
        27 => (8, 1 << 32),
        _ => return Err(refuse(d, "indefinite length")),
    };
    let argument = content(d, width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    // Simple values in two bytes are never needed, and longer ones are floats.
    if argument < least || first >> 5 == SIMPLE {
        return Err(refuse(d, "not the shortest form"));
    }
    Ok((first >> 5, argument))
}

/// Takes the next `len` bytes.
fn content<'b>(d: &mut Decoder<'b>, len: u64) -> Result<&'b [u8], decode::Error> {
    let start = d.position();
    let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
    let end = end.ok_or_else(decode::Error::end_of_input)?;
    let content = d.input().get(start..end).ok_or_else(decode::Error::end_of_input)?;
    d.set_position(end);
    Ok(content)
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;
const FALSE: u64 = 20;
const NULL: u64 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads all of `bytes` as one item of any kind.
    fn is_any(bytes: &[u8]) -> bool {
        let mut d = Decoder::new(bytes);
        any(&mut d, 0).is_ok_and(|item| item == bytes)
    }

    #[test]
    fn items_of_every_named_kind_are_taken() {
        for item in [
            "00",
            "1818",
            "1b0000000100000000",
            "20",
            "3b7fffffffffffffff",
            "40",
            "4101",
            "6161",
            "80",
            "8101",
            "a0",
            "a201020304",
            "f4",
            "f5",
            "f6",
        ] {
            assert!(is_any(&hex::decode(item).unwrap()), "{item}");
        }
    }

    #[test]
    fn items_in_another_form_are_refused() {
        for item in [
            "1800",
            "190001",
            "1a00000001",
            "1b0000000000000001",
            "3b8000000000000000",
            "5800",
            "5f4101ff",
            "7801",
            "61ff",
            "9f01ff",
            "9800",
            "bf0102ff",
            "a201020102",
            "a203040102",
            "a1616101",
            "c000",
            "f7",
            "f814",
            "f90000",
            "fa00000000",
            "fb0000000000000000",
            "ff",
            "1c",
            "8201",
            "4201",
            "5bffffffffffffffff",
            "9bffffffffffffffff",
        ] {
            assert!(!is_any(&hex::decode(item).unwrap()), "{item}");
        }
    }

    #[test]
    fn nesting_ends_at_eight() {
        let nested = |levels: usize| [vec![0x81; levels], vec![0x00]].concat();
        assert!(is_any(&nested(DEPTH_MAX)));
        assert!(!is_any(&nested(DEPTH_MAX + 1)));
    }

    #[test]
    fn only_the_encoders_bytes_are_decoded() {
        assert_eq!(decode::<u32>(&[0x18, 0x20], 8).unwrap(), 32);
        assert!(matches!(decode::<u32>(&[0x19, 0x00, 0x20], 8), Err(Malformed::NotCanonical)));
        assert!(matches!(decode::<u32>(&[0x18, 0x20, 0x00], 8), Err(Malformed::Trailing(1))));
        assert!(matches!(
            decode::<u32>(&[0x18, 0x20], 1),
            Err(Malformed::TooLong { bytes: 2, bytes_max: 1 })
        ));
        assert!(matches!(decode::<u32>(&[0x18], 8), Err(Malformed::Shape(_))));
    }
}
