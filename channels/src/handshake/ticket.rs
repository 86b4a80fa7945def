//! Tickets: the right to resume a channel, once.
//!
//! Each end of a channel can make its half of a ticket. The old initiator resumes with it; the old responder accepts it.
//! A ticket leaves the table before it is used, at both ends: whoever holds a copy of an old table holds nothing.
//!
//! Specification: docs/protocol.md §3.2 (mode 8), §3.7.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder};
use onward_keys::SharedSecret;
use zeroize::Zeroizing;

use crate::Now;
use crate::handshake::basis::PskId;
use crate::identity::{Identifier, PAYLOAD_BYTES_MAX};
use crate::mode::Mode;
use crate::schedule::Binding;
use crate::session::Role;
use crate::strict;

/// One end's half of a ticket. Not `Clone`: it is used once.
pub struct Ticket {
    id: PskId,
    secret: SharedSecret,
    role: Role,
    /// Whose strength the channel had, and what is resumed has.
    mode: Mode,
    /// This end, and who was at the other.
    local: Identifier,
    remote: Identifier,
    /// The peer's identity payload, verified then and to be verified again.
    peer: Vec<u8>,
    /// Unix seconds.
    expires: u64,
}

impl Ticket {
    /// The ticket of a channel: `rpsk = export("resume", "", 32)`, `pskid = export("resume-id", "", 8)`.
    pub(crate) fn new(
        now: Now,
        binding: &Binding,
        role: Role,
        (local, remote): (Identifier, Identifier),
        peer: Vec<u8>,
    ) -> Self {
        let (mut secret, mut id) = (Zeroizing::new([0; 32]), [0; 8]);
        binding.export("resume", b"", secret.as_mut());
        binding.export("resume-id", b"", &mut id);
        let expires = now.unix.saturating_add(TICKET_SECONDS);
        let mode = binding.mode();
        Self { id, secret: SharedSecret::new(&secret), role, mode, local, remote, peer, expires }
    }

    /// The name by which a first message names it; public.
    #[must_use]
    pub fn id(&self) -> [u8; 8] {
        self.id
    }

    /// Which end of the old channel this was. Only the initiator resumes.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Who is at the other end.
    #[must_use]
    pub fn remote(&self) -> Identifier {
        self.remote
    }

    pub(crate) fn secret(&self) -> &SharedSecret {
        &self.secret
    }

    pub(crate) fn peer(&self) -> &[u8] {
        &self.peer
    }

    pub(crate) fn is_valid(&self, now: Now) -> bool {
        now.unix < self.expires
    }

    /// The ticket for a store that is as private as the keys of the node; wiped when dropped.
    ///
    /// `[v=2, role: u8, mode: u8, id: b8, secret: b32, local: b32, remote: b32, expires: u64, peer: b<=32768]`
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Enough for all of it, so that no copy of the secret is left behind by a growing buffer.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FIXED_BYTES + self.peer.len()));
        let mut encoder = Encoder::new(&mut *bytes);
        let written = (|| -> Result<(), encode::Error<std::convert::Infallible>> {
            encoder.array(9)?.u8(VERSION)?.u8(role_number(self.role))?.u8(self.mode.number())?;
            encoder.bytes(&self.id)?.bytes(self.secret.as_bytes())?.bytes(self.local.as_bytes())?;
            encoder.bytes(self.remote.as_bytes())?.u64(self.expires)?.bytes(&self.peer)?.ok()
        })();
        debug_assert!(written.is_ok(), "encoding into memory failed");
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if it is anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let ticket = Self::read(&mut decoder).ok()?;
        (*ticket.to_bytes() == bytes).then_some(ticket)
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        strict::array(d, 9)?;
        strict::version(d, VERSION)?;
        let role = match d.u8()? {
            1 => Role::Initiator,
            2 => Role::Responder,
            _ => return Err(strict::refuse(d, "unknown role")),
        };
        let mode = Mode::from_number(d.u8()?).filter(|mode| !mode.is_resumption());
        let mode = mode.ok_or_else(|| strict::refuse(d, "no mode of a first channel"))?;
        let id = strict::bytes_exact(d)?;
        let secret = SharedSecret::new(&Zeroizing::new(strict::bytes_exact(d)?));
        let local = Identifier::from_bytes(strict::bytes_exact(d)?);
        let remote = Identifier::from_bytes(strict::bytes_exact(d)?);
        let expires = d.u64()?;
        let peer = strict::bytes(d, PAYLOAD_BYTES_MAX)?.to_vec();
        Ok(Self { id, secret, role, mode, local, remote, peer, expires })
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("remote", &self.remote)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

