//! What a client asks for: operations, their names, and their arguments.
//!
//! Specification: docs/protocol.md §7.2.

use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::Encoder;

use super::{
    BODY_BYTES_MAX, CACHE_BYTES_MAX, FRAME_BYTES_MAX, LABEL_BYTES_MAX, PASSPHRASE_BYTES_MAX, Written, exact,
    put_frame, put_optional,
};
use crate::general::MATERIAL_BYTES_MAX;
use crate::general::request::GeneralCall;
use crate::strict::{self, Malformed};
use crate::{KeyId, KeyUsage, SignatureType, WipedBuffer, message};

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
        let (id, call) = message::read_request(content, FRAME_BYTES_MAX, call)?;
        Ok(Self { id, call })
    }

    /// Appends the request as a frame to `out`.
    pub fn put(&self, out: &mut WipedBuffer) {
        put_frame(out, |e| {
            message::put_request(e, self.id, self.call.kind().number())?;
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
pub(super) fn extractable(d: &mut Decoder<'_>, usage: KeyUsage) -> Result<bool, decode::Error> {
    let extractable = d.bool()?;
    if extractable && usage.general().is_none() {
        return Err(strict::refuse(d, "a key that never leaves"));
    }
    Ok(extractable)
}

pub(super) fn usage(d: &mut Decoder<'_>) -> Result<KeyUsage, decode::Error> {
    KeyUsage::from_number(d.u16()?).ok_or_else(|| strict::refuse(d, "unknown usage"))
}

pub(crate) fn key_id(d: &mut Decoder<'_>) -> Result<KeyId, decode::Error> {
    strict::bytes_exact(d).map(KeyId::from_bytes)
}

fn call<'b>(number: u8, d: &mut Decoder<'b>) -> Result<Call<'b>, decode::Error> {
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
