//! Allocations per message and memory per idle worker and channel, one JSON line each.
//!
//!     cargo bench -p onward --bench heap -- [GROUP…]
//!
//! A program of its own, because its allocator counts. Every sample of memory is a process of its own,
//! because freed memory is not given back.

mod measure;
mod pair;

use std::alloc::System;
use std::process::Command;

use measure::{Counter, RUNS, Tally, body, flood, print, runtime};
use onward::{Echo, Node, NodeRoute, Raw};
use pair::Pair;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WORKERS: usize = 100_000;
const CHANNELS: usize = 1_000;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, group] = &arguments[..]
        && child == "--child"
    {
        return match group.as_str() {
            "memory.worker" => memory_worker(false),
            "memory.worker.used" => memory_worker(true),
            "memory.channel" => memory_channel(),
            other => panic!("no group {other}"),
        };
    }
    let wanted =
        |name: &str| arguments.is_empty() || arguments.iter().any(|wanted| name.starts_with(wanted.as_str()));
    for name in ["memory.worker", "memory.worker.used", "memory.channel"] {
        if wanted(name) {
            memory(name);
        }
    }
    if wanted("alloc") {
        allocations();
    }
}

/// Samples a group of memory figures from fresh processes.
fn memory(name: &str) {
    let samples: Vec<(f64, f64)> = (0..RUNS)
        .map(|_| {
            let program = std::env::current_exe().unwrap_or_else(|error| panic!("own path: {error}"));
            let output = Command::new(program).args(["--child", name]).output();
            let output = output.unwrap_or_else(|error| panic!("group {name}: {error}"));
            let text = String::from_utf8_lossy(&output.stdout);
            let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
            match (numbers.next(), numbers.next()) {
                (Some(heap), Some(rss)) => (heap, rss),
                _ => panic!("group {name} failed: {}", String::from_utf8_lossy(&output.stderr)),
            }
        })
        .collect();
    print(name, "B heap", 2, &samples.iter().map(|sample| sample.0).collect::<Vec<_>>());
    print(name, "B rss", 2, &samples.iter().map(|sample| sample.1).collect::<Vec<_>>());
}

fn live() -> f64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

fn rss() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(f64::NAN) * 4096.0
}

fn memory_worker(used: bool) {
    let runtime = runtime(2);
    runtime.block_on(async {
        let node = Node::builder("bench").start().await.unwrap_or_else(|error| panic!("{error}"));
        let (heap, resident) = (live(), rss());
        for n in 0..WORKERS {
            node.start_worker(&format!("w{n}"), Echo).unwrap_or_else(|error| panic!("{error}"));
        }
        if used {
            for n in 0..WORKERS {
                let route = node.route(&format!("w{n}")).unwrap_or_else(|error| panic!("{error}"));
                let _: Raw =
                    route.ask(&Raw(vec![7; 64].into())).await.unwrap_or_else(|error| panic!("{error}"));
            }
        }
        println!("{} {}", (live() - heap) / WORKERS as f64, (rss() - resident) / WORKERS as f64);
    });
}

fn memory_channel() {
    let runtime = runtime(2);
    runtime.block_on(async {
        let pair = Pair::channel(false).await;
        // The first channels pay for buffers and tables that the others share.
        let mut channels = Vec::new();
        for _ in 0..16 {
            channels.push(pair.another_channel().await);
        }
        let (heap, resident) = (live(), rss());
        for _ in 0..CHANNELS {
            channels.push(pair.another_channel().await);
        }
        // What a handshake leaves behind is swept up every few seconds.
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        println!("{} {}", (live() - heap) / CHANNELS as f64, (rss() - resident) / CHANNELS as f64);
    });
}

fn allocations() {
    let runtime = runtime(2);
    let node =
        runtime.block_on(async { Node::builder("bench").start().await }).unwrap_or_else(|e| panic!("{e}"));
    per_message(&runtime, "alloc.local.64", &node, |name| {
        node.route(name).unwrap_or_else(|error| panic!("{error}"))
    });
    let tcp = runtime.block_on(Pair::tcp());
    per_message(&runtime, "alloc.tcp.64", &tcp.server, |name| tcp.open(name));
    let hop = runtime.block_on(Pair::channel(true));
    per_message(&runtime, "alloc.channel-hop.64", &hop.server, |name| hop.open(name));
}

fn per_message(
    runtime: &tokio::runtime::Runtime,
    figure: &str,
    server: &Node,
    route: impl Fn(&str) -> NodeRoute,
) {
    let tally = Tally::default();
    runtime.block_on(async {
        server.start_worker("count", Counter(tally.clone())).unwrap_or_else(|error| panic!("{error}"));
    });
    let (route, body) = (route("count"), body(64));
    let samples: Vec<_> = (0..=RUNS)
        .map(|_| {
            let (tally, route, body) = (tally.clone(), route.clone(), body.clone());
            let before = ALLOCATOR.stats().allocations;
            let run = runtime.spawn(async move {
                let (route, body) = (&route, &body);
                flood(
                    &tally,
                    || async move { route.send(body).await.unwrap_or_else(|error| panic!("{error}")) },
                )
                .await
            });
            let (sent, _) = runtime.block_on(run).unwrap_or_else(|error| panic!("{error}"));
            (ALLOCATOR.stats().allocations - before) as f64 / sent as f64
        })
        .skip(1)
        .collect();
    print(figure, "allocations/msg", 2, &samples);
}
