//! A node: workers, transports and secure channels put together.
//!
//! The composition root. It owns what runs (tasks, sockets, channels) and shuts it down in order; it
//! keeps no global state, so several nodes live in one process. Decisions of protocols are made in
//! `onward-routing` and `onward-channels`; this crate has the clocks and drives them.
//!
//! Specification: docs/protocol.md.

#[cfg(feature = "ok2cry")]
mod cache;
#[cfg(feature = "channels")]
mod channel;
mod error;
#[cfg(feature = "ok2cry")]
mod exchange;
#[cfg(feature = "queue")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "channels")]
mod identity;
#[cfg(feature = "channels")]
mod introduction;
#[cfg(feature = "channels")]
mod keyd;
mod limits;
#[cfg(feature = "channels")]
mod line;
mod node;
#[cfg(feature = "channels")]
mod psk;
#[cfg(feature = "channels")]
mod secure;
#[cfg(feature = "queue")]
mod served;
mod state;
#[cfg(feature = "channels")]
mod tickets;

#[cfg(feature = "ok2cry")]
pub use cache::{CacheAnswer, CacheClient, CacheError, KeyCache, LocalCache};
#[cfg(feature = "channels")]
pub use channel::{Channel, ChannelListener, ChannelOptions, Peer};
#[cfg(feature = "channels")]
pub use identity::Identity;
#[cfg(feature = "channels")]
pub use keyd::{DEADLINE as KEY_DEADLINE, KeyClient};
#[cfg(feature = "channels")]
pub use onward_channels::identity::{Identifier, IdentityError, Trust, VerifiedHistory};
#[cfg(feature = "ok2cry")]
pub use onward_channels::ok2cry;
#[cfg(feature = "channels")]
pub use onward_channels::{
    CloseCode, Failure as HandshakeFailure, ListenerLimits, Mode, Padding, Profile, Psk, Suite,
};
#[cfg(feature = "channels")]
pub use onward_keys::service::{KeyMeta, KeyState, NewKey, Refusal, ServiceState};
#[cfg(feature = "channels")]
pub use onward_keys::{
    Backend, KeyError, KeyId, KeyUsage, PublicHalf, PublicKey, SignatureAlgorithm, SignatureType,
    SoftwareVault, Vault, audit, general, read_development_key,
};

pub use error::NodeError;
#[cfg(feature = "ok2cry")]
pub use exchange::{Exchanges, KeyWish, OwnKey, Parent};
#[cfg(feature = "channels")]
pub use introduction::Introduction;
#[cfg(feature = "channels")]
pub use limits::ChannelLimits;
pub use limits::{LimitRow, Limits};
pub use node::{Connection, Listener, ListenerInfo, Node, NodeBuilder, NodeRoute, ShutdownReport};
#[cfg(feature = "memory")]
pub use onward_transports::MemoryNetwork;
#[cfg(feature = "tcp")]
pub use onward_transports::TcpOptions;
#[cfg(feature = "queue")]
pub use onward_transports::queue;
#[cfg(feature = "udp")]
pub use onward_transports::{DatagramCounters, DatagramLimits, UdpTransport};
pub use onward_transports::{StreamLimits, TransportError};
pub use onward_workers::Limits as WorkerLimits;
#[cfg(feature = "channels")]
pub use psk::read_psk;
#[cfg(feature = "queue")]
pub use served::RemoteQueue;
pub use state::StateDir;
