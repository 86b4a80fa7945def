//! The operations with keys of general use, as calls of the client.
//!
//! Specification: docs/protocol.md §7.2.

use onward_keys::general::request::GeneralCall;
use onward_keys::general::{Form, Mode, Scheme};
use onward_keys::service::{Call, KeyMeta, NewKey, Reply, ReplyError};
use onward_keys::{KeyError, KeyId, SharedSecret};
use zeroize::Zeroizing;

use super::KeyClient;

/// Every call fails with [`KeyError::NoSuchKey`] when the policy does not allow it or there is no such key, with
/// [`KeyError::Refused`] when the key is not for it or what a peer sent did not authenticate, and as all calls of the
/// client do when the service is locked or gone.
///
/// # Cancel safety
/// As for every call of the client: what has been sent may be done all the same.
impl KeyClient {
    /// Signs `message` as it stands, at most 64,000 bytes: for formats that are not this project's.
    ///
    /// # Errors
    /// Also when the message begins as a typed one does (docs/protocol.md §0).
    pub async fn sign_raw(&self, key: KeyId, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.public_bytes(GeneralCall::SignRaw { key, scheme, message }).await
    }

    /// Whether `signature` over `message` is by this key.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn verify_raw(
        &self,
        key: KeyId,
        scheme: Scheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, KeyError> {
        let call = GeneralCall::Verify { key, scheme, message, signature };
        self.operate(call, |reply| reply.verdict()).await
    }

    /// Agrees with the owner of `peer` and derives `bytes` bytes (1 to 1,024) for the purpose `info`, by HKDF-SHA256.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn derive(
        &self,
        key: KeyId,
        peer: &[u8],
        info: &[u8],
        bytes: u16,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.operate(GeneralCall::EcdhKdf { key, peer, info, bytes }, |reply| reply.bytes()).await
    }

    /// Opens what was sealed to the key by HPKE in base mode: P-256 with AES-256-GCM, or X-Wing with ChaCha20-Poly1305.
    ///
    /// # Errors
    /// As for every operation here; whatever is wrong with it is one error.
    pub async fn hpke_open(
        &self,
        key: KeyId,
        enc: &[u8],
        (info, aad): (&[u8], &[u8]),
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let call = GeneralCall::HpkeOpen { key, enc, info, aad, ciphertext };
        self.operate(call, |reply| reply.bytes()).await
    }

    /// Encrypts at most 64,000 bytes; the service draws the nonce, which stands in front.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn encrypt(
        &self,
        key: KeyId,
        mode: Mode,
        aad: &[u8],
        data: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        self.public_bytes(GeneralCall::Encrypt { key, mode, aad, data }).await
    }

    /// Decrypts what is authentic.
    ///
    /// # Errors
    /// As for every operation here; whatever is wrong with `sealed` is one error.
    pub async fn decrypt(
        &self,
        key: KeyId,
        mode: Mode,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.operate(GeneralCall::Decrypt { key, mode, aad, sealed }, |reply| reply.bytes()).await
    }

    /// HMAC-SHA256 of at most 64,000 bytes.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn mac(&self, key: KeyId, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.public_bytes(GeneralCall::Mac { key, data }).await
    }

    /// The key `key`, which has to be extractable, wrapped by the key `with`.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn wrap(&self, with: KeyId, key: KeyId, form: Form) -> Result<Vec<u8>, KeyError> {
        self.public_bytes(GeneralCall::Wrap { with, key, form }).await
    }

    /// Takes in a key that was wrapped by the key `with`, as `new` says: never as more than it was.
    ///
    /// # Errors
    /// As for every operation here; also when the key is or was in the store.
    pub async fn unwrap(
        &self,
        with: KeyId,
        form: Form,
        wrapped: &[u8],
        new: NewKey<'_>,
    ) -> Result<KeyMeta, KeyError> {
        self.operate(GeneralCall::Unwrap { with, form, wrapped, new }, |reply| reply.key()).await
    }

    /// Encapsulates a fresh secret to the key: a ciphertext for its owner, and the secret.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn encapsulate(&self, key: KeyId) -> Result<(Vec<u8>, SharedSecret), KeyError> {
        self.operate(GeneralCall::Encapsulate(key), |reply| reply.encapsulated()).await
    }

    /// The secret in `ciphertext`; an unrelated one if it was changed.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn decapsulate(&self, key: KeyId, ciphertext: &[u8]) -> Result<SharedSecret, KeyError> {
        self.operate(GeneralCall::Decapsulate { key, ciphertext }, |reply| reply.shared()).await
    }

    /// Random bytes, 1 to 1,024.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn random(&self, bytes: u16) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.operate(GeneralCall::Random { bytes }, |reply| reply.bytes()).await
    }

    /// Seals at most 64,000 bytes so that only this user can have them opened, under the same label and data.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn seal(&self, label: &str, aad: &[u8], data: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.public_bytes(GeneralCall::Seal { label, aad, data }).await
    }

    /// Opens what [`KeyClient::seal`] sealed.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn open(&self, label: &str, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.operate(GeneralCall::Open { label, aad, sealed }, |reply| reply.bytes()).await
    }

    /// Makes an extractable key one that never leaves the store, for good.
    ///
    /// # Errors
    /// As for every operation here.
    pub async fn narrow(&self, key: KeyId) -> Result<(), KeyError> {
        self.operate(GeneralCall::Narrow(key), |reply| reply.done()).await
    }

    /// For what may be known to everybody.
    async fn public_bytes(&self, call: GeneralCall<'_>) -> Result<Vec<u8>, KeyError> {
        let mut bytes = self.operate(call, |reply| reply.bytes()).await?;
        Ok(std::mem::take(&mut *bytes))
    }

    async fn operate<T>(
        &self,
        call: GeneralCall<'_>,
        read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, KeyError> {
        self.ask(Call::General(call), call.key(), read).await
    }
}
