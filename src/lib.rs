//! Messages that only the intended receiver can read, through anything that lies between.
//!
//! Workers on nodes exchange messages along *onward* and *return routes*, over any chain of hops and
//! transports. Secure channels ride on routes: whatever lies between two identities only forwards.
//!
//! ```
//! use onward::Node;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder("orders").start().await?;
//! node.serve("double", |n: u64| async move { Ok(n * 2) }).await?;
//! let answer: u64 = node.route("double")?.ask(&21u64).await?;
//! assert_eq!(answer, 42);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "memory")]
pub use onward_node::MemoryNetwork;
#[cfg(feature = "tcp")]
pub use onward_node::TcpOptions;
#[cfg(feature = "channels")]
pub use onward_node::{
    Backend, Channel, ChannelLimits, ChannelListener, ChannelOptions, CloseCode, HandshakeFailure,
    Identifier, Identity, IdentityError, Introduction, KEY_DEADLINE, KeyClient, KeyError, KeyId, KeyMeta,
    KeyState, KeyUsage, ListenerLimits, Mode, NewKey, Padding, Peer, Profile, Psk, PublicHalf, PublicKey,
    Refusal, ServiceState, SignatureAlgorithm, SignatureType, SoftwareVault, Suite, Trust, Vault,
    VerifiedHistory, audit, general, read_development_key, read_psk,
};
#[cfg(feature = "ok2cry")]
pub use onward_node::{
    CacheAnswer, CacheClient, CacheError, Exchanges, KeyCache, KeyWish, LocalCache, OwnKey, Parent, ok2cry,
};
pub use onward_node::{
    Connection, LimitRow, Limits, Listener, ListenerInfo, Node, NodeBuilder, NodeError, NodeRoute,
    ShutdownReport, StateDir, StreamLimits, TransportError, WorkerLimits,
};
#[cfg(feature = "udp")]
pub use onward_node::{DatagramCounters, DatagramLimits, UdpTransport};
#[cfg(feature = "queue")]
pub use onward_node::{RemoteQueue, queue};
pub use onward_routing::{
    Address, AddressError, DialRule, ErrorCode, FlowId, FlowKind, Kind, LinkFaults, Message, Route,
    RouteError, RouteRef,
};
pub use onward_workers::{
    AskError, Blocked, Charge, Context, Counters, Echo, EndReason, Ended, Failure, FnWorker, Hop, Ingress,
    Next, NoReply, Payload, PayloadError, Raw, Relay, Reply, Restart, Room, Router, SendError, Serde,
    StartError, Step, Strategy, Supervisor, SupervisorHandle, Worker, WorkerHandle,
};
