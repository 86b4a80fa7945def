//! F5: handshakes between two ends, with a stranger among them and the network in the input's hands.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use onward_channels::{
    Bases, Basis, Established, FirstMessage, FrameType, HandshakeId, HandshakeTable, Initiator, Input,
    ListenerLimits, Mode, Opening, Output, Psk, Responder, Session, Suite, Ticket, Tickets, Verdict,
};
use onward_keys::SharedSecret;

use crate::party::{Party, at};
use crate::records::open_channel;

/// Alice and Bob accept each other; Mallory, whom nobody accepts, plays along.
static PARTIES: LazyLock<[Party; 3]> = LazyLock::new(|| [Party::new(), Party::new(), Party::new()]);

/// Steps taken of one input; what follows them is ignored.
const STEPS_MAX: usize = 48;

/// By bits 0, 2 and 3 of the first byte; bit 1 is the suite.
const MODES: [Mode; 8] = [
    Mode::ClassicalXx,
    Mode::HybridXx,
    Mode::ClassicalXxPsk,
    Mode::HybridXxPsk,
    Mode::ClassicalIk,
    Mode::HybridIk,
    Mode::Kk,
    Mode::Resumption,
];

/// The halves of the ticket of a channel that Alice and Bob had: hers, his, and what Mallory makes of its public name.
static TICKETS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let [alice, bob, _] = &*PARTIES;
    let [ours, theirs] = open_channel(alice, bob);
    let now = at(Duration::ZERO);
    let ours = ours.ticket(now, alice.identifier()).to_bytes().to_vec();
    let mut forged = ours.clone();
    // Behind four small numbers, the name of 9 bytes and the head of the secret.
    forged[15] ^= 1;
    [ours, theirs.ticket(now, bob.identifier()).to_bytes().to_vec(), forged]
});

/// Mode and suite, then steps: packets delivered as they are, changed, cut, made up or to somebody else, time that
/// passes, a key service that fails. A channel is only ready at an end that was just given, unchanged, a packet its
/// accepted peer had sent. Accepted is an input after which Alice and Bob share a channel.
pub fn f5_handshake(data: &[u8]) -> bool {
    let Some((terms, mut steps)) = data.split_first() else {
        return false;
    };
    let mode = MODES[usize::from(terms & 1 | terms >> 1 & 6)];
    let suite = if terms & 2 == 0 { Suite::ChaChaPoly } else { Suite::AesGcm };
    let mut network = Network::new(mode, suite);
    for _ in 0..STEPS_MAX {
        let Some((step, rest)) = steps.split_first() else {
            break;
        };
        steps = network.step(*step, rest);
    }
    let Some(mut alice) = network.alice_session else {
        return false;
    };
    let same = |session: &&mut Session| session.binding.id() == alice.binding.id();
    let Some(bob) = network.bob_sessions.iter_mut().find(same) else {
        panic!("Alice has a channel that Bob does not have");
    };
    carries(network.mono, &mut alice, bob);
    carries(network.mono, bob, &mut alice);
    true
}

/// Who made a packet, and who is given one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Alice,
    Bob,
    Mallory,
}

struct Network {
    mono: Duration,
    seed: u8,
    key_service_fails: bool,
    alice: Initiator,
    mallory: Initiator,
    listener: HandshakeTable,
    responders: BTreeMap<HandshakeId, Responder>,
    sent: Vec<(Place, Vec<u8>)>,
    alice_session: Option<Session>,
    bob_sessions: Vec<Session>,
}

