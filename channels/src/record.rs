//! The form of a record and of what is inside it, without any key.
//!
//! A record is `n (8, big endian) | ciphertext | tag (16)`; its plaintext is `frame type (1) | body | 0x80 | 0x00*`.
//! Everything here is a pure function of bytes; nothing here decides whether a record is authentic.
//!
//! Specification: docs/protocol.md §3.3.

use std::fmt;

use onward_keys::TAG_BYTES;

use crate::ChannelError;
use crate::identity::PAYLOAD_BYTES_MAX;

/// A record's number within one direction of one channel; its nonce and its epoch are derived from it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Sequence(u64);

impl Sequence {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The key epoch this number belongs to: 65 536 numbers each.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.0 >> EPOCH_BITS
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame's body is. The caller seals these; what arrives is a [`Content`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum FrameType {
    /// One encoded routing message.
    Data = 1,
    /// A piece of an encoded routing message.
    Fragment = 2,
    /// The channel binding, 32 bytes (64 in a re-handshake).
    Confirm = 3,
    /// Nothing: the sender is alive.
    KeepAlive = 4,
    /// An identity payload with newer credentials.
    CredentialUpdate = 5,
    /// The sender has closed the channel.
    Close = 6,
    /// The sender asks the initiator for a new handshake.
    Rehandshake = 7,
}

/// Why a channel was closed, as its peer says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseCode {
    /// It is no longer needed.
    Normal,
    /// Nothing authentic arrived for the idle time.
    Idle,
    /// The policy no longer accepts the peer.
    Policy,
    /// The channel reached its hard age.
    Lifetime,
    /// The closing side failed.
    Internal,
    /// A credential ended.
    Credential,
    /// The node stops; it may come back.
    Shutdown,
    /// The listener has no place for another channel.
    Full,
    /// A code this version does not know.
    Other(u8),
}

impl CloseCode {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Idle => 1,
            Self::Policy => 2,
            Self::Lifetime => 3,
            Self::Internal => 4,
            Self::Credential => 5,
            Self::Shutdown => 6,
            Self::Full => 7,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Normal,
            1 => Self::Idle,
            2 => Self::Policy,
            3 => Self::Lifetime,
            4 => Self::Internal,
            5 => Self::Credential,
            6 => Self::Shutdown,
            7 => Self::Full,
            other => Self::Other(other),
        }
    }
}

/// One piece of a message that does not fit a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment<'a> {
    /// Which message, by the sender's count.
    pub message: u32,
    /// Which piece, from 0; below `count`.
    pub index: u16,
    /// How many pieces the message has, at least 1.
    pub count: u16,
    /// The piece itself.
    pub piece: &'a [u8],
}

