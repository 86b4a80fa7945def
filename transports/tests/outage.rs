//! Brokers that are away for minutes, all at once, with a queue on the disk in front of each. A program of its own:
//! what the outage costs is measured for the whole process.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_transports::queue::{
    self, Broker, Durability, EmbeddedQueue, Lane, QueueLimits, QueueMessage, SpooledQueue, Subject,
    Subscription,
};
use onward_trials::{Process, Row, Server, ServerKind, size};
use tokio::time::{sleep, timeout};

/// How long anything may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the brokers are away, in every run: shorter ones say nothing of minutes.
const OUTAGE: Duration = Duration::from_secs(120);
/// Bytes of memory that one may cost.
const MEMORY: f64 = 32.0 * 1024.0 * 1024.0;

/// A broker with a spool before it, and the one who receives from both.
struct Spooled {
    kind: ServerKind,
    server: Server,
    disk: EmbeddedQueue,
    spool: SpooledQueue,
    subject: Subject,
    subscription: Subscription,
}

impl Spooled {
    async fn start(kind: ServerKind, folder: &std::path::Path) -> Option<Self> {
        let server = Server::start(kind)?;
        let broker = queue::connect(&server.url().parse().unwrap()).await.unwrap();
        let promised = broker.standing().durability;
        println!("{}", broker.standing().software);
        let subject = fresh_mailbox().lane(Lane::Messages);
        let mut subscription = broker.subscribe(subject.clone(), 64).await.unwrap();
        // A mailbox that is new may be worth less for some seconds.
        loop {
            let stored = broker.publish(message(&subject, b"early")).await.unwrap();
            timeout(PATIENCE, subscription.next()).await.unwrap().unwrap().ack().await.unwrap();
            if stored.durability >= promised {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        let disk =
            EmbeddedQueue::open(&folder.join(format!("{kind:?}")), QueueLimits::default()).await.unwrap();
        let spool = SpooledQueue::new(disk.clone(), broker).await.unwrap();
        Some(Self { kind, server, disk, spool, subject, subscription })
    }

    async fn store(&self, count: u32) {
        for number in 0..count {
            let stored = self.spool.publish(message(&self.subject, &number.to_be_bytes())).await.unwrap();
            assert_eq!(stored.durability, Durability::Disk);
        }
    }

    async fn waiting(&self) -> u64 {
        self.disk.mailboxes().await.unwrap().iter().map(|row| row.messages).sum()
    }

    /// The numbers of what comes, without repeats, until there are `count`.
    async fn drain(&mut self, count: usize) -> Vec<u32> {
        let (mut had, mut order) = (HashSet::new(), Vec::new());
        let draining = async {
            while order.len() < count {
                let Some(delivery) = self.subscription.next().await else {
                    self.subscription = self.spool.subscribe(self.subject.clone(), 64).await.unwrap();
                    continue;
                };
                if had.insert(QueueMessage::decode(delivery.bytes()).unwrap().mid) {
                    order.push(u32::from_be_bytes(body(&delivery).try_into().unwrap()));
                }
                drop(delivery.ack());
            }
        };
        let done = timeout(PATIENCE, draining).await;
        assert!(done.is_ok(), "{:?}: {} of {count} came", self.kind, order.len());
        order
    }
}

/// Counts the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicU64>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_what_is_stored_while_brokers_are_away_for_minutes_leaves_when_they_are_back() {
    let lines = Lines::default();
    let log = lines.clone();
    // As the command logs unless told otherwise.
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || log.clone())
        .init();
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for kind in ServerKind::ALL {
        all.extend(Spooled::start(kind, folder.path()).await);
    }
    if all.is_empty() {
        return;
    }

    for one in &mut all {
        tokio::task::block_in_place(|| one.server.kill());
    }
    let count = size(1_000, 10_000);
    let (own, before, logged) = (Process::own(), Process::own().memory(), lines.0.load(Ordering::Relaxed));
    for one in &all {
        one.store(count as u32).await;
    }
    let (began, busy) = (Instant::now(), own.processor_time());
    sleep(OUTAGE).await;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let share = (own.processor_time() - busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let grown = own.memory().saturating_sub(before);
    let logged = lines.0.load(Ordering::Relaxed) - logged;
    let mut waiting = Vec::new();
    for one in &mut all {
        waiting.push(one.waiting().await);
    }
    for one in &mut all {
        tokio::task::block_in_place(|| one.server.restart());
    }

    let row = Row::new("R6");
    let brokers = all.len() as f64;
    row.at_least("brokers away at once", all.len(), 1);
    row.takes_at_most("processor while away, of each %", share * 100.0 / brokers, 2.0);
    row.at_most("memory that grew, of each B", grown as f64 / brokers, MEMORY);
    row.at_most("lines of the log in a minute, of each", logged as f64 / minutes / brokers, 10.0);
    for (one, waiting) in all.iter_mut().zip(waiting) {
        let name = format!("{:?}", one.kind);
        row.exactly(&format!("{name}: waited on the disk"), waiting, count as u64);
        let order = one.drain(count).await;
        row.exactly(
            &format!("{name}: out of order"),
            order.windows(2).filter(|pair| pair[0] > pair[1]).count(),
            0,
        );
        let emptied = async {
            while one.waiting().await > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, emptied).await.is_ok(), "{name}: what has left is still on the disk");
    }
}
