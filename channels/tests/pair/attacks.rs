//! Channels under attack, at sizes: each row says how much was tried and what came of it.

use std::sync::Arc;
use std::time::Instant;

use onward_channels::{
    ChannelError, CloseCode, Content, FirstMessage, HEAD_BYTES, HandshakeTable, Initiator, Input,
    ListenerLimits, Mode, Opening, Output, Session, Suite, To, Verdict, is_handshake,
};
use onward_trials::{Difference, Row, Sample, size};

use crate::harness::{Dice, FLOW, Packet, Pair, Party, SUITES, all_modes, at, open, seal};

/// The length of a record's tag.
const TAG_BYTES: usize = 16;

fn sessions(suite: Suite) -> (Session, Session) {
    Pair::new(Mode::ClassicalXx, suite, 1).sessions()
}

/// Above it, a difference of times is more than chance.
const T_MAX: f64 = 4.5;

/// Puts `items` into an order of the dice's.
fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for place in (1..items.len()).rev() {
        items.swap(place, dice.below(place + 1));
    }
}

#[test]
fn a04_captured_handshakes_make_no_channel_and_harm_none() {
    let row = Row::new("A04");
    let replays = size(1_000, 10_000);
    let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 4);
    pair.run();
    let mut alice = pair.initiator_end.take().unwrap().unwrap().session;
    let mut bob = pair.responder_end.pop().unwrap().1.unwrap().session;
    let captured = |wanted: fn(&Packet) -> bool| {
        let packet = pair.sent.iter().map(|(_, packet)| packet).find(|packet| wanted(packet));
        packet.unwrap().bytes().to_vec()
    };
    let first = captured(|packet| matches!(packet, Packet::First(_)));
    let third = captured(|packet| matches!(packet, Packet::Forth(..)));
    let (mut dropped, mut failed, mut established, mut lost) = (0, 0, 0, 0);
    for number in 0..replays {
        let now = at(number as u64 * 10);
        // By the flow of the channel itself, and by ever new ones.
        let flow = if number % 2 == 0 { FLOW } else { 1000 + number as u128 };
        let message = FirstMessage { flow, behind: b"", packet: &first };
        match pair.listener.receive(now, message, pair.dice.bytes()) {
            Verdict::Drop => dropped += 1,
            Verdict::Accept { id, mut responder, evicted: None } => {
                loop {
                    match responder.poll() {
                        Output::Agree { peer, .. } => {
                            responder.handle(now, Input::Agreed(pair.bob.agree(&peer).unwrap()));
                        }
                        Output::Transmit(..) => responder.handle(now, Input::Packet(&third)),
                        Output::Failed(_) => break failed += 1,
                        Output::Established(_) => break established += 1,
                        Output::Admit => responder.handle(at(0), Input::Admitted(true)),
                        Output::Find(_) | Output::Spend(..) => panic!("it replaces and resumes nothing"),
                        Output::Wait { .. } => panic!("it has its third message"),
                    }
                }
                pair.listener.ended(id);
            }
            other => panic!("{other:?}"),
        }
        assert!(bob.confirmation.is_repeated(&third));
        if number % 100 == 0 {
            let record = seal(now, &mut alice, b"still");
            lost += usize::from(open(now, &mut bob, &record).is_err());
        }
    }
    row.exactly("channels made", established, 0);
    row.exactly("replays refused", dropped + failed, replays);
    row.exactly("messages lost on the live channel", lost, 0);
}

