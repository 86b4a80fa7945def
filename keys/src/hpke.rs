//! HPKE, base mode, one message for each encapsulation: what disposable keys are sealed with.
//!
//! Only what is needed is here: two suites, no pre-shared keys, no authenticated modes, no export. A sealing makes its
//! own ephemeral key and uses the derived AEAD key once, with the first nonce, so there is no state that could
//! repeat one.
//!
//! Specification: docs/protocol.md §5.2; RFC 9180 §4, §5.1.

mod dhkem;
mod xwing;

use hkdf::HkdfExtract;
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Aead, AeadAlgorithm, Backend, SharedSecret, TAG_BYTES, Unauthentic};

/// The receiver's public key is none: of another length, or no point of the curve.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the public key is not valid")]
pub struct InvalidPublicKey;

/// A KEM, a KDF and an AEAD that are used together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HpkeSuite {
    /// DHKEM(P-256, HKDF-SHA256) 0x0010, HKDF-SHA256 0x0001, AES-256-GCM 0x0002.
    P256Aes256Gcm,
    /// X-Wing 0x647a, HKDF-SHA256 0x0001, ChaCha20-Poly1305 0x0003.
    XWingChaCha20Poly1305,
}

/// A sealed message: the encapsulated key, and the ciphertext with its tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HpkeSealed {
    /// [`HpkeSuite::encapsulated_bytes`] bytes.
    pub enc: Vec<u8>,
    /// As long as the plaintext and [`TAG_BYTES`].
    pub ct: Vec<u8>,
}

impl HpkeSuite {
    /// The length of a public key: 65 (uncompressed SEC1) or 1216 (ML-KEM-768, then X25519) bytes.
    #[must_use]
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::P256Aes256Gcm => dhkem::POINT_BYTES,
            Self::XWingChaCha20Poly1305 => xwing::PUBLIC_KEY_BYTES,
        }
    }

    /// The length of an encapsulated key: 65 or 1120 bytes.
    #[must_use]
    pub const fn encapsulated_bytes(self) -> usize {
        match self {
            Self::P256Aes256Gcm => dhkem::POINT_BYTES,
            Self::XWingChaCha20Poly1305 => xwing::CIPHERTEXT_BYTES,
        }
    }

    /// Makes a private key (32 bytes: a P-256 scalar, big endian, or the seed of X-Wing), from `random` alone.
    #[must_use]
    pub fn generate(self, random: &mut dyn CryptoRng) -> SharedSecret {
        match self {
            Self::P256Aes256Gcm => dhkem::generate(random),
            Self::XWingChaCha20Poly1305 => xwing::generate(random),
        }
    }

    /// The public key of `private`, [`HpkeSuite::public_key_bytes`] bytes.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] when `private` is no scalar of P-256; every 32 bytes are a seed of X-Wing.
    pub fn public_key(self, backend: Backend, private: &[u8; 32]) -> Result<Vec<u8>, InvalidPublicKey> {
        match self {
            Self::P256Aes256Gcm => Ok(dhkem::public_key(backend, private)?.to_vec()),
            Self::XWingChaCha20Poly1305 => Ok(xwing::public_key(backend, private)),
        }
    }

    /// Seals `plaintext` to the owner of `public`, for the purpose `info` and bound to `aad`.
    ///
    /// # Errors
    /// [`InvalidPublicKey`].
    ///
    /// # Panics
    /// As [`Aead::seal_in_place`], for what no message here is long enough.
    ///
    /// Source: RFC 9180 §6.1.
    pub fn seal(
        self,
        backend: Backend,
        public: &[u8],
        (info, aad): (&[u8], &[u8]),
        plaintext: &[u8],
        random: &mut dyn CryptoRng,
    ) -> Result<HpkeSealed, InvalidPublicKey> {
        let (shared, enc) = match self {
            Self::P256Aes256Gcm => dhkem::encapsulate(backend, public, random)?,
            Self::XWingChaCha20Poly1305 => xwing::encapsulate(backend, public, random)?,
        };
        let Schedule { key, base_nonce } = self.schedule(&shared, info);
        let aead = Aead::new(backend, self.aead(), &key);
        let mut ct = Vec::with_capacity(plaintext.len() + TAG_BYTES);
        ct.extend_from_slice(plaintext);
        let tag = aead.seal_in_place(&base_nonce, aad, &mut ct);
        ct.extend_from_slice(&tag);
        Ok(HpkeSealed { enc, ct })
    }

    /// Opens what was sealed to the public key of `private`.
    ///
    /// # Errors
    /// [`Unauthentic`], whatever the reason; nothing of a plaintext is left.
    ///
    /// Source: RFC 9180 §6.1.
    pub fn open(
        self,
        backend: Backend,
        private: &[u8; 32],
        enc: &[u8],
        (info, aad): (&[u8], &[u8]),
        ct: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        let (ciphertext, tag) = ct.split_last_chunk().ok_or(Unauthentic)?;
        let shared = match self {
            Self::P256Aes256Gcm => dhkem::decapsulate(backend, private, enc)?,
            Self::XWingChaCha20Poly1305 => xwing::decapsulate(backend, private, enc)?,
        };
        let Schedule { key, base_nonce } = self.schedule(&shared, info);
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        Aead::new(backend, self.aead(), &key).open_in_place(&base_nonce, aad, &mut plaintext, tag)?;
        Ok(plaintext)
    }

    fn aead(self) -> AeadAlgorithm {
        match self {
            Self::P256Aes256Gcm => AeadAlgorithm::Aes256Gcm,
            Self::XWingChaCha20Poly1305 => AeadAlgorithm::ChaCha20Poly1305,
        }
    }

    /// `"HPKE" || kem_id || kdf_id || aead_id`.
    fn id(self) -> &'static [u8] {
        match self {
            Self::P256Aes256Gcm => b"HPKE\x00\x10\x00\x01\x00\x02",
            Self::XWingChaCha20Poly1305 => b"HPKE\x64\x7a\x00\x01\x00\x03",
        }
    }

    /// KeySchedule of base mode.
    ///
    /// Source: RFC 9180 §5.1.
    fn schedule(self, shared: &SharedSecret, info: &[u8]) -> Schedule {
        let extracted = secret(self.id(), shared);
        let context = context(self.id(), info);
        let mut schedule = Schedule { key: Zeroizing::new([0; 32]), base_nonce: [0; 12] };
        labeled_expand(&extracted, self.id(), b"key", &context, schedule.key.as_mut());
        labeled_expand(&extracted, self.id(), b"base_nonce", &context, &mut schedule.base_nonce);
        schedule
    }
}

