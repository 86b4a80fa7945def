//! Attestations: an identity says what one of its other keys is for, and for how long.
//!
//! Specification: docs/protocol.md §3.1, `KeyAttest`.

use std::fmt;

use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};
use onward_keys::{KeyUsage, SignatureType};

use super::change::KEY_BYTES_MAX;
use super::history::{VerifiedHistory, body};
use super::{ChangeHash, Identifier, IdentityError};
use crate::signed::Signed;
use crate::strict;

/// What an attested key is for: every usage of a key but that of the identity's own key.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Purpose(KeyUsage);

impl Purpose {
    /// X25519, the static key of secure channels.
    pub const CHANNEL_STATIC: Self = Self(KeyUsage::ChannelStatic);
    /// Signs credentials.
    pub const CREDENTIAL_SIGNING: Self = Self(KeyUsage::CredentialSigning);
    /// Signs prekeys.
    pub const PREKEY_SIGNING: Self = Self(KeyUsage::PrekeySigning);
    /// Signs the heads of an audit log.
    pub const AUDIT_SIGNING: Self = Self(KeyUsage::AuditSigning);
    /// Signs disposable keys and what is sealed to them.
    pub const OK2CRY_SIGNING: Self = Self(KeyUsage::Ok2crySigning);
    /// Ed25519, signs messages to offline receivers and the steps of entangled sessions.
    pub const MESSAGE_SIGNING: Self = Self(KeyUsage::MessageSigning);
    /// X25519, the static key of envelopes.
    pub const ENVELOPE_STATIC: Self = Self(KeyUsage::EnvelopeStatic);
    /// X25519, the static key of disposable-key exchanges.
    pub const OK2CRY_STATIC: Self = Self(KeyUsage::Ok2cryStatic);

    /// The purpose of a key made for `usage`; `None` for an identity's own key, which is not attested.
    #[must_use]
    pub fn new(usage: KeyUsage) -> Option<Self> {
        usage.purpose().map(|_| Self(usage))
    }

    /// The usage that a key of this purpose is generated for.
    #[must_use]
    pub fn usage(self) -> KeyUsage {
        self.0
    }

    /// Whether a key of `bytes` bytes can serve the purpose: the X25519 and the message keys have exactly 32.
    pub(super) fn fits(self, bytes: usize) -> bool {
        if self.0.agrees() || self == Self::MESSAGE_SIGNING {
            bytes == 32
        } else {
            (1..=KEY_BYTES_MAX).contains(&bytes)
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The body of an attestation, as stated by whoever signed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyAttest {
    /// The identity that speaks.
    pub subject: Identifier,
    /// The change that holds the signing key.
    pub change: ChangeHash,
    /// What the attested key is for.
    pub purpose: Purpose,
    /// The attested public key.
    pub key: Vec<u8>,
    /// When the statement was made, Unix seconds.
    pub iat: u64,
    /// When it ends, Unix seconds, excluded.
    pub exp: u64,
}

impl<C> Encode<C> for KeyAttest {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        // A purpose always has a number: that is what tells it from a usage.
        let purpose = self.purpose.0.purpose().unwrap_or_default();
        e.array(7)?.u8(VERSION)?.bytes(self.subject.as_bytes())?.bytes(self.change.as_bytes())?;
        e.u8(purpose)?.bytes(&self.key)?.u64(self.iat)?.u64(self.exp)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for KeyAttest {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        strict::array(d, 7)?;
        strict::version(d, VERSION)?;
        let subject = Identifier::from_bytes(strict::bytes_exact(d)?);
        let change = ChangeHash::from_bytes(strict::bytes_exact(d)?);
        let number = d.u8()?;
        let usage = KeyUsage::from_purpose(number).ok_or_else(|| strict::refuse(d, "unknown purpose"))?;
        let purpose = Purpose(usage);
        let key = strict::bytes(d, KEY_BYTES_MAX)?.to_vec();
        if !purpose.fits(key.len()) {
            return Err(strict::refuse(d, "key that does not fit its purpose"));
        }
        Ok(Self { subject, change, purpose, key, iat: d.u64()?, exp: d.u64()? })
    }
}

/// An attestation with its signature, well-formed but not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attestation {
    signed: Signed,
    attest: KeyAttest,
}

impl Attestation {
    /// Takes `signed` as an attestation.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`] when the body is none.
    pub fn new(signed: Signed) -> Result<Self, IdentityError> {
        let attest = strict::decode(signed.body(), crate::signed::BODY_BYTES_MAX)?;
        Ok(Self { signed, attest })
    }

    /// Decodes an attestation that stands alone.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        Self::new(Signed::decode(bytes)?)
    }

    /// The strict encoding of the `Signed`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.signed.encode()
    }

    /// What is stated.
    #[must_use]
    pub fn attest(&self) -> &KeyAttest {
        &self.attest
    }

    /// What is stated, with its signature.
    #[must_use]
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// Checks that the identity of `history` attests the key for `purpose`, in force at `now` (Unix seconds).
    ///
    /// # Errors
    /// In this order: [`IdentityError::OtherPurpose`]; what [`VerifiedHistory::signing_key`] and [`Signed::verify`]
    /// say; [`IdentityError::OtherSubject`]; what is wrong with the times.
    ///
    /// Source: docs/protocol.md §3.1.
    pub fn verify(&self, history: &VerifiedHistory, purpose: Purpose, now: u64) -> Result<(), IdentityError> {
        self.verify_unless(false, history, purpose, now)
    }

    /// As [`Attestation::verify`], but computes no signature if exactly these bytes are known to be `signed` well.
    pub(super) fn verify_unless(
        &self,
        signed: bool,
        history: &VerifiedHistory,
        purpose: Purpose,
        now: u64,
    ) -> Result<(), IdentityError> {
        let attest = &self.attest;
        if attest.purpose != purpose {
            return Err(IdentityError::OtherPurpose { expected: purpose, found: attest.purpose });
        }
        let key = history.signing_key(&attest.change, attest.iat)?;
        if !signed {
            self.signed.verify(SignatureType::KeyAttest, &[key])?;
        }
        if attest.subject != history.identifier() {
            return Err(IdentityError::OtherSubject(history.identifier()));
        }
        check_times(attest.iat, attest.exp, now)
    }
}

impl<C> Encode<C> for Attestation {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.encode(&self.signed)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Attestation {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let signed: Signed = d.decode()?;
        let attest = body(&signed)?;
        Ok(Self { signed, attest })
    }
}

/// Checks a statement's own times: not from the future, not ended, not empty.
pub(super) fn check_times(iat: u64, exp: u64, now: u64) -> Result<(), IdentityError> {
    if iat > now.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(IdentityError::NotYetValid { iat, now });
    }
    if now >= exp {
        return Err(IdentityError::Expired { exp, now });
    }
    if iat >= exp {
        return Err(IdentityError::BadPeriod { iat, exp });
    }
    Ok(())
}

const VERSION: u8 = 1;

/// How far ahead of ours a peer's clock may run.
const CLOCK_SKEW_SECONDS: u64 = 300;
