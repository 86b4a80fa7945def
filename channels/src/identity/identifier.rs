//! Names made of hashes: of an identity, of one of its changes, of a key to come.
//!
//! Each hashes the exact bytes that were signed under a label of its own, so a hash of one kind is never one of
//! another.
//!
//! Specification: docs/protocol.md §3.1.

use std::fmt;
use std::str::FromStr;

use onward_keys::{Label, PublicKey, hash};

use super::{IdentityError, text};

/// Who somebody is: the hash of the first change of an identity, which never changes afterwards.
///
/// Written as `I` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Identifier([u8; 32]);

impl Identifier {
    /// The identifier with these bytes, as carried by a structure.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The identifier's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The identifier of the identity whose first change has this body.
    pub(super) fn of(first_body: &[u8]) -> Self {
        Self(hash(&Label::new("identity").bytes(first_body).encode()))
    }
}

impl FromStr for Identifier {
    type Err = IdentityError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let digits = text.strip_prefix('I').ok_or(NOT_AN_IDENTIFIER)?;
        let bytes = text::from_hex(digits).ok_or(NOT_AN_IDENTIFIER)?;
        bytes.try_into().map(Self).map_err(|_| NOT_AN_IDENTIFIER)
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("I")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which change of a history is meant: the hash of its body.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct ChangeHash([u8; 32]);

impl ChangeHash {
    /// The hash with these bytes, as carried by a structure.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash of the change with this body.
    pub(super) fn of(body: &[u8]) -> Self {
        Self(hash(&Label::new("change").bytes(body).encode()))
    }
}

impl fmt::Debug for ChangeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a change says of the key that may follow it, without showing that key: a thief of the current key can
/// therefore not rotate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Commitment([u8; 32]);

impl Commitment {
    /// The commitment with these bytes, as carried by a change.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The commitment's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The commitment to `key`.
    #[must_use]
    pub fn to(key: &PublicKey) -> Self {
        let number = u64::from(key.algorithm().number());
        Self(hash(&Label::new("next").uint(number).bytes(key.as_bytes()).encode()))
    }
}

const NOT_AN_IDENTIFIER: IdentityError =
    IdentityError::Text("an identifier is I and 64 lower-case hexadecimal digits");
