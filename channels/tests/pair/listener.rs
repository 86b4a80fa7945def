//! The listener under load: what it answers, what it keeps, and what it lets others send.

use std::sync::Arc;

use onward_channels::{
    FirstMessage, HandshakeConfig, HandshakeId, HandshakeTable, Initiator, Input, ListenerLimits, Mode, Now,
    Output, Responder, Suite, To, Verdict,
};

use crate::harness::{Dice, Packet, Pair, Party, Prior, all_modes, all_pairs, at};

/// Many initiators of one party, each with its own randomness.
struct Crowd {
    alice: Party,
    bob: Party,
    prior: Prior,
    suite: Suite,
    dice: Dice,
}

impl Crowd {
    fn new(mode: Mode, suite: Suite) -> Self {
        let (alice, bob) = (Party::new(), Party::new());
        let prior = Prior::new(mode, &alice, &bob);
        Self { alice, bob, prior, suite, dice: Dice(3) }
    }

    fn config(&self) -> Arc<HandshakeConfig> {
        Arc::new(HandshakeConfig { bases: self.prior.bases(), ..self.bob.config(&self.alice) })
    }

    fn listener(&self) -> HandshakeTable {
        HandshakeTable::new(self.config(), all_modes()).unwrap()
    }

    fn initiator(&mut self, now: Now) -> (Initiator, Vec<u8>) {
        let config = Arc::new(self.alice.config(&self.bob));
        let (opening, random) = (self.prior.opening(self.suite), self.dice.bytes());
        let mut initiator = Initiator::new(now, config, opening, random).unwrap();
        loop {
            match initiator.poll() {
                Output::Agree { peer, .. } => {
                    let secret = self.alice.agree(&peer).unwrap();
                    initiator.handle(now, Input::Agreed(secret));
                }
                Output::Spend(..) => {}
                Output::Transmit(To::Listener, first) => return (initiator, first),
                other => panic!("{other:?}"),
            }
        }
    }

    fn receive(&mut self, listener: &mut HandshakeTable, now: Now, flow: u128, packet: &[u8]) -> Verdict {
        listener.receive(now, FirstMessage { flow, behind: b"", packet }, self.dice.bytes())
    }

