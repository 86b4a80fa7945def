//! The one time value this crate is given. It never reads a clock itself.

use std::time::Duration;

/// The driver's clocks at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// Since any fixed point; never runs backwards. Timers and ages are measured with it.
    pub mono: Duration,
    /// Seconds since the Unix epoch. Validity windows of identities are judged by it.
    pub unix: u64,
}

/// How patient a channel is: over live connections, or over queues whose brokers may delay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Profile {
    /// Handshake 30 s; ages 1 h (soft) and 2 h (hard).
    #[default]
    Live,
    /// Handshake 600 s; ages 24 h and 48 h.
    Queue,
}

impl Profile {
    /// How long a handshake may take, the confirmation included.
    #[must_use]
    pub fn handshake(self) -> Duration {
        Duration::from_secs(match self {
            Self::Live => 30,
            Self::Queue => 600,
        })
    }

    /// The age at which a new handshake is wanted.
    #[must_use]
    pub fn soft_age(self) -> Duration {
        Duration::from_secs(match self {
            Self::Live => 3_600,
            Self::Queue => 24 * 3_600,
        })
    }

    /// The age at which the channel closes.
    #[must_use]
    pub fn hard_age(self) -> Duration {
        2 * self.soft_age()
    }
}
