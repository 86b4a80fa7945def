//! How every peer is timed: one-way messages until the last is counted, and asks lap by lap.
//!
//! A peer's module brings only the peer. It never reads a clock and never computes a statistic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::heap;

/// How much to measure: `runs` timed runs of `run` each, after one run that only warms up.
#[derive(Clone, Copy)]
pub struct Plan {
    pub runs: usize,
    pub run: Duration,
}

impl Plan {
    /// The warm-up and the timed runs, in order; [`Series::timed`] leaves the first out.
    pub fn all_runs(self) -> std::ops::RangeInclusive<usize> {
        0..=self.runs
    }
}

/// The samples of one figure in one unit. Children print these as JSON, one a line.
#[derive(Serialize, Deserialize)]
pub struct Series {
    pub figure: String,
    pub unit: String,
    pub samples: Vec<f64>,
}

impl Series {
    pub fn new(figure: impl Into<String>, unit: &str, samples: Vec<f64>) -> Self {
        let (figure, unit) = (figure.into(), unit.to_owned());
        Self { figure, unit, samples }
    }

    /// The samples without the first, which was the warm-up.
    pub fn timed(figure: impl Into<String>, unit: &str, samples: impl IntoIterator<Item = f64>) -> Self {
        Self::new(figure, unit, samples.into_iter().skip(1).collect())
    }
}

/// Messages that arrived, shared by the worker that counts them and the run that waits for them.
#[derive(Default)]
pub struct Tally {
    counted: AtomicU64,
    /// Where the run ends; 0 while it is still sending.
    target: AtomicU64,
    reached: Notify,
}

impl Tally {
    /// Counts `messages` more. The worker that completes the target wakes the run.
    pub fn count(&self, messages: u64) {
        let counted = self.counted.fetch_add(messages, Ordering::SeqCst) + messages;
        if counted == self.target.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }

    /// Waits until `target` messages have been counted since the tally was made.
    pub async fn reach(&self, target: u64) {
        self.target.store(target, Ordering::SeqCst);
        // A permit left over from a run that ended without waiting only costs one more turn.
        while self.counted.load(Ordering::SeqCst) < target {
            self.reached.notified().await;
        }
        self.target.store(0, Ordering::SeqCst);
    }

    fn counted(&self) -> u64 {
        self.counted.load(Ordering::SeqCst)
    }
}

/// One run of one-way messages: send one while [`Flood::next`] says so, then [`Flood::finish`].
pub struct Flood {
    tally: Arc<Tally>,
    counted_before: u64,
    sent: u64,
    allocations_before: u64,
    started: Instant,
    run: Duration,
}

impl Flood {
    pub fn start(plan: Plan, tally: &Arc<Tally>) -> Self {
        Self {
            tally: Arc::clone(tally),
            counted_before: tally.counted(),
            sent: 0,
            allocations_before: heap::allocations(),
            started: Instant::now(),
            run: plan.run,
        }
    }

    /// Whether to send another message; if so it is taken as sent.
    pub fn next(&mut self) -> bool {
        if self.sent.is_multiple_of(CLOCK_EVERY) && self.started.elapsed() >= self.run {
            return false;
        }
        self.sent += 1;
        true
    }

    /// Messages sent and not yet counted, for peers without back-pressure of their own.
    pub fn in_flight(&self) -> u64 {
        self.counted_before + self.sent - self.tally.counted()
    }

    /// Waits for the last message to be counted.
    pub async fn finish(self) -> Flooded {
        self.tally.reach(self.counted_before + self.sent).await;
        Flooded {
            rate: self.sent as f64 / self.started.elapsed().as_secs_f64(),
            allocations: (heap::allocations() - self.allocations_before) as f64 / self.sent as f64,
        }
    }
}

/// What a [`Flood`] found.
pub struct Flooded {
    /// Messages per second, from the first sent to the last counted.
    pub rate: f64,
    /// Heap allocations of the whole process per message; 0 unless counting.
    pub allocations: f64,
}

/// One run of asks, one after the other: ask while [`Laps::next`] says so.
pub struct Laps {
    nanoseconds: Vec<u64>,
    started: Instant,
    lap: Option<Instant>,
    run: Duration,
}

impl Laps {
    pub fn start(plan: Plan) -> Self {
        // Room for every lap of a second of the fastest peer, so that a run does not reallocate.
        Self { nanoseconds: Vec::with_capacity(4 << 20), started: Instant::now(), lap: None, run: plan.run }
    }

    /// Ends the lap under way, if any, and says whether to ask again.
    pub fn next(&mut self) -> bool {
        let now = Instant::now();
        if let Some(lap) = self.lap.replace(now) {
            self.nanoseconds.push((now - lap).as_nanos() as u64);
        }
        now - self.started < self.run
    }

    /// The median lap and the rate of the whole run.
    pub fn finish(mut self) -> Lapped {
        let rate = self.nanoseconds.len() as f64 / self.started.elapsed().as_secs_f64();
        let middle = self.nanoseconds.len() / 2;
        let (_, p50, _) = self.nanoseconds.select_nth_unstable(middle);
        Lapped { p50: *p50 as f64 / 1e3, rate }
    }
}

/// What [`Laps`] found.
pub struct Lapped {
    /// Half of the round trips took less than this many microseconds.
    pub p50: f64,
    /// Round trips per second.
    pub rate: f64,
}

/// The two series of a figure that asks.
pub fn asked(figure: &str, runs: &[Lapped]) -> Vec<Series> {
    vec![
        Series::timed(figure, "us p50", runs.iter().map(|run| run.p50)),
        Series::timed(figure, "ask/s", runs.iter().map(|run| run.rate)),
    ]
}

/// Does `once` over and over in `tasks` tasks at a time for one run; returns how often per second.
///
/// # Errors
/// The first error of any task.
pub async fn concurrently<Once, Done>(plan: Plan, tasks: usize, once: Once) -> anyhow::Result<f64>
where
    Once: Fn() -> Done + Clone + Send + 'static,
    Done: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let once = once.clone();
        running.spawn(async move {
            let mut done = 0_u64;
            while started.elapsed() < plan.run {
                once().await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(of_task) = running.join_next().await {
        done += of_task??;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

/// Handshakes in flight of `handshake.64`.
pub const HANDSHAKES: usize = 64;

/// A flood looks at the clock once in this many messages: 16 of the slowest peer take 1 ms.
const CLOCK_EVERY: u64 = 16;
