//! Nodes as processes: locks, control, background, signals, configuration.

use crate::harness::{Home, eventually, text};

const ANY: &str = "tcp:127.0.0.1:0";

#[test]
fn a_killed_node_leaves_nothing_that_hinders_the_next() {
    let home = Home::new();
    let (node, said) = home.start(&["node", "start", "edge", "--listen", ANY]);
    assert_eq!(said["pid"], node.pid());
    home.run(&["node", "start", "edge", "--listen", ANY]).fails("E0206", 73);
    node.signal("KILL");
    node.end();
    let socket = home.path().join("nodes/edge/control.sock");
    assert!(socket.exists(), "the socket of the killed node is still there");
    assert_eq!(home.run(&["node", "ls", "-o", "plain"]).ok(), "edge\tstopped\t-\t-\n");
    let (again, said) = home.start(&["node", "start", "edge", "--listen", ANY]);
    let listener = text(&said["listeners"][0]);
    let listed = home.run(&["node", "ls", "-o", "plain"]).ok();
    assert_eq!(listed, format!("edge\trunning\t{}\t{listener}\n", again.pid()));
}

#[test]
fn signals_and_stop_end_a_node_with_a_word() {
    let home = Home::new();
    for signal in ["TERM", "INT"] {
        let (node, _) = home.start(&["node", "start", "a", "--listen", ANY, "--hop", "hop"]);
        node.signal(signal);
        let (status, talk) = node.end();
        assert!(status.success(), "{signal}: {talk}");
        assert!(talk.contains("finishes") && talk.contains("node `a` stopped"), "{talk}");
    }
    let (node, _) = home.start(&["node", "start", "a", "--listen", ANY]);
    assert_eq!(home.run(&["node", "stop"]).ok(), "node `a` stopped\n");
    assert!(node.end().0.success());
}

#[test]
fn a_node_in_the_background_runs_until_it_is_stopped() {
    let home = Home::new();
    let said = home
        .run(&["node", "start", "back", "--listen", ANY, "--hop", "hop", "--background", "-o", "json"])
        .json();
    let status = home.run(&["status", "-o", "json"]).json();
    assert_eq!(status["node"], "back");
    assert_eq!(status["pid"], said["pid"]);
    assert_eq!(status["listeners"][0]["address"], said["listeners"][0]);
    assert_eq!(
        status["listeners"][0]["exposed"],
        serde_json::json!(["hop"]),
        "control is not exposed to the network"
    );
    home.run(&["node", "start", "back", "--background"]).fails("E0206", 73);
    let other =
        home.run(&["node", "start", "other", "--listen", text(&said["listeners"][0]), "--background"]);
    other.fails("E0301", 73);
    let words = [
        "node",
        "start",
        "other",
        "--listen",
        text(&said["listeners"][0]),
        "--background",
        "-q",
        "-o",
        "json",
    ];
    let other: serde_json::Value = serde_json::from_str(&home.run(&words).stderr).unwrap();
    assert_eq!(other["error"]["code"], "E0301", "{other}");
    home.run(&["node", "stop", "back"]).ok();
    let pid = said["pid"].as_u64().unwrap();
    eventually("its process ends", || {
        (!std::path::Path::new(&format!("/proc/{pid}/exe")).exists()).then_some(())
    });
    home.run(&["node", "stop", "back"]).fails("E0207", 69);
}

#[test]
fn a_configuration_file_starts_the_same_node() {
    let home = Home::new();
    let config =
        home.file("onward.toml", "name = \"filed\"\nlisten = [\"tcp:127.0.0.1:0\"]\nhop = [\"one\"]\n");
    let words = ["node", "start", "--hop", "two", "-o", "json"];
    let (_node, said) = home.start_command(home.command(&words).env("ONWARD_CONFIG", &config));
    assert_eq!(said["node"], "filed");
    let status = home.run(&["status", "--node", "filed", "-o", "json"]).json();
    assert_eq!(status["listeners"][0]["exposed"], serde_json::json!(["one", "two"]));
}

#[test]
fn several_nodes_are_told_apart() {
    let home = Home::new();
    let (_one, _) = home.start(&["node", "start", "one", "--listen", ANY]);
    let (_two, _) = home.start(&["node", "start", "two", "--listen", ANY]);
    home.run(&["status"]).fails("E0208", 2);
    assert_eq!(home.run(&["status", "--node", "two", "-o", "json"]).json()["node"], "two");
}

#[test]
fn what_is_kept_is_private() {
    use std::os::unix::fs::MetadataExt as _;
    fn walk(path: &std::path::Path) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        assert_eq!(metadata.mode() & 0o077, 0, "{} has mode {:o}", path.display(), metadata.mode());
        if metadata.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path()));
        }
    }
    let home = Home::new();
    let words = ["node", "start", "a", "--listen", ANY, "--channels", "door", "--trust-any"];
    let (_node, _) = home.start(&words);
    home.run(&["identity", "create"]).ok();
    home.run(&["route", "add", "x", "y"]).ok();
    home.run(&["node", "start", "b", "--background"]).ok();
    walk(&home.path());
    home.run(&["node", "stop", "b"]).ok();
}
