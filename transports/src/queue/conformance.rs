//! What every queue has to pass: call [`all`] with one from a test of its implementation.
//!
//! The checks use mailboxes of their own, so that one broker serves all of them, and assume no more than
//! the trait promises: at least once, in any order. A check that fails panics.
//!
//! Specification: docs/protocol.md §2.3.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a check fails")]

mod fake;
mod medium;

pub use fake::{FakeBroker, Faults};
pub use medium::{Change, MemoryFile, MemoryMedium, SECTOR, after_power_cut, apply};

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    Broker, DeadLetter, Delivery, Lane, MESSAGE_BYTES_MAX, Mailbox, Mid, Publish, QueueError, QueueKind,
    QueueMessage, Reason, Stored, Subject, Subscription,
};

/// What a broker is able to do beyond what all are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abilities {
    /// Keeps one of two messages that are published under one identifier.
    pub recognises_repeats: bool,
    /// Hands everything out exactly once unless it was given back, and in order.
    pub is_orderly: bool,
    /// How long nothing comes until none is believed to come.
    pub patience: Duration,
}

/// How long a message that is due may take on a machine that does much else.
const DUE: Duration = Duration::from_secs(60);

/// Runs every check.
///
/// # Panics
/// When the broker does not pass one.
pub async fn all(broker: &dyn Broker, abilities: Abilities) {
    let checks = Checks { broker, abilities };
    checks.what_is_stored_is_handed_out().await;
    checks.what_is_acknowledged_does_not_come_again().await;
    checks.what_is_not_settled_comes_again_and_says_so().await;
    checks.a_pause_is_kept().await;
    checks.what_can_never_be_handled_is_a_dead_letter().await;
    checks.transient_failures_are_not_counted().await;
    checks.a_repeat_is_recognised().await;
    checks.nothing_is_handed_out_after_its_time().await;
    checks.subscribers_share_a_mailbox().await;
    checks.mailboxes_do_not_mix().await;
    checks.no_more_is_handed_out_than_was_asked_for().await;
    checks.any_bytes_are_carried().await;
    checks.too_large_a_message_is_refused().await;
}

struct Checks<'a> {
    broker: &'a dyn Broker,
    abilities: Abilities,
}

