//! What snow computes with: our algorithms behind its traits.
//!
//! snow's own resolver brings an older generation of every crate, accepts all-zero X25519 results, and its KEM is not
//! ML-KEM. Two of its traits do not fit us and are bent here: the static key is only a table of answered agreements,
//! and the KEM, which is given no random source and cannot fail to generate, owns one and turns a failure
//! into a key that every later step refuses.
//!
//! Specification: docs/protocol.md §3.5.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onward_keys::{
    Aead, AeadAlgorithm, Backend, CIPHERTEXT_BYTES, CryptoRng, DecapsulationKey, ENCAPSULATION_KEY_BYTES,
    SharedSecret, TAG_BYTES, hash,
};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice, KemChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Kem, Random};
use zeroize::Zeroizing;

use crate::epoch::nonce;
use crate::random::SeededRandom;

/// Agreements of a static key that the key service has answered, shared with the Noise state that uses them.
#[derive(Clone, Default)]
pub(crate) struct Agreements(Arc<Mutex<Answered>>);

#[derive(Default)]
struct Answered {
    agreements: Vec<Agreement>,
    /// The last one that a step needed and that was not there.
    missing: Option<[u8; 32]>,
}

struct Agreement {
    peer: [u8; 32],
    secret: SharedSecret,
}

impl Agreements {
    pub(crate) fn insert(&self, peer: [u8; 32], secret: SharedSecret) {
        self.lock().agreements.push(Agreement { peer, secret });
    }

    /// The peer's key for which an agreement was missing, if that is why the last step failed.
    pub(crate) fn take_missing(&self) -> Option<[u8; 32]> {
        self.lock().missing.take()
    }

    fn answer(&self, peer: [u8; 32], out: &mut [u8]) -> Result<(), Error> {
        let mut answered = self.lock();
        let Some(agreement) = answered.agreements.iter().find(|agreement| agreement.peer == peer) else {
            answered.missing = Some(peer);
            return Err(Error::Dh);
        };
        write(agreement.secret.as_bytes(), out).ok_or(Error::Dh)
    }

    fn lock(&self) -> MutexGuard<'_, Answered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The primitives of one handshake.
pub(crate) struct Resolver {
    backend: Backend,
    /// Every random source of the handshake is seeded from here.
    random: Mutex<SeededRandom>,
    /// Taken by the first Diffie-Hellman object that snow asks for: it asks for the static one first.
    fixed: Mutex<Option<StaticDh>>,
}

impl Resolver {
    /// For a handshake whose static key is in the key service.
    pub(crate) fn new(
        backend: Backend,
        seed: &[u8; 32],
        static_public: [u8; 32],
        agreements: Agreements,
    ) -> Self {
        Self {
            backend,
            random: Mutex::new(SeededRandom::new(seed)),
            fixed: Mutex::new(Some(StaticDh { public: static_public, agreements })),
        }
    }

    /// For a static key that is used here: a disposable one, or one of a published vector.
    #[cfg(any(test, feature = "ok2cry"))]
    pub(crate) fn with_local_keys(backend: Backend, seed: &[u8; 32]) -> Self {
        Self { backend, random: Mutex::new(SeededRandom::new(seed)), fixed: Mutex::new(None) }
    }

