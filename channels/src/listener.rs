//! The listener's table: which first messages become handshakes, and which are answered with a cookie or nothing.
//!
//! Most of it happens before anybody has proved anything, so everything is bounded: half-open handshakes in all and
//! per flow, new ones per second, the bytes sent for the bytes received, and in the end the channels. A cookie proves
//! a return route on one flow and nothing else, and asking for one leaves no state.
//!
//! Specification: docs/protocol.md §3.2, §3.4 ("DoS at the responder").

mod cookie;
mod rate;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use onward_keys::hash;
use zeroize::Zeroizing;

use crate::handshake::message::{Body, Cookie, Message, second_bytes};
use crate::handshake::{AMPLIFICATION_MAX, HandshakeConfig, Responder, Terms, check_config};
use crate::listener::cookie::CookieKeys;
use crate::listener::rate::Rates;
use crate::mode::{Mode, Suite};
use crate::random::SeededRandom;
use crate::{ChannelError, Now};

/// What a listener accepts and how much it carries.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Which (mode, suite) pairs are answered at all.
    pub allowed: BTreeSet<(Mode, Suite)>,
    /// Half-open handshakes in all.
    pub half_open_max: usize,
    /// Half-open handshakes of one flow.
    pub half_open_per_flow_max: usize,
    /// Half-open handshakes in all from which on only a cookie opens another.
    pub half_open_cookie: usize,
    /// Half-open handshakes of one flow from which on only a cookie opens another.
    pub half_open_per_flow_cookie: usize,
    /// New handshakes of one flow per second without a cookie, on average.
    pub new_per_second: u32,
    /// New handshakes of one flow at once without a cookie.
    pub new_burst: u32,
    /// Channels at once, counting those that were replaced until they are drained. One that replaces another is
    /// always taken.
    pub open_max: usize,
}

/// A first message as the driver received it.
#[derive(Clone, Copy, Debug)]
pub struct FirstMessage<'a> {
    /// The ingress flow it came by.
    pub flow: u128,
    /// `ret[1]` of the message that carried it, encoded; empty if there is none. Tells apart the senders behind one
    /// flow as far as anything does.
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
        /// A handshake that made room and must be dropped; it needs no [`HandshakeTable::ended`].
        evicted: Option<HandshakeId>,
    },
    /// It repeats the first message of this handshake: hand it on as [`crate::Input::Packet`]. What is then
    /// transmitted goes along the return route of this copy.
    Repeated(HandshakeId),
}

/// The handshakes of one listener, half-open and established.
pub struct HandshakeTable {
    config: Arc<HandshakeConfig>,
    limits: ListenerLimits,
    cookies: CookieKeys,
    rates: Rates,
    next: u64,
    /// By age: ids only grow.
    half_open: BTreeMap<HandshakeId, HalfOpen>,
    per_flow: HashMap<u128, usize>,
    /// Half-open and established ones.
    attempts: HashMap<Attempt, HandshakeId>,
    established: HashMap<HandshakeId, Attempt>,
    refused: u64,
}

/// A handshake attempt as its first message names it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Attempt {
    flow: u128,
    hsid: [u8; 16],
}

struct HalfOpen {
    attempt: Attempt,
    /// H of `ret[1]`.
    behind: [u8; 32],
    /// H of the first message without its cookie: identical copies are answered again, others are dropped.
    first: [u8; 32],
    with_cookie: bool,
}

impl HandshakeTable {
    /// An empty table.
    ///
    /// # Errors
    /// [`ChannelError::Misuse`] for an `app` or a payload that is too long.
    pub fn new(config: Arc<HandshakeConfig>, limits: ListenerLimits) -> Result<Self, ChannelError> {
        check_config(&config)?;
        Ok(Self {
            rates: Rates::new(limits.new_per_second, limits.new_burst),
            config,
            limits,
            cookies: CookieKeys::default(),
            next: 0,
            half_open: BTreeMap::new(),
            per_flow: HashMap::new(),
            attempts: HashMap::new(),
            established: HashMap::new(),
            refused: 0,
        })
    }

