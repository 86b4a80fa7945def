//! Handshakes that succeed over bad links, and handshakes that must not succeed.

use std::sync::Arc;
use std::time::Duration;

use onward_channels::identity::Trust;
use onward_channels::{
    Basis, Failure, FirstMessage, FrameType, HandshakeConfig, HandshakeTable, Initiator, Input,
    ListenerLimits, Mode, Opening, Output, Psk, Responder, Session, Suite, To, Verdict,
};
use onward_keys::{Backend, SharedSecret};
use onward_trials::{Row, is_full};

use crate::harness::{
    Dice, FLOW, Faults, Packet, Pair, Party, Prior, UNIX, all_modes, all_pairs, at, open, psk, seal,
};

/// Two parties whose handshakes repeat byte for byte: the same randomness, step by step.
struct Bench {
    alice: Party,
    bob: Party,
    prior: Prior,
    suite: Suite,
}

impl Bench {
    fn new(mode: Mode, suite: Suite) -> Self {
        let (alice, bob) = (Party::new(), Party::new());
        let prior = Prior::new(mode, &alice, &bob);
        Self { alice, bob, prior, suite }
    }

    /// A fresh initiator and its first message.
    fn initiator(&self, random: u8) -> (Initiator, Vec<u8>) {
        let config = Arc::new(self.alice.config(&self.bob));
        self.initiator_with(config, self.prior.opening(self.suite), random).unwrap()
    }

    /// A fresh initiator and its first message, if it sends one.
    fn initiator_with(
        &self,
        config: Arc<HandshakeConfig>,
        opening: Opening,
        random: u8,
    ) -> Option<(Initiator, Vec<u8>)> {
        let mut initiator = Initiator::new(at(0), config, opening, [random; 32]).unwrap();
        let first = self.first(&mut initiator)?;
        Some((initiator, first))
    }

