//! What the service answers, and how a client reads it: as what it has asked for and as nothing else.
//!
//! Specification: docs/protocol.md §7.2.

use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::Encoder;
use zeroize::Zeroizing;

use super::{CACHE_BYTES_MAX, FRAME_BYTES_MAX, KeyMeta, ServiceState, Written, exact, put_frame};
use crate::general::PUBLIC_BYTES_MAX;
use crate::strict::{self, Malformed};
use crate::{SharedSecret, WipedBuffer, message};

/// Why the service did not do what it was asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum Refusal {
    /// No rule allows it, or there is no such key: the two are not told apart.
    #[error("denied by policy, or no such key")]
    Denied = 1,
    /// The arguments are not of the operation's shape, or say what cannot be.
    #[error("arguments refused")]
    BadArguments = 2,
    /// The operation failed on what a peer sent. Says no more on purpose.
    #[error("the operation failed")]
    Crypto = 3,
    /// The store is locked.
    #[error("the key service is locked")]
    Locked = 4,
    /// The rule's rate is used up for now.
    #[error("too many requests")]
    Rate = 5,
    /// The store or the policy could not be read or written.
    #[error("the key service's store failed")]
    Backend = 6,
    /// It took too long.
    #[error("the key service took too long")]
    Timeout = 7,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 7] = [
        Self::Denied,
        Self::BadArguments,
        Self::Crypto,
        Self::Locked,
        Self::Rate,
        Self::Backend,
        Self::Timeout,
    ];
}

/// What the service answers when it did what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Done, and nothing to say.
    Done,
    /// A key.
    Key(KeyMeta),
    /// Keys.
    Keys(Vec<KeyMeta>),
    /// An Ed25519 signature.
    Signature([u8; 64]),
    /// An agreed secret.
    Shared(SharedSecret),
    /// The state of the service.
    State(ServiceState),
    /// What an operation of general use yields, or what the key cache answers.
    Bytes(Zeroizing<Vec<u8>>),
    /// Whether it is so.
    Verdict(bool),
    /// A ciphertext, and the secret in it.
    Encapsulated(Vec<u8>, SharedSecret),
}

/// Appends the answer to the request `id` as a frame to `out`.
pub fn put_answer(out: &mut WipedBuffer, id: u32, answer: &Result<Outcome, Refusal>) {
    let answer = answer.as_ref().map_err(|refusal| *refusal as u8);
    put_frame(out, |e| message::put_answer(e, id, answer, Outcome::put));
}

impl Outcome {
    fn put(&self, e: &mut Encoder<&mut WipedBuffer>) -> Written {
        match self {
            Self::Done => e.null()?.ok(),
            Self::Key(meta) => meta.put(e),
            Self::Keys(metas) => {
                e.array(metas.len() as u64)?;
                metas.iter().try_for_each(|meta| meta.put(e))
            }
            Self::Signature(bytes) => e.bytes(bytes)?.ok(),
            Self::Shared(secret) => e.bytes(secret.as_bytes())?.ok(),
            Self::State(state) => state.put(e),
            Self::Bytes(bytes) => e.bytes(bytes)?.ok(),
            Self::Verdict(verdict) => e.bool(*verdict)?.ok(),
            Self::Encapsulated(ciphertext, secret) => {
                e.array(2)?.bytes(ciphertext)?.bytes(secret.as_bytes())?.ok()
            }
        }
    }
}

/// An answer as it came; what it holds is read as what was asked for.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    /// Which request it answers.
    pub id: u32,
    /// The result, still encoded, or why there is none.
    result: Result<&'a [u8], Refusal>,
}

impl<'a> Reply<'a> {
    /// Reads a frame's content.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(content: &'a [u8]) -> Result<Self, Malformed> {
        let refusal = |status| Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == status);
        let (id, result) = message::read_answer(content, FRAME_BYTES_MAX, refusal)?;
        Ok(Self { id, result })
    }

    /// The answer to a call that yields nothing.
    ///
    /// # Errors
    /// The refusal, or that the answer is of another shape; as for every reader here.
    pub fn done(&self) -> Result<(), ReplyError> {
        self.read(Decoder::null)
    }

    /// The answer to a call that yields a key.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn key(&self) -> Result<KeyMeta, ReplyError> {
        self.read(KeyMeta::read)
    }

    /// The answer to a call that yields keys.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn keys(&self) -> Result<Vec<KeyMeta>, ReplyError> {
        self.read(|d| {
            let count = strict::array_within(d, 0..=FRAME_BYTES_MAX as u64)?;
            (0..count).map(|_| KeyMeta::read(d)).collect()
        })
    }

    /// The answer to a call that yields a signature.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn signature(&self) -> Result<[u8; 64], ReplyError> {
        self.read(strict::bytes_exact)
    }

    /// The answer to a call that yields a secret.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn shared(&self) -> Result<SharedSecret, ReplyError> {
        self.read(|d| Ok(SharedSecret::new(exact(d)?)))
    }

    /// The answer to a call that yields bytes.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn bytes(&self) -> Result<Zeroizing<Vec<u8>>, ReplyError> {
        self.read(|d| Ok(Zeroizing::new(d.bytes()?.to_vec())))
    }

    /// The answer to a question that is answered by yes or no.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn verdict(&self) -> Result<bool, ReplyError> {
        self.read(Decoder::bool)
    }

    /// The answer to a call that yields a ciphertext and the secret in it.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn encapsulated(&self) -> Result<(Vec<u8>, SharedSecret), ReplyError> {
        self.read(|d| {
            strict::array(d, 2)?;
            let ciphertext = strict::bytes(d, PUBLIC_BYTES_MAX)?.to_vec();
            Ok((ciphertext, SharedSecret::new(exact(d)?)))
        })
    }

    /// The answer to a question for the state.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn state(&self) -> Result<ServiceState, ReplyError> {
        self.read(ServiceState::read)
    }

    /// The answer of the key cache.
    ///
    /// # Errors
    /// As [`Reply::done`].
    pub fn cache(&self) -> Result<&'a [u8], ReplyError> {
        self.read(|d| strict::bytes(d, CACHE_BYTES_MAX))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&mut Decoder<'a>) -> Result<T, decode::Error>,
    ) -> Result<T, ReplyError> {
        let result = self.result.map_err(ReplyError::Refused)?;
        strict::decode_once(result, FRAME_BYTES_MAX, read).map_err(ReplyError::Malformed)
    }
}

impl fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, result } = self;
        f.debug_struct("Reply").field("id", id).field("refusal", &result.err()).finish_non_exhaustive()
    }
}

/// Why an answer has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The service refused.
    #[error("the key service refused")]
    Refused(#[source] Refusal),
    /// What came is no answer to what was asked.
    #[error("the key service's answer is malformed")]
    Malformed(#[source] Malformed),
}
