//! What a client and the key service say to each other: one request, one answer, in frames over a Unix socket.
//!
//! A frame is `length u32 BE | CBOR`, at most [`FRAME_BYTES_MAX`] bytes of CBOR. A request is
//! `[v=1, id u32, op u8, args]`, an answer `[v=1, id u32, status u8, result/null]`. Decoding takes only the
//! deterministic encoding and borrows from the frame, so that a secret in it is nowhere twice.
//!
//! No message has a place for a private key on its way to a client, but for one that another wraps. One carries a private key to the service
//! ([`Call::Import`]) and two the passphrase of its store ([`Call::Unlock`], [`Call::ChangePassphrase`]): all are wiped
//! with the frame.
//!
//! Specification: docs/protocol.md §7.1, §7.2.

use std::convert::Infallible;
use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};
use zeroize::Zeroizing;

use crate::general::request::GeneralCall;
use crate::general::{MATERIAL_BYTES_MAX, PUBLIC_BYTES_MAX};
use crate::strict::{self, Malformed};
use crate::{
    KeyId, KeyUsage, PublicHalf, PublicKey, SharedSecret, SignatureAlgorithm, SignatureType, WipedBuffer,
};

/// Bytes of CBOR in a frame, at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Requests of one client that may wait for their answers.
pub const IN_FLIGHT_MAX: usize = 64;

/// Bytes of a key's label, at most; it has at least one.
pub const LABEL_BYTES_MAX: usize = 64;

/// Bytes of a passphrase, at most; it has at least one.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Bytes of a body to sign, at most.
pub const BODY_BYTES_MAX: usize = 65_535;

/// Bytes of a request to the key cache or of its answer, at most: what fits into a frame.
pub const CACHE_BYTES_MAX: usize = FRAME_BYTES_MAX - 64;

/// What a client asks for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Request<'a> {
    /// Names the request on its connection; the answer repeats it.
    pub id: u32,
    /// What is asked for.
    pub call: Call<'a>,
}

