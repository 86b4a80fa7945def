//! The peers of one socket: how they come to be, move, fall silent and go. A value: time, randomness
//! and datagrams are arguments, and what has to be sent or known comes out of [`Endpoint::poll`].
//!
//! Nothing is kept for an address before it has shown that it receives what is sent to it, and until
//! then it is sent no more than it sent. Nothing here authenticates anybody: whoever sees a peer's
//! datagrams on their way can send in its name, which is what the channels above are for.
//!
//! After every call of a method that takes `&mut self`, poll until there is nothing.
//!
//! Specification: docs/protocol.md §2.2.

pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::counters::DatagramCounters;
use super::datagram::{Cid, Datagram, Piece, Probe, Token};
use super::reassembly::{Bounds, Reassembly, Taken};
use super::token::Tokens;
use crate::limits::{DatagramLimits, source};

/// The first pause between two INITs, and the longest; it doubles.
const INIT_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// After so many unanswered INITs with one token another is asked for: the listener may have restarted.
const TOKEN_TRIES: u32 = 3;
/// How often a silent peer is asked whether it is there, and how many times before a handshake asks.
const PROBE_PAUSE: Duration = Duration::from_millis(500);
const PROBES: u32 = 4;
/// A CLOSE is believed after this long without anything else from the peer.
const CLOSE_SILENCE: Duration = Duration::from_secs(3);
/// How long a new address of a peer may take to answer before another one is asked, and how often it
/// is asked meanwhile.
const MOVE_TIME: Duration = Duration::from_secs(1);
const MOVE_PAUSE: Duration = Duration::from_millis(200);
/// What an address that has shown nothing may be sent, as a multiple of what came from it.
const AMPLIFICATION_MAX: usize = 3;
/// Deadlines are kept to within this.
const GRANULARITY: Duration = Duration::from_millis(20);

/// What is to be done.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Output {
    /// Send this datagram.
    Transmit { to: SocketAddr, bytes: Vec<u8> },
    /// Somebody has become a peer.
    Accepted(Cid),
    /// A peer that was dialled has answered.
    Connected(Cid),
    /// A peer that was dialled does not know what was before: it has restarted, most likely.
    Renewed(Cid),
    /// A peer is gone and forgotten.
    Gone(Cid),
}

/// What a datagram brought besides outputs.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Received<'a> {
    Nothing,
    /// A message in one datagram.
    Message(Cid, &'a [u8]),
    /// A message that came in several.
    Whole(Cid, Vec<u8>),
}

/// Where messages for a peer go.
pub(crate) struct Way<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) cid: Cid,
    next: &'a mut u32,
}

impl Way<'_> {
    /// The number of the next message.
    pub(crate) fn number(&mut self) -> u32 {
        let number = *self.next;
        *self.next = number.wrapping_add(1);
        number
    }
}

/// The peers of one socket.
pub(crate) struct Endpoint {
    limits: DatagramLimits,
    counters: Arc<DatagramCounters>,
    is_listening: bool,
    tokens: Tokens,
    /// By ids that were chosen here, so that a fast hash is enough.
    peers: HashMap<Cid, Peer, RandomState>,
    /// Accepted peers by where they are and what they call themselves.
    accepted: HashMap<(SocketAddr, Cid), Cid>,
    per_ip: HashMap<IpAddr, usize>,
    reassembly: Reassembly,
    outputs: VecDeque<Output>,
    due: Duration,
}

struct Peer {
    address: SocketAddr,
    role: Role,
    /// The number of the next message to it, and the newest of its own.
    next: u32,
    newest: Option<u32>,
    /// When something came from its address last, and when something was sent there.
    heard: Duration,
    sent: Duration,
    /// When the first message left that nothing came after.
    unanswered: Option<Duration>,
    /// It said at this time that it goes.
    closing: Option<Duration>,
    /// Where it may have moved to.
    moving: Option<Move>,
}

enum Role {
    /// This end dialled.
    Initiator {
        /// The responder's id, once it has answered.
        responder: Option<Cid>,
        init: Option<Init>,
        asking: Option<Asking>,
    },
    /// The peer dialled. `counted` is the address it is counted at.
    Responder { initiator: Cid, counted: IpAddr },
}

/// An INIT that is sent again and again.
struct Init {
    began: Duration,
    next: Duration,
    pause: Duration,
    token: Option<Token>,
    tries: u32,
    /// A challenge has been taken since the last INIT.
    is_challenged: bool,
}