type Name = (Role, PskId);

/// The tickets that one node holds, of both roles; those that end first give way when there are too many.
#[derive(Debug)]
pub struct Tickets {
    /// Both ends of a channel may be in one node, so a name alone does not tell.
    held: HashMap<Name, Ticket>,
    /// By the time of their end.
    ends: BTreeSet<(u64, Name)>,
    capacity: usize,
}

impl Tickets {
    /// Holds at most `capacity` tickets.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { held: HashMap::new(), ends: BTreeSet::new(), capacity }
    }

    /// Keeps `ticket`, in the place of one of the same name if there is one, and returns those that gave way or ended:
    /// they are to be erased from any store.
    pub fn keep(&mut self, now: Now, ticket: Ticket) -> Vec<Ticket> {
        let name = (ticket.role, ticket.id);
        self.remove(&name);
        self.ends.insert((ticket.expires, name));
        self.held.insert(name, ticket);
        let mut gone = Vec::new();
        while let Some((expires, first)) = self.ends.first().copied() {
            if expires > now.unix && self.held.len() <= self.capacity {
                break;
            }
            gone.extend(self.remove(&first));
        }
        gone
    }

    /// Takes a ticket by which `local` may resume its newest channel to `remote`.
    pub fn take_for(&mut self, now: Now, local: Identifier, remote: Identifier) -> Option<Ticket> {
        let usable = |name: &&Name| {
            self.held.get(*name).is_some_and(|ticket| {
                ticket.role == Role::Initiator
                    && (ticket.local, ticket.remote) == (local, remote)
                    && ticket.is_valid(now)
            })
        };
        let name = *self.ends.iter().rev().map(|(_, name)| name).find(usable)?;
        self.remove(&name)
    }

    /// How many tickets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether a responder could accept this one.
    pub(crate) fn has(&self, id: &PskId) -> bool {
        self.held.contains_key(&(Role::Responder, *id))
    }

    /// A ticket that `local` may accept, still in its place.
    pub(crate) fn get(&self, now: Now, id: &PskId, local: &Identifier) -> Option<&Ticket> {
        let ticket = self.held.get(&(Role::Responder, *id))?;
        (ticket.local == *local && ticket.is_valid(now)).then_some(ticket)
    }

    /// Takes a responder's ticket out: whoever gets it is the only one.
    pub(crate) fn take(&mut self, id: &PskId) -> Option<Ticket> {
        self.remove(&(Role::Responder, *id))
    }

    fn remove(&mut self, name: &Name) -> Option<Ticket> {
        let ticket = self.held.remove(name)?;
        self.ends.remove(&(ticket.expires, *name));
        Some(ticket)
    }
}

impl Default for Tickets {
    /// Holds 10 000 tickets.
    fn default() -> Self {
        Self::new(10_000)
    }
}

fn role_number(role: Role) -> u8 {
    match role {
        Role::Initiator => 1,
        Role::Responder => 2,
    }
}

/// How long a ticket lasts, in seconds.
const TICKET_SECONDS: u64 = 24 * 3_600;
const VERSION: u8 = 2;
/// More than everything but the peer's payload takes.
const FIXED_BYTES: usize = 160;
