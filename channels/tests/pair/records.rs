//! Records: replay, loss, epochs, forgery, and the timers of an established channel.

use std::time::Duration;

use onward_channels::{
    BODY_MAX, ChannelError, CloseCode, Content, Due, FrameType, HEAD_ROOM, Initiator, Mode, OVERHEAD,
    Opening, Padding, Reassembly, Session, Suite,
};

use onward_trials::Row;

use crate::harness::{Dice, Faults, Pair, SUITES, at, open, seal};

fn sessions(suite: Suite) -> (Session, Session) {
    Pair::new(Mode::ClassicalXx, suite, 1).sessions()
}

/// Gives out and forgets `count` numbers.
fn lose(session: &mut Session, milliseconds: u64, count: u64) {
    for _ in 0..count {
        session.sealer.reserve(at(milliseconds), FrameType::Data, 1).unwrap();
    }
}

/// A record with another number in front: what a forger can make.
fn forged(record: &[u8], number: u64) -> Vec<u8> {
    let mut changed = record.to_vec();
    changed[..8].copy_from_slice(&number.to_be_bytes());
    changed
}

fn number_of(record: &[u8]) -> u64 {
    u64::from_be_bytes(record[..8].try_into().unwrap())
}

#[test]
fn n3_7_every_record_is_accepted_once() {
    for suite in SUITES {
        let (mut alice, mut bob) = sessions(suite);
        let records: Vec<_> = (0..200u8).map(|number| seal(at(1), &mut alice, &[number])).collect();
        let mut order: Vec<usize> = (0..records.len()).collect();
        let mut dice = Dice(9);
        for place in (1..order.len()).rev() {
            order.swap(place, dice.below(place + 1));
        }
        for &place in &order {
            assert_eq!(open(at(1), &mut bob, &records[place]).unwrap(), [place as u8]);
        }
        for record in &records {
            assert!(matches!(open(at(1), &mut bob, record), Err(ChannelError::Replayed(_))));
        }
    }
}

#[test]
fn n3_7_the_window_ends_where_it_says() {
    for (behind, accepted) in [(1983, true), (1984, true), (1985, false), (1986, false)] {
        let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
        let old = seal(at(1), &mut alice, b"old");
        lose(&mut alice, 1, behind - 1);
        let newest = seal(at(1), &mut alice, b"newest");
        assert_eq!(number_of(&newest) - number_of(&old), behind);
        open(at(1), &mut bob, &newest).unwrap();
        assert_eq!(open(at(1), &mut bob, &old).is_ok(), accepted, "{behind} behind");
    }
}

#[test]
fn n3_7_a_record_is_accepted_up_to_64_epochs_ahead() {
    for suite in SUITES {
        for (epochs, accepted) in [(1, true), (63, true), (64, true), (65, false)] {
            let (mut alice, mut bob) = sessions(suite);
            let first = seal(at(1), &mut alice, b"first");
            open(at(1), &mut bob, &first).unwrap();
            // An epoch is left at the first send after 120 s.
            let mut milliseconds = 1;
            for _ in 1..epochs {
                milliseconds += 120_000;
                lose(&mut alice, milliseconds, 1);
            }
            milliseconds += 120_000;
            let now = at(milliseconds);
            let far = seal(now, &mut alice, b"far");
            assert_eq!(number_of(&far), epochs << 16);
            match open(now, &mut bob, &far) {
                Ok(body) => assert!(accepted && body == b"far", "{epochs}"),
                Err(error) => assert!(!accepted && matches!(error, ChannelError::TooFarAhead(_)), "{error}"),
            }
            let next = seal(now, &mut alice, b"next");
            assert_eq!(open(now, &mut bob, &next).is_ok(), accepted);
        }
    }
}

