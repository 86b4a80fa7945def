//! Power cuts: what was promised is there after each, whatever part of the rest reached the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use onward_routing::Rng;
use onward_transports::queue::conformance::{
    Change, MemoryMedium, after_power_cut, apply, body, fresh_mailbox, message,
};
use onward_transports::queue::{Broker as _, EmbeddedQueue, Lane, QueueLimits, Reason, Subject};
use onward_trials::{Event, Id, Ledger, Row, size};

/// What was done to a queue, each with the number of changes of the medium that were written down when
/// it was certain.
#[derive(Default)]
struct Course {
    /// Receipts, by the number of the message.
    stored: BTreeMap<u32, usize>,
    /// Verdicts that were about to be given: from then on a message may be gone, or dead.
    settling: BTreeMap<u32, usize>,
}

/// Stores and settles messages of several sizes, one after the other, until there are so many changes.
async fn work(queue: &EmbeddedQueue, medium: &MemoryMedium, subject: &Subject, changes: usize) -> Course {
    let mut course = Course::default();
    let mut rng = Rng::new(3);
    let mut subscription = queue.subscribe(subject.clone(), 1).await.unwrap();
    let mut next = 0_u32;
    while medium.recorded() < changes {
        // Some batches of many, as when producers store together.
        let together = if rng.below(4) == 0 { 1 + rng.below(20) as u32 } else { 1 };
        let mut stored = Vec::new();
        for number in next..next + together {
            let mut bytes = number.to_be_bytes().to_vec();
            bytes.resize([4, 200, 3000, 20_000][rng.below(4) as usize], number as u8);
            let (queue, message) = (queue.clone(), message(subject, &bytes));
            stored.push((number, tokio::spawn(async move { queue.publish(message).await })));
        }
        next += together;
        for (number, stored) in stored {
            stored.await.unwrap().unwrap();
            course.stored.insert(number, medium.recorded());
        }
        for _ in 0..rng.below(4) {
            let Some(delivery) = subscription.try_next() else { break };
            let number = u32::from_be_bytes(body(&delivery)[..4].try_into().unwrap());
            course.settling.entry(number).or_insert(medium.recorded());
            match rng.below(8) {
                0 => delivery.term(Reason::Refused).await.unwrap(),
                1 => drop(delivery),
                _ => delivery.ack().await.unwrap(),
            }
        }
    }
    course
}

/// The messages in a queue, those in its dead letters included, each with whether it is as it was sent.
async fn read(queue: &EmbeddedQueue, subject: &Subject) -> BTreeMap<u32, bool> {
    let mut found = BTreeMap::new();
    let mut note = |body: &[u8]| {
        let number = u32::from_be_bytes(body[..4].try_into().unwrap());
        let is_whole = body[4..].iter().all(|byte| *byte == number as u8);
        found.insert(number, is_whole);
    };
    for row in queue.dead_letters(subject.mailbox()).await.unwrap() {
        note(&onward_transports::queue::QueueMessage::decode(&row.letter.original).unwrap().body);
    }
    let rows = queue.mailboxes().await.unwrap();
    let count = rows.iter().find(|row| row.subject == *subject).map_or(0, |row| row.messages);
    let mut subscription = queue.subscribe(subject.clone(), 10_000).await.unwrap();
    for _ in 0..count {
        let delivery = subscription.next().await.unwrap();
        note(&body(&delivery));
        drop(delivery.ack());
    }
    found
}

#[tokio::test]
async fn r2_a_power_cut_loses_nothing_that_was_acknowledged() {
    let row = Row::new("R2");
    let states = size(10_000, 100_000);
    let medium = MemoryMedium::default();
    // Unbounded, so that no restart of a trial is refused.
    let limits = QueueLimits { unsettled: 10_000, unanswered: u32::MAX, ..QueueLimits::default() };
    let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), limits.clone()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let before = medium.bytes();
    medium.record();
    let course = work(&queue, &medium, &subject, size(1_500, 6_000)).await;
    let history = medium.history();
    let syncs: Vec<usize> = (0..history.len()).filter(|at| history[*at] == Change::Sync).collect();
    let each = states.div_ceil(syncs.len());

    let mut rng = Rng::new(11);
    let (mut unopenable, mut lost, mut altered, mut unknown, mut tried) = (0, 0, 0, 0, 0);
    let (mut disk, mut applied) = (before, 0);
    for sync in syncs {
        // Everything up to and with this sync is on the disk; what follows may be, up to the next one.
        apply(&mut disk, &history[applied..=sync]);
        applied = sync + 1;
        let end = (applied..history.len()).find(|at| history[*at] == Change::Sync).unwrap_or(history.len());
        for _ in 0..each {
            tried += 1;
            let bytes = after_power_cut(&disk, &history[applied..end], &mut rng);
            let state = Arc::new(MemoryMedium::holding(bytes));
            let Ok(queue) = EmbeddedQueue::open_on(state, limits.clone()) else {
                unopenable += 1;
                continue;
            };
            let found = read(&queue, &subject).await;
            let ledger = Ledger::default();
            for (number, at) in &course.stored {
                let id = Id { route: 0, number: u64::from(*number) };
                // A receipt follows its sync, with nothing written in between.
                let is_promised = last_sync(&history, *at) <= sync;
                let may_be_gone = course.settling.get(number).is_some_and(|settling| *settling <= end);
                ledger.add(id, Event::Sent);
                if is_promised && !may_be_gone {
                    ledger.add(id, Event::Acknowledged);
                }
                if found.contains_key(number) {
                    ledger.add(id, Event::Delivered);
                }
            }
            lost += ledger.verdict().lost.len();
            altered += found.values().filter(|is_whole| !**is_whole).count();
            unknown += found.keys().filter(|number| !course.stored.contains_key(number)).count();
        }
    }
    row.at_least("states after a power cut", tried, states);
    row.exactly("states that cannot be opened", unopenable, 0);
    row.exactly("acknowledged and lost", lost, 0);
    row.exactly("altered", altered, 0);
    // One that was stored and had no receipt yet may be there: the last batch of the work.
    row.at_most("never stored", unknown, 0);
}

/// The last sync before so many changes.
fn last_sync(history: &[Change], changes: usize) -> usize {
    (0..changes).rev().find(|at| history[*at] == Change::Sync).unwrap_or(0)
}

/// The trial above notices a queue that acknowledges before its sync: its history without every other one.
#[tokio::test]
async fn a_medium_that_loses_a_sync_is_noticed() {
    let medium = MemoryMedium::default();
    let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), QueueLimits::default()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let before = medium.bytes();
    queue.publish(message(&subject, &[0; 8])).await.unwrap();
    drop(queue);
    // As if nothing of it had reached the disk.
    let queue =
        EmbeddedQueue::open_on(Arc::new(MemoryMedium::holding(before)), QueueLimits::default()).unwrap();
    assert!(read(&queue, &subject).await.is_empty());
}
