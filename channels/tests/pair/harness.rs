//! Two ends of a channel with everything between them in our hands: the clock, the key service, every packet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onward_channels::identity::{
    Identifier, Identity, KnownHistories, Params, Purpose, Trust, channel_payload,
};
use onward_channels::{
    Bases, Basis, ChannelError, Content, Established, Failure, FirstMessage, FrameType, HandshakeConfig,
    HandshakeId, HandshakeTable, Initiator, Input, ListenerLimits, LocalIdentity, Mode, Now, Opening, Output,
    Padding, Profile, Psk, Responder, Role, Session, Suite, Ticket, Tickets, To, Verdict,
};
use onward_keys::{Backend, KeyUsage, PublicHalf, SharedSecret, SoftwareVault, Vault as _};

pub(crate) const SUITES: [Suite; 2] = [Suite::ChaChaPoly, Suite::AesGcm];
pub(crate) const UNIX: u64 = 1_800_000_000;
pub(crate) const FLOW: u128 = 7;

/// Every mode with every suite.
pub(crate) fn all_pairs() -> impl Iterator<Item = (Mode, Suite)> {
    Mode::ALL.into_iter().flat_map(|mode| SUITES.into_iter().map(move |suite| (mode, suite)))
}

/// A moment `milliseconds` after the beginning.
pub(crate) fn at(milliseconds: u64) -> Now {
    Now { mono: Duration::from_millis(milliseconds), unix: UNIX + milliseconds / 1000 }
}

/// Splitmix64: enough to decide which packet is lost.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.roll().to_be_bytes()));
        bytes
    }
}

/// Somebody with an identity and a key service.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) vault: Arc<SoftwareVault>,
    pub(crate) local: Arc<LocalIdentity>,
}

impl Party {
    pub(crate) fn new() -> Self {
        Self::with_window(UNIX - 10, UNIX + 100_000)
    }

    /// With a static key attested from `iat` to `exp`.
    pub(crate) fn with_window(iat: u64, exp: u64) -> Self {
        let vault = Arc::new(SoftwareVault::ephemeral());
        let identity = wait(Identity::create(&*vault, UNIX - 1_000_000, 10_000_000)).unwrap();
        let static_key = wait(vault.generate(KeyUsage::ChannelStatic)).unwrap();
        let PublicHalf::Agree(static_public) = wait(vault.public(static_key)).unwrap() else {
            panic!("a static key is for agreement");
        };
        let attest = identity.attest(&*vault, Purpose::CHANNEL_STATIC, &static_public, iat, exp);
        let attestation = wait(attest).unwrap();
        let payload = channel_payload(&identity, &attestation, &[], &Params::default(), 0).unwrap();
        let identifier = identity.identifier();
        let local = LocalIdentity { identifier, static_key, static_public, payload };
        Self { vault, local: Arc::new(local) }
    }

    pub(crate) fn identifier(&self) -> Identifier {
        self.local.identifier
    }

    pub(crate) fn agree(&self, peer: &[u8; 32]) -> Option<SharedSecret> {
        wait(self.vault.agree(self.local.static_key, peer)).ok()
    }

    /// Accepts `peer` and nobody else.
    pub(crate) fn config(&self, peer: &Party) -> HandshakeConfig {
        HandshakeConfig {
            local: Arc::clone(&self.local),
            trust: Arc::new(Trust::pinned([peer.identifier()])),
            known: Arc::new(RwLock::new(KnownHistories::new(100))),
            bases: Bases::default(),
            // Deterministic: the accelerated KEM has randomness of its own.
            backend: Backend::Portable,
            app: Vec::new(),
            profile: Arc::new(Profile::live()),
            padding: Padding::None,
        }
    }
}

/// What two parties have of each other before a handshake, as its mode needs it.
#[derive(Clone)]
pub(crate) struct Prior {
    mode: Mode,
    alice: Party,
    bob: Party,
    /// Both halves of the ticket of an earlier channel; kept as bytes, to be spent as often as a test likes.
    ticket: Option<(Vec<u8>, Vec<u8>)>,
}