/// What one sealing is done with.
struct Schedule {
    key: Zeroizing<[u8; 32]>,
    base_nonce: [u8; 12],
}

/// The `secret` of the key schedule, without a pre-shared key.
fn secret(suite: &[u8], shared: &SharedSecret) -> SharedSecret {
    labeled_extract(shared.as_bytes(), suite, b"secret", b"")
}

/// The `key_schedule_context` of base mode.
fn context(suite: &[u8], info: &[u8]) -> [u8; 65] {
    let mut context = [0; 65];
    let psk_id_hash = labeled_extract(b"", suite, b"psk_id_hash", b"");
    let info_hash = labeled_extract(b"", suite, b"info_hash", info);
    context[1..33].copy_from_slice(psk_id_hash.as_bytes());
    context[33..].copy_from_slice(info_hash.as_bytes());
    context
}

/// LabeledExtract with HKDF-SHA256.
///
/// Source: RFC 9180 §4.
fn labeled_extract(salt: &[u8], suite: &[u8], label: &[u8], input: &[u8]) -> SharedSecret {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in [VERSION, suite, label, input] {
        extract.input_ikm(part);
    }
    let (mut key, _) = extract.finalize();
    let secret = SharedSecret::new(key.as_ref());
    key.zeroize();
    secret
}

