//! What a receiver needs of a queue to see each message once: numbered tests and rows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward_routing::Rng;
use onward_transports::queue::conformance::{FakeBroker, Faults, MemoryMedium, body, fresh_mailbox, message};
use onward_transports::queue::{
    Broker, Delivery, EmbeddedQueue, Lane, Mid, Publish, QueueKind, QueueLimits, QueueMessage, Reason,
    Subject,
};
use onward_trials::{Row, Sample, size};
use tokio::time::timeout;

/// What a receiver keeps through its crashes.
#[derive(Default)]
struct Inbox {
    /// Identifiers that were committed.
    had: HashSet<Mid>,
    /// What the application saw, and how often.
    seen: BTreeMap<Vec<u8>, u32>,
}

impl Inbox {
    /// Commits a message, unless it has it, and hands it to the application.
    fn commit(&mut self, delivery: &Delivery) {
        let message = QueueMessage::decode(delivery.bytes()).unwrap();
        if self.had.insert(message.mid) {
            *self.seen.entry(message.body.to_vec()).or_default() += 1;
        }
    }
}

async fn fill(broker: &dyn Broker, subject: &Subject, count: u32) {
    for number in 0..count {
        broker.publish(message(subject, &number.to_be_bytes())).await.unwrap();
    }
}

/// A receiver that crashes between its commit and the acknowledgement, often, and comes back, until
/// nothing comes any more.
async fn receive(broker: &dyn Broker, subject: &Subject, inbox: &mut Inbox, seed: u64) {
    let mut rng = Rng::new(seed);
    loop {
        let mut subscription = broker.subscribe(subject.clone(), 2).await.unwrap();
        loop {
            let next = timeout(Duration::from_millis(200), subscription.next()).await;
            let Ok(Some(delivery)) = next else { return };
            inbox.commit(&delivery);
            if rng.below(4) == 0 {
                break;
            }
            delivery.ack().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_7_each_message_is_seen_once_whatever_the_broker_repeats() {
    let wanted: BTreeMap<Vec<u8>, u32> = (0_u32..200).map(|n| (n.to_be_bytes().to_vec(), 1)).collect();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let faults =
        Faults { duplicate: 12_000, reorder: 30_000, lose_ack: 12_000, replay: 6_000, ..Faults::default() };
    let fake = FakeBroker::new(faults, 7);
    fill(&fake, &subject, 200).await;
    let mut inbox = Inbox::default();
    let receiving = receive(&fake, &subject, &mut inbox, 1);
    assert!(timeout(Duration::from_secs(60), receiving).await.is_ok());
    assert_eq!(inbox.seen, wanted);
    assert!(fake.done().duplicate + fake.done().lose_ack > 50, "{:?}", fake.done());

    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), patient()).unwrap();
    fill(&queue, &subject, 200).await;
    let mut inbox = Inbox::default();
    receive(&queue, &subject, &mut inbox, 2).await;
    assert_eq!(inbox.seen, wanted);
}

#[tokio::test]
async fn n2_7_a_hundred_redeliveries_are_one_message() {
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), QueueLimits::default()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    fill(&queue, &subject, 1).await;
    let mut subscription = queue.subscribe(subject.clone(), 1).await.unwrap();
    let mut inbox = Inbox::default();
    for attempt in 1..=100 {
        let delivery = subscription.next().await.unwrap();
        assert_eq!(delivery.attempt(), attempt);
        inbox.commit(&delivery);
        delivery.nak(Duration::ZERO).await.unwrap();
    }
    subscription.next().await.unwrap().ack().await.unwrap();
    assert_eq!(inbox.seen.values().collect::<Vec<_>>(), [&1]);
}

/// Limits under which a receiver may crash as often as it likes.
fn patient() -> QueueLimits {
    QueueLimits { unanswered: u32::MAX, ..QueueLimits::default() }
}

