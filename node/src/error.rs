//! Why a node refuses a call; split by who has to act.

use onward_routing::{Address, AddressError, RouteError};
use onward_workers::StartError;

/// Why a node refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A route is malformed or too long.
    #[error("malformed route")]
    Route(#[from] RouteError),
    /// An address or a worker's name is malformed.
    #[error("malformed address")]
    Address(#[from] AddressError),
    /// A worker could not be started.
    #[error("cannot start the worker")]
    Start(#[from] StartError),
    /// The worker answers only inside secure channels and cannot be exposed on a transport.
    #[error("`{0}` answers only inside secure channels")]
    SecureOnly(Address),
    /// Listening or connecting failed.
    #[error("transport failed")]
    Transport(#[from] onward_transports::TransportError),
    /// The name of a host could not be resolved.
    #[error("cannot resolve `{0}`")]
    Resolve(String, #[source] std::io::Error),
    /// No channel came to be.
    #[cfg(feature = "channels")]
    #[error("no secure channel: {0}")]
    Handshake(onward_channels::Failure),
    /// An identity could not be made, read or used.
    #[cfg(feature = "channels")]
    #[error("identity")]
    Identity(#[from] onward_channels::identity::IdentityError),
    /// The vault refused or failed.
    #[cfg(feature = "channels")]
    #[error("key service")]
    Vault(#[from] onward_keys::KeyError),
    /// A channel was set up with values it cannot have.
    #[cfg(feature = "channels")]
    #[error("channel")]
    Channel(#[from] onward_channels::ChannelError),
    /// A disposable key, or what was sealed to one, was refused.
    #[cfg(feature = "ok2cry")]
    #[error("exchange")]
    Exchange(#[from] onward_channels::ok2cry::ExchangeError),
    /// The key cache refused or failed.
    #[cfg(feature = "ok2cry")]
    #[error("key cache")]
    Cache(#[from] crate::cache::CacheError),
    /// The log of a key cache shows no end of a key that should have ended.
    #[cfg(feature = "ok2cry")]
    #[error("no head of the log shows the key's end")]
    NoEnd,
    /// There is no ticket by which a channel to this identity could be resumed. Another mode may open one.
    #[cfg(feature = "channels")]
    #[error("no ticket to resume a channel to {0}")]
    NoTicket(onward_channels::identity::Identifier),
    /// A file with a pre-shared key cannot be used.
    #[cfg(feature = "channels")]
    #[error("pre-shared key in `{path}`")]
    Psk {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The state directory cannot be used.
    #[error("state directory: {action} `{path}`")]
    State {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses the state directory.
    #[error("another process uses `{0}`")]
    StateInUse(String),
    /// The operating system failed.
    #[error("the operating system failed")]
    System(#[from] std::io::Error),
    /// A bug in the caller, never caused by a peer.
    #[error("misused: {0}")]
    Misuse(&'static str),
}