    /// The first message that `initiator` sends next.
    fn first(&self, initiator: &mut Initiator) -> Option<Vec<u8>> {
        loop {
            match initiator.poll() {
                Output::Agree { peer, .. } => {
                    initiator.handle(at(0), agreed(&self.alice, &peer));
                }
                Output::Spend(..) => {}
                Output::Transmit(To::Listener, first) => return Some(first),
                Output::Wait { .. } | Output::Failed(_) => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// How Bob answers: he knows what there is to know.
    fn bob_config(&self) -> HandshakeConfig {
        HandshakeConfig { bases: self.prior.bases(), ..self.bob.config(&self.alice) }
    }

    /// What a fresh listener makes of a first message: its responder, and the second message it sends.
    fn responder(&self, first: &[u8]) -> Option<(Responder, Vec<u8>)> {
        self.responder_with(self.bob_config(), first)
    }

    fn responder_with(&self, config: HandshakeConfig, first: &[u8]) -> Option<(Responder, Vec<u8>)> {
        let mut listener = HandshakeTable::new(Arc::new(config), all_modes()).unwrap();
        let message = FirstMessage { flow: FLOW, behind: b"", packet: first };
        let Verdict::Accept { mut responder, .. } = listener.receive(at(0), message, [9; 32]) else {
            return None;
        };
        loop {
            match responder.poll() {
                Output::Agree { peer, .. } => responder.handle(at(0), agreed(&self.bob, &peer)),
                Output::Spend(..) => {}
                Output::Find(_) => responder.handle(at(0), Input::Found(None)),
                Output::Transmit(To::Peer, second) => return Some((*responder, second)),
                Output::Failed(_) => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether the initiator answers `second` with its last message, the third or a CONFIRM; returns that.
    fn last(&self, initiator: &mut Initiator, second: &[u8]) -> Option<Vec<u8>> {
        initiator.handle(at(10), Input::Packet(second));
        loop {
            match initiator.poll() {
                Output::Agree { peer, .. } => initiator.handle(at(10), agreed(&self.alice, &peer)),
                Output::Transmit(To::Peer, last) => return Some(last),
                Output::Wait { .. } | Output::Failed(_) => return None,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The answer of a party's key service.
fn agreed(party: &Party, peer: &[u8; 32]) -> Input<'static> {
    party.agree(peer).map_or(Input::AgreementFailed, Input::Agreed)
}

fn transmitted(initiator: &mut Initiator) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Output::Transmit(_, packet) = initiator.poll() {
        packets.push(packet);
    }
    packets
}

/// Whether `responder` accepts `last`, which is a third message or a CONFIRM.
fn establishes(responder: &mut Responder, last: &[u8]) -> bool {
    responder.handle(at(20), Input::Packet(last));
    loop {
        match responder.poll() {
            Output::Admit => responder.handle(at(20), Input::Admitted(true)),
            Output::Established(_) => return true,
            Output::Failed(_) | Output::Wait { .. } => return false,
            _ => {}
        }
    }
}

/// `packet` with each bit changed, in turn; in short runs one bit of each byte.
fn flipped(packet: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let bits = (0..packet.len() * 8).filter(|bit| is_full() || bit % 8 == bit / 8 % 8);
    bits.map(|bit| {
        let mut changed = packet.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        (bit / 8, changed)
    })
}

fn talk(alice: &mut Session, bob: &mut Session) {
    let now = at(100);
    let record = seal(now, alice, b"from alice");
    assert_eq!(open(now, bob, &record).unwrap(), b"from alice");
    let record = seal(now, bob, b"from bob");
    assert_eq!(open(now, alice, &record).unwrap(), b"from bob");
    assert_eq!(alice.binding.id(), bob.binding.id());
    let (mut ours, mut theirs) = ([0; 40], [0; 40]);
    alice.binding.export("resume", b"context", &mut ours);
    bob.binding.export("resume", b"context", &mut theirs);
    assert_eq!(ours, theirs);
    bob.binding.export("resume", b"other", &mut theirs);
    assert_ne!(ours, theirs);
}

#[test]
fn every_mode_and_suite_makes_a_channel() {
    for (mode, suite) in all_pairs() {
        let (mut alice, mut bob) = Pair::new(mode, suite, 1).sessions();
        talk(&mut alice, &mut bob);
    }
}

#[test]
fn backends_understand_each_other() {
    for (mode, suite) in all_pairs() {
        for (ours, theirs) in [(Backend::best(), Backend::Portable), (Backend::Portable, Backend::best())] {
            let (alice, bob) = (Party::new(), Party::new());
            let (mut left, mut right) = (alice.config(&bob), bob.config(&alice));
            (left.backend, right.backend) = (ours, theirs);
            let (mut alice, mut bob) = Pair::with(mode, suite, 1, alice, bob, (left, right)).sessions();
            talk(&mut alice, &mut bob);
        }
    }
}

#[test]
fn a_handshake_survives_a_bad_link() {
    for (mode, suite) in all_pairs() {
        for seed in 0..12 {
            let mut pair = Pair::new(mode, suite, seed);
            pair.faults = Faults { lost: 25, duplicated: 25, reordered: 40, corrupted: 0 };
            pair.run();
            let established = pair.initiator_end.take().unwrap().unwrap();
            let id = *established.session.binding.id();
            let same = |end: &Result<onward_channels::Established, Failure>| {
                end.as_ref().is_ok_and(|responder| *responder.session.binding.id() == id)
            };
            assert!(pair.responder_end.iter().any(|(_, end)| same(end)), "{mode:?} {suite:?} {seed}");
        }
    }
}

#[test]
fn corruption_never_makes_two_ends_that_disagree() {
    for seed in 0..40 {
        let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, seed);
        pair.faults = Faults { lost: 5, duplicated: 20, reordered: 20, corrupted: 30 };
        pair.run();
        if let Some(Ok(established)) = &pair.initiator_end {
            let id = established.session.binding.id();
            let agrees = pair
                .responder_end
                .iter()
                .any(|(_, end)| end.as_ref().is_ok_and(|end| end.session.binding.id() == id));
            assert!(agrees, "seed {seed}");
        }
    }
}

#[test]
fn messages_are_sent_again_at_their_times_and_then_the_handshake_fails() {
    let mut pair = Pair::new(Mode::HybridXx, Suite::ChaChaPoly, 1);
    pair.faults.lost = 100;
    pair.run();
    let times: Vec<u64> = pair.sent.iter().map(|(time, _)| time.as_secs()).collect();
    assert_eq!(times, [0, 1, 2, 4, 8, 12, 16, 20, 24, 28]);
    assert!(pair.sent.iter().all(|(_, packet)| *packet == pair.sent[0].1), "identical bytes");
    assert!(matches!(pair.initiator_end, Some(Err(Failure::TimedOut))));
    assert_eq!(pair.now.mono, Duration::from_secs(30));
}

#[test]
fn a_lost_confirm_is_answered_anew() {
    let mut pair = Pair::new(Mode::HybridXx, Suite::AesGcm, 1);
    let mut lost = 0;
    // Every CONFIRM but the third is lost.
    while pair.initiator_end.is_none() {
        pair.drain_initiator();
        pair.drain_responders();
        match pair.link.pop_front() {
            Some(Packet::Back(_, bytes)) if bytes[0] != 0x89 && lost < 2 => lost += 1,
            Some(packet) => pair.deliver(packet),
            None => {
                pair.now = at(u64::try_from(pair.now.mono.as_millis()).unwrap() + 500);
                pair.initiator.handle(pair.now, Input::TimePassed);
            }
        }
    }
    assert!(pair.initiator_end.unwrap().is_ok());
    assert_eq!(lost, 2);
}

#[test]
fn records_before_the_confirm_are_kept_in_order() {
    let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 1);
    // Up to the responder's CONFIRM, which is held back.
    while pair.responder_end.is_empty() {
        pair.drain_initiator();
        pair.drain_responders();
        if pair.responder_end.is_empty() {
            let packet = pair.link.pop_front().unwrap();
            pair.deliver(packet);
        }
    }
    let confirm = pair.link.pop_front().unwrap();
    let (now, (_, bob)) = (pair.now, pair.responder_end.pop().unwrap());
    let mut bob = bob.unwrap().session;
    let records: Vec<_> = (0..20u8).map(|number| seal(now, &mut bob, &[number])).collect();
    for record in &records {
        pair.initiator.handle(now, Input::Packet(record));
        pair.initiator.handle(now, Input::Packet(record));
        pair.initiator.handle(now, Input::Packet(&[0; 40]));
    }
    pair.initiator.handle(now, Input::Packet(confirm.bytes()));
    pair.drain_initiator();
    let mut established = pair.initiator_end.unwrap().unwrap();
    assert_eq!(established.early, records[..16]);
    for (number, early) in (0u8..).zip(established.early.clone()) {
        assert_eq!(open(now, &mut established.session, &early).unwrap(), [number]);
    }
}

#[test]
fn n3_1_a06_a_changed_first_message_is_never_answered_by_a_third() {
    let (mut changes, mut thirds) = (0, 0);
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (_, first) = bench.initiator(1);
        for (_, changed) in flipped(&first) {
            changes += 1;
            if let Some((_, second)) = bench.responder(&changed) {
                assert!(!mode.has_two_messages(), "{mode:?}");
                let (mut initiator, _) = bench.initiator(1);
                thirds += usize::from(bench.last(&mut initiator, &second).is_some());
            }
        }
        for length in [0, 1, 20, first.len() / 2, first.len() - 1] {
            assert!(bench.responder(&first[..length]).is_none(), "{mode:?} cut to {length}");
        }
        assert!(bench.responder(&[&first[..], &[0]].concat()).is_none(), "extended");
    }
    row_a06("first", changes, thirds);
}

/// What came of changing every bit of a message.
fn row_a06(message: &str, changes: usize, channels: usize) {
    let row = Row::new("A06");
    row.at_least(&format!("bits changed in {message} messages"), changes, 100);
    row.exactly(&format!("handshakes that went on after a changed {message} message"), channels, 0);
}

#[test]
fn n3_1_a06_a_changed_second_message_is_never_answered_by_a_third() {
    let (mut changes, mut thirds) = (0, 0);
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (_, first) = bench.initiator(1);
        let (_, second) = bench.responder(&first).unwrap();
        let broken = flipped(&second)
            .chain([(second.len(), [&second[..], &[0]].concat())])
            .chain((0..second.len()).step_by(97).map(|length| (length, second[..length].to_vec())));
        for (_, changed) in broken {
            changes += 1;
            let (mut initiator, _) = bench.initiator(1);
            thirds += usize::from(bench.last(&mut initiator, &changed).is_some());
        }
        let (mut initiator, _) = bench.initiator(1);
        assert!(bench.last(&mut initiator, &second).is_some(), "the true one is");
    }
    row_a06("second", changes, thirds);
}

#[test]
fn n3_1_a06_a_changed_third_message_makes_no_channel() {
    let (mut changes, mut channels) = (0, 0);
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (mut initiator, first) = bench.initiator(1);
        let (mut responder, second) = bench.responder(&first).unwrap();
        let third = bench.last(&mut initiator, &second).unwrap();
        let broken = flipped(&third)
            .chain([(third.len(), [&third[..], &[0]].concat())])
            .chain((0..third.len()).step_by(97).map(|length| (length, third[..length].to_vec())));
        for (_, changed) in broken {
            changes += 1;
            let (mut other, _) = bench.responder(&first).unwrap();
            channels += usize::from(establishes(&mut other, &changed));
        }
        assert!(establishes(&mut responder, &third), "the true one does");
    }
    row_a06("third", changes, channels);
}

#[test]
fn n3_1_messages_of_another_session_are_refused() {
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (mut initiator, first) = bench.initiator(1);
        let (mut other_initiator, other_first) = bench.initiator(2);
        let (mut responder, second) = bench.responder(&first).unwrap();
        let (mut other_responder, other_second) = bench.responder(&other_first).unwrap();
        assert_eq!(bench.last(&mut initiator, &other_second), None);
        // A message of another handshake is dropped and changes nothing.
        let third = bench.last(&mut initiator, &second).unwrap();
        let other_third = bench.last(&mut other_initiator, &other_second).unwrap();
        assert!(!establishes(&mut responder, &other_third));
        assert!(establishes(&mut responder, &third));
        assert!(establishes(&mut other_responder, &other_third));
        // With the fields of the right handshake around it, it fails to authenticate.
        let (mut initiator, _) = bench.initiator(1);
        let hsid = hsid_of(&second);
        let grafted = with_hsid(&other_second, hsid);
        assert_eq!(bench.last(&mut initiator, &grafted), None);
    }
}

/// The hsid lies behind the array's head, five small numbers and its own head.
fn hsid_of(packet: &[u8]) -> [u8; 16] {
    packet[7..23].try_into().unwrap()
}

fn with_hsid(packet: &[u8], hsid: [u8; 16]) -> Vec<u8> {
    let mut changed = packet.to_vec();
    changed[7..23].copy_from_slice(&hsid);
    changed
}

/// Where `noise` begins: everything before it has a fixed length, but for the pskid that only some modes have.
fn noise_at(packet: &[u8]) -> usize {
    let start = if packet[24] == 0xf6 { 25 } else { 33 };
    let head = match packet[start] {
        0x58 => 2,
        0x59 => 3,
        _ => 1,
    };
    start + head
}

#[test]
fn n3_1_after_a_bad_answer_the_initiator_begins_anew() {
    let bench = Bench::new(Mode::HybridXx, Suite::ChaChaPoly);
    let (mut initiator, first) = bench.initiator(1);
    let (_, mut second) = bench.responder(&first).unwrap();
    let last = second.len() - 1;
    second[last] ^= 1;
    assert_eq!(bench.last(&mut initiator, &second), None);
    let Output::Wait { until } = initiator.poll() else {
        panic!("waits for the next attempt");
    };
    assert_eq!(until, Duration::from_secs(1));
    initiator.handle(at(1000), Input::TimePassed);
    let again = transmitted(&mut initiator).pop().unwrap();
    assert_ne!(hsid_of(&again), hsid_of(&first));
    assert_ne!(again[noise_at(&again)..][..32], first[noise_at(&first)..][..32], "a fresh ephemeral key");
    let (mut responder, second) = bench.responder(&again).unwrap();
    let third = bench.last(&mut initiator, &second).unwrap();
    assert!(establishes(&mut responder, &third));
}

#[test]
fn n3_2_ephemeral_keys_of_low_order_make_no_channel() {
    let low_order = [
        [0; 32],
        *b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        point("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        point("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        point("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        point("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        point("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ];
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (_, first) = bench.initiator(1);
        let (_, second) = bench.responder(&first).unwrap();
        for point in low_order {
            let mut changed = first.clone();
            let noise = noise_at(&changed);
            changed[noise..noise + 32].copy_from_slice(&point);
            assert!(bench.responder(&changed).is_none(), "in the first message");
            let mut changed = second.clone();
            let noise = noise_at(&changed);
            changed[noise..noise + 32].copy_from_slice(&point);
            let (mut initiator, _) = bench.initiator(1);
            assert_eq!(bench.last(&mut initiator, &changed), None, "in the second message");
        }
    }
}

#[test]
fn n3_2_a_static_key_of_low_order_makes_no_channel() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| mode.shows_identities()) {
        let bench = Bench::new(mode, suite);
        let mut config = bench.alice.config(&bench.bob);
        let mut local = (*config.local).clone();
        local.static_public = [0; 32];
        config.local = Arc::new(local);
        let (mut initiator, first) =
            bench.initiator_with(Arc::new(config), bench.prior.opening(suite), 1).unwrap();
        match bench.responder(&first) {
            // Its own key service computes with the true key, so the agreements differ: nothing else gets in.
            None => assert!(mode.has_two_messages()),
            Some((mut responder, second)) => {
                assert!(!mode.has_two_messages());
                let third = bench.last(&mut initiator, &second).unwrap();
                assert!(!establishes(&mut responder, &third), "{mode:?}");
            }
        }
    }
}

fn point(text: &str) -> [u8; 32] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// What the initiator makes of a responder with this party's keys and another party's payload.
fn failure_of(pair: &mut Pair) -> Failure {
    pair.run();
    match pair.initiator_end.take() {
        Some(Err(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn sent_last(pair: &Pair) -> bool {
    pair.sent.iter().any(|(_, packet)| matches!(packet, Packet::Forth(..)))
}

#[test]
fn n3_3_an_attestation_of_another_static_key_gets_no_last_message() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| mode.shows_identities()) {
        let (alice, mallory, bob) = (Party::new(), Party::new(), Party::new());
        let mut local = (*mallory.local).clone();
        local.payload.clone_from(&bob.local.payload);
        let mut configs = (alice.config(&bob), mallory.config(&alice));
        configs.1.local = Arc::new(local);
        let mut pair = Pair::with(mode, suite, 1, alice, mallory, configs);
        let config = Arc::new(pair.alice.config(&bob));
        // Unbound, where that is allowed, so that only the attestation stands in the way.
        let mut opening = Prior::new(mode, &pair.alice, &bob).opening(suite);
        opening.to = opening.to.filter(|_| mode.has_two_messages());
        pair.initiator = Initiator::new(at(0), config, opening, [1; 32]).unwrap();
        match failure_of(&mut pair) {
            // Mallory cannot read what was sealed to Bob's key.
            Failure::TimedOut => assert!(mode.has_two_messages()),
            Failure::Untrusted(_) => assert!(!mode.has_two_messages()),
            other => panic!("{mode:?}: {other:?}"),
        }
        assert!(!sent_last(&pair));
    }
}

#[test]
fn n3_3_attestations_outside_their_time_get_no_last_message() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| *mode != Mode::Resumption) {
        for (iat, exp) in [(UNIX - 1000, UNIX - 1), (UNIX + 1000, UNIX + 2000)] {
            let (alice, bob) = (Party::new(), Party::with_window(iat, exp));
            let configs = (alice.config(&bob), bob.config(&alice));
            let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
            assert!(matches!(failure_of(&mut pair), Failure::Untrusted(_)), "{mode:?} {iat}..{exp}");
            assert!(!sent_last(&pair));
            // Where the peer is known beforehand, it is not even asked.
            assert_eq!(pair.sent.is_empty(), mode.has_two_messages());
        }
    }
}

#[test]
fn n3_3_an_initiator_whose_attestation_has_ended_gets_no_channel() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| *mode != Mode::Resumption) {
        let (alice, bob) = (Party::with_window(UNIX - 1000, UNIX - 1), Party::new());
        let configs = (alice.config(&bob), bob.config(&alice));
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
        assert!(matches!(failure_of(&mut pair), Failure::TimedOut), "{mode:?}");
        assert!(pair.responder_end.iter().all(|(_, end)| matches!(end, Err(Failure::Untrusted(_)))));
        let answered = pair.sent.iter().any(|(_, packet)| matches!(packet, Packet::Back(..)));
        assert_eq!(answered, !mode.has_two_messages(), "in a first message it is seen at once");
    }
}

#[test]
fn n3_3_a_peer_outside_the_policy_is_refused_on_both_sides() {
    for (mode, suite) in all_pairs() {
        let (alice, bob, carol) = (Party::new(), Party::new(), Party::new());
        let configs = (alice.config(&carol), bob.config(&alice));
        // The ticket of mode 8 is made by ends that accept each other.
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
        assert!(matches!(failure_of(&mut pair), Failure::Untrusted(_)), "{mode:?}");
        assert!(!sent_last(&pair), "the initiator's identity stays hidden");

        let (alice, bob) = (Party::new(), Party::new());
        let mut configs = (alice.config(&bob), bob.config(&alice));
        configs.1.trust = Arc::new(Trust::default());
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
        assert!(matches!(failure_of(&mut pair), Failure::TimedOut), "{mode:?}: the responder is silent");
        assert!(pair.responder_end.iter().all(|(_, end)| matches!(end, Err(Failure::Untrusted(_)))));
        assert!(!pair.responder_end.is_empty());
        let confirmed = |packet: &Packet| matches!(packet, Packet::Back(_, bytes) if bytes[0] != 0x89);
        assert!(!pair.sent.iter().any(|(_, packet)| confirmed(packet)));
    }
}

#[test]
fn the_own_identity_is_refused_as_a_peer() {
    let alice = Party::new();
    let config = Arc::new(alice.config(&alice));
    let refused = Initiator::new(
        at(0),
        Arc::clone(&config),
        Opening::new(Mode::HybridXx, Suite::ChaChaPoly, Some(alice.identifier())),
        [1; 32],
    );
    assert!(refused.is_err());
    // Unbound, it is found out from the payload.
    let (mode, suite) = (Mode::ClassicalXx, Suite::ChaChaPoly);
    let prior = Prior::new(mode, &alice, &alice);
    let bench = Bench { bob: alice.clone(), alice, prior, suite };
    let (mut initiator, first) = bench.initiator_with(config, Opening::new(mode, suite, None), 1).unwrap();
    let (_, second) = bench.responder_with(bench.bob.config(&bench.alice), &first).unwrap();
    assert_eq!(bench.last(&mut initiator, &second), None);
}

#[test]
fn n3_5_ends_with_different_terms_exchange_no_third_message() {
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let initiator = |app: &[u8], opening: Opening| {
            let mut config = bench.alice.config(&bench.bob);
            config.app = app.to_vec();
            bench.initiator_with(Arc::new(config), opening, 1)
        };
        let opening = || bench.prior.opening(suite);
        let last = |initiator: Option<(Initiator, Vec<u8>)>| {
            let (mut initiator, first) = initiator?;
            let (_, second) = bench.responder(&first)?;
            bench.last(&mut initiator, &second)
        };
        assert!(last(initiator(b"", opening())).is_some(), "{mode:?}");
        assert_eq!(last(initiator(b"other", opening())), None, "another application");
        let other = Opening { to: Some(Party::new().identifier()), ..opening() };
        assert_eq!(last(initiator(b"", other)), None, "meant for another responder");
        if !mode.has_two_messages() {
            let unbound = initiator(b"", Opening { to: None, ..opening() });
            assert!(last(unbound).is_some(), "an unbound handshake is allowed");
        }
        if let Basis::Psk(_) = opening().basis {
            let other = Arc::new(Psk::new(SharedSecret::new(&[0x34; 32])));
            assert_eq!(last(initiator(b"", Opening { basis: Basis::Psk(other), ..opening() })), None);
            let (_, first) = initiator(b"", Opening { basis: Basis::Psk(psk()), ..opening() }).unwrap();
            assert!(bench.responder_with(bench.bob.config(&bench.alice), &first).is_none(), "unknown pskid");
        }
        // Mode, suite, flags and pskid changed on the way, in both directions so that the fields still match.
        let values = [(3, Mode::ALL.map(Mode::number).to_vec()), (4, vec![1, 2]), (5, vec![0, 1])];
        let pskid = if mode.has_psk() { vec![(26, vec![0, 1])] } else { Vec::new() };
        for (field, values) in values.into_iter().chain(pskid) {
            let (_, first) = initiator(b"", opening()).unwrap();
            for value in values.into_iter().filter(|value| *value != first[field]) {
                let (mut initiator, first) = initiator(b"", opening()).unwrap();
                let mut changed = first.clone();
                changed[field] = value;
                if let Some((_, mut second)) = bench.responder(&changed) {
                    second[field] = first[field];
                    assert_eq!(bench.last(&mut initiator, &second), None, "{mode:?} field {field}");
                }
            }
        }
    }
}

