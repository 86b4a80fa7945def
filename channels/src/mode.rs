//! Modes and suites: which Noise protocol a handshake runs. There is no negotiation between them.
//!
//! Everything that differs between modes is asked here; the state machines never name one.
//!
//! Specification: docs/protocol.md §3.2.

use std::ops::RangeInclusive;

use onward_keys::AeadAlgorithm;

use crate::identity::PAYLOAD_BYTES_MAX;

/// A handshake mode, by its number on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mode {
    /// XX with ML-KEM-768 beside X25519: the default.
    HybridXx = 1,
    /// XX with X25519 alone, for links where 2.3 KiB of handshake hurts.
    ClassicalXx = 2,
    /// [`Mode::HybridXx`] with a key that was shared before.
    HybridXxPsk = 3,
    /// [`Mode::ClassicalXx`] with a key that was shared before.
    ClassicalXxPsk = 4,
    /// IK with ML-KEM-768: two messages to a responder whose attested static key is known.
    HybridIk = 5,
    /// IK with X25519 alone.
    ClassicalIk = 6,
    /// KK: both ends know each other's attested static key.
    Kk = 7,
    /// Resumption of an earlier channel, with a key that is used once.
    Resumption = 8,
}

impl Mode {
    /// Every mode, by number.
    pub const ALL: [Self; 8] = [
        Self::HybridXx,
        Self::ClassicalXx,
        Self::HybridXxPsk,
        Self::ClassicalXxPsk,
        Self::HybridIk,
        Self::ClassicalIk,
        Self::Kk,
        Self::Resumption,
    ];

    /// The mode with this number, if this version has it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.number() == number)
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// It with either cipher, as an allow-list wants it.
    #[must_use]
    pub fn in_every_suite(self) -> [(Self, Suite); 2] {
        [(self, Suite::ChaChaPoly), (self, Suite::AesGcm)]
    }

    /// Whether it has ML-KEM-768 beside X25519.
    #[must_use]
    pub fn is_hybrid(self) -> bool {
        matches!(self, Self::HybridXx | Self::HybridXxPsk | Self::HybridIk)
    }

    /// Whether it mixes in a pre-shared key, which its messages then name.
    #[must_use]
    pub fn has_psk(self) -> bool {
        matches!(self, Self::HybridXxPsk | Self::ClassicalXxPsk | Self::Resumption)
    }

    /// Whether the keys are there after two messages; the initiator's CONFIRM then takes the third one's place.
    #[must_use]
    pub fn has_two_messages(self) -> bool {
        matches!(self, Self::HybridIk | Self::ClassicalIk | Self::Kk | Self::Resumption)
    }

    /// Whether both ends send identity payloads; where not, they rest on payloads that they hold already.
    #[must_use]
    pub fn shows_identities(self) -> bool {
        !matches!(self, Self::Kk | Self::Resumption)
    }

    /// Whether it is [`Mode::Resumption`], which needs no static key and can be tried once.
    #[must_use]
    pub fn is_resumption(self) -> bool {
        self == Self::Resumption
    }

    /// Whether a channel of this mode may take the place of one of mode `old`: it is the same, or shows identities
    /// and lacks neither the KEM nor the pre-shared key of the old one.
    pub(crate) fn may_replace(self, old: Self) -> bool {
        let lacks_kem = old.is_hybrid() && !self.is_hybrid();
        let lacks_psk = matches!(old, Self::HybridXxPsk | Self::ClassicalXxPsk) && !self.has_psk();
        self == old || (self.shows_identities() && !lacks_kem && !lacks_psk)
    }

    /// Bytes of the Noise messages when their payloads are empty; there is no third where it is 0.
    pub(crate) fn message_bytes(self) -> [usize; 3] {
        match self {
            Self::HybridXx => [1216, 1200, 64],
            Self::ClassicalXx => [32, 96, 64],
            Self::HybridXxPsk => [1248, 1200, 64],
            Self::ClassicalXxPsk => [48, 96, 64],
            Self::HybridIk => [1296, 1152, 0],
            Self::ClassicalIk => [96, 48, 0],
            Self::Kk | Self::Resumption => [48, 48, 0],
        }
    }

    /// Lengths that a first Noise message may have: around padding, an identity payload, or nothing but the channel
    /// that is to be replaced.
    pub(crate) fn first_lengths(self) -> RangeInclusive<usize> {
        let [empty, _, _] = self.message_bytes();
        let payload_max = match (self.shows_identities(), self.has_two_messages()) {
            (true, true) => PAYLOAD_BYTES_MAX,
            (true, false) => FIRST_PADDING_MAX,
            (false, _) => REPLACED_BYTES,
        };
        empty..=empty + payload_max
    }

    /// Lengths that a second Noise message may have.
    pub(crate) fn second_lengths(self) -> RangeInclusive<usize> {
        let [_, empty, _] = self.message_bytes();
        empty..=empty + if self.shows_identities() { PAYLOAD_BYTES_MAX } else { 0 }
    }

    /// Lengths that a third Noise message may have; none where there is no third.
    pub(crate) fn third_lengths(self) -> RangeInclusive<usize> {
        let [_, _, empty] = self.message_bytes();
        match empty {
            0 => RangeInclusive::new(1, 0),
            empty => empty..=empty + PAYLOAD_BYTES_MAX,
        }
    }
}

/// Most bytes of padding in a first message.
pub(crate) const FIRST_PADDING_MAX: usize = 1024;
/// Length of the payload by which a mode without identity payloads names the channel that it replaces.
pub(crate) const REPLACED_BYTES: usize = 32;

/// The AEAD of a handshake and of its records; the hash is BLAKE2s in every suite.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
#[non_exhaustive]
pub enum Suite {
    /// ChaCha20-Poly1305.
    ChaChaPoly = 1,
    /// AES-256-GCM, faster where the processor has instructions for it.
    AesGcm = 2,
}

impl Suite {
    /// The suite with this number, if this version has it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::ChaChaPoly),
            2 => Some(Self::AesGcm),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    pub(crate) fn algorithm(self) -> AeadAlgorithm {
        match self {
            Self::ChaChaPoly => AeadAlgorithm::ChaCha20Poly1305,
            Self::AesGcm => AeadAlgorithm::Aes256Gcm,
        }
    }
}
