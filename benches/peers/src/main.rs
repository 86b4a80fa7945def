//! The work of onward's benches, done with its peers; prints one JSON line per figure.
//!
//! The process that is started measures nothing. It starts a fresh child per group and peer, so
//! that no group disturbs another, and turns the samples its children print into medians.

mod actors;
mod heap;
mod measure;
mod ockam;
mod raw;
mod tls;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use measure::{Plan, Series};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

/// Measures onward's peers and prints one JSON line per figure.
#[derive(Parser)]
#[command(name = "onward-peers")]
struct Arguments {
    /// Groups, or the beginnings of their names; all of them without any.
    groups: Vec<String>,
    /// Threads of the runtime; 2 if not given, and for `channel.ask` 2 and then 1.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    workers: Option<u8>,
    /// Timed runs per figure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Seconds per run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measure this peer here instead of starting children (what a child is started with).
    #[arg(long, hide = true)]
    peer: Option<String>,
    /// Count heap allocations, which slows everything (what some children are started with).
    #[arg(long, hide = true, requires = "peer")]
    count_alloc: bool,
}

/// How the samples of a group come about.
#[derive(Clone, Copy)]
enum Sampling {
    /// One child takes all samples of the group.
    Timed,
    /// Memory that was freed is not given back, so every sample needs a child: for each run one
    /// that reads resident memory and one that counts the live heap.
    Memory,
    /// One child that counts allocations.
    Allocations,
}
use Sampling::{Allocations, Memory, Timed};

/// Every group with the peers that take part.
const GROUPS: &[(&str, Sampling, &[&str])] = &[
    ("local", Timed, &["ockam", "ractor", "kameo"]),
    ("hops4", Timed, &["ockam"]),
    ("tcp", Timed, &["ockam", "raw"]),
    ("channel.oneway", Timed, &["ockam", "rustls"]),
    ("channel.hop", Timed, &["ockam"]),
    ("channel.ask", Timed, &["ockam", "rustls"]),
    ("channel.idle1000", Timed, &["ockam"]),
    ("handshake", Timed, &["ockam", "rustls"]),
    ("memory.worker", Memory, &["ockam", "ractor", "kameo"]),
    ("memory.channel", Memory, &["ockam"]),
    ("alloc", Allocations, &["ockam"]),
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.seconds.is_finite() && arguments.seconds > 0.0, "--seconds must be more than 0");
    match &arguments.peer {
        Some(peer) => measure_here(&arguments, peer),
        None => measure_in_children(&arguments),
    }
}

/// Starts the children of every selected group and prints their medians.
fn measure_in_children(arguments: &Arguments) -> anyhow::Result<()> {
    for wanted in &arguments.groups {
        let known = GROUPS.iter().any(|(group, ..)| group.starts_with(wanted.as_str()));
        ensure!(known, "no group begins with {wanted:?}");
    }
    let selected = |group: &str| {
        arguments.groups.is_empty()
            || arguments.groups.iter().any(|wanted| group.starts_with(wanted.as_str()))
    };
    for &(group, sampling, peers) in GROUPS.iter().filter(|(group, ..)| selected(group)) {
        let workers = match (arguments.workers, group) {
            (Some(workers), _) => vec![workers],
            (None, "channel.ask") => vec![2, 1],
            (None, _) => vec![2],
        };
        for workers in workers {
            for peer in peers {
                let start = |count_alloc| child(arguments, group, peer, workers, count_alloc);
                let series = match sampling {
                    Timed => start(false)?,
                    Allocations => start(true)?,
                    Memory => {
                        let mut series = Vec::new();
                        for count_alloc in [false, true] {
                            for _ in 0..arguments.runs {
                                merge(&mut series, start(count_alloc)?);
                            }
                        }
                        series
                    }
                };
                for series in series {
                    println!("{}", line(series, peer, workers)?);
                }
            }
        }
    }
    Ok(())
}

/// Runs this program again to measure one group of one peer, and returns what it printed.
fn child(
    arguments: &Arguments,
    group: &str,
    peer: &str,
    workers: u8,
    count_alloc: bool,
) -> anyhow::Result<Vec<Series>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([group, "--peer", peer]);
    command.arg(format!("--workers={workers}"));
    command.arg(format!("--runs={}", arguments.runs));
    command.arg(format!("--seconds={}", arguments.seconds));
    if count_alloc {
        command.arg("--count-alloc");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{group} with {peer}: {}", output.status);
    let printed = String::from_utf8(output.stdout)?;
    let series = printed.lines().map(serde_json::from_str);
    series.collect::<Result<_, _>>().with_context(|| format!("{group} with {peer} printed {printed:?}"))
}