/// An operation with its arguments.
#[derive(Clone, Copy, Eq, PartialEq)]
#[non_exhaustive]
pub enum Call<'a> {
    /// Makes a key.
    Generate(NewKey<'a>),
    /// Takes in a private key that was made elsewhere. Operator only.
    Import {
        /// What the key is to be.
        key: NewKey<'a>,
        /// Its name where it comes from, kept if given: identities name their keys.
        id: Option<KeyId>,
        /// The private half, in the form of its type: 1 to [`MATERIAL_BYTES_MAX`] bytes.
        secret: &'a [u8],
    },
    /// What is publicly known of a key.
    Public(KeyId),
    /// What is publicly known of every key the client may list.
    List,
    /// Signs a body as a `kind`; never an identity's change or an attestation for a client.
    Sign {
        /// The signing key.
        key: KeyId,
        /// What the body is.
        kind: SignatureType,
        /// 1 to [`BODY_BYTES_MAX`] bytes.
        body: &'a [u8],
    },
    /// Agrees by X25519.
    Agree {
        /// The key that agrees.
        key: KeyId,
        /// The peer's public key.
        peer: &'a [u8; 32],
    },
    /// Destroys a key: only what is publicly known of it is kept.
    Destroy(KeyId),
    /// Signs an attestation of a key in the same service.
    Attest {
        /// The identity's own key.
        key: KeyId,
        /// The attestation to sign: 1 to [`BODY_BYTES_MAX`] bytes.
        body: &'a [u8],
    },
    /// The state of the service.
    Status,
    /// Opens the store, or proves once more that its passphrase is known: the connection is then an operator's.
    Unlock {
        /// The passphrase.
        passphrase: &'a [u8],
        /// Makes the store if there is none.
        create: bool,
    },
    /// Wipes every secret from memory until the next [`Call::Unlock`].
    Lock,
    /// Reads the policy again.
    Reload,
    /// Lets a key rest until it is enabled.
    Disable(KeyId),
    /// Ends a key's rest.
    Enable(KeyId),
    /// Puts another passphrase in the place of the store's.
    ChangePassphrase {
        /// The present one.
        passphrase: &'a [u8],
        /// The next one.
        next: &'a [u8],
    },
    /// An operation with keys of general use.
    General(GeneralCall<'a>),
    /// Asks the key cache: a request as docs/protocol.md §5.4 has it, 1 to [`CACHE_BYTES_MAX`] bytes.
    Cache(&'a [u8]),
}

/// What a key to be made is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewKey<'a> {
    /// What it may do, for good.
    pub usage: KeyUsage,
    /// 1 to [`LABEL_BYTES_MAX`] bytes; the owner has no other key in use with it.
    pub label: &'a str,
    /// When it ends, Unix seconds, if ever.
    pub expires: Option<u64>,
    /// Whether it may leave the store wrapped by another key: only one of general use may.
    pub extractable: bool,
}

/// An operation's name, as policies and logs have it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs)] // each is the [`Call`] of its name
#[repr(u8)]
#[non_exhaustive]
pub enum CallKind {
    Generate = 1,
    Import = 2,
    Public = 3,
    List = 4,
    Sign = 5,
    SignRaw = 6,
    Verify = 7,
    Agree = 8,
    EcdhKdf = 9,
    HpkeOpen = 10,
    Encrypt = 11,
    Decrypt = 12,
    Wrap = 13,
    Unwrap = 14,
    Mac = 15,
    Encapsulate = 16,
    Decapsulate = 17,
    Destroy = 18,
    Random = 19,
    Seal = 20,
    Open = 21,
    Cache = 22,
    Attest = 23,
    Status = 32,
    Unlock = 33,
    Lock = 34,
    Reload = 35,
    Disable = 36,
    Enable = 37,
    Narrow = 38,
    ChangePassphrase = 39,
}

impl CallKind {
    /// Every operation.
    pub const ALL: [Self; 31] = [
        Self::Generate,
        Self::Import,
        Self::Public,
        Self::List,
        Self::Sign,
        Self::SignRaw,
        Self::Verify,
        Self::Agree,
        Self::EcdhKdf,
        Self::HpkeOpen,
        Self::Encrypt,
        Self::Decrypt,
        Self::Wrap,
        Self::Unwrap,
        Self::Mac,
        Self::Encapsulate,
        Self::Decapsulate,
        Self::Destroy,
        Self::Random,
        Self::Seal,
        Self::Open,
        Self::Attest,
        Self::Status,
        Self::Unlock,
        Self::Lock,
        Self::Reload,
        Self::Disable,
        Self::Enable,
        Self::Narrow,
        Self::ChangePassphrase,
        Self::Cache,
    ];

    /// The operation's number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The operation with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The operation's name in policy files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Import => "import",
            Self::Public => "public",
            Self::List => "list",
            Self::Sign => "sign",
            Self::SignRaw => "sign-raw",
            Self::Verify => "verify",
            Self::Agree => "agree",
            Self::EcdhKdf => "ecdh-kdf",
            Self::HpkeOpen => "hpke-open",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Mac => "mac",
            Self::Encapsulate => "encapsulate",
            Self::Decapsulate => "decapsulate",
            Self::Destroy => "destroy",
            Self::Random => "random",
            Self::Seal => "seal",
            Self::Open => "open",
            Self::Attest => "attest",
            Self::Status => "status",
            Self::Unlock => "unlock",
            Self::Lock => "lock",
            Self::Reload => "reload",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Narrow => "narrow",
            Self::ChangePassphrase => "change-passphrase",
            Self::Cache => "cache",
        }
    }

    /// The operation of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Call<'_> {
    /// Which operation it is.
    #[must_use]
    pub fn kind(&self) -> CallKind {
        match self {
            Self::Generate(_) => CallKind::Generate,
            Self::Import { .. } => CallKind::Import,
            Self::Public(_) => CallKind::Public,
            Self::List => CallKind::List,
            Self::Sign { .. } => CallKind::Sign,
            Self::Agree { .. } => CallKind::Agree,
            Self::Destroy(_) => CallKind::Destroy,
            Self::Attest { .. } => CallKind::Attest,
            Self::Status => CallKind::Status,
            Self::Unlock { .. } => CallKind::Unlock,
            Self::Lock => CallKind::Lock,
            Self::Reload => CallKind::Reload,
            Self::Disable(_) => CallKind::Disable,
            Self::Enable(_) => CallKind::Enable,
            Self::ChangePassphrase { .. } => CallKind::ChangePassphrase,
            Self::General(call) => call.kind(),
            Self::Cache(_) => CallKind::Cache,
        }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({})", self.kind())
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, call } = self;
        f.debug_struct("Request").field("id", id).field("call", call).finish()
    }
}

