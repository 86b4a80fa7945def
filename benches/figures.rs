//! The project's own figures: rates and latencies, one JSON line each.
//!
//!     cargo bench -p onward --bench figures -- [GROUP…]
//!
//! Each group runs in a process of its own, so that none disturbs another. Memory and allocations are
//! counted by the bench `heap`, because counting slows everything.

mod cache;
mod datagrams;
mod exchange;
mod handshakes;
mod keyd;
mod measure;
mod pair;
mod queue;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use measure::{Counter, RUN, RUNS, Tally, body, flood, print, runtime};
use onward::{Echo, NoReply, Node, NodeRoute, Raw};
use pair::Pair;

/// A group: its name, what it runs with so many threads, and with how many.
type Group = (&'static str, fn(usize), &'static [usize]);

const GROUPS: &[Group] = &[
    ("local", local, &[2]),
    ("hops4", hops4, &[2]),
    ("tcp.oneway", tcp_oneway, &[2]),
    ("tcp.ask", tcp_ask, &[2, 1]),
    ("channel.oneway", channel_oneway, &[2]),
    ("channel.hop", channel_hop, &[2]),
    ("channel.ask", channel_ask, &[2, 1]),
    ("channel.idle1000", channel_idle, &[2]),
    ("handshake", handshake, &[2]),
    ("slow.route", slow_route, &[2]),
    ("udp.oneway", datagrams::oneway, &[2]),
    ("udp.ask", datagrams::ask, &[1]),
    ("queue", queues, &[2]),
    ("keyd", keyd::run, &[2]),
    ("ok2cry.cache", cache::run, &[1]),
    ("ok2cry.chain", exchange::run, &[2]),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, group, workers] = &arguments[..]
        && child == "--child"
    {
        let run = GROUPS.iter().find(|(name, ..)| name == group).map(|(_, run, _)| run);
        return run.unwrap_or_else(|| panic!("no group {group}"))(workers.parse().unwrap_or(2));
    }
    for (name, _, workers) in GROUPS {
        if !arguments.is_empty() && !arguments.iter().any(|wanted| name.starts_with(wanted.as_str())) {
            continue;
        }
        for workers in *workers {
            let program = std::env::current_exe().unwrap_or_else(|error| panic!("own path: {error}"));
            let status = Command::new(program).args(["--child", name, &workers.to_string()]).status();
            assert!(status.is_ok_and(|status| status.success()), "group {name} failed");
        }
    }
}

fn local(workers: usize) {
    let runtime = runtime(workers);
    let node =
        runtime.block_on(async { Node::builder("bench").start().await }).unwrap_or_else(|e| panic!("{e}"));
    oneway(&runtime, "local.oneway.64", workers, &node, "count", 64, node_route);
    runtime.block_on(async {
        node.start_worker("echo", Echo).unwrap_or_else(|error| panic!("{error}"));
    });
    ask(&runtime, "local.ask.64", workers, &node_route(&node, "echo"));
}

fn hops4(workers: usize) {
    let runtime = runtime(workers);
    let node =
        runtime.block_on(async { Node::builder("bench").start().await }).unwrap_or_else(|e| panic!("{e}"));
    for hop in ["h1", "h2", "h3", "h4"] {
        node.start_hop(hop).unwrap_or_else(|error| panic!("{error}"));
    }
    oneway(&runtime, "hops4.oneway.64", workers, &node, "count", 64, |node, name| {
        node_route(node, &format!("h1 => h2 => h3 => h4 => {name}"))
    });
}

fn node_route(node: &Node, route: &str) -> NodeRoute {
    node.route(route).unwrap_or_else(|error| panic!("{error}"))
}

fn tcp_oneway(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::tcp());
    for size in [64, 1024, 32_768] {
        let figure = format!("tcp.oneway.{size}");
        oneway(&runtime, &figure, workers, &pair.server, &format!("count{size}"), size, |_, name| {
            pair.open(name)
        });
    }
}

fn tcp_ask(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::tcp());
    ask(&runtime, "tcp.ask.64", workers, &pair.open("echo"));
}

fn channel_oneway(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::channel(false));
    for size in [64, 1024, 16_384, 61_440] {
        let figure = format!("channel.oneway.{size}");
        oneway(&runtime, &figure, workers, &pair.server, &format!("count{size}"), size, |_, name| {
            pair.open(name)
        });
    }
}