    fn random(&self) -> SeededRandom {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        SeededRandom::new(&Zeroizing::new(random.bytes()))
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(NoiseRandom(self.random())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        if *choice != DHChoice::Curve25519 {
            return None;
        }
        let fixed = self.fixed.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(match fixed {
            Some(fixed) => Box::new(fixed),
            None => {
                Box::new(LocalDh { backend: self.backend, secret: Zeroizing::new([0; 32]), public: [0; 32] })
            }
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(NoiseBlake2s::default())),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let algorithm = match choice {
            CipherChoice::ChaChaPoly => AeadAlgorithm::ChaCha20Poly1305,
            CipherChoice::AESGCM => AeadAlgorithm::Aes256Gcm,
        };
        Some(Box::new(NoiseCipher {
            backend: self.backend,
            algorithm,
            aead: Aead::new(self.backend, algorithm, &[0; 32]),
        }))
    }

    /// snow has one KEM choice; only the protocol's name, which is hashed, says which KEM it is.
    fn resolve_kem(&self, _choice: &KemChoice) -> Option<Box<dyn Kem>> {
        Some(Box::new(MlKem::new(self.backend, Box::new(self.random()))))
    }
}

struct NoiseRandom(SeededRandom);

impl Random for NoiseRandom {
    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Error> {
        self.0.fill(output);
        Ok(())
    }
}

/// A static key in the key service: its public half, and what the service has answered.
struct StaticDh {
    public: [u8; 32],
    agreements: Agreements,
}

impl Dh for StaticDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    /// snow requires a private key to be set; there is none.
    fn set(&mut self, _secret: &[u8]) {}

    fn generate(&mut self, _random: &mut dyn Random) -> Result<(), Error> {
        Err(Error::Dh)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &[0; 32]
    }

    fn dh(&self, peer: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.agreements.answer(*peer.first_chunk().ok_or(Error::Dh)?, out)
    }
}

/// A key made and used here: every ephemeral one.
struct LocalDh {
    backend: Backend,
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for LocalDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        if let Ok(secret) = secret.try_into() {
            self.secret = Zeroizing::new(secret);
            self.public = self.backend.x25519_public(&self.secret);
        }
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        random.try_fill_bytes(self.secret.as_mut())?;
        self.public = self.backend.x25519_public(&self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_ref()
    }

    /// Refuses an all-zero result, which snow does not.
    fn dh(&self, peer: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let peer = peer.first_chunk().ok_or(Error::Dh)?;
        let secret = self.backend.x25519(&self.secret, peer).map_err(|_| Error::Dh)?;
        write(secret.as_bytes(), out).ok_or(Error::Dh)
    }
}

struct NoiseCipher {
    backend: Backend,
    algorithm: AeadAlgorithm,
    aead: Aead,
}

impl Cipher for NoiseCipher {
    fn name(&self) -> &'static str {
        match self.algorithm {
            AeadAlgorithm::ChaCha20Poly1305 => "ChaChaPoly",
            AeadAlgorithm::Aes256Gcm => "AESGCM",
        }
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.aead = Aead::new(self.backend, self.algorithm, key);
    }

    /// snow checks that `out` has room before it calls.
    fn encrypt(&self, number: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (ciphertext, rest) = out.split_at_mut(plaintext.len());
        ciphertext.copy_from_slice(plaintext);
        let tag = self.aead.seal_in_place(&nonce(self.algorithm, number), ad, ciphertext);
        rest[..TAG_BYTES].copy_from_slice(&tag);
        plaintext.len() + TAG_BYTES
    }

    fn decrypt(&self, number: u64, ad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (ciphertext, tag) = sealed.split_last_chunk().ok_or(Error::Decrypt)?;
        let plaintext = out.get_mut(..ciphertext.len()).ok_or(Error::Decrypt)?;
        plaintext.copy_from_slice(ciphertext);
        self.aead
            .open_in_place(&nonce(self.algorithm, number), ad, plaintext, tag)
            .map_err(|_| Error::Decrypt)?;
        Ok(ciphertext.len())
    }
}

/// BLAKE2s. The input is collected first: a handshake hashes little, and secrets among it are wiped.
#[derive(Default)]
struct NoiseBlake2s {
    input: Zeroizing<Vec<u8>>,
}

impl Hash for NoiseBlake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.input = Zeroizing::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.input.extend_from_slice(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&hash(&self.input));
        self.reset();
    }
}

/// ML-KEM-768 for the Noise HFS extension.
pub(crate) struct MlKem {
    backend: Backend,
    /// `encapsulate` is given no random source and only a shared reference.
    random: Mutex<Box<dyn CryptoRng + Send>>,
    /// `None` until generated; then decapsulation is refused.
    secret: Option<DecapsulationKey>,
    public: Box<[u8; ENCAPSULATION_KEY_BYTES]>,
}

impl MlKem {
    pub(crate) fn new(backend: Backend, random: Box<dyn CryptoRng + Send>) -> Self {
        let public = Box::new([0; ENCAPSULATION_KEY_BYTES]);
        Self { backend, random: Mutex::new(random), secret: None, public }
    }
}