#[test]
fn n3_7_forged_records_move_nothing() {
    for suite in SUITES {
        let (mut alice, mut bob) = sessions(suite);
        let records: Vec<_> = (0..50u8).map(|number| seal(at(1), &mut alice, &[number])).collect();
        for number in [0, 1, 49, 50, 1000, 65_535, 65_536, 131_072, 64 << 16, (65 << 16) - 1] {
            let shifted = forged(&records[7], number);
            if number != 7 {
                assert!(
                    matches!(open(at(1), &mut bob, &shifted), Err(ChannelError::Unauthentic)),
                    "{number}"
                );
            }
        }
        for number in [65 << 16, 1 << 40, (1 << 62) - 1] {
            let far = forged(&records[7], number);
            assert!(matches!(open(at(1), &mut bob, &far), Err(ChannelError::TooFarAhead(_))), "{number}");
        }
        for at_byte in 8..records[0].len() {
            let mut changed = records[0].clone();
            changed[at_byte] ^= 0x10;
            assert!(matches!(open(at(1), &mut bob, &changed), Err(ChannelError::Unauthentic)));
        }
        for length in 0..records[0].len() {
            assert!(open(at(1), &mut bob, &records[0][..length]).is_err());
        }
        for (number, record) in (0u8..).zip(&records) {
            assert_eq!(open(at(1), &mut bob, record).unwrap(), [number], "still accepted, once");
        }
        // The own record, reflected.
        let own = seal(at(1), &mut bob, b"own");
        assert!(open(at(1), &mut bob, &own).is_err());
    }
}

#[test]
fn n3_7_a14_bursts_of_losses_leave_the_channel_alive() {
    let row = Row::new("A14");
    for burst in [1, 33, 1_000, 100_000] {
        let (mut dead, mut asked) = (0, 0);
        for suite in SUITES {
            let (mut alice, mut bob) = sessions(suite);
            lose(&mut alice, 1, burst);
            let record = seal(at(1), &mut alice, b"after");
            dead += usize::from(open(at(1), &mut bob, &record).ok() != Some(b"after".to_vec()));
            let back = seal(at(1), &mut bob, b"back");
            dead += usize::from(open(at(1), &mut alice, &back).ok() != Some(b"back".to_vec()));
            asked += [&mut alice, &mut bob]
                .map(|end| usize::from(end.sealer.due(at(1)).is_some()))
                .iter()
                .sum::<usize>();
        }
        row.exactly(&format!("directions that are dead after {burst} lost records"), dead, 0);
        row.exactly(&format!("new handshakes asked for after {burst} lost records"), asked, 0);
    }
}

#[test]
fn n3_8_the_previous_epoch_is_kept_for_60_seconds() {
    for (milliseconds, accepted) in [(0, true), (59_999, true), (60_000, false), (61_000, false)] {
        let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
        let early = seal(at(1), &mut alice, b"early");
        let late = seal(at(1), &mut alice, b"late");
        let begun = 200_000;
        let next = seal(at(begun), &mut alice, b"next");
        assert_eq!(number_of(&next), 65_536);
        open(at(begun), &mut bob, &next).unwrap();
        assert_eq!(bob.opener.deadline(), Some(Duration::from_millis(begun + 60_000)));
        let now = at(begun + milliseconds);
        assert_eq!(open(now, &mut bob, &late).is_ok(), accepted, "{milliseconds} ms");
        assert_eq!(open(now, &mut bob, &early).is_ok(), accepted);
        assert!(matches!(open(now, &mut bob, &early), Err(ChannelError::Replayed(_))));
    }
}

#[test]
fn n3_8_older_epochs_are_erased_at_once() {
    let (mut alice, mut bob) = sessions(Suite::AesGcm);
    let zero = seal(at(0), &mut alice, b"0");
    let one = seal(at(120_000), &mut alice, b"1");
    let two = seal(at(240_000), &mut alice, b"2");
    open(at(240_000), &mut bob, &two).unwrap();
    assert!(matches!(open(at(240_000), &mut bob, &zero), Err(ChannelError::Replayed(_))));
    // The skipped epoch is the previous one.
    assert_eq!(open(at(240_000), &mut bob, &one).unwrap(), b"1");
    bob.opener.erase_expired(at(300_000));
    assert_eq!(bob.opener.deadline(), None);
}