impl Prior {
    pub(crate) fn new(mode: Mode, alice: &Party, bob: &Party) -> Self {
        let ticket = (mode == Mode::Resumption).then(|| {
            let configs = (alice.config(bob), bob.config(alice));
            let (alice, bob) = (alice.clone(), bob.clone());
            let ends = Pair::with(Mode::ClassicalXx, Suite::ChaChaPoly, 3, alice, bob, configs).established();
            let now = at(0);
            let ours = ends.0.ticket(now, ends.1.peer.identifier());
            let theirs = ends.1.ticket(now, ends.0.peer.identifier());
            (ours.to_bytes().to_vec(), theirs.to_bytes().to_vec())
        });
        Self { mode, alice: alice.clone(), bob: bob.clone(), ticket }
    }

    /// Alice's opening of a channel to Bob.
    pub(crate) fn opening(&self, suite: Suite) -> Opening {
        let basis = match self.mode {
            Mode::HybridXxPsk | Mode::ClassicalXxPsk => Basis::Psk(psk()),
            Mode::HybridIk | Mode::ClassicalIk | Mode::Kk => {
                Basis::Introduction(self.bob.local.payload.clone().into())
            }
            Mode::Resumption => {
                let (ours, _) = self.ticket.as_ref().unwrap();
                Basis::Ticket(Box::new(Ticket::from_bytes(ours).unwrap()))
            }
            _ => Basis::Nothing,
        };
        Opening { basis, ..Opening::new(self.mode, suite, Some(self.bob.identifier())) }
    }

    /// What Bob has for all modes at once; each time with the ticket still unspent.
    pub(crate) fn bases(&self) -> Bases {
        let mut tickets = Tickets::new(100);
        if let Some((_, theirs)) = &self.ticket {
            assert!(tickets.keep(at(0), Ticket::from_bytes(theirs).unwrap()).is_empty());
        }
        Bases {
            psks: vec![Arc::new(Psk::new(SharedSecret::new(&[0x77; 32]))), psk()],
            // Alice is not the first that is tried.
            introductions: vec![
                self.bob.local.payload.clone().into(),
                self.alice.local.payload.clone().into(),
            ],
            tickets: Arc::new(Mutex::new(tickets)),
        }
    }
}

/// The key of the deployment that everybody here belongs to.
pub(crate) fn psk() -> Arc<Psk> {
    Arc::new(Psk::new(SharedSecret::new(&[0x33; 32])))
}

/// The software key service answers without waiting.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the software key service never waits"),
    }
}

/// Limits of a listener that allow every mode and suite.
pub(crate) fn all_modes() -> ListenerLimits {
    ListenerLimits { allowed: all_pairs().collect(), ..ListenerLimits::default() }
}

/// What the link does to packets, in percent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupted: u64,
}

/// A handshake between two parties over a link with faults.
pub(crate) struct Pair {
    pub(crate) now: Now,
    pub(crate) dice: Dice,
    pub(crate) alice: Party,
    pub(crate) bob: Party,
    pub(crate) initiator: Initiator,
    pub(crate) listener: HandshakeTable,
    pub(crate) responders: BTreeMap<HandshakeId, Responder>,
    pub(crate) initiator_end: Option<Result<Established, Failure>>,
    pub(crate) responder_end: Vec<(HandshakeId, Result<Established, Failure>)>,
    pub(crate) faults: Faults,
    /// Packets under way, oldest first.
    pub(crate) link: VecDeque<Packet>,
    /// Every packet that was ever sent.
    pub(crate) sent: Vec<(Duration, Packet)>,
    /// The responder's end of the channel that is to be replaced, found under whatever name.
    pub(crate) replaced: Option<Session>,
    /// Whom the initiator's last accepted answer came from.
    answered_by: Option<HandshakeId>,
}

/// One packet on the link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packet {
    /// Towards the listener.
    First(Vec<u8>),
    /// Towards the session address of a responder.
    Forth(HandshakeId, Vec<u8>),
    /// Towards the initiator, and from which responder.
    Back(Option<HandshakeId>, Vec<u8>),
}

impl Packet {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::First(bytes) | Self::Forth(_, bytes) | Self::Back(_, bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        match self {
            Self::First(bytes) | Self::Forth(_, bytes) | Self::Back(_, bytes) => bytes,
        }
    }
}

impl Pair {
    pub(crate) fn new(mode: Mode, suite: Suite, seed: u64) -> Self {
        let (alice, bob) = (Party::new(), Party::new());
        let configs = (alice.config(&bob), bob.config(&alice));
        Self::with(mode, suite, seed, alice, bob, configs)
    }