#[test]
fn a07_a_responder_says_the_same_whomever_a_scanner_looks_for() {
    let row = Row::new("A07");
    let probes = size(300, 1_000);
    let (bob, alice, stranger) = (Party::new(), Party::new(), Party::new());
    let config = Arc::new(bob.config(&alice));
    let mut dice = Dice(7);
    let mut differing = 0;
    // What the scanner sends when it looks for Bob, and when it looks for somebody else.
    let probe = |to: &Party, random| {
        let config = Arc::new(stranger.config(to));
        let opening = Opening::new(Mode::ClassicalXx, Suite::ChaChaPoly, Some(to.identifier()));
        let mut initiator = Initiator::new(at(0), config, opening, random).unwrap();
        match initiator.poll() {
            Output::Transmit(To::Listener, first) => first,
            other => panic!("{other:?}"),
        }
    };
    let t = Difference::least_t(T_MAX, || {
        let mut difference = Difference::default();
        for _ in 0..probes / 2 {
            let (random, answer_random) = (dice.bytes(), dice.bytes());
            let mut order = [false, true];
            shuffle(&mut order, &mut dice);
            let mut answers = [Vec::new(), Vec::new()];
            for other in order {
                let first = probe(if other { &alice } else { &bob }, random);
                let mut listener = HandshakeTable::new(Arc::clone(&config), all_modes()).unwrap();
                #[expect(clippy::disallowed_methods, reason = "what it takes is what is measured")]
                let began = Instant::now();
                let message = FirstMessage { flow: FLOW, behind: b"", packet: &first };
                let Verdict::Accept { mut responder, .. } = listener.receive(at(0), message, answer_random)
                else {
                    panic!("a good first message is accepted");
                };
                loop {
                    match responder.poll() {
                        Output::Agree { peer, .. } => {
                            responder.handle(at(0), Input::Agreed(bob.agree(&peer).unwrap()));
                        }
                        Output::Transmit(_, second) => break answers[usize::from(other)] = second,
                        end => panic!("{end:?}"),
                    }
                }
                difference.add(other, began.elapsed());
            }
            differing += usize::from(answers[0] != answers[1]);
        }
        difference
    });
    row.exactly("answers that differ", differing, 0);
    row.at_most("t of the times", t, T_MAX);
}

#[test]
fn a07_a_responder_says_nothing_to_an_initiator_it_refuses() {
    let row = Row::new("A07");
    let probes = size(30, 1_000);
    let mut said = 0;
    for probe in 0..probes as u64 {
        let (mode, suite) = (Mode::ClassicalXx, Suite::ChaChaPoly);
        let (mut alice, mut bob) = (Party::new(), Party::new());
        let known = bob.config(&alice).known;
        let config = |alice: &Party, bob: &Party, trusted: &Party| {
            let mut config = bob.config(trusted);
            config.known = Arc::clone(&known);
            (alice.config(bob), config)
        };
        // Every second one was a peer until now.
        if probe % 2 == 0 {
            let configs = config(&alice, &bob, &alice);
            let mut pair = Pair::with(mode, suite, probe, alice, bob, configs);
            pair.run();
            assert!(pair.initiator_end.unwrap().is_ok());
            (alice, bob) = (pair.alice, pair.bob);
        }
        let configs = config(&alice, &bob, &Party::new());
        let mut pair = Pair::with(mode, suite, probe, alice, bob, configs);
        pair.run();
        assert!(pair.initiator_end.is_some_and(|end| end.is_err()));
        let record = |packet: &Packet| matches!(packet, Packet::Back(_, bytes) if !is_handshake(bytes));
        said += pair.sent.iter().filter(|(_, packet)| record(packet)).count();
    }
    row.exactly("records to refused initiators", said, 0);
}

#[test]
fn a13_every_message_is_delivered_once_in_whatever_order() {
    /// As far as the replay window reaches.
    const REORDERED: usize = 1984;
    let row = Row::new("A13");
    let messages = size(50_000, 10_000_000);
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let mut dice = Dice(13);
    let (mut delivered, mut replays, mut repeats, mut number) = (0, 0, 0, 0u64);
    while delivered < messages {
        let mut block: Vec<(bool, Vec<u8>)> = Vec::new();
        for _ in 0..REORDERED {
            let record = seal(at(1), &mut alice, &number.to_be_bytes());
            number += 1;
            if dice.percent(20) {
                block.push((false, record.clone()));
                repeats += 1;
            }
            block.push((false, record));
        }
        shuffle(&mut block, &mut dice);
        let mut seen = vec![false; REORDERED];
        for (_, record) in &block {
            match open(at(1), &mut bob, record) {
                Ok(body) => {
                    let number = u64::from_be_bytes(body.try_into().unwrap()) as usize % REORDERED;
                    replays += usize::from(std::mem::replace(&mut seen[number], true));
                }
                Err(error) => assert!(matches!(error, ChannelError::Replayed(_)), "{error}"),
            }
        }
        delivered += seen.iter().filter(|seen| **seen).count();
    }
    row.exactly("messages lost", number as usize - delivered, 0);
    row.exactly("messages delivered twice", replays, 0);
    row.at_least("messages delivered", delivered, messages);
    row.at_least("of them also sent again, percent", repeats * 100 / delivered, 19);
}

