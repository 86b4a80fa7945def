//! Queues on the command line: kept by one node, used by others, looked after by people.

use serde_json::Value;

use crate::harness::{Home, Running, eventually, text};

const ANY: &str = "tcp:127.0.0.1:0";

/// A node that keeps the queue `cards`, and where it is.
fn relay(home: &Home) -> (Running, String) {
    let words = ["node", "start", "relay", "--listen", ANY, "--queue", "cards=q", "--allow", "queue:cards/*"];
    let (relay, said) = home.start(&words);
    (relay, text(&said["listeners"][0]).to_owned())
}

/// A service that fetches from the relay's queue, and what it said.
fn service(home: &Home, relay: &str, listen: &str) -> (Running, Value) {
    let queue = format!("cards={relay}");
    home.start(&[
        "serve",
        "upper",
        "--upper",
        "--queue",
        &queue,
        "--listen",
        listen,
        "--trust-any",
        "--plain",
    ])
}

fn json(home: &Home, words: &[&str]) -> Value {
    serde_json::from_str(&home.run(&[words, &["-o", "json"]].concat()).ok()).unwrap()
}

#[test]
fn a_service_without_a_port_is_asked_through_a_queue_and_what_it_missed_waits() {
    let (here, there, anywhere) = (Home::new(), Home::new(), Home::new());
    let (keeper, at) = relay(&here);
    let mailbox = there.run(&["queue", "new", "cards"]).ok();
    let mailbox = mailbox.trim();
    let (running, said) = service(&there, &at, mailbox);
    let route = format!("{} => upper", text(&said["endpoint"]));
    assert_eq!(route, format!("{at} => {mailbox} => upper"));
    assert_eq!(anywhere.run(&["ask", &route, "hello", "--plain"]).ok(), "HELLO");
    let sealed = format!("{at} => {mailbox} => secure => upper");
    assert_eq!(anywhere.run(&["ask", &sealed, "sealed", "--peer", text(&said["identifier"])]).ok(), "SEALED");
    drop(running);

    // Nobody is there: the message waits, and is counted.
    anywhere.run(&["send", &route, "later", "--plain"]).ok();
    let listed = eventually("the message waits", || {
        let listed = json(&here, &["queue", "ls"]);
        (listed["queues"][0]["waiting"] != 0).then_some(listed)
    });
    let row = &listed["queues"][0];
    assert_eq!((text(&row["queue"]), text(&row["ack_means"])), ("cards", "on disk (fsync)"));
    let (again, _) = service(&there, &at, mailbox);
    eventually("it is fetched", || {
        (json(&here, &["queue", "ls"])["queues"][0]["waiting"] == 0).then_some(())
    });
    again.signal("TERM");
    let (_, talk) = again.end();
    assert!(talk.contains("1 answered"), "{talk}");
    keeper.signal("TERM");
    assert!(keeper.end().0.success());
}

#[test]
fn what_waits_outlives_the_node_and_is_purged_when_asked_twice() {
    let (here, anywhere) = (Home::new(), Home::new());
    let (keeper, at) = relay(&here);
    let mailbox = here.run(&["queue", "new", "cards"]).ok();
    let mailbox = mailbox.trim();
    let route = format!("{at} => {mailbox} => nobody");
    for _ in 0..3 {
        anywhere.run(&["send", &route, "x", "--plain"]).ok();
    }
    let waiting = |count: u64| {
        let shown = json(&here, &["queue", "show", "cards"]);
        let rows = shown["mailboxes"].as_array().unwrap().clone();
        let place = mailbox.trim_start_matches("queue:cards/");
        (rows.iter().any(|row| row["mailbox"] == place && row["waiting"] == count)).then_some(())
    };
    eventually("all wait", || waiting(3));
    keeper.signal("KILL");
    keeper.end();
    let (_keeper, _) = relay(&here);
    eventually("all wait again", || waiting(3));
    here.run(&["queue", "show", "card"]).fails("E0502", 1);
    assert_eq!(json(&here, &["queue", "dead", mailbox])["dead_letters"], Value::Array(Vec::new()));
    assert_eq!(json(&here, &["queue", "redeliver", mailbox])["redelivered"], 0);
    here.run(&["queue", "purge", mailbox]).fails("E0101", 2);
    assert_eq!(json(&here, &["queue", "purge", mailbox, "--yes"])["removed"], 3);
    assert_eq!(json(&here, &["queue", "ls"])["queues"][0]["waiting"], 0);
    // One folder, one process.
    here.run(&["node", "start", "second", "--queue", "cards=q"]).fails("E0501", 73);
}