#[test]
fn n3_5_a_listener_answers_no_mode_that_it_has_no_basis_for() {
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (_, first) = bench.initiator(1);
        let answered = bench.responder_with(bench.bob.config(&bench.alice), &first).is_some();
        let needs_none = matches!(bench.prior.opening(suite).basis, Basis::Nothing)
            || matches!(mode, Mode::HybridIk | Mode::ClassicalIk);
        assert_eq!(answered, needs_none, "{mode:?}");
    }
}

#[test]
fn n3_5_a_trusted_peer_cannot_answer_for_another() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| mode.shows_identities()) {
        let (alice, bob, mallory) = (Party::new(), Party::new(), Party::new());
        let mut configs = (alice.config(&bob), mallory.config(&alice));
        configs.0.trust = Arc::new(Trust::pinned([bob.identifier(), mallory.identifier()]));
        // Mallory binds the prologue to Bob, as the initiator did, and proves her own identity.
        let mut local = (*mallory.local).clone();
        local.identifier = bob.identifier();
        configs.1.local = Arc::new(local);
        let config = Arc::new(configs.0.clone());
        let mut pair = Pair::with(mode, suite, 1, alice, mallory, configs);
        let opening = Prior::new(mode, &pair.alice, &bob).opening(suite);
        pair.initiator = Initiator::new(at(0), config, opening, [1; 32]).unwrap();
        let failure = failure_of(&mut pair);
        assert_eq!(matches!(failure, Failure::Untrusted(_)), !mode.has_two_messages(), "{mode:?}");
        assert!(!sent_last(&pair));
    }
}

