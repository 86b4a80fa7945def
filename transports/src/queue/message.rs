//! The form that messages have in every queue.
//!
//! Identifier and time of expiry stand outside of what is sealed, so a broker may change them: they are
//! hints, and who opens the body compares them with those inside. One value has one encoding.
//!
//! Specification: docs/protocol.md §2.3, §0.

use core::fmt;

use bytes::Bytes;
use onward_routing::cbor::{Reader, put_head};

/// The identifier of a message: 16 random bytes of its sender.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mid([u8; 16]);

impl Mid {
    /// The identifier of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// 32 lower-case hexadecimal digits.
impl fmt::Display for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// What the body of a message is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum QueueKind {
    /// An encoded routing message.
    Routed = 1,
    /// An envelope for a receiver that may be offline.
    Envelope = 2,
    /// A receipt for an envelope.
    Receipt = 3,
}

impl QueueKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Routed, Self::Envelope, Self::Receipt].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A message in a queue.
///
/// Encoding: `[v=1, mid: 16 bytes, exp: u64, kind: u8, body: 1 to 1,048,576 bytes]` in deterministic CBOR.
#[derive(Clone, Eq, PartialEq)]
pub struct QueueMessage {
    /// Who is meant when it comes twice.
    pub mid: Mid,
    /// When it ends, in seconds since the Unix epoch; a receiver drops it from then on.
    pub exp: u64,
    /// What the body is.
    pub kind: QueueKind,
    /// Sealed, as far as it has secrets: 1 to [`Self::BODY_BYTES_MAX`] bytes.
    pub body: Bytes,
}

impl QueueMessage {
    /// Longest body in bytes.
    pub const BODY_BYTES_MAX: usize = 1024 * 1024;

    const VERSION: u8 = 1;

    /// The encoding; a body of a length that is not allowed makes one that no receiver takes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.body.len() + 40);
        put_head(&mut out, 4, 5);
        put_head(&mut out, 0, u64::from(Self::VERSION));
        put_head(&mut out, 2, 16);
        out.extend_from_slice(&self.mid.0);
        put_head(&mut out, 0, self.exp);
        put_head(&mut out, 0, self.kind as u64);
        put_head(&mut out, 2, self.body.len() as u64);
        out.extend_from_slice(&self.body);
        out.into()
    }

    /// Reads exactly what [`encode`](Self::encode) gives for a message; `None` for anything else. The
    /// body shares the memory of `bytes`.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != 5 || reader.u8()? != Self::VERSION {
            return None;
        }
        let mid = Mid(reader.bytes()?.try_into().ok()?);
        let exp = reader.uint()?;
        let kind = QueueKind::from_number(reader.u8()?)?;
        let body = reader.bytes()?;
        let is_body = (1..=Self::BODY_BYTES_MAX).contains(&body.len());
        (is_body && reader.is_at_end()).then(|| Self { mid, exp, kind, body: bytes.slice_ref(body) })
    }
}

/// A body is not printed: it may be what somebody routed in clear.
impl fmt::Debug for QueueMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mid, exp, kind, body } = self;
        f.debug_struct("QueueMessage")
            .field("mid", mid)
            .field("exp", exp)
            .field("kind", kind)
            .field("body_bytes", &body.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> QueueMessage {
        let mid = Mid::new([7; 16]);
        QueueMessage {
            mid,
            exp: 1_800_000_000,
            kind: QueueKind::Envelope,
            body: Bytes::from_static(b"sealed"),
        }
    }

    #[test]
    fn the_encoding_is_fixed() {
        let encoded = message().encode();
        let expected =
            ["85", "01", "50", &"07".repeat(16), "1a6b49d200", "02", "46", "7365616c6564"].concat();
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(QueueMessage::decode(&encoded), Some(message()));
    }

    #[test]
    fn bodies_have_bounds() {
        for (bytes, good) in [
            (0, false),
            (1, true),
            (QueueMessage::BODY_BYTES_MAX, true),
            (QueueMessage::BODY_BYTES_MAX + 1, false),
        ] {
            let encoded = QueueMessage { body: vec![1; bytes].into(), ..message() }.encode();
            assert_eq!(QueueMessage::decode(&encoded).is_some(), good, "{bytes}");
            assert!(!good || encoded.len() <= crate::queue::MESSAGE_BYTES_MAX);
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        let good = message().encode().to_vec();
        let mut wrong: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
        wrong.push([&good[..], &[0]].concat());
        let changed = |at: usize, to: &[u8]| [&good[..at], to, &good[at + 1..]].concat();
        wrong.push(changed(0, &[0x86]));
        wrong.push(changed(0, &[0x98, 5]));
        wrong.push(changed(1, &[2]));
        wrong.push(changed(1, &[0x18, 1]));
        wrong.push(changed(2, &[0x4f]));
        wrong.push(changed(19, &[0x1b, 0, 0, 0, 0]));
        wrong.push(changed(24, &[0]));
        wrong.push(changed(24, &[4]));
        wrong.push(changed(25, &[0x58, 6]));
        for bytes in wrong {
            assert_eq!(QueueMessage::decode(&Bytes::from(bytes.clone())), None, "{bytes:02x?}");
        }
    }
}
