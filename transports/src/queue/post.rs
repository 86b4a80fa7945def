//! The bounds of routes through queues.
//!
//! Specification: docs/protocol.md §2.3.

use std::time::Duration;

/// The bounds of routes through queues; each is documented with its default.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostLimits {
    /// How long a message without a time to live of its own may wait in a queue, by default 7 days.
    pub ttl: Duration,
    /// Bytes that wait to be published to one mailbox, by default 256 KiB; a larger message enters an
    /// empty queue.
    pub send_bytes: usize,
    /// Deliveries of one mailbox that are not settled yet, by default 256.
    pub prefetch: usize,
    /// Identifiers of messages that a mailbox remembers, so as not to take one twice; by default 4,096.
    pub remembered: usize,
    /// A connection to a mailbox is closed after this long without traffic, by default 10 min (to a tenth
    /// more); answers that come later find nobody.
    pub idle: Duration,
    /// Mailboxes that messages may have dialled at once, by default 1,024.
    pub dialled: usize,
    /// Senders of one mailbox that can be answered at once, by default 4,096; one more ends the one that
    /// was silent longest.
    pub correspondents: usize,
    /// The first pause while a broker cannot be reached, by default 0.25 s; it doubles, ±50 % jitter.
    pub retry_first: Duration,
    /// The longest such pause, by default 30 s before jitter.
    pub retry_last: Duration,
}

impl Default for PostLimits {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(7 * 24 * 3600),
            send_bytes: 256 * 1024,
            prefetch: 256,
            remembered: 4096,
            idle: Duration::from_secs(600),
            dialled: 1024,
            correspondents: 4096,
            retry_first: Duration::from_millis(250),
            retry_last: Duration::from_secs(30),
        }
    }
}
