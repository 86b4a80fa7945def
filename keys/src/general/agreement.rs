//! Agreements whose result is derived at once: what was agreed never leaves as it is.
//!
//! Specification: docs/protocol.md §7.2; RFC 7748, SP 800-56A, RFC 5869 (HKDF-SHA256, no salt).

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::material::exactly;
use super::{Failed, KeyType, OUTPUT_BYTES_MAX};
use crate::Backend;

/// Agrees with the owner of `peer` and derives `bytes` bytes for the purpose `info`: HKDF-SHA256 with no salt over the
/// X25519 result or the x-coordinate. `peer` is encoded as public halves are.
///
/// # Errors
/// [`Failed::Unfit`] for a key that does not agree so or a length out of 1 to [`OUTPUT_BYTES_MAX`];
/// [`Failed::Refused`] when `peer` is no point of the curve, or one of low order; [`Failed::NotOffered`].
pub fn agree(
    kind: KeyType,
    secret: &[u8],
    peer: &[u8],
    info: &[u8],
    bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    if bytes == 0 || bytes > OUTPUT_BYTES_MAX {
        return Err(Failed::Unfit);
    }
    if kind == KeyType::X25519 {
        let peer = peer.try_into().map_err(|_| Failed::Refused)?;
        let agreed = Backend::best().x25519(exactly(secret)?, peer).map_err(|_| Failed::Refused)?;
        return derive(agreed.as_bytes(), info, bytes);
    }
    if !matches!(kind, KeyType::P256 | KeyType::P384 | KeyType::P521) {
        return Err(Failed::Unfit);
    }
    #[cfg(feature = "accel")]
    return accelerated::agree(kind, secret, peer, |agreed| derive(agreed, info, bytes));
    #[cfg(not(feature = "accel"))]
    Err(Failed::NotOffered)
}

fn derive(agreed: &[u8], info: &[u8], bytes: usize) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut derived = Zeroizing::new(vec![0; bytes]);
    Hkdf::<Sha256>::new(None, agreed).expand(info, &mut derived).map_err(|_| Failed::Unfit)?;
    Ok(derived)
}

#[cfg(feature = "accel")]
mod accelerated {
    use aws_lc_rs::agreement::{
        self, Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey,
    };
    use zeroize::Zeroizing;

    use super::{Failed, KeyType};

    /// Only the uncompressed form of a point is taken: one point, one encoding.
    const UNCOMPRESSED: u8 = 4;

    pub(super) fn agree(
        kind: KeyType,
        secret: &[u8],
        peer: &[u8],
        derive: impl FnOnce(&[u8]) -> Result<Zeroizing<Vec<u8>>, Failed>,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let algorithm: &'static Algorithm = match kind {
            KeyType::P256 => &ECDH_P256,
            KeyType::P384 => &ECDH_P384,
            _ => &ECDH_P521,
        };
        let key = PrivateKey::from_private_key(algorithm, secret).map_err(|_| Failed::Unfit)?;
        if !kind.has_public_of(peer.len()) || peer.first() != Some(&UNCOMPRESSED) {
            return Err(Failed::Refused);
        }
        agreement::agree(&key, UnparsedPublicKey::new(algorithm, peer), Failed::Refused, derive)
    }
}

#[cfg(test)]
mod tests {
    use super::super::material;
    use super::*;

    #[test]
    fn both_ends_derive_the_same_and_the_purpose_decides_what() {
        for kind in [KeyType::X25519, KeyType::P256, KeyType::P384, KeyType::P521] {
            if !kind.is_offered() {
                assert_eq!(agree(kind, &[1; 32], &[4; 65], b"", 32), Err(Failed::NotOffered));
                continue;
            }
            let secrets = [material::generate(kind).unwrap(), material::generate(kind).unwrap()];
            let publics = [0, 1].map(|at: usize| material::public(kind, &secrets[at]).unwrap());
            let derived = |at: usize, info, bytes| agree(kind, &secrets[at], &publics[1 - at], info, bytes);
            assert_eq!(derived(0, b"a", 48), derived(1, b"a", 48));
            assert_ne!(derived(0, b"a", 48), derived(0, b"b", 48));
            assert_eq!(derived(0, b"a", 48).unwrap()[..32], derived(0, b"a", 32).unwrap()[..]);
            for bytes in [0, OUTPUT_BYTES_MAX + 1] {
                assert_eq!(derived(0, b"a", bytes), Err(Failed::Unfit));
            }
            assert_eq!(derived(0, b"a", OUTPUT_BYTES_MAX).unwrap().len(), OUTPUT_BYTES_MAX);
            for peer in [&publics[1][1..], &vec![0; publics[1].len()]] {
                assert_eq!(agree(kind, &secrets[0], peer, b"", 32), Err(Failed::Refused), "{kind:?}");
            }
        }
        assert_eq!(agree(KeyType::Ed25519, &[1; 32], &[9; 32], b"", 32), Err(Failed::Unfit));
    }

    #[cfg(feature = "accel")]
    #[test]
    fn a_compressed_point_is_refused() {
        let secret = material::generate(KeyType::P256).unwrap();
        let public = material::public(KeyType::P256, &secret).unwrap();
        let mut compressed = public[..33].to_vec();
        compressed[0] = 2 | (public[64] & 1);
        assert_eq!(agree(KeyType::P256, &secret, &compressed, b"", 32), Err(Failed::Refused));
    }
}
