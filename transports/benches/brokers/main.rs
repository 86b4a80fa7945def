//! Queues at brokers beside the bare clients they are made of: the same messages published, consumed and
//! acknowledged, with the same settings of the same server, one after the other in each run.
//!
//!     cargo bench -p onward-transports --features amqp,mqtt,nats,redis --bench brokers -- [GROUP…]
//!
//! One JSON line for each figure. A server that is not installed is named and left out.

mod bare;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use onward_transports::queue::conformance::{fresh_mailbox, message};
use onward_transports::queue::{self, Broker, Lane};
use onward_trials::{Server, ServerKind};
use tokio::task::JoinSet;

/// Bytes of a body.
const SIZE: usize = 1024;
/// Producers, each of which waits for its receipts.
const TOGETHER: u64 = 64;
/// Messages of one run.
const MESSAGES: u64 = 64 * TOGETHER;
/// Messages that a consumer may have unsettled.
const PREFETCH: usize = 1024;
/// Timed runs per figure, after one that only warms up.
const RUNS: usize = 5;
/// Worker threads of the runtime.
const WORKERS: usize = 2;
/// After so long without the last message a run has failed.
const LOST: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let groups: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    for kind in ServerKind::ALL {
        if !groups.is_empty() && !groups.iter().any(|group| name(kind).starts_with(group.as_str())) {
            continue;
        }
        let Some(server) = Server::start(kind) else { continue };
        runtime.block_on(compare(kind, &server));
    }
}

async fn compare(kind: ServerKind, server: &Server) {
    let address = server.url().parse().unwrap_or_else(|error| panic!("{error}"));
    let broker = queue::connect(&address).await.unwrap_or_else(|error| panic!("{error}"));
    let broker: Arc<dyn Broker> = broker;
    let (mut own, mut bare) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let figures = [adapter(Arc::clone(&broker)).await, bare::rate(kind, server).await];
        if run > 0 {
            own.push(figures[0]);
            bare.push(figures[1]);
        }
    }
    let name = name(kind);
    print(&name, "msg/s", &own);
    print(&format!("{name}.bare"), "msg/s", &bare);
    let ratios: Vec<f64> = own.iter().zip(&bare).map(|(own, bare)| own / bare).collect();
    print(&name, "x bare", &ratios);
}

fn name(kind: ServerKind) -> String {
    format!("queue.{}.{SIZE}", kind.package().trim_end_matches("-server"))
}

/// Messages a second through the trait.
async fn adapter(broker: Arc<dyn Broker>) -> f64 {
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut subscription =
        broker.subscribe(subject.clone(), PREFETCH).await.unwrap_or_else(|error| panic!("{error}"));
    let body = vec![7; SIZE];
    let publish = move || {
        let (broker, message) = (Arc::clone(&broker), message(&subject, &body));
        async move {
            broker.publish(message).await.unwrap_or_else(|error| panic!("{error}"));
        }
    };
    let consume = async move {
        let mut telling = JoinSet::new();
        for _ in 0..MESSAGES {
            let delivery = subscription.next().await.unwrap_or_else(|| panic!("the subscription ended"));
            telling.spawn(delivery.ack());
            while let Some(told) = telling.try_join_next() {
                heard(told);
            }
        }
        telling.join_all().await.into_iter().for_each(|told| told.unwrap_or_else(|error| panic!("{error}")));
    };
    rate(publish, consume).await
}

fn heard<E: std::fmt::Display>(told: Result<Result<(), E>, tokio::task::JoinError>) {
    told.unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|error| panic!("{error}"));
}

/// Messages a second when [`TOGETHER`] producers publish, and until all are consumed and acknowledged.
async fn rate<F>(
    publish: impl Fn() -> F + Clone + Send + 'static,
    consume: impl Future<Output = ()> + Send,
) -> f64
where
    F: Future<Output = ()> + Send,
{
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut producers = JoinSet::new();
    for _ in 0..TOGETHER {
        let (publish, next) = (publish.clone(), Arc::clone(&next));
        producers.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < MESSAGES {
                publish().await;
            }
        });
    }
    tokio::time::timeout(LOST, consume).await.unwrap_or_else(|_| panic!("messages were lost"));
    producers.join_all().await;
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

/// What a bare client publishes.
fn body() -> Bytes {
    message(&fresh_mailbox().lane(Lane::Messages), &[7; SIZE]).bytes
}

/// Prints one figure as a JSON line.
fn print(figure: &str, unit: &str, samples: &[f64]) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (median, min, max) = (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]);
    let n = sorted.len();
    println!(
        "{{\"figure\":\"{figure}\",\"unit\":\"{unit}\",\"median\":{median},\"min\":{min},\"max\":{max},\"n\":{n},\"workers\":{WORKERS}}}"
    );
}
