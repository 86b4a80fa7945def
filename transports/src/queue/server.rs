//! Brokers that others run: connecting to one, and what its acknowledgements are worth.
//!
//! A broker is asked for the settings that lose nothing, and its class says what it was seen to have, never
//! what it should have. What it lacks is told to people together with the command that mends it.
//!
//! Specification: docs/protocol.md §2.3.

use core::time::Duration;
use std::sync::Arc;
use std::time::SystemTime;

use super::{
    Broker, BrokerAddress, Durability, EmbeddedQueue, MESSAGE_BYTES_MAX, Publish, QueueError, QueueLimits,
    SpooledQueue,
};

/// How long a broker may take to be connected to, and to answer a request.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long one who publishes waits for the connection to a broker to come back.
pub(super) const AWAY: Duration = Duration::from_secs(5);
/// The longest that a message waits at a broker, whatever its sender says.
pub(super) const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a dead letter is kept.
pub(super) const DEAD_LETTER_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Dead letters of one mailbox; the oldest give way.
pub(super) const DEAD_LETTERS: u32 = 10_000;
/// How long what belongs to a mailbox that nobody uses stays at a broker.
pub(super) const UNUSED: Duration = LIFETIME;

/// A broker that others run.
pub trait Server: Broker {
    /// What was seen of it when it was last connected to.
    fn standing(&self) -> Standing;
}

/// What an acknowledgement of a broker is worth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// What runs there, with its version.
    pub software: String,
    /// What a message survives once it is acknowledged.
    pub durability: Durability,
    /// Settings by which messages are lost.
    pub warnings: Vec<Warning>,
}

/// A setting of a broker by which messages are lost.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// What is lost, and when.
    pub what: String,
    /// The command, or the line of the broker's configuration, that mends it.
    pub mend: String,
}

impl Warning {
    pub(super) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }
}

/// Connects to a broker and looks at its settings. Later the connection comes back by itself. Where the address names a
/// spool, what is published waits there until the broker has it.
///
/// # Errors
/// [`QueueError::Unreachable`], [`QueueError::Refused`], [`QueueError::NotBuilt`] when this build cannot speak
/// with brokers of that kind, and those of reading credentials and of opening the spool.
///
/// # Cancel safety
/// It is not connected then.
pub async fn connect(address: &BrokerAddress) -> Result<Arc<dyn Server>, QueueError> {
    let broker = dial(address).await?;
    match address.spool() {
        Some(folder) => {
            let disk = EmbeddedQueue::open(folder, QueueLimits::default()).await?;
            Ok(Arc::new(SpooledQueue::new(disk, broker).await?))
        }
        None => Ok(broker),
    }
}

/// Connects to the broker itself.
async fn dial(address: &BrokerAddress) -> Result<Arc<dyn Server>, QueueError> {
    match address.kind() {
        #[cfg(feature = "amqp")]
        super::BrokerKind::Amqp => Ok(Arc::new(super::AmqpQueue::connect(address).await?)),
        #[cfg(feature = "kafka")]
        super::BrokerKind::Kafka => Ok(Arc::new(super::KafkaQueue::connect(address).await?)),
        #[cfg(feature = "mqtt")]
        super::BrokerKind::Mqtt => Ok(Arc::new(super::MqttQueue::connect(address).await?)),
        #[cfg(feature = "nats")]
        super::BrokerKind::Nats => Ok(Arc::new(super::NatsQueue::connect(address).await?)),
        #[cfg(feature = "redis")]
        super::BrokerKind::Redis => Ok(Arc::new(super::RedisQueue::connect(address).await?)),
        #[allow(unreachable_patterns, reason = "a build with all kinds has no other")]
        kind => Err(QueueError::NotBuilt(kind.name())),
    }
}

/// Refuses what no broker is given; when the message ends, in milliseconds since the Unix epoch.
pub(super) fn admit(message: &Publish) -> Result<u64, QueueError> {
    let bytes = message.bytes.len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(QueueError::TooLarge { bytes, bytes_max: MESSAGE_BYTES_MAX });
    }
    if message.ttl.is_zero() {
        return Err(QueueError::Expired);
    }
    Ok(unix_millis().saturating_add(message.ttl.min(LIFETIME).as_millis() as u64))
}

/// Milliseconds since the Unix epoch.
pub(super) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Pauses between attempts to connect: each twice the one before, with jitter, so that those who lost a
/// broker together do not come back together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    /// Short, so that messages flow soon after a broker is back.
    const LAST: Duration = Duration::from_secs(1);

    pub(super) const fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The next pause, ±50 %.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LAST);
        // Without randomness the pauses are still right, only not spread.
        let jitter = getrandom::u32().map_or(500, |random| random % 1001);
        pause * (500 + jitter) / 1000
    }

    /// The pause before the attempt of this number.
    #[cfg(feature = "nats")]
    pub(super) fn pause_before(attempt: usize) -> Duration {
        let mut backoff = Self((Self::FIRST * (1 << attempt.min(8))).min(Self::LAST));
        backoff.pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_last_and_are_jittered() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= Backoff::FIRST / 2 && pauses[0] <= Backoff::FIRST * 3 / 2, "{pauses:?}");
        assert!(
            pauses[10..].iter().all(|pause| *pause >= Backoff::LAST / 2 && *pause <= Backoff::LAST * 3 / 2)
        );
        assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]), "{pauses:?}");
    }
}