impl<'a> Request<'a> {
    /// Reads a frame's content.
    ///
    /// # Errors
    /// [`Malformed`]; an unknown operation is of no known shape.
    pub fn decode(content: &'a [u8]) -> Result<Self, Malformed> {
        strict::decode_once(content, FRAME_BYTES_MAX, |d| {
            strict::array(d, 4)?;
            strict::version(d, VERSION)?;
            Ok(Self { id: d.u32()?, call: call(d)? })
        })
    }

    /// Appends the request as a frame to `out`.
    pub fn put(&self, out: &mut WipedBuffer) {
        put_frame(out, |e| {
            e.array(4)?.u8(VERSION)?.u32(self.id)?.u8(self.call.kind().number())?;
            match &self.call {
                Call::Generate(new) => {
                    e.array(4)?;
                    new.put(e)
                }
                Call::Import { key, id, secret } => {
                    e.array(6)?;
                    key.put(e)?;
                    strict::put_optional_bytes(e, id.as_ref().map(KeyId::as_bytes))?;
                    e.bytes(secret)?.ok()
                }
                Call::Public(key) | Call::Destroy(key) | Call::Disable(key) | Call::Enable(key) => {
                    e.array(1)?.bytes(key.as_bytes())?.ok()
                }
                Call::List | Call::Status | Call::Lock | Call::Reload => e.array(0)?.ok(),
                Call::Sign { key, kind, body } => {
                    e.array(3)?.bytes(key.as_bytes())?.str(kind.text())?.bytes(body)?.ok()
                }
                Call::Agree { key, peer } => e.array(2)?.bytes(key.as_bytes())?.bytes(*peer)?.ok(),
                Call::Attest { key, body } => e.array(2)?.bytes(key.as_bytes())?.bytes(body)?.ok(),
                Call::Cache(request) => e.array(1)?.bytes(request)?.ok(),
                Call::Unlock { passphrase, create } => e.array(2)?.bytes(passphrase)?.bool(*create)?.ok(),
                Call::ChangePassphrase { passphrase, next } => {
                    e.array(2)?.bytes(passphrase)?.bytes(next)?.ok()
                }
                Call::General(call) => call.put(e),
            }
        });
    }
}

impl NewKey<'_> {
    pub(crate) fn put(&self, e: &mut Encoder<&mut WipedBuffer>) -> Written {
        e.u16(self.usage.number())?.str(self.label)?;
        put_optional(e, self.expires)?;
        e.bool(self.extractable)?.ok()
    }
}

pub(crate) fn new_key<'b>(d: &mut Decoder<'b>) -> Result<NewKey<'b>, decode::Error> {
    let usage = usage(d)?;
    Ok(NewKey {
        usage,
        label: strict::text(d, LABEL_BYTES_MAX)?,
        expires: strict::optional(d, Decoder::u64)?,
        extractable: extractable(d, usage)?,
    })
}

/// Only a key of general use can be extractable.
fn extractable(d: &mut Decoder<'_>, usage: KeyUsage) -> Result<bool, decode::Error> {
    let extractable = d.bool()?;
    if extractable && usage.general().is_none() {
        return Err(strict::refuse(d, "a key that never leaves"));
    }
    Ok(extractable)
}

fn usage(d: &mut Decoder<'_>) -> Result<KeyUsage, decode::Error> {
    KeyUsage::from_number(d.u16()?).ok_or_else(|| strict::refuse(d, "unknown usage"))
}

pub(crate) fn key_id(d: &mut Decoder<'_>) -> Result<KeyId, decode::Error> {
    strict::bytes_exact(d).map(KeyId::from_bytes)
}

fn exact<'b>(d: &mut Decoder<'b>) -> Result<&'b [u8; 32], decode::Error> {
    d.bytes()?.try_into().map_err(|_| strict::refuse(d, "byte string of another length"))
}

