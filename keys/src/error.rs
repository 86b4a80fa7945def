//! Why a vault refused or failed.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::service::Refusal;
use crate::{KeyId, KeyUsage, NonContributory, SignatureType};

/// Why a vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    // The caller asked for what cannot be.
    /// The vault has no such key, or the caller may not use it: the two are not told apart.
    #[error("no key {0}")]
    NoSuchKey(KeyId),
    /// The key's usage does not include the operation. The vault and its keys are unchanged.
    #[error("key {key} is for {usage} and may not {operation}")]
    WrongUsage {
        /// The key asked for.
        key: KeyId,
        /// What it may do.
        usage: KeyUsage,
        /// What it was asked to do.
        operation: Operation,
    },
    /// This vault makes no keys for that.
    #[error("no keys for {0} are made here")]
    NotOffered(KeyUsage),

    // The peer sent what cannot be used.
    /// The peer's public key is of low order.
    #[error("key agreement failed")]
    NonContributory(#[from] NonContributory),

    // The operator has to act.
    /// The key service refused for another reason than the key.
    #[error("the key service refused")]
    Refused(#[source] Refusal),
    /// The vault is locked: unlock it, then ask again.
    #[error("the vault is locked")]
    Locked,
    /// The vault cannot be reached or did not answer in time; asking again later may succeed.
    #[error("the vault is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The store on disk was refused or failed.
    #[error("key store {}", path.display())]
    Store {
        /// The file or directory at fault.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: StoreError,
    },
}

/// What a key was asked to do when its usage forbade it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Sign a body of this type.
    Sign(SignatureType),
    /// Agree by X25519.
    Agree,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sign(kind) => write!(f, "sign {kind}"),
            Self::Agree => f.write_str("agree"),
        }
    }
}

/// What is wrong with a file or directory of a key store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Group or others may read or write it.
    #[error("mode {0:04o} lets others in")]
    Exposed(u32),
    /// It is a symbolic link, or of another kind than expected.
    #[error("is not a plain {0}")]
    WrongKind(&'static str),
    /// It was replaced while it was being opened.
    #[error("was replaced while it was being opened")]
    Replaced,
    /// It is no file of a key store.
    #[error("is not part of a key store")]
    Unknown,
    /// Its content is not a key of the named usage.
    #[error("is not a valid key file: {0}")]
    Malformed(&'static str),
    /// The passphrase is another one, or the header of the store was changed.
    #[error("the passphrase does not open it")]
    WrongPassphrase,
    /// It authenticates no more: bytes were changed, dropped or moved since it was written.
    #[error("was changed since it was written")]
    Tampered,
    /// The passphrase's cost is outside of what is taken.
    #[error("asks for a passphrase cost out of bounds")]
    Cost,
    /// The generation before is not older: an older state of the store was put in place.
    #[error("is older than the generation kept beside it")]
    RolledBack,
    /// There is one already.
    #[error("is already there")]
    Exists,
    /// There is no room for another key.
    #[error("holds as many keys as it can")]
    Full,
    /// The system refused.
    #[error("{action} failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
