//! What can go wrong for those who store messages and fetch them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a queue refused a call.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A bound of the queue is reached. Acknowledging, purging or expiry makes room.
    #[error("the {quota} of this queue is used up ({limit})")]
    QuotaExceeded {
        /// Which bound, by the name of its limit.
        quota: &'static str,
        /// Its value, in bytes or as a count.
        limit: u64,
    },
    /// The disk has no room. What is stored stays, and storing works again once there is room.
    #[error("the disk of this queue is full")]
    StorageFull,
    /// More bytes than one message may have.
    #[error("{bytes} bytes where a message has at most {bytes_max}")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// The time to live is over already.
    #[error("the message has expired")]
    Expired,
    /// Another process, or this one, has this queue open.
    #[error("another process uses the queue {}", .0.display())]
    InUse(PathBuf),
    /// The folder of a queue may only be its owner's.
    #[error("{} is open to others", .0.display())]
    NotPrivate(PathBuf),
    /// The disk failed. What was acknowledged before stays; what was not is unknown.
    #[error("the storage of this queue failed")]
    Storage(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The broker cannot be reached, and does not have the message.
    #[error("the broker cannot be reached")]
    Unreachable(#[source] Option<Arc<io::Error>>),
    /// Whether the broker has the message is unknown: publish it again under the same identifier.
    #[error("the broker did not confirm")]
    Unknown,
    /// The broker refuses it: who asks, or what is asked for.
    #[error("the broker refuses that")]
    Refused(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// What a broker wants to be told about who connects, or whom to trust as the broker, cannot be read.
    #[error("the credentials for the broker cannot be read")]
    Credentials(#[source] Arc<io::Error>),
    /// This program was built without brokers of that kind.
    #[error("this build cannot use brokers of the kind {0}")]
    NotBuilt(&'static str),
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
}
