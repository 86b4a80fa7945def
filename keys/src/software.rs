//! The software vault: private keys in the memory of this process, and optionally in a directory.
//!
//! For development and tests. Whoever can read this process or the directory has the keys; it is not an isolated
//! vault, and says so ([`Vault::protection`], the marker file, the first line of every key file).
//!
//! Specification: docs/protocol.md §7.2, §7.5.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use self::directory::{Directory, Keys};
use crate::{
    Answer, KeyError, KeyId, KeyInfo, KeyUsage, Operation, PublicHalf, SharedSecret, Signature,
    SignatureAlgorithm, SignatureType, Vault, private,
};

mod directory;
mod file;

/// Keeps keys in this process. For development and tests.
///
/// Its answers are ready at once; one with a directory waits for the disk in the calling thread.
pub struct SoftwareVault {
    keys: Mutex<Keys>,
    directory: Option<Directory>,
}

impl SoftwareVault {
    /// An empty vault in memory: its keys end with it.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self { keys: Mutex::default(), directory: None }
    }

    /// The vault in the directory `path`, which is made (mode 0700) when it is missing.
    ///
    /// Reads every key once: what another process makes or deletes later is seen by the next `open`. What a killed
    /// writer left unfinished is removed.
    ///
    /// # Errors
    /// [`KeyError::Store`] naming the first file that is exposed to others, a link, unknown or malformed.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let (directory, keys) = Directory::open(path)?;
        Ok(Self { keys: Mutex::new(keys), directory: Some(directory) })
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // No code that can panic runs between two changes of the map, so a poisoned one is still whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generate_now(&self, usage: KeyUsage) -> Result<KeyId, KeyError> {
        if usage.general().is_some() {
            return Err(KeyError::NotOffered(usage));
        }
        let mut id = [0; 16];
        fill(&mut id)?;
        let id = KeyId::from_bytes(id);
        let mut secret = Zeroizing::new([0; 32]);
        fill(secret.as_mut())?;
        let key = PrivateKey::new(usage, &secret);
        let mut keys = self.keys();
        if let Some(directory) = &self.directory {
            directory.write(id, &key)?;
        }
        keys.insert(id, key);
        Ok(id)
    }

    fn sign_now(&self, id: KeyId, kind: SignatureType, body: &[u8]) -> Result<Signature, KeyError> {
        let keys = self.keys();
        let key = keys.get(&id).ok_or(KeyError::NoSuchKey(id))?;
        if !key.usage.signs(kind) {
            return Err(key.misused(id, Operation::Sign(kind)));
        }
        let bytes = private::sign(&key.secret, kind, body).to_vec();
        Ok(Signature { algorithm: SignatureAlgorithm::Ed25519, bytes })
    }

    fn agree_now(&self, id: KeyId, peer: &[u8; 32]) -> Result<SharedSecret, KeyError> {
        let keys = self.keys();
        let key = keys.get(&id).ok_or(KeyError::NoSuchKey(id))?;
        if !key.usage.agrees() {
            return Err(key.misused(id, Operation::Agree));
        }
        Ok(private::agree(&key.secret, peer)?)
    }

    fn delete_now(&self, id: KeyId) -> Result<(), KeyError> {
        let mut keys = self.keys();
        if !keys.contains_key(&id) {
            return Err(KeyError::NoSuchKey(id));
        }
        if let Some(directory) = &self.directory {
            directory.remove(id)?;
        }
        keys.remove(&id);
        Ok(())
    }
}

/// Reads a key file of a software vault, to take the key over into one that protects it: its usage, and its private half.
///
/// # Errors
/// [`KeyError::Store`]: the file is exposed to others, a link or malformed.
pub fn read_development_key(path: &Path) -> Result<(KeyUsage, Zeroizing<[u8; 32]>), KeyError> {
    let key = directory::read_key(path)?;
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(key.secret.as_ref());
    Ok((key.usage, secret))
}

impl Vault for SoftwareVault {
    fn generate(&self, usage: KeyUsage) -> Answer<'_, KeyId> {
        Box::pin(async move { self.generate_now(usage) })
    }

    fn public(&self, key: KeyId) -> Answer<'_, PublicHalf> {
        Box::pin(async move {
            let keys = self.keys();
            let private = keys.get(&key).ok_or(KeyError::NoSuchKey(key))?;
            Ok(private.public.clone())
        })
    }

    fn sign<'a>(&'a self, key: KeyId, kind: SignatureType, body: &'a [u8]) -> Answer<'a, Signature> {
        Box::pin(async move { self.sign_now(key, kind, body) })
    }

    fn agree<'a>(&'a self, key: KeyId, peer: &'a [u8; 32]) -> Answer<'a, SharedSecret> {
        Box::pin(async move { self.agree_now(key, peer) })
    }

    fn list(&self) -> Answer<'_, Vec<KeyInfo>> {
        Box::pin(async move {
            let info = |(id, key): (&KeyId, &PrivateKey)| KeyInfo {
                id: *id,
                usage: key.usage,
                public: key.public.clone(),
            };
            Ok(self.keys().iter().map(info).collect())
        })
    }

    fn delete(&self, key: KeyId) -> Answer<'_, ()> {
        Box::pin(async move { self.delete_now(key) })
    }

    fn protection(&self) -> &str {
        PROTECTION
    }
}

impl fmt::Debug for SoftwareVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys: _, directory } = self;
        f.debug_struct("SoftwareVault").field("directory", directory).finish_non_exhaustive()
    }
}

/// A private key with its usage and its public half; wiped on drop.
#[derive(ZeroizeOnDrop)]
struct PrivateKey {
    #[zeroize(skip)]
    usage: KeyUsage,
    #[zeroize(skip)]
    public: PublicHalf,
    /// The Ed25519 seed or X25519 scalar. Boxed, so that moving the key leaves no copy behind.
    secret: Box<[u8; 32]>,
}

impl PrivateKey {
    fn new(usage: KeyUsage, secret: &[u8; 32]) -> Self {
        let public = private::public_half(usage, secret);
        let mut boxed = Box::new([0; 32]);
        boxed.copy_from_slice(secret);
        Self { usage, public, secret: boxed }
    }

    fn misused(&self, key: KeyId, operation: Operation) -> KeyError {
        KeyError::WrongUsage { key, usage: self.usage, operation }
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(bytes).map_err(|error| {
        bytes.zeroize();
        KeyError::Unavailable(Box::new(error))
    })
}

/// What [`Vault::protection`] answers.
const PROTECTION: &str = "development: keys are in this process";