#[test]
fn n3_5_pairs_outside_the_allow_list_are_dropped() {
    for (mode, suite) in all_pairs() {
        let bench = Bench::new(mode, suite);
        let (_, first) = bench.initiator(1);
        let is_answered = |limits: ListenerLimits| {
            let mut listener = HandshakeTable::new(Arc::new(bench.bob_config()), limits).unwrap();
            let message = FirstMessage { flow: FLOW, behind: b"", packet: &first };
            !matches!(listener.receive(at(0), message, [1; 32]), Verdict::Drop)
        };
        assert!(is_answered(all_modes()));
        assert_eq!(is_answered(ListenerLimits::default()), mode == Mode::HybridXx, "the default");
        let others = all_pairs().filter(|pair| *pair != (mode, suite)).collect();
        assert!(!is_answered(ListenerLimits { allowed: others, ..ListenerLimits::default() }), "{mode:?}");
    }
}

#[test]
fn n3_6_a_ciphertext_of_another_session_is_refused() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| mode.is_hybrid()) {
        let bench = Bench::new(mode, suite);
        let (mut initiator, first) = bench.initiator(1);
        let (_, other_first) = bench.initiator(2);
        let (_, mut second) = bench.responder(&first).unwrap();
        let (_, other_second) = bench.responder(&other_first).unwrap();
        // e is 32 bytes, then the sealed ML-KEM ciphertext of 1104.
        let kem = noise_at(&second) + 32..noise_at(&second) + 32 + 1104;
        second[kem.clone()].copy_from_slice(&other_second[kem]);
        assert_eq!(bench.last(&mut initiator, &second), None);
        // An encapsulation key with a coefficient out of range is refused before it is used; sealed, it does not
        // even authenticate.
        let mut changed = first.clone();
        let key = noise_at(&changed) + 32;
        changed[key..key + 3].copy_from_slice(&[0xff; 3]);
        assert!(bench.responder(&changed).is_none(), "{mode:?}");
    }
}

