//! What a handshake rests on beside the static keys: shared keys, payloads known before, and tickets.
//!
//! An initiator brings exactly one [`Basis`], the one its mode needs. A responder has [`Bases`], among which the first
//! message chooses. Nothing here is ever sent.
//!
//! Specification: docs/protocol.md §3.2 (modes 3 to 8), §3.7 (resumption).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onward_keys::{Label, SharedSecret, mac};

use crate::handshake::ticket::{Ticket, Tickets};
use crate::mode::Mode;

/// Names a pre-shared key on the wire, where it is public.
pub(crate) type PskId = [u8; 8];

/// A deployment's pre-shared key: 32 random bytes that all its members have. A password is none.
pub struct Psk {
    id: PskId,
    secret: SharedSecret,
}

impl Psk {
    /// Takes the key; its name is derived from it: the first 8 bytes of `MAC(psk, L("pskid"))`.
    #[must_use]
    pub fn new(secret: SharedSecret) -> Self {
        let name = mac(secret.as_bytes(), &Label::new("pskid").encode());
        let mut id = [0; 8];
        id.copy_from_slice(&name[..8]);
        Self { id, secret }
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: _, secret: _ } = self;
        f.debug_struct("Psk").finish_non_exhaustive()
    }
}

/// What an initiator's handshake rests on.
#[derive(Debug, Default)]
pub enum Basis {
    /// The static keys alone: modes 1 and 2.
    #[default]
    Nothing,
    /// A deployment's key: modes 3 and 4.
    Psk(Arc<Psk>),
    /// The identity payload of the responder, obtained before: modes 5, 6 and 7. It is verified again each time.
    Introduction(Arc<[u8]>),
    /// A ticket of an earlier channel, which is spent by this: mode 8.
    Ticket(Box<Ticket>),
}

impl Basis {
    /// Whether this is what `mode` needs.
    pub(crate) fn suits(&self, mode: Mode) -> bool {
        match self {
            Self::Nothing => !mode.has_psk() && !mode.has_two_messages(),
            Self::Psk(_) => mode.has_psk() && !mode.has_two_messages(),
            Self::Introduction(_) => !mode.has_psk() && mode.has_two_messages(),
            Self::Ticket(_) => mode.has_psk() && mode.has_two_messages(),
        }
    }

    pub(crate) fn ticket(&self) -> Option<&Ticket> {
        match self {
            Self::Ticket(ticket) => Some(ticket),
            _ => None,
        }
    }

    /// The pre-shared key, with its name.
    pub(crate) fn psk(&self) -> Option<(PskId, &SharedSecret)> {
        match self {
            Self::Psk(psk) => Some((psk.id, &psk.secret)),
            Self::Ticket(ticket) => Some((ticket.id(), ticket.secret())),
            Self::Nothing | Self::Introduction(_) => None,
        }
    }

    /// The identity payload of the peer, as it was obtained before.
    pub(crate) fn introduction(&self) -> Option<&[u8]> {
        match self {
            Self::Introduction(payload) => Some(payload),
            Self::Ticket(ticket) => Some(ticket.peer()),
            Self::Nothing | Self::Psk(_) => None,
        }
    }
}

/// What the handshakes of a responder may rest on. Empty, it answers modes 1, 2, 5 and 6 only.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// Keys of the deployments that it belongs to: modes 3 and 4.
    pub psks: Vec<Arc<Psk>>,
    /// Identity payloads of the peers that it knows, at most [`INTRODUCTIONS_MAX`]: mode 7.
    pub introductions: Vec<Arc<[u8]>>,
    /// Tickets of earlier channels: mode 8.
    pub tickets: Arc<Mutex<Tickets>>,
}

impl Bases {
    pub(crate) fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a first message of `mode` that names `psk` could be answered at all.
    pub(crate) fn has(&self, mode: Mode, psk: Option<&PskId>) -> bool {
        match psk {
            None => mode.shows_identities() || !self.introductions.is_empty(),
            Some(id) if mode.has_two_messages() => self.tickets().has(id),
            Some(id) => self.psk(id).is_some(),
        }
    }

    pub(crate) fn psk(&self, id: &PskId) -> Option<&Psk> {
        self.psks.iter().find(|psk| psk.id == *id).map(|psk| &**psk)
    }
}

impl Psk {
    pub(crate) fn secret(&self) -> &SharedSecret {
        &self.secret
    }
}

/// Most payloads that a responder of mode 7 tries for one first message.
pub const INTRODUCTIONS_MAX: usize = 16;
