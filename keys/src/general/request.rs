//! What is asked of keys of general use: the requests beside those of this project's own keys, on the wire.
//!
//! Each is the arguments of one [`CallKind`], borrowed from the frame it came in. No argument
//! is a nonce, and none is a private half that is not wrapped.
//!
//! Specification: docs/protocol.md §7.2.

use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::Encoder;

use super::{
    AAD_BYTES_MAX, DATA_BYTES_MAX, Form, Mode, OUTPUT_BYTES_MAX, PUBLIC_BYTES_MAX, SEAL_BYTES_MAX,
    SIGNATURE_BYTES_MAX, Scheme, WRAPPED_BYTES_MAX,
};
use crate::service::{CallKind, LABEL_BYTES_MAX, NewKey, Written, key_id, new_key};
use crate::strict;
use crate::{KeyId, WipedBuffer};

/// An operation with keys of general use.
#[derive(Clone, Copy, Eq, PartialEq)]
#[non_exhaustive]
pub enum GeneralCall<'a> {
    /// Signs a message as it stands.
    SignRaw {
        /// The signing key.
        key: KeyId,
        /// How.
        scheme: Scheme,
        /// 0 to [`DATA_BYTES_MAX`] bytes.
        message: &'a [u8],
    },
    /// Says whether a signature is by a key of the service.
    Verify {
        /// The key that is said to have signed.
        key: KeyId,
        /// How.
        scheme: Scheme,
        /// 0 to [`DATA_BYTES_MAX`] bytes, less what the signature takes.
        message: &'a [u8],
        /// The signature.
        signature: &'a [u8],
    },
    /// Agrees and derives.
    EcdhKdf {
        /// The key that agrees.
        key: KeyId,
        /// The peer's public half.
        peer: &'a [u8],
        /// What the result is for: 0 to [`AAD_BYTES_MAX`] bytes.
        info: &'a [u8],
        /// How much to derive: 1 to [`OUTPUT_BYTES_MAX`] bytes.
        bytes: u16,
    },
    /// Opens what was sealed to a key of the service.
    HpkeOpen {
        /// The key it was sealed to.
        key: KeyId,
        /// The encapsulated key.
        enc: &'a [u8],
        /// What it is for: 0 to [`AAD_BYTES_MAX`] bytes.
        info: &'a [u8],
        /// What it is bound to: 0 to [`AAD_BYTES_MAX`] bytes.
        aad: &'a [u8],
        /// Ciphertext and tag.
        ciphertext: &'a [u8],
    },
    /// Encrypts with a nonce of the service's choice.
    Encrypt {
        /// The encrypting key.
        key: KeyId,
        /// How.
        mode: Mode,
        /// 0 to [`AAD_BYTES_MAX`] bytes.
        aad: &'a [u8],
        /// 0 to [`DATA_BYTES_MAX`] bytes.
        data: &'a [u8],
    },
    /// Decrypts what is authentic.
    Decrypt {
        /// The decrypting key.
        key: KeyId,
        /// How.
        mode: Mode,
        /// As it was encrypted with.
        aad: &'a [u8],
        /// Nonce, ciphertext and tag.
        sealed: &'a [u8],
    },
    /// Yields a key wrapped by another.
    Wrap {
        /// The key that wraps.
        with: KeyId,
        /// The key to be wrapped, an extractable one.
        key: KeyId,
        /// In what form.
        form: Form,
    },
    /// Takes a wrapped key in.
    Unwrap {
        /// The key that wrapped.
        with: KeyId,
        /// In what form.
        form: Form,
        /// The wrapped key.
        wrapped: &'a [u8],
        /// What it is to be here: never more than it was.
        new: NewKey<'a>,
    },
    /// Computes an authentication code.
    Mac {
        /// The key.
        key: KeyId,
        /// 0 to [`DATA_BYTES_MAX`] bytes.
        data: &'a [u8],
    },
    /// Encapsulates a fresh secret to a key of the service.
    Encapsulate(KeyId),
    /// Decapsulates.
    Decapsulate {
        /// The key.
        key: KeyId,
        /// The ciphertext.
        ciphertext: &'a [u8],
    },
    /// Random bytes.
    Random {
        /// 1 to [`OUTPUT_BYTES_MAX`].
        bytes: u16,
    },
    /// Seals a blob that only the same user can have opened again, under the same name and data.
    Seal {
        /// By what name policies know it: 1 to 64 bytes.
        label: &'a str,
        /// What it belongs to: 0 to [`AAD_BYTES_MAX`] bytes.
        aad: &'a [u8],
        /// 0 to [`DATA_BYTES_MAX`] bytes.
        data: &'a [u8],
    },
    /// Opens a blob.
    Open {
        /// As it was sealed.
        label: &'a str,
        /// As it was sealed.
        aad: &'a [u8],
        /// The blob.
        sealed: &'a [u8],
    },
    /// Makes an extractable key one that never leaves. There is no way back.
    Narrow(KeyId),
}