    pub(crate) fn with(
        mode: Mode,
        suite: Suite,
        seed: u64,
        alice: Party,
        bob: Party,
        configs: (HandshakeConfig, HandshakeConfig),
    ) -> Self {
        let mut dice = Dice(seed);
        let prior = Prior::new(mode, &alice, &bob);
        let mut configs = configs;
        configs.1.bases = prior.bases();
        let opening = prior.opening(suite);
        let initiator = Initiator::new(at(0), Arc::new(configs.0), opening, dice.bytes()).unwrap();
        let listener = HandshakeTable::new(Arc::new(configs.1), all_modes()).unwrap();
        Self {
            now: at(0),
            dice,
            alice,
            bob,
            initiator,
            listener,
            responders: BTreeMap::new(),
            initiator_end: None,
            responder_end: Vec::new(),
            faults: Faults::default(),
            link: VecDeque::new(),
            sent: Vec::new(),
            replaced: None,
            answered_by: None,
        }
    }

    /// Runs until the initiator's handshake ends and the link is empty.
    pub(crate) fn run(&mut self) {
        loop {
            let initiator_at = self.drain_initiator();
            let responders_at = self.drain_responders();
            if let Some(packet) = self.take_packet() {
                self.deliver(packet);
            } else if self.initiator_end.is_some() {
                return;
            } else {
                let next = initiator_at.min(responders_at).max(self.now.mono);
                self.set_time(next);
                self.initiator.handle(self.now, Input::TimePassed);
                for responder in self.responders.values_mut() {
                    responder.handle(self.now, Input::TimePassed);
                }
            }
        }
    }

    /// Both sessions of a handshake that must succeed.
    pub(crate) fn sessions(self) -> (Session, Session) {
        let (initiator, responder) = self.established();
        (initiator.session, responder.session)
    }

    /// Both ends of a handshake that must succeed.
    pub(crate) fn established(mut self) -> (Established, Established) {
        self.run();
        let initiator = self.initiator_end.take().unwrap().unwrap();
        let responder = self.responder_end.pop().unwrap().1.unwrap();
        assert_eq!(initiator.peer.identifier(), self.bob.identifier());
        assert_eq!(responder.peer.identifier(), self.alice.identifier());
        (initiator, responder)
    }

    pub(crate) fn set_time(&mut self, mono: Duration) {
        self.now = at(u64::try_from(mono.as_millis()).unwrap());
    }

    /// Polls the initiator until it waits; returns until when.
    pub(crate) fn drain_initiator(&mut self) -> Duration {
        while self.initiator_end.is_none() {
            match self.initiator.poll() {
                Output::Transmit(To::Listener, bytes) => self.send(Packet::First(bytes)),
                Output::Transmit(To::Peer, bytes) => {
                    let to = self.answered_by.expect("nobody has answered yet");
                    self.send(Packet::Forth(to, bytes));
                }
                Output::Agree { key, peer } => {
                    assert_eq!(key, self.alice.local.static_key);
                    let answer = match self.alice.agree(&peer) {
                        Some(secret) => Input::Agreed(secret),
                        None => Input::AgreementFailed,
                    };
                    self.initiator.handle(self.now, answer);
                }
                Output::Find(_) | Output::Admit => panic!("an initiator asks for nothing"),
                Output::Spend(role, _) => assert_eq!(role, Role::Initiator),
                Output::Established(established) => self.initiator_end = Some(Ok(*established)),
                Output::Failed(failure) => self.initiator_end = Some(Err(failure)),
                Output::Wait { until } => return until,
            }
        }
        Duration::MAX
    }

    /// Polls every responder until it waits; returns until when.
    pub(crate) fn drain_responders(&mut self) -> Duration {
        let mut earliest = Duration::MAX;
        let ids: Vec<_> = self.responders.keys().copied().collect();
        for id in ids {
            loop {
                let output = self.responders.get_mut(&id).unwrap().poll();
                let end = match output {
                    Output::Transmit(_, bytes) => {
                        self.send(Packet::Back(Some(id), bytes));
                        continue;
                    }
                    Output::Agree { key, peer } => {
                        assert_eq!(key, self.bob.local.static_key);
                        let answer = match self.bob.agree(&peer) {
                            Some(secret) => Input::Agreed(secret),
                            None => Input::AgreementFailed,
                        };
                        self.responders.get_mut(&id).unwrap().handle(self.now, answer);
                        continue;
                    }
                    Output::Find(_) => {
                        let found = self.replaced.as_ref().map(|old| old.binding.predecessor());
                        self.responders.get_mut(&id).unwrap().handle(self.now, Input::Found(found));
                        continue;
                    }
                    Output::Admit => {
                        let admitted = self.listener.admit(id);
                        self.responders.get_mut(&id).unwrap().handle(self.now, Input::Admitted(admitted));
                        continue;
                    }
                    Output::Spend(role, _) => {
                        assert_eq!(role, Role::Responder);
                        continue;
                    }
                    Output::Established(established) => Ok(*established),
                    Output::Failed(failure) => Err(failure),
                    Output::Wait { until } => {
                        earliest = earliest.min(until);
                        break;
                    }
                };
                match &end {
                    Ok(_) => self.listener.established(id),
                    Err(_) => self.listener.ended(id),
                }
                self.responders.remove(&id);
                self.responder_end.push((id, end));
                break;
            }
        }
        earliest
    }

