//! X25519 key agreement.
//!
//! Never returns an all-zero result: a peer who sends a point of low order would otherwise choose the secret.
//!
//! Specification: docs/protocol.md §0; RFC 7748.

use subtle::ConstantTimeEq as _;

use crate::{Backend, SharedSecret};

/// The peer's public key adds nothing to the secret: the result is all zeros.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the peer's public key is of low order")]
pub struct NonContributory;

impl Backend {
    /// The public key (32 bytes, little endian u-coordinate) of `secret` (32 bytes, clamped here).
    #[must_use]
    pub fn x25519_public(self, secret: &[u8; 32]) -> [u8; 32] {
        #[cfg(feature = "witness")]
        crate::witness::note(crate::witness::Use::Agreement, secret);
        match self {
            Self::Portable => portable_public(secret),
            // AWS-LC can only fail here for want of memory; the portable result is the same.
            #[cfg(feature = "accel")]
            Self::Accelerated => accelerated::public(secret).unwrap_or_else(|| portable_public(secret)),
        }
    }

    /// Agrees on a secret with the owner of `public` (32 bytes; the top bit is ignored, as RFC 7748 §5 says).
    ///
    /// # Errors
    /// [`NonContributory`] when the result is all zeros.
    pub fn x25519(self, secret: &[u8; 32], public: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
        match self {
            Self::Portable => portable(secret, public),
            #[cfg(feature = "accel")]
            Self::Accelerated => accelerated::agree(secret, public),
        }
    }
}

/// The check of RFC 7748 §6.1, in constant time.
fn contributory(shared: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
    if bool::from(shared.ct_eq(&[0; 32])) {
        return Err(NonContributory);
    }
    Ok(SharedSecret::new(shared))
}

fn portable_public(secret: &[u8; 32]) -> [u8; 32] {
    let secret = x25519_dalek::StaticSecret::from(*secret);
    x25519_dalek::PublicKey::from(&secret).to_bytes()
}

fn portable(secret: &[u8; 32], public: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
    let secret = x25519_dalek::StaticSecret::from(*secret);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    contributory(shared.as_bytes())
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree as aws_agree};
    use zeroize::Zeroizing;

    use super::{NonContributory, SharedSecret, contributory};

    pub(super) fn public(secret: &[u8; 32]) -> Option<[u8; 32]> {
        let key = PrivateKey::from_private_key(&X25519, secret).ok()?;
        key.compute_public_key().ok()?.as_ref().try_into().ok()
    }

    /// AWS-LC refuses an all-zero result itself; the check is repeated so that it does not rest on that.
    pub(super) fn agree(secret: &[u8; 32], public: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
        let key = PrivateKey::from_private_key(&X25519, secret).map_err(|_| NonContributory)?;
        let peer = UnparsedPublicKey::new(&X25519, public);
        aws_agree(&key, peer, NonContributory, |shared| {
            let shared = Zeroizing::new(<[u8; 32]>::try_from(shared).map_err(|_| NonContributory)?);
            contributory(&shared)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_backends_agree_with_rfc_7748_section_5_2() {
        for (secret, public, shared) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ] {
            for &backend in Backend::available() {
                let agreed = backend.x25519(&key(secret), &key(public)).unwrap();
                assert_eq!(hex::encode(agreed.as_bytes()), shared, "{backend:?}");
            }
        }
    }

    /// RFC 7748 §5.2: after one and after a thousand rounds from the base point.
    #[test]
    fn both_backends_agree_with_the_iterated_vector_of_rfc_7748() {
        for &backend in Backend::available() {
            let mut base = [0; 32];
            base[0] = 9;
            let (mut secret, mut public) = (base, base);
            for round in 1..=1000 {
                let agreed = *backend.x25519(&secret, &public).unwrap().as_bytes();
                (secret, public) = (agreed, secret);
                if round == 1 {
                    assert_eq!(secret, key(ONE_ROUND), "{backend:?}");
                    assert_eq!(backend.x25519_public(&base), secret, "{backend:?}");
                }
            }
            assert_eq!(secret, key(THOUSAND_ROUNDS), "{backend:?}");
        }
    }

    /// The seven points of low order, each also with the ignored top bit set.
    #[test]
    fn low_order_points_are_refused_by_every_backend() {
        for point in LOW_ORDER {
            for top_bit in [0, 0x80] {
                let mut point = key(point);
                point[31] |= top_bit;
                for &backend in Backend::available() {
                    for secret in [[0; 32], [0x5a; 32], [0xff; 32]] {
                        let agreed = backend.x25519(&secret, &point);
                        assert_eq!(agreed.unwrap_err(), NonContributory, "{backend:?}");
                    }
                }
            }
        }
    }

    fn key(text: &str) -> [u8; 32] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    const ONE_ROUND: &str = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
    const THOUSAND_ROUNDS: &str = "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51";

    /// 0, 1, the two points of order 8, p − 1, p and p + 1, little endian.
    const LOW_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
}
