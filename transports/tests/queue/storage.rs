//! Storage that is full, or no longer holds what was written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward_routing::Rng;
use onward_transports::queue::conformance::{MemoryMedium, body, fresh_mailbox, message};
use onward_transports::queue::{
    Broker as _, EmbeddedQueue, Lane, Mailbox, QueueError, QueueLimits, QueueMessage, Reason, Subject,
};
use onward_trials::{Row, SmallDisk, size};

/// Stores messages of 10 kB, numbered from `first`, until one is refused; the next number, and how
/// long the refusal took.
async fn fill(queue: &EmbeddedQueue, subject: &Subject, first: u32) -> (u32, Duration) {
    for number in first.. {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.resize(10_000, number as u8);
        let asked = Instant::now();
        match queue.publish(message(subject, &bytes)).await {
            Ok(_) => {}
            Err(QueueError::StorageFull) => return (number, asked.elapsed()),
            Err(error) => panic!("{error:?}"),
        }
    }
    unreachable!("there are enough numbers")
}

/// Stores one message as soon as that works again; how long it took.
async fn resume(queue: &EmbeddedQueue, subject: &Subject, number: u32) -> Duration {
    let began = Instant::now();
    while let Err(error) = queue.publish(message(subject, &number.to_be_bytes())).await {
        assert!(matches!(error, QueueError::StorageFull), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// The numbers of all messages, which are as they were sent; each is acknowledged.
async fn drain(queue: &EmbeddedQueue, subject: &Subject) -> BTreeSet<u32> {
    let mut subscription = queue.subscribe(subject.clone(), 64).await.unwrap();
    let mut numbers = BTreeSet::new();
    let began = Instant::now();
    while !is_empty(queue, subject).await {
        assert!(began.elapsed() < Duration::from_secs(30), "{} came", numbers.len());
        while let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::from_millis(100), subscription.next()).await
        {
            let body = body(&delivery);
            let number = u32::from_be_bytes(body[..4].try_into().unwrap());
            assert!(body[4..].iter().all(|byte| *byte == number as u8), "{number}");
            numbers.insert(number);
            drop(delivery.ack());
        }
    }
    numbers
}

/// Whether a mailbox is empty; a full disk is asked again.
async fn is_empty(queue: &EmbeddedQueue, subject: &Subject) -> bool {
    match queue.mailboxes().await {
        Ok(rows) => rows.iter().all(|row| row.subject != *subject || row.messages == 0),
        Err(QueueError::StorageFull) => false,
        Err(error) => panic!("{error:?}"),
    }
}

fn limits() -> QueueLimits {
    QueueLimits { unsettled: 100_000, ..QueueLimits::default() }
}

#[tokio::test]
async fn a_full_medium_refuses_at_once_and_empties_without_a_restart() {
    for keeps_silent in [false, true] {
        let medium = MemoryMedium::default();
        if keeps_silent {
            // As when others fill the disk in the same moment: the commit itself fails.
            medium.keep_silent();
        }
        medium.set_capacity(Some(8 << 20));
        let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), limits()).unwrap();
        let subject = fresh_mailbox().lane(Lane::Messages);
        let (count, refusal) = fill(&queue, &subject, 0).await;
        assert!(count > 100, "{count}");
        assert!(refusal < Duration::from_millis(100) || keeps_silent, "{refusal:?}");
        // Removing needs no room that is not there.
        let found = drain(&queue, &subject).await;
        assert_eq!(found, (0..count).collect(), "silent: {keeps_silent}");
        // What was removed made room.
        let took = resume(&queue, &subject, count).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        medium.set_capacity(None);
        assert_eq!(fill_some(&queue, &subject, count + 1).await, 100);
        assert_eq!(drain(&queue, &subject).await, (count..count + 101).collect());
    }
}

async fn fill_some(queue: &EmbeddedQueue, subject: &Subject, first: u32) -> u32 {
    for number in first..first + 100 {
        queue.publish(message(subject, &number.to_be_bytes())).await.unwrap();
    }
    100
}