impl fmt::Debug for GeneralCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GeneralCall({})", self.kind())
    }
}

impl<'a> GeneralCall<'a> {
    /// Which operation it is.
    #[must_use]
    pub fn kind(&self) -> CallKind {
        match self {
            Self::SignRaw { .. } => CallKind::SignRaw,
            Self::Verify { .. } => CallKind::Verify,
            Self::EcdhKdf { .. } => CallKind::EcdhKdf,
            Self::HpkeOpen { .. } => CallKind::HpkeOpen,
            Self::Encrypt { .. } => CallKind::Encrypt,
            Self::Decrypt { .. } => CallKind::Decrypt,
            Self::Wrap { .. } => CallKind::Wrap,
            Self::Unwrap { .. } => CallKind::Unwrap,
            Self::Mac { .. } => CallKind::Mac,
            Self::Encapsulate(_) => CallKind::Encapsulate,
            Self::Decapsulate { .. } => CallKind::Decapsulate,
            Self::Random { .. } => CallKind::Random,
            Self::Seal { .. } => CallKind::Seal,
            Self::Open { .. } => CallKind::Open,
            Self::Narrow(_) => CallKind::Narrow,
        }
    }

    /// The key that does it; none for random bytes and blobs.
    #[must_use]
    pub fn key(&self) -> Option<KeyId> {
        match *self {
            Self::SignRaw { key, .. }
            | Self::Verify { key, .. }
            | Self::EcdhKdf { key, .. }
            | Self::HpkeOpen { key, .. }
            | Self::Encrypt { key, .. }
            | Self::Decrypt { key, .. }
            | Self::Wrap { with: key, .. }
            | Self::Unwrap { with: key, .. }
            | Self::Mac { key, .. }
            | Self::Encapsulate(key)
            | Self::Decapsulate { key, .. }
            | Self::Narrow(key) => Some(key),
            Self::Random { .. } | Self::Seal { .. } | Self::Open { .. } => None,
        }
    }

    /// Appends the arguments.
    pub(crate) fn put(&self, e: &mut Encoder<&mut WipedBuffer>) -> Written {
        match *self {
            Self::SignRaw { key, scheme, message } => {
                e.array(3)?.bytes(key.as_bytes())?.u8(scheme as u8)?.bytes(message)?.ok()
            }
            Self::Verify { key, scheme, message, signature } => {
                e.array(4)?.bytes(key.as_bytes())?.u8(scheme as u8)?.bytes(message)?.bytes(signature)?.ok()
            }
            Self::EcdhKdf { key, peer, info, bytes } => {
                e.array(4)?.bytes(key.as_bytes())?.bytes(peer)?.bytes(info)?.u16(bytes)?.ok()
            }
            Self::HpkeOpen { key, enc, info, aad, ciphertext } => e
                .array(5)?
                .bytes(key.as_bytes())?
                .bytes(enc)?
                .bytes(info)?
                .bytes(aad)?
                .bytes(ciphertext)?
                .ok(),
            Self::Encrypt { key, mode, aad, data: text } | Self::Decrypt { key, mode, aad, sealed: text } => {
                e.array(4)?.bytes(key.as_bytes())?.u8(mode as u8)?.bytes(aad)?.bytes(text)?.ok()
            }
            Self::Wrap { with, key, form } => {
                e.array(3)?.bytes(with.as_bytes())?.bytes(key.as_bytes())?.u8(form as u8)?.ok()
            }
            Self::Unwrap { with, form, wrapped, new } => {
                e.array(7)?.bytes(with.as_bytes())?.u8(form as u8)?.bytes(wrapped)?;
                new.put(e)
            }
            Self::Mac { key, data } | Self::Decapsulate { key, ciphertext: data } => {
                e.array(2)?.bytes(key.as_bytes())?.bytes(data)?.ok()
            }
            Self::Encapsulate(key) | Self::Narrow(key) => e.array(1)?.bytes(key.as_bytes())?.ok(),
            Self::Random { bytes } => e.array(1)?.u16(bytes)?.ok(),
            Self::Seal { label, aad, data: text } | Self::Open { label, aad, sealed: text } => {
                e.array(3)?.str(label)?.bytes(aad)?.bytes(text)?.ok()
            }
        }
    }

