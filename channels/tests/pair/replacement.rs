//! Re-handshakes: a channel takes the place of another only if both ends prove that they know that one.

use std::sync::Arc;

use onward_channels::{Established, Initiator, Mode, Opening, Predecessor, Session, Suite};

use crate::harness::{Faults, Pair, Party, at};

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
        let Self { alice, bob, mode, suite, known_to_alice, known_to_bob, faults } = self;
        let configs = (alice.config(&bob), bob.config(&alice));
        let config = Arc::new(configs.0.clone());
        let opening =
            Opening { replaces: Some(known_to_alice), ..Opening::new(mode, suite, Some(bob.identifier())) };
        let mut pair = Pair::with(mode, suite, 1, alice, bob, configs);
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
    for (mode, suite) in [(Mode::HybridXx, Suite::ChaChaPoly), (Mode::ClassicalXx, Suite::AesGcm)] {
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
    let (mode, suite) = (Mode::HybridXx, Suite::ChaChaPoly);
    let (alice, bob, _, theirs) = channel(mode, suite);
    // The thief has Alice's keys, knows the public hs_id, and makes up the rest: from another channel of hers.
    let pair =
        Pair::with(mode, suite, 2, alice.clone(), bob.clone(), (alice.config(&bob), bob.config(&alice)));
    let (other, _) = pair.sessions();
    let forged = Attempt {
        alice: alice.clone(),
        bob: bob.clone(),
        mode,
        suite,
        known_to_alice: other.binding.predecessor(),
        // Whatever id is named, Bob's proof rests on the channel that he knows.
        known_to_bob: Some(theirs),
        faults: Faults::default(),
    };
    let (thief, victim) = forged.run();
    assert_eq!((thief.replaces, victim.replaces), (None, None));
}

#[test]
fn n3_16_a_responder_that_does_not_know_the_old_channel_replaces_nothing() {
    let (mode, suite) = (Mode::ClassicalXx, Suite::ChaChaPoly);
    let (alice, bob, ours, _) = channel(mode, suite);
    let known_to_alice = ours.binding.predecessor();
    let attempt =
        Attempt { alice, bob, mode, suite, known_to_alice, known_to_bob: None, faults: Faults::default() };
    let (ours, theirs) = attempt.run();
    assert_eq!((ours.replaces, theirs.replaces), (None, None));
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