/// What an authentic record says. Bodies are borrowed from the buffer the record was opened in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Content<'a> {
    /// One encoded routing message.
    Data(&'a [u8]),
    /// A piece of one; see [`crate::Reassembly`].
    Fragment(Fragment<'a>),
    /// The peer's view of the channel binding: 32 bytes, or 64 in a re-handshake.
    Confirm(&'a [u8]),
    /// The peer is alive.
    KeepAlive,
    /// An identity payload, to be verified as in the handshake.
    CredentialUpdate(&'a [u8]),
    /// The peer has closed the channel.
    Close {
        /// Why.
        code: CloseCode,
        /// Number of the last DATA or FRAG the peer sent; `None` if it sent none.
        last: Option<Sequence>,
    },
    /// The peer asks for a new handshake.
    Rehandshake,
}

/// An authentic, opened record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// The record's number.
    pub sequence: Sequence,
    /// Whether the number is the highest so far: only such a record may move a return route.
    pub newest: bool,
    /// What it says.
    pub content: Content<'a>,
}

impl<'a> Content<'a> {
    /// Parses the plaintext of a record: `type | body | 0x80 | 0x00*`.
    ///
    /// # Errors
    /// [`ChannelError::Malformed`], or [`ChannelError::UnknownFrame`] for a type this version does not know.
    pub(crate) fn parse(plaintext: &'a [u8]) -> Result<Self, ChannelError> {
        let end = plaintext
            .iter()
            .rposition(|&byte| byte != 0)
            .ok_or(ChannelError::Malformed("record without end mark"))?;
        let (unpadded, _) = plaintext.split_at(end + 1);
        let [frame_type, body @ .., END_MARK] = unpadded else {
            return Err(ChannelError::Malformed("record without end mark"));
        };
        match *frame_type {
            1 => Ok(Self::Data(body)),
            2 => parse_fragment(body).map(Self::Fragment),
            3 if matches!(body.len(), 32 | 64) => Ok(Self::Confirm(body)),
            3 => Err(ChannelError::Malformed("CONFIRM of another length")),
            4 if body.is_empty() => Ok(Self::KeepAlive),
            4 => Err(ChannelError::Malformed("KEEPALIVE with a body")),
            5 if (1..=PAYLOAD_BYTES_MAX).contains(&body.len()) => Ok(Self::CredentialUpdate(body)),
            5 => Err(ChannelError::Malformed("CRED_UPDATE of an impossible length")),
            6 => parse_close(body),
            7 if body.is_empty() => Ok(Self::Rehandshake),
            7 => Err(ChannelError::Malformed("REHANDSHAKE with a body")),
            other => Err(ChannelError::UnknownFrame(other)),
        }
    }
}

fn parse_fragment(body: &[u8]) -> Result<Fragment<'_>, ChannelError> {
    let Some((&[m3, m2, m1, m0, i1, i0, c1, c0], piece)) = body.split_first_chunk() else {
        return Err(ChannelError::Malformed("FRAG shorter than its head"));
    };
    let fragment = Fragment {
        message: u32::from_be_bytes([m3, m2, m1, m0]),
        index: u16::from_be_bytes([i1, i0]),
        count: u16::from_be_bytes([c1, c0]),
        piece,
    };
    if fragment.index >= fragment.count {
        return Err(ChannelError::Malformed("FRAG index outside its count"));
    }
    Ok(fragment)
}

fn parse_close(body: &[u8]) -> Result<Content<'_>, ChannelError> {
    let &[code, b7, b6, b5, b4, b3, b2, b1, b0] = body else {
        return Err(ChannelError::Malformed("CLOSE of another length"));
    };
    let last = u64::from_be_bytes([b7, b6, b5, b4, b3, b2, b1, b0]);
    Ok(Content::Close {
        code: CloseCode::from_code(code),
        last: (last != u64::MAX).then_some(Sequence::new(last)),
    })
}

/// How plaintexts are lengthened, so that a record's size says less.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Padding {
    /// Not at all.
    #[default]
    None,
    /// To the next multiple of 256 bytes.
    Multiple256,
    /// Padmé: at most 12 % more, and only O(log log n) of the length shows.
    Padme,
}

impl Padding {
    /// The padded length of a plaintext of `length` bytes, never above [`PLAINTEXT_MAX`] unless `length` is.
    pub(crate) fn padded(self, length: usize) -> usize {
        let padded = match self {
            Self::None => length,
            Self::Multiple256 => length.next_multiple_of(256),
            Self::Padme => padme(length),
        };
        padded.min(PLAINTEXT_MAX.max(length))
    }
}

/// Rounds up so that the last `E − S` bits are zero: E = ⌊log2 L⌋, S = ⌊log2 E⌋ + 1.
///
/// Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", §4.
fn padme(length: usize) -> usize {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let significant = exponent.checked_ilog2().map_or(0, |log| log + 1);
    length.next_multiple_of(1 << exponent.saturating_sub(significant))
}

/// Bytes in front of the ciphertext: the number.
pub const HEAD_BYTES: usize = 8;

/// Bytes in front of a body that is sealed where it lies: the number and the frame type.
pub const HEAD_ROOM: usize = HEAD_BYTES + 1;

/// What a record adds to its body without padding: number (8), type (1), end mark (1), tag (16).
pub const OVERHEAD: usize = HEAD_ROOM + 1 + TAG_BYTES;