    /// Reads the arguments of `kind`; none if it is no operation of this kind.
    pub(crate) fn read(kind: CallKind, d: &mut Decoder<'a>) -> Result<Option<Self>, decode::Error> {
        let arguments = match kind {
            CallKind::Random | CallKind::Encapsulate | CallKind::Narrow => 1,
            CallKind::Mac | CallKind::Decapsulate => 2,
            CallKind::SignRaw | CallKind::Wrap | CallKind::Seal | CallKind::Open => 3,
            CallKind::Verify | CallKind::EcdhKdf | CallKind::Encrypt | CallKind::Decrypt => 4,
            CallKind::HpkeOpen => 5,
            CallKind::Unwrap => 7,
            _ => return Ok(None),
        };
        strict::array(d, arguments)?;
        Ok(Some(match kind {
            CallKind::SignRaw => {
                Self::SignRaw { key: key_id(d)?, scheme: scheme(d)?, message: within(d, DATA_BYTES_MAX)? }
            }
            CallKind::Verify => Self::Verify {
                key: key_id(d)?,
                scheme: scheme(d)?,
                message: within(d, DATA_BYTES_MAX)?,
                signature: within(d, SIGNATURE_BYTES_MAX)?,
            },
            CallKind::EcdhKdf => Self::EcdhKdf {
                key: key_id(d)?,
                peer: within(d, PUBLIC_BYTES_MAX)?,
                info: within(d, AAD_BYTES_MAX)?,
                bytes: output(d)?,
            },
            CallKind::HpkeOpen => Self::HpkeOpen {
                key: key_id(d)?,
                enc: within(d, PUBLIC_BYTES_MAX)?,
                info: within(d, AAD_BYTES_MAX)?,
                aad: within(d, AAD_BYTES_MAX)?,
                ciphertext: within(d, DATA_BYTES_MAX + SEAL_BYTES_MAX)?,
            },
            CallKind::Encrypt => Self::Encrypt {
                key: key_id(d)?,
                mode: mode(d)?,
                aad: within(d, AAD_BYTES_MAX)?,
                data: within(d, DATA_BYTES_MAX)?,
            },
            CallKind::Decrypt => Self::Decrypt {
                key: key_id(d)?,
                mode: mode(d)?,
                aad: within(d, AAD_BYTES_MAX)?,
                sealed: within(d, DATA_BYTES_MAX + SEAL_BYTES_MAX)?,
            },
            CallKind::Wrap => Self::Wrap { with: key_id(d)?, key: key_id(d)?, form: form(d)? },
            CallKind::Unwrap => Self::Unwrap {
                with: key_id(d)?,
                form: form(d)?,
                wrapped: within(d, WRAPPED_BYTES_MAX)?,
                new: new_key(d)?,
            },
            CallKind::Mac => Self::Mac { key: key_id(d)?, data: within(d, DATA_BYTES_MAX)? },
            CallKind::Encapsulate => Self::Encapsulate(key_id(d)?),
            CallKind::Decapsulate => {
                Self::Decapsulate { key: key_id(d)?, ciphertext: within(d, PUBLIC_BYTES_MAX)? }
            }
            CallKind::Random => Self::Random { bytes: output(d)? },
            CallKind::Seal => Self::Seal {
                label: strict::text(d, LABEL_BYTES_MAX)?,
                aad: within(d, AAD_BYTES_MAX)?,
                data: within(d, DATA_BYTES_MAX)?,
            },
            CallKind::Open => Self::Open {
                label: strict::text(d, LABEL_BYTES_MAX)?,
                aad: within(d, AAD_BYTES_MAX)?,
                sealed: within(d, DATA_BYTES_MAX + SEAL_BYTES_MAX)?,
            },
            _ => Self::Narrow(key_id(d)?),
        }))
    }
}

fn within<'b>(d: &mut Decoder<'b>, bytes_max: usize) -> Result<&'b [u8], decode::Error> {
    let bytes = d.bytes()?;
    if bytes.len() <= bytes_max { Ok(bytes) } else { Err(strict::refuse(d, "byte string too long")) }
}

fn output(d: &mut Decoder<'_>) -> Result<u16, decode::Error> {
    let bytes = d.u16()?;
    let fits = (1..=OUTPUT_BYTES_MAX).contains(&usize::from(bytes));
    if fits { Ok(bytes) } else { Err(strict::refuse(d, "more than is given out")) }
}

fn scheme(d: &mut Decoder<'_>) -> Result<Scheme, decode::Error> {
    Scheme::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown scheme"))
}

fn mode(d: &mut Decoder<'_>) -> Result<Mode, decode::Error> {
    Mode::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown mode"))
}

fn form(d: &mut Decoder<'_>) -> Result<Form, decode::Error> {
    Form::from_number(d.u8()?).ok_or_else(|| strict::refuse(d, "unknown form"))
}
