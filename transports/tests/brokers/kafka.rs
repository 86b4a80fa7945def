//! Kafka: the cluster that its own client library imitates, since no system has a package of the real one.
//!
//! It offers neither the settings of topics nor a way to make them, so its class is the lowest.

use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use onward_transports::queue::conformance::{self, Abilities, body, fresh_mailbox, message};
use onward_transports::queue::{self, Durability, Lane};
use onward_trials::size;
use rdkafka::mocking::MockCluster;
use tokio::time::timeout;

use crate::PATIENCE;

/// How long a cluster is away.
const AWAY: Duration = Duration::from_secs(2);
/// Brokers of a cluster.
const BROKERS: i32 = 3;

/// A cluster, on a thread of its own, which it must not leave.
struct Cluster {
    servers: String,
    commands: Option<Sender<(Command, SyncSender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
enum Command {
    Down,
    Up,
}

impl Cluster {
    fn start() -> Self {
        let (commands, told) = channel::<(Command, SyncSender<()>)>();
        let (sender, servers) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let cluster = MockCluster::new(BROKERS).unwrap();
            sender.send(cluster.bootstrap_servers()).unwrap();
            for (command, done) in told {
                match command {
                    Command::Down => cluster.broker_down(-1).unwrap(),
                    Command::Up => cluster.broker_up(-1).unwrap(),
                }
                done.send(()).unwrap();
            }
        });
        Self { servers: servers.recv().unwrap(), commands: Some(commands), thread: Some(thread) }
    }

    fn tell(&self, command: Command) {
        let (done, is_done) = sync_channel(1);
        self.commands.as_ref().unwrap().send((command, done)).unwrap();
        is_done.recv().unwrap();
    }

    async fn connect(&self) -> Arc<dyn queue::Server> {
        // One of them leads to the others.
        let first = self.servers.split(',').next().unwrap();
        queue::connect(&format!("kafka://{first}").parse().unwrap()).await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_passes_what_every_queue_has_to() {
    let cluster = Cluster::start();
    let broker = cluster.connect().await;
    let standing = broker.standing();
    assert_eq!(standing.durability, Durability::BrokerMemory, "nothing was seen of its settings");
    assert!(standing.warnings.iter().any(|warning| warning.mend.contains("min.insync.replicas=2")));
    crate::is_documented("| Kafka, topics not seen", "**Kafka.**", standing.durability);
    let patience = Duration::from_secs(1);
    let abilities = Abilities { recognises_repeats: false, is_orderly: false, patience };
    conformance::all(&*broker, abilities).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_kafka_goes_away_and_comes_back() {
    let cluster = Cluster::start();
    let broker = cluster.connect().await;
    // It keeps its logs meanwhile.
    let restart = || {
        cluster.tell(Command::Down);
        std::thread::sleep(AWAY);
        cluster.tell(Command::Up);
        String::new()
    };
    crate::restart::loses_nothing("Kafka", broker, true, size(3, 20), restart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a42_poison_in_kafka() {
    let cluster = Cluster::start();
    crate::poison::poison_ends_as_a_dead_letter(cluster.connect().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_that_waits_holds_back_no_log_of_kafka() {
    /// More than may be held back.
    const OTHERS: u32 = 3000;
    let cluster = Cluster::start();
    let broker = cluster.connect().await;
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut subscription = broker.subscribe(subject.clone(), 64).await.unwrap();
    broker.publish(message(&subject, b"waits")).await.unwrap();
    let first = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(body(&first), b"waits");
    first.nak(PATIENCE * 10).await.unwrap();
    for numbers in (0..OTHERS).collect::<Vec<_>>().chunks(100) {
        let stored = numbers.iter().map(|number| broker.publish(message(&subject, &number.to_be_bytes())));
        futures_util::future::try_join_all(stored).await.unwrap();
        for _ in numbers {
            let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
            delivery.ack().await.unwrap();
        }
    }
    drop(subscription);
    // This process once more, and one that begins where it ended.
    for broker in [broker, cluster.connect().await] {
        let mut subscription = broker.subscribe(subject.clone(), 64).await.unwrap();
        let mut again = 0;
        loop {
            let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
            assert!(delivery.attempt() >= 2);
            if body(&delivery) == b"waits" {
                break;
            }
            again += 1;
            delivery.ack().await.unwrap();
        }
        assert!(again <= 1024 + 64, "{again} came again");
    }
}
