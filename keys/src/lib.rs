//! Algorithms, the vault, the software key store, and what a key service is made of.
//!
//! Every cryptographic operation of the workspace goes through this crate, so that one place decides which
//! implementation runs, what is checked and what is wiped.
//!
//! # Invariants
//! - A secret is never `Clone`, `Copy`, `PartialEq` or printable, lies behind a box, and is zeroed when dropped.
//!   Erasure of copies made by the compiler or by other crates is not claimed.
//! - An X25519 result of all zeros is an error, on every backend.
//! - An ML-KEM encapsulation key is checked before use, on every backend (FIPS 203 §7.2).
//! - A failed AEAD open leaves zeros in the buffer, never plaintext and never ciphertext.
//! - HKDF `info` and signature contexts can only be built as a [`Label`].
//! - Ed25519 is verified strictly and ECDSA only with low S, by one implementation: every endpoint accepts the same.
//! - A key's usage is fixed when it is made. A long-term private key never leaves its [`Vault`].
//! - No clock, no sockets, no tasks. Only [`SoftwareVault`] and `store` touch files.
//!
//! Specification: docs/protocol.md §0, §5.6 and §7.

#![cfg_attr(test, allow(clippy::unwrap_used))] // a panic is how a test fails

mod aead;
mod agreement;
#[cfg(feature = "store")]
pub mod arena;
pub mod audit;
mod backend;
mod buffer;
mod error;
pub mod general;
mod hash;
mod hpke;
mod jose;
mod keep;
mod kem;
mod label;
pub mod message;
pub mod private;
mod secret;
pub mod service;
mod signature;
mod software;
#[cfg(feature = "store")]
pub mod store;
pub mod strict;
mod vault;
#[cfg(feature = "witness")]
pub mod witness;
mod wrapping;

pub use aead::{Aead, AeadAlgorithm, TAG_BYTES, Unauthentic};
pub use agreement::NonContributory;
pub use backend::Backend;
pub use buffer::WipedBuffer;
pub use error::{KeyError, Operation, StoreError};
pub use hash::{hash, hkdf_expand, hkdf_extract, mac, mac_verify, sha256};
pub use hpke::{HpkeSealed, HpkeSuite, InvalidPublicKey};
pub use jose::JoseKey;
pub use keep::{Keep, Kept};
pub use kem::{CIPHERTEXT_BYTES, DecapsulationKey, ENCAPSULATION_KEY_BYTES, InvalidEncapsulationKey};
pub use label::Label;
pub use rand_core::CryptoRng;
pub use secret::SharedSecret;
pub use signature::{PublicKey, Signature, SignatureAlgorithm, SignatureError, SignatureType, signed_bytes};
pub use software::{SoftwareVault, read_development_key};
pub use vault::{Answer, KeyId, KeyInfo, KeyUsage, PublicHalf, Vault};
pub use wrapping::{LONG_NONCE_BYTES, unwrap, wrap};
