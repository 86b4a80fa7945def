//! Servers that are killed and come back while messages are published and received.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward_transports::queue::conformance::{body, fresh_mailbox, message};
use onward_transports::queue::{
    Broker, Durability, Lane, Publish, QueueError, QueueMessage, Server, Subject,
};
use onward_trials::{Event, Id, Ledger, Row, ServerKind, size};
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

/// Messages under way at once.
const WINDOW: u64 = 16;
/// How long a broker keeps back what somebody had who is gone.
const LEASE: Duration = Duration::from_secs(30);

/// Publishes numbers until it is told to stop, each until the broker has it.
async fn publish(broker: Arc<dyn Broker>, subject: Subject, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let next = Arc::new(AtomicU64::new(0));
    let lines = (0..WINDOW).map(|_| {
        let (broker, subject, ledger) = (Arc::clone(&broker), subject.clone(), Arc::clone(&ledger));
        let (stop, next) = (Arc::clone(&stop), Arc::clone(&next));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let publish = message(&subject, &number.to_be_bytes());
                store(&*broker, publish, &ledger, Id { route: 0, number }).await;
                sleep(Duration::from_millis(2)).await;
            }
        })
    });
    for line in lines.collect::<Vec<_>>() {
        line.await.unwrap();
    }
}

/// Publishes until the receipt promises what the broker stands for: a mailbox that is new may be worth less.
async fn settle(broker: &dyn Broker, subject: &Subject, ledger: &Ledger, durability: Durability) {
    // Numbers that the others do not come to.
    for number in (0..u64::MAX).rev() {
        let publish = message(subject, &number.to_be_bytes());
        if store(broker, publish, ledger, Id { route: 0, number }).await >= durability {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes one message until the broker has it; what its receipt promises.
async fn store(broker: &dyn Broker, publish: Publish, ledger: &Ledger, id: Id) -> Durability {
    ledger.add(id, Event::Sent);
    loop {
        match broker.publish(publish.clone()).await {
            Ok(stored) => {
                ledger.add(id, Event::Acknowledged);
                return stored.durability;
            }
            Err(QueueError::Unreachable(_) | QueueError::Unknown) => sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// R5 for one kind of server.
async fn survives_restarts(kind: ServerKind) {
    let Some((mut server, broker)) = crate::broker(kind).await else { return };
    let is_kept = broker.standing().durability >= Durability::BrokerReplicated;
    // RabbitMQ needs seconds of a processor to start.
    let rounds = if kind == ServerKind::RabbitMq { size(4, 100) } else { size(10, 100) };
    let restart = || {
        server.restart();
        server.output()
    };
    loses_nothing(&format!("{kind:?}"), broker, is_kept, rounds, restart).await;
}

/// R5: `restart` takes the broker away and brings it back, and says what it printed; where all that is acknowledged
/// `is_kept`, nothing is lost.
pub(crate) async fn loses_nothing(
    name: &str,
    broker: Arc<dyn Server>,
    is_kept: bool,
    rounds: usize,
    mut restart: impl FnMut() -> String,
) {
    let durability = broker.standing().durability;
    let broker: Arc<dyn Broker> = broker;
    let subject = fresh_mailbox().lane(Lane::Messages);
    let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let mut subscription = broker.subscribe(subject.clone(), 64).await.unwrap();
    timeout(PATIENCE, settle(&*broker, &subject, &ledger, durability))
        .await
        .expect("a receipt that promises it");
    let publishing = publish(Arc::clone(&broker), subject.clone(), Arc::clone(&ledger), Arc::clone(&stop));
    let publishing = tokio::spawn(publishing);
    let received = Arc::new(AtomicU64::new(0));
    let receiving = {
        let (ledger, received) = (Arc::clone(&ledger), Arc::clone(&received));
        let broker = Arc::clone(&broker);
        tokio::spawn(async move {
            // What a receiver remembers, so that its handler sees each once.
            let mut had = HashSet::new();
            loop {
                let Some(delivery) = subscription.next().await else {
                    subscription = broker.subscribe(subject.clone(), 64).await.unwrap();
                    continue;
                };
                received.fetch_add(1, Ordering::Relaxed);
                let mid = QueueMessage::decode(delivery.bytes()).unwrap().mid;
                if had.insert(mid) {
                    let number = u64::from_be_bytes(body(&delivery).try_into().unwrap());
                    ledger.add(Id { route: 0, number }, Event::Delivered);
                }
                drop(delivery.ack());
            }
        })
    };
    let (mut slowest, mut output) = (Duration::ZERO, String::new());
    for _ in 0..rounds {
        assert!(until(&received, 50, PATIENCE).await, "nothing comes: {output}");
        output = tokio::task::block_in_place(&mut restart);
        let open = Instant::now();
        assert!(until(&received, 1, PATIENCE).await, "nothing comes: {output}");
        slowest = slowest.max(open.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    publishing.await.unwrap();
    // What is due comes; when nothing more does, the rest is lost.
    while !ledger.verdict().lost.is_empty() {
        if !until(&received, 1, 2 * LEASE).await {
            break;
        }
    }
    receiving.abort();
    let verdict = ledger.verdict();
    let row = Row::new("R5");
    println!("{name} ({durability}), {rounds} restarts: {} acknowledged", verdict.acknowledged);
    if is_kept {
        row.exactly("acknowledged and lost", verdict.lost.len(), 0);
    } else {
        println!("{name} promises nothing; acknowledged and lost: {}", verdict.lost.len());
    }
    row.exactly("handled twice", verdict.duplicated.len(), 0);
    row.takes_at_most("first delivery after the port opened s", slowest.as_secs_f64(), 2.0);
}

/// Waits until so many more came; whether they did.
async fn until(received: &AtomicU64, more: u64, patience: Duration) -> bool {
    let wanted = received.load(Ordering::Relaxed) + more;
    let came = async {
        while received.load(Ordering::Relaxed) < wanted {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(patience, came).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_nats_is_killed_and_comes_back() {
    survives_restarts(ServerKind::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_redis_is_killed_and_comes_back() {
    survives_restarts(ServerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_mosquitto_is_killed_and_comes_back() {
    survives_restarts(ServerKind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_rabbitmq_is_killed_and_comes_back() {
    survives_restarts(ServerKind::RabbitMq).await;
}
