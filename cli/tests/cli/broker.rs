//! Queues of brokers that others run, on the command line. The servers are started here; where one is not installed,
//! its test says so.

use onward_trials::{Server, ServerKind};
use serde_json::Value;

use crate::harness::{Home, text};

/// The demonstration with its last link at such a broker.
fn chain_goes_over(kind: ServerKind) {
    let Some(server) = Server::start(kind) else { return };
    let words = ["demo", "chain", "--text", "my own secret text", "--broker", &server.url(), "-o", "json"];
    let shown = Home::new().run(&words).json();
    assert_eq!(shown["ok"], true, "{shown}");
    assert_eq!(shown["found_at"], serde_json::json!(["client", "service"]));
    let scheme = server.url().split_once(':').unwrap().0.to_owned();
    assert_eq!(shown["links"][2], Value::String(scheme), "{shown}");
    for hop in shown["hops"].as_array().unwrap() {
        assert_eq!((&hop["found"], &hop["memory_searched"]), (&false.into(), &true.into()), "{hop}");
    }
}

#[test]
fn the_chain_goes_over_nats() {
    chain_goes_over(ServerKind::Nats);
}

#[test]
fn the_chain_goes_over_redis() {
    chain_goes_over(ServerKind::Redis);
}

#[test]
fn the_chain_goes_over_mosquitto() {
    chain_goes_over(ServerKind::Mosquitto);
}

#[test]
fn the_chain_goes_over_rabbitmq() {
    chain_goes_over(ServerKind::RabbitMq);
}

#[test]
fn a_list_says_what_an_acknowledgement_means_and_how_to_mend_what_loses_messages() {
    let (Some(nats), Some(redis)) = (Server::start(ServerKind::Nats), Server::start(ServerKind::Redis))
    else {
        return;
    };
    let home = Home::new();
    let queues = [format!("a={}", nats.url()), format!("b={}", redis.url())];
    let (node, _) = home.start(&["node", "start", "n", "--queue", &queues[0], "--queue", &queues[1]]);
    let listed: Value = home.run(&["queue", "ls", "-o", "json"]).json();
    let row = |name: &str| {
        let rows = listed["queues"].as_array().unwrap();
        rows.iter().find(|row| text(&row["queue"]) == name).unwrap().clone()
    };
    assert_eq!(
        (text(&row("a")["backend"]), text(&row("a")["ack_means"])),
        ("nats", "in the broker's memory")
    );
    assert!(text(&row("a")["note"]).contains("nats stream edit onward --replicas 3"), "{listed}");
    assert_eq!((text(&row("b")["backend"]), text(&row("b")["ack_means"])), ("redis", "on the broker's disk"));
    assert_eq!(text(&row("b")["note"]), "", "{listed}");
    drop(node);
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_kind_of_broker_that_is_not_built_in_is_named_with_its_feature() {
    let refused = Home::new().run(&["node", "start", "n", "--queue", "a=kafka://127.0.0.1"]);
    refused.fails("E0501", 73);
    assert!(refused.stderr.contains("--features kafka"), "{}", refused.stderr);
}

#[test]
fn a_broker_that_is_away_or_named_with_a_secret_is_refused() {
    let home = Home::new();
    // Port 1 of this machine: nobody listens there.
    home.run(&["node", "start", "n", "--queue", "a=redis://127.0.0.1:1"]).fails("E0501", 73);
    home.run(&["node", "start", "n", "--queue", "a=redis://me:word@127.0.0.1:1"]).fails("E0101", 2);
    home.run(&["demo", "chain", "--broker", "http://127.0.0.1:1"]).fails("E0101", 2);
}