#[tokio::test]
async fn n2_8_poison_is_a_dead_letter_after_one_attempt_and_stays_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let queue = crate::open(folder.path()).await;
    let mailbox = fresh_mailbox();
    let clear = b"a secret that the receiver opened before it refused";
    let sealed: Vec<u8> = clear.iter().map(|byte| byte ^ 0x5a).collect();
    let sent = message(&mailbox.lane(Lane::Messages), &sealed);
    queue.publish(sent.clone()).await.unwrap();
    let mut subscription = queue.subscribe(mailbox.lane(Lane::Messages), 4).await.unwrap();
    let delivery = subscription.next().await.unwrap();
    let opened: Vec<u8> = body(&delivery).iter().map(|byte| byte ^ 0x5a).collect();
    assert_eq!(opened, clear);
    delivery.term(Reason::Refused).await.unwrap();
    assert!(timeout(Duration::from_millis(100), subscription.next()).await.is_err());

    let dead = queue.dead_letters(&mailbox).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].letter.attempts, &dead[0].letter.original), (1, &sent.bytes));
    queue.close().await.unwrap();
    let mut has_sealed = false;
    for entry in std::fs::read_dir(folder.path().join("queue")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        has_sealed |= bytes.windows(sealed.len()).any(|window| window == sealed);
        assert!(!bytes.windows(clear.len()).any(|window| window == clear));
    }
    assert!(has_sealed, "what is looked for in the files can be found there");
}

/// Of N2.9, what needs no envelope: the outer time of expiry is enforced, and identifier and time are
/// one with the body in one encoding, so that a receiver has all three to compare.
#[tokio::test]
async fn n2_9_a_message_is_not_handed_out_after_its_outer_expiry() {
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), QueueLimits::default()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut sent = message(&subject, b"short");
    sent.ttl = Duration::from_secs(1);
    queue.publish(sent.clone()).await.unwrap();
    queue.publish(message(&subject, b"long")).await.unwrap();
    let mut subscription = queue.subscribe(subject.clone(), 1).await.unwrap();
    // Handed out in time, given back, and expired before it can come again.
    let first = subscription.next().await.unwrap();
    assert_eq!(body(&first), b"short");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    drop(first);
    let second = subscription.next().await.unwrap();
    assert_eq!(body(&second), b"long");
    second.ack().await.unwrap();
    assert_eq!(queue.mailboxes().await.unwrap()[0].messages, 0);

    let whole = QueueMessage::decode(&sent.bytes).unwrap();
    for changed in [
        QueueMessage { exp: whole.exp + 1, ..whole.clone() },
        QueueMessage { mid: Mid::new([9; 16]), ..whole.clone() },
        QueueMessage { kind: QueueKind::Receipt, ..whole.clone() },
    ] {
        let read = QueueMessage::decode(&changed.encode()).unwrap();
        assert!(read == changed && read != whole);
    }
}

