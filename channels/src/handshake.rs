//! The handshake: two values, [`Initiator`] and [`Responder`], that decide everything and touch nothing.
//!
//! A driver feeds them packets, answers and the time through `handle`, and after every `handle` polls until
//! [`Output::Wait`], [`Output::Established`] or [`Output::Failed`]. Both send identical bytes again when nothing
//! comes back, and both are silent on the wire about why something failed.
//!
//! Static keys never come here. Before a step that needs one, [`Output::Agree`] asks for the agreement; the answer
//! goes into the table behind the static key that the Noise state holds.
//!
//! Specification: docs/protocol.md §3.2, §3.4, §3.5.

mod basis;
mod initiator;
pub(crate) mod message;
pub(crate) mod noise;
mod responder;
mod ticket;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use onward_keys::{Backend, KeyId, Label, SharedSecret};
use subtle::ConstantTimeEq as _;

use crate::error::Failure;
use crate::identity::{
    IdPayload, Identifier, IdentityError, KnownHistories, PAYLOAD_BYTES_MAX, Trust, VerifiedPeer,
    verify_payload,
};
use crate::mode::{Mode, Suite};
use crate::record::Padding;
use crate::resolver::Agreements;
use crate::schedule::{Binding, Predecessor};
use crate::session::{Answers, Confirmation, Role, Session, SessionStart};
use crate::time::Profile;
use crate::{ChannelError, Now};

pub use basis::{Bases, Basis, INTRODUCTIONS_MAX, Psk};
pub use initiator::{Initiator, Opening};
pub use responder::Responder;
pub use ticket::{Ticket, Tickets};

use basis::PskId;
use noise::{Noise, Setup};

/// This end of a handshake: who it is, and the static key it proves.
#[derive(Clone, Debug)]
pub struct LocalIdentity {
    /// The identifier that `payload` proves.
    pub identifier: Identifier,
    /// The channel static key, as the key service knows it.
    pub static_key: KeyId,
    /// Its public half, 32 bytes.
    pub static_public: [u8; 32],
    /// The encoded identity payload, at most 32 KiB: history and attestation of `static_public`, and credentials
    /// where they are to be shown.
    pub payload: Vec<u8>,
}

/// What both ends of a handshake are configured with. A decision that matters has no default.
#[derive(Clone, Debug)]
pub struct HandshakeConfig {
    /// Who this end is.
    pub local: Arc<LocalIdentity>,
    /// Whom it accepts.
    pub trust: Arc<Trust>,
    /// The longest history seen of each identity; adopts those of peers that passed `trust`.
    pub known: Arc<RwLock<KnownHistories>>,
    /// What handshakes of peers may rest on beside the static keys; an initiator has it from elsewhere.
    pub bases: Bases,
    /// Which implementation computes.
    pub backend: Backend,
    /// Bound into the prologue; equal at both ends, at most 256 bytes, normally empty.
    pub app: Vec<u8>,
    /// How patient the handshake and its channel are.
    pub profile: Arc<Profile>,
    /// How the channel's records are padded.
    pub padding: Padding,
}

/// What a driver tells a handshake.
pub enum Input<'a> {
    /// A packet that reached the session address: a handshake message or a record, told apart by their first byte.
    Packet(&'a [u8]),
    /// The answer to [`Output::Agree`].
    Agreed(SharedSecret),
    /// The key service refused [`Output::Agree`], or cannot be reached.
    AgreementFailed,
    /// The answer to [`Output::Find`]: [`Binding::predecessor`] of the channel, if there is one.
    Found(Option<Predecessor>),
    /// The answer to [`Output::Admit`].
    Admitted(bool),
    /// The time of the last [`Output::Wait`] has come.
    TimePassed,
}