#[test]
fn records_in_place_equal_appended_ones() {
    for padding in [Padding::None, Padding::Multiple256, Padding::Padme] {
        for length in [0, 1, 100, 4096, 60_000, BODY_MAX] {
            let sealed = |in_place: bool| {
                let mut pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 1);
                let mut config = pair.alice.config(&pair.bob);
                config.padding = padding;
                let config = std::sync::Arc::new(config);
                let to = Some(pair.bob.identifier());
                let opening = Opening::new(Mode::ClassicalXx, Suite::ChaChaPoly, to);
                pair.initiator = Initiator::new(at(0), config, opening, [1; 32]).unwrap();
                let (mut alice, mut bob) = pair.sessions();
                let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
                let mut record = if in_place {
                    let reserved = alice.sealer.reserve(at(1), FrameType::Data, length).unwrap();
                    let mut buffer = vec![0x55; reserved.record_bytes()];
                    buffer[HEAD_ROOM..HEAD_ROOM + length].copy_from_slice(&body);
                    reserved.seal_in_place(&mut buffer).unwrap();
                    buffer
                } else {
                    seal(at(1), &mut alice, &body)
                };
                assert_eq!(record.len(), alice.sealer.sealed_bytes(length));
                let frame = bob.opener.open_in_place(at(1), &mut record).unwrap();
                assert!(frame.newest);
                assert_eq!(frame.content, Content::Data(&body));
                record.len()
            };
            let (appended, in_place) = (sealed(false), sealed(true));
            assert_eq!(appended, in_place);
            assert!(appended >= length + OVERHEAD && appended <= 65_535 + 8);
            if padding == Padding::None {
                assert_eq!(appended, length + OVERHEAD);
            }
        }
    }
}

#[test]
fn a_body_that_does_not_fit_changes_nothing() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let mut out = b"before".to_vec();
    let too_long = alice.sealer.seal_into(at(1), FrameType::Data, BODY_MAX + 1, |_| {}, &mut out);
    assert!(matches!(too_long, Err(ChannelError::TooLong { limit: BODY_MAX, .. })));
    let other = alice.sealer.seal_into(at(1), FrameType::Data, 3, |body| body.push(1), &mut out);
    assert!(matches!(other, Err(ChannelError::Misuse(_))));
    assert_eq!(out, b"before");
    let record = seal(at(1), &mut alice, b"x");
    assert_eq!(number_of(&record), 0, "no number was burnt");
    open(at(1), &mut bob, &record).unwrap();
}

#[test]
fn a_sealer_changes_its_epoch_at_65536_numbers_and_at_120_seconds() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    lose(&mut alice, 0, 65_535);
    let last = seal(at(0), &mut alice, b"last");
    let first = seal(at(0), &mut alice, b"first");
    assert_eq!((number_of(&last), number_of(&first)), (65_535, 65_536));
    open(at(0), &mut bob, &first).unwrap();
    open(at(0), &mut bob, &last).unwrap();
    let young = seal(at(119_999), &mut alice, b"young");
    assert_eq!(number_of(&young), 65_537);
    let old = seal(at(120_000), &mut alice, b"old");
    assert_eq!(number_of(&old), 2 << 16);
    open(at(120_000), &mut bob, &young).unwrap();
    open(at(120_000), &mut bob, &old).unwrap();
}

#[test]
fn long_messages_travel_in_fragments() {
    let (mut alice, mut bob) = sessions(Suite::AesGcm);
    let message: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    let plan = alice.sealer.plan_fragments(message.len(), 50_000).unwrap();
    let mut records: Vec<_> = plan
        .map(|fragment| {
            let piece = &message[fragment.range];
            let mut record = Vec::new();
            let write = |body: &mut Vec<u8>| {
                body.extend_from_slice(&fragment.head);
                body.extend_from_slice(piece);
            };
            let length = fragment.head.len() + piece.len();
            alice.sealer.seal_into(at(1), FrameType::Fragment, length, write, &mut record).unwrap();
            record
        })
        .collect();
    assert_eq!(records.len(), 6);
    let mut reassembly = Reassembly::default();
    let mut whole = None;
    for record in records.iter_mut().rev() {
        let frame = bob.opener.open_in_place(at(1), record).unwrap();
        let Content::Fragment(fragment) = frame.content else {
            panic!("not a fragment: {frame:?}");
        };
        assert_eq!(whole, None);
        whole = reassembly.push(at(1), fragment).unwrap();
    }
    assert_eq!(whole, Some(message));
    for (length, piece) in [(0, 100), (100, 0), (100, 70_000)] {
        assert!(matches!(alice.sealer.plan_fragments(length, piece), Err(ChannelError::Misuse(_))));
    }
    for (length, piece) in [((16 << 20) + 1, 60_000), (65_536, 1)] {
        assert!(matches!(alice.sealer.plan_fragments(length, piece), Err(ChannelError::TooLong { .. })));
    }
}