#[test]
fn n3_9_without_a_confirm_the_handshake_fails() {
    for (mode, suite) in all_pairs() {
        let mut pair = Pair::new(mode, suite, 1);
        while pair.initiator_end.is_none() {
            let until = pair.drain_initiator();
            pair.drain_responders();
            match pair.link.pop_front() {
                Some(Packet::Back(_, bytes)) if bytes[0] != 0x89 => {}
                Some(packet) => pair.deliver(packet),
                None if pair.initiator_end.is_some() => {}
                None => {
                    pair.set_time(until);
                    pair.initiator.handle(pair.now, Input::TimePassed);
                }
            }
        }
        assert!(matches!(pair.initiator_end, Some(Err(Failure::TimedOut))));
        assert_eq!(pair.now.mono, Duration::from_secs(30));
    }
}

#[test]
fn n3_9_a_confirm_of_another_binding_makes_no_channel() {
    for (mode, suite) in all_pairs() {
        let mut pair = Pair::new(mode, suite, 1);
        while pair.responder_end.is_empty() {
            pair.drain_initiator();
            pair.drain_responders();
            if pair.responder_end.is_empty() {
                let packet = pair.link.pop_front().unwrap();
                pair.deliver(packet);
            }
        }
        let mut bob = pair.responder_end.pop().unwrap().1.unwrap().session;
        let mut wrong = Vec::new();
        let write = |body: &mut Vec<u8>| body.extend_from_slice(&[5; 32]);
        bob.sealer.seal_into(pair.now, FrameType::Confirm, 32, write, &mut wrong).unwrap();
        pair.initiator.handle(pair.now, Input::Packet(&wrong));
        let confirm = pair.link.pop_front().unwrap();
        pair.initiator.handle(pair.now, Input::Packet(confirm.bytes()));
        pair.drain_initiator();
        if mode == Mode::Resumption {
            assert!(matches!(pair.initiator_end, Some(Err(Failure::Unauthentic))), "its ticket is spent");
            continue;
        }
        assert!(pair.initiator_end.is_none(), "the attempt is over, its true CONFIRM comes too late");
        pair.run();
        assert!(pair.initiator_end.unwrap().is_ok(), "{mode:?}: the next attempt is not harmed");
    }
}

