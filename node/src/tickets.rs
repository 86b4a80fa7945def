//! The tickets of a node, by which ended channels can be resumed: in memory, and in the state directory if there is one.
//!
//! A ticket is erased before it is used: a crash loses tickets, it never brings one back. Their
//! files are as private as the keys of the software vault beside them, and like those not encrypted.
//!
//! Specification: docs/protocol.md §3.7.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use onward_channels::identity::Identifier;
use onward_channels::{Now, Role, Ticket, Tickets};

use crate::error::NodeError;
use crate::state::StateDir;

/// All tickets of a node.
pub(crate) struct TicketStore {
    held: Arc<Mutex<Tickets>>,
    /// Not kept open from here: the handle of a channel may outlive the node, whose directory is then another's.
    state: Option<Weak<StateDir>>,
}

impl TicketStore {
    /// Reads what was stored; what has ended or cannot be read is erased.
    pub(crate) fn open(
        now: Now,
        state: Option<&Arc<StateDir>>,
        tickets_max: usize,
    ) -> Result<Self, NodeError> {
        let held = Arc::new(Mutex::new(Tickets::new(tickets_max)));
        let store = Self { held, state: state.map(Arc::downgrade) };
        let Some(state) = state else { return Ok(store) };
        for name in state.list(FOLDER)? {
            let path = format!("{FOLDER}/{name}");
            let bytes = zeroize::Zeroizing::new(state.read(&path)?.unwrap_or_default());
            match Ticket::from_bytes(&bytes) {
                Some(ticket) => store.erase_all(store.lock().keep(now, ticket)),
                None => state.remove(&path)?,
            }
        }
        Ok(store)
    }

    /// What handshakes of peers look tickets up in.
    pub(crate) fn shared(&self) -> Arc<Mutex<Tickets>> {
        Arc::clone(&self.held)
    }

    /// Keeps a ticket. One that cannot be stored lasts as long as the node.
    pub(crate) fn keep(&self, now: Now, ticket: Ticket) {
        if let Some(state) = self.state.as_ref().and_then(Weak::upgrade)
            && let Err(error) = state.write(&file(ticket.role(), ticket.id()), &ticket.to_bytes())
        {
            tracing::warn!(%error, "a ticket was not stored");
        }
        let gone = self.lock().keep(now, ticket);
        self.erase_all(gone);
    }

    /// Takes the newest ticket by which `local` may resume a channel to `remote`.
    pub(crate) fn take(&self, now: Now, local: Identifier, remote: Identifier) -> Option<Ticket> {
        self.lock().take_for(now, local, remote)
    }

    /// Erases a ticket that is about to be used.
    ///
    /// # Errors
    /// [`NodeError::State`], or [`NodeError::Misuse`] once the node has ended: it may still be there, so it must not be
    /// used.
    pub(crate) fn erase(&self, role: Role, id: [u8; 8]) -> Result<(), NodeError> {
        let Some(state) = &self.state else { return Ok(()) };
        let state = state.upgrade().ok_or(NodeError::Misuse("the node has ended"))?;
        state.remove(&file(role, id))
    }

    fn erase_all(&self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            if let Err(error) = self.erase(ticket.role(), ticket.id()) {
                tracing::warn!(%error, "an ended ticket was not erased");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tickets> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file(role: Role, id: [u8; 8]) -> String {
    let role = match role {
        Role::Initiator => "initiator",
        Role::Responder => "responder",
    };
    format!("{FOLDER}/{role}-{:016x}", u64::from_be_bytes(id))
}

/// The folder of the state directory.
const FOLDER: &str = "tickets";