fn call<'b>(d: &mut Decoder<'b>) -> Result<Call<'b>, decode::Error> {
    let number = d.u8()?;
    let kind = CallKind::from_number(number).ok_or_else(|| strict::refuse(d, "unknown operation"))?;
    if let Some(call) = GeneralCall::read(kind, d)? {
        return Ok(Call::General(call));
    }
    let arguments = match kind {
        CallKind::List | CallKind::Status | CallKind::Lock | CallKind::Reload => 0,
        CallKind::Public | CallKind::Destroy | CallKind::Disable | CallKind::Enable | CallKind::Cache => 1,
        CallKind::Agree | CallKind::Attest | CallKind::Unlock | CallKind::ChangePassphrase => 2,
        CallKind::Sign => 3,
        CallKind::Generate => 4,
        _ => 6,
    };
    strict::array(d, arguments)?;
    Ok(match kind {
        CallKind::Generate => Call::Generate(new_key(d)?),
        CallKind::Public => Call::Public(key_id(d)?),
        CallKind::List => Call::List,
        CallKind::Sign => {
            let key = key_id(d)?;
            let text = d.str()?;
            let kind = SignatureType::ALL.into_iter().find(|kind| kind.text() == text);
            let kind = kind.ok_or_else(|| strict::refuse(d, "unknown type"))?;
            Call::Sign { key, kind, body: strict::bytes(d, BODY_BYTES_MAX)? }
        }
        CallKind::Agree => Call::Agree { key: key_id(d)?, peer: exact(d)? },
        CallKind::Destroy => Call::Destroy(key_id(d)?),
        CallKind::Attest => Call::Attest { key: key_id(d)?, body: strict::bytes(d, BODY_BYTES_MAX)? },
        CallKind::Status => Call::Status,
        CallKind::Unlock => {
            Call::Unlock { passphrase: strict::bytes(d, PASSPHRASE_BYTES_MAX)?, create: d.bool()? }
        }
        CallKind::Lock => Call::Lock,
        CallKind::Reload => Call::Reload,
        CallKind::Disable => Call::Disable(key_id(d)?),
        CallKind::Enable => Call::Enable(key_id(d)?),
        CallKind::Cache => Call::Cache(strict::bytes(d, CACHE_BYTES_MAX)?),
        CallKind::ChangePassphrase => Call::ChangePassphrase {
            passphrase: strict::bytes(d, PASSPHRASE_BYTES_MAX)?,
            next: strict::bytes(d, PASSPHRASE_BYTES_MAX)?,
        },
        _ => {
            let key = new_key(d)?;
            let id = strict::optional(d, strict::bytes_exact)?.map(KeyId::from_bytes);
            Call::Import { key, id, secret: strict::bytes(d, MATERIAL_BYTES_MAX)? }
        }
    })
}

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
    put_frame(out, |e| {
        e.array(4)?.u8(VERSION)?.u32(id)?;
        match answer {
            Err(refusal) => e.u8(*refusal as u8)?.null()?.ok(),
            Ok(outcome) => {
                e.u8(0)?;
                match outcome {
                    Outcome::Done => e.null()?.ok(),
                    Outcome::Key(meta) => meta.put(e),
                    Outcome::Keys(metas) => {
                        e.array(metas.len() as u64)?;
                        metas.iter().try_for_each(|meta| meta.put(e))
                    }
                    Outcome::Signature(bytes) => e.bytes(bytes)?.ok(),
                    Outcome::Shared(secret) => e.bytes(secret.as_bytes())?.ok(),
                    Outcome::State(state) => state.put(e),
                    Outcome::Bytes(bytes) => e.bytes(bytes)?.ok(),
                    Outcome::Verdict(verdict) => e.bool(*verdict)?.ok(),
                    Outcome::Encapsulated(ciphertext, secret) => {
                        e.array(2)?.bytes(ciphertext)?.bytes(secret.as_bytes())?.ok()
                    }
                }
            }
        }
    });
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
        strict::decode_once(content, FRAME_BYTES_MAX, |d| {
            strict::array(d, 4)?;
            strict::version(d, VERSION)?;
            let id = d.u32()?;
            let status = d.u8()?;
            if status == 0 {
                return Ok(Self { id, result: Ok(strict::any(d, 1)?) });
            }
            let refusal = Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == status);
            let refusal = refusal.ok_or_else(|| strict::refuse(d, "unknown status"))?;
            d.null()?;
            Ok(Self { id, result: Err(refusal) })
        })
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

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum KeyState {
    /// It may.
    Active = 0,
    /// It rests, and may be enabled again.
    Disabled = 1,
    /// Its private half is gone for good.
    Destroyed = 2,
}

impl KeyState {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Active, Self::Disabled, Self::Destroyed].into_iter().find(|state| *state as u8 == number)
    }

    /// The state's name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        }
    }
}