/// Longest plaintext: AEAD output is at most 65 535 bytes.
pub(crate) const PLAINTEXT_MAX: usize = 65_535 - TAG_BYTES;

/// Longest body of one record, in bytes.
pub const BODY_MAX: usize = PLAINTEXT_MAX - 2;

/// What a FRAG body has in front of its piece: message (4), index (2), count (2).
pub const FRAGMENT_HEAD_BYTES: usize = 8;

/// Longest piece of one FRAG, in bytes.
pub const PIECE_MAX: usize = BODY_MAX - FRAGMENT_HEAD_BYTES;

pub(crate) const EPOCH_BITS: u32 = 16;

/// Follows the body, so that padding can be taken off without a length field.
pub(crate) const END_MARK: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_type_parses() {
        assert_eq!(Content::parse(b"\x01hi\x80").unwrap(), Content::Data(b"hi"));
        assert_eq!(Content::parse(b"\x01\x80\x80\0\0\0").unwrap(), Content::Data(b"\x80"));
        assert_eq!(Content::parse(b"\x04\x80").unwrap(), Content::KeepAlive);
        assert_eq!(Content::parse(b"\x07\x80\0").unwrap(), Content::Rehandshake);
        let payload = [&b"\x05"[..], &[0x83; PAYLOAD_BYTES_MAX], b"\x80"].concat();
        assert_eq!(Content::parse(&payload).unwrap(), Content::CredentialUpdate(&[0x83; PAYLOAD_BYTES_MAX]));
        assert_eq!(
            Content::parse(b"\x02\0\0\0\x09\0\x01\0\x02abc\x80").unwrap(),
            Content::Fragment(Fragment { message: 9, index: 1, count: 2, piece: b"abc" })
        );
        assert_eq!(
            Content::parse(b"\x06\x03\0\0\0\0\0\0\0\x05\x80").unwrap(),
            Content::Close { code: CloseCode::Lifetime, last: Some(Sequence::new(5)) }
        );
        assert_eq!(
            Content::parse(b"\x06\x00\xff\xff\xff\xff\xff\xff\xff\xff\x80").unwrap(),
            Content::Close { code: CloseCode::Normal, last: None }
        );
    }

    #[test]
    fn plaintexts_without_form_are_refused() {
        for plaintext in [
            &b""[..],
            b"\0\0\0",
            b"\x80",
            b"\x01hi",
            b"\x01hi\x81\0",
            b"\x02\0\0\0\x09\0\x02\0\x02abc\x80",
            b"\x02\0\0\0\x09\0\0\0\0abc\x80",
            b"\x02\0\0\0\x09\0\x80",
            b"\x03short\x80",
            b"\x04x\x80",
            b"\x06\0\0\x80",
            b"\x05\x80",
            &[&b"\x05"[..], &[0x83; PAYLOAD_BYTES_MAX + 1], b"\x80"].concat(),
            b"\x07x\x80",
        ] {
            assert!(matches!(Content::parse(plaintext), Err(ChannelError::Malformed(_))), "{plaintext:?}");
        }
        assert!(matches!(Content::parse(b"\x08\x80"), Err(ChannelError::UnknownFrame(8))));
        assert!(matches!(Content::parse(b"\0\x80"), Err(ChannelError::UnknownFrame(0))));
    }

    #[test]
    fn padding_never_shrinks_and_never_exceeds_a_record() {
        for length in (2..5000).chain(60_000..=PLAINTEXT_MAX) {
            for padding in [Padding::None, Padding::Multiple256, Padding::Padme] {
                let padded = padding.padded(length);
                assert!(padded >= length && padded <= PLAINTEXT_MAX, "{padding:?} {length}");
            }
            assert!(Padding::Padme.padded(length) * 100 <= length * 112 + 100);
        }
        assert_eq!(Padding::Multiple256.padded(257), 512);
        assert_eq!(Padding::Padme.padded(1000), 1024);
        assert_eq!(Padding::Padme.padded(9), 10);
    }

    #[test]
    fn close_codes_are_stable() {
        for code in 0..=u8::MAX {
            assert_eq!(CloseCode::from_code(code).code(), code);
        }
    }
}
