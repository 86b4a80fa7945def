//! Formats of data, closed pipes and closed inputs.

use std::io::Read as _;
use std::process::Stdio;

use crate::harness::Home;

const ROUTE: &str = "tcp:127.0.0.1:4000 => hop => tcp:127.0.0.1:4001 => bank => upper";

#[test]
fn the_route_book_in_every_format() {
    let home = Home::new();
    assert_eq!(home.run(&["route", "ls"]).ok(), "");
    assert_eq!(home.run(&["route", "add", "pin", ROUTE]).ok(), format!("pin: {ROUTE}\n"));
    home.run(&["route", "add", "again", "pin"]).ok();
    let head = "NAME   ROUTE\n";
    assert_eq!(home.run(&["route", "ls"]).ok(), format!("{head}again  {ROUTE}\npin    {ROUTE}\n"));
    assert_eq!(home.run(&["route", "ls", "-o", "plain"]).ok(), format!("again\t{ROUTE}\npin\t{ROUTE}\n"));
    assert_eq!(
        home.run(&["route", "ls", "-o", "json"]).ok(),
        format!(
            "{{\"routes\":[{{\"name\":\"again\",\"route\":\"{ROUTE}\"}},{{\"name\":\"pin\",\"route\":\"{ROUTE}\"}}],\"schema\":1}}\n"
        )
    );
    let lines = home.run(&["route", "ls", "-o", "jsonl"]).ok();
    assert_eq!(
        lines.lines().next().unwrap(),
        format!("{{\"name\":\"again\",\"route\":\"{ROUTE}\",\"schema\":1}}")
    );
    home.run(&["route", "rm", "pin"]).ok();
    assert_eq!(home.run(&["route", "ls", "-o", "plain"]).ok(), format!("again\t{ROUTE}\n"));
}

#[test]
fn a_route_is_explained_hop_by_hop() {
    let home = Home::new();
    let rows = home.run(&["route", "explain", ROUTE, "-o", "json"]).json();
    let hops = rows["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 2);
    assert_eq!(hops[0]["node"], "tcp:127.0.0.1:4000");
    assert_eq!(hops[0]["can_read"], "nothing of the payload");
    assert_eq!(hops[1]["workers"], serde_json::json!(["bank", "upper"]));
    assert_eq!(hops[1]["can_read"], "it opens the channel");
    let plain = home.run(&["route", "explain", ROUTE, "--plain", "-o", "json"]).json();
    assert!(plain["hops"].as_array().unwrap().iter().all(|hop| hop["can_read"] == "everything"));
}

#[test]
fn identities_are_made_shown_exported_and_rotated() {
    let home = Home::new();
    let made = home.run(&["identity", "create"]).ok();
    let identifier = made.trim();
    assert!(identifier.len() == 65 && identifier.starts_with('I'), "{identifier}");
    assert_eq!(home.run(&["identity", "show", "default"]).ok(), made);
    home.run(&["identity", "create"]).fails("E0201", 1);
    let before = home.run(&["identity", "export"]).ok();
    home.run(&["identity", "rotate"]).ok();
    let after = home.run(&["identity", "export"]).ok();
    assert_ne!(before, after, "a change was added");
    assert_eq!(home.run(&["identity", "show", "default"]).ok(), made, "the identifier stays");
    // Others know it by the file.
    let other = Home::new();
    let file = other.file("friend.identity", &after);
    other.run(&["peer", "add", "friend", &file]).ok();
    assert_eq!(other.run(&["peer", "ls", "-o", "plain"]).ok(), format!("friend\t{identifier}\n"));
    let damaged = other.file("damaged", &after.replace('a', "b"));
    other.run(&["peer", "add", "other", &damaged]).fails("E0203", 77);
}

#[test]
fn limits_and_version_are_data() {
    let home = Home::new();
    let limits = home.run(&["limits", "-o", "json"]).json();
    assert!(limits["limits"].as_array().unwrap().iter().any(|limit| limit["name"] == "workers.payload"));
    assert_eq!(home.run(&["version"]).ok(), concat!("onward ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let home = Home::new();
    for words in [&["explain"][..], &["completion", "bash"], &["help", "--man"], &["--help"]] {
        let mut child = home.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn commands_run_without_standard_input() {
    let home = Home::new();
    // `0<&-` closes it; the system may give its number to the next file that is opened.
    for words in ["version", "route ls", "node ls", "identity create", "limits", "demo chain -o json"] {
        let line = format!("exec \"$0\" {words} 0<&-");
        let output = std::process::Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_onward")])
            .env("ONWARD_HOME", home.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
