//! What is computed with a private half: the same for every vault, wherever it keeps the 32 bytes.
//!
//! Nothing here asks whether the key may: that is the vault's part, before it calls.
//!
//! Specification: docs/protocol.md §7.2; RFC 8032, RFC 7748.

use ed25519_dalek::Signer as _;

use crate::{
    Backend, KeyUsage, NonContributory, PublicHalf, PublicKey, SharedSecret, SignatureType, signed_bytes,
};

/// The public half of a protocol's key for `usage` with this Ed25519 seed or X25519 scalar.
#[must_use]
pub fn public_half(usage: KeyUsage, secret: &[u8; 32]) -> PublicHalf {
    if usage.agrees() {
        PublicHalf::Agree(Backend::best().x25519_public(secret))
    } else {
        let signer = ed25519_dalek::SigningKey::from_bytes(secret);
        PublicHalf::Verify(PublicKey::ed25519(signer.verifying_key().to_bytes()))
    }
}

/// The Ed25519 signature over `L("sig", kind, body)` by the key with this seed.
#[must_use]
pub fn sign(secret: &[u8; 32], kind: SignatureType, body: &[u8]) -> [u8; 64] {
    let signer = ed25519_dalek::SigningKey::from_bytes(secret);
    signer.sign(&signed_bytes(kind, body)).to_bytes()
}

/// Agrees by X25519 with the owner of `peer`.
///
/// # Errors
/// [`NonContributory`] for a point of low order.
pub fn agree(secret: &[u8; 32], peer: &[u8; 32]) -> Result<SharedSecret, NonContributory> {
    Backend::best().x25519(secret, peer)
}