/// What a handshake tells its driver.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes as the payload of one message.
    Transmit(To, Vec<u8>),
    /// Ask the key service for the agreement of `key` with `peer`; answer with [`Input::Agreed`] or
    /// [`Input::AgreementFailed`] within 2 s.
    Agree {
        /// This end's static key.
        key: KeyId,
        /// The peer's public key, 32 bytes.
        peer: [u8; 32],
    },
    /// Find the channel accepted at this listener that has this `hs_id`: the peer says that it replaces it. Answer
    /// with [`Input::Found`].
    Find([u8; 32]),
    /// This would be a channel of its own: take a place for it with [`crate::HandshakeTable::admit`], and answer with
    /// [`Input::Admitted`].
    Admit,
    /// The ticket of this role and name is spent: erase it from any store, for good. What follows may leave only if
    /// that worked; if not, drop the handshake.
    Spend(Role, [u8; 8]),
    /// The channel is ready; the handshake is over and can be dropped.
    Established(Box<Established>),
    /// The handshake is over and came to nothing; it can be dropped.
    Failed(Failure),
    /// Nothing more to do now: call `handle` with the next packet, or with [`Input::TimePassed`] at this time.
    Wait {
        /// On the clock of [`crate::Now::mono`].
        until: Duration,
    },
}

/// Where an [`Output::Transmit`] goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum To {
    /// Along the configured route to the listener: an initiator's first message.
    Listener,
    /// To the peer's session address. A responder uses the return route of the packet it answers; an initiator its
    /// own route, with the listener's address replaced by the last element of the second message's return route.
    Peer,
}

/// A finished handshake.
#[derive(Debug)]
pub struct Established {
    /// The channel.
    pub session: Session,
    /// Who is at its other end.
    pub peer: VerifiedPeer,
    /// Records that came before the channel was ready, at most 16: open them first, in this order.
    pub early: Vec<Vec<u8>>,
    /// The `hs_id` of the channel whose place this one takes: both ends have proved that they know it. Without, this
    /// is a channel of its own, whatever was asked for.
    pub replaces: Option<[u8; 32]>,
}

impl Established {
    /// This end's half of the ticket by which the channel can be resumed, for as long as [`Tickets`] keep it.
    #[must_use]
    pub fn ticket(&self, now: Now, local: Identifier) -> Ticket {
        let remote = self.peer.identifier();
        let role = self.session.sealer.role();
        Ticket::new(now, &self.session.binding, role, (local, remote), self.peer.introduction())
    }
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet(_) => "Packet",
            Self::Agreed(_) => "Agreed",
            Self::AgreementFailed => "AgreementFailed",
            Self::Found(_) => "Found",
            Self::Admitted(_) => "Admitted",
            Self::TimePassed => "TimePassed",
        })
    }
}

/// The fields that all messages of one handshake repeat and that its prologue binds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Terms {
    pub(crate) mode: Mode,
    pub(crate) suite: Suite,
    /// Whether the initiator named the responder.
    pub(crate) bound: bool,
    /// Fresh and random for each attempt.
    pub(crate) hsid: [u8; 16],
    /// Names the pre-shared key, in the modes that have one.
    pub(crate) pskid: Option<PskId>,
}

impl Terms {
    /// `L("ch", mode, suite, flags, hsid, pskid, to, app)`.
    fn prologue(&self, responder: Option<&Identifier>, app: &[u8]) -> Vec<u8> {
        Label::new("ch")
            .uint(u64::from(self.mode.number()))
            .uint(u64::from(self.suite.number()))
            .uint(u64::from(self.bound))
            .bytes(&self.hsid)
            .optional_bytes(self.pskid.as_ref().map(|pskid| &pskid[..]))
            .optional_bytes(responder.map(Identifier::as_bytes).map(|bytes| &bytes[..]))
            .bytes(app)
            .encode()
    }
}

/// Records kept until the channel is ready: at most [`Early::RECORDS_MAX`] and [`Early::BYTES_MAX`].
#[derive(Default)]
struct Early {
    records: Vec<Vec<u8>>,
    bytes: usize,
}

impl Early {
    const RECORDS_MAX: usize = 16;
    /// Half-open handshakes are many, and what they keep is not authenticated yet.
    const BYTES_MAX: usize = 64 * 1024;

    /// Keeps a copy of `record`, unless it is kept already or there is no room.
    fn keep(&mut self, record: &[u8]) {
        let room = self.records.len() < Self::RECORDS_MAX && self.bytes + record.len() <= Self::BYTES_MAX;
        if room && !self.records.iter().any(|kept| kept == record) {
            self.bytes += record.len();
            self.records.push(record.to_vec());
        }
    }
}

/// Times after the first copy at which identical bytes are sent again: 1, 2, 4, 8 s, then every 4 s.
fn resend_after(copies: u32) -> Duration {
    Duration::from_secs(match copies {
        0 | 1 => 1,
        2 => 2,
        3 => 4,
        4 => 8,
        more => 8 + 4 * (u64::from(more) - 4),
    })
}