/// A mailbox that no other check uses.
#[must_use]
pub fn fresh_mailbox() -> Mailbox {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("Check-{}_{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
}

/// An identifier that no other message of this process has.
#[must_use]
pub fn fresh_mid() -> Mid {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0x5a; 16];
    bytes[..8].copy_from_slice(&LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    Mid::new(bytes)
}

/// A message for `subject` with this body, to live for an hour.
#[must_use]
pub fn message(subject: &Subject, body: &[u8]) -> Publish {
    let mid = fresh_mid();
    let message =
        QueueMessage { mid, exp: 4_000_000_000, kind: QueueKind::Routed, body: Bytes::copy_from_slice(body) };
    Publish { subject: subject.clone(), mid, ttl: Duration::from_secs(3600), bytes: message.encode() }
}

/// The body of what was handed out.
#[must_use]
pub fn body(delivery: &Delivery) -> Vec<u8> {
    QueueMessage::decode(delivery.bytes()).unwrap().body.to_vec()
}

impl Checks<'_> {
    async fn publish(&self, message: Publish) -> Stored {
        self.broker.publish(message).await.unwrap()
    }

    async fn fill(&self, subject: &Subject, count: u32) {
        for number in 0..count {
            self.publish(message(subject, &number.to_be_bytes())).await;
        }
    }

    async fn subscribe(&self, subject: &Subject, prefetch: usize) -> Subscription {
        self.broker.subscribe(subject.clone(), prefetch).await.unwrap()
    }

    /// The next message, which has to come.
    async fn next(&self, subscription: &mut Subscription) -> Delivery {
        let next = timeout(DUE, subscription.next()).await;
        next.expect("a message is due").expect("the subscription goes on")
    }

    /// The next message, or none when there seems to be none.
    async fn perhaps(&self, subscription: &mut Subscription) -> Option<Delivery> {
        timeout(self.abilities.patience, subscription.next()).await.ok().flatten()
    }

    /// Acknowledges all that comes, until so many bodies came and nothing more comes; how often each came.
    async fn drain(&self, subscription: &mut Subscription, wanted: usize) -> BTreeMap<Vec<u8>, u32> {
        let mut bodies = BTreeMap::new();
        while bodies.len() < wanted {
            let delivery = self.next(subscription).await;
            *bodies.entry(body(&delivery)).or_default() += 1;
            delivery.ack().await.unwrap();
        }
        while let Some(delivery) = self.perhaps(subscription).await {
            *bodies.entry(body(&delivery)).or_default() += 1;
            delivery.ack().await.unwrap();
        }
        bodies
    }

    /// What came is what is wanted, each once where the broker is orderly.
    fn compare(&self, came: &BTreeMap<Vec<u8>, u32>, wanted: impl IntoIterator<Item = Vec<u8>>) {
        let wanted: BTreeSet<Vec<u8>> = wanted.into_iter().collect();
        assert_eq!(came.keys().cloned().collect::<BTreeSet<_>>(), wanted);
        assert!(!self.abilities.is_orderly || came.values().all(|count| *count == 1), "{came:?}");
    }

    async fn what_is_stored_is_handed_out(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        self.fill(&subject, 20).await;
        let mut subscription = self.subscribe(&subject, 8).await;
        for number in 20_u32..40 {
            self.publish(message(&subject, &number.to_be_bytes())).await;
        }
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        while seen.len() < 40 {
            let delivery = self.next(&mut subscription).await;
            order.push(body(&delivery));
            seen.insert(body(&delivery));
            delivery.ack().await.unwrap();
        }
        let wanted: Vec<Vec<u8>> = (0_u32..40).map(|number| number.to_be_bytes().to_vec()).collect();
        assert!(!self.abilities.is_orderly || order == wanted, "{order:?}");
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), wanted);
    }

    async fn what_is_acknowledged_does_not_come_again(&self) {
        let subject = fresh_mailbox().lane(Lane::Receipts);
        self.fill(&subject, 5).await;
        let mut subscription = self.subscribe(&subject, 2).await;
        self.compare(&self.drain(&mut subscription, 5).await, (0_u32..5).map(|n| n.to_be_bytes().to_vec()));
        drop(subscription);
        let mut again = self.subscribe(&subject, 2).await;
        let came = self.drain(&mut again, 0).await;
        assert!(came.is_empty() || !self.abilities.is_orderly, "{came:?}");
    }

    async fn what_is_not_settled_comes_again_and_says_so(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        self.fill(&subject, 1).await;
        let mut subscription = self.subscribe(&subject, 4).await;
        let first = self.next(&mut subscription).await;
        assert!(first.attempt() == 1 || !self.abilities.is_orderly);
        drop(first);
        let second = self.next(&mut subscription).await;
        assert!(second.attempt() >= 2, "attempt {}", second.attempt());
        // The end of a subscription gives everything back, taken or not.
        drop(subscription);
        drop(second);
        let mut other = self.subscribe(&subject, 4).await;
        let third = self.next(&mut other).await;
        assert!(third.attempt() >= 2, "attempt {}", third.attempt());
        third.ack().await.unwrap();
    }

    async fn a_pause_is_kept(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        let pause = self.abilities.patience;
        self.fill(&subject, 1).await;
        let mut subscription = self.subscribe(&subject, 4).await;
        let began = tokio::time::Instant::now();
        self.next(&mut subscription).await.nak(pause).await.unwrap();
        let again = self.next(&mut subscription).await;
        assert!(began.elapsed() >= pause || !self.abilities.is_orderly);
        assert!(again.attempt() >= 2);
        again.ack().await.unwrap();
    }

    async fn what_can_never_be_handled_is_a_dead_letter(&self) {
        let mailbox = fresh_mailbox();
        let poison = message(&mailbox.lane(Lane::Messages), b"poison");
        self.publish(poison.clone()).await;
        self.publish(message(&mailbox.lane(Lane::Messages), b"good")).await;
        let mut subscription = self.subscribe(&mailbox.lane(Lane::Messages), 4).await;
        let (mut handled, mut has_ended) = (BTreeMap::new(), false);
        loop {
            let delivery = match has_ended && !handled.is_empty() {
                true => self.perhaps(&mut subscription).await,
                false => Some(self.next(&mut subscription).await),
            };
            let Some(delivery) = delivery else { break };
            if body(&delivery) == b"poison" {
                has_ended = true;
                delivery.term(Reason::Unauthentic).await.unwrap();
            } else {
                *handled.entry(body(&delivery)).or_default() += 1;
                delivery.ack().await.unwrap();
            }
        }
        self.compare(&handled, [b"good".to_vec()]);
        let mut dead = self.subscribe(&mailbox.lane(Lane::DeadLetters), 4).await;
        let delivery = self.next(&mut dead).await;
        let letter = DeadLetter::decode(delivery.bytes()).unwrap();
        assert_eq!((letter.reason, &letter.original), (Reason::Unauthentic, &poison.bytes));
        assert!(letter.attempts >= 1);
        delivery.ack().await.unwrap();
    }

    async fn transient_failures_are_not_counted(&self) {
        let mailbox = fresh_mailbox();
        self.fill(&mailbox.lane(Lane::Messages), 3).await;
        let mut subscription = self.subscribe(&mailbox.lane(Lane::Messages), 4).await;
        for _ in 0..300 {
            self.next(&mut subscription).await.nak(Duration::ZERO).await.unwrap();
        }
        let came = self.drain(&mut subscription, 3).await;
        self.compare(&came, (0_u32..3).map(|number| number.to_be_bytes().to_vec()));
        let mut dead = self.subscribe(&mailbox.lane(Lane::DeadLetters), 4).await;
        assert!(self.perhaps(&mut dead).await.is_none());
    }

    async fn a_repeat_is_recognised(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        let once = message(&subject, b"once");
        let first = self.publish(once.clone()).await;
        let second = self.publish(once).await;
        assert_eq!(first.durability, second.durability);
        if self.abilities.recognises_repeats {
            assert!(!first.is_duplicate && second.is_duplicate);
            let mut subscription = self.subscribe(&subject, 4).await;
            assert_eq!(self.drain(&mut subscription, 1).await, BTreeMap::from([(b"once".to_vec(), 1)]));
        }
    }

    async fn nothing_is_handed_out_after_its_time(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        let expired = Publish { ttl: Duration::ZERO, ..message(&subject, b"late") };
        let refused = self.broker.publish(expired).await;
        assert!(matches!(refused, Err(QueueError::Expired)), "{refused:?}");
        self.publish(Publish { ttl: Duration::from_secs(1), ..message(&subject, b"short") }).await;
        self.publish(message(&subject, b"long")).await;
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let mut subscription = self.subscribe(&subject, 4).await;
        self.compare(&self.drain(&mut subscription, 1).await, [b"long".to_vec()]);
    }

    async fn subscribers_share_a_mailbox(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        let mut one = self.subscribe(&subject, 2).await;
        let mut other = self.subscribe(&subject, 2).await;
        self.fill(&subject, 8).await;
        // Neither settles what it has, so each gets its part.
        let first = self.next(&mut one).await;
        let second = self.next(&mut other).await;
        assert_ne!(body(&first), body(&second));
        let mut came = BTreeMap::from([(body(&first), 1), (body(&second), 1)]);
        first.ack().await.unwrap();
        second.ack().await.unwrap();
        while came.len() < 8 {
            let next = async {
                tokio::select! {
                    delivery = one.next() => delivery,
                    delivery = other.next() => delivery,
                }
            };
            let delivery = timeout(DUE, next).await.expect("a message is due").unwrap();
            *came.entry(body(&delivery)).or_default() += 1;
            delivery.ack().await.unwrap();
        }
        let (of_one, of_other) = tokio::join!(self.drain(&mut one, 0), self.drain(&mut other, 0));
        for (body, count) in of_one.into_iter().chain(of_other) {
            *came.entry(body).or_default() += count;
        }
        self.compare(&came, (0_u32..8).map(|number| number.to_be_bytes().to_vec()));
    }

    async fn mailboxes_do_not_mix(&self) {
        let base = fresh_mailbox();
        // Names that a broker with patterns, or without a difference of case, would mix up.
        let names = ["-", "_", "-x", "X", "x", "xx"].map(|end| format!("{base}{end}"));
        let subjects: Vec<Subject> = names
            .iter()
            .map(|name| name.parse::<Mailbox>().unwrap())
            .flat_map(|mailbox| [Lane::Messages, Lane::Receipts].map(|lane| mailbox.lane(lane)))
            .collect();
        for subject in &subjects {
            self.publish(message(subject, subject.to_string().as_bytes())).await;
        }
        for subject in &subjects {
            let mut subscription = self.subscribe(subject, 4).await;
            self.compare(&self.drain(&mut subscription, 1).await, [subject.to_string().into_bytes()]);
        }
    }

    async fn no_more_is_handed_out_than_was_asked_for(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        self.fill(&subject, 6).await;
        let mut subscription = self.subscribe(&subject, 3).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(self.next(&mut subscription).await);
        }
        assert!(self.perhaps(&mut subscription).await.is_none());
        held.pop().unwrap().ack().await.unwrap();
        held.push(self.next(&mut subscription).await);
        for delivery in held {
            delivery.ack().await.unwrap();
        }
    }

    async fn any_bytes_are_carried(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        let all: Vec<u8> = (0..=255).collect();
        let large = vec![0xa5; QueueMessage::BODY_BYTES_MAX];
        let bodies = [&b"\r\n*1\r\n$7\r\nFLUSHDB\r\n"[..], b"\0", b"> * # +", &all, &large];
        for body in bodies {
            self.publish(message(&subject, body)).await;
        }
        let mut subscription = self.subscribe(&subject, 4).await;
        self.compare(&self.drain(&mut subscription, bodies.len()).await, bodies.map(<[u8]>::to_vec));
    }

    async fn too_large_a_message_is_refused(&self) {
        let subject = fresh_mailbox().lane(Lane::Messages);
        let bytes = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
        let refused = self.broker.publish(Publish { bytes, ..message(&subject, b"x") }).await;
        assert!(matches!(refused, Err(QueueError::TooLarge { .. })), "{refused:?}");
    }
}