/// What is publicly known of a key:
/// `[kid b16, usage u16, state u8, owner u32, created u64, exp u64/null, label, public, extractable bool]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyMeta {
    /// The key's name.
    pub id: KeyId,
    /// What it may do; algorithm and types of signatures follow from it.
    pub usage: KeyUsage,
    /// Whether it may do it now.
    pub state: KeyState,
    /// The system's number of the user it was made for.
    pub owner: u32,
    /// When it was made, Unix seconds.
    pub created: u64,
    /// When it ends, Unix seconds, if ever.
    pub expires: Option<u64>,
    /// Its name for people and policies, 1 to [`LABEL_BYTES_MAX`] bytes.
    pub label: String,
    /// Its public half, in the form of its type: 32 bytes, or up to [`PUBLIC_BYTES_MAX`] for a key of general use.
    pub public: Vec<u8>,
    /// Whether it may leave the store wrapped by another key. Once it may not, it never may again.
    pub extractable: bool,
}

impl KeyMeta {
    /// The public half by what it can do.
    #[must_use]
    pub fn public_half(&self) -> PublicHalf {
        match <[u8; 32]>::try_from(&self.public[..]) {
            Ok(public) if self.usage.agrees() => PublicHalf::Agree(public),
            Ok(public) if self.usage.general().is_none() => PublicHalf::Verify(PublicKey::ed25519(public)),
            _ => PublicHalf::General(self.public.clone()),
        }
    }

    /// Appends the encoding.
    pub(crate) fn put<W: Write<Error = Infallible>>(&self, e: &mut Encoder<W>) -> Written {
        e.array(9)?.bytes(self.id.as_bytes())?.u16(self.usage.number())?.u8(self.state as u8)?;
        e.u32(self.owner)?.u64(self.created)?;
        put_optional(e, self.expires)?;
        e.str(&self.label)?.bytes(&self.public)?.bool(self.extractable)?.ok()
    }

    pub(crate) fn read(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        strict::array(d, 9)?;
        let (id, usage) = (key_id(d)?, usage(d)?);
        Ok(Self {
            id,
            usage,
            state: KeyState::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown state"))?,
            owner: d.u32()?,
            created: d.u64()?,
            expires: strict::optional(d, Decoder::u64)?,
            label: strict::text(d, LABEL_BYTES_MAX)?.to_owned(),
            public: public(d, usage)?,
            extractable: extractable(d, usage)?,
        })
    }
}

fn public(d: &mut Decoder<'_>, usage: KeyUsage) -> Result<Vec<u8>, decode::Error> {
    let public = strict::bytes(d, PUBLIC_BYTES_MAX)?;
    let fits = usage.general().map_or(public.len() == 32, |it| it.kind().has_public_of(public.len()));
    if fits { Ok(public.to_vec()) } else { Err(strict::refuse(d, "public half of another length")) }
}

/// What the service says of itself: `[unlocked, keys u32, rules u32, clients u32, answered u64, [protection text]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceState {
    /// Whether secrets are in memory and operations are answered.
    pub unlocked: bool,
    /// Keys that are not destroyed.
    pub keys: u32,
    /// Rules of the policy.
    pub rules: u32,
    /// Connected clients.
    pub clients: u32,
    /// Requests answered since the start.
    pub answered: u64,
    /// What protects the keys, and what does not: sentences that begin with `+ ` or `- `.
    pub protection: Vec<String>,
}

impl ServiceState {
    fn put(&self, e: &mut Encoder<&mut WipedBuffer>) -> Written {
        e.array(6)?.bool(self.unlocked)?.u32(self.keys)?.u32(self.rules)?.u32(self.clients)?;
        e.u64(self.answered)?.array(self.protection.len() as u64)?;
        self.protection.iter().try_for_each(|line| e.str(line)?.ok())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        strict::array(d, 6)?;
        let (unlocked, keys, rules, clients, answered) = (d.bool()?, d.u32()?, d.u32()?, d.u32()?, d.u64()?);
        let count = strict::array_within(d, 0..=PROTECTION_LINES_MAX)?;
        let lines = (0..count).map(|_| strict::text(d, PROTECTION_LINE_BYTES_MAX).map(str::to_owned));
        let protection = lines.collect::<Result<_, _>>()?;
        Ok(Self { unlocked, keys, rules, clients, answered, protection })
    }
}

