//! Re-handshakes: a channel takes the place of another only if both ends prove that they know that one.

use std::sync::Arc;

use onward_channels::{
    CloseCode, Established, Failure, FrameType, HandshakeConfig, HandshakeTable, Initiator, Input,
    ListenerLimits, Mode, Opening, Predecessor, Session, Suite,
};
use onward_keys::{Label, mac};

use crate::harness::{Faults, Pair, Party, Prior, all_modes, all_pairs, at};

/// A handshake of Alice with Bob that is to replace a channel: what Alice, and what Bob knows of it.
struct Attempt {
    alice: Party,
    bob: Party,
    mode: Mode,
    suite: Suite,
    known_to_alice: Predecessor,
    known_to_bob: Option<Session>,
    faults: Faults,
}

impl Attempt {
    /// What Alice's and what Bob's end say of the channel that they have in the end.
    fn run(self) -> (Established, Established) {
        self.run_at(ListenerLimits::default().open_max)
    }

    /// As [`Self::run`], at a listener with so many places.
    fn run_at(self, open_max: usize) -> (Established, Established) {
        let Self { alice, bob, mode, suite, known_to_alice, known_to_bob, faults } = self;
        let configs = (alice.config(&bob), bob.config(&alice));
        let config = Arc::new(configs.0.clone());
        let prior = Prior::new(mode, &alice, &bob);
        let opening = Opening { replaces: Some(known_to_alice), ..prior.opening(suite) };
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
        // The listener holds the responder's half of this very ticket.
        let theirs = Arc::new(HandshakeConfig { bases: prior.bases(), ..pair.bob.config(&pair.alice) });
        pair.listener = HandshakeTable::new(theirs, ListenerLimits { open_max, ..all_modes() }).unwrap();
        pair.initiator = Initiator::new(at(0), config, opening, [7; 32]).unwrap();
        pair.replaced = known_to_bob;
        pair.faults = faults;
        pair.run();
        let ours = pair.initiator_end.unwrap().unwrap();
        let same = |end: &Established| end.session.binding.id() == ours.session.binding.id();
        let mut ends = pair.responder_end.into_iter().filter_map(|(_, end)| end.ok());
        let theirs = ends.find(same).expect("the responder has the channel too");
        (ours, theirs)
    }
}

fn channel(mode: Mode, suite: Suite) -> (Party, Party, Session, Session) {
    let pair = Pair::new(mode, suite, 1);
    let (alice, bob) = (pair.alice.clone(), pair.bob.clone());
    let (ours, theirs) = pair.sessions();
    (alice, bob, ours, theirs)
}

#[test]
fn n3_16_both_ends_that_know_the_old_channel_agree_that_the_new_one_replaces_it() {
    for (mode, suite) in all_pairs() {
        for lost in [0, 30] {
            let (alice, bob, ours, theirs) = channel(mode, suite);
            let id = *ours.binding.id();
            let (new_ours, new_theirs) = Attempt {
                alice,
                bob,
                mode,
                suite,
                known_to_alice: ours.binding.predecessor(),
                known_to_bob: Some(theirs),
                faults: Faults { lost, reordered: lost, ..Faults::default() },
            }
            .run();
            assert_eq!((new_ours.replaces, new_theirs.replaces), (Some(id), Some(id)));
            assert_ne!(*new_ours.session.binding.id(), id);
        }
    }
}

#[test]
fn n3_16_a_thief_of_the_static_key_who_does_not_know_the_old_channel_gets_one_of_his_own() {
    for (mode, suite) in all_pairs() {
        let (alice, bob, _, theirs) = channel(mode, suite);
        let configs = (alice.config(&bob), bob.config(&alice));
        let other = Pair::with(mode, suite, 2, alice.clone(), bob.clone(), configs).sessions().0;
        let forged = Attempt {
            alice,
            bob,
            mode,
            suite,
            // The thief has Alice's keys and proves what he can: that he knows a channel of his own.
            known_to_alice: other.binding.predecessor(),
            known_to_bob: Some(theirs),
            faults: Faults::default(),
        };
        let (thief, victim) = forged.run();
        assert_eq!((thief.replaces, victim.replaces), (None, None), "{mode:?}");
    }
}

#[test]
fn n3_16_a_responder_that_does_not_know_the_old_channel_replaces_nothing() {
    for (mode, suite) in all_pairs() {
        let (alice, bob, ours, _) = channel(mode, suite);
        let known_to_alice = ours.binding.predecessor();
        let faults = Faults::default();
        let attempt = Attempt { alice, bob, mode, suite, known_to_alice, known_to_bob: None, faults };
        let (ours, theirs) = attempt.run();
        assert_eq!((ours.replaces, theirs.replaces), (None, None), "{mode:?}");
    }
}