/// A real limit of the system on a file, and, where this process may mount, small file systems. What a full
/// disk does to other routes of the node is measured with whole nodes.
#[test]
fn r3_a_full_disk_refuses_at_once_and_recovers_without_a_restart() {
    let row = Row::new("R3");
    let folder = tempfile::tempdir().unwrap();
    run(&row, "file size limit", &folder.path().join("queue"), "limit");
    for (name, disk) in [("full ext4", SmallDisk::ext4(16)), ("full tmpfs", SmallDisk::memory(16))] {
        match disk {
            Some(disk) => run(&row, name, &disk.path().join("queue"), "ballast"),
            None => println!("{name}: cannot be mounted here, and was not tried"),
        }
    }
}

/// Lets a child fill a queue, and reports what it says.
fn run(row: &Row, name: &str, folder: &Path, how: &str) {
    // The signal that comes with the limit would end the process.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "storage::the_child", "--ignored", "--nocapture"])
        .env(TASK, format!("{how} {}", folder.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures = said.lines().find_map(|line| line.strip_prefix("figures ")).unwrap();
    let figures: Vec<f64> = figures.split(' ').map(|figure| figure.parse().unwrap()).collect();
    row.at_least(&format!("{name}: stored until it is full"), figures[0], 100.0);
    row.takes_at_most(&format!("{name}: refused after ms"), figures[1], 100.0);
    row.takes_at_most(&format!("{name}: works again after ms"), figures[2], 1_000.0);
    row.exactly(&format!("{name}: acknowledged and lost"), figures[3], 0.0);
}

const TASK: &str = "ONWARD_QUEUE_FULL";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that r3 starts, with limits of its own"]
async fn the_child() {
    let task = std::env::var(TASK).unwrap();
    let (how, folder) = task.split_once(' ').unwrap();
    let folder = PathBuf::from(folder);
    let ballast = folder.with_file_name("ballast");
    if how == "limit" {
        limit_files(Some(8 << 20));
    } else {
        std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    }
    let queue = EmbeddedQueue::open(&folder, limits()).await.unwrap();
    let mailbox: Mailbox = "full".parse().unwrap();
    let subject = mailbox.lane(Lane::Messages);
    let (count, mut refusal) = fill(&queue, &subject, 0).await;
    // It goes on refusing, as fast.
    for _ in 0..20 {
        let (_, next) = fill(&queue, &subject, count).await;
        refusal = refusal.max(next);
    }
    if how == "limit" {
        limit_files(None);
    } else {
        std::fs::remove_file(&ballast).unwrap();
    }
    let resumed = resume(&queue, &subject, count).await;
    let found = drain(&queue, &subject).await;
    let lost = (0..=count).filter(|number| !found.contains(number)).count();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("\nfigures {count} {} {} {lost}", ms(refusal), ms(resumed));
    queue.close().await.unwrap();
}

/// No file of this process may be longer.
fn limit_files(bytes: Option<u64>) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// A queue with messages in all states, on a medium in memory: stored, settled, dead, handed out.
async fn used(subject: &Subject) -> (MemoryMedium, EmbeddedQueue, BTreeSet<u32>) {
    let medium = MemoryMedium::default();
    let queue = EmbeddedQueue::open_on(Arc::new(medium.clone()), limits()).unwrap();
    let mut subscription = queue.subscribe(subject.clone(), 1).await.unwrap();
    let mut there = BTreeSet::new();
    for number in 0..60_u32 {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.resize(4 + 150 * (number as usize % 9), number as u8);
        queue.publish(message(subject, &bytes)).await.unwrap();
        there.insert(number);
        if number % 3 == 0 {
            let delivery = subscription.next().await.unwrap();
            let settled = u32::from_be_bytes(body(&delivery)[..4].try_into().unwrap());
            if number % 9 == 0 {
                delivery.term(Reason::Refused).await.unwrap();
            } else {
                delivery.ack().await.unwrap();
                there.remove(&settled);
            }
        }
    }
    (medium, queue, there)
}

/// What came of a flipped bit.
#[derive(Clone, Copy, Default)]
struct Flip {
    missing: usize,
    unnoticed: usize,
    altered: usize,
    unopenable: usize,
}

async fn flip(mut bytes: Vec<u8>, bit: usize, subject: Subject, there: Arc<BTreeSet<u32>>) -> Flip {
    bytes[bit / 8] ^= 1 << (bit % 8);
    let medium = MemoryMedium::holding(bytes);
    let Ok(queue) = EmbeddedQueue::open_on(Arc::new(medium.clone()), limits()) else {
        return Flip { unopenable: 1, ..Flip::default() };
    };
    let (mut found, mut altered, mut quarantined) = (BTreeSet::new(), 0, 0);
    let mut note = |body: &[u8]| {
        let number = body.first_chunk::<4>().map_or(u32::MAX, |number| u32::from_be_bytes(*number));
        let is_whole = number < 60 && body[4..] == vec![number as u8; 150 * (number as usize % 9)];
        found.insert(number);
        altered += usize::from(!is_whole);
    };
    for row in queue.dead_letters(subject.mailbox()).await.unwrap() {
        match QueueMessage::decode(&row.letter.original) {
            Some(message) if row.letter.reason != Reason::Damaged => note(&message.body),
            _ => quarantined += 1,
        }
    }
    let rows = queue.mailboxes().await.unwrap();
    let count = rows.iter().find(|row| row.subject == subject).map_or(0, |row| row.messages);
    let mut subscription = queue.subscribe(subject.clone(), 1000).await.unwrap();
    for _ in 0..count {
        match tokio::time::timeout(Duration::from_secs(5), subscription.next()).await {
            Ok(Some(delivery)) => note(&QueueMessage::decode(delivery.bytes()).unwrap().body),
            _ => break,
        }
    }
    let missing = there.iter().filter(|number| !found.contains(number)).count();
    let opening = queue.opening();
    assert_eq!(opening.is_set_aside, medium.replaced() > 0);
    let was_noticed = opening.is_set_aside || opening.is_undone || quarantined > 0;
    Flip { missing, unnoticed: if was_noticed { 0 } else { missing }, altered, unopenable: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_flipped_bit_is_noticed_and_costs_one_message_at_most() {
    let row = Row::new("R4");
    let positions = size(2_000, 10_000);
    let subject = fresh_mailbox().lane(Lane::Messages);
    let (medium, queue, there) = used(&subject).await;
    // After kill -9, and after an orderly end.
    let killed = medium.bytes();
    queue.close().await.unwrap();
    let closed = medium.bytes();
    let there = Arc::new(there);
    let mut rng = Rng::new(17);
    let (mut worst, mut sum, mut harmed) = (Flip::default(), Flip::default(), 0);
    for (bytes, share) in [(killed, positions / 2), (closed, positions - positions / 2)] {
        // Where something was written; most of a small file never was.
        let written: Vec<usize> = bytes
            .chunks(512)
            .enumerate()
            .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
            .map(|(at, _)| at)
            .collect();
        let mut left = share;
        while left > 0 {
            let together = left.min(16);
            left -= together;
            let tried: Vec<_> = (0..together)
                .map(|_| {
                    written[rng.below(written.len() as u64) as usize] * 512 * 8 + rng.below(512 * 8) as usize
                })
                .map(|bit| {
                    tokio::spawn(flip(
                        bytes.clone(),
                        bit.min(bytes.len() * 8 - 1),
                        subject.clone(),
                        Arc::clone(&there),
                    ))
                })
                .collect();
            for tried in tried {
                let Flip { missing, unnoticed, altered, unopenable } = tried.await.unwrap();
                worst.missing = worst.missing.max(missing);
                sum.unnoticed += unnoticed;
                sum.altered += altered;
                sum.unopenable += unopenable;
                harmed += usize::from(missing > 0);
            }
        }
    }
    row.at_least("positions", positions, 2_000);
    row.at_least("positions that cost a message", harmed, 1);
    row.at_most("messages lost by one flipped bit", worst.missing, 1);
    row.exactly("lost and not noticed", sum.unnoticed, 0);
    row.exactly("handed out altered", sum.altered, 0);
    row.exactly("queues that cannot be opened", sum.unopenable, 0);
}