impl Kem for MlKem {
    fn name(&self) -> &'static str {
        "MLKEM768"
    }

    fn pub_len(&self) -> usize {
        ENCAPSULATION_KEY_BYTES
    }

    fn ciphertext_len(&self) -> usize {
        CIPHERTEXT_BYTES
    }

    fn shared_secret_len(&self) -> usize {
        32
    }

    fn generate(&mut self, _random: &mut dyn Random) {
        let random = self.random.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (secret, public) = self.backend.kem_generate(random.as_mut());
        self.secret = Some(secret);
        *self.public = public;
    }

    fn pubkey(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn encapsulate(
        &self,
        public: &[u8],
        secret_out: &mut [u8],
        ciphertext_out: &mut [u8],
    ) -> Result<(usize, usize), Error> {
        let public = public.try_into().map_err(|_| Error::Kem)?;
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let (ciphertext, secret) =
            self.backend.encapsulate(public, random.as_mut()).map_err(|_| Error::Kem)?;
        write(secret.as_bytes(), secret_out).ok_or(Error::Kem)?;
        write(&ciphertext, ciphertext_out).ok_or(Error::Kem)?;
        Ok((secret.as_bytes().len(), ciphertext.len()))
    }

    fn decapsulate(&self, ciphertext: &[u8], secret_out: &mut [u8]) -> Result<usize, Error> {
        let ciphertext = ciphertext.try_into().map_err(|_| Error::Kem)?;
        let secret = self.secret.as_ref().ok_or(Error::Kem)?.decapsulate(ciphertext);
        write(secret.as_bytes(), secret_out).ok_or(Error::Kem)?;
        Ok(secret.as_bytes().len())
    }
}

/// Copies `bytes` to the front of `out`; `None` if there is no room.
fn write(bytes: &[u8], out: &mut [u8]) -> Option<()> {
    out.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every u-coordinate of low order, in its reduced and its unreduced forms (RFC 7748 §6.1, §7).
    const LOW_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];

    #[test]
    fn n3_2_no_agreement_with_a_point_of_low_order() {
        for backend in Backend::available() {
            let resolver = Resolver::with_local_keys(*backend, &[3; 32]);
            let mut random = resolver.resolve_rng().unwrap();
            let mut dh = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
            dh.generate(random.as_mut()).unwrap();
            for point in LOW_ORDER {
                let mut out = [7; 32];
                let refused = dh.dh(&hex::decode(point).unwrap(), &mut out);
                assert!(matches!(refused, Err(Error::Dh)), "{backend:?} {point}");
                assert_eq!(out, [7; 32]);
            }
        }
    }

    #[test]
    fn a_static_key_knows_only_what_was_answered() {
        let agreements = Agreements::default();
        let resolver = Resolver::new(Backend::Portable, &[3; 32], [9; 32], agreements.clone());
        let fixed = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        assert_eq!(fixed.pubkey(), [9; 32]);
        assert_eq!(fixed.privkey(), [0; 32]);
        let mut out = [0; 32];
        assert!(matches!(fixed.dh(&[5; 32], &mut out), Err(Error::Dh)));
        agreements.insert([5; 32], SharedSecret::new(&[6; 32]));
        fixed.dh(&[5; 32], &mut out).unwrap();
        assert_eq!(out, [6; 32]);
        assert!(matches!(fixed.dh(&[4; 32], &mut out), Err(Error::Dh)));
    }

    #[test]
    fn n3_6_a_bad_encapsulation_key_is_refused() {
        for backend in Backend::available() {
            let resolver = Resolver::with_local_keys(*backend, &[3; 32]);
            let kem = resolver.resolve_kem(&KemChoice::Kyber1024).unwrap();
            let (mut secret, mut ciphertext) = ([0; 32], [0; CIPHERTEXT_BYTES]);
            let unreduced = [0xff; ENCAPSULATION_KEY_BYTES];
            let refused = kem.encapsulate(&unreduced, &mut secret, &mut ciphertext);
            assert!(matches!(refused, Err(Error::Kem)), "{backend:?}");
            assert!(kem.encapsulate(&[0; 10], &mut secret, &mut ciphertext).is_err());
            assert!(kem.decapsulate(&ciphertext, &mut secret).is_err(), "nothing was generated");
        }
    }
}