#[tokio::test]
async fn n2_10_transient_failures_end_in_no_dead_letter() {
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), QueueLimits::default()).unwrap();
    let mailbox = fresh_mailbox();
    let subject = mailbox.lane(Lane::Messages);
    fill(&queue, &subject, 20).await;
    let mut subscription = queue.subscribe(subject.clone(), 20).await.unwrap();
    // The key service is locked: every message fails a hundred times. Ten minutes of that, with the
    // pauses of the specification, is a test of the depot, which takes the time as an argument.
    for _ in 0..20 * 100 {
        let delivery = subscription.next().await.unwrap();
        delivery.nak(Duration::from_millis(1)).await.unwrap();
    }
    assert!(queue.dead_letters(&mailbox).await.unwrap().is_empty());
    let mut came = HashSet::new();
    for _ in 0..20 {
        let delivery = subscription.next().await.unwrap();
        assert!(delivery.attempt() > 1);
        came.insert(body(&delivery));
        delivery.ack().await.unwrap();
    }
    assert_eq!(came.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a42_poison_among_many_ends_as_a_dead_letter_and_holds_nobody_up() {
    let row = Row::new("A42");
    let count = 10_000_u32;
    let rounds = size(1, 5);
    let (mut handled, mut dead, mut handed_out, mut delays) = (0, 0, 0, Sample::default());
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let queue = crate::open(folder.path()).await;
        let mailbox = fresh_mailbox();
        let subject = mailbox.lane(Lane::Messages);
        let poison = count / 3 + round as u32;
        let producer = {
            let (queue, subject) = (queue.clone(), subject.clone());
            tokio::spawn(async move {
                let publish = |number: u32| {
                    let (queue, message) = (queue.clone(), message(&subject, &number.to_be_bytes()));
                    async move { queue.publish(message).await.map(|_| Instant::now()) }
                };
                let mut stored = Vec::new();
                for first in (0..count).step_by(100) {
                    let together: Vec<_> = (first..first + 100).map(|n| tokio::spawn(publish(n))).collect();
                    for one in together {
                        stored.push(one.await.unwrap().unwrap());
                    }
                }
                stored
            })
        };
        let mut subscription = queue.subscribe(subject, 64).await.unwrap();
        let mut came = BTreeMap::new();
        while came.len() < count as usize - 1 {
            let delivery = subscription.next().await.unwrap();
            let number = u32::from_be_bytes(body(&delivery).try_into().unwrap());
            if number == poison {
                // Its handler panics, every time.
                handed_out += 1;
                drop(delivery);
            } else {
                came.insert(number, Instant::now());
                drop(delivery.ack());
            }
        }
        let stored = producer.await.unwrap();
        delays.extend(came.iter().map(|(number, at)| at.saturating_duration_since(stored[*number as usize])));
        handled += came.len();
        let mut letters = queue.dead_letters(&mailbox).await.unwrap();
        while letters.is_empty() {
            if let Ok(Some(delivery)) = timeout(Duration::from_millis(10), subscription.next()).await {
                handed_out += 1;
                drop(delivery);
            }
            letters = queue.dead_letters(&mailbox).await.unwrap();
        }
        assert_eq!(letters[0].letter.reason, Reason::Unanswered);
        dead += letters.len();
    }
    row.exactly("handled", handled, rounds * (count as usize - 1));
    row.exactly("dead letters", dead, rounds);
    row.at_most("times that poison was handed out", handed_out / rounds, 6);
    row.takes_at_most("wait of others ms", delays.percentile_ms(100), 1000.0);
}

#[tokio::test]
async fn who_falls_silent_loses_the_message_to_another() {
    let limits = QueueLimits { ack_wait: Duration::from_millis(100), ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    fill(&queue, &subject, 1).await;
    let mut silent = queue.subscribe(subject.clone(), 1).await.unwrap();
    let kept = silent.next().await.unwrap();
    // Whoever says that it is still at it keeps the message.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        kept.extend().await.unwrap();
        assert!(silent.try_next().is_none());
    }
    let mut other = queue.subscribe(subject.clone(), 1).await.unwrap();
    // Not taken by its subscriber yet, a message is not late.
    let again = timeout(Duration::from_secs(10), async {
        tokio::select! { again = other.next() => again.unwrap(), again = silent.next() => again.unwrap() }
    });
    assert_eq!(again.await.unwrap().attempt(), 2);
    // The first verdict comes too late and changes nothing.
    kept.term(Reason::Refused).await.unwrap();
    assert!(queue.dead_letters(subject.mailbox()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_that_is_not_taken_is_never_late() {
    let limits = QueueLimits { ack_wait: Duration::from_millis(20), unanswered: 1, ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), limits).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    fill(&queue, &subject, 3).await;
    let mut slow = queue.subscribe(subject.clone(), 3).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..3 {
        let delivery = slow.next().await.unwrap();
        assert_eq!(delivery.attempt(), 1);
        delivery.ack().await.unwrap();
    }
    assert!(queue.dead_letters(subject.mailbox()).await.unwrap().is_empty());
}

#[tokio::test]
async fn publishing_does_not_name_what_it_repeats_by_the_identifier_alone() {
    let queue = EmbeddedQueue::open_on(Arc::new(MemoryMedium::default()), QueueLimits::default()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let original = message(&subject, b"original");
    // Who learns an identifier and is faster keeps nobody's message out.
    let squatter = Publish { mid: original.mid, ..message(&subject, b"squatter") };
    queue.publish(squatter).await.unwrap();
    assert!(!queue.publish(original).await.unwrap().is_duplicate);
}
