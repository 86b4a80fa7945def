//! Private halves: making them, and reading the public half off one that is taken in.
//!
//! A private half is the shortest thing that says it: a seed, a scalar or the key itself; PKCS#8 for RSA. It is read
//! again for each operation, so that between two operations there is only what the store keeps.
//!
//! Specification: docs/protocol.md §7.2; FIPS 186-5, FIPS 203, FIPS 204, RFC 5915, RFC 8017.

use zeroize::Zeroizing;

use super::{Failed, KeyType};
use crate::{Backend, HpkeSuite};
#[cfg(feature = "accel")]
use accelerated as nist;

/// Makes a private half. RSA takes seconds.
///
/// # Errors
/// [`Failed::NotOffered`], or [`Failed::System`] without randomness.
pub fn generate(kind: KeyType) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let bytes = match kind {
        KeyType::Ed25519 | KeyType::X25519 | KeyType::HmacSha256 | KeyType::XWing => 32,
        KeyType::Aes256 | KeyType::MlDsa65 if kind.is_offered() => 32,
        KeyType::Aes128 if kind.is_offered() => 16,
        KeyType::MlKem768 | KeyType::MlKem1024 => 64,
        #[cfg(feature = "accel")]
        KeyType::P256 | KeyType::P384 | KeyType::P521 | KeyType::Secp256k1 => return nist::curve(kind),
        #[cfg(feature = "accel")]
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => return nist::rsa(kind),
        _ => return Err(Failed::NotOffered),
    };
    let mut secret = Zeroizing::new(vec![0; bytes]);
    getrandom::fill(&mut secret).map_err(|_| Failed::System)?;
    Ok(secret)
}

/// The public half of a private one; nothing for a symmetric key.
///
/// # Errors
/// [`Failed::Unfit`] when the bytes are no private half of this type, [`Failed::NotOffered`].
pub fn public(kind: KeyType, secret: &[u8]) -> Result<Vec<u8>, Failed> {
    if !kind.is_offered() {
        return Err(Failed::NotOffered);
    }
    let of_length = |fits: bool| if fits { Ok(Vec::new()) } else { Err(Failed::Unfit) };
    match kind {
        KeyType::Ed25519 => {
            let signer = ed25519_dalek::SigningKey::from_bytes(exactly(secret)?);
            Ok(signer.verifying_key().to_bytes().to_vec())
        }
        KeyType::X25519 => Ok(Backend::best().x25519_public(exactly(secret)?).to_vec()),
        KeyType::XWing => {
            let suite = HpkeSuite::XWingChaCha20Poly1305;
            suite.public_key(Backend::best(), exactly(secret)?).map_err(|_| Failed::Unfit)
        }
        KeyType::MlKem768 | KeyType::MlKem1024 => super::encapsulation::public(kind, secret),
        KeyType::Aes128 => of_length(secret.len() == 16),
        KeyType::Aes256 => of_length(secret.len() == 32),
        KeyType::HmacSha256 => of_length((16..=64).contains(&secret.len())),
        #[cfg(feature = "accel")]
        _ => nist::public(kind, secret),
        #[cfg(not(feature = "accel"))]
        _ => Err(Failed::NotOffered),
    }
}

/// The bytes as a private half of exactly this length.
pub(super) fn exactly<const N: usize>(secret: &[u8]) -> Result<&[u8; N], Failed> {
    secret.try_into().map_err(|_| Failed::Unfit)
}

