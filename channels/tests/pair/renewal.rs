//! A channel over half a day of a hand-turned clock: renewed every hour by way of a link that loses packets.

use std::sync::Arc;

use onward_channels::{Due, FrameType, Initiator, Mode, Opening, Session, Suite};

use crate::harness::{Dice, Faults, Pair, Party, at, open, seal};

/// Both ends of one session.
struct Ends {
    alice: Session,
    bob: Session,
}

impl Ends {
    /// The session that takes the place of this one; the handshake begins at `seconds`.
    fn renewed(&mut self, parties: &(Party, Party), seconds: u64, lost: u64) -> Option<Self> {
        let (alice, bob) = parties.clone();
        let configs = (alice.config(&bob), bob.config(&alice));
        let config = Arc::new(configs.0.clone());
        let (mode, suite, to) = (Mode::ClassicalXx, Suite::ChaChaPoly, Some(bob.identifier()));
        let mut pair = Pair::with(mode, suite, seconds, alice, bob, configs);
        pair.now = at(seconds * 1000);
        let replaces = Some(self.alice.binding.predecessor());
        let opening = Opening { replaces, ..Opening::new(mode, suite, to) };
        pair.initiator = Initiator::new(pair.now, config, opening, pair.dice.bytes()).unwrap();
        pair.faults = Faults { lost, ..Faults::default() };
        // Lent for the handshake, which asks for what this end knows of the channel to be replaced.
        let known = std::mem::replace(&mut self.bob, spare());
        pair.replaced = Some(known);
        pair.run();
        self.bob = pair.replaced.take().unwrap();
        let ours = pair.initiator_end.take().unwrap().ok().filter(|ours| ours.replaces.is_some())?;
        let same = |end: &onward_channels::Established| {
            end.replaces.is_some() && end.session.binding.id() == ours.session.binding.id()
        };
        let theirs = pair.responder_end.into_iter().filter_map(|(_, end)| end.ok()).find(same)?;
        Some(Self { alice: ours.session, bob: theirs.session })
    }
}

fn spare() -> Session {
    Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 1).sessions().0
}

/// What the timers of one end want; keepalives are sent to the other.
fn look_after(own: &mut Session, other: &mut Session, seconds: u64, is_lost: bool) -> bool {
    let now = at(seconds * 1000);
    let mut renews = false;
    while let Some(due) = own.sealer.due(now) {
        let frame_type = match due {
            Due::KeepAlive => FrameType::KeepAlive,
            Due::Renew => {
                renews = true;
                FrameType::Rehandshake
            }
            Due::Close(code) => panic!("closed with {code:?} after {seconds} s"),
        };
        let mut record = Vec::new();
        own.sealer.seal_empty(now, frame_type, &mut record).unwrap();
        if !is_lost {
            other.opener.open_in_place(now, &mut record).unwrap();
        }
    }
    renews
}

#[test]
fn a_channel_lives_half_a_day_on_a_link_that_loses_five_percent() {
    for lost in [0, 5] {
        let mut dice = Dice(lost);
        let pair = Pair::new(Mode::ClassicalXx, Suite::ChaChaPoly, 3);
        let parties = (pair.alice.clone(), pair.bob.clone());
        let (alice, bob) = pair.sessions();
        let mut ends = Ends { alice, bob };
        let (mut renewals, mut sent, mut delivered) = (0, 0, 0);
        for seconds in (10..12 * 3_600).step_by(10) {
            let now = at(seconds * 1000);
            let Ends { alice, bob } = &mut ends;
            // A request each minute, and its answer.
            if seconds % 60 == 0 {
                for asks in [true, false] {
                    let (from, to) = if asks { (&mut *alice, &mut *bob) } else { (&mut *bob, &mut *alice) };
                    let record = seal(now, from, &seconds.to_be_bytes());
                    sent += 1;
                    if !dice.percent(lost) {
                        assert_eq!(open(now, to, &record).unwrap(), seconds.to_be_bytes());
                        assert!(open(now, to, &record).is_err(), "twice");
                        delivered += 1;
                    }
                }
            }
            let Ends { alice, bob } = &mut ends;
            let renews = look_after(alice, bob, seconds, dice.percent(lost));
            look_after(bob, alice, seconds, dice.percent(lost));
            alice.opener.erase_expired(now);
            bob.opener.erase_expired(now);
            if renews && let Some(next) = ends.renewed(&parties, seconds, lost) {
                ends = next;
                renewals += 1;
            }
        }
        assert!((11..=13).contains(&renewals), "{renewals} renewals with {lost} % lost");
        assert!(delivered * 100 >= sent * (100 - 3 * lost), "{delivered} of {sent}");
    }
}
