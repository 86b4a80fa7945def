//! The vault: who holds a private key answers for it.
//!
//! A caller names a key and asks for an operation; the private key never crosses this trait. What a key may do is
//! fixed when it is made, so that no caller can turn an identity key into a message key or a static key into an oracle.
//!
//! Specification: docs/protocol.md §7.2, §3.1 (purposes).

use std::fmt;
use std::pin::Pin;

use crate::general::General;
use crate::{KeyError, PublicKey, SharedSecret, Signature, SignatureType};

/// An answer to come. Boxed, so that [`Vault`] is object safe; a vault is asked once per handshake, not per message.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyError>> + Send + 'a>>;

/// Holds private keys and computes with them.
///
/// Every operation but [`Vault::public`] and [`Vault::list`] fails with [`KeyError::Locked`] while the vault is
/// locked, and any with [`KeyError::Unavailable`] when the vault cannot be reached.
///
/// # Cancel safety
/// Dropping an answer cancels nothing that has begun: [`Vault::generate`] may leave a key, which [`Vault::list`] shows.
pub trait Vault: fmt::Debug + Send + Sync {
    /// Makes a key for `usage` and nothing else.
    ///
    /// # Errors
    /// [`KeyError::NotOffered`] for a key that this vault does not make.
    fn generate(&self, usage: KeyUsage) -> Answer<'_, KeyId>;

    /// The public half of `key`.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    fn public(&self, key: KeyId) -> Answer<'_, PublicHalf>;

    /// Signs `L("sig", kind, body)` (docs/protocol.md §0).
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`]; [`KeyError::WrongUsage`] when the key may not sign a `kind`.
    fn sign<'a>(&'a self, key: KeyId, kind: SignatureType, body: &'a [u8]) -> Answer<'a, Signature>;

    /// Agrees by X25519 with the owner of `peer` (32 bytes).
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`]; [`KeyError::WrongUsage`] for a signing key; [`KeyError::NonContributory`] for a point
    /// of low order.
    fn agree<'a>(&'a self, key: KeyId, peer: &'a [u8; 32]) -> Answer<'a, SharedSecret>;

    /// Every key this caller may see, ordered by id.
    fn list(&self) -> Answer<'_, Vec<KeyInfo>>;

    /// Destroys `key`; a durable vault has removed it from its store when it answers.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    fn delete(&self, key: KeyId) -> Answer<'_, ()>;

    /// What protects the keys, in a sentence for people.
    fn protection(&self) -> &str;
}

/// Names a key of one vault: 16 random bytes, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id with these bytes, as a vault gave them out.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads exactly what [`fmt::Display`] writes: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// What a key is for, fixed when it is made: the identity's own key, or one of the purposes a `KeyAttest` can name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum KeyUsage {
    /// The primary key of an identity: signs its changes and attests its other keys. Has no purpose number.
    Identity,
    /// Purpose 1: X25519, the static key of secure channels.
    ChannelStatic,
    /// Purpose 2: Ed25519, signs credentials.
    CredentialSigning,
    /// Purpose 3: Ed25519, signs prekeys.
    PrekeySigning,
    /// Purpose 4: Ed25519, signs the heads of an audit log.
    AuditSigning,
    /// Purpose 5: Ed25519, signs disposable keys and what is sealed to them.
    Ok2crySigning,
    /// Purpose 6: Ed25519, signs messages to offline receivers, the steps of entangled sessions, and prekey issues.
    MessageSigning,
    /// Purpose 7: X25519, the static key of envelopes.
    EnvelopeStatic,
    /// Purpose 8: X25519, the static key of disposable-key exchanges.
    Ok2cryStatic,
    /// Of general use, in a key service: no key of this project's protocols.
    General(General),
}

impl KeyUsage {
    /// Every usage of this project's protocols; [`General::ALL`] has the others.
    pub const ALL: [Self; 9] = [
        Self::Identity,
        Self::ChannelStatic,
        Self::CredentialSigning,
        Self::PrekeySigning,
        Self::AuditSigning,
        Self::Ok2crySigning,
        Self::MessageSigning,
        Self::EnvelopeStatic,
        Self::Ok2cryStatic,
    ];

    /// The purpose number of a `KeyAttest` (docs/protocol.md §3.1), or none for a key that is not attested: an identity's
    /// own, and those of general use.
    #[must_use]
    pub const fn purpose(self) -> Option<u8> {
        match self {
            Self::Identity | Self::General(_) => None,
            Self::ChannelStatic => Some(1),
            Self::CredentialSigning => Some(2),
            Self::PrekeySigning => Some(3),
            Self::AuditSigning => Some(4),
            Self::Ok2crySigning => Some(5),
            Self::MessageSigning => Some(6),
            Self::EnvelopeStatic => Some(7),
            Self::Ok2cryStatic => Some(8),
        }
    }

    /// The type and family of a key of general use.
    #[must_use]
    pub const fn general(self) -> Option<General> {
        match self {
            Self::General(general) => Some(general),
            _ => None,
        }
    }

