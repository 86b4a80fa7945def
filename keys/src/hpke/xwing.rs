//! X-Wing: ML-KEM-768 and X25519, of which either alone keeps the secret.
//!
//! A point of low order is refused, as everywhere here, although X-Wing itself would not have to.
//!
//! Source: draft-connolly-cfrg-xwing-kem-10 §5.

use rand_core::CryptoRng;
use sha3::{Digest as _, Sha3_256};
use shake::Shake256;
use shake::digest::{ExtendableOutput as _, Update as _, XofReader as _};
use zeroize::Zeroizing;

use super::InvalidPublicKey;
use crate::{
    Backend, CIPHERTEXT_BYTES as KEM_CIPHERTEXT_BYTES, ENCAPSULATION_KEY_BYTES, SharedSecret, Unauthentic,
};

/// The length of a public key: ML-KEM-768, then X25519.
pub(super) const PUBLIC_KEY_BYTES: usize = ENCAPSULATION_KEY_BYTES + 32;

/// The length of a ciphertext: ML-KEM-768, then X25519.
pub(super) const CIPHERTEXT_BYTES: usize = KEM_CIPHERTEXT_BYTES + 32;

pub(super) fn generate(random: &mut dyn CryptoRng) -> SharedSecret {
    let mut seed = Zeroizing::new([0; 32]);
    random.fill_bytes(seed.as_mut());
    SharedSecret::new(&seed)
}

pub(super) fn public_key(backend: Backend, private: &[u8; 32]) -> Vec<u8> {
    let Expanded { kem_seed, x25519 } = expand(private);
    let (_, kem_public) = backend.kem_from_seed(&kem_seed);
    [&kem_public[..], &backend.x25519_public(x25519.as_bytes())].concat()
}

pub(super) fn encapsulate(
    backend: Backend,
    public: &[u8],
    random: &mut dyn CryptoRng,
) -> Result<(SharedSecret, Vec<u8>), InvalidPublicKey> {
    let (kem_public, x25519_public) = split(public).ok_or(InvalidPublicKey)?;
    let (kem_ciphertext, kem_shared) =
        backend.encapsulate(kem_public, random).map_err(|_| InvalidPublicKey)?;
    let ephemeral = generate(random);
    let x25519_ciphertext = backend.x25519_public(ephemeral.as_bytes());
    let agreed = backend.x25519(ephemeral.as_bytes(), x25519_public).map_err(|_| InvalidPublicKey)?;
    let shared = combine(&kem_shared, &agreed, &x25519_ciphertext, x25519_public);
    Ok((shared, [&kem_ciphertext[..], &x25519_ciphertext].concat()))
}

pub(super) fn decapsulate(
    backend: Backend,
    private: &[u8; 32],
    enc: &[u8],
) -> Result<SharedSecret, Unauthentic> {
    let (kem_ciphertext, x25519_ciphertext) = split(enc).ok_or(Unauthentic)?;
    let Expanded { kem_seed, x25519 } = expand(private);
    let (kem_private, _) = backend.kem_from_seed(&kem_seed);
    let kem_shared = kem_private.decapsulate(kem_ciphertext);
    let agreed = backend.x25519(x25519.as_bytes(), x25519_ciphertext).map_err(|_| Unauthentic)?;
    let x25519_public = backend.x25519_public(x25519.as_bytes());
    Ok(combine(&kem_shared, &agreed, x25519_ciphertext, &x25519_public))
}

/// What a seed stands for.
struct Expanded {
    kem_seed: Zeroizing<[u8; 64]>,
    x25519: SharedSecret,
}

fn expand(seed: &[u8; 32]) -> Expanded {
    let mut shake = Shake256::default();
    shake.update(seed);
    let mut output = shake.finalize_xof();
    let mut expanded = Expanded { kem_seed: Zeroizing::new([0; 64]), x25519: SharedSecret::new(&[0; 32]) };
    output.read(expanded.kem_seed.as_mut());
    let mut x25519 = Zeroizing::new([0; 32]);
    output.read(x25519.as_mut());
    expanded.x25519 = SharedSecret::new(&x25519);
    expanded
}

fn combine(
    kem: &SharedSecret,
    x25519: &SharedSecret,
    ciphertext: &[u8; 32],
    public: &[u8; 32],
) -> SharedSecret {
    let mut hash = Sha3_256::new();
    for part in [kem.as_bytes(), x25519.as_bytes(), ciphertext, public, LABEL] {
        sha3::Digest::update(&mut hash, part);
    }
    SharedSecret::new(&Zeroizing::new(hash.finalize().into()))
}

/// The part of ML-KEM, then the 32 bytes of X25519.
fn split<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8; 32])> {
    let (kem, x25519) = bytes.split_first_chunk()?;
    Some((kem, x25519.try_into().ok()?))
}

/// X-Wing, drawn: `\.//^\`.
const LABEL: &[u8] = br"\.//^\";