/// LabeledExpand with HKDF-SHA256, into at most 64 bytes.
///
/// Source: RFC 9180 §4.
fn labeled_expand(key: &SharedSecret, suite: &[u8], label: &[u8], info: &[u8], output: &mut [u8]) {
    let len = u16::try_from(output.len()).unwrap_or(u16::MAX).to_be_bytes();
    let expanded = hkdf::Hkdf::<Sha256>::from_prk(key.as_bytes())
        .map(|hkdf| hkdf.expand_multi_info(&[&len, VERSION, suite, label, info], output));
    // The key is exactly one hash long and the output at most two: the two reasons to fail.
    assert!(matches!(expanded, Ok(Ok(()))), "HKDF-Expand failed");
}

const VERSION: &[u8] = b"HPKE-v1";

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use aes_gcm::Aes128Gcm;
    use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
    use rand_core::{TryCryptoRng, TryRng};

    use super::*;

    /// A random source that gives these, the last first.
    pub(super) struct Draws<'a>(pub(super) &'a mut Vec<[u8; 32]>);

    impl TryRng for Draws<'_> {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("only bytes are drawn")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("only bytes are drawn")
        }

        fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
            output.copy_from_slice(&self.0.pop().unwrap());
            Ok(())
        }
    }

    impl TryCryptoRng for Draws<'_> {}

    /// RFC 9180 A.3.1: the KEM and the KDF of suite 1, with AES-128 in the place of AES-256.
    #[test]
    fn the_key_schedule_agrees_with_rfc_9180_a_3_1() {
        let suite = b"HPKE\x00\x10\x00\x01\x00\x01";
        let info = bytes("4f6465206f6e2061204772656369616e2055726e");
        let private = array("f3ce7fdae57e1a310d87f1ebbde6f328be0a99cdbcadf4d6589cf29de4b8ffd2");
        let public = bytes(
            "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a826a779b4cf969b8a0e539c7f62fb3d3\
             0ad6aa8f80e30f1d128aafd68a2ce72ea0",
        );
        let ephemeral = array("4995788ef4b9d6132b249ce59a77281493eb39af373d236a1fe415cb0c2d7beb");
        for &backend in Backend::available() {
            assert_eq!(dhkem::public_key(backend, &private).unwrap()[..], public);
            let (shared, enc) =
                dhkem::encapsulate(backend, &public, &mut Draws(&mut vec![ephemeral])).unwrap();
            assert_eq!(
                hex::encode(&enc),
                "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac98536d7b61a1af4b78e5b7f951c09\
                 00be863c403ce65c9bfcb9382657222d18c4"
            );
            let expected = "c0d26aeab536609a572b07695d933b589dcf363ff9d93c93adea537aeabb8cb8";
            assert_eq!(hex::encode(shared.as_bytes()), expected);
            let shared = dhkem::decapsulate(backend, &private, &enc).unwrap();
            assert_eq!(hex::encode(shared.as_bytes()), expected);

            let context = context(suite, &info);
            assert_eq!(
                hex::encode(context),
                "00b88d4e6d91759e65e87c470e8b9141113e9ad5f0c8ceefc1e088c82e6980500798e486f9c9c09c9b5c753ac72d60\
                 05de254c607d1b534ed11d493ae1c1d9ac85"
            );
            let secret = secret(suite, &shared);
            assert_eq!(
                hex::encode(secret.as_bytes()),
                "2eb7b6bf138f6b5aff857414a058a3f1750054a9ba1f72c2cf0684a6f20b10e1"
            );
            let (mut key, mut base_nonce) = ([0; 16], [0; 12]);
            labeled_expand(&secret, suite, b"key", &context, &mut key);
            labeled_expand(&secret, suite, b"base_nonce", &context, &mut base_nonce);
            assert_eq!(hex::encode(key), "868c066ef58aae6dc589b6cfdd18f97e");
            assert_eq!(hex::encode(base_nonce), "4e0bc5018beba4bf004cca59");
            let payload = Payload {
                msg: &bytes("4265617574792069732074727574682c20747275746820626561757479"),
                aad: &bytes("436f756e742d30"),
            };
            let ct = Aes128Gcm::new(&key.into()).encrypt(&base_nonce.into(), payload).unwrap();
            assert_eq!(
                hex::encode(ct),
                "5ad590bb8baa577f8619db35a36311226a896e7342a6d836d8b7bcd2f20b6c7f9076ac232e3ab2523f39513434"
            );
        }
    }

    /// A vector of the CFRG, bytes in hexadecimal; of a mode or a KDF that is not ours, what its KEM did.
    #[derive(serde::Deserialize)]
    #[allow(non_snake_case)] // as the file has it
    struct Vector {
        mode: u8,
        kem_id: u16,
        kdf_id: u16,
        aead_id: u16,
        info: String,
        skRm: String,
        skEm: String,
        pkRm: String,
        enc: String,
        shared_secret: String,
        key_schedule_context: String,
        secret: String,
        key: String,
        base_nonce: String,
        pt: String,
        /// Message N has the additional data `Count-N`.
        #[serde(default)]
        ct: Vec<String>,
    }

    /// Of the set of the CFRG those without a sender's key, with P-256 and AES-256-GCM. The file is cut from the one in the
    /// tests of pyhpke 0.6.5, whose entry for RFC 9180 A.3.1 is the one above.
    #[test]
    fn p256_and_aes_256_gcm_agree_with_the_vectors_of_the_cfrg() {
        let text = include_str!("../tests/data/hpke_cfrg.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).unwrap();
        let suite = HpkeSuite::P256Aes256Gcm;
        for &backend in Backend::available() {
            let (mut agreements, mut messages) = (0, 0);
            for vector in &vectors {
                assert_eq!((vector.kem_id, vector.aead_id), (0x10, 2));
                let (private, public) = (array(&vector.skRm), bytes(&vector.pkRm));
                assert_eq!(suite.public_key(backend, &private).unwrap(), public);
                let mut ephemeral = vec![array(&vector.skEm)];
                let (shared, enc) = dhkem::encapsulate(backend, &public, &mut Draws(&mut ephemeral)).unwrap();
                assert_eq!(
                    (hex::encode(&enc), hex::encode(shared.as_bytes())),
                    (vector.enc.clone(), vector.shared_secret.clone())
                );
                let opened = dhkem::decapsulate(backend, &private, &enc).unwrap();
                assert_eq!(opened.as_bytes(), shared.as_bytes());
                agreements += 1;
                if (vector.mode, vector.kdf_id) != (0, 1) {
                    continue;
                }
                let info = bytes(&vector.info);
                assert_eq!(hex::encode(context(suite.id(), &info)), vector.key_schedule_context);
                assert_eq!(hex::encode(secret(suite.id(), &shared).as_bytes()), vector.secret);
                let Schedule { key, base_nonce } = suite.schedule(&shared, &info);
                assert_eq!(
                    (hex::encode(*key), hex::encode(base_nonce)),
                    (vector.key.clone(), vector.base_nonce.clone())
                );
                let (aead, plaintext) = (Aead::new(backend, suite.aead(), &key), bytes(&vector.pt));
                for (count, expected) in vector.ct.iter().enumerate() {
                    let mut nonce = base_nonce;
                    let sequence = (count as u32).to_be_bytes();
                    nonce[8..].iter_mut().zip(sequence).for_each(|(byte, other)| *byte ^= other);
                    let (mut ct, aad) = (plaintext.clone(), format!("Count-{count}"));
                    let tag = aead.seal_in_place(&nonce, aad.as_bytes(), &mut ct);
                    assert_eq!(hex::encode([&ct[..], &tag].concat()), *expected, "{count}");
                    messages += 1;
                }
                // The one message that is sealed here is the first.
                let mut ephemeral = vec![array(&vector.skEm)];
                let purpose = (&info[..], &b"Count-0"[..]);
                let sealed =
                    suite.seal(backend, &public, purpose, &plaintext, &mut Draws(&mut ephemeral)).unwrap();
                assert_eq!(
                    (hex::encode(&sealed.enc), hex::encode(&sealed.ct)),
                    (vector.enc.clone(), vector.ct[0].clone())
                );
                assert_eq!(
                    *suite.open(backend, &private, &sealed.enc, purpose, &sealed.ct).unwrap(),
                    plaintext
                );
            }
            assert_eq!((agreements, messages), (4, 257), "{backend:?}");
        }
    }

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    fn array(text: &str) -> [u8; 32] {
        bytes(text).try_into().unwrap()
    }
}
