//! Power cuts: what was promised is there after each, whatever part of the rest reached the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use onward_routing::Rng;
use onward_transports::queue::conformance::{
    Change, MemoryMedium, after_power_cut, apply, body, fresh_mailbox, message,
};
use onward_transports::queue::{Broker as _, EmbeddedQueue, Lane, QueueLimits, Reason, Subject};
use onward_trials::{Event, Id, Ledger, Row, size};

/// What was done to a queue, in numbers of changes of its medium.
#[derive(Default)]
struct Course {
    /// By the number of a message, the sync after which its receipt was given.
    stored: BTreeMap<u32, usize>,
    /// How many changes there were when its verdict was about to be given; then it may be gone.
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
            bytes.resize([4, 200, 1500, 9_000][rng.below(4) as usize], number as u8);
            let (queue, message) = (queue.clone(), message(subject, &bytes));
            stored.push((number, tokio::spawn(async move { queue.publish(message).await })));
        }
        next += together;
        for (number, stored) in stored {
            stored.await.unwrap().unwrap();
            // The receipt follows the sync of its commit, with nothing written in between.
            course.stored.insert(number, medium.last_sync());
        }
        for _ in 0..rng.below(9) {
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

/// What is wrong with a queue that was opened after a power cut.
#[derive(Clone, Copy, Default)]
struct Faults {
    unopenable: usize,
    lost: usize,
    altered: usize,
    unknown: usize,
}

/// Opens what a disk holds and compares it with what was certain when power failed: after the sync that
/// was change number `sync`, and before the one that would have been number `end`.
async fn judge(state: Vec<u8>, subject: Subject, course: Arc<Course>, sync: usize, end: usize) -> Faults {
    let medium = Arc::new(MemoryMedium::holding(state));
    let Ok(queue) = EmbeddedQueue::open_on(medium, limits()) else {
        return Faults { unopenable: 1, ..Faults::default() };
    };
    let found = read(&queue, &subject).await;
    let ledger = Ledger::default();
    for (number, synced) in &course.stored {
        let id = Id { route: 0, number: u64::from(*number) };
        let may_be_gone = course.settling.get(number).is_some_and(|settling| *settling <= end);
        ledger.add(id, Event::Sent);
        if *synced <= sync && !may_be_gone {
            ledger.add(id, Event::Acknowledged);
        }
        if found.contains_key(number) {
            ledger.add(id, Event::Delivered);
        }
    }
    Faults {
        unopenable: 0,
        lost: ledger.verdict().lost.len(),
        altered: found.values().filter(|is_whole| !**is_whole).count(),
        unknown: found.keys().filter(|number| !course.stored.contains_key(number)).count(),
    }
}

/// As many as it takes are handed out at once, and crashes are nobody's fault.
fn limits() -> QueueLimits {
    QueueLimits { unsettled: 10_000, unanswered: u32::MAX, ..QueueLimits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a_power_cut_loses_nothing_that_was_acknowledged() {
    let row = Row::new("R2");
    let states = size(10_000, 100_000);
    let medium = MemoryMedium::default();
    let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), limits()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut disk = medium.bytes();
    medium.record();
    let course = Arc::new(work(&queue, &medium, &subject, size(1_500, 6_000)).await);
    let history = medium.history();
    let syncs: Vec<usize> = (0..history.len()).filter(|at| history[*at] == Change::Sync).collect();

    let mut rng = Rng::new(11);
    let (mut faults, mut tried, mut applied) = (Faults::default(), 0, 0);
    for sync in &syncs {
        // Everything up to and with this sync is on the disk; of what follows up to the next, anything.
        apply(&mut disk, &history[applied..=*sync]);
        applied = sync + 1;
        let end = (applied..history.len()).find(|at| history[*at] == Change::Sync).unwrap_or(history.len());
        let judged: Vec<_> = (0..states.div_ceil(syncs.len()))
            .map(|_| after_power_cut(&disk, &history[applied..end], &mut rng))
            .map(|state| tokio::spawn(judge(state, subject.clone(), Arc::clone(&course), *sync, end)))
            .collect();
        for judged in judged {
            let Faults { unopenable, lost, altered, unknown } = judged.await.unwrap();
            tried += 1;
            faults.unopenable += unopenable;
            faults.lost += lost;
            faults.altered += altered;
            faults.unknown += unknown;
        }
    }
    row.at_least("states after a power cut", tried, states);
    row.exactly("states that cannot be opened", faults.unopenable, 0);
    row.exactly("acknowledged and lost", faults.lost, 0);
    row.exactly("altered", faults.altered, 0);
    row.exactly("never stored", faults.unknown, 0);
}

/// The trial notices a disk that says that it synced and did not.
#[tokio::test]
async fn a_disk_that_does_not_sync_is_noticed() {
    let medium = MemoryMedium::default();
    let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), limits()).unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let before = medium.bytes();
    medium.record();
    let mut course = work(&queue, &medium, &subject, 50).await;
    // Of this one nobody says what becomes of it.
    queue.publish(message(&subject, &u32::MAX.to_be_bytes())).await.unwrap();
    course.stored.insert(u32::MAX, medium.last_sync());
    let (course, end) = (Arc::new(course), medium.recorded());
    let faults = judge(before, subject.clone(), Arc::clone(&course), end, end).await;
    assert!(faults.lost > 0);
    let faults = judge(medium.bytes(), subject, course, end, end).await;
    assert_eq!((faults.lost, faults.altered, faults.unopenable), (0, 0, 0));
}
