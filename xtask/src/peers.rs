//! `cargo xtask peers`: the peers and this project in one run, compared with the targets.
//!
//! Prints one JSON line for each figure and reference. `ratio` is ours divided by the reference;
//! whether large or small is good is said by `target`. What has no target has `null` there.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::bench::{self, Figure};
use crate::run;
use crate::targets::{Bound, Reference, TARGETS, Target};

/// A figure of this project beside what it is compared with.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    figure: String,
    unit: String,
    median: f64,
    min: f64,
    max: f64,
    n: u64,
    workers: u64,
    /// A peer, `limit`, or another figure of this project.
    reference: Option<String>,
    ratio: Option<f64>,
    target: Option<String>,
    met: Option<bool>,
}

/// Runs the benches of the peers and of this project and prints the joined lines, then, on
/// standard error, how many targets were met. A missed target is a result and not an error.
///
/// # Errors
/// When a bench does not build or does not succeed, or this project's bench printed no figure.
pub(crate) fn run(groups: &[String]) -> Result<()> {
    let mut command = run::cargo("run --release --locked --manifest-path benches/peers/Cargo.toml --");
    command.args(groups);
    let (mut peers, mut own) = (Vec::new(), Vec::new());
    bench::figures(command, &mut peers, |line| eprintln!("{line}"))?;
    let outcome = bench::own(groups, &mut own, |line| eprintln!("{line}"));

    let lines = join(&own, &peers, TARGETS);
    for line in &lines {
        println!("{}", serde_json::to_string(line)?);
    }
    for target in TARGETS.iter().filter(|_| groups.is_empty()) {
        if !own.iter().any(|figure| is_for(target, figure)) {
            eprintln!("not measured: {} in {}", target.figure, target.unit);
        }
    }
    // What was measured before a bench failed took minutes, and holds.
    outcome?;
    ensure!(!own.is_empty(), "the bench printed no figure");
    let count = |met| lines.iter().filter(|line| line.target.is_some() && line.met == met).count();
    let (met, missed, open) = (count(Some(true)), count(Some(false)), count(None));
    eprintln!("targets: {met} met, {missed} missed, {open} without a reference in this run");
    Ok(())
}

/// One line for each own figure and each target that it has; for a figure without a target, one
/// for each peer that has it, or a single line without a reference.
fn join(own: &[Figure], peers: &[Figure], targets: &[Target]) -> Vec<Line> {
    let mut lines = Vec::new();
    for figure in own {
        let before = lines.len();
        for target in targets.iter().filter(|target| is_for(target, figure)) {
            lines.push(judge(figure, target, own, peers));
        }
        if lines.len() > before {
            continue;
        }
        for peer in peers.iter().filter(|peer| is_same(peer, figure)) {
            lines.push(Line {
                reference: peer.peer.clone(),
                ratio: Some(figure.median / peer.median),
                ..line(figure)
            });
        }
        if lines.len() == before {
            lines.push(line(figure));
        }
    }
    lines
}

fn is_for(target: &Target, figure: &Figure) -> bool {
    target.figure == figure.figure
        && target.unit == figure.unit
        && target.workers.is_none_or(|workers| workers == figure.workers)
}

fn is_same(one: &Figure, other: &Figure) -> bool {
    one.figure == other.figure && is_comparable(one, other)
}

/// Whether a ratio of the two means anything: nothing is converted from one unit to another.
fn is_comparable(one: &Figure, other: &Figure) -> bool {
    one.unit == other.unit && one.workers == other.workers
}

fn judge(figure: &Figure, target: &Target, own: &[Figure], peers: &[Figure]) -> Line {
    let of_peer = |name: &str| {
        let of_it = |peer: &&Figure| peer.peer.as_deref() == Some(name);
        peers.iter().filter(of_it).find(|peer| is_same(peer, figure)).map(|found| found.median)
    };
    let of_own = |name: &str| {
        let named = |other: &&Figure| other.figure == name && is_comparable(other, figure);
        own.iter().find(named).map(|found| found.median)
    };
    let (name, ours, reference) = match target.reference {
        Reference::Peer(name) => (name.to_owned(), figure.median, of_peer(name)),
        Reference::Best(names) => {
            let all: Option<Vec<f64>> = names.iter().map(|name| of_peer(name)).collect();
            let best = all.and_then(|all| all.into_iter().reduce(f64::max));
            (format!("best of {}", names.join(", ")), figure.median, best)
        }
        Reference::Own(name) => (name.to_owned(), figure.median, of_own(name)),
        Reference::Limit(limit) => ("limit".to_owned(), figure.median, Some(limit)),
        Reference::PerHop { base, hops, nanoseconds } => {
            let added = of_own(base).map(|base| (1e9 / figure.median - 1e9 / base) / f64::from(hops));
            let name = format!("limit of added ns per hop over {base}");
            (name, added.unwrap_or(f64::NAN), added.map(|_| nanoseconds))
        }
    };
    let ratio = reference.map(|reference| ours / reference);
    let (text, met) = match target.bound {
        Bound::AtLeast(factor) => (format!(">={factor}"), ratio.map(|ratio| ratio >= factor)),
        Bound::AtMost(factor) => (format!("<={factor}"), ratio.map(|ratio| ratio <= factor)),
    };
    let text = match target.reference {
        Reference::Limit(limit) => format!("{text} of {limit}"),
        Reference::PerHop { nanoseconds, .. } => format!("{text} of {nanoseconds} ns"),
        _ => text,
    };
    Line { reference: Some(name), ratio, target: Some(text), met, ..line(figure) }
}