#[test]
fn n3_9_a_responder_of_two_messages_is_not_ready_before_the_right_confirm() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| mode.has_two_messages()) {
        let bench = Bench::new(mode, suite);
        let (mut initiator, first) = bench.initiator(1);
        let (mut responder, second) = bench.responder(&first).unwrap();
        let confirm = bench.last(&mut initiator, &second).unwrap();
        // Records that say anything else, under the keys of another handshake, or nothing.
        let (mut other, other_first) = bench.initiator(2);
        let (_, other_second) = bench.responder(&other_first).unwrap();
        let other_confirm = bench.last(&mut other, &other_second).unwrap();
        assert!(!establishes(&mut responder, &other_confirm), "{mode:?}");
        assert!(!establishes(&mut responder, &[0; 60]));
        assert!(establishes(&mut responder, &confirm));
    }
}

/// What an unwilling key service answers, and when.
fn unwilling() -> [(u64, Input<'static>); 3] {
    [
        (20, Input::AgreementFailed),
        (20, Input::Agreed(SharedSecret::new(&[0; 32]))),
        (2010, Input::TimePassed),
    ]
}

#[test]
fn n3_13_a_locked_slow_or_broken_key_service_ends_the_handshake() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| *mode != Mode::Resumption) {
        let bench = Bench::new(mode, suite);
        let config = || Arc::new(bench.alice.config(&bench.bob));
        for (time, answer) in unwilling() {
            let mut initiator = if mode.has_two_messages() {
                // Its first message needs the key service already.
                Initiator::new(at(10), config(), bench.prior.opening(suite), [1; 32]).unwrap()
            } else {
                let (mut initiator, first) = bench.initiator(1);
                let (_, second) = bench.responder(&first).unwrap();
                initiator.handle(at(10), Input::Packet(&second));
                initiator
            };
            assert!(matches!(initiator.poll(), Output::Agree { .. }));
            let deadline = Duration::from_millis(2010);
            assert!(matches!(initiator.poll(), Output::Wait { until } if until == deadline));
            initiator.handle(at(time), answer);
            assert!(matches!(initiator.poll(), Output::Failed(Failure::KeyService)), "{mode:?}");
        }
        // A wrong agreement makes no channel.
        let (mut initiator, first) = bench.initiator(1);
        let (mut responder, second) = bench.responder(&first).unwrap();
        initiator.handle(at(10), Input::Packet(&second));
        assert!(matches!(initiator.poll(), Output::Agree { .. }));
        initiator.handle(at(10), Input::Agreed(SharedSecret::new(&[8; 32])));
        match initiator.poll() {
            // It cannot know that the agreement is wrong.
            Output::Transmit(To::Peer, third) => assert!(!establishes(&mut responder, &third)),
            Output::Wait { .. } => assert!(mode.has_two_messages()),
            other => panic!("{mode:?}: {other:?}"),
        }
    }
}

