//! How the benches time and report: one-way messages until the last is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::{Context, Failure, NoReply, Payload, PayloadError, Worker};
use tokio::runtime::Runtime;

/// Timed runs per figure, after one that only warms up.
pub(crate) const RUNS: usize = 5;
/// How long one run lasts.
pub(crate) const RUN: Duration = Duration::from_millis(700);

/// After so long without the last message the run has failed.
const LOST: Duration = Duration::from_secs(20);

/// Prints one figure as a JSON line.
pub(crate) fn print(figure: &str, unit: &str, workers: usize, samples: &[f64]) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (median, min, max) = (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]);
    println!(
        "{}",
        serde_json::json!({
            "figure": figure, "unit": unit, "median": median, "min": min, "max": max, "n": sorted.len(), "workers": workers,
        })
    );
}

/// A runtime with so many threads.
pub(crate) fn runtime(workers: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"))
}

/// A payload of any size that is encoded and decoded without allocating.
#[derive(Clone)]
pub(crate) struct Body(pub(crate) bytes::Bytes);

impl Payload for Body {
    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode_payload(bytes: &[u8]) -> Result<Self, PayloadError> {
        // The counting worker reads every byte's place without keeping it.
        std::hint::black_box(bytes);
        Ok(Self(bytes::Bytes::new()))
    }

    fn shared(&self) -> Option<&bytes::Bytes> {
        Some(&self.0)
    }
}

/// A body of `size` bytes.
pub(crate) fn body(size: usize) -> Body {
    Body(vec![7; size].into())
}

/// Messages that arrived.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<(AtomicU64, AtomicU64, tokio::sync::Notify)>);

impl Tally {
    pub(crate) fn counted(&self) -> u64 {
        self.0.0.load(Ordering::SeqCst)
    }

    async fn reach(&self, target: u64) {
        self.0.1.store(target, Ordering::SeqCst);
        while self.counted() < target {
            let counted = tokio::time::timeout(LOST, self.0.2.notified()).await;
            assert!(counted.is_ok() || self.counted() >= target, "messages were lost");
        }
        self.0.1.store(0, Ordering::SeqCst);
    }
}

/// Counts what it gets.
pub(crate) struct Counter(pub(crate) Tally);

impl Worker for Counter {
    type Request = Body;
    type Reply = NoReply;

    async fn handle(&mut self, _: &mut Context, _: Body) -> Result<NoReply, Failure> {
        let (counted, target, reached) = &*self.0.0;
        let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
        if now == target.load(Ordering::SeqCst) {
            reached.notify_one();
        }
        Ok(NoReply)
    }
}

/// Sends one-way for one run and waits for the last to be counted; returns messages and seconds.
pub(crate) async fn flood<F: Future>(tally: &Tally, send: impl Fn() -> F) -> (u64, f64) {
    let before = tally.counted();
    let started = Instant::now();
    let mut sent = 0;
    while sent % 64 != 0 || started.elapsed() < RUN {
        std::hint::black_box(send().await);
        sent += 1;
    }
    tally.reach(before + sent).await;
    (sent, started.elapsed().as_secs_f64())
}
