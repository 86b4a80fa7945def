//! What can go wrong for those who open listeners and connections.

use std::io;
use std::sync::Arc;

use onward_routing::Address;

/// Why a listener or a connection cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The system does not let this process listen there.
    #[error("cannot listen on {at}")]
    Listen {
        /// Where.
        at: String,
        /// The system's reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// A live process listens on this socket already.
    #[error("another process listens on {0}")]
    InUse(String),
    /// The address does not name an endpoint of this transport.
    #[error("`{0}` is no endpoint of this transport")]
    Endpoint(Address),
    /// The peer was not reached within the connect deadline; attempts go on.
    #[error("cannot reach {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// The reason of the last attempt; none if it was still under way.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// No queue of this name is mounted on the node.
    #[error("no queue named `{0}` is mounted here")]
    NoQueue(String),
    /// A queue's name is 1 to 64 of `A-Z a-z 0-9 _ - .`.
    #[error("`{0}` is no name for a queue: 1 to 64 of A-Z a-z 0-9 _ - .")]
    QueueName(String),
    /// The connection is closed for good.
    #[error("the connection is closed")]
    Closed,
    /// A fresh random address is taken, which only a broken random source explains.
    #[error("no free address for a connection")]
    NoAddress,
}
