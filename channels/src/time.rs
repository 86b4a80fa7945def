//! What this crate knows of time: the one value it is given, and how long things may last.
//!
//! It never reads a clock itself.
//!
//! Specification: docs/protocol.md §3.3, §3.4.

use std::time::Duration;

/// The driver's clocks at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// Since any fixed point; never runs backwards. Timers and ages are measured with it.
    pub mono: Duration,
    /// Seconds since the Unix epoch. Validity windows of identities are judged by it.
    pub unix: u64,
}

/// How patient a channel is, and how long its keys and it itself last.
///
/// Both ends keep their own: only what each does by itself depends on it, nothing that goes on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profile {
    /// A handshake, its confirmation included.
    pub handshake: Duration,
    /// Sending under one record key; the next is taken at the first record after this time, and every 65 536 records.
    pub key_age: Duration,
    /// Keeping the record key before the current one, to open late records.
    pub previous_key: Duration,
    /// Sending nothing before a KEEPALIVE. Less than a third of the peer's `idle`, so that one may be lost.
    pub keepalive: Duration,
    /// Hearing nothing authentic before the channel closes.
    pub idle: Duration,
    /// Sending without hearing anything authentic before a new handshake is wanted. More than the peer's `keepalive`.
    pub unanswered: Duration,
    /// As `unanswered`, once there is reason to think that the peer lost the channel: the connection below was lost.
    pub suspected: Duration,
    /// Between two attempts at a new handshake.
    pub renew_again: Duration,
    /// The age at which a new handshake is wanted.
    pub soft_age: Duration,
    /// The bytes sealed, with everything around them, after which one is wanted.
    pub soft_bytes: u64,
    /// The age at which the channel closes.
    pub hard_age: Duration,
    /// How long a replaced channel still takes what was under way.
    pub drain: Duration,
}

impl Profile {
    /// For live connections: the times of docs/protocol.md §3.4.
    #[must_use]
    pub fn live() -> Self {
        Self {
            handshake: Duration::from_secs(30),
            key_age: Duration::from_secs(120),
            previous_key: Duration::from_secs(60),
            keepalive: Duration::from_secs(75),
            idle: Duration::from_secs(300),
            unanswered: Duration::from_secs(120),
            suspected: Duration::from_secs(5),
            renew_again: Duration::from_secs(30),
            soft_age: Duration::from_secs(3_600),
            soft_bytes: 1 << 40,
            hard_age: Duration::from_secs(7_200),
            drain: Duration::from_secs(60),
        }
    }

    /// For queues whose brokers may delay: a handshake of 600 s, ages of 24 h and 48 h.
    #[must_use]
    pub fn queue() -> Self {
        Self {
            handshake: Duration::from_secs(600),
            soft_age: Duration::from_secs(24 * 3_600),
            hard_age: Duration::from_secs(48 * 3_600),
            ..Self::live()
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::live()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_profile_is_patient_where_brokers_delay_and_nowhere_else() {
        let (live, queue) = (Profile::live(), Profile::queue());
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        assert_eq!((live.handshake, queue.handshake), (Duration::from_secs(30), Duration::from_secs(600)));
        assert_eq!((live.soft_age, queue.soft_age), (hours(1), hours(24)));
        assert_eq!((live.hard_age, queue.hard_age), (hours(2), hours(48)));
        // Within one key and one silence, a queue's channel is as strict.
        let as_live =
            Profile { handshake: live.handshake, soft_age: live.soft_age, hard_age: live.hard_age, ..queue };
        assert_eq!(as_live, live);
    }
}
