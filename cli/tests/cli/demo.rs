//! `onward demo chain` and `onward demo pin`.

use std::process::Stdio;

use crate::harness::{Home, eventually};

#[test]
fn the_chain_is_read_at_both_ends_and_nowhere_between() {
    let shown = Home::new().run(&["demo", "chain", "--text", "my own secret text", "-o", "json"]).json();
    assert_eq!(shown["ok"], true, "{shown}");
    assert_eq!(shown["found_at"], serde_json::json!(["client", "service"]));
    let hops = shown["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 2);
    for hop in hops {
        assert_eq!((&hop["found"], &hop["memory_searched"]), (&false.into(), &true.into()), "{hop}");
        assert!(hop["forwarded"].as_u64().unwrap() >= 4, "{hop}");
        assert!(hop["bytes"].as_u64().unwrap() > 1000, "{hop}");
    }
    assert!(shown["journey_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn who_reads_the_pin_depends_on_what_makes_a_key_believed_and_on_nothing_else() {
    let shown = Home::new().run(&["demo", "pin", "-o", "json"]).json();
    let readers = |mode: &str| {
        let parties = shown["readers"][mode].as_object().unwrap();
        assert_eq!(parties.len(), 5, "{shown}");
        parties.iter().filter(|(_, reads)| **reads == true).map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(readers("identity"), ["bank", "customer"]);
    assert_eq!(readers("bound"), ["bank", "customer"]);
    assert_eq!(readers("transitive"), ["bank", "company", "customer"], "what Transitive does not stop");
    for holds in ["ok", "second_use_refused", "destroyed", "proof_checked", "composed"] {
        assert_eq!(shown[holds], true, "{holds}: {shown}");
    }
    let text = Home::new().run(&["demo", "pin"]).ok();
    assert!(text.contains("Transitive is for those who only listen"), "{text}");
}

#[test]
fn people_see_the_journey_and_the_verdict() {
    let text = Home::new().run(&["demo", "chain"]).ok();
    for part in ["fintech", "card-api", "not searched", "ok: read at both ends and nowhere between"] {
        assert_eq!(text.contains(part), part != "not searched", "{part}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 160), "{text}");
}

#[test]
fn a_hop_that_attacks_achieves_nothing_and_the_channel_goes_on() {
    let shown = Home::new().run(&["demo", "chain", "--attack", "5000", "-o", "json"]).json();
    assert_eq!(shown["ok"], true, "{shown}");
    let attacks = shown["attacks"].as_object().unwrap();
    let kinds: Vec<&str> = attacks.keys().map(String::as_str).collect();
    let all = ["duplicate", "false_error", "forge", "redirect", "reorder", "replay", "reroute", "truncate"];
    assert_eq!(kinds, all);
    let made: Vec<u64> = attacks.values().map(|count| count.as_u64().unwrap()).collect();
    assert_eq!(made.iter().sum::<u64>(), 5000);
    assert!(made.iter().all(|count| *count >= 100), "{shown}");
    for figure in ["accepted_attacks", "reached_unexposed", "lost_under_attack"] {
        assert_eq!(shown[figure], 0, "{shown}");
    }
    assert!(shown["answered_under_attack"].as_u64().unwrap() >= 500, "{shown}");
}

/// The process ids of the parts that a demonstration started.
fn children(of: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn lives(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

#[test]
fn no_part_outlives_a_demonstration_that_is_killed_or_stopped() {
    for signal in ["KILL", "INT", "TERM"] {
        let home = Home::new();
        let mut command = home.command(&["demo", "chain", "--quiet"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let parts =
            eventually("parts start", || Some(children(child.id())).filter(|parts| !parts.is_empty()));
        crate::harness::signal(child.id(), signal);
        child.wait().unwrap();
        eventually("all parts end", || parts.iter().all(|pid| !lives(*pid)).then_some(()));
    }
}
