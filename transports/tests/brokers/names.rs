//! Names that strangers choose: what they make a broker touch, seen by its own monitor.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use mqtt5::mqttbytes::QoS;
use mqtt5::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};
use onward_routing::Rng;
use onward_transports::queue::conformance::message;
use onward_transports::queue::{Lane, Mailbox};
use onward_trials::{Row, Server, ServerKind, size};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::PATIENCE;

/// What ends the watching: nothing that is published has this name.
const END: &str = "onward-end";
/// Names that would be more than a name to some broker.
const CUNNING: &[&str] = &[
    "",
    "*",
    "#",
    "+",
    ">",
    "a.>",
    "a/b",
    "a.b",
    "a b",
    "a\r\nFLUSHALL\r\n",
    "a\0b",
    "$SYS",
    "$JS.API.>",
    "ow.v1.mb.a",
    "../a",
    "ä",
    "a\tb",
    "%2F",
    "{a}b",
    "amq.direct",
];
/// Messages that are published at the same time.
const TOGETHER: usize = 16;

/// A39 for one kind of server: `watched` begins to watch and hands on every name that is touched, until [`END`].
async fn names_stay_in_their_place(kind: ServerKind, watch: impl AsyncFnOnce(&Server) -> Watch) {
    let Some((server, broker)) = crate::broker(kind).await else { return };
    let count = size(20_000, 1_000_000);
    let mut random = Rng::new(39);
    let mut refused = 0;
    let mut mailboxes = BTreeSet::new();
    for name in CUNNING {
        assert!(name.parse::<Mailbox>().is_err(), "{name:?}");
    }
    for _ in 0..count {
        let length = random.below(41) as usize;
        let name: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        // Whatever is no text is no name either.
        match std::str::from_utf8(&name).ok().and_then(|name| name.parse::<Mailbox>().ok()) {
            Some(mailbox) => drop(mailboxes.insert(mailbox)),
            None => refused += 1,
        }
    }
    assert!(refused > count / 2 && mailboxes.len() > 64, "{refused} refused, {} names", mailboxes.len());
    let watch = watch(&server).await;
    let subjects: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.lane(Lane::Messages)).collect();
    for some in subjects.chunks(TOGETHER) {
        let mut together = JoinSet::new();
        for subject in some {
            let (broker, message) = (broker.clone(), message(subject, b"\r\nDEL *\r\n"));
            together.spawn(async move { broker.publish(message).await.unwrap() });
        }
        together.join_all().await;
    }
    let touched = timeout(PATIENCE, watch.end(&server)).await.expect("the monitor ends");
    let expected: BTreeSet<String> = subjects.iter().map(ToString::to_string).collect();
    let row = Row::new("A39");
    println!("{kind:?}: {count} names, {refused} refused, {} mailboxes", expected.len());
    row.exactly("names touched", touched.intersection(&expected).count(), expected.len());
    let others: Vec<&String> = touched.difference(&expected).collect();
    assert!(others.is_empty(), "{others:?}");
    row.exactly("other names touched", others.len(), 0);
}

/// What watches a server.
enum Watch {
    /// Names as they are touched, until [`END`].
    Names(mpsc::UnboundedReceiver<String>),
    /// RabbitMQ is asked for its queues at the end.
    List,
}

impl Watch {
    /// All names that were touched.
    async fn end(self, server: &Server) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        match self {
            Self::Names(mut names) => {
                say_end(server).await;
                loop {
                    let name = names.recv().await.expect("the monitor watches to the end");
                    if name.ends_with(END) {
                        return touched;
                    }
                    touched.insert(name);
                }
            }
            Self::List => {
                let listed =
                    tokio::task::block_in_place(|| server.rabbitmqctl(&["list_queues", "--silent", "name"]));
                touched.extend(listed.lines().map(str::to_owned));
                touched
            }
        }
    }
}

