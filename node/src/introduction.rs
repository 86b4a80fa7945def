//! Introductions: what an identity proves of itself, handed over before any handshake.
//!
//! Whoever has one can open a channel in fewer messages (modes 5 and 6), and two that have each other's need to show
//! nothing at all (mode 7). It is public, and verified again each time it is used.
//!
//! Specification: docs/protocol.md §3.1 (`IdPayload`), §3.2.

use std::fmt;
use std::sync::Arc;

use onward_channels::identity::{IdPayload, Identifier};

use crate::error::NodeError;

/// An identity's history and the attestation of its channel key, as bytes for a file. It lasts as long as the
/// attestation: 30 days.
#[derive(Clone, Eq, PartialEq)]
pub struct Introduction {
    identifier: Identifier,
    payload: Arc<[u8]>,
}

impl Introduction {
    /// Reads what [`Introduction::as_bytes`] gave. Whether it holds is judged when a channel is opened.
    ///
    /// # Errors
    /// [`NodeError::Identity`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NodeError> {
        let identifier = IdPayload::decode(bytes)?.identifier();
        Ok(Self { identifier, payload: bytes.into() })
    }

    /// The bytes, at most 32 KiB.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.payload
    }

    /// Whom it introduces.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.identifier
    }

    pub(crate) fn of(identifier: Identifier, payload: &[u8]) -> Self {
        Self { identifier, payload: payload.into() }
    }

    pub(crate) fn payload(&self) -> Arc<[u8]> {
        Arc::clone(&self.payload)
    }
}

impl fmt::Debug for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Introduction").field(&self.identifier).finish()
    }
}