/// What AWS-LC makes and reads.
#[cfg(feature = "accel")]
pub(super) mod accelerated {
    use aws_lc_rs::encoding::{AsBigEndian as _, AsDer as _};
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
        ML_DSA_65_SIGNING, PqdsaKeyPair,
    };
    use subtle::ConstantTimeEq as _;
    use zeroize::Zeroizing;

    use super::{Failed, KeyType};

    pub(super) fn curve(kind: KeyType) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let (algorithm, ..) = curve_of(kind).ok_or(Failed::Unfit)?;
        let pair = EcdsaKeyPair::generate(algorithm).map_err(|_| Failed::System)?;
        let scalar = pair.private_key().as_be_bytes().map_err(|_| Failed::System)?;
        Ok(Zeroizing::new(scalar.as_ref().to_vec()))
    }

    pub(super) fn rsa(kind: KeyType) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let size = rsa_size(kind).ok_or(Failed::Unfit)?;
        let pair = RsaKeyPair::generate(size).map_err(|_| Failed::System)?;
        let encoded = pair.as_der().map_err(|_| Failed::System)?;
        Ok(Zeroizing::new(encoded.as_ref().to_vec()))
    }

    pub(super) fn public(kind: KeyType, secret: &[u8]) -> Result<Vec<u8>, Failed> {
        match kind {
            KeyType::MlDsa65 => Ok(ml_dsa_pair(secret)?.public_key().as_ref().to_vec()),
            _ if kind.is_rsa() => {
                let pair = rsa_pair(kind, secret)?;
                // One key, one encoding: what would be written otherwise is not taken in.
                let encoded = pair.as_der().map_err(|_| Failed::System)?;
                let same: bool = encoded.as_ref().ct_eq(secret).into();
                if same { Ok(pair.public_key().as_ref().to_vec()) } else { Err(Failed::Unfit) }
            }
            _ => Ok(curve_pair(kind, secret)?.public_key().as_ref().to_vec()),
        }
    }

    pub(in super::super) fn ml_dsa_pair(seed: &[u8]) -> Result<PqdsaKeyPair, Failed> {
        PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed).map_err(|_| Failed::Unfit)
    }

    /// Only of the size that the type says: a key's type is what policies go by.
    pub(in super::super) fn rsa_pair(kind: KeyType, pkcs8: &[u8]) -> Result<RsaKeyPair, Failed> {
        let size = rsa_size(kind).ok_or(Failed::Unfit)?;
        let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| Failed::Unfit)?;
        if pair.public_modulus_len() == size.len() { Ok(pair) } else { Err(Failed::Unfit) }
    }

    /// Through the form of RFC 5915, from which the public point is computed.
    pub(in super::super) fn curve_pair(kind: KeyType, scalar: &[u8]) -> Result<EcdsaKeyPair, Failed> {
        let (algorithm, bytes, curve) = curve_of(kind).ok_or(Failed::Unfit)?;
        if scalar.len() != bytes {
            return Err(Failed::Unfit);
        }
        // SEQUENCE { INTEGER 1, OCTET STRING scalar, [0] { curve } }: no length here reaches 128.
        let mut encoded = Zeroizing::new(Vec::with_capacity(128));
        encoded.extend_from_slice(&[0x30, (3 + 2 + bytes + 2 + curve.len()) as u8, 0x02, 0x01, 0x01]);
        encoded.extend_from_slice(&[0x04, bytes as u8]);
        encoded.extend_from_slice(scalar);
        encoded.extend_from_slice(&[0xa0, curve.len() as u8]);
        encoded.extend_from_slice(curve);
        EcdsaKeyPair::from_private_key_der(algorithm, &encoded).map_err(|_| Failed::Unfit)
    }

    /// The algorithm of a curve, the length of its scalars, and its object identifier in DER.
    fn curve_of(kind: KeyType) -> Option<(&'static EcdsaSigningAlgorithm, usize, &'static [u8])> {
        Some(match kind {
            KeyType::P256 => (
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                32,
                &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            ),
            KeyType::P384 => {
                (&ECDSA_P384_SHA384_FIXED_SIGNING, 48, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22])
            }
            KeyType::P521 => {
                (&ECDSA_P521_SHA512_FIXED_SIGNING, 66, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23])
            }
            KeyType::Secp256k1 => {
                (&ECDSA_P256K1_SHA256_FIXED_SIGNING, 32, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a])
            }
            _ => return None,
        })
    }

    fn rsa_size(kind: KeyType) -> Option<KeySize> {
        match kind {
            KeyType::Rsa2048 => Some(KeySize::Rsa2048),
            KeyType::Rsa3072 => Some(KeySize::Rsa3072),
            KeyType::Rsa4096 => Some(KeySize::Rsa4096),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::general::{General, MATERIAL_BYTES_MAX};

    #[test]
    fn what_is_made_is_taken_in_again_and_another_length_is_not() {
        let mut offered = 0;
        for kind in General::ALL.map(General::kind).into_iter().filter(|kind| kind.is_offered()) {
            // One of the sizes is enough to wait for.
            if matches!(kind, KeyType::Rsa3072 | KeyType::Rsa4096) {
                continue;
            }
            let secret = generate(kind).unwrap();
            assert!(secret.len() <= MATERIAL_BYTES_MAX);
            let made = public(kind, &secret).unwrap();
            assert_eq!(made.is_empty(), kind.is_symmetric(), "{kind:?}");
            assert!(made.is_empty() || kind.has_public_of(made.len()), "{kind:?} {}", made.len());
            assert_eq!(public(kind, &secret).unwrap(), made);
            assert_ne!(generate(kind).unwrap(), secret, "{kind:?}");
            if kind != KeyType::HmacSha256 {
                assert_eq!(public(kind, &secret[1..]), Err(Failed::Unfit), "{kind:?}");
                assert_eq!(public(kind, &[&secret[..], &[1]].concat()), Err(Failed::Unfit), "{kind:?}");
            }
            offered += 1;
        }
        assert!(offered >= 5);
    }

    #[cfg(feature = "accel")]
    #[test]
    fn a_scalar_out_of_range_and_an_rsa_key_of_another_size_are_refused() {
        for (kind, bytes) in
            [(KeyType::P256, 32), (KeyType::P384, 48), (KeyType::P521, 66), (KeyType::Secp256k1, 32)]
        {
            assert_eq!(public(kind, &vec![0; bytes]), Err(Failed::Unfit), "{kind:?}");
            assert_eq!(public(kind, &vec![0xff; bytes]), Err(Failed::Unfit), "{kind:?}");
        }
        let small = generate(KeyType::Rsa2048).unwrap();
        assert_eq!(public(KeyType::Rsa3072, &small), Err(Failed::Unfit));
    }
}