/// A silent responder that is asked whether it is there.
struct Asking {
    probe: Probe,
    next: Duration,
    asked: u32,
}

/// An address that a known peer's datagrams come from, and that has not shown yet that it receives.
struct Move {
    address: SocketAddr,
    began: Duration,
    asked: Option<Duration>,
    probe: Probe,
    received: usize,
    sent: usize,
}

impl Endpoint {
    /// An endpoint without peers that does not listen. `random` gives 128 random bits at each call.
    pub(crate) fn new(
        limits: DatagramLimits,
        counters: Arc<DatagramCounters>,
        now: Duration,
        random: &mut dyn FnMut() -> u128,
    ) -> Self {
        let bounds = Bounds {
            peer_bytes: limits.reassembly_peer_bytes,
            bytes: limits.reassembly_all_bytes,
            time: limits.reassembly,
        };
        Self {
            counters,
            is_listening: false,
            tokens: Tokens::new(now, random),
            peers: HashMap::default(),
            accepted: HashMap::new(),
            per_ip: HashMap::new(),
            reassembly: Reassembly::new(bounds),
            outputs: VecDeque::new(),
            due: now,
            limits,
        }
    }

    /// Takes new peers, or no more.
    pub(crate) fn listen(&mut self, on: bool) {
        self.is_listening = on;
    }

    /// Starts to ask for a peer at `address`, which will send to `own`. An earlier peer of that id is
    /// forgotten; whether it was one still, the other end says by the id that it answers with.
    pub(crate) fn dial(&mut self, now: Duration, own: Cid, address: SocketAddr) {
        self.forget(own);
        let mut init = Init::new(now);
        self.outputs.push_back(Output::Transmit { to: address, bytes: init.send(now, own) });
        self.due = self.due.min(init.next);
        let role = Role::Initiator { responder: None, init: Some(init), asking: None };
        self.peers.insert(own, Peer::new(now, address, role));
    }

    /// Tells a peer that it will hear nothing more, and forgets it.
    pub(crate) fn close(&mut self, cid: Cid) {
        if let Some(peer) = self.peers.get(&cid)
            && let Some(to) = peer.remote()
        {
            self.outputs.push_back(transmit(peer.address, Datagram::Close { to }));
        }
        self.forget(cid);
    }

    /// Forgets a peer and everything of it.
    pub(crate) fn forget(&mut self, cid: Cid) {
        let Some(peer) = self.peers.remove(&cid) else { return };
        self.reassembly.forget(cid);
        if let Role::Responder { initiator, counted } = peer.role {
            self.accepted.remove(&(peer.address, initiator));
            if let Some(count) = self.per_ip.get_mut(&counted) {
                *count -= 1;
                if *count == 0 {
                    self.per_ip.remove(&counted);
                }
            }
        }
    }

