//! What both ends derive when the handshake ends: the channel binding, the exporter and the two record keys.
//!
//! The raw outputs are moved into boxed secrets here and wiped. Nothing later sees the chaining key.
//!
//! Specification: docs/protocol.md §3.3.

use std::fmt;

use onward_keys::{Label, SharedSecret, hash, hkdf_expand, hkdf_extract};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::identity::Identifier;

/// The channel binding and the exporter of one channel.
pub struct Binding {
    id: [u8; 32],
    exporter: SharedSecret,
}

impl Binding {
    /// Derives both from the split keys (initiator's first), the handshake hash, and the two identifiers.
    pub(crate) fn derive(
        k1: &SharedSecret,
        k2: &SharedSecret,
        handshake_hash: &[u8; 32],
        initiator: &Identifier,
        responder: &Identifier,
    ) -> Self {
        let id =
            Label::new("hs").bytes(handshake_hash).bytes(initiator.as_bytes()).bytes(responder.as_bytes());
        let mut input = Zeroizing::new([0; 64]);
        input[..32].copy_from_slice(k1.as_bytes());
        input[32..].copy_from_slice(k2.as_bytes());
        Self { id: hash(&id.encode()), exporter: hkdf_extract(handshake_hash, input.as_ref()) }
    }

    /// `hs_id`: equal at both ends of this channel and of no other. Not secret.
    #[must_use]
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Fills `output` (at most 8 160 bytes) with a secret of this channel for the purpose `label` and `context`.
    ///
    /// # Panics
    /// When `output` is longer than 8 160 bytes.
    pub fn export(&self, label: &str, context: &[u8], output: &mut [u8]) {
        let info = Label::new("export").text(label).bytes(&self.id).bytes(context);
        hkdf_expand(self.exporter.as_bytes(), &info, output);
    }

    /// Whether a CONFIRM's body is this channel's.
    #[must_use]
    pub fn confirms(&self, body: &[u8]) -> bool {
        self.id.ct_eq(body).into()
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: _, exporter: _ } = self;
        f.debug_struct("Binding").finish_non_exhaustive()
    }
}
