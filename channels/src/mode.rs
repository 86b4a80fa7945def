//! Modes and suites: which Noise protocol a handshake runs. There is no negotiation between them.
//!
//! Specification: docs/protocol.md §3.2.

use onward_keys::AeadAlgorithm;

/// A handshake mode, by its number on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mode {
    /// XX with ML-KEM-768 beside X25519: the default.
    HybridXx = 1,
    /// XX with X25519 alone, for links where 2.3 KiB of handshake hurts.
    ClassicalXx = 2,
}

impl Mode {
    /// The mode with this number, if this version has it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::HybridXx),
            2 => Some(Self::ClassicalXx),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Bytes of the three Noise messages when their payloads are empty.
    pub(crate) fn message_bytes(self) -> [usize; 3] {
        match self {
            Self::HybridXx => [1216, 1200, 64],
            Self::ClassicalXx => [32, 96, 64],
        }
    }
}

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
