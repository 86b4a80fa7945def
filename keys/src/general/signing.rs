//! Signatures over bytes as they stand, for formats that are not this project's.
//!
//! What this project signs has a type and goes through [`crate::private::sign`]; a message that looks like one of
//! those is refused here, so that no key of general use can make a typed signature. Nothing here asks whether the key
//! may.
//!
//! Specification: docs/protocol.md §7.2; RFC 8032, FIPS 186-5, RFC 8017, FIPS 204.

use ed25519_dalek::Signer as _;

use super::material::exactly;
use super::{Failed, KeyType, Scheme};
use crate::{Label, PublicKey, Signature, SignatureAlgorithm};

/// Signs `message` by a key of `kind` with this private half.
///
/// # Errors
/// [`Failed::Unfit`] when the scheme is not the key's or the message begins as a typed one does, else
/// [`Failed::NotOffered`] or [`Failed::System`].
pub fn sign(kind: KeyType, secret: &[u8], scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, Failed> {
    if !scheme.fits(kind) || looks_typed(message) {
        return Err(Failed::Unfit);
    }
    if scheme == Scheme::Ed25519 {
        let signer = ed25519_dalek::SigningKey::from_bytes(exactly(secret)?);
        return Ok(signer.sign(message).to_bytes().to_vec());
    }
    #[cfg(feature = "accel")]
    return accelerated::sign(kind, secret, scheme, message);
    #[cfg(not(feature = "accel"))]
    Err(Failed::NotOffered)
}

/// Whether `signature` over `message` is by the owner of this public half.
///
/// # Errors
/// [`Failed::Unfit`] when the scheme is not the key's, [`Failed::NotOffered`].
pub fn verify(
    kind: KeyType,
    public: &[u8],
    scheme: Scheme,
    message: &[u8],
    signature: &[u8],
) -> Result<bool, Failed> {
    if !scheme.fits(kind) {
        return Err(Failed::Unfit);
    }
    if scheme == Scheme::Ed25519 {
        let algorithm = SignatureAlgorithm::Ed25519;
        let key = PublicKey::new(algorithm, public).map_err(|_| Failed::Unfit)?;
        let signature = Signature { algorithm, bytes: signature.to_vec() };
        return Ok(key.verify_message(message, &signature).is_ok());
    }
    #[cfg(feature = "accel")]
    return Ok(accelerated::verify(public, scheme, message, signature));
    #[cfg(not(feature = "accel"))]
    Err(Failed::NotOffered)
}

/// Whether the message begins as every `L("sig", …)` does (docs/protocol.md §0).
fn looks_typed(message: &[u8]) -> bool {
    // The first byte says how many elements there are.
    let prefix = Label::new("sig").encode();
    message.first().is_some_and(|first| first & 0xe0 == 0x80)
        && message.get(1..prefix.len()) == prefix.get(1..)
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256K1_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
        ML_DSA_65, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding, UnparsedPublicKey, VerificationAlgorithm,
    };

    use super::super::material::accelerated::{curve_pair, ml_dsa_pair, rsa_pair};
    use super::{Failed, KeyType, Scheme};

    pub(super) fn sign(
        kind: KeyType,
        secret: &[u8],
        scheme: Scheme,
        message: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        // AWS-LC draws from its own generator, whatever it is given.
        let random = SystemRandom::new();
        if let Some(encoding) = encoding(scheme) {
            let pair = rsa_pair(kind, secret)?;
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &random, message, &mut signature).map_err(|_| Failed::System)?;
            return Ok(signature);
        }
        if scheme == Scheme::MlDsa65 {
            let pair = ml_dsa_pair(secret)?;
            let mut signature = vec![0; pair.algorithm().signature_len()];
            pair.sign(message, &mut signature).map_err(|_| Failed::System)?;
            return Ok(signature);
        }
        let signature = curve_pair(kind, secret)?.sign(&random, message).map_err(|_| Failed::System)?;
        Ok(signature.as_ref().to_vec())
    }

    pub(super) fn verify(public: &[u8], scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match scheme {
            Scheme::EcdsaP256Sha256 => &ECDSA_P256_SHA256_FIXED,
            Scheme::EcdsaP384Sha384 => &ECDSA_P384_SHA384_FIXED,
            Scheme::EcdsaP521Sha512 => &ECDSA_P521_SHA512_FIXED,
            Scheme::EcdsaSecp256k1Sha256 => &ECDSA_P256K1_SHA256_FIXED,
            Scheme::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
            Scheme::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
            Scheme::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
            Scheme::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Scheme::RsaPkcs1Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            Scheme::RsaPkcs1Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            Scheme::MlDsa65 => &ML_DSA_65,
            // Verified strictly by the caller.
            Scheme::Ed25519 => return false,
        };
        UnparsedPublicKey::new(algorithm, public).verify(message, signature).is_ok()
    }

    fn encoding(scheme: Scheme) -> Option<&'static dyn RsaEncoding> {
        Some(match scheme {
            Scheme::RsaPssSha256 => &RSA_PSS_SHA256,
            Scheme::RsaPssSha384 => &RSA_PSS_SHA384,
            Scheme::RsaPssSha512 => &RSA_PSS_SHA512,
            Scheme::RsaPkcs1Sha256 => &RSA_PKCS1_SHA256,
            Scheme::RsaPkcs1Sha384 => &RSA_PKCS1_SHA384,
            Scheme::RsaPkcs1Sha512 => &RSA_PKCS1_SHA512,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::material;
    use super::*;
    use crate::{SignatureType, signed_bytes};

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does() {
        for scheme in Scheme::ALL {
            let kinds = [
                KeyType::Ed25519,
                KeyType::P256,
                KeyType::P384,
                KeyType::P521,
                KeyType::Secp256k1,
                KeyType::Rsa2048,
                KeyType::MlDsa65,
            ];
            let kind = kinds.into_iter().find(|kind| scheme.fits(*kind)).unwrap();
            if !kind.is_offered() {
                assert_eq!(sign(kind, &[1; 32], scheme, b"x"), Err(Failed::NotOffered));
                continue;
            }
            let secret = material::generate(kind).unwrap();
            let public = material::public(kind, &secret).unwrap();
            let signature = sign(kind, &secret, scheme, b"message").unwrap();
            let verified =
                |message: &[u8], signature: &[u8]| verify(kind, &public, scheme, message, signature).unwrap();
            assert!(verified(b"message", &signature), "{scheme:?}");
            assert!(!verified(b"massage", &signature), "{scheme:?}");
            assert!(!verified(b"message", &signature[1..]), "{scheme:?}");
            let mut changed = signature.clone();
            changed[signature.len() / 2] ^= 1;
            assert!(!verified(b"message", &changed), "{scheme:?}");
            let other = Scheme::ALL.into_iter().find(|other| !other.fits(kind)).unwrap();
            assert_eq!(sign(kind, &secret, other, b"x"), Err(Failed::Unfit));
            assert_eq!(verify(kind, &public, other, b"x", &signature), Err(Failed::Unfit));
        }
    }

    #[test]
    fn nothing_that_looks_typed_is_signed_as_it_stands() {
        for kind in SignatureType::ALL {
            let refused = sign(KeyType::Ed25519, &[1; 32], Scheme::Ed25519, &signed_bytes(kind, b"body"));
            assert_eq!(refused, Err(Failed::Unfit), "{kind}");
        }
        assert!(sign(KeyType::Ed25519, &[1; 32], Scheme::Ed25519, b"").is_ok());
        assert!(sign(KeyType::Ed25519, &[1; 32], Scheme::Ed25519, &Label::new("sih").encode()).is_ok());
    }
}
