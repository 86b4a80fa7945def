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
        Ok(Self { algorithm, bytes: bytes.into() })
    }

    /// An Ed25519 key made here.
    pub(crate) fn ed25519(bytes: [u8; 32]) -> Self {
        Self { algorithm: SignatureAlgorithm::Ed25519, bytes: bytes.into() }
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
    pub fn verify_message(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
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
        let signature =
            ed25519_dalek::Signature::from_slice(signature).map_err(|_| SignatureError::NotValid)?;
        key.verify_strict(message, &signature).map_err(|_| SignatureError::NotValid)
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
        key.verify(message, &signature).map_err(|_| SignatureError::NotValid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_bytes_are_the_label_of_type_and_body() {
        assert_eq!(
            hex::encode(signed_bytes(SignatureType::Release, b"body")),
            "84686f6e776172642f31637369676772656c6561736544626f6479"
        );
    }

    #[test]
    fn the_types_have_the_texts_of_the_specification() {
        let texts = SignatureType::ALL.map(SignatureType::text).join(" ");
        assert_eq!(
            texts,
            "identity-change key-attest credential prekey prekey-issue sf-message ok2cry-key ok2cry-sealed \
             es-step es-desync es-dead audit-sth release"
        );
    }

    #[test]
    fn algorithms_have_their_numbers_and_sizes() {
        for (number, key, signature) in [(1, 32, 64), (2, 33, 64), (3, 1952, 3309)] {
            let algorithm = SignatureAlgorithm::try_from(number).unwrap();
            assert_eq!(algorithm.number(), number);
            assert_eq!(algorithm.public_key_bytes(), key);
            assert_eq!(algorithm.signature_bytes(), signature);
            assert!(PublicKey::new(algorithm, &vec![0; key]).is_ok());
            for length in [key - 1, key + 1] {
                assert_eq!(PublicKey::new(algorithm, &vec![0; length]), Err(SignatureError::MalformedKey));
            }
        }
        for number in [0, 4, 255] {
            let refused = SignatureAlgorithm::try_from(number);
            assert_eq!(refused, Err(SignatureError::Unsupported));
        }
    }

    /// RFC 8032 §7.1, tests 1 to 3.
    #[test]
    fn ed25519_agrees_with_rfc_8032() {
        for (key, message, signature) in RFC_8032 {
            assert_eq!(verify(key, &hex::decode(message).unwrap(), signature), Ok(()));
            let refused = verify(key, b"another message", signature);
            assert_eq!(refused, Err(SignatureError::NotValid));
        }
    }

    /// The edge cases in which implementations of Ed25519 differ ("Taming the many EdDSAs", 2020), built anew with a
    /// small independent implementation. Every case but `S not reduced` satisfies the equation of some
    /// implementation; only the strict rule is followed here.
    #[test]
    fn ed25519_is_strict() {
        for (case, expected, key, message, signature) in EDGE_CASES {
            let verified = verify(key, message.as_bytes(), signature);
            assert_eq!(verified.is_ok(), expected, "{case}: {verified:?}");
        }
    }

    /// What the strict rule refuses, the lax one of the same library accepts: the cases above are not refused by
    /// chance.
    #[test]
    fn the_lax_rule_would_accept_small_order_points() {
        use ed25519_dalek::Verifier as _;
        let small = EDGE_CASES.iter().filter(|case| case.0.contains("small"));
        let mut accepted = 0;
        for (case, _, key, message, signature) in small {
            let key = hex::decode(key).unwrap().try_into().unwrap();
            let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
            let signature = hex::decode(signature).unwrap();
            let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
            assert!(key.verify(message.as_bytes(), &signature).is_ok(), "{case}");
            accepted += 1;
        }
        assert_eq!(accepted, 3);
    }

    #[test]
    fn ml_dsa_is_recognised_but_unsupported() {
        let key = PublicKey::new(SignatureAlgorithm::MlDsa65, &[0; 1952]).unwrap();
        let signature = Signature { algorithm: SignatureAlgorithm::MlDsa65, bytes: vec![0; 3309] };
        let refused = key.verify(SignatureType::Credential, b"", &signature);
        assert_eq!(refused, Err(SignatureError::Unsupported));
    }

    #[test]
    fn a_signature_of_another_algorithm_or_length_is_refused() {
        let (key, _, signature) = RFC_8032[0];
        let key = PublicKey::new(SignatureAlgorithm::Ed25519, &hex::decode(key).unwrap()).unwrap();
        let bytes = hex::decode(signature).unwrap();
        let mut signature = Signature { algorithm: SignatureAlgorithm::EcdsaP256, bytes };
        let refused = key.verify_message(b"", &signature);
        assert_eq!(refused, Err(SignatureError::NotValid));
        signature.algorithm = SignatureAlgorithm::Ed25519;
        assert_eq!(key.verify_message(b"", &signature), Ok(()));
        signature.bytes.push(0);
        let refused = key.verify_message(b"", &signature);
        assert_eq!(refused, Err(SignatureError::NotValid));
    }

    #[test]
    fn ecdsa_is_accepted_with_low_s_only() {
        use p256::ecdsa::signature::Signer as _;
        let signer = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let key = signer.verifying_key().to_sec1_point(true);
        let key = PublicKey::new(SignatureAlgorithm::EcdsaP256, key.as_bytes()).unwrap();
        let body = b"body";
        let made: p256::ecdsa::Signature = signer.sign(&signed_bytes(SignatureType::Credential, body));
        let low = made.normalize_s();
        let (r, s) = low.split_scalars();
        let high = p256::ecdsa::Signature::from_scalars(r, -s).unwrap();
        let verified = |signature: p256::ecdsa::Signature| {
            let signature =
                Signature { algorithm: SignatureAlgorithm::EcdsaP256, bytes: signature.to_bytes().to_vec() };
            key.verify(SignatureType::Credential, body, &signature)
        };
        assert_eq!(verified(low), Ok(()));
        assert_eq!(verified(high), Err(SignatureError::NotValid));
    }

    #[test]
    fn a_key_off_the_curve_is_malformed() {
        let signature = hex::encode([0; 64]);
        // y = 2 has no x on the curve.
        let key = format!("02{}", "00".repeat(31));
        let refused = verify(&key, b"", &signature);
        assert_eq!(refused, Err(SignatureError::MalformedKey));
    }

    #[test]
    fn a_public_key_is_shown_by_its_first_bytes() {
        let key = PublicKey::new(SignatureAlgorithm::Ed25519, &[0xab; 32]).unwrap();
        assert_eq!(key.to_string(), "Ed25519:abababababababab..");
    }

    fn verify(key: &str, message: &[u8], signature: &str) -> Result<(), SignatureError> {
        let key = PublicKey::new(SignatureAlgorithm::Ed25519, &hex::decode(key).unwrap())?;
        let signature =
            Signature { algorithm: SignatureAlgorithm::Ed25519, bytes: hex::decode(signature).unwrap() };
        key.verify_message(message, &signature)
    }

    const RFC_8032: [(&str, &str, &str); 3] = [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
             d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
             387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659\
             4a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];

    /// Case, whether it is accepted, A, message, R and S.
    const EDGE_CASES: [(&str, bool, &str, &str, &str); 9] = [
        (
            "small A, small R",
            false,
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "edge 1",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa00000000000000000000000000000000\
             00000000000000000000000000000000",
        ),
        (
            "small A, large R",
            false,
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "edge 11",
            "71cdc84b3bc97cf20d0c38e1de88ae8da98abcd97c6f7899c90186c131b68f73cc23eb00f89d2801c03cf2d270acfa15\
             3d38c95d6505ad3d5e40f859e4db3a0d",
        ),
        (
            "large A, small R",
            false,
            "5c23cbf1b04c311b8dcfac68a167af1bf61edb1e43b1e67f577680f24ede5da7",
            "edge",
            "010000000000000000000000000000000000000000000000000000000000000035fdea3255f15c70d859ef2dc2248cbe\
             0dc7d7c4ebda5e1fee0828a94330460e",
        ),
        (
            "mixed A and R whose torsion cancels: the one accepted difference",
            true,
            "e311473c58db886ea4231f074d678c1d32ac9b403242c47bb33bb7507c289892",
            "edge 8",
            "8dd238dcec7eb10bc1a75e1849b32f6008953102b13444012082fbb76cd312f8538f6308afd20cfb184907aeec845c3d\
             40b94b37b85fed917e937d1b19dfd909",
        ),
        (
            "mixed A, valid only when multiplied by the cofactor",
            false,
            "e311473c58db886ea4231f074d678c1d32ac9b403242c47bb33bb7507c289892",
            "edge 0",
            "71cdc84b3bc97cf20d0c38e1de88ae8da98abcd97c6f7899c90186c131b68f73054b2af3f6ac3a48eec3c5e0214d808a\
             e7c70ae85edf98a6e3146d4dd189aa04",
        ),
        (
            "nothing special",
            true,
            "5c23cbf1b04c311b8dcfac68a167af1bf61edb1e43b1e67f577680f24ede5da7",
            "edge",
            "71cdc84b3bc97cf20d0c38e1de88ae8da98abcd97c6f7899c90186c131b68f73303a6897c8e7d4b30654df8847575bac\
             b770c7091c9cecf500f31146d5c21d03",
        ),
        (
            "S not reduced",
            false,
            "5c23cbf1b04c311b8dcfac68a167af1bf61edb1e43b1e67f577680f24ede5da7",
            "edge",
            "71cdc84b3bc97cf20d0c38e1de88ae8da98abcd97c6f7899c90186c131b68f731d0e5ef4e24ae70bddf0d62b26513ac1\
             b770c7091c9cecf500f31146d5c21d13",
        ),
        (
            "R not canonical",
            false,
            "5c23cbf1b04c311b8dcfac68a167af1bf61edb1e43b1e67f577680f24ede5da7",
            "edge",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7fff9bda3472cc8475545a0dc7c6c40454\
             d5b4a412dc5eacb1b7db109d08f0c009",
        ),
        (
            "A not canonical",
            false,
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edge",
            "71cdc84b3bc97cf20d0c38e1de88ae8da98abcd97c6f7899c90186c131b68f73cc23eb00f89d2801c03cf2d270acfa15\
             3d38c95d6505ad3d5e40f859e4db3a0d",
        ),
    ];
}