    /// Where messages that leave now go; `None` for a peer that is not connected.
    pub(crate) fn send(&mut self, now: Duration, cid: Cid) -> Option<Way<'_>> {
        let peer = self.peers.get_mut(&cid)?;
        let remote = peer.remote()?;
        peer.sent = now;
        if peer.unanswered.is_none() {
            peer.unanswered = Some(now);
            if matches!(peer.role, Role::Initiator { .. }) {
                self.due = self.due.min(now + self.limits.probe);
            }
        }
        Some(Way { address: peer.address, cid: remote, next: &mut peer.next })
    }

    /// Takes what came as one datagram.
    pub(crate) fn receive<'a>(
        &mut self,
        now: Duration,
        from: SocketAddr,
        bytes: &'a [u8],
        random: &mut dyn FnMut() -> u128,
    ) -> Received<'a> {
        let Some(datagram) = Datagram::decode(bytes) else {
            self.counters.malformed.fetch_add(1, Relaxed);
            return Received::Nothing;
        };
        match datagram {
            Datagram::Data { to, piece } => return self.data(now, from, to, piece, bytes.len(), random),
            Datagram::Init { initiator, token } => self.init(now, from, initiator, token, random),
            Datagram::Challenge { to, token } => self.challenged(now, from, to, token),
            Datagram::Accept { to, responder } => self.answered(now, from, to, responder),
            Datagram::PathChallenge { to, probe } => {
                let Some(peer) = self.known(to) else { return Received::Nothing };
                let Some(remote) = peer.remote() else { return Received::Nothing };
                // As long as what came, and to where it came from: nobody is sent more by it.
                let answer = transmit(from, Datagram::PathResponse { to: remote, probe });
                self.outputs.push_back(answer);
                self.came(now, from, to, bytes.len(), true, random);
            }
            Datagram::PathResponse { to, probe } => self.path_answered(now, from, to, probe),
            Datagram::Close { to } => {
                if let Some(peer) = self.known(to).filter(|peer| peer.address == from) {
                    peer.closing.get_or_insert(now);
                    self.due = self.due.min(now + CLOSE_SILENCE);
                }
            }
        }
        Received::Nothing
    }

    /// What is to be done next, if anything is.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Endpoint::tick`] has something to do.
    pub(crate) fn due(&self) -> Duration {
        self.due
    }

    /// Does what its time has come for.
    pub(crate) fn tick(&mut self, now: Duration, random: &mut dyn FnMut() -> u128) {
        self.due = Duration::MAX;
        self.reassembly.expire(now);
        if !self.reassembly.is_empty() {
            self.due = now + self.limits.reassembly;
        }
        let cids: Vec<Cid> = self.peers.keys().copied().collect();
        for cid in cids {
            self.tick_peer(now, cid, random);
        }
        self.due = self.due.max(now + GRANULARITY);
    }

    fn known(&mut self, cid: Cid) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&cid);
        if peer.is_none() {
            self.counters.unknown.fetch_add(1, Relaxed);
        }
        peer
    }

    fn data<'a>(
        &mut self,
        now: Duration,
        from: SocketAddr,
        to: Cid,
        piece: Piece<'a>,
        length: usize,
        random: &mut dyn FnMut() -> u128,
    ) -> Received<'a> {
        let Some(peer) = self.known(to) else { return Received::Nothing };
        if peer.remote().is_none() {
            return Received::Nothing;
        }
        // Only what is newer than all before it may show that a peer has moved: what was under way when
        // it did comes from its old address still.
        let is_newest = peer.newest.is_none_or(|newest| piece.message.wrapping_sub(newest).cast_signed() > 0);
        if is_newest {
            peer.newest = Some(piece.message);
        }
        self.came(now, from, to, length, is_newest, random);
        if piece.count == 1 {
            return Received::Message(to, piece.bytes);
        }
        self.due = self.due.min(now + self.limits.reassembly);
        match self.reassembly.push(now, to, piece) {
            Taken::Kept => Received::Nothing,
            Taken::Whole(message) => Received::Whole(to, message),
            Taken::Contradicts => {
                self.counters.contradictions.fetch_add(1, Relaxed);
                Received::Nothing
            }
        }
    }

    /// Notes that something came from a connected peer; asks a new address of it whether it receives.
    fn came(
        &mut self,
        now: Duration,
        from: SocketAddr,
        cid: Cid,
        length: usize,
        is_newest: bool,
        random: &mut dyn FnMut() -> u128,
    ) {
        let Some(peer) = self.peers.get_mut(&cid) else { return };
        if peer.address == from {
            return peer.hear(now);
        }
        let Some(to) = peer.remote() else { return };
        let may_ask = peer.moving.as_ref().is_none_or(|moving| now >= moving.began + MOVE_TIME);
        if peer.moving.as_ref().is_none_or(|moving| moving.address != from) {
            if !is_newest || !may_ask {
                return;
            }
            let probe = random_probe(random);
            peer.moving = Some(Move { address: from, began: now, asked: None, probe, received: 0, sent: 0 });
        }
        let Some(moving) = &mut peer.moving else { return };
        moving.received += length;
        if moving.asked.is_some_and(|asked| now < asked + MOVE_PAUSE) {
            return;
        }
        let question = Datagram::PathChallenge { to, probe: moving.probe }.encode();
        // What answers a PATH_CHALLENGE of its own is counted here as well.
        if moving.sent + 2 * question.len() > AMPLIFICATION_MAX * moving.received {
            return;
        }
        moving.sent += 2 * question.len();
        moving.asked = Some(now);
        self.outputs.push_back(Output::Transmit { to: from, bytes: question });
    }

    fn init(
        &mut self,
        now: Duration,
        from: SocketAddr,
        initiator: Cid,
        token: Option<&Token>,
        random: &mut dyn FnMut() -> u128,
    ) {
        if let Some(own) = self.accepted.get(&(from, initiator)).copied() {
            // The ACCEPT was lost, or the peer wants to know whether it is one still.
            if let Some(peer) = self.peers.get_mut(&own) {
                peer.hear(now);
            }
            return self
                .outputs
                .push_back(transmit(from, Datagram::Accept { to: initiator, responder: own }));
        }
        if !self.is_listening {
            return;
        }
        self.tokens.rotate(now, random);
        let is_shown = match token {
            Some(token) => {
                let holds = self.tokens.verify(now, from, initiator, token);
                if !holds {
                    self.counters.refused_tokens.fetch_add(1, Relaxed);
                }
                holds
            }
            None => false,
        };
        if !is_shown {
            let token = self.tokens.make(now, from, initiator);
            let challenge = Datagram::Challenge { to: initiator, token: &token };
            self.counters.challenges.fetch_add(1, Relaxed);
            return self.outputs.push_back(transmit(from, challenge));
        }
        let ip = source(from.ip());
        let of_ip = self.per_ip.get(&ip).copied().unwrap_or_default();
        let own = Cid::new(random() as u64).filter(|own| !self.peers.contains_key(own));
        let has_place = self.accepted.len() < self.limits.peers && of_ip < self.limits.peers_per_ip;
        let (true, Some(own)) = (has_place, own) else {
            self.counters.refused_peers.fetch_add(1, Relaxed);
            return;
        };
        self.counters.accepted.fetch_add(1, Relaxed);
        self.per_ip.insert(ip, of_ip + 1);
        self.accepted.insert((from, initiator), own);
        self.peers.insert(own, Peer::new(now, from, Role::Responder { initiator, counted: ip }));
        self.due = self.due.min(now + self.limits.idle);
        self.outputs.push_back(Output::Accepted(own));
        self.outputs.push_back(transmit(from, Datagram::Accept { to: initiator, responder: own }));
    }

    fn challenged(&mut self, now: Duration, from: SocketAddr, to: Cid, token: &Token) {
        let Some(peer) = self.known(to).filter(|peer| peer.address == from) else { return };
        let Role::Initiator { init: Some(init), .. } = &mut peer.role else { return };
        // One answer for each INIT: whoever invents challenges does not multiply what he sends.
        if std::mem::replace(&mut init.is_challenged, true) {
            return;
        }
        init.token = Some(*token);
        init.tries = 1;
        peer.sent = now;
        let answer = Datagram::Init { initiator: to, token: Some(token) };
        self.outputs.push_back(transmit(from, answer));
    }

    fn answered(&mut self, now: Duration, from: SocketAddr, to: Cid, new: Cid) {
        let Some(peer) = self.known(to).filter(|peer| peer.address == from) else { return };
        let Role::Initiator { responder, init, asking } = &mut peer.role else { return };
        if init.is_none() && *responder != Some(new) {
            return;
        }
        let known = responder.replace(new);
        (*init, *asking) = (None, None);
        peer.hear(now);
        match known {
            Some(known) if known == new => return,
            Some(_) => {
                // The other end counts its messages anew.
                peer.newest = None;
                self.outputs.push_back(Output::Renewed(to));
            }
            None => self.outputs.push_back(Output::Connected(to)),
        }
        self.due = self.due.min(now + self.limits.keepalive);
    }

    fn path_answered(&mut self, now: Duration, from: SocketAddr, to: Cid, probe: Probe) {
        let Some(peer) = self.known(to) else { return };
        if peer.address == from {
            // Any answer from there will do: all that it says is that the peer lives.
            return peer.hear(now);
        }
        let is_shown =
            peer.moving.as_ref().is_some_and(|moving| moving.address == from && moving.probe == probe);
        if !is_shown {
            return;
        }
        peer.moving = None;
        let (old, initiator) = match peer.role {
            Role::Responder { initiator, .. } => (peer.address, Some(initiator)),
            Role::Initiator { .. } => (peer.address, None),
        };
        if let Some(initiator) = initiator {
            // Two peers with one name at one address would count as one.
            if self.accepted.contains_key(&(from, initiator)) {
                return;
            }
            self.accepted.remove(&(old, initiator));
            self.accepted.insert((from, initiator), to);
        }
        let Some(peer) = self.known(to) else { return };
        peer.address = from;
        peer.hear(now);
        self.counters.moves.fetch_add(1, Relaxed);
    }

    fn tick_peer(&mut self, now: Duration, cid: Cid, random: &mut dyn FnMut() -> u128) {
        let Some(peer) = self.peers.get_mut(&cid) else { return };
        let closes = peer.closing.map_or(Duration::MAX, |said| said + CLOSE_SILENCE);
        let ends = match &peer.role {
            Role::Responder { .. } => closes.min(peer.heard + self.limits.idle),
            Role::Initiator { init: Some(init), responder: Some(_), .. } => {
                closes.min(init.began + self.limits.connect)
            }
            Role::Initiator { .. } => closes,
        };
        if ends <= now {
            self.forget(cid);
            return self.outputs.push_back(Output::Gone(cid));
        }
        self.due = self.due.min(ends);
        let (datagram, due) = match &mut peer.role {
            Role::Responder { .. } => return,
            Role::Initiator { init: Some(init), .. } => {
                let datagram = (init.next <= now).then(|| init.send(now, cid));
                (datagram, init.next)
            }
            Role::Initiator { responder: Some(to), asking: Some(asking), init } => {
                if asking.next > now {
                    (None, asking.next)
                } else if asking.asked < PROBES {
                    asking.asked += 1;
                    asking.next = now + PROBE_PAUSE;
                    let question = Datagram::PathChallenge { to: *to, probe: asking.probe };
                    (Some(question.encode()), asking.next)
                } else {
                    // It does not answer: it may have restarted and not know this peer any more.
                    let init = init.insert(Init::new(now));
                    (Some(init.send(now, cid)), init.next)
                }
            }
            Role::Initiator { responder: Some(to), asking, .. } => {
                let limits = &self.limits;
                let silent = peer.unanswered.map_or(Duration::MAX, |since| since + limits.probe);
                let due = silent.min(peer.heard.min(peer.sent) + limits.keepalive);
                if due > now {
                    (None, due)
                } else {
                    let asking = asking.insert(Asking {
                        probe: random_probe(random),
                        next: now + PROBE_PAUSE,
                        asked: 1,
                    });
                    let question = Datagram::PathChallenge { to: *to, probe: asking.probe };
                    (Some(question.encode()), asking.next)
                }
            }
            // Neither connected nor asking for it: there is no such state.
            Role::Initiator { .. } => return,
        };
        self.due = self.due.min(due);
        if let Some(bytes) = datagram {
            peer.sent = now;
            self.outputs.push_back(Output::Transmit { to: peer.address, bytes });
        }
    }
}

