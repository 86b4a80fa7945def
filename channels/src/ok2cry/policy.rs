//! Policies: with what an exchange is sealed. Chosen by whoever makes the key, never negotiated.
//!
//! Specification: docs/protocol.md §5.2.

use std::borrow::Cow;
use std::fmt;

use onward_keys::HpkeSuite;

use super::pem;

/// The construction of one exchange, by its number on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u16)]
pub enum Policy {
    /// HPKE base with P-256 and AES-256-GCM; the key is a PEM of 178 bytes.
    Strong = 1,
    /// Noise X: the sealer shows its own attested static key inside.
    Noise = 2,
    /// Noise N: the sealer shows nothing.
    NoiseAnonymous = 3,
    /// HPKE base with X-Wing and ChaCha20-Poly1305. Experimental, until its parts are published standards.
    StrongPq = 4,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Strong, Self::Noise, Self::NoiseAnonymous, Self::StrongPq];

    /// The policy's number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The policy with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.number() == number)
    }

    /// The policy's name in commands and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Noise => "noise",
            Self::NoiseAnonymous => "noise-anonymous",
            Self::StrongPq => "strong-pq",
        }
    }

    /// The policy of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// The suite of HPKE, unless it is a Noise policy.
    #[must_use]
    pub(super) const fn hpke(self) -> Option<HpkeSuite> {
        match self {
            Self::Strong => Some(HpkeSuite::P256Aes256Gcm),
            Self::StrongPq => Some(HpkeSuite::XWingChaCha20Poly1305),
            Self::Noise | Self::NoiseAnonymous => None,
        }
    }

    /// The length of a public key.
    pub(super) fn public_bytes(self) -> usize {
        match self {
            Self::Strong => pem::PEM_BYTES,
            Self::Noise | Self::NoiseAnonymous => 32,
            Self::StrongPq => HpkeSuite::XWingChaCha20Poly1305.public_key_bytes(),
        }
    }

    /// The policy's form of the public key with these bytes.
    pub(super) fn encode_public(self, bytes: Vec<u8>) -> Vec<u8> {
        match (self, bytes.first_chunk()) {
            (Self::Strong, Some(point)) => pem::encode(point),
            _ => bytes,
        }
    }

    /// The bytes of the public key `public`, unless it has not the one form that the policy's keys have. Whether it is a
    /// point, sealing finds out.
    pub(super) fn decode_public(self, public: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Strong => pem::decode(public).map(|point| point.to_vec().into()),
            Self::Noise | Self::NoiseAnonymous | Self::StrongPq => {
                (public.len() == self.public_bytes()).then_some(public.into())
            }
        }
    }

    /// Whether the sealer proves inside of what it seals who it is. What is sealed is then not signed, and who sealed it
    /// is known only to whoever opened it.
    #[must_use]
    pub const fn shows_sealer_inside(self) -> bool {
        match self {
            Self::Noise => true,
            Self::Strong | Self::NoiseAnonymous | Self::StrongPq => false,
        }
    }

    /// The length of `enc`, which the Noise policies have none of.
    pub(super) fn encapsulated_bytes(self) -> Option<usize> {
        self.hpke().map(HpkeSuite::encapsulated_bytes)
    }

    /// The longest ciphertext: 1 MiB, or one Noise message.
    #[must_use]
    pub const fn ciphertext_bytes_max(self) -> usize {
        match self {
            Self::Strong | Self::StrongPq => 1024 * 1024,
            Self::Noise | Self::NoiseAnonymous => 65_535,
        }
    }

    /// By how much a ciphertext is longer than its plaintext: the tag, and in Noise the sealer's keys.
    pub(super) const fn overhead_bytes(self) -> usize {
        match self {
            Self::Strong | Self::StrongPq => 16,
            // An ephemeral key and a tag; with a sealed static key.
            Self::NoiseAnonymous => 32 + 16,
            Self::Noise => 32 + 48 + 16,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which way the secret goes, seen from whoever made the key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Direction {
    /// The answer to a request is sealed to its sender.
    AnswerToMe = 1,
    /// A request is sealed to its receiver.
    RequestToMe = 2,
}

impl Direction {
    /// The direction's number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The direction with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::AnswerToMe),
            2 => Some(Self::RequestToMe),
            _ => None,
        }
    }
}
