//! The listener's table: which first messages become handshakes, and which are answered with a cookie or nothing.
//!
//! Everything here happens before anybody has proved anything, so everything is bounded: half-open handshakes in
//! all and per flow, new ones per second, and the bytes sent for the bytes received. A cookie proves a return route
//! on one flow and nothing else.
//!
//! Specification: docs/protocol.md §3.2, §3.4 ("DoS at the responder").

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Now;
use crate::handshake::{HandshakeConfig, Responder};
use crate::mode::{Mode, Suite};

/// What a listener accepts and how much it carries.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Which (mode, suite) pairs are answered at all.
    pub allowed: BTreeSet<(Mode, Suite)>,
    /// Half-open handshakes in all.
    pub half_open_max: usize,
    /// Half-open handshakes of one flow.
    pub half_open_per_flow_max: usize,
    /// Half-open handshakes in all above which only a cookie opens another.
    pub half_open_cookie: usize,
    /// Half-open handshakes of one flow above which only a cookie opens another.
    pub half_open_per_flow_cookie: usize,
    /// New handshakes of one flow per second, on average, without a cookie.
    pub new_per_second: u32,
    /// New handshakes of one flow at once, without a cookie.
    pub new_burst: u32,
}

/// A first message as the driver received it.
#[derive(Clone, Copy, Debug)]
pub struct FirstMessage<'a> {
    /// The ingress flow it came by.
    pub flow: u128,
    /// The encoded address behind the ingress' own in its return route, `ret[1]`; empty if there is none.
    pub behind: &'a [u8],
    /// The packet.
    pub packet: &'a [u8],
}

/// Names a handshake of one listener.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HandshakeId(u64);

/// What a driver does with a first message.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing, silently.
    Drop,
    /// Send these bytes along the message's return route, with an empty return route.
    Retry(Vec<u8>),
    /// Make a session address for this handshake, and poll it.
    Accept {
        /// Tell the listener under this name what becomes of it.
        id: HandshakeId,
        /// The new handshake.
        responder: Box<Responder>,
        /// A handshake that made room and must be dropped.
        evicted: Option<HandshakeId>,
    },
    /// It repeats the first message of this handshake: hand it on as [`crate::Input::Packet`]; what is transmitted goes along the
    /// return route of this copy.
    Repeated(HandshakeId),
}

/// The table of one listener.
pub struct Listener {
    config: Arc<HandshakeConfig>,
    limits: ListenerLimits,
    entries: HashMap<HandshakeId, Entry>,
}

struct Entry {}

impl Listener {
    /// A listener that accepts nothing yet; `secret` keys its cookies.
    #[must_use]
    pub fn new(config: Arc<HandshakeConfig>, limits: ListenerLimits) -> Self {
        Self { config, limits, entries: HashMap::new() }
    }

    /// Judges one first message. `random` is 32 fresh random bytes, used only if a handshake or a cookie key is made.
    pub fn receive(&mut self, now: Now, message: FirstMessage<'_>, random: [u8; 32]) -> Verdict {
        let _ = (now, message, random);
        Verdict::Drop
    }

    /// The handshake is ready: it no longer counts as half-open, and its first message stays refused.
    pub fn established(&mut self, id: HandshakeId) {
        let _ = id;
    }

    /// The handshake failed, or its channel is closed.
    pub fn ended(&mut self, id: HandshakeId) {
        self.entries.remove(&id);
    }
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            allowed: BTreeSet::from([(Mode::HybridXx, Suite::ChaChaPoly), (Mode::HybridXx, Suite::AesGcm)]),
            half_open_max: 1024,
            half_open_per_flow_max: 32,
            half_open_cookie: 512,
            half_open_per_flow_cookie: 16,
            new_per_second: 200,
            new_burst: 400,
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// One cookie key is used this long, and accepted this long again.
const COOKIE_EPOCH: Duration = Duration::from_secs(120);