    /// Takes an accepted handshake to its end.
    fn complete(&self, now: Now, mut initiator: Initiator, mut responder: Responder) {
        let mut ready = [false; 2];
        while ready != [true; 2] {
            match responder.poll() {
                Output::Agree { peer, .. } => {
                    responder.handle(now, Input::Agreed(self.bob.agree(&peer).unwrap()));
                }
                Output::Transmit(_, packet) => initiator.handle(now, Input::Packet(&packet)),
                Output::Admit => responder.handle(now, Input::Admitted(true)),
                Output::Established(_) => ready[1] = true,
                Output::Spend(..) | Output::Wait { .. } => {}
                other => panic!("{other:?}"),
            }
            match initiator.poll() {
                Output::Agree { peer, .. } => {
                    initiator.handle(now, Input::Agreed(self.alice.agree(&peer).unwrap()));
                }
                Output::Transmit(_, packet) => responder.handle(now, Input::Packet(&packet)),
                Output::Established(_) => ready[0] = true,
                Output::Wait { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn accepted(verdict: Verdict) -> (HandshakeId, Responder, Option<HandshakeId>) {
    match verdict {
        Verdict::Accept { id, responder, evicted } => (id, *responder, evicted),
        other => panic!("{other:?}"),
    }
}

fn retried(verdict: Verdict) -> Vec<u8> {
    match verdict {
        Verdict::Retry(retry) => retry,
        other => panic!("{other:?}"),
    }
}

/// The first message of `initiator` with the cookie it was given.
fn with_cookie(initiator: &mut Initiator, now: Now, retry: &[u8]) -> Vec<u8> {
    initiator.handle(now, Input::Packet(retry));
    match initiator.poll() {
        Output::Transmit(To::Listener, first) => first,
        other => panic!("{other:?}"),
    }
}

/// `first` as another attempt: with another hsid.
fn renamed(first: &[u8], number: u64) -> Vec<u8> {
    let mut changed = first.to_vec();
    changed[7..15].copy_from_slice(&number.to_be_bytes());
    changed
}

#[test]
fn n3_10_a_flood_of_first_messages_stays_below_the_caps_and_a_cookie_gets_through() {
    for (mode, suite) in all_pairs() {
        // The whole flood once; in the other modes as much as passes the thresholds.
        let flood = if (mode, suite) == (Mode::HybridXx, Suite::ChaChaPoly) { 100_000 } else { 2_000 };
        let mut crowd = Crowd::new(mode, suite);
        let mut listener = crowd.listener();
        let (_, first) = crowd.initiator(at(0));
        let (mut accepted_count, mut retries) = (0u64, 0u64);
        for number in 0..flood {
            let flow = u128::from(number % 64);
            match crowd.receive(&mut listener, at(number / 100), flow, &renamed(&first, number)) {
                Verdict::Accept { evicted, .. } => {
                    assert_eq!(evicted, None, "nobody without a cookie pushes anybody out");
                    accepted_count += 1;
                }
                Verdict::Retry(retry) => {
                    assert!(retry.len() <= first.len() + 42);
                    retries += 1;
                }
                other => panic!("{other:?}"),
            }
            assert!(listener.half_open() <= 512);
        }
        assert_eq!((accepted_count, retries), (512, flood - 512));
        // An honest initiator on a flooded flow.
        let now = at(1001);
        let (mut initiator, first) = crowd.initiator(now);
        let retry = retried(crowd.receive(&mut listener, now, 3, &first));
        let first = with_cookie(&mut initiator, now, &retry);
        let (_, responder, _) = accepted(crowd.receive(&mut listener, now, 3, &first));
        crowd.complete(now, initiator, responder);
    }
}

#[test]
fn n3_10_holders_of_cookies_push_out_those_without_and_then_the_largest() {
    for (mode, suite) in all_pairs().filter(|(mode, _)| !mode.is_resumption()) {
        let mut crowd = Crowd::new(mode, suite);
        let mut listener = crowd.listener();
        let mut held = Vec::new();
        // Sixteen without a cookie fill the flow up to its threshold.
        for _ in 0..16 {
            let (_, first) = crowd.initiator(at(0));
            held.push(accepted(crowd.receive(&mut listener, at(0), 7, &first)).0);
        }
        let mut with_cookies = Vec::new();
        for number in 0..40 {
            let (mut initiator, first) = crowd.initiator(at(0));
            let retry = retried(crowd.receive(&mut listener, at(0), 7, &first));
            let first = with_cookie(&mut initiator, at(0), &retry);
            let (id, _, evicted) = accepted(crowd.receive(&mut listener, at(0), 7, &first));
            let expected = match number {
                0..16 => None,
                16..32 => Some(held[number - 16]),
                _ => Some(with_cookies[number - 32]),
            };
            assert_eq!(evicted, expected, "number {number}");
            with_cookies.push(id);
            assert!(listener.half_open() <= 32);
        }
    }
}

#[test]
fn n3_10_a_cookie_of_another_flow_or_attempt_is_answered_by_a_new_one() {
    for (mode, suite) in all_pairs() {
        let mut crowd = Crowd::new(mode, suite);
        let mut listener = crowd.listener();
        let (_, filler) = crowd.initiator(at(0));
        for number in 0..32 {
            crowd.receive(&mut listener, at(0), u128::from(number % 2), &renamed(&filler, number));
        }
        let (mut initiator, first) = crowd.initiator(at(0));
        let retry = retried(crowd.receive(&mut listener, at(0), 0, &first));
        let first = with_cookie(&mut initiator, at(0), &retry);
        assert!(matches!(crowd.receive(&mut listener, at(0), 1, &first), Verdict::Retry(_)), "another flow");
        let other = renamed(&first, 99);
        assert!(matches!(crowd.receive(&mut listener, at(0), 0, &other), Verdict::Retry(_)), "another hsid");
        let late = at(250_000);
        assert!(matches!(crowd.receive(&mut listener, late, 0, &first), Verdict::Retry(_)), "too late");
        let (_, filler) = crowd.initiator(at(0));
        assert!(matches!(crowd.receive(&mut listener, at(0), 0, &filler), Verdict::Retry(_)), "still busy");
    }
}

#[test]
fn n3_10_a_flow_above_its_rate_is_asked_for_a_cookie() {
    for (mode, suite) in all_pairs() {
        let mut crowd = Crowd::new(mode, suite);
        let mut listener = crowd.listener();
        let (_, first) = crowd.initiator(at(0));
        let mut taken = 0;
        for number in 0..1000 {
            if let Verdict::Accept { id, .. } =
                crowd.receive(&mut listener, at(0), 7, &renamed(&first, number))
            {
                listener.ended(id);
                taken += 1;
            }
        }
        assert_eq!(taken, 400);
        assert!(matches!(
            crowd.receive(&mut listener, at(1000), 7, &renamed(&first, 5000)),
            Verdict::Accept { .. }
        ));
    }
}

#[test]
fn n3_17_at_most_three_times_what_came_goes_back_before_the_third_message() {
    for (mode, suite) in all_pairs() {
        let mut pair = Pair::new(mode, suite, 1);
        // The third message never arrives, the first comes again and again.
        while pair.initiator_end.is_none() {
            let until = pair.drain_initiator();
            pair.drain_responders();
            match pair.link.pop_front() {
                Some(Packet::First(bytes)) => {
                    for _ in 0..3 {
                        pair.deliver(Packet::First(bytes.clone()));
                    }
                }
                Some(_) => {}
                None if pair.initiator_end.is_some() => {}
                None => {
                    pair.set_time(until);
                    pair.initiator.handle(pair.now, Input::TimePassed);
                }
            }
        }
        let sum = |of: fn(&Packet) -> bool| -> usize {
            pair.sent.iter().filter(|(_, packet)| of(packet)).map(|(_, packet)| packet.bytes().len()).sum()
        };
        let received = sum(|packet| matches!(packet, Packet::First(_)));
        let answers: Vec<_> =
            pair.sent.iter().filter(|(_, packet)| matches!(packet, Packet::Back(..))).collect();
        let sent = sum(|packet| matches!(packet, Packet::Back(..)));
        assert!(sent <= 3 * 3 * received, "{mode:?}: {sent} for {received} sent three times over");
        assert_eq!(answers.len(), 5, "the second message is sent again four times");
        for pair in answers.windows(2) {
            assert!((pair[1].0 - pair[0].0).as_secs() >= 1);
        }
    }
}

#[test]
fn n3_17_an_unpadded_first_message_is_answered_by_a_cookie_only() {
    let mut crowd = Crowd::new(Mode::ClassicalXx, Suite::ChaChaPoly);
    let mut listener = crowd.listener();
    // Sixteen bytes of hsid, and a message of just an ephemeral key.
    let head = [0x89, 1, 1, 2, 1, 1, 0x50];
    let first = [&head[..], &[4; 16], &[0xf6, 0xf6, 0x58, 32], &[9; 32]].concat();
    let retry = retried(crowd.receive(&mut listener, at(0), 7, &first));
    assert!(retry.len() <= 3 * first.len());
    assert_eq!(listener.half_open(), 0, "asking leaves no state");
    let cookie = &retry[23..65];
    let first = [&head[..], &[4; 16], cookie, &[0xf6, 0x58, 32], &[9; 32]].concat();
    accepted(crowd.receive(&mut listener, at(0), 7, &first));
    // A padded one needs no cookie.
    let (_, first) = crowd.initiator(at(0));
    accepted(crowd.receive(&mut listener, at(0), 7, &first));
}

#[test]
fn n3_17_copies_of_a_first_message_earn_a_second_only_within_the_factor() {
    for (mode, suite) in all_pairs() {
        let mut crowd = Crowd::new(mode, suite);
        let mut listener = crowd.listener();
        let (_, first) = crowd.initiator(at(0));
        let (id, mut responder, _) = accepted(crowd.receive(&mut listener, at(0), 7, &first));
        let (mut received, mut sent) = (first.len(), 0);
        for second in 1..20 {
            loop {
                match responder.poll() {
                    Output::Agree { peer, .. } => {
                        responder.handle(at(0), Input::Agreed(crowd.bob.agree(&peer).unwrap()));
                    }
                    Output::Transmit(_, packet) => sent += packet.len(),
                    Output::Spend(..) => {}
                    _ => break,
                }
            }
            assert!(sent > 0 && sent <= 3 * received, "{mode:?}");
            assert!(matches!(
                crowd.receive(&mut listener, at(second * 1000), 7, &first),
                Verdict::Repeated(same) if same == id
            ));
            responder.handle(at(second * 1000), Input::Packet(&first));
            received += first.len();
        }
    }
}

#[test]
fn another_first_message_of_a_known_attempt_is_dropped() {
    let mut crowd = Crowd::new(Mode::HybridXx, Suite::ChaChaPoly);
    let mut listener = crowd.listener();
    let (_, first) = crowd.initiator(at(0));
    let (id, ..) = accepted(crowd.receive(&mut listener, at(0), 7, &first));
    let mut other = first.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    assert!(matches!(crowd.receive(&mut listener, at(0), 7, &other), Verdict::Drop));
    assert!(matches!(crowd.receive(&mut listener, at(0), 7, &first), Verdict::Repeated(same) if same == id));
    listener.established(id);
    assert_eq!(listener.half_open(), 0);
    assert!(matches!(crowd.receive(&mut listener, at(0), 7, &first), Verdict::Drop), "ready");
    listener.ended(id);
    assert!(matches!(crowd.receive(&mut listener, at(0), 7, &first), Verdict::Accept { .. }), "closed");
}

#[test]
fn at_the_cap_in_all_the_flow_that_holds_most_gives_way() {
    let mut crowd = Crowd::new(Mode::HybridXx, Suite::ChaChaPoly);
    let limits =
        ListenerLimits { half_open_max: 8, half_open_cookie: 0, half_open_per_flow_cookie: 0, ..all_modes() };
    let mut listener = HandshakeTable::new(crowd.config(), limits).unwrap();
    let mut open = |crowd: &mut Crowd, flow: u128, behind: &[u8]| {
        let (mut initiator, packet) = crowd.initiator(at(0));
        let random = crowd.dice.bytes();
        let retry = retried(listener.receive(at(0), FirstMessage { flow, behind, packet: &packet }, random));
        let packet = with_cookie(&mut initiator, at(0), &retry);
        let (id, _, evicted) =
            accepted(listener.receive(at(0), FirstMessage { flow, behind, packet: &packet }, random));
        (id, evicted)
    };
    let single = open(&mut crowd, 1, b"x").0;
    let spread: Vec<_> = [b"a", b"b", b"c"].map(|behind| open(&mut crowd, 2, behind).0).to_vec();
    let greedy: Vec<_> = (0..4).map(|_| open(&mut crowd, 3, b"greedy").0).collect();
    assert_eq!(open(&mut crowd, 4, b"y").1, Some(greedy[0]));
    assert_eq!(open(&mut crowd, 5, b"y").1, Some(greedy[1]));
    assert_eq!(open(&mut crowd, 6, b"y").1, Some(greedy[2]));
    // Now everybody holds one, and the flow with most of them gives way.
    assert_eq!(open(&mut crowd, 7, b"y").1, Some(spread[0]));
    assert_ne!(open(&mut crowd, 8, b"y").1, Some(single));
}
