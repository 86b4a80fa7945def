//! Tickets: a channel is resumed once, whoever comes first, and by nobody who only knows the ticket's name.

use std::sync::{Arc, Mutex, PoisonError};

use onward_channels::{
    Bases, Basis, FirstMessage, HandshakeConfig, HandshakeTable, Initiator, Input, Mode, Opening, Output,
    Psk, Responder, Role, Suite, Ticket, Tickets, To, Verdict,
};
use onward_keys::SharedSecret;

use crate::harness::{FLOW, Pair, Party, SUITES, all_modes, all_pairs, at};

/// Two parties, and both halves of the ticket of a channel they had.
struct Ended {
    alice: Party,
    bob: Party,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

impl Ended {
    fn new(mode: Mode, suite: Suite) -> Self {
        let pair = Pair::new(mode, suite, 1);
        let (alice, bob) = (pair.alice.clone(), pair.bob.clone());
        let (ours, theirs) = pair.established();
        let ours = ours.ticket(at(0), alice.identifier()).to_bytes().to_vec();
        let theirs = theirs.ticket(at(0), bob.identifier()).to_bytes().to_vec();
        Self { alice, bob, ours, theirs }
    }

    fn opening(&self, suite: Suite) -> Opening {
        let ticket = Ticket::from_bytes(&self.ours).unwrap();
        let basis = Basis::Ticket(Box::new(ticket));
        Opening { basis, ..Opening::new(Mode::Resumption, suite, Some(self.bob.identifier())) }
    }

    /// A first message under a copy of the ticket.
    fn first(&self, suite: Suite, random: u8) -> (Initiator, Vec<u8>) {
        let config = Arc::new(self.alice.config(&self.bob));
        let mut initiator = Initiator::new(at(0), config, self.opening(suite), [random; 32]).unwrap();
        assert!(matches!(initiator.poll(), Output::Spend(Role::Initiator, _)), "before anything is sent");
        let Output::Transmit(To::Listener, first) = initiator.poll() else {
            panic!("a first message follows");
        };
        (initiator, first)
    }

    fn tickets(&self) -> Arc<Mutex<Tickets>> {
        let mut tickets = Tickets::new(4);
        assert!(tickets.keep(at(0), Ticket::from_bytes(&self.theirs).unwrap()).is_empty());
        Arc::new(Mutex::new(tickets))
    }