impl Network {
    fn new(mode: Mode, suite: Suite) -> Self {
        let [alice, bob, mallory] = &*PARTIES;
        // Mallory is of the same deployment and knows what is public.
        let psk = Arc::new(Psk::new(SharedSecret::new(&[0x33; 32])));
        let begin = |party: &Party, seed: u8, ticket: &[u8]| {
            let config = party.config(bob.identifier());
            let basis = match (mode.has_psk(), mode.has_two_messages()) {
                (false, false) => Basis::Nothing,
                (true, false) => Basis::Psk(Arc::clone(&psk)),
                (false, true) => Basis::Introduction(bob.introduction()),
                (true, true) => Basis::Ticket(Box::new(read(ticket))),
            };
            let opening = Opening { basis, ..Opening::new(mode, suite, Some(bob.identifier())) };
            match Initiator::new(at(Duration::ZERO), config, opening, [seed; 32]) {
                Ok(initiator) => initiator,
                Err(error) => panic!("no handshake: {error}"),
            }
        };
        let limits = ListenerLimits { allowed: [(mode, suite)].into(), ..ListenerLimits::default() };
        let [ours, theirs, forged] = &*TICKETS;
        let mut tickets = Tickets::new(1);
        assert!(tickets.keep(at(Duration::ZERO), read(theirs)).is_empty());
        let bases = Bases {
            psks: vec![Arc::clone(&psk)],
            introductions: vec![alice.introduction()],
            tickets: Arc::new(Mutex::new(tickets)),
        };
        let listener = match HandshakeTable::new(bob.config_with(alice.identifier(), bases), limits) {
            Ok(listener) => listener,
            Err(error) => panic!("no listener: {error}"),
        };
        let mut network = Self {
            mono: Duration::ZERO,
            seed: 2,
            key_service_fails: false,
            alice: begin(alice, 0, ours),
            mallory: begin(mallory, 1, forged),
            listener,
            responders: BTreeMap::new(),
            sent: Vec::new(),
            alice_session: None,
            bob_sessions: Vec::new(),
        };
        network.drain(None);
        network
    }