    /// Answers from now on with `config`: a renewed attestation, another policy. Handshakes under way keep theirs.
    ///
    /// # Errors
    /// As [`Self::new`]; nothing has changed then.
    pub fn reconfigure(&mut self, config: Arc<HandshakeConfig>) -> Result<(), ChannelError> {
        check_config(&config)?;
        self.config = config;
        Ok(())
    }

    /// Judges one first message. `random` is 32 fresh random bytes, used for nothing else.
    pub fn receive(&mut self, now: Now, message: FirstMessage<'_>, random: [u8; 32]) -> Verdict {
        let FirstMessage { flow, behind, packet } = message;
        let Some(Message { terms, body: Body::First { cookie, noise } }) = Message::decode(packet) else {
            return Verdict::Drop;
        };
        let answered = self.limits.allowed.contains(&(terms.mode, terms.suite))
            && terms.mode.first_lengths().contains(&noise.len());
        if !answered {
            return Verdict::Drop;
        }
        let attempt = Attempt { flow, hsid: terms.hsid };
        if let Some(&id) = self.attempts.get(&attempt) {
            let repeated =
                self.half_open.get(&id).is_some_and(|known| known.first == first_hash(&terms, noise));
            return if repeated { Verdict::Repeated(id) } else { Verdict::Drop };
        }
        // After the attempts: a handshake under way has spent its ticket already.
        if !self.config.bases.has(terms.mode, terms.pskid.as_ref()) {
            return Verdict::Drop;
        }
        let mut random = SeededRandom::new(&Zeroizing::new(random));
        self.cookies.rotate(now, &mut random);
        let with_cookie =
            cookie.is_some_and(|cookie| self.cookies.verify(&cookie, attempt.hsid, noise, flow));
        if !with_cookie
            && (self.is_busy(flow) || self.would_amplify(terms.mode, packet) || !self.rates.take(now, flow))
        {
            return self.retry(terms, noise, flow);
        }
        let entry = HalfOpen { attempt, behind: hash(behind), first: first_hash(&terms, noise), with_cookie };
        let seed = Zeroizing::new(random.bytes());
        let config = Arc::clone(&self.config);
        let Some(responder) = Responder::new(now, config, terms, noise, &seed) else {
            return Verdict::Drop;
        };
        let evicted = self.make_room(flow);
        let id = self.insert(entry);
        Verdict::Accept { id, responder: Box::new(responder), evicted }
    }

    /// Takes a place for a channel of its own, which then counts as [`Self::established`]; `false` if there is none.
    pub fn admit(&mut self, id: HandshakeId) -> bool {
        let has_place = self.established.len() < self.limits.open_max;
        if has_place {
            self.established(id);
        } else {
            self.refused += 1;
        }
        has_place
    }

    /// The handshake is ready: it no longer counts as half-open, and its first message stays refused until
    /// [`Self::ended`].
    pub fn established(&mut self, id: HandshakeId) {
        if let Some(entry) = self.forget_half_open(id) {
            self.established.insert(id, entry.attempt);
        }
    }

    /// The handshake failed, or its channel is closed.
    pub fn ended(&mut self, id: HandshakeId) {
        let attempt = match self.forget_half_open(id) {
            Some(entry) => Some(entry.attempt),
            None => self.established.remove(&id),
        };
        if let Some(attempt) = attempt {
            self.attempts.remove(&attempt);
        }
    }

    /// Half-open handshakes in all.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Channels that have a place, and replaced ones until they are drained.
    #[must_use]
    pub fn open(&self) -> usize {
        self.established.len()
    }

