//! An established channel: sealing what goes out, opening what comes in, and when something is due.
//!
//! The two directions share no key and are two values, so that one task may open while another seals. They meet
//! in the [`Pulse`] only: two atomics through which the timers, all kept by the [`Sealer`], learn what was heard.
//! Nothing here decides where bytes go, and a record that is refused leaves no trace but a memoised candidate key.
//!
//! Specification: docs/protocol.md §3.3, §3.4.

mod opener;
mod sealer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onward_keys::{AeadAlgorithm, Backend, SharedSecret};
use subtle::ConstantTimeEq as _;

use crate::Now;
use crate::schedule::Binding;
use crate::time::Profile;

pub use opener::Opener;
pub use sealer::{Due, FragmentPlan, PlannedFragment, Reserved, Sealer};

/// An established channel. Take it apart into its three fields: each may live with another task.
#[derive(Debug)]
pub struct Session {
    /// Seals what this end sends; keeps the channel's timers.
    pub sealer: Sealer,
    /// Opens what this end receives.
    pub opener: Opener,
    /// What both ends derived from the handshake: channel binding and exporter.
    pub binding: Binding,
    /// Tells a repeated last handshake message, which is answered with another CONFIRM.
    pub confirmation: Confirmation,
}

impl Session {
    /// Starts the record layer under the two keys that the handshake gave.
    pub(crate) fn new(start: SessionStart, confirmation: Confirmation) -> Self {
        let SessionStart { now, backend, algorithm, outgoing, incoming, binding, profile, role, padding } =
            start;
        let pulse = Arc::new(Pulse::new(now));
        let sealer =
            Sealer::new(now, backend, algorithm, &outgoing, profile, role, padding, Arc::clone(&pulse));
        let opener = Opener::new(backend, algorithm, &incoming, pulse);
        Self { sealer, opener, binding, confirmation }
    }
}

/// What [`Session::new`] needs.
pub(crate) struct SessionStart {
    pub(crate) now: Now,
    pub(crate) backend: Backend,
    pub(crate) algorithm: AeadAlgorithm,
    pub(crate) outgoing: SharedSecret,
    pub(crate) incoming: SharedSecret,
    pub(crate) binding: Binding,
    pub(crate) profile: Profile,
    pub(crate) role: Role,
    pub(crate) padding: crate::record::Padding,
}

/// Which end of a channel this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// It sent the first message, and alone starts new handshakes.
    Initiator,
    /// It answered.
    Responder,
}

/// What is left of the handshake once a channel is ready: how to tell a repeated third message.
///
/// A responder whose CONFIRM was lost sees its peer's last message again and must confirm again, as a new record.
pub struct Confirmation {
    /// H of the accepted third message; `None` at the initiator, who ignores every later handshake message.
    repeated: Option<[u8; 32]>,
}

impl Confirmation {
    pub(crate) fn of_initiator() -> Self {
        Self { repeated: None }
    }

    pub(crate) fn of_responder(third_message: &[u8]) -> Self {
        Self { repeated: Some(onward_keys::hash(third_message)) }
    }

    /// Whether `packet` is the accepted third message again: answer it with [`Sealer::seal_confirm`], and drop
    /// every other handshake message that reaches a ready channel.
    #[must_use]
    pub fn is_repeated(&self, packet: &[u8]) -> bool {
        self.repeated.is_some_and(|hash| hash.ct_eq(&onward_keys::hash(packet)).into())
    }
}

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repeated: _ } = self;
        f.debug_struct("Confirmation").finish_non_exhaustive()
    }
}

/// What the two directions tell each other: when something authentic was last heard, and whether the opener wants
/// a new handshake.
pub(crate) struct Pulse {
    /// Milliseconds of [`Now::mono`].
    heard: AtomicU64,
    rehandshake: AtomicBool,
}

impl Pulse {
    fn new(now: Now) -> Self {
        Self { heard: AtomicU64::new(millis(now.mono)), rehandshake: AtomicBool::new(false) }
    }

    /// Relaxed: a timer that sees an old value only fires and looks again.
    fn hear(&self, now: Now) {
        self.heard.store(millis(now.mono), Ordering::Relaxed);
    }

    fn heard(&self) -> Duration {
        Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    fn ask_rehandshake(&self) {
        self.rehandshake.store(true, Ordering::Relaxed);
    }

    fn wants_rehandshake(&self) -> bool {
        self.rehandshake.load(Ordering::Relaxed)
    }

    fn forget_rehandshake(&self) {
        self.rehandshake.store(false, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