    /// The usage's number in the messages and the store of the key service: its purpose, 0 for an identity's own key, or
    /// the [`General::number`], which is above 255.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::General(general) => general.number(),
            usage => usage.purpose().unwrap_or(0).into(),
        }
    }

    /// The usage with this [`KeyUsage::number`].
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        let own = Self::ALL.into_iter().find(|usage| usage.number() == number);
        own.or_else(|| General::from_number(number).map(Self::General))
    }

    /// The usage with this purpose number.
    #[must_use]
    pub fn from_purpose(purpose: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|usage| usage.purpose() == Some(purpose))
    }

    /// Whether the key is the X25519 key of a protocol, which agrees; every other key of a protocol signs.
    #[must_use]
    pub const fn agrees(self) -> bool {
        matches!(self, Self::ChannelStatic | Self::EnvelopeStatic | Self::Ok2cryStatic)
    }

    /// Whether the key may sign a `kind`.
    #[must_use]
    pub const fn signs(self, kind: SignatureType) -> bool {
        use SignatureType as T;
        match self {
            Self::Identity => matches!(kind, T::IdentityChange | T::KeyAttest),
            Self::CredentialSigning => matches!(kind, T::Credential),
            Self::PrekeySigning => matches!(kind, T::Prekey),
            Self::AuditSigning => matches!(kind, T::AuditSth),
            Self::Ok2crySigning => matches!(kind, T::Ok2cryKey | T::Ok2crySealed),
            Self::MessageSigning => {
                matches!(kind, T::SfMessage | T::PrekeyIssue | T::EsStep | T::EsDesync | T::EsDead)
            }
            Self::ChannelStatic | Self::EnvelopeStatic | Self::Ok2cryStatic | Self::General(_) => false,
        }
    }

    /// The usage's name in key files and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::ChannelStatic => "channel-static",
            Self::CredentialSigning => "credential-signing",
            Self::PrekeySigning => "prekey-signing",
            Self::AuditSigning => "audit-signing",
            Self::Ok2crySigning => "ok2cry-signing",
            Self::MessageSigning => "message-signing",
            Self::EnvelopeStatic => "envelope-static",
            Self::Ok2cryStatic => "ok2cry-static",
            Self::General(general) => general.name(),
        }
    }

    /// The name of the key's type.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::General(general) => general.type_name(),
            usage if usage.agrees() => "x25519",
            _ => "ed25519",
        }
    }

    /// The usage of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let own = Self::ALL.into_iter().find(|usage| usage.name() == name);
        own.or_else(|| General::parse(name).map(Self::General))
    }
}

impl fmt::Display for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The public half of a key, by what it can do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PublicHalf {
    /// Verifies signatures.
    Verify(PublicKey),
    /// Is agreed with: an X25519 public key, 32 bytes.
    Agree([u8; 32]),
    /// Of a key of general use, in the form of its type; of a symmetric key a fingerprint.
    General(Vec<u8>),
}

impl PublicHalf {
    /// The key as a `KeyAttest` carries it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Verify(key) => key.as_bytes(),
            Self::Agree(key) => key,
            Self::General(key) => key,
        }
    }
}

/// What a vault tells about a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyInfo {
    /// The key's name in this vault.
    pub id: KeyId,
    /// What it may do.
    pub usage: KeyUsage,
    /// Its public half.
    pub public: PublicHalf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = KeyId::from_bytes(std::array::from_fn(|at| at as u8 * 0x11));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(KeyId::parse(&id.to_string()), Some(id));
        for text in [
            "",
            "00112233445566778899AABBCCDDEEFF",
            "00112233445566778899aabbccddeef",
            "00112233445566778899aabbccddeeff0",
            "0011223344556677 899aabbccddeeff0",
            "g0112233445566778899aabbccddeeff",
        ] {
            assert_eq!(KeyId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_purpose_and_name_leads_back_to_its_usage() {
        for purpose in 1..=8 {
            let usage = KeyUsage::from_purpose(purpose).unwrap();
            assert_eq!(usage.purpose(), Some(purpose));
        }
        assert_eq!(KeyUsage::from_purpose(0), None);
        assert_eq!(KeyUsage::from_purpose(9), None);
        for usage in KeyUsage::ALL.into_iter().chain(General::ALL.map(KeyUsage::General)) {
            assert_eq!(KeyUsage::parse(usage.name()), Some(usage));
            assert_eq!(KeyUsage::from_number(usage.number()), Some(usage));
        }
        assert_eq!(KeyUsage::parse("Identity"), None);
    }

    #[test]
    fn a_type_is_signed_by_one_usage_and_an_agreement_key_signs_none() {
        for kind in SignatureType::ALL {
            let signers = KeyUsage::ALL.into_iter().filter(|usage| usage.signs(kind));
            // Releases are signed by maintainers, not by keys of a vault.
            let expected = usize::from(kind != SignatureType::Release);
            assert_eq!(signers.clone().count(), expected, "{kind}");
            assert!(signers.into_iter().all(|usage| !usage.agrees()), "{kind}");
        }
        let agreeing = KeyUsage::ALL.into_iter().filter(|usage| usage.agrees());
        let purposes: Vec<_> = agreeing.map(KeyUsage::purpose).collect();
        assert_eq!(purposes, [Some(1), Some(7), Some(8)]);
    }
}