fn line(figure: &Figure) -> Line {
    Line {
        figure: figure.figure.clone(),
        unit: figure.unit.clone(),
        median: figure.median,
        min: figure.min,
        max: figure.max,
        n: figure.n,
        workers: figure.workers,
        reference: None,
        ratio: None,
        target: None,
        met: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, peer: Option<&str>, unit: &str, median: f64, workers: u64) -> Figure {
        Figure {
            figure: name.into(),
            peer: peer.map(Into::into),
            unit: unit.into(),
            median,
            min: median,
            max: median,
            n: 5,
            workers,
        }
    }

    /// Reference, ratio, target and verdict of each line.
    fn verdicts(own: &[Figure], peers: &[Figure]) -> Vec<(String, Option<f64>, Option<bool>)> {
        join(own, peers, TARGETS)
            .into_iter()
            .map(|line| (line.reference.unwrap_or_default(), line.ratio, line.met))
            .collect()
    }

    #[test]
    fn a_rate_is_met_above_the_factor_and_missed_below() {
        let ockam = figure("tcp.oneway.64", Some("ockam"), "msg/s", 100.0, 2);
        for (ours, met) in [(1000.0, true), (999.0, false)] {
            let own = figure("tcp.oneway.64", None, "msg/s", ours, 2);
            let expected = vec![("ockam".to_owned(), Some(ours / 100.0), Some(met))];
            assert_eq!(verdicts(&[own], std::slice::from_ref(&ockam)), expected);
        }
    }

    #[test]
    fn a_time_is_met_below_the_factor() {
        let raw = figure("tcp.ask.64", Some("raw"), "us p50", 10.0, 2);
        for (ours, met) in [(15.0, true), (15.1, false)] {
            let own = figure("tcp.ask.64", None, "us p50", ours, 2);
            assert_eq!(verdicts(&[own], std::slice::from_ref(&raw))[0].2, Some(met));
        }
    }

    #[test]
    fn workers_choose_the_target_and_the_peer() {
        let peers = [
            figure("channel.ask.64", Some("ockam"), "us p50", 20.0, 1),
            figure("channel.ask.64", Some("ockam"), "us p50", 80.0, 2),
        ];
        let own = [
            figure("channel.ask.64", None, "us p50", 10.0, 1),
            figure("channel.ask.64", None, "us p50", 40.0, 2),
        ];
        let ockam: Vec<_> = verdicts(&own, &peers).into_iter().filter(|line| line.0 == "ockam").collect();
        let expected = [("ockam".into(), Some(0.5), Some(true)), ("ockam".into(), Some(0.5), Some(false))];
        assert_eq!(ockam, expected);
    }

    #[test]
    fn added_time_per_hop_comes_from_two_rates() {
        let own = [
            figure("local.oneway.64", None, "msg/s", 1e7, 2),
            figure("hops4.oneway.64", None, "msg/s", 2e6, 2),
        ];
        // 500 ns with four hops and 100 ns without: 100 ns for each.
        let lines = verdicts(&own, &[]);
        let hop = lines.iter().find(|line| line.0.starts_with("limit")).unwrap();
        assert_eq!(hop.2, Some(true));
        assert!((hop.1.unwrap() - 100.0 / 150.0).abs() < 1e-9);
    }

    #[test]
    fn units_are_not_converted() {
        let own = figure("tcp.oneway.64", None, "msg/s", 10.0, 2);
        let ockam = figure("tcp.oneway.64", Some("ockam"), "MB/s", 1.0, 2);
        assert_eq!(verdicts(&[own], &[ockam]), [("ockam".into(), None, None)]);
    }

    #[test]
    fn the_best_of_peers_needs_all_of_them() {
        let own = figure("local.oneway.64", None, "msg/s", 10.0, 2);
        let mut peers = vec![figure("local.oneway.64", Some("kameo"), "msg/s", 8.0, 2)];
        let best = |peers: &[Figure]| verdicts(std::slice::from_ref(&own), peers)[1].clone();
        assert_eq!(best(&peers).2, None);
        peers.push(figure("local.oneway.64", Some("ractor"), "msg/s", 20.0, 2));
        assert_eq!(best(&peers), ("best of ractor, kameo".into(), Some(0.5), Some(false)));
    }

    #[test]
    fn a_figure_without_a_target_is_compared_with_each_peer() {
        let own = [figure("local.spawn", None, "1/s", 6.0, 2), figure("new", None, "us", 1.0, 2)];
        let peers = [figure("local.spawn", Some("kameo"), "1/s", 3.0, 2)];
        let expected = [("kameo".to_owned(), Some(2.0), None), (String::new(), None, None)];
        assert_eq!(verdicts(&own, &peers), expected);
    }
}
