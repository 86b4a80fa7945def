//! Queues: what all of them promise, and what the embedded one keeps through crashes, power cuts, full
//! disks and damage.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

mod embedded;
mod inbox;
mod kill;
mod power;
mod storage;

use std::time::Duration;

use onward_transports::queue::conformance::{self, Abilities, FakeBroker, Faults};
use onward_transports::queue::{EmbeddedQueue, QueueLimits};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_queue_passes_what_every_queue_has_to() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    let patience = Duration::from_millis(150);
    let abilities = Abilities { recognises_repeats: true, is_orderly: true, patience };
    conformance::all(&queue, abilities).await;
    queue.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_repeats_reorders_and_loses_acknowledgements_passes_it_too() {
    let patience = Duration::from_millis(50);
    for (faults, is_orderly) in [(Faults::default(), true), (Faults::honest(16_384), false)] {
        let abilities = Abilities { recognises_repeats: false, is_orderly, patience };
        conformance::all(&FakeBroker::new(faults, 1), abilities).await;
    }
}

/// The checks notice a broker that breaks its promise.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_loses_messages_does_not_pass() {
    let faults = Faults { drop: 16_384, ..Faults::default() };
    let abilities =
        Abilities { recognises_repeats: false, is_orderly: false, patience: Duration::from_millis(20) };
    let checked = tokio::spawn(async move { conformance::all(&FakeBroker::new(faults, 1), abilities).await });
    assert!(checked.await.is_err());
}

async fn open(folder: &std::path::Path) -> EmbeddedQueue {
    EmbeddedQueue::open(&folder.join("queue"), QueueLimits::default()).await.unwrap()
}