impl Peer {
    fn new(now: Duration, address: SocketAddr, role: Role) -> Self {
        Self {
            address,
            role,
            next: 0,
            newest: None,
            heard: now,
            sent: now,
            unanswered: None,
            closing: None,
            moving: None,
        }
    }

    /// The id that the peer's datagrams are sent to; `None` before it has answered.
    fn remote(&self) -> Option<Cid> {
        match &self.role {
            Role::Initiator { responder, .. } => *responder,
            Role::Responder { initiator, .. } => Some(*initiator),
        }
    }

    /// Something came from the peer's address: it is there.
    fn hear(&mut self, now: Duration) {
        self.heard = now;
        self.unanswered = None;
        self.closing = None;
        if let Role::Initiator { responder: Some(_), init, asking } = &mut self.role {
            (*init, *asking) = (None, None);
        }
    }
}

impl Init {
    fn new(now: Duration) -> Self {
        Self { began: now, next: now, pause: INIT_PAUSES.0, token: None, tries: 0, is_challenged: false }
    }

    /// The INIT whose time has come; plans the next.
    fn send(&mut self, now: Duration, initiator: Cid) -> Vec<u8> {
        if self.tries >= TOKEN_TRIES {
            self.token = None;
        }
        self.tries += 1;
        self.is_challenged = false;
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(INIT_PAUSES.1);
        Datagram::Init { initiator, token: self.token.as_ref() }.encode()
    }
}

fn transmit(to: SocketAddr, datagram: Datagram<'_>) -> Output {
    Output::Transmit { to, bytes: datagram.encode() }
}

fn random_probe(random: &mut dyn FnMut() -> u128) -> Probe {
    (random() as u64).to_be_bytes()
}
