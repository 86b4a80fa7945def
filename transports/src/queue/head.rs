//! What a broker carries beside a message: when it ends, and where that has to be known, who stored it once more.
//!
//! Anybody who reaches a broker can write it, so nothing rests on it but when a message is dropped, and
//! that is compared later with what is sealed inside.
//!
//! Specification: docs/protocol.md §2.3.

use bytes::Bytes;

/// What stands in front of a message in a record of a log.
///
/// Encoding: three numbers of 8 bytes, big endian, and the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Head {
    /// When the message ends, in milliseconds since the Unix epoch.
    pub(crate) expires: u64,
    /// Who appended it once more, zero for the first time.
    pub(crate) mark: u64,
    /// Under which number that one has it.
    pub(crate) number: u64,
}

impl Head {
    /// Its length.
    pub(crate) const BYTES: usize = 24;

    /// The value of a record: [`Head::BYTES`] and the message.
    pub(crate) fn before(&self, message: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(Self::BYTES + message.len());
        for part in [self.expires, self.mark, self.number] {
            value.extend_from_slice(&part.to_be_bytes());
        }
        value.extend_from_slice(message);
        value
    }

    /// The head of a value and the message behind it, whose memory it shares; `None` for a value without one.
    pub(crate) fn split(value: &Bytes) -> Option<(Self, Bytes)> {
        let mut parts = value.chunks_exact(8).map(|part| part.try_into().map_or(0, u64::from_be_bytes));
        let head = Self { expires: parts.next()?, mark: parts.next()?, number: parts.next()? };
        Some((head, value.slice(Self::BYTES..)))
    }
}

/// Reads when a message ends where that is a text: decimal digits without a sign or a zero in front.
pub(crate) fn expires(text: &[u8]) -> Option<u64> {
    let is_plain = text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || text.first() != Some(&b'0'));
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_a_round_trip_and_shorter_values_have_none() {
        let head = Head { expires: 7, mark: 8, number: u64::MAX };
        let value = Bytes::from(head.before(b"sealed"));
        assert_eq!(Head::split(&value), Some((head, Bytes::from_static(b"sealed"))));
        assert_eq!(Head::split(&value.slice(..Head::BYTES)), Some((head, Bytes::new())));
        for end in 0..Head::BYTES {
            assert_eq!(Head::split(&value.slice(..end)), None);
        }
    }

    #[test]
    fn the_end_of_a_message_has_one_spelling() {
        assert_eq!(expires(b"0"), Some(0));
        assert_eq!(expires(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "00", "01", "+1", "-1", "1 ", "1.0", "0x1", "18446744073709551616", "\u{661}"] {
            assert_eq!(expires(text.as_bytes()), None, "{text:?}");
        }
    }
}
