//! Signatures: public keys, strict verification, and what is signed.
//!
//! A signature always covers a type: the signed bytes are `L("sig", TYPE, body)`, and a verifier names the type it
//! expects, so a signature made for one structure is never valid for another. One implementation serves all
//! backends, so that every endpoint accepts the same signatures.
//!
//! Specification: docs/protocol.md §0 (typed signatures); RFC 8032, FIPS 186-5.

use std::fmt;

use crate::Label;

/// A signature algorithm, by its number on the wire (`alg`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// Ed25519: keys of 32 bytes, signatures of 64.
    Ed25519 = 1,
    /// ECDSA over P-256 with SHA-256: compressed SEC1 keys of 33 bytes, signatures `r || s` of 64.
    EcdsaP256 = 2,
    /// ML-DSA-65: keys of 1 952 bytes, signatures of 3 309. Recognised, but not computed yet.
    MlDsa65 = 3,
}

impl SignatureAlgorithm {
    /// The algorithm's number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The exact length of a public key, in bytes.
    #[must_use]
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::EcdsaP256 => 33,
            Self::MlDsa65 => 1952,
        }
    }

    /// The exact length of a signature, in bytes.
    #[must_use]
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 | Self::EcdsaP256 => 64,
            Self::MlDsa65 => 3309,
        }
    }
}

impl TryFrom<u8> for SignatureAlgorithm {
    type Error = SignatureError;

    fn try_from(number: u8) -> Result<Self, SignatureError> {
        match number {
            1 => Ok(Self::Ed25519),
            2 => Ok(Self::EcdsaP256),
            3 => Ok(Self::MlDsa65),
            _ => Err(SignatureError::Unsupported),
        }
    }
}

/// What a signed body is (`TYPE`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)] // each is the structure of its name in docs/protocol.md
#[non_exhaustive]
pub enum SignatureType {
    IdentityChange,
    KeyAttest,
    Credential,
    Prekey,
    PrekeyIssue,
    SfMessage,
    Ok2cryKey,
    Ok2crySealed,
    EsStep,
    EsDesync,
    EsDead,
    AuditSth,
    Release,
}

impl SignatureType {
    /// Every type, in the order of the specification.
    pub const ALL: [Self; 13] = [
        Self::IdentityChange,
        Self::KeyAttest,
        Self::Credential,
        Self::Prekey,
        Self::PrekeyIssue,
        Self::SfMessage,
        Self::Ok2cryKey,
        Self::Ok2crySealed,
        Self::EsStep,
        Self::EsDesync,
        Self::EsDead,
        Self::AuditSth,
        Self::Release,
    ];

    /// The type's text inside the signed bytes.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::IdentityChange => "identity-change",
            Self::KeyAttest => "key-attest",
            Self::Credential => "credential",
            Self::Prekey => "prekey",
            Self::PrekeyIssue => "prekey-issue",
            Self::SfMessage => "sf-message",
            Self::Ok2cryKey => "ok2cry-key",
            Self::Ok2crySealed => "ok2cry-sealed",
            Self::EsStep => "es-step",
            Self::EsDesync => "es-desync",
            Self::EsDead => "es-dead",
            Self::AuditSth => "audit-sth",
            Self::Release => "release",
        }
    }
}

impl fmt::Display for SignatureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The bytes that a typed signature covers: `L("sig", TYPE, body)`, with `body` as it is carried.
#[must_use]
pub fn signed_bytes(kind: SignatureType, body: &[u8]) -> Vec<u8> {
    Label::new("sig").text(kind.text()).bytes(body).encode()
}

/// A signature and its algorithm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature {
    /// The algorithm, which must be that of the key.
    pub algorithm: SignatureAlgorithm,
    /// [`SignatureAlgorithm::signature_bytes`] bytes.
    pub bytes: Vec<u8>,
}

/// Why a public key or a signature was refused. The peer is at fault, except for [`SignatureError::Unsupported`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The algorithm is unknown, or known but not computed by this version.
    #[error("signature algorithm not supported")]
    Unsupported,
    /// The bytes are no public key of this algorithm.
    #[error("malformed public key")]
    MalformedKey,
    /// The signature is of another algorithm, malformed, not canonical, or not by this key over these bytes.
    #[error("signature not valid")]
    NotValid,
}

/// A public signature key of the right length for its algorithm.
///
/// Two keys are equal only if their bytes are; bytes that are no point of the curve are refused at verification.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct PublicKey {
    algorithm: SignatureAlgorithm,
    bytes: Box<[u8]>,
}

impl PublicKey {
    /// Takes `bytes` as a key of `algorithm`.
    ///
    /// # Errors
    /// [`SignatureError::MalformedKey`] when the length does not fit.
    pub fn new(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Result<Self, SignatureError> {
        if bytes.len() != algorithm.public_key_bytes() {
            return Err(SignatureError::MalformedKey);
        }
        Ok(Self {
            algorithm,
            bytes: bytes.into(),
        })
    }

    /// An Ed25519 key made here.
    pub(crate) fn ed25519(bytes: [u8; 32]) -> Self {
        Self {
            algorithm: SignatureAlgorithm::Ed25519,
            bytes: bytes.into(),
        }
    }

    /// The key's algorithm.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The key as carried: 32, 33 (compressed SEC1) or 1 952 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks that this key signed `body` as a `kind`.
    ///
    /// # Errors
    /// As [`PublicKey::verify_message`].
    pub fn verify(
        &self,
        kind: SignatureType,
        body: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        self.verify_message(&signed_bytes(kind, body), signature)
    }

    /// Checks a signature over `message` as it stands. For known-answer tests and foreign formats; what this project
    /// signs goes through [`PublicKey::verify`].
    ///
    /// # Errors
    /// [`SignatureError`]: unsupported algorithm, key off the curve, or signature not valid.
    pub fn verify_message(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        if signature.algorithm != self.algorithm {
            return Err(SignatureError::NotValid);
        }
        match self.algorithm {
            SignatureAlgorithm::Ed25519 => self.verify_ed25519(message, &signature.bytes),
            SignatureAlgorithm::EcdsaP256 => self.verify_ecdsa(message, &signature.bytes),
            SignatureAlgorithm::MlDsa65 => Err(SignatureError::Unsupported),
        }
    }

    /// Strict: canonical S, no small-order A or R, and the cofactorless equation.
    fn verify_ed25519(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let bytes = self.bytes.as_ref().try_into();
        let key = bytes.map(|bytes| ed25519_dalek::VerifyingKey::from_bytes(&bytes));
        let Ok(Ok(key)) = key else {
            return Err(SignatureError::MalformedKey);
        };
        let signature = ed25519_dalek::Signature::from_slice(signature)
            .map_err(|_| SignatureError::NotValid)?;
        key.verify_strict(message, &signature)
            .map_err(|_| SignatureError::NotValid)
    }

    /// Only low S: the other half of the pair `(r, s)`, `(r, n - s)` would be a second valid signature.
    fn verify_ecdsa(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        use p256::ecdsa::signature::Verifier as _;
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&self.bytes)
            .map_err(|_| SignatureError::MalformedKey)?;
        let signature =
            p256::ecdsa::Signature::from_slice(signature).map_err(|_| SignatureError::NotValid)?;
        if signature.normalize_s() != signature {
            return Err(SignatureError::NotValid);
        }
        key.verify(message, &signature)
            .map_err(|_| SignatureError::NotValid)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Display for PublicKey {
    /// The algorithm and the first eight bytes in hexadecimal: to recognise a key, not to compare it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:", self.algorithm)?;
        for byte in &self.bytes[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("..")
    }
}
