//! A message that no handler survives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_transports::queue::{Broker, DeadLetter, Lane, Reason, Subject};
use onward_trials::{Row, Sample, ServerKind, size};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::PATIENCE;

/// Messages that are published at the same time.
const TOGETHER: u32 = 50;

/// A42 for one kind of server.
async fn poison_in(kind: ServerKind) {
    let Some((_server, broker)) = crate::broker(kind).await else { return };
    poison_ends_as_a_dead_letter(broker).await;
}

/// A42.
pub(crate) async fn poison_ends_as_a_dead_letter(broker: Arc<dyn Broker>) {
    let count = size(500, 10_000) as u32;
    let poison = count / 3;
    let mailbox = fresh_mailbox();
    let subject = mailbox.lane(Lane::Messages);
    let mut subscription = broker.subscribe(subject.clone(), 64).await.unwrap();
    let producer = tokio::spawn(publish(Arc::clone(&broker), subject, count));
    let mut came = BTreeMap::new();
    let mut handed_out = 0;
    let mut dead = broker.subscribe(mailbox.lane(Lane::DeadLetters), 4).await.unwrap();
    let handling = async {
        let letter = loop {
            tokio::select! {
                delivery = subscription.next() => {
                    let delivery = delivery.unwrap();
                    let number = u32::from_be_bytes(body(&delivery).try_into().unwrap());
                    if number == poison {
                        // Its handler panics, every time.
                        handed_out += 1;
                    } else {
                        came.entry(number).or_insert_with(Instant::now);
                        drop(delivery.ack());
                    }
                }
                letter = dead.next() => break letter.unwrap(),
            }
        };
        while came.len() < count as usize - 1 {
            let delivery = subscription.next().await.unwrap();
            let number = u32::from_be_bytes(body(&delivery).try_into().unwrap());
            assert_ne!(number, poison, "a dead letter was handed out");
            came.entry(number).or_insert_with(Instant::now);
            drop(delivery.ack());
        }
        letter
    };
    let letter = timeout(PATIENCE, handling).await.expect("everything is handled");
    let read = DeadLetter::decode(letter.bytes()).unwrap();
    letter.ack().await.unwrap();
    let stored = producer.await.unwrap();
    let mut delays = Sample::default();
    delays.extend(came.iter().map(|(number, at)| at.saturating_duration_since(stored[*number as usize])));
    let row = Row::new("A42");
    row.exactly("handled", came.len(), count as usize - 1);
    row.exactly("dead letters that say so", usize::from(read.reason == Reason::Unanswered), 1);
    row.at_most("times that poison was handed out", handed_out, 6);
    row.takes_at_most("wait of others ms", delays.percentile_ms(100), 1000.0);
    let further = timeout(Duration::from_millis(300), dead.next()).await;
    assert!(further.is_err(), "one dead letter, not more");
}

/// Publishes numbers; when each was stored.
async fn publish(broker: Arc<dyn Broker>, subject: Subject, count: u32) -> Vec<Instant> {
    let mut stored = BTreeMap::new();
    for first in (0..count).step_by(TOGETHER as usize) {
        let mut together = JoinSet::new();
        for number in first..(first + TOGETHER).min(count) {
            let (broker, message) = (Arc::clone(&broker), message(&subject, &number.to_be_bytes()));
            together.spawn(async move {
                broker.publish(message).await.unwrap();
                (number, Instant::now())
            });
        }
        stored.extend(together.join_all().await);
    }
    stored.into_values().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a42_poison_in_nats() {
    poison_in(ServerKind::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a42_poison_in_redis() {
    poison_in(ServerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a42_poison_in_mosquitto() {
    poison_in(ServerKind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a42_poison_in_rabbitmq() {
    poison_in(ServerKind::RabbitMq).await;
}