fn channel_hop(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::channel(true));
    for size in [64, 1024, 16_384, 61_440] {
        let figure = format!("channel.hop.oneway.{size}");
        oneway(&runtime, &figure, workers, &pair.server, &format!("count{size}"), size, |_, name| {
            pair.open(name)
        });
    }
}

fn channel_ask(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::channel(false));
    ask(&runtime, "channel.ask.64", workers, &pair.open("echo"));
}

/// The rate beside 1,000 idle channels on the same connection, as a share of the rate with none.
fn channel_idle(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::channel(false));
    let rate = |name: &str| rates(&runtime, &pair.server, name, 1024, |_, name| pair.open(name));
    let alone = rate("alone");
    let idle: Vec<_> = runtime.block_on(async {
        let mut idle = Vec::new();
        for _ in 0..1000 {
            idle.push(pair.another_channel().await);
        }
        idle
    });
    let beside = rate("beside");
    print("channel.oneway.1024.beside-1000-idle", "msg/s", workers, &beside);
    let base = median(&alone);
    print(
        "channel.idle1000.1024",
        "x alone",
        workers,
        &beside.iter().map(|rate| rate / base).collect::<Vec<_>>(),
    );
    drop(idle);
}

/// The p99 of asks on one route while a worker on another route of the same connection gets twice
/// what it can handle, as a multiple of the p99 without it.
fn slow_route(workers: usize) {
    let runtime = runtime(workers);
    let pair = runtime.block_on(Pair::tcp());
    let fast = pair.open("echo");
    let p99 = || {
        let route = fast.clone();
        let asks = async move {
            let mut laps = Vec::new();
            let began = Instant::now();
            while began.elapsed() < RUN {
                let asked = Instant::now();
                let request = Raw(vec![7; 64].into());
                let _: Raw = route.ask(&request).await.unwrap_or_else(|error| panic!("{error}"));
                laps.push(asked.elapsed().as_nanos() as f64 / 1e3);
                // An application does something between its requests.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            laps.sort_by(f64::total_cmp);
            laps[laps.len() * 99 / 100]
        };
        runtime.block_on(runtime.spawn(asks)).unwrap_or_else(|error| panic!("{error}"))
    };
    let alone: Vec<_> = (0..=RUNS).map(|_| p99()).skip(1).collect();
    runtime.block_on(async {
        let slow = |_: Raw| async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(NoReply)
        };
        pair.server.serve("slow", slow).await.unwrap_or_else(|error| panic!("{error}"));
    });
    let slow = pair.open("slow");
    let flood = runtime.spawn(async move {
        let body = body(16 * 1024);
        loop {
            slow.send(&body).await.unwrap_or_else(|error| panic!("{error}"));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let beside: Vec<_> = (0..=RUNS).map(|_| p99()).skip(1).collect();
    flood.abort();
    print("slow.route.64", "us p99 alone", workers, &alone);
    print("slow.route.64", "us p99 beside", workers, &beside);
    let base = median(&alone);
    print("slow.route.64", "x p99 alone", workers, &beside.iter().map(|p99| p99 / base).collect::<Vec<_>>());
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Handshakes with 64 in flight, each channel closed once it is open.
fn handshake(workers: usize) {
    let runtime = runtime(workers);
    for (figure, known) in [("handshake.64", true), ("handshake.64.stranger", false)] {
        let pair = runtime.block_on(Pair::channel(false));
        let samples: Vec<_> =
            (0..=RUNS).map(|_| runtime.block_on(pair.handshakes(64, RUN, known))).skip(1).collect();
        print(figure, "handshakes/s", workers, &samples);
    }
}

/// The queue on disk, and in turn what its disk and its database do alone.
fn queues(workers: usize) {
    const SIZE: usize = 1024;
    let runtime = runtime(workers);
    let mut samples: [Vec<f64>; 5] = Default::default();
    for run in 0..=RUNS {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let at = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{error}"));
            path
        };
        let (receipt, sync) = queue::receipt(&runtime, &at("receipt"), SIZE);
        let measured = [
            queue::durable(&runtime, &at("durable"), SIZE),
            queue::database(&at("database"), SIZE),
            queue::file(&at("file"), SIZE),
            receipt,
            sync,
        ];
        for (samples, figure) in samples.iter_mut().zip(measured).filter(|_| run > 0) {
            samples.push(figure);
        }
    }
    let [durable, database, file, receipt, sync] = samples;
    print("queue.durable.1024", "msg/s", workers, &durable);
    print("queue.bare-database.1024", "msg/s", workers, &database);
    print("queue.plain-file.1024", "msg/s", workers, &file);
    print("queue.receipt.1024", "us p50", workers, &receipt);
    print("queue.sync.1024", "us p50", workers, &sync);
    let ratios = |one: &[f64], other: &[f64]| -> Vec<f64> {
        one.iter().zip(other).map(|(one, other)| one / other).collect()
    };
    print("queue.durable.1024", "x database", workers, &ratios(&durable, &database));
    print("queue.durable.1024", "x file", workers, &ratios(&durable, &file));
    print("queue.receipt.1024", "x sync", workers, &ratios(&receipt, &sync));
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    print("queue.idle", "wake-ups/s", workers, &[queue::idle(&runtime, folder.path())]);
}

fn oneway(
    runtime: &tokio::runtime::Runtime,
    figure: &str,
    workers: usize,
    server: &Node,
    name: &str,
    size: usize,
    route: impl Fn(&Node, &str) -> NodeRoute,
) {
    let samples = rates(runtime, server, name, size, route);
    print(figure, "msg/s", workers, &samples);
    print(figure, "MB/s", workers, &samples.iter().map(|rate| rate * size as f64 / 1e6).collect::<Vec<_>>());
}

fn rates(
    runtime: &tokio::runtime::Runtime,
    server: &Node,
    name: &str,
    size: usize,
    route: impl Fn(&Node, &str) -> NodeRoute,
) -> Vec<f64> {
    let tally = Tally::default();
    runtime.block_on(async {
        server.start_worker(name, Counter(tally.clone())).unwrap_or_else(|error| panic!("{error}"));
    });
    let (route, body) = (Arc::new(route(server, name)), body(size));
    (0..=RUNS)
        .map(|_| {
            let (tally, route, body) = (tally.clone(), Arc::clone(&route), body.clone());
            // On a worker thread, as an application's task would be.
            let run = runtime.spawn(async move {
                let (route, body) = (&route, &body);
                flood(
                    &tally,
                    || async move { route.send(body).await.unwrap_or_else(|error| panic!("{error}")) },
                )
                .await
            });
            let (sent, seconds) = runtime.block_on(run).unwrap_or_else(|error| panic!("{error}"));
            sent as f64 / seconds
        })
        .skip(1)
        .collect()
}

fn ask(runtime: &tokio::runtime::Runtime, figure: &str, workers: usize, route: &NodeRoute) {
    let runs: Vec<_> = (0..=RUNS).map(|_| ask_laps(runtime, route)).skip(1).collect();
    print(figure, "us p50", workers, &runs.iter().map(|run| run.0).collect::<Vec<_>>());
    print(figure, "ask/s", workers, &runs.iter().map(|run| run.1).collect::<Vec<_>>());
}

/// One run of asks by a task of its own; returns what [`laps`] does.
fn ask_laps(runtime: &tokio::runtime::Runtime, route: &NodeRoute) -> (f64, f64) {
    let route = route.clone();
    let run = runtime.spawn(async move {
        let (route, request) = (&route, &Raw(vec![7; 64].into()));
        laps(|| async move { route.ask::<_, Raw>(request).await.unwrap_or_else(|error| panic!("{error}")) })
            .await
    });
    runtime.block_on(run).unwrap_or_else(|error| panic!("{error}"))
}

/// Asks one after the other for one run; returns the median lap in µs and laps per second.
async fn laps<F: Future>(ask: impl Fn() -> F) -> (f64, f64) {
    let mut laps = Vec::with_capacity(4 << 20);
    let started = Instant::now();
    let mut last = started;
    while last.duration_since(started) < RUN {
        std::hint::black_box(ask().await);
        let now = Instant::now();
        laps.push((now - last).as_nanos() as u64);
        last = now;
    }
    let rate = laps.len() as f64 / started.elapsed().as_secs_f64();
    let middle = laps.len() / 2;
    (*laps.select_nth_unstable(middle).1 as f64 / 1e3, rate)
}