#[test]
fn close_names_the_last_data_record() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let close = |session: &mut Session, code| {
        let mut record = Vec::new();
        session.sealer.seal_close(at(1), code, &mut record).unwrap();
        record
    };
    let mut none = close(&mut alice, CloseCode::Normal);
    let content = bob.opener.open_in_place(at(1), &mut none).unwrap().content;
    assert_eq!(content, Content::Close { code: CloseCode::Normal, last: None });
    let data = seal(at(1), &mut alice, b"x");
    let mut keepalive = Vec::new();
    alice.sealer.seal_empty(at(1), FrameType::KeepAlive, &mut keepalive).unwrap();
    let mut some = close(&mut alice, CloseCode::Credential);
    let Content::Close { code, last } = bob.opener.open_in_place(at(1), &mut some).unwrap().content else {
        panic!("not a CLOSE");
    };
    assert_eq!((code, last.unwrap().value()), (CloseCode::Credential, number_of(&data)));
    assert_eq!(bob.opener.open_in_place(at(1), &mut keepalive).unwrap().content, Content::KeepAlive);
}

#[test]
fn timers_fire_in_their_order() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let second = |seconds: u64| at(seconds * 1000);
    assert_eq!(alice.sealer.due(second(74)), None);
    assert_eq!(alice.sealer.due(second(75)), Some(Due::KeepAlive));
    let mut record = Vec::new();
    alice.sealer.seal_empty(second(75), FrameType::KeepAlive, &mut record).unwrap();
    assert_eq!(alice.sealer.due(second(75)), None);
    // Nothing is heard in 120 s of sending.
    seal(second(100), &mut alice, b"x");
    assert_eq!(alice.sealer.due(second(174)), None);
    seal(second(190), &mut alice, b"x");
    assert_eq!(alice.sealer.due(second(195)), Some(Due::Renew));
    assert_eq!(alice.sealer.due(second(196)), None, "once in 30 s");
    assert_eq!(alice.sealer.due(second(225)), Some(Due::Renew));
    assert_eq!(alice.sealer.due(second(300)), Some(Due::Close(CloseCode::Idle)));
    // What is heard moves the idle time.
    let back = seal(second(290), &mut bob, b"x");
    open(second(290), &mut alice, &back).unwrap();
    assert_eq!(alice.sealer.due(second(300)), Some(Due::KeepAlive));
    assert_eq!(alice.sealer.due(second(590)), Some(Due::Close(CloseCode::Idle)));
}

#[test]
fn a_suspected_peer_has_less_time_to_be_heard() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    seal(at(1_000), &mut alice, b"x");
    alice.sealer.suspect(at(2_000));
    assert!(!alice.sealer.is_unanswered(at(6_999)));
    assert_eq!(alice.sealer.due(at(6_999)), None);
    assert!(alice.sealer.is_unanswered(at(7_000)));
    assert_eq!(alice.sealer.due(at(7_000)), Some(Due::Renew));
    // What is heard ends the suspicion.
    let back = seal(at(7_500), &mut bob, b"x");
    open(at(7_500), &mut alice, &back).unwrap();
    seal(at(8_000), &mut alice, b"x");
    assert!(!alice.sealer.is_unanswered(at(127_999)));
    assert!(alice.sealer.is_unanswered(at(128_000)));
}

#[test]
fn ages_call_for_a_new_handshake_and_then_close() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let mut hear = |alice: &mut Session, seconds: u64| {
        let now = at(seconds * 1000);
        let record = seal(now, &mut bob, b"x");
        open(now, alice, &record).unwrap();
        seal(now, alice, b"x");
        now
    };
    for minute in 0..60 {
        let now = hear(&mut alice, minute * 60);
        assert_eq!(alice.sealer.due(now), None);
    }
    let now = hear(&mut alice, 3600);
    assert_eq!(alice.sealer.due(now), Some(Due::Renew));
    assert_eq!(alice.sealer.due(now), None, "once in 30 s");
    let now = hear(&mut alice, 3630);
    assert_eq!(alice.sealer.due(now), Some(Due::Renew), "until it is replaced");
    let now = hear(&mut alice, 7199);
    assert_eq!(alice.sealer.due(now), Some(Due::Renew));
    assert_eq!(alice.sealer.due(now), None);
    let now = hear(&mut alice, 7200);
    assert_eq!(alice.sealer.due(now), Some(Due::Close(CloseCode::Lifetime)));
}