    fn listener(&self, tickets: &Arc<Mutex<Tickets>>) -> HandshakeTable {
        let bases = Bases { tickets: Arc::clone(tickets), ..Bases::default() };
        let config = HandshakeConfig { bases, ..self.bob.config(&self.alice) };
        HandshakeTable::new(Arc::new(config), all_modes()).unwrap()
    }
}

fn received(listener: &mut HandshakeTable, packet: &[u8]) -> Option<Responder> {
    match listener.receive(at(0), FirstMessage { flow: FLOW, behind: b"", packet }, [9; 32]) {
        Verdict::Accept { responder, .. } => Some(*responder),
        Verdict::Drop => None,
        other => panic!("{other:?}"),
    }
}

/// Whether the responder spends the ticket, and only then answers.
fn answers(responder: &mut Responder) -> bool {
    match responder.poll() {
        Output::Spend(Role::Responder, _) => {
            assert!(matches!(responder.poll(), Output::Transmit(To::Peer, _)));
            true
        }
        Output::Failed(_) => false,
        other => panic!("{other:?}"),
    }
}

fn held(tickets: &Mutex<Tickets>) -> usize {
    tickets.lock().unwrap_or_else(PoisonError::into_inner).len()
}

#[test]
fn every_channel_can_be_resumed() {
    for (mode, suite) in all_pairs() {
        let ended = Ended::new(mode, suite);
        let tickets = ended.tickets();
        let (alice, bob) = (ended.alice.clone(), ended.bob.clone());
        let configs = (alice.config(&bob), bob.config(&alice));
        let config = Arc::new(configs.0.clone());
        let mut pair = Pair::with(Mode::Resumption, suite, 1, alice, bob, configs);
        pair.listener = ended.listener(&tickets);
        pair.initiator = Initiator::new(at(0), config, ended.opening(suite), [1; 32]).unwrap();
        let (ours, theirs) = pair.established();
        assert_eq!(ours.session.binding.id(), theirs.session.binding.id());
        assert_eq!(held(&tickets), 0, "the ticket of {mode:?} is spent");
        // What it counts as, and what may replace it: a ticket of the harness is of mode 2.
        let first = if mode == Mode::Resumption { Mode::ClassicalXx } else { mode };
        assert_eq!((ours.session.binding.mode(), theirs.session.binding.mode()), (first, first));
    }
}

#[test]
fn n3_12_of_two_first_messages_under_one_ticket_the_later_is_dropped_in_both_orders() {
    for suite in SUITES {
        let ended = Ended::new(Mode::HybridXx, suite);
        let (_, one) = ended.first(suite, 1);
        let (_, two) = ended.first(suite, 2);
        for (earlier, later) in [(&one, &two), (&two, &one)] {
            let tickets = ended.tickets();
            let mut listener = ended.listener(&tickets);
            let mut responder = received(&mut listener, earlier).unwrap();
            assert!(answers(&mut responder));
            assert_eq!(held(&tickets), 0);
            assert!(received(&mut listener, later).is_none(), "the ticket is gone");
            // Nor at another listener of the same node.
            assert!(received(&mut ended.listener(&tickets), later).is_none());
        }
    }
}

#[test]
fn n3_12_a_repeated_first_message_is_answered_again_while_its_handshake_runs_and_never_after() {
    for suite in SUITES {
        let ended = Ended::new(Mode::ClassicalXx, suite);
        let tickets = ended.tickets();
        let mut listener = ended.listener(&tickets);
        let (_, first) = ended.first(suite, 1);
        let message = FirstMessage { flow: FLOW, behind: b"", packet: &first };
        let Verdict::Accept { id, .. } = listener.receive(at(0), message, [9; 32]) else {
            panic!("the first is accepted");
        };
        assert!(matches!(listener.receive(at(1), message, [8; 32]), Verdict::Repeated(same) if same == id));
        listener.ended(id);
        assert!(matches!(listener.receive(at(2), message, [7; 32]), Verdict::Drop));
    }
}

#[test]
fn n3_12_an_initiator_takes_a_ticket_once() {
    let ended = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let mut tickets = Tickets::new(4);
    assert!(tickets.keep(at(0), Ticket::from_bytes(&ended.ours).unwrap()).is_empty());
    let (alice, bob) = (ended.alice.identifier(), ended.bob.identifier());
    assert!(tickets.take_for(at(0), bob, alice).is_none(), "another identity's");
    assert!(tickets.take_for(at(0), alice, alice).is_none(), "for another peer");
    assert!(tickets.take_for(at(0), alice, bob).is_some());
    assert!(tickets.take_for(at(0), alice, bob).is_none());
    // The responder's half is not for resuming with.
    assert!(tickets.keep(at(0), Ticket::from_bytes(&ended.theirs).unwrap()).is_empty());
    assert!(tickets.take_for(at(0), bob, alice).is_none());
}

#[test]
fn n3_12_a_first_message_that_only_names_the_ticket_does_not_spend_it() {
    let suite = Suite::ChaChaPoly;
    let ended = Ended::new(Mode::HybridXx, suite);
    let tickets = ended.tickets();
    let mut listener = ended.listener(&tickets);
    let (_, good) = ended.first(suite, 1);
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(!answers(&mut received(&mut listener, &forged).unwrap()));
    assert_eq!(held(&tickets), 1);
    let (_, good) = ended.first(suite, 2);
    assert!(answers(&mut received(&mut listener, &good).unwrap()));
}

#[test]
fn n3_12_a_failed_resumption_is_not_tried_again() {
    let ended = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let (mut initiator, first) = ended.first(Suite::ChaChaPoly, 1);
    let tickets = ended.tickets();
    let mut responder = received(&mut ended.listener(&tickets), &first).unwrap();
    assert!(matches!(responder.poll(), Output::Spend(..)));
    let Output::Transmit(_, mut second) = responder.poll() else {
        panic!("it answers");
    };
    let last = second.len() - 1;
    second[last] ^= 1;
    initiator.handle(at(10), Input::Packet(&second));
    assert!(matches!(initiator.poll(), Output::Failed(_)));
}

#[test]
fn a_ticket_ends_after_a_day_and_gives_way_when_there_are_too_many() {
    let ended = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let (_, first) = ended.first(Suite::ChaChaPoly, 1);
    let tickets = ended.tickets();
    let mut listener = ended.listener(&tickets);
    let late = at(24 * 3_600_000);
    let message = FirstMessage { flow: FLOW, behind: b"", packet: &first };
    match listener.receive(late, message, [9; 32]) {
        Verdict::Accept { mut responder, .. } => assert!(!answers(&mut responder)),
        other => panic!("{other:?}"),
    }
    let another = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let mut few = Tickets::new(1);
    assert!(few.keep(at(0), Ticket::from_bytes(&ended.theirs).unwrap()).is_empty());
    let gone = few.keep(at(0), Ticket::from_bytes(&another.theirs).unwrap());
    assert_eq!((few.len(), gone.len()), (1, 1));
}

#[test]
fn a_stored_ticket_is_read_back_whole_or_not_at_all() {
    let ended = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let ticket = Ticket::from_bytes(&ended.ours).unwrap();
    assert_eq!(ticket.to_bytes().to_vec(), ended.ours);
    assert_eq!(ticket.remote(), ended.bob.identifier());
    assert!(!format!("{ticket:?}").contains("secret"));
    for length in 0..ended.ours.len() {
        assert!(Ticket::from_bytes(&ended.ours[..length]).is_none());
    }
    assert!(Ticket::from_bytes(&[&ended.ours[..], &[0]].concat()).is_none());
}

#[test]
fn a_mode_takes_only_the_basis_that_it_needs() {
    let ended = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let config = Arc::new(ended.alice.config(&ended.bob));
    for (mode, suite) in all_pairs() {
        let bases = [
            Basis::Nothing,
            Basis::Psk(Arc::new(Psk::new(SharedSecret::new(&[1; 32])))),
            Basis::Introduction(ended.bob.local.payload.clone().into()),
            Basis::Ticket(Box::new(Ticket::from_bytes(&ended.ours).unwrap())),
        ];
        let accepted = bases.map(|basis| {
            let opening = Opening { basis, ..Opening::new(mode, suite, Some(ended.bob.identifier())) };
            Initiator::new(at(0), Arc::clone(&config), opening, [1; 32]).is_ok()
        });
        let expected = match mode.number() {
            1 | 2 => [true, false, false, false],
            3 | 4 => [false, true, false, false],
            8 => [false, false, false, true],
            _ => [false, false, true, false],
        };
        assert_eq!(accepted, expected, "{mode:?}");
    }
}

#[test]
fn a_ticket_in_the_place_of_another_of_its_name_has_its_own_end() {
    let pair = Pair::new(Mode::HybridXx, Suite::ChaChaPoly, 1);
    let bob = pair.bob.identifier();
    let (_, theirs) = pair.established();
    let other = Ended::new(Mode::HybridXx, Suite::ChaChaPoly);
    let day = 24 * 3_600 * 1_000;
    let mut tickets = Tickets::new(4);
    for made in [at(0), at(day / 2)] {
        assert!(tickets.keep(made, theirs.ticket(made, bob)).is_empty());
        assert_eq!(tickets.len(), 1);
    }
    // The first one would have ended by now.
    let later = theirs.ticket(at(day), bob);
    assert_eq!(later.id(), theirs.ticket(at(0), bob).id());
    let gone = tickets.keep(at(day), Ticket::from_bytes(&other.theirs).unwrap());
    assert_eq!(gone.iter().filter(|ticket| ticket.id() == later.id()).count(), 0);
    assert_eq!(tickets.len(), 1, "the other ticket has ended, this one has not");
}