#[test]
fn n3_13_an_unwilling_key_service_before_the_second_message_authenticated_fails_the_attempt_only() {
    let reads = |mode: Mode| mode.has_two_messages() && mode != Mode::Resumption;
    for (mode, suite) in all_pairs().filter(|(mode, _)| reads(*mode)) {
        for (time, answer) in unwilling() {
            let bench = Bench::new(mode, suite);
            let (mut initiator, first) = bench.initiator(1);
            let (_, second) = bench.responder(&first).unwrap();
            initiator.handle(at(10), Input::Packet(&second));
            assert!(matches!(initiator.poll(), Output::Agree { .. }));
            initiator.handle(at(time), answer);
            assert!(matches!(initiator.poll(), Output::Wait { .. }));
            initiator.handle(at(3000), Input::TimePassed);
            let first = bench.first(&mut initiator).unwrap();
            let (mut responder, second) = bench.responder(&first).unwrap();
            let last = bench.last(&mut initiator, &second).unwrap();
            assert!(establishes(&mut responder, &last), "{mode:?}");
        }
    }
}

#[test]
fn n3_13_a_responder_without_its_key_service_fails_silently() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| *mode != Mode::Resumption) {
        let bench = Bench::new(mode, suite);
        let (_, first) = bench.initiator(1);
        // IK and KK ask twice: for the ephemeral key, then for the initiator's static key.
        let asks = if mode.has_two_messages() { 2 } else { 1 };
        for willing in 0..asks {
            for (time, answer) in unwilling() {
                let mut listener = HandshakeTable::new(Arc::new(bench.bob_config()), all_modes()).unwrap();
                let message = FirstMessage { flow: FLOW, behind: b"", packet: &first };
                let Verdict::Accept { mut responder, .. } = listener.receive(at(10), message, [1; 32]) else {
                    panic!("a good first message is accepted");
                };
                for _ in 0..willing {
                    let Output::Agree { peer, .. } = responder.poll() else {
                        panic!("a responder first asks for its agreements");
                    };
                    responder.handle(at(10), agreed(&bench.bob, &peer));
                }
                assert!(matches!(responder.poll(), Output::Agree { .. }), "{mode:?}");
                responder.handle(at(time), answer);
                assert!(matches!(responder.poll(), Output::Failed(Failure::KeyService)), "{mode:?}");
            }
        }
    }
}

#[test]
fn rubbish_changes_no_state() {
    let bench = Bench::new(Mode::ClassicalXx, Suite::AesGcm);
    let (mut initiator, first) = bench.initiator(1);
    let (mut responder, second) = bench.responder(&first).unwrap();
    let mut dice = Dice(5);
    let mut rubbish = |length: usize, first: u8| {
        let mut bytes: Vec<u8> = (0..length).map(|_| dice.roll() as u8).collect();
        bytes.iter_mut().take(1).for_each(|byte| *byte = first);
        bytes
    };
    for length in 0..300 {
        for first in [0x89, 0x00] {
            let packet = rubbish(length, first);
            initiator.handle(at(1), Input::Packet(&packet));
            responder.handle(at(1), Input::Packet(&packet));
        }
    }
    let third = bench.last(&mut initiator, &second).unwrap();
    assert!(establishes(&mut responder, &third));
}