#[test]
fn a15_after_the_last_number_another_channel_is_there_within_a_second() {
    let mut pair = Pair::new(Mode::HybridXx, Suite::ChaChaPoly, 15);
    #[expect(clippy::disallowed_methods, reason = "what it takes is what is measured")]
    let began = Instant::now();
    pair.run();
    let took = began.elapsed().as_secs_f64();
    assert!(pair.initiator_end.unwrap().is_ok());
    Row::new("A15").takes_at_most("seconds to another channel", took, 1.0);
}

#[test]
fn a16_what_failed_to_open_is_zeros() {
    let row = Row::new("A16");
    let forgeries = size(20_000, 100_000);
    let mut dice = Dice(16);
    let (mut left, mut opened) = (0, 0);
    for suite in SUITES {
        let (mut alice, mut bob) = sessions(suite);
        for _ in 0..forgeries / SUITES.len() {
            let length = dice.below(2000);
            let mut record = seal(at(1), &mut alice, &vec![0x5a; length]);
            let bit = HEAD_BYTES * 8 + dice.below((record.len() - HEAD_BYTES) * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            match bob.opener.open_in_place(at(1), &mut record) {
                Err(ChannelError::Unauthentic) => {}
                _ => opened += 1,
            }
            let text = &record[HEAD_BYTES..record.len() - TAG_BYTES];
            left += usize::from(text.iter().any(|byte| *byte != 0));
        }
    }
    row.exactly(&format!("of {forgeries} forged records, those that opened"), opened, 0);
    row.exactly("buffers with something left in them", left, 0);
}

/// What a receiver knows of a stream when nothing more comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stream {
    /// Closed, and everything before the close has come.
    Whole,
    /// Closed, and something before the close has not come.
    Truncated,
    /// Not closed.
    Open,
}