#[test]
fn n3_16_the_proof_of_one_end_is_none_of_the_other() {
    for (mode, suite) in all_pairs() {
        let (alice, bob, ours, theirs) = channel(mode, suite);
        let known_to_alice = ours.binding.predecessor();
        let prior = Prior::new(mode, &alice, &bob);
        let opening = Opening { replaces: Some(known_to_alice), ..prior.opening(suite) };
        let configs = (alice.config(&bob), bob.config(&alice));
        let config = Arc::new(configs.0.clone());
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
        let listener = Arc::new(HandshakeConfig { bases: prior.bases(), ..pair.bob.config(&pair.alice) });
        pair.listener.reconfigure(listener).unwrap();
        pair.initiator = Initiator::new(at(0), config, opening, [7; 32]).unwrap();
        pair.replaced = Some(theirs);
        // Up to the responder's CONFIRM, which is not delivered.
        while pair.responder_end.is_empty() {
            pair.drain_initiator();
            pair.drain_responders();
            if pair.responder_end.is_empty() {
                let packet = pair.link.pop_front().unwrap();
                pair.deliver(packet);
            }
        }
        let mut bob = pair.responder_end.pop().unwrap().1.unwrap();
        assert!(bob.replaces.is_some(), "{mode:?}");
        // A responder that knows no more than it was sent gives back the initiator's own proof.
        let proof = initiator_proof(&bob, &ours);
        let mut echo = Vec::new();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&proof);
        bob.session.sealer.seal_into(pair.now, FrameType::Confirm, 64, write, &mut echo).unwrap();
        pair.initiator.handle(pair.now, Input::Packet(&echo));
        pair.drain_initiator();
        let end = pair.initiator_end.unwrap().unwrap();
        assert_eq!(end.replaces, None, "{mode:?}: a channel of its own");
    }
}

#[test]
fn a_listener_without_places_takes_successors_and_tells_all_others() {
    for (mode, suite) in all_pairs() {
        let (alice, bob, ours, theirs) = channel(mode, suite);
        let known_to_alice = ours.binding.predecessor();
        let (faults, known_to_bob) = (Faults::default(), Some(theirs));
        let attempt = Attempt { alice, bob, mode, suite, known_to_alice, known_to_bob, faults };
        let (ours, theirs) = attempt.run_at(0);
        assert!(ours.replaces.is_some() && theirs.replaces.is_some(), "{mode:?}");

        let (alice, bob) = (Party::new(), Party::new());
        let prior = Prior::new(mode, &alice, &bob);
        let config = Arc::new(HandshakeConfig { bases: prior.bases(), ..bob.config(&alice) });
        let initiator = Initiator::new(at(0), Arc::new(alice.config(&bob)), prior.opening(suite), [7; 32]);
        let configs = (alice.config(&bob), bob.config(&alice));
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
        pair.listener = HandshakeTable::new(config, ListenerLimits { open_max: 0, ..all_modes() }).unwrap();
        pair.initiator = initiator.unwrap();
        pair.run();
        let told = pair.initiator_end.unwrap();
        assert!(matches!(told, Err(Failure::Closed(CloseCode::Full))), "{mode:?}: {told:?}");
        assert!(matches!(pair.responder_end[..], [(_, Err(Failure::Full))]), "{mode:?}");
        assert_eq!((pair.listener.refused(), pair.listener.half_open()), (1, 0));
    }
}

#[test]
fn a_place_is_free_again_when_its_channel_has_ended() {
    let limits = ListenerLimits { open_max: 1, ..all_modes() };
    let mut pair = Pair::new(Mode::HybridXx, Suite::ChaChaPoly, 1);
    let config = Arc::new(pair.bob.config(&pair.alice));
    pair.listener = HandshakeTable::new(config, limits).unwrap();
    let mut ends = Vec::new();
    for random in 1..=3 {
        let prior = Prior::new(Mode::HybridXx, &pair.alice, &pair.bob);
        let (config, opening) = (Arc::new(pair.alice.config(&pair.bob)), prior.opening(Suite::ChaChaPoly));
        pair.initiator = Initiator::new(pair.now, config, opening, [random; 32]).unwrap();
        pair.initiator_end = None;
        pair.run();
        ends.push(pair.initiator_end.take().unwrap().is_ok());
        if random == 2 {
            pair.listener.ended(pair.responder_end[0].0);
        }
    }
    assert_eq!((ends, pair.listener.refused()), (vec![true, false, true], 1));
}

/// The body of the initiator's CONFIRM, as docs/protocol.md §3.4 defines it.
fn initiator_proof(new: &Established, old: &Session) -> Vec<u8> {
    let mut key = [0; 32];
    old.binding.export("rehs", b"", &mut key);
    let id = new.session.binding.id();
    [&id[..], &mac(&key, &Label::new("rehs").uint(1).bytes(id).encode())].concat()
}

#[test]
fn n3_16_a_weaker_mode_replaces_nothing() {
    let (alice, bob, ours, theirs) = channel(Mode::HybridXx, Suite::ChaChaPoly);
    let known_to_alice = ours.binding.predecessor();
    let attempt = Attempt {
        alice,
        bob,
        mode: Mode::ClassicalXx,
        suite: Suite::AesGcm,
        known_to_alice,
        known_to_bob: Some(theirs),
        faults: Faults::default(),
    };
    let (ours, theirs) = attempt.run();
    assert_eq!((ours.replaces, theirs.replaces), (None, None));
}