/// The content of the first whole frame in `bytes`, and how many bytes it takes up; `None` while it is not whole.
///
/// # Errors
/// [`Malformed::TooLong`] as soon as the length says so.
pub fn frame(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Malformed::TooLong { bytes: length, bytes_max: FRAME_BYTES_MAX });
    }
    Ok(rest.get(..length).map(|content| (content, length + 4)))
}

pub(crate) type Written = Result<(), encode::Error<Infallible>>;

fn put_frame(out: &mut WipedBuffer, write: impl FnOnce(&mut Encoder<&mut WipedBuffer>) -> Written) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    // Memory takes every write.
    let written = write(&mut Encoder::new(&mut *out));
    debug_assert!(written.is_ok(), "encoding into memory failed");
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_optional<W: Write<Error = Infallible>>(e: &mut Encoder<W>, number: Option<u64>) -> Written {
    match number {
        Some(number) => e.u64(number)?.ok(),
        None => e.null()?.ok(),
    }
}

/// The algorithm of every signing key of the service.
pub const SIGNATURES: SignatureAlgorithm = SignatureAlgorithm::Ed25519;

const VERSION: u8 = 1;
const PROTECTION_LINES_MAX: u64 = 32;
const PROTECTION_LINE_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::general::{Form, Mode, Scheme};

    const KEY: KeyId = KeyId::from_bytes([3; 16]);

    fn calls() -> Vec<Call<'static>> {
        let usage = KeyUsage::ChannelStatic;
        let new = NewKey { usage, label: "orders", expires: Some(1 << 40), extractable: false };
        let general = KeyUsage::parse("rsa-2048:wrap").unwrap();
        let leaves = NewKey { usage: general, extractable: true, ..new };
        vec![
            Call::Generate(new),
            Call::Import { key: NewKey { expires: None, ..new }, id: Some(KEY), secret: &[7; 32] },
            Call::Public(KEY),
            Call::List,
            Call::Sign { key: KEY, kind: SignatureType::Credential, body: b"body" },
            Call::General(GeneralCall::SignRaw {
                key: KEY,
                scheme: Scheme::RsaPssSha384,
                message: b"message",
            }),
            Call::General(GeneralCall::Verify {
                key: KEY,
                scheme: Scheme::Ed25519,
                message: b"",
                signature: b"signature",
            }),
            Call::Agree { key: KEY, peer: &[9; 32] },
            Call::General(GeneralCall::EcdhKdf { key: KEY, peer: b"peer", info: b"info", bytes: 48 }),
            Call::General(GeneralCall::HpkeOpen {
                key: KEY,
                enc: b"enc",
                info: b"",
                aad: b"aad",
                ciphertext: b"ciphertext",
            }),
            Call::General(GeneralCall::Encrypt { key: KEY, mode: Mode::GcmSiv, aad: b"aad", data: b"" }),
            Call::General(GeneralCall::Decrypt { key: KEY, mode: Mode::Gcm, aad: b"", sealed: b"sealed" }),
            Call::General(GeneralCall::Wrap { with: KEY, key: KEY, form: Form::Kwp }),
            Call::General(GeneralCall::Unwrap {
                with: KEY,
                form: Form::Sealed,
                wrapped: b"wrapped",
                new: leaves,
            }),
            Call::General(GeneralCall::Mac { key: KEY, data: b"data" }),
            Call::General(GeneralCall::Encapsulate(KEY)),
            Call::General(GeneralCall::Decapsulate { key: KEY, ciphertext: b"ciphertext" }),
            Call::Destroy(KEY),
            Call::General(GeneralCall::Random { bytes: 32 }),
            Call::General(GeneralCall::Seal { label: "state", aad: b"aad", data: b"data" }),
            Call::General(GeneralCall::Open { label: "state", aad: b"", sealed: b"sealed" }),
            Call::Attest { key: KEY, body: b"attest" },
            Call::Status,
            Call::Unlock { passphrase: b"correct horse", create: true },
            Call::Lock,
            Call::Reload,
            Call::Disable(KEY),
            Call::Enable(KEY),
            Call::General(GeneralCall::Narrow(KEY)),
            Call::ChangePassphrase { passphrase: b"correct horse", next: b"battery staple" },
            Call::Cache(b"request"),
        ]
    }

    fn meta() -> KeyMeta {
        KeyMeta {
            id: KEY,
            usage: KeyUsage::Identity,
            state: KeyState::Disabled,
            owner: 1000,
            created: 1_700_000_000,
            expires: None,
            label: "orders".to_owned(),
            public: vec![5; 32],
            extractable: false,
        }
    }

    #[test]
    fn every_request_is_read_as_it_was_written() {
        assert_eq!(calls().iter().map(Call::kind).collect::<Vec<_>>(), CallKind::ALL);
        for call in calls() {
            let mut framed = WipedBuffer::new();
            let request = Request { id: 70_000, call };
            request.put(&mut framed);
            let (content, used) = frame(&framed).unwrap().unwrap();
            assert_eq!(used, framed.len());
            assert_eq!(Request::decode(content).unwrap(), request);
        }
    }

    #[test]
    fn no_truncation_extension_or_other_spelling_of_a_request_is_read() {
        for call in calls() {
            let mut framed = WipedBuffer::new();
            Request { id: 7, call }.put(&mut framed);
            let content = &framed[4..];
            for length in 0..content.len() {
                assert!(Request::decode(&content[..length]).is_err(), "{call:?} {length}");
            }
            assert!(Request::decode(&[content, &[0]].concat()).is_err());
            // The id in two bytes where one is enough.
            let longer = [&content[..2], &[0x18, 0x07], &content[3..]].concat();
            assert!(Request::decode(&longer).is_err(), "{call:?}");
        }
    }

    #[test]
    fn unknown_operations_and_statuses_are_malformed() {
        for number in (0..=255).filter(|number| CallKind::from_number(*number).is_none()) {
            let head = if number < 24 { vec![number] } else { vec![0x18, number] };
            let content = [&[0x84, 1, 7][..], &head, &[0x80]].concat();
            assert!(Request::decode(&content).is_err(), "{number}");
        }
        assert!(Reply::decode(&[0x84, 1, 7, 8, 0xf6]).is_err());
        assert!(matches!(
            Reply::decode(&[0x84, 1, 7, 5, 0xf6]).unwrap().done(),
            Err(ReplyError::Refused(Refusal::Rate))
        ));
    }

    #[test]
    fn every_answer_is_read_as_what_was_asked_for_and_as_nothing_else() {
        let state = ServiceState {
            unlocked: true,
            keys: 3,
            rules: 2,
            clients: 1,
            answered: 9,
            protection: vec!["+ x".to_owned()],
        };
        let outcomes = [
            Outcome::Done,
            Outcome::Key(meta()),
            Outcome::Keys(vec![meta(), meta()]),
            Outcome::Signature([8; 64]),
            Outcome::Shared(SharedSecret::new(&[6; 32])),
            Outcome::State(state.clone()),
            Outcome::Verdict(true),
            Outcome::Encapsulated(vec![1; 1088], SharedSecret::new(&[6; 32])),
        ];
        for (at, outcome) in outcomes.into_iter().enumerate() {
            let mut framed = WipedBuffer::new();
            put_answer(&mut framed, 4, &Ok(outcome));
            let reply = Reply::decode(&framed[4..]).unwrap();
            assert_eq!(reply.id, 4);
            let read = [
                reply.done().is_ok(),
                reply.key().is_ok_and(|key| key == meta()),
                reply.keys().is_ok_and(|keys| keys == [meta(), meta()]),
                reply.signature().is_ok_and(|bytes| bytes == [8; 64]),
                reply.shared().is_ok_and(|secret| secret.as_bytes() == &[6; 32]),
                reply.state().is_ok_and(|read| read == state),
                reply.verdict().is_ok_and(|verdict| verdict),
                reply.encapsulated().is_ok_and(|(ciphertext, _)| ciphertext.len() == 1088),
            ];
            let expected: [bool; 8] = std::array::from_fn(|reader| reader == at);
            assert_eq!(read, expected, "{at}");
        }
    }

    #[test]
    fn a_frame_is_refused_by_its_length_before_it_comes() {
        assert!(frame(&[0, 0x10, 0]).unwrap().is_none());
        assert!(frame(&[0, 0x10, 0, 0]).unwrap().is_none());
        assert!(matches!(frame(&[0, 0x10, 0, 1]), Err(Malformed::TooLong { .. })));
        assert_eq!(frame(&[0, 0, 0, 1, 9, 9]).unwrap(), Some((&[9][..], 5)));
    }

    #[test]
    fn debug_shows_no_argument() {
        for call in calls() {
            let shown = format!("{:?}", Request { id: 1, call });
            assert_eq!(shown, format!("Request {{ id: 1, call: Call({}) }}", call.kind()));
        }
    }
}