    /// Takes one step; returns the bytes that are left for others.
    fn step<'a>(&mut self, step: u8, mut rest: &'a [u8]) -> &'a [u8] {
        let mut byte = || rest.split_off_first().copied().unwrap_or(0);
        let place = step >> 3;
        match step & 7 {
            // The newest packet, or one of the others.
            kind @ 0..=4 => {
                let back = if kind == 0 { 0 } else { usize::from(byte()) };
                let newest = self.sent.len() - 1;
                let mut packet = self.sent[newest - back % self.sent.len()].1.clone();
                let offset = if kind < 2 { 0 } else { usize::from(u16::from_be_bytes([byte(), byte()])) };
                let length = packet.len();
                match kind {
                    2 => packet[offset % length] ^= 1 << (offset / length % 8),
                    3 => packet.truncate(offset % length),
                    4 => packet[offset % length] = byte(),
                    _ => {}
                }
                self.deliver(place, &packet);
            }
            5 => {
                let length = usize::from(byte()).min(rest.len());
                let (packet, behind) = rest.split_at(length);
                self.deliver(place, packet);
                return behind;
            }
            6 => {
                self.mono += Duration::from_millis(10) * u32::from(byte()).pow(2);
                self.handle_all(|| Input::TimePassed);
            }
            _ => {
                self.key_service_fails = place & 1 == 1;
                self.handle_all(|| Input::AgreementFailed);
            }
        }
        rest
    }

    fn handle_all(&mut self, input: impl Fn() -> Input<'static>) {
        let now = at(self.mono);
        self.alice.handle(now, input());
        self.mallory.handle(now, input());
        self.responders.values_mut().for_each(|responder| responder.handle(now, input()));
        self.drain(None);
    }

    /// Gives a packet to the listener, to all half-open handshakes of Bob, to Alice, or to Mallory.
    fn deliver(&mut self, place: u8, packet: &[u8]) {
        let now = at(self.mono);
        match place & 3 {
            0 => {
                self.seed = self.seed.wrapping_add(1);
                let first = FirstMessage { flow: 1, behind: b"", packet };
                match self.listener.receive(now, first, [self.seed; 32]) {
                    Verdict::Drop => {}
                    Verdict::Retry(retry) => self.sent.push((Place::Bob, retry)),
                    Verdict::Accept { id, responder, evicted } => {
                        self.responders.insert(id, *responder);
                        evicted.map(|evicted| self.responders.remove(&evicted));
                    }
                    Verdict::Repeated(id) => {
                        if let Some(responder) = self.responders.get_mut(&id) {
                            responder.handle(now, Input::Packet(packet));
                        }
                    }
                }
            }
            1 => self.responders.values_mut().for_each(|one| one.handle(now, Input::Packet(packet))),
            2 => self.alice.handle(now, Input::Packet(packet)),
            _ => self.mallory.handle(now, Input::Packet(packet)),
        }
        self.drain(Some(packet));
    }

    /// Does what all ends ask for; `packet` is what one of them was given just before.
    fn drain(&mut self, packet: Option<&[u8]>) {
        let now = at(self.mono);
        let [alice, bob, mallory] = &*PARTIES;
        let fails = self.key_service_fails;
        let agree = |party: &Party, peer| if fails { Input::AgreementFailed } else { party.agree(&peer) };
        while let Some(output) = next(self.alice.poll()) {
            match output {
                Output::Transmit(_, bytes) => self.sent.push((Place::Alice, bytes)),
                Output::Agree { peer, .. } => self.alice.handle(now, agree(alice, peer)),
                Output::Established(established) => {
                    assert!(self.was_sent(Place::Bob, packet), "Alice accepted what Bob did not send");
                    assert_eq!(established.peer.identifier(), bob.identifier());
                    self.alice_session = Some(established.session);
                }
                _ => {}
            }
        }
        while let Some(output) = next(self.mallory.poll()) {
            match output {
                Output::Transmit(_, bytes) => self.sent.push((Place::Mallory, bytes)),
                Output::Agree { peer, .. } => self.mallory.handle(now, agree(mallory, peer)),
                Output::Established(_) => panic!("nobody accepts Mallory"),
                _ => {}
            }
        }
        for (id, mut responder) in std::mem::take(&mut self.responders) {
            let mut is_over = false;
            while let Some(output) = next(responder.poll()) {
                match output {
                    Output::Transmit(_, bytes) => self.sent.push((Place::Bob, bytes)),
                    Output::Agree { peer, .. } => responder.handle(now, agree(bob, peer)),
                    Output::Spend(..) => {}
                    Output::Admit => {
                        let admitted = self.listener.admit(id);
                        responder.handle(now, Input::Admitted(admitted));
                    }
                    Output::Find(_) => panic!("nobody asked to replace a channel"),
                    Output::Established(established) => {
                        assert!(self.was_sent(Place::Alice, packet), "Bob accepted what Alice did not send");
                        let Established { session, peer, .. } = *established;
                        assert_eq!(peer.identifier(), alice.identifier());
                        self.bob_sessions.push(session);
                        self.listener.established(id);
                        is_over = true;
                    }
                    _ => {
                        self.listener.ended(id);
                        is_over = true;
                    }
                }
            }
            if !is_over {
                self.responders.insert(id, responder);
            }
        }
    }

    fn was_sent(&self, by: Place, packet: Option<&[u8]>) -> bool {
        self.sent.iter().any(|(maker, bytes)| *maker == by && Some(&bytes[..]) == packet)
    }
}

fn read(ticket: &[u8]) -> Ticket {
    match Ticket::from_bytes(ticket) {
        Some(ticket) => ticket,
        None => panic!("a ticket is read back"),
    }
}

/// The output, unless it is that nothing is to be done.
fn next(output: Output) -> Option<Output> {
    (!matches!(output, Output::Wait { .. })).then_some(output)
}

/// One record goes from one end to the other.
fn carries(mono: Duration, from: &mut Session, to: &mut Session) {
    let mut record = Vec::new();
    let sealed = from.sealer.seal_empty(at(mono), FrameType::KeepAlive, &mut record);
    assert!(sealed.is_ok() && to.opener.open_in_place(at(mono), &mut record).is_ok());
}
