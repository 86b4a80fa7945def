//! The queue on disk, beside what its disk and its database can do: the same messages through the bare
//! database, and through a plain file that is appended to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use onward::queue::{Broker as _, EmbeddedQueue, Lane, Mailbox, Mid, Publish, QueueLimits, Subject};
use redb::{Database, ReadableDatabase as _, TableDefinition};
use tokio::runtime::Runtime;

/// Messages stored at the same time, and messages in one batch of what is compared with.
const TOGETHER: u64 = 256;
/// Messages of one run.
const MESSAGES: u64 = 128 * TOGETHER;
/// Receipts that one producer waits for in one run.
const RECEIPTS: usize = 1000;

/// Messages a second that are stored, handed out and acknowledged, all on the disk, while `TOGETHER`
/// producers each wait for their receipts.
pub(crate) fn durable(runtime: &Runtime, folder: &Path, size: usize) -> f64 {
    runtime.block_on(async {
        let queue = open(folder).await;
        let began = Instant::now();
        let consumer = tokio::spawn(consume(queue.clone(), MESSAGES));
        let next = Arc::new(AtomicU64::new(0));
        let mut producers = Vec::new();
        for _ in 0..TOGETHER {
            let (queue, next) = (queue.clone(), Arc::clone(&next));
            producers.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= MESSAGES {
                        return;
                    }
                    queue.publish(message(number, size)).await.unwrap_or_else(|error| panic!("{error}"));
                }
            }));
        }
        for producer in producers {
            producer.await.unwrap_or_else(|error| panic!("{error}"));
        }
        consumer.await.unwrap_or_else(|error| panic!("{error}"));
        // Until the last acknowledgement is on the disk.
        queue.close().await.unwrap_or_else(|error| panic!("{error}"));
        MESSAGES as f64 / began.elapsed().as_secs_f64()
    })
}

async fn consume(queue: EmbeddedQueue, count: u64) {
    let mut subscription = queue.subscribe(subject(), 1024).await.unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..count {
        let delivery = subscription.next().await.unwrap_or_else(|| panic!("the queue ended"));
        // Told at once; nobody waits until it is on the disk.
        drop(delivery.ack());
    }
}

/// The same messages through the bare database: a commit for each batch that comes, and one for each
/// that is read and goes.
pub(crate) fn database(folder: &Path, size: usize) -> f64 {
    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
    let database = Database::create(folder.join("bare")).unwrap_or_else(|error| panic!("{error}"));
    let body = vec![7; size];
    let run = || -> Result<(), redb::Error> {
        for first in (0..MESSAGES).step_by(TOGETHER as usize) {
            let write = database.begin_write()?;
            let mut table = write.open_table(TABLE)?;
            for number in first..first + TOGETHER {
                table.insert(number, &body[..])?;
            }
            drop(table);
            write.commit()?;
            let table = database.begin_read()?.open_table(TABLE)?;
            for item in table.range(first..first + TOGETHER)? {
                std::hint::black_box(item?.1.value().to_vec());
            }
            drop(table);
            let write = database.begin_write()?;
            let mut table = write.open_table(TABLE)?;
            for number in first..first + TOGETHER {
                table.remove(number)?;
            }
            drop(table);
            write.commit()?;
        }
        Ok(())
    };
    let began = Instant::now();
    run().unwrap_or_else(|error| panic!("{error}"));
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

/// The same messages through a plain file, each with its length in front: append a batch and sync, read
/// its messages back, write how far that was and sync.
pub(crate) fn file(folder: &Path, size: usize) -> f64 {
    const HEAD: usize = 4;
    let (log, cursor) = (create(&folder.join("log")), create(&folder.join("cursor")));
    let mut message = (size as u32).to_le_bytes().to_vec();
    message.resize(HEAD + size, 7);
    let entry = message.len() as u64;
    let mut back = vec![0; message.len()];
    let mut run = || -> std::io::Result<()> {
        for first in (0..MESSAGES).step_by(TOGETHER as usize) {
            for number in first..first + TOGETHER {
                log.write_all_at(&message, number * entry)?;
            }
            log.sync_data()?;
            for number in first..first + TOGETHER {
                log.read_exact_at(&mut back, number * entry)?;
                std::hint::black_box(back.clone());
            }
            cursor.write_all_at(&first.to_le_bytes(), 0)?;
            cursor.sync_data()?;
        }
        Ok(())
    };
    let began = Instant::now();
    run().unwrap_or_else(|error| panic!("{error}"));
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

/// Half of the receipts of one producer, who waits for each, come within so many microseconds; and half
/// of the syncs of a plain file, one after each receipt and so many appended bytes, within so many.
pub(crate) fn receipt(runtime: &Runtime, folder: &Path, size: usize) -> (f64, f64) {
    // On a worker thread, as an application's task would be.
    let folder = folder.to_owned();
    let laps = runtime.spawn(async move {
        let queue = open(&folder).await;
        let log = create(&folder.join("sync"));
        let body = vec![7; size];
        let (mut receipts, mut syncs) = (Vec::new(), Vec::new());
        for number in 0..RECEIPTS as u64 {
            let asked = Instant::now();
            queue.publish(message(number, size)).await.unwrap_or_else(|error| panic!("{error}"));
            receipts.push(asked.elapsed());
            let asked = Instant::now();
            let synced = log.write_all_at(&body, number * size as u64).and_then(|()| log.sync_data());
            synced.unwrap_or_else(|error| panic!("{error}"));
            syncs.push(asked.elapsed());
        }
        queue.close().await.unwrap_or_else(|error| panic!("{error}"));
        (p50(receipts), p50(syncs))
    });
    runtime.block_on(laps).unwrap_or_else(|error| panic!("{error}"))
}

/// How often the thread of a queue wakes up in a second in which its subscriber gets nothing.
pub(crate) fn idle(runtime: &Runtime, folder: &Path) -> f64 {
    const IDLE: Duration = Duration::from_secs(1);
    runtime.block_on(async {
        let queue = open(folder).await;
        let subscription = queue.subscribe(subject(), 16).await.unwrap_or_else(|error| panic!("{error}"));
        queue.mailboxes().await.unwrap_or_else(|error| panic!("{error}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = switches("onward-queue");
        tokio::time::sleep(IDLE).await;
        let woken = switches("onward-queue") - before;
        drop(subscription);
        woken as f64
    })
}

/// How often threads of this name went to sleep so far.
fn switches(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap_or_else(|error| panic!("{error}"));
    let status = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.ok()?.path().join("status")).ok()
    };
    let named = tasks.filter_map(status).filter(|status| status.starts_with(&format!("Name:\t{name}\n")));
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    named.filter_map(count).sum()
}

async fn open(folder: &Path) -> EmbeddedQueue {
    let opened = EmbeddedQueue::open(&folder.join("queue"), QueueLimits::default()).await;
    opened.unwrap_or_else(|error| panic!("{error}"))
}

fn subject() -> Subject {
    let mailbox: Mailbox = "bench".parse().unwrap_or_else(|error| panic!("{error}"));
    mailbox.lane(Lane::Messages)
}

fn message(number: u64, size: usize) -> Publish {
    let mid = Mid::new(u128::from(number).to_be_bytes());
    let bytes = Bytes::from(vec![7; size]);
    Publish { subject: subject(), mid, ttl: Duration::from_secs(3600), bytes }
}

fn create(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn p50(mut laps: Vec<Duration>) -> f64 {
    laps.sort_unstable();
    laps[laps.len() / 2].as_nanos() as f64 / 1e3
}
