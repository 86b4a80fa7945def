//! Identities, the Noise handshake and the record layer, as pure values.
//!
//! # Invariants
//! - No clock, sockets, tasks or `async`: time and randomness are arguments.
//! - A static private key never comes here: the key service answers agreements.
//! - A refused input changes no state; a replay window moves only after authentication.
//! - Handshake state is dropped at the first failure, and freed once the channel is ready.
//! - Everything a peer can grow is bounded in count and bytes.
//!
//! Specification: docs/protocol.md §3, §5.

mod epoch;
mod error;
mod handshake;
pub mod identity;
mod listener;
mod mode;
#[cfg(feature = "ok2cry")]
pub mod ok2cry;
mod random;
mod reassembly;
mod record;
mod replay;
mod resolver;
mod schedule;
mod session;
pub mod signed;
mod time;
#[cfg(test)]
mod vectors;

pub use error::{ChannelError, Failure};
pub use handshake::{
    Bases, Basis, Established, HandshakeConfig, INTRODUCTIONS_MAX, Initiator, Input, LocalIdentity, Opening,
    Output, Psk, Responder, Ticket, Tickets, To, is_handshake,
};
pub use listener::{FirstMessage, HandshakeId, HandshakeTable, ListenerLimits, Verdict};
pub use mode::{Mode, Suite};
pub use onward_keys::strict;
pub use reassembly::{MESSAGE_BYTES_MAX, Reassembly};
pub use record::{
    BODY_MAX, CloseCode, Content, FRAGMENT_HEAD_BYTES, Fragment, Frame, FrameType, HEAD_BYTES, HEAD_ROOM,
    OVERHEAD, PIECE_MAX, Padding, Sequence,
};
pub use schedule::{Binding, Predecessor};
pub use session::{
    Confirmation, Due, FragmentPlan, Opener, PlannedFragment, Reserved, Role, Sealer, Session,
};
pub use time::{Now, Profile};
