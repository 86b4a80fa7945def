//! What both ends derive when the handshake ends: the channel binding, the exporter and the two record keys.
//!
//! The raw outputs are moved into boxed secrets here and wiped. Nothing later sees the chaining key.
//!
//! Specification: docs/protocol.md §3.3.

use std::fmt;

use onward_keys::{Label, SharedSecret, hash, hkdf_expand, hkdf_extract, mac, mac_verify};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::identity::Identifier;
use crate::mode::Mode;
use crate::session::Role;

/// The channel binding and the exporter of one channel.
pub struct Binding {
    id: [u8; 32],
    exporter: SharedSecret,
    /// After a resumption, that of the channel which was resumed.
    mode: Mode,
    /// The initiator and the responder.
    ends: [Identifier; 2],
}

impl Binding {
    /// Derives both from the split keys (initiator's first), the handshake hash, and the identifiers of the initiator
    /// and the responder.
    pub(crate) fn derive(
        mode: Mode,
        k1: &SharedSecret,
        k2: &SharedSecret,
        handshake_hash: &[u8; 32],
        ends: [Identifier; 2],
    ) -> Self {
        let [initiator, responder] = &ends;
        let id =
            Label::new("hs").bytes(handshake_hash).bytes(initiator.as_bytes()).bytes(responder.as_bytes());
        let mut input = Zeroizing::new([0; 64]);
        input[..32].copy_from_slice(k1.as_bytes());
        input[32..].copy_from_slice(k2.as_bytes());
        Self { id: hash(&id.encode()), exporter: hkdf_extract(handshake_hash, input.as_ref()), mode, ends }
    }

    /// `hs_id`: equal at both ends of this channel and of no other. Not secret.
    #[must_use]
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// The mode whose strength the channel has: that of its handshake or, after a resumption, of the channel which was
    /// resumed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Fills `output` (at most 8 160 bytes) with a secret of this channel for the purpose `label` and `context`.
    ///
    /// # Panics
    /// When `output` is longer than 8 160 bytes.
    pub fn export(&self, label: &str, context: &[u8], output: &mut [u8]) {
        let info = Label::new("export").text(label).bytes(&self.id).bytes(context);
        hkdf_expand(self.exporter.as_bytes(), &info, output);
    }

    /// What a handshake needs to take this channel's place.
    #[must_use]
    pub fn predecessor(&self) -> Predecessor {
        let mut key = Zeroizing::new([0; 32]);
        self.export("rehs", b"", key.as_mut());
        Predecessor { id: self.id, key: SharedSecret::new(&key), mode: self.mode, ends: self.ends }
    }

    /// The body of a CONFIRM by `role`: `hs_id`, and if it is to replace a channel the proof of knowing that one.
    pub(crate) fn confirm(&self, role: Role, replaced: Option<&Predecessor>) -> Vec<u8> {
        let proof = replaced.map(|replaced| mac(replaced.key.as_bytes(), &self.statement(role)));
        [&self.id[..], proof.as_ref().map_or(&[][..], |proof| &proof[..])].concat()
    }

    /// What the body of a CONFIRM by `role` says.
    pub(crate) fn confirmed(&self, role: Role, body: &[u8], replaced: Option<&Predecessor>) -> Confirmed {
        let split = body.split_first_chunk::<32>().filter(|(id, _)| bool::from(self.id.ct_eq(*id)));
        let Some((_, proof)) = split else {
            return Confirmed::Nothing;
        };
        match (<&[u8; 32]>::try_from(proof), replaced) {
            _ if proof.is_empty() => Confirmed::Channel,
            (Ok(proof), Some(replaced)) if self.is_proof(role, proof, replaced) => Confirmed::Successor,
            (Ok(_), _) => Confirmed::Channel,
            (Err(_), _) => Confirmed::Nothing,
        }
    }

    fn is_proof(&self, role: Role, proof: &[u8; 32], replaced: &Predecessor) -> bool {
        mac_verify(replaced.key.as_bytes(), &self.statement(role), proof).is_ok()
    }

    /// Names the role: the same proof from both ends could be sent back to whoever made it.
    fn statement(&self, role: Role) -> Vec<u8> {
        let role = match role {
            Role::Initiator => 1,
            Role::Responder => 2,
        };
        Label::new("rehs").uint(role).bytes(&self.id).encode()
    }
}

/// A channel that a handshake is to replace: who its ends are, and a key that only they can derive.
pub struct Predecessor {
    id: [u8; 32],
    key: SharedSecret,
    mode: Mode,
    ends: [Identifier; 2],
}

impl Predecessor {
    /// The `hs_id` of the channel.
    #[must_use]
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Whether a channel with this binding may take its place: between the same ends in the same roles, in the same
    /// mode or a stronger one.
    pub(crate) fn may_become(&self, successor: &Binding) -> bool {
        self.ends == successor.ends && successor.mode.may_replace(self.mode)
    }
}

impl fmt::Debug for Predecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: _, key: _, mode: _, ends: _ } = self;
        f.debug_struct("Predecessor").finish_non_exhaustive()
    }
}

/// What a CONFIRM says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Confirmed {
    /// Nothing about this channel.
    Nothing,
    /// The channel, but not that it replaces another.
    Channel,
    /// The channel, and that its sender knows the one that it replaces.
    Successor,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: _, exporter: _, mode: _, ends: _ } = self;
        f.debug_struct("Binding").finish_non_exhaustive()
    }
}
