//! What lies on the disk in front of a broker when the program that stored it ends.

use std::sync::Arc;

use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_transports::queue::{Broker, EmbeddedQueue, Lane, QueueLimits, SpooledQueue};
use onward_trials::ServerKind;
use tokio::time::timeout;

use crate::PATIENCE;

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