#[test]
fn sixteen_records_too_far_ahead_ask_for_a_new_handshake() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let record = seal(at(0), &mut alice, b"x");
    let far = forged(&record, 65 << 16);
    for count in 0..15 {
        assert!(matches!(open(at(count), &mut bob, &far), Err(ChannelError::TooFarAhead(_))));
    }
    assert_eq!(bob.sealer.due(at(100)), None);
    // Too slow: the first fifteen no longer count.
    assert!(open(at(6_000), &mut bob, &far).is_err());
    assert_eq!(bob.sealer.due(at(6_000)), None);
    for count in 0..15 {
        assert!(open(at(6_000 + count), &mut bob, &far).is_err());
    }
    assert_eq!(bob.sealer.due(at(6_100)), Some(Due::Renew));
    assert_eq!(bob.sealer.due(at(6_200)), None);
    open(at(6_200), &mut bob, &record).unwrap();
}

#[test]
fn an_authentic_record_of_no_form_is_dropped_and_used_up() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let mut record = Vec::new();
    let write = |body: &mut Vec<u8>| body.extend_from_slice(b"short");
    alice.sealer.seal_into(at(1), FrameType::Confirm, 5, write, &mut record).unwrap();
    assert!(matches!(open(at(1), &mut bob, &record), Err(ChannelError::Malformed(_))));
    assert!(matches!(open(at(1), &mut bob, &record), Err(ChannelError::Replayed(_))));
}

#[test]
fn records_survive_a_bad_link_without_a_duplicate() {
    for suite in SUITES {
        for seed in 0..5 {
            let (mut alice, mut bob) = sessions(suite);
            let mut dice = Dice(seed);
            let faults = Faults { lost: 10, duplicated: 20, reordered: 30, corrupted: 5 };
            let mut link: Vec<Vec<u8>> = Vec::new();
            let mut seen = vec![0; 3000];
            let mut corrupted = 0;
            for number in 0..3000u32 {
                let record = seal(at(u64::from(number)), &mut alice, &number.to_be_bytes());
                if !dice.percent(faults.lost) {
                    link.push(record.clone());
                }
                if dice.percent(faults.duplicated) {
                    link.push(record);
                }
                if dice.percent(faults.reordered) {
                    continue;
                }
                while !link.is_empty() {
                    let mut record = link.swap_remove(dice.below(link.len()));
                    if dice.percent(faults.corrupted) {
                        let bit = dice.below(record.len() * 8);
                        record[bit / 8] ^= 1 << (bit % 8);
                        corrupted += 1;
                    }
                    if let Ok(body) = open(at(u64::from(number)), &mut bob, &record) {
                        seen[u32::from_be_bytes(body.try_into().unwrap()) as usize] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|times| *times <= 1), "never twice");
            let delivered = seen.iter().filter(|times| **times == 1).count();
            assert!(delivered > 2400 && corrupted > 100, "{delivered} {corrupted}");
        }
    }
}

#[test]
fn a_credential_update_is_opened_or_refused_and_the_channel_goes_on() {
    let (mut alice, mut bob) = sessions(Suite::ChaChaPoly);
    let update = |alice: &mut Session, bob: &mut Session, body: &[u8]| {
        let mut record = Vec::new();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(body);
        let sealed =
            alice.sealer.seal_into(at(1), FrameType::CredentialUpdate, body.len(), write, &mut record);
        assert!(sealed.is_ok());
        let opened = bob.opener.open_in_place(at(1), &mut record).map(|frame| frame.content);
        let is_update = matches!(opened, Ok(Content::CredentialUpdate(update)) if update == body);
        assert!(is_update || matches!(opened, Err(ChannelError::Malformed(_))), "{opened:?}");
        // What is not understood is dropped, and nothing else with it.
        let data = seal(at(1), alice, b"next");
        assert_eq!(open(at(1), bob, &data).unwrap(), b"next");
        is_update
    };
    // As long as an identity payload can be, and no longer.
    for (length, is_one) in [(0, false), (1, true), (32 * 1024, true), (32 * 1024 + 1, false)] {
        assert_eq!(update(&mut alice, &mut bob, &vec![0x83; length]), is_one, "{length} bytes");
    }
}