/// Touches [`END`] by a connection of its own, after everything was acknowledged.
async fn say_end(server: &Server) {
    let url = server.url();
    if url.starts_with("mqtt") {
        let (client, mut events) = mqtt(server, "onward-ends");
        client.publish(END, "", PublishOptions::at_least_once()).await.unwrap();
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
        return;
    }
    let mut stream = connect(server);
    let said = match url.starts_with("nats") {
        true => format!("CONNECT {{}}\r\nPUB {END} 0\r\n\r\nPING\r\n"),
        false => format!("EXISTS {END}\r\n"),
    };
    stream.write_all(said.as_bytes()).unwrap();
    // It is done when it is answered.
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url().split_once("//").unwrap().1).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Hands on the names of all commands that Redis executes. Each has its key first.
async fn monitor(server: &Server) -> Watch {
    let mut stream = connect(server);
    stream.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "+OK");
    let (sender, names) = mpsc::unbounded_channel();
    spawn_blocking(move || {
        // +TIME [DATABASE FROM] "COMMAND" "KEY" …
        for line in lines {
            let mut words = line.split('"').skip(1).step_by(2);
            let (command, key) = (words.next().unwrap(), words.next().unwrap_or_default().to_owned());
            let is_end = key == END;
            let is_known = is_end || ["XADD", "EXPIRE"].contains(&command);
            sender.send(if is_known { key } else { line.clone() }).unwrap();
            if is_end {
                return;
            }
        }
    });
    Watch::Names(names)
}

/// Hands on the subjects of all that is published in NATS, but for what goes to its own interface and to inboxes.
async fn wildcard(server: &Server) -> Watch {
    let mut stream = connect(server);
    stream.write_all(b"CONNECT {\"verbose\":false}\r\nSUB > 1\r\nPING\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line.trim_end() != "PONG" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    let (sender, names) = mpsc::unbounded_channel();
    spawn_blocking(move || {
        loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["PING"] => stream.get_mut().write_all(b"PONG\r\n").unwrap(),
                ["MSG", subject, .., bytes] => {
                    let mut payload = vec![0; bytes.parse::<usize>().unwrap() + 2];
                    stream.read_exact(&mut payload).unwrap();
                    let is_own = subject.starts_with("$JS.") || subject.starts_with("_INBOX.");
                    if !is_own {
                        sender.send(subject.to_owned()).unwrap();
                    }
                    if subject == END {
                        return;
                    }
                }
                _ => sender.send(line.clone()).unwrap(),
            }
        }
    });
    Watch::Names(names)
}

/// Hands on the topics of all that is published in Mosquitto, as subjects.
async fn every_topic(server: &Server) -> Watch {
    let (client, mut events) = mqtt(server, "onward-watches");
    client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    let (sender, names) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        // The client ends with this task.
        let _client = client;
        loop {
            if let Event::Incoming(Packet::Publish(packed)) = events.poll().await.unwrap() {
                let topic = String::from_utf8_lossy(&packed.topic).into_owned();
                let is_end = topic == END;
                sender.send(topic.replace('/', ".")).unwrap();
                if is_end {
                    return;
                }
            }
        }
    });
    Watch::Names(names)
}

fn mqtt(server: &Server, name: &str) -> (AsyncClient, mqtt5::EventLoop) {
    let url = server.url();
    let (host, port) = url.split_once("//").unwrap().1.split_once(':').unwrap();
    let options = MqttOptions::new(name, mqtt5::Broker::tcp(host, port.parse().unwrap()));
    AsyncClient::builder(options).capacity(16).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a39_names_in_nats() {
    names_stay_in_their_place(ServerKind::Nats, wildcard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a39_names_in_redis() {
    names_stay_in_their_place(ServerKind::Redis, monitor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a39_names_in_mosquitto() {
    names_stay_in_their_place(ServerKind::Mosquitto, every_topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a39_names_in_rabbitmq() {
    names_stay_in_their_place(ServerKind::RabbitMq, async |_| Watch::List).await;
}
