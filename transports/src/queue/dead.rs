//! Dead letters: messages that can never be handled, kept for whoever looks after the mailbox.
//!
//! The bytes are those that came, still sealed if they were; never a plaintext. Who can put messages
//! into a mailbox can make dead letters, so they are bounded and the oldest give way.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;

use bytes::Bytes;
use onward_routing::cbor::{Reader, put_head};

/// Why a message is a dead letter. The number is its code.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Reason {
    /// It has not the form that its place requires.
    Malformed = 1,
    /// It is sealed to a key that is not here.
    UnknownKey = 2,
    /// It did not authenticate.
    Unauthentic = 3,
    /// A policy refuses its sender or its content for good.
    Refused = 4,
    /// Whoever had it ended or fell silent, again and again, without saying what became of it.
    Unanswered = 5,
    /// The storage gave back something else than was stored.
    Damaged = 6,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::Malformed,
        Self::UnknownKey,
        Self::Unauthentic,
        Self::Refused,
        Self::Unanswered,
        Self::Damaged,
    ];

    /// The reason of this code.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Its name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::Unauthentic => "unauthentic",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Damaged => "damaged",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is stored in the dead-letter lane of a mailbox.
///
/// Encoding: `[v=1, reason: u8, attempts: u32, original: bytes]` in deterministic CBOR.
#[derive(Clone, Eq, PartialEq)]
pub struct DeadLetter {
    /// Why.
    pub reason: Reason,
    /// How often it was handed out, as far as the broker knows.
    pub attempts: u32,
    /// The bytes as they were handed out; none of a message that was too large to be stored with the letter around it.
    pub original: Bytes,
}

impl DeadLetter {
    const VERSION: u8 = 1;

    /// The encoding: at most 16 bytes more than the original.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.original.len() + 16);
        put_head(&mut out, 4, 4);
        put_head(&mut out, 0, u64::from(Self::VERSION));
        put_head(&mut out, 0, self.reason as u64);
        put_head(&mut out, 0, u64::from(self.attempts));
        put_head(&mut out, 2, self.original.len() as u64);
        out.extend_from_slice(&self.original);
        out.into()
    }

    /// Reads exactly what [`encode`](Self::encode) gives; `None` for anything else. The original shares
    /// the memory of `bytes`.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != 4 || reader.u8()? != Self::VERSION {
            return None;
        }
        let reason = Reason::from_number(reader.u8()?)?;
        let attempts = reader.u32()?;
        let original = reader.bytes()?;
        reader.is_at_end().then(|| Self { reason, attempts, original: bytes.slice_ref(original) })
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, attempts, original } = self;
        f.debug_struct("DeadLetter")
            .field("reason", reason)
            .field("attempts", attempts)
            .field("original_bytes", &original.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_survive_a_round_trip_and_nothing_else_is_one() {
        for reason in Reason::ALL {
            let letter = DeadLetter { reason, attempts: 300, original: Bytes::from_static(b"\0sealed") };
            let encoded = letter.encode();
            assert!(encoded.len() <= letter.original.len() + 16);
            assert_eq!(DeadLetter::decode(&encoded), Some(letter));
            for end in 0..encoded.len() {
                assert_eq!(DeadLetter::decode(&encoded.slice(..end)), None);
            }
            let trailing = Bytes::from([&encoded[..], &[0]].concat());
            assert_eq!(DeadLetter::decode(&trailing), None);
        }
        let unknown = Bytes::from_static(&[0x84, 1, 7, 1, 0x41, 0]);
        assert_eq!(DeadLetter::decode(&unknown), None);
    }
}