/// Refuses a configuration that no peer would understand.
pub(crate) fn check_config(config: &HandshakeConfig) -> Result<(), ChannelError> {
    if config.app.len() > APP_MAX {
        return Err(ChannelError::Misuse("an application label of more than 256 bytes"));
    }
    if config.local.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(ChannelError::Misuse("an identity payload of more than 32 KiB"));
    }
    if config.bases.introductions.len() > INTRODUCTIONS_MAX {
        return Err(ChannelError::Misuse("more than 16 peers known beforehand"));
    }
    Ok(())
}

/// The peer behind an authenticated payload, if the trust policy accepts it: a bound handshake's only for the named
/// identifier, and never this end itself. Its history is remembered once all of that has passed.
fn verify(
    config: &HandshakeConfig,
    now: Now,
    payload: &[u8],
    remote_static: &[u8; 32],
    to: Option<Identifier>,
) -> Result<VerifiedPeer, Failure> {
    let untrusted = |error| Failure::Untrusted(Arc::new(error));
    let peer = {
        let known = config.known.read().unwrap_or_else(PoisonError::into_inner);
        verify_payload(payload, remote_static, to, now.unix, &config.trust, &known).map_err(untrusted)?
    };
    if peer.identifier() == config.local.identifier {
        return Err(untrusted(IdentityError::Untrusted(peer.identifier())));
    }
    let mut known = config.known.write().unwrap_or_else(PoisonError::into_inner);
    known.adopt(peer.update()).map_err(untrusted)?;
    drop(known);
    Ok(peer)
}

/// The peer behind a payload that was obtained before the handshake, with the static key that it attests.
fn introduced(
    config: &HandshakeConfig,
    now: Now,
    payload: &[u8],
    to: Option<Identifier>,
) -> Result<(VerifiedPeer, [u8; 32]), Failure> {
    let untrusted = |error| Failure::Untrusted(Arc::new(error));
    let claimed = IdPayload::decode(payload).map_err(untrusted)?;
    let remote = claimed.attestation().attest().key.as_slice().try_into();
    let remote = remote.map_err(|_| untrusted(IdentityError::OtherKey))?;
    Ok((verify(config, now, payload, &remote, to)?, remote))
}

/// A finished Noise handshake as a channel of the strength of `mode`.
fn session(
    config: &HandshakeConfig,
    now: Now,
    (terms, mode): (&Terms, Mode),
    role: Role,
    split: noise::Split,
    peer: &VerifiedPeer,
) -> Session {
    let noise::Split { k1, k2, hash } = split;
    let (local, remote) = (config.local.identifier, peer.identifier());
    let (ends, answers) = match role {
        Role::Initiator => ([local, remote], Answers::Nothing),
        Role::Responder => ([remote, local], Answers::Confirms),
    };
    let binding = Binding::derive(mode, &k1, &k2, &hash, ends);
    let (outgoing, incoming) = match role {
        Role::Initiator => (k1, k2),
        Role::Responder => (k2, k1),
    };
    let confirmation = Confirmation::new(answers, binding.confirm(role, None));
    let start = SessionStart {
        now,
        backend: config.backend,
        algorithm: terms.suite.algorithm(),
        binding,
        outgoing,
        incoming,
        profile: Arc::clone(&config.profile),
        role,
        padding: config.padding,
    };
    Session::new(start, confirmation)
}

/// Whether an agreement is all zeros, as no good key service answers.
fn is_zero(secret: &SharedSecret) -> bool {
    secret.as_bytes().ct_eq(&[0; 32]).into()
}

/// Whether a packet at a session address is a handshake message: an array of 9, where a record has a number below
/// 2^62. A ready channel gives the former to [`crate::Confirmation::is_repeated`], all else to its opener.
#[must_use]
pub fn is_handshake(packet: &[u8]) -> bool {
    packet.first() == Some(&0x89)
}

/// How long the key service may take.
const AGREEMENT_DEADLINE: Duration = Duration::from_secs(2);
/// Longest `app`, in bytes.
const APP_MAX: usize = 256;
/// How much a responder may send for each byte it received, before the initiator has proved anything.
pub(crate) const AMPLIFICATION_MAX: usize = 3;