/// Adds the samples of `more` to the series of the same figure and unit.
fn merge(all: &mut Vec<Series>, more: Vec<Series>) {
    for new in more {
        match all.iter_mut().find(|old| old.figure == new.figure && old.unit == new.unit) {
            Some(old) => old.samples.extend(new.samples),
            None => all.push(new),
        }
    }
}

/// The printed line of one figure in one unit, its fields in the order printed.
#[derive(Serialize)]
struct Line<'a> {
    figure: String,
    peer: &'a str,
    unit: String,
    median: f64,
    min: f64,
    max: f64,
    n: usize,
    workers: u8,
}

fn line(series: Series, peer: &str, workers: u8) -> anyhow::Result<String> {
    let Series { figure, unit, mut samples } = series;
    samples.sort_by(f64::total_cmp);
    let n = samples.len();
    let (Some(&min), Some(&max)) = (samples.first(), samples.last()) else {
        bail!("{figure} of {peer} has no samples");
    };
    let median = (samples[(n - 1) / 2] + samples[n / 2]) / 2.0;
    Ok(serde_json::to_string(&Line { figure, peer, unit, median, min, max, n, workers })?)
}

/// What a child does: measures one group of one peer and prints the samples.
fn measure_here(arguments: &Arguments, peer: &str) -> anyhow::Result<()> {
    if arguments.count_alloc {
        heap::count();
    }
    let [group] = arguments.groups.as_slice() else {
        bail!("--peer needs one group");
    };
    let plan = Plan { runs: arguments.runs.into(), run: Duration::from_secs_f64(arguments.seconds) };
    let workers = arguments.workers.unwrap_or(2).into();
    let runtime = Arc::new(Builder::new_multi_thread().worker_threads(workers).enable_all().build()?);
    // Spawned, because the thread that blocks here is not one of the runtime's workers.
    let work = measure_peer(group.clone(), peer.to_owned(), Arc::clone(&runtime), plan);
    let series = runtime.block_on(runtime.spawn(work))??;
    for series in series {
        println!("{}", serde_json::to_string(&series)?);
    }
    Ok(())
}

async fn measure_peer(
    group: String,
    peer: String,
    runtime: Arc<Runtime>,
    plan: Plan,
) -> anyhow::Result<Vec<Series>> {
    match (group.as_str(), peer.as_str()) {
        ("local", "ockam") => ockam::local(&runtime, plan).await,
        ("hops4", "ockam") => ockam::hops(&runtime, plan).await,
        ("tcp", "ockam") => ockam::tcp(&runtime, plan).await,
        ("channel.oneway", "ockam") => ockam::channel(&runtime, plan).await,
        ("channel.hop", "ockam") => ockam::channel_through_hop(&runtime, plan).await,
        ("channel.ask", "ockam") => ockam::channel_ask(&runtime, plan).await,
        ("channel.idle1000", "ockam") => ockam::beside_idle_channels(&runtime, plan).await,
        ("handshake", "ockam") => ockam::handshakes(&runtime, plan).await,
        ("memory.worker", "ockam") => ockam::worker_memory(&runtime).await,
        ("memory.channel", "ockam") => ockam::channel_memory(&runtime).await,
        ("alloc", "ockam") => ockam::allocations(&runtime, plan).await,
        ("local", "ractor") => actors::ractor::local(plan).await,
        ("memory.worker", "ractor") => actors::ractor::worker_memory().await,
        ("local", "kameo") => actors::kameo::local(plan).await,
        ("memory.worker", "kameo") => actors::kameo::worker_memory().await,
        ("channel.oneway", "rustls") => tls::oneway(plan).await,
        ("channel.ask", "rustls") => tls::ask(plan).await,
        ("handshake", "rustls") => tls::handshakes(plan).await,
        ("tcp", "raw") => raw::tcp(plan).await,
        _ => bail!("{peer} takes no part in {group}"),
    }
}
