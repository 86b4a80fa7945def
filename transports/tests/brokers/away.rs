//! A broker that is away for long, with a queue on the disk in front of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_transports::queue::{
    Broker, Durability, EmbeddedQueue, Lane, QueueLimits, QueueMessage, SpooledQueue,
};
use onward_trials::{Process, Row, ServerKind, size};
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

/// Bytes of memory that an outage may cost.
const MEMORY: f64 = 32.0 * 1024.0 * 1024.0;

/// R6 for one kind of server.
async fn what_is_stored_leaves_when_the_broker_is_back(kind: ServerKind) {
    let Some((mut server, broker)) = crate::broker(kind).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = EmbeddedQueue::open(&folder.path().join("spool"), QueueLimits::default()).await.unwrap();
    let spool = SpooledQueue::new(disk.clone(), broker).await.unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut subscription = spool.subscribe(subject.clone(), 64).await.unwrap();
    spool.publish(message(&subject, &0_u32.to_be_bytes())).await.unwrap();
    let first = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    first.ack().await.unwrap();
    assert!(timeout(PATIENCE, emptied(&disk)).await.is_ok(), "the first is still on the disk");

    tokio::task::block_in_place(|| server.kill());
    let count = size(1_000, 10_000) as u32;
    let (before, own) = (Process::own().memory(), Process::own());
    for number in 1..=count {
        let stored = spool.publish(message(&subject, &number.to_be_bytes())).await.unwrap();
        assert_eq!(stored.durability, Durability::Disk);
    }
    let (began, busy) = (Instant::now(), own.processor_time());
    sleep(Duration::from_secs(size(8, 120) as u64)).await;
    let share = (own.processor_time() - busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let grown = own.memory().saturating_sub(before);
    let waiting = disk.mailboxes().await.unwrap()[0].messages;
    tokio::task::block_in_place(|| server.restart());

    let (mut had, mut order) = (HashSet::new(), Vec::new());
    let draining = async {
        while order.len() < count as usize {
            let Some(delivery) = subscription.next().await else {
                subscription = spool.subscribe(subject.clone(), 64).await.unwrap();
                continue;
            };
            if had.insert(QueueMessage::decode(delivery.bytes()).unwrap().mid) {
                order.push(u32::from_be_bytes(body(&delivery).try_into().unwrap()));
            }
            drop(delivery.ack());
        }
    };
    assert!(timeout(PATIENCE, draining).await.is_ok(), "{} of {count} came", order.len());
    let row = Row::new("R6");
    row.exactly("waited on the disk", waiting, count.into());
    row.exactly("out of order", order.windows(2).filter(|pair| pair[0] > pair[1]).count(), 0);
    row.takes_at_most("processor while away %", share * 100.0, 2.0);
    row.takes_at_most("memory that grew B", grown as f64, MEMORY);
    assert!(timeout(PATIENCE, emptied(&disk)).await.is_ok(), "what has left is still on the disk");
}

/// Waits until nothing is left on the disk.
async fn emptied(disk: &EmbeddedQueue) {
    while disk.mailboxes().await.unwrap().iter().any(|row| row.messages > 0) {
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_nats_is_away() {
    what_is_stored_leaves_when_the_broker_is_back(ServerKind::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_redis_is_away() {
    what_is_stored_leaves_when_the_broker_is_back(ServerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_mosquitto_is_away() {
    what_is_stored_leaves_when_the_broker_is_back(ServerKind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_restart_of_this_end_leaves_after_it() {
    let Some((_server, broker)) = crate::broker(ServerKind::Nats).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = EmbeddedQueue::open(&folder.path().join("spool"), QueueLimits::default()).await.unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    // Stored by a program that ended before any of it left.
    disk.publish(message(&subject, b"left behind")).await.unwrap();
    let mut subscription = broker.subscribe(subject, 4).await.unwrap();
    let _spool = SpooledQueue::new(disk, Arc::clone(&broker)).await.unwrap();
    let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(body(&delivery), b"left behind");
    delivery.ack().await.unwrap();
}