    /// Channels that had no place, since the beginning.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// A hash of everything the table keeps, for tests: a first message that is refused or only asked for a cookie
    /// must leave it as it was.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let counts = [self.per_flow.len(), self.attempts.len(), self.established.len(), self.rates.flows()];
        let mut hasher = DefaultHasher::new();
        counts.hash(&mut hasher);
        for (id, entry) in &self.half_open {
            (id, entry.attempt, entry.behind, entry.first, entry.with_cookie).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn is_busy(&self, flow: u128) -> bool {
        self.half_open.len() >= self.limits.half_open_cookie
            || self.half_open_of(flow) >= self.limits.half_open_per_flow_cookie
    }

    fn half_open_of(&self, flow: u128) -> usize {
        self.per_flow.get(&flow).copied().unwrap_or(0)
    }

    /// Whether the second message would exceed three times what has come.
    fn would_amplify(&self, mode: Mode, packet: &[u8]) -> bool {
        let [_, empty, _] = mode.message_bytes();
        let payload = if mode.shows_identities() { self.config.local.payload.len() } else { 0 };
        second_bytes(mode, empty + payload) > AMPLIFICATION_MAX * packet.len()
    }

    fn retry(&self, terms: Terms, noise: &[u8], flow: u128) -> Verdict {
        match self.cookies.make(terms.hsid, noise, flow) {
            Some(cookie) => Verdict::Retry(Message { terms, body: Body::Retry { cookie } }.encode()),
            None => Verdict::Drop,
        }
    }

    /// Evicts one handshake if another of `flow` would exceed a cap.
    fn make_room(&mut self, flow: u128) -> Option<HandshakeId> {
        let only_flow = self.half_open_of(flow) >= self.limits.half_open_per_flow_max;
        if !only_flow && self.half_open.len() < self.limits.half_open_max {
            return None;
        }
        let victim = self.victim(only_flow.then_some(flow))?;
        self.ended(victim);
        Some(victim)
    }

    /// The oldest without a cookie; if all have one, the oldest of the sender behind a flow that holds most, and
    /// among equals of the flow that holds most.
    fn victim(&self, flow: Option<u128>) -> Option<HandshakeId> {
        let candidates = || {
            self.half_open.iter().filter(move |(_, entry)| flow.is_none_or(|flow| entry.attempt.flow == flow))
        };
        if let Some((id, _)) = candidates().find(|(_, entry)| !entry.with_cookie) {
            return Some(*id);
        }
        let mut senders: HashMap<(u128, [u8; 32]), (usize, HandshakeId)> = HashMap::new();
        for (id, entry) in candidates() {
            senders.entry((entry.attempt.flow, entry.behind)).or_insert((0, *id)).0 += 1;
        }
        senders
            .into_iter()
            .max_by_key(|((flow, _), (held, oldest))| {
                (*held, self.half_open_of(*flow), std::cmp::Reverse(*oldest))
            })
            .map(|(_, (_, oldest))| oldest)
    }

    fn insert(&mut self, entry: HalfOpen) -> HandshakeId {
        let id = HandshakeId(self.next);
        self.next += 1;
        *self.per_flow.entry(entry.attempt.flow).or_insert(0) += 1;
        self.attempts.insert(entry.attempt, id);
        self.half_open.insert(id, entry);
        id
    }

    fn forget_half_open(&mut self, id: HandshakeId) -> Option<HalfOpen> {
        let entry = self.half_open.remove(&id)?;
        if let Some(held) = self.per_flow.get_mut(&entry.attempt.flow) {
            *held -= 1;
            if *held == 0 {
                self.per_flow.remove(&entry.attempt.flow);
            }
        }
        Some(entry)
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
            open_max: 16_384,
        }
    }
}

impl fmt::Debug for HandshakeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeTable")
            .field("limits", &self.limits)
            .field("half_open", &self.half_open.len())
            .field("established", &self.established.len())
            .finish_non_exhaustive()
    }
}

/// H of the first message without its cookie.
fn first_hash(terms: &Terms, noise: &[u8]) -> [u8; 32] {
    let cookie: Option<Cookie> = None;
    hash(&Message { terms: terms.clone(), body: Body::First { cookie, noise } }.encode())
}
