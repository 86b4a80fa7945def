//! What a broker can do to those who send through it: nothing but keep their messages from them.
#![cfg(feature = "queue")]
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use onward::queue::conformance::{FakeBroker, Faults, fresh_mailbox, fresh_mid};
use onward::queue::{Broker as _, Lane, Mid, Publish, QueueKind, QueueMessage, Reason, Subject};
use onward_keys::{Aead, AeadAlgorithm, Backend};
use onward_trials::{Row, size};

/// A stand-in for envelopes: sealed to everything that says which message it is and for whom.
struct Sealed(Aead);

/// What the outside of a message says, and what is bound to its inside.
fn binding(subject: &Subject, message: &QueueMessage, sequence: u64) -> Vec<u8> {
    let mut bound = format!("sender|{subject}|{}|{sequence}|", message.exp).into_bytes();
    bound.extend_from_slice(message.mid.bytes());
    bound.push(message.kind as u8);
    bound
}

fn nonce(mid: &Mid) -> [u8; 12] {
    *mid.bytes().first_chunk().unwrap()
}

impl Sealed {
    fn seal(&self, subject: &Subject, sequence: u64) -> Publish {
        let mid = fresh_mid();
        let mut message =
            QueueMessage { mid, exp: 4_000_000_000, kind: QueueKind::Envelope, body: Bytes::new() };
        let mut text = format!("{subject} {sequence}").into_bytes();
        let tag = self.0.seal_in_place(&nonce(&mid), &binding(subject, &message, sequence), &mut text);
        message.body = [&sequence.to_be_bytes()[..], &text, &tag].concat().into();
        let ttl = Duration::from_secs(3600);
        Publish { subject: subject.clone(), mid, ttl, bytes: message.encode() }
    }

    /// Identifier and sequence of a message that is what its sender sent, to this subject.
    fn open(&self, subject: &Subject, bytes: &Bytes) -> Option<(Mid, u64)> {
        let message = QueueMessage::decode(bytes)?;
        let (sequence, rest) = message.body.split_first_chunk::<8>()?;
        let sequence = u64::from_be_bytes(*sequence);
        let (text, tag) = rest.split_last_chunk::<16>()?;
        let mut text = text.to_vec();
        let bound = binding(subject, &message, sequence);
        self.0.open_in_place(&nonce(&message.mid), &bound, &mut text, tag).ok()?;
        assert_eq!(text, format!("{subject} {sequence}").into_bytes());
        Some((message.mid, sequence))
    }
}

/// What a receiver of one mailbox has seen.
#[derive(Default)]
struct Receiver {
    had: HashSet<Mid>,
    handled: Vec<u64>,
    refused: u64,
    /// The number that comes next if nothing is withheld, and those below it that have not come.
    next: u64,
    gaps: BTreeSet<u64>,
}

impl Receiver {
    fn handle(&mut self, mid: Mid, number: u64) {
        if self.had.insert(mid) {
            self.handled.push(number);
            self.gaps.extend(self.next..number);
            self.gaps.remove(&number);
            self.next = self.next.max(number + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a40_a_hostile_broker_can_withhold_and_nothing_else() {
    let row = Row::new("A40");
    let each = size(5_000, 250_000) as u64;
    let broker = FakeBroker::new(Faults::all(1_500), 23);
    let sealed = Sealed(Aead::new(Backend::Portable, AeadAlgorithm::ChaCha20Poly1305, &[9; 32]));
    let subjects = [(); 4].map(|()| fresh_mailbox().lane(Lane::Messages));
    let mut receivers = [(); 4].map(|()| Receiver::default());
    let mut subscriptions = Vec::new();
    for subject in &subjects {
        subscriptions.push(broker.subscribe(subject.clone(), 4).await.unwrap());
    }
    for sequence in 0..each {
        for subject in &subjects {
            broker.publish(sealed.seal(subject, sequence)).await.unwrap();
        }
        // Now and then, so that messages wait at the broker; in the end nothing goes wrong any more.
        let is_last = sequence + 1 == each;
        if is_last {
            broker.mend();
        }
        if sequence % 16 < 15 && !is_last {
            continue;
        }
        for ((subject, receiver), subscription) in subjects.iter().zip(&mut receivers).zip(&mut subscriptions)
        {
            while let Some(delivery) = subscription.try_next() {
                match sealed.open(subject, delivery.bytes()) {
                    Some((mid, number)) => {
                        receiver.handle(mid, number);
                        delivery.ack().await.unwrap();
                    }
                    None => {
                        receiver.refused += 1;
                        delivery.term(Reason::Unauthentic).await.unwrap();
                    }
                }
            }
        }
    }
    let done = broker.done();
    let (mut twice, mut unreported, mut forged) = (0, 0, 0);
    for receiver in &receivers {
        let seen: BTreeSet<u64> = receiver.handled.iter().copied().collect();
        twice += receiver.handled.len() - seen.len();
        forged += seen.iter().filter(|number| **number >= each).count();
        let missing: BTreeSet<u64> = (0..receiver.next).filter(|number| !seen.contains(number)).collect();
        unreported += missing.symmetric_difference(&receiver.gaps).count();
    }
    let refused: u64 = receivers.iter().map(|receiver| receiver.refused).sum();
    let missing: u64 = receivers.iter().map(|receiver| each - receiver.handled.len() as u64).sum();
    row.at_least("messages", 4 * each, 20_000);
    for (figure, count) in [
        ("swapped between queues", done.swap),
        ("cut off", done.truncate),
        ("bits flipped", done.flip),
        ("repeated", done.duplicate + done.replay + done.lose_ack),
        ("dropped", done.drop),
        ("reordered", done.reorder),
    ] {
        row.at_least(figure, count, 20);
    }
    row.exactly("forged and accepted", forged, 0);
    row.exactly("handled twice", twice, 0);
    let spoilt = done.swap + done.truncate + done.flip;
    row.exactly("altered or swapped and not refused", spoilt.abs_diff(refused), 0);
    row.exactly("gaps not reported, or none", unreported, 0);
    // A message that is withheld is dropped, or refused because its only copy was spoilt.
    row.at_most("missing without a cause", missing.saturating_sub(done.drop + refused), 0);
}
