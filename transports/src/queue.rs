//! Queues: messages wait at a broker until their receiver, who may be off, has them.
//!
//! [`Broker`] is what every queue can do: keep a message under a [`Subject`], and hand it to a
//! subscriber until that one settles it. Of all of them the same is assumed: *at least once, in any
//! order, after any delay*. [`EmbeddedQueue`] keeps messages on the disk of this machine and needs no
//! server; [`connect`] leads to those that others run.
//!
//! A broker sees and may change all that it carries. It authenticates nobody, looks into no body, and
//! is never counted as protection: what must be secret or unaltered is sealed before it comes here.
//!
//! Specification: docs/protocol.md §2.3.

#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "there is no kind of broker then"))]
mod address;
#[cfg(feature = "amqp")]
mod amqp;
#[doc(hidden)]
pub mod conformance;
mod dead;
mod delivery;
#[cfg(feature = "broker")]
mod desk;
mod embedded;
mod error;
pub(crate) mod head;
mod inbox;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(any(feature = "amqp", feature = "redis"))]
mod link;
mod message;
#[cfg(feature = "mqtt")]
mod mqtt;
#[cfg(feature = "nats")]
mod nats;
mod outbox;
mod post;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "there is no kind of broker then"))]
mod server;
#[cfg(feature = "broker-tls")]
#[cfg_attr(
    not(any(feature = "amqp", feature = "mqtt", feature = "redis")),
    allow(dead_code, reason = "the client of NATS dials by itself")
)]
mod socket;
mod spool;
mod subject;
mod transport;

pub use address::{BrokerAddress, BrokerAddressError, BrokerKind};
#[cfg(feature = "amqp")]
pub use amqp::AmqpQueue;
pub use dead::{DeadLetter, Reason};
pub use delivery::{Delivery, Settle, Subscription, Verdict};
pub use embedded::{DeadRow, EmbeddedQueue, Folder, MailboxRow, Medium, Opening, QueueLimits};
pub use error::QueueError;
#[cfg(feature = "kafka")]
pub use kafka::KafkaQueue;
pub use message::{Mid, QueueKind, QueueMessage};
#[cfg(feature = "mqtt")]
pub use mqtt::MqttQueue;
#[cfg(feature = "nats")]
pub use nats::NatsQueue;
pub use post::PostLimits;
#[cfg(feature = "redis")]
pub use redis::RedisQueue;
pub use server::{Server, Standing, Warning, connect};
pub use spool::SpooledQueue;
pub use subject::{Lane, Mailbox, Subject, SubjectError};
pub use transport::{QueueTransport, random_mailbox};

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::time::Duration;

use bytes::Bytes;

/// A future on the heap, so that brokers can stand behind `dyn Broker`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Most bytes that a broker is given as one message: the longest body in a [`QueueMessage`], and its head.
pub const MESSAGE_BYTES_MAX: usize = QueueMessage::BODY_BYTES_MAX + 64;

/// Pauses after the first, second, third and every further transient failure. Source: docs/protocol.md §2.3.
pub const TRANSIENT_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// A queue, whoever runs it.
///
/// Nothing is assumed of order, and a message may come again although it was acknowledged: whoever
/// handles messages remembers which it has had.
pub trait Broker: fmt::Debug + Send + Sync {
    /// Stores a message. `Ok` means that the broker has it, as safely as [`Stored::durability`] says,
    /// and that it will be handed out until it is settled or has expired.
    ///
    /// # Errors
    /// [`QueueError`]; unless it is [`QueueError::Unknown`], the message is not stored.
    ///
    /// # Cancel safety
    /// Stored or not, whole or not at all.
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>>;

    /// Begins to hand out what waits under a subject, at most `prefetch` unsettled messages at once;
    /// several subscriptions of one subject share its messages.
    ///
    /// # Errors
    /// [`QueueError`].
    ///
    /// # Cancel safety
    /// There is no subscription then.
    fn subscribe(&self, subject: Subject, prefetch: usize)
    -> BoxFuture<'_, Result<Subscription, QueueError>>;
}

/// A message on its way into a queue.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Under what it is stored.
    pub subject: Subject,
    /// Its identifier. Publishing the same bytes under the same identifier again, after an outcome
    /// that is not known, is how a message is not lost; the broker may notice and keep only one.
    pub mid: Mid,
    /// How long it may wait, counted from now.
    pub ttl: Duration,
    /// An encoded [`QueueMessage`], at most [`MESSAGE_BYTES_MAX`] bytes. No broker looks into it.
    pub bytes: Bytes,
}

/// The receipt of a broker. It says nothing of the receiver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stored {
    /// What the message survives now.
    pub durability: Durability,
    /// Whether the broker had it already and keeps only that one.
    pub is_duplicate: bool,
}

/// What a stored message survives. A broker never states more than it verified.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it is in the memory of a process.
    BrokerMemory,
    /// The loss of some of the broker's machines, but not a power cut of all.
    BrokerReplicated,
    /// A power cut of the broker's machine, if its disk keeps what it confirmed.
    BrokerDisk,
    /// A power cut of this machine, if its disk keeps what it confirmed.
    Disk,
}

impl Durability {
    /// Its name in receipts and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BrokerMemory => "broker-memory",
            Self::BrokerReplicated => "broker-replicated",
            Self::BrokerDisk => "broker-disk",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long to wait after a transient failure of a message that was handed out `attempt` times; such
/// failures are not counted, and end in no dead letter. Source: docs/protocol.md §2.3.
#[must_use]
pub const fn transient_pause(attempt: u32) -> Duration {
    let last = TRANSIENT_PAUSES.len() - 1;
    let step = attempt.saturating_sub(1) as usize;
    TRANSIENT_PAUSES[if step < last { step } else { last }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_minutes() {
        let seconds = [0, 1, 2, 3, 4, 5, u32::MAX].map(|attempt| transient_pause(attempt).as_secs());
        assert_eq!(seconds, [1, 1, 5, 30, 120, 120, 120]);
    }
}