#[test]
fn a17_a_stream_that_was_cut_is_told_from_one_that_was_closed() {
    let row = Row::new("A17");
    let cuts = size(2_000, 10_000);
    let mut dice = Dice(17);
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let (mut correct, mut forged_closes) = (0, 0);
    for _ in 0..cuts {
        let length = 1 + dice.below(12);
        let mut records: Vec<_> = (0..length).map(|_| seal(at(1), &mut alice, b"part")).collect();
        let mut close = Vec::new();
        alice.sealer.seal_close(at(1), CloseCode::Normal, &mut close).unwrap();
        records.push(close);
        // Whoever cuts lets some records pass from the beginning, and perhaps the close all the same.
        let passed = dice.below(records.len() + 1);
        let close_passes = passed > length || dice.percent(50);
        let expected = match (passed.min(length) == length, close_passes) {
            (true, true) => Stream::Whole,
            (false, true) => Stream::Truncated,
            (_, false) => Stream::Open,
        };
        let close = records.pop().unwrap();
        let mut arrived: Vec<Vec<u8>> = records.drain(..passed.min(length)).collect();
        // Nobody else closes: a part of the close, a changed one, a record that calls itself one.
        let mut changed = close.clone();
        let bit = dice.below(changed.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        let forged = [close[..dice.below(close.len())].to_vec(), changed];
        arrived.extend(forged.iter().cloned());
        if close_passes {
            arrived.push(close);
        }
        let (mut verdict, mut last) = (Stream::Open, None);
        for (place, mut record) in arrived.into_iter().enumerate() {
            let Ok(frame) = bob.opener.open_in_place(at(1), &mut record) else { continue };
            let sequence = frame.sequence;
            match frame.content {
                Content::Data(_) => last = Some(sequence),
                Content::Close { last: named, .. } => {
                    let is_forged = (passed.min(length)..passed.min(length) + forged.len()).contains(&place);
                    forged_closes += usize::from(is_forged);
                    verdict = if named == last { Stream::Whole } else { Stream::Truncated };
                }
                other => panic!("{other:?}"),
            }
        }
        correct += usize::from(verdict == expected);
    }
    row.exactly("correct verdicts", correct, cuts);
    row.exactly("forged closes that closed", forged_closes, 0);
}

#[test]
fn a18_rekeys_that_cross_under_loss_cost_nothing_more() {
    /// Records of each side in an epoch, and the milliseconds after which its next send begins another.
    const RECORDS: usize = 4;
    const EPOCH: u64 = 120_000;
    let row = Row::new("A18");
    let epochs = size(1_000, 50_000);
    let mut dice = Dice(18);
    let (mut alice, mut bob) = sessions(Suite::AesGcm);
    let (mut sent, mut lost, mut refused, mut rekeys) = (0, 0, 0, 0);
    let mut late: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    for epoch in 0..epochs as u64 {
        // Both begin the epoch at once, while the last records of the one before are under way.
        let now = at(1 + epoch * EPOCH);
        let mut links = std::mem::take(&mut late);
        for (from, link) in [&mut alice, &mut bob].into_iter().zip(&mut links) {
            for _ in 0..RECORDS {
                link.push(seal(now, from, b"x"));
                sent += 1;
            }
            shuffle(link, &mut dice);
        }
        rekeys += 2 * usize::from(epoch > 0);
        for (place, link) in links.into_iter().enumerate() {
            let to = if place == 0 { &mut bob } else { &mut alice };
            for record in link {
                if dice.percent(5) {
                    lost += 1;
                } else {
                    refused += usize::from(open(now, to, &record).is_err());
                }
            }
        }
        // A record at the end of the epoch arrives in the next one, which begins within the minute.
        let end = at(1 + epoch * EPOCH + EPOCH - 1);
        for (from, link) in [&mut alice, &mut bob].into_iter().zip(&mut late) {
            link.push(seal(end, from, b"late"));
            sent += 1;
        }
    }
    let now = at(epochs as u64 * EPOCH);
    let there = seal(now, &mut alice, b"there");
    let back = seal(now, &mut bob, b"back");
    let dead = usize::from(open(now, &mut bob, &there).is_err())
        + usize::from(open(now, &mut alice, &back).is_err());
    row.at_least("rekeys", rekeys, 2 * epochs - 2);
    row.exactly("directions that are dead", dead, 0);
    row.exactly("records lost beyond the link's loss", refused, 0);
    row.at_least("records lost by the link, per thousand", lost * 1000 / sent, 30);
}

#[test]
fn a34_names_chosen_by_an_attacker_do_not_slow_the_listener_down() {
    let row = Row::new("A34");
    let inserted = size(4_000, 100_000);
    let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 34);
    let Output::Transmit(To::Listener, first) = pair.initiator.poll() else {
        panic!("the first message is waiting");
    };
    let mut dice = Dice(34);
    // Names that differ in one part only, as a weak hash would throw together, and random ones.
    type Name = fn(u64, &mut Dice) -> [u8; 16];
    let kinds: [(&str, Name); 3] = [
        ("random", |_, dice| dice.bytes()[..16].try_into().unwrap()),
        ("counted", |number, _| u128::from(number).to_be_bytes()),
        ("high bits only", |number, _| (u128::from(number) << 100).to_be_bytes()),
    ];
    let p99: Vec<f64> = kinds
        .iter()
        .map(|(_, name)| {
            let limits = ListenerLimits {
                new_per_second: u32::MAX,
                new_burst: u32::MAX,
                half_open_cookie: usize::MAX,
                half_open_per_flow_cookie: usize::MAX,
                half_open_max: usize::MAX,
                half_open_per_flow_max: usize::MAX,
                ..all_modes()
            };
            let config = Arc::new(pair.bob.config(&pair.alice));
            let mut listener = HandshakeTable::new(config, limits).unwrap();
            let mut sample = Sample::default();
            for number in 0..inserted as u64 {
                let mut packet = first.clone();
                packet[7..23].copy_from_slice(&name(number, &mut dice));
                let message = FirstMessage { flow: FLOW, behind: b"", packet: &packet };
                let random = dice.bytes();
                #[expect(clippy::disallowed_methods, reason = "what it takes is what is measured")]
                let began = Instant::now();
                let verdict = listener.receive(at(0), message, random);
                sample.add(began.elapsed());
                assert!(matches!(verdict, Verdict::Accept { evicted: None, .. }));
            }
            assert_eq!(listener.half_open(), inserted);
            sample.percentile_ms(99)
        })
        .collect();
    for ((kind, _), hostile) in kinds.iter().zip(&p99).skip(1) {
        row.takes_at_most(
            &format!("p99 of an insertion, {kind}, times that of random names"),
            hostile / p99[0],
            5.0,
        );
    }
}
