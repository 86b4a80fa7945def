//! Why this crate refuses, and who must act.

use std::sync::Arc;

use crate::identity::IdentityError;
use crate::record::{CloseCode, Sequence};

/// Why a channel refused a record or a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The record did not authenticate. Says no more on purpose: detail here is an oracle.
    #[error("record failed authentication")]
    Unauthentic,
    /// The number was accepted before, or lies behind the replay window. The channel stays open.
    #[error("record {0} was replayed or is too old")]
    Replayed(Sequence),
    /// The number lies more epochs ahead than a receiver follows. The channel stays open.
    #[error("record {0} is too far ahead")]
    TooFarAhead(Sequence),
    /// The peer's bytes have no valid form. Where they were authentic, the peer is at fault.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A frame type this version does not know; it is dropped.
    #[error("unknown frame type {0}")]
    UnknownFrame(u8),
    /// An unfinished message was given up because the peer keeps too many or too large ones open.
    #[error("reassembly limit exceeded")]
    ReassemblyLimit,
    /// The body does not fit one record, or the message does not fit the fragments of one message.
    #[error("{length} bytes exceed the limit of {limit}")]
    TooLong {
        /// Length offered, in bytes.
        length: usize,
        /// Longest that is taken, in bytes.
        limit: usize,
    },
    /// Every number of this channel has been used.
    #[error("channel has used every sequence number")]
    Exhausted,
    /// A bug in the caller, never caused by a peer.
    #[error("channel misused: {0}")]
    Misuse(&'static str),
}

/// Why a handshake came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing usable came back before the deadline.
    #[error("no answer within the handshake deadline")]
    TimedOut,
    /// Something came back that did not authenticate, and nothing better before the deadline.
    #[error("handshake failed authentication")]
    Unauthentic,
    /// The peer proved an identity that is not accepted here, or its proof does not hold.
    #[error("peer is not trusted here")]
    Untrusted(#[source] Arc<IdentityError>),
    /// The key service did not complete the key agreement in time, or not at all.
    #[error("key service did not complete the key agreement")]
    KeyService,
    /// The peer has proved who it is and does not want the channel.
    #[error("peer closed the channel before it was ready: {0:?}")]
    Closed(CloseCode),
    /// This end's listener has as many channels as it may have; the peer was told.
    #[error("listener has no place for another channel")]
    Full,
}