    pub(crate) fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::First(bytes) => {
                let message = FirstMessage { flow: FLOW, behind: b"alice", packet: &bytes };
                match self.listener.receive(self.now, message, self.dice.bytes()) {
                    Verdict::Drop => {}
                    Verdict::Retry(retry) => self.send(Packet::Back(None, retry)),
                    Verdict::Accept { id, responder, evicted } => {
                        self.responders.insert(id, *responder);
                        if let Some(evicted) = evicted {
                            self.responders.remove(&evicted);
                        }
                    }
                    Verdict::Repeated(id) => {
                        self.responders.get_mut(&id).unwrap().handle(self.now, Input::Packet(&bytes));
                    }
                }
            }
            Packet::Forth(id, bytes) => match self.responders.get_mut(&id) {
                Some(responder) => responder.handle(self.now, Input::Packet(&bytes)),
                None => self.confirm_again(id, &bytes),
            },
            Packet::Back(from, bytes) => {
                if from.is_some() {
                    self.answered_by = from;
                }
                self.initiator.handle(self.now, Input::Packet(&bytes));
            }
        }
    }

    /// What a driver does with a packet for a ready channel.
    fn confirm_again(&mut self, id: HandshakeId, bytes: &[u8]) {
        let ended = self.responder_end.iter_mut().find(|(ended, _)| *ended == id);
        let Some((_, Ok(established))) = ended else {
            return;
        };
        let session = &mut established.session;
        let mut opened = bytes.to_vec();
        let is_confirm = session
            .opener
            .open_in_place(self.now, &mut opened)
            .is_ok_and(|frame| matches!(frame.content, Content::Confirm(_)));
        let confirmation = &session.confirmation;
        if confirmation.is_repeated(bytes) || (is_confirm && confirmation.answers_confirms()) {
            let mut confirm = Vec::new();
            session.sealer.seal_confirm(self.now, &session.confirmation, &mut confirm).unwrap();
            self.send(Packet::Back(Some(id), confirm));
        }
    }

    fn send(&mut self, packet: Packet) {
        self.sent.push((self.now.mono, packet.clone()));
        self.link.push_back(packet);
    }

    /// The next packet that arrives.
    fn take_packet(&mut self) -> Option<Packet> {
        loop {
            let place = match self.link.len() {
                0 => return None,
                length if self.dice.percent(self.faults.reordered) => self.dice.below(length),
                _ => 0,
            };
            let mut packet = self.link.remove(place)?;
            if self.dice.percent(self.faults.lost) {
                continue;
            }
            if self.dice.percent(self.faults.duplicated) {
                self.link.push_back(packet.clone());
            }
            if self.dice.percent(self.faults.corrupted) {
                let bit = self.dice.below(packet.bytes().len() * 8);
                packet.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            }
            return Some(packet);
        }
    }
}

/// Seals one DATA record.
pub(crate) fn seal(now: Now, from: &mut Session, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let write = |out: &mut Vec<u8>| out.extend_from_slice(body);
    from.sealer.seal_into(now, FrameType::Data, body.len(), write, &mut record).unwrap();
    record
}

/// Opens a copy of a DATA record.
pub(crate) fn open(now: Now, to: &mut Session, record: &[u8]) -> Result<Vec<u8>, ChannelError> {
    let mut record = record.to_vec();
    let frame = to.opener.open_in_place(now, &mut record)?;
    match frame.content {
        Content::Data(body) => Ok(body.to_vec()),
        other => panic!("not DATA: {other:?}"),
    }
}
