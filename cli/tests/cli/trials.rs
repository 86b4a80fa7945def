//! Measured claims about real processes: sockets held open, lying frames, no descriptors left, frozen and
//! killed nodes, and an end while there is work.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use onward::{Identity, Limits, Node, NodeRoute, Peer, Raw, Trust};
use onward_trials::{Event, Id, Ledger, Process, Row, Sample, alone, size};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::harness::{Home, PATIENCE, Running, eventually, text};

const ANY: &str = "tcp:127.0.0.1:0";
const PREFACE: [u8; 8] = *b"ONWD\x01\x00\x00\x00";
const MIB: u64 = 1024 * 1024;

/// A process that answers without channels, and where.
fn echo(home: &Home) -> (Running, SocketAddr) {
    let (process, said) = home.start(&["serve", "echo", "--echo", "--listen", ANY, "--trust-any", "--plain"]);
    let at = endpoint(&said);
    (process, at)
}

fn endpoint(said: &Value) -> SocketAddr {
    text(&said["endpoint"]).trim_start_matches("tcp:").parse().unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A socket from an address of this machine's own, of which there are 2^24.
async fn connect_from(number: usize, to: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let [_, _, high, low] = (number as u32 + 1).to_be_bytes();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 1, high, low)), 0))?;
    socket.connect(to).await
}

/// A fresh connection that asks once.
async fn ask_once(to: SocketAddr) -> Result<Duration, String> {
    let began = Instant::now();
    let node = Node::builder("asker").start().await.map_err(|error| error.to_string())?;
    let route = node.route(&format!("tcp:{to} => echo")).map_err(|error| error.to_string())?;
    let answer = route.ask_within::<_, Raw>(&Raw("x".into()), PATIENCE).await;
    answer.map(|_| began.elapsed()).map_err(|error| error.to_string())
}

/// The time that each of `count` fresh connections takes to get an answer, and how many got none.
async fn newcomers(count: usize, to: SocketAddr) -> (Sample, usize) {
    let (mut times, mut refused) = (Sample::default(), 0);
    for _ in 0..count {
        match ask_once(to).await {
            Ok(time) => times.add(time),
            Err(_) => refused += 1,
        }
    }
    (times, refused)
}

#[test]
fn a01_half_open_connections_keep_nobody_out() {
    let _alone = alone();
    let (addresses, each, legitimate) = (100, size(15, 100), size(40, 1_000));
    let row = Row::new("A01");
    let home = Home::new();
    let (process, at) = echo(&home);
    let process_held = Process::of(process.pid());
    runtime().block_on(async {
        let (before, _) = newcomers(legitimate, at).await;
        let (memory, descriptors) = (process_held.memory_peak(), process_held.descriptors());
        // None of them says anything; those that are closed come again, as long as the attack lasts.
        let mut held = Vec::new();
        for number in 0..addresses * each {
            held.extend(connect_from(number % addresses, at).await);
        }
        eventually("they are taken in", || (process_held.descriptors() > descriptors + 500).then_some(()));
        // The oldest go as new ones come; their sockets close a moment later.
        let half_open = eventually("the oldest are gone", || {
            process_held.descriptors().checked_sub(descriptors).filter(|count| *count <= 1_024 + 16)
        });
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let attack = {
            let over = std::sync::Arc::clone(&over);
            tokio::spawn(async move {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    let place = number % held.len();
                    if let Ok(Ok(again)) =
                        tokio::time::timeout(Duration::from_secs(1), connect_from(number % addresses, at))
                            .await
                    {
                        held[place] = again;
                    }
                    number += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        let (during, refused) = newcomers(legitimate, at).await;
        over.store(true, Ordering::Relaxed);
        attack.await.unwrap();
        row.at_most("connections half open", half_open, 1_024 + 16);
        row.exactly("newcomers refused", refused, 0);
        row.takes_at_most("newcomer p99 ms", during.percentile_ms(99), 250.0);
        let factor = during.percentile_ms(99) / before.percentile_ms(99);
        row.takes_at_most("newcomer p99 during / before", factor, 2.0);
        row.at_most("memory taken MiB", (process_held.memory_peak() - memory) / MIB, 63);
        let began = Instant::now();
        eventually("the descriptors are free again", || {
            (process_held.descriptors() <= descriptors + 2).then_some(())
        });
        row.takes_at_most("descriptors free after s", began.elapsed().as_secs_f64(), 15.0);
    });
}

#[test]
fn a08_a_frame_that_claims_4_gib_takes_nothing() {
    let _alone = alone();
    let connections = size(300, 10_000);
    let row = Row::new("A08");
    let home = Home::new();
    let (process, at) = echo(&home);
    let held = Process::of(process.pid());
    let mut closed = Sample::default();
    let mut one = || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&PREFACE).unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        let began = Instant::now();
        stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
        // A reset is a close too.
        let left = stream.read(&mut [0; 8]).unwrap_or(0);
        assert_eq!(left, 0, "nothing is answered");
        closed.add(began.elapsed());
    };
    one();
    let memory = held.memory_peak();
    (1..connections).for_each(|_| one());
    row.at_most("memory taken MiB", (held.memory_peak() - memory) / MIB, 15);
    row.takes_at_most("closed p99 ms", closed.percentile_ms(99), 100.0);
    row.exactly("still answers", runtime().block_on(ask_once(at)).is_ok(), true);
}

#[test]
fn a11_without_descriptors_accepting_goes_on() {
    let _alone = alone();
    let (held_for, resets) = (Duration::from_secs(size(3, 60) as u64), size(500, 10_000));
    let row = Row::new("A11");
    let home = Home::new();
    let inner = home.command(&[]);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(inner.get_program());
    command.args(["serve", "echo", "--echo", "--listen", ANY, "--trust-any", "--plain", "-o", "json"]);
    command.env_clear().env("ONWARD_HOME", home.path()).stdin(Stdio::null());
    let (mut process, said) = home.start_command(&mut command);
    let at = endpoint(&said);
    let held = Process::of(process.pid());

    let mut sockets = Vec::new();
    let (began, before) = (Instant::now(), held.processor_time());
    while began.elapsed() < held_for {
        // Those that were given up on are replaced, so that no descriptor stays free.
        sockets.retain(|socket: &TcpStream| match socket.peek(&mut [0]) {
            Ok(heard) => heard > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        while sockets.len() < 100 {
            let mut socket = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
            let _ = socket.write_all(&PREFACE);
            socket.set_nonblocking(true).unwrap();
            sockets.push(socket);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = (held.processor_time() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    row.at_least("descriptors in use of 64", held.descriptors(), 60);
    row.takes_at_most("share of a core while none is free", share, 0.2);
    drop(sockets);
    for _ in 0..resets {
        let socket = socket2::Socket::from(TcpStream::connect_timeout(&at, PATIENCE).unwrap());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    let recovered = runtime().block_on(ask_once(at)).unwrap();
    row.takes_at_most("answers again after ms", recovered.as_secs_f64() * 1e3, 1_000.0 + 250.0);
    row.exactly("the process has ended", process.child.try_wait().unwrap().is_some(), false);
}

#[test]
fn a37_bad_frames_and_names_do_not_fill_the_log() {
    let _alone = alone();
    let frames = size(2_000, 100_000);
    let row = Row::new("A37");
    let home = Home::new();
    let (process, at) = echo(&home);
    for number in 0..frames {
        let mut stream = TcpStream::connect(at).unwrap();
        // Bytes that would colour, clear or turn around the line of a terminal.
        let hostile = "\x1b[31m\r\u{202e}\0".repeat(1 + number % 3);
        stream.write_all(&PREFACE).unwrap();
        stream.write_all(&(hostile.len() as u32).to_be_bytes()).unwrap();
        stream.write_all(hostile.as_bytes()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    process.signal("TERM");
    let (status, log) = process.end();
    assert!(status.success(), "{log}");
    row.at_most("lines of the log", log.lines().count(), 3_000.min(frames / 10));
    let unprintable =
        log.chars().filter(|letter| letter.is_control() && *letter != '\n' || *letter == '\u{202e}');
    row.exactly("control characters in it", unprintable.count(), 0);
}

/// A chain of hops that are processes, in front of a service that is one too.
struct Chain {
    hops: Vec<Running>,
    service: Running,
    _homes: Vec<Home>,
    route: String,
    beside: String,
}

fn chain(hops: usize) -> Chain {
    let home = Home::new();
    let (service, said) = home.start(&["serve", "echo", "--echo", "--listen", ANY, "--trust-any", "--plain"]);
    let beside = format!("{} => echo", text(&said["endpoint"]));
    let mut homes = vec![home];
    let mut running = Vec::new();
    let mut route = beside.clone();
    let mut next = text(&said["endpoint"]).to_owned();
    for _ in 0..hops {
        let home = Home::new();
        let words = ["node", "start", "hop", "--hop", "hop", "--allow", &next, "--listen", ANY];
        let (hop, said) = home.start(&words);
        next = text(&said["listeners"][0]).to_owned();
        route = format!("{next} => hop => {route}");
        running.push(hop);
        homes.push(home);
    }
    Chain { hops: running, service, _homes: homes, route, beside }
}

#[test]
fn r10_a_frozen_hop_loses_nothing_and_holds_up_no_other_route() {
    let _alone = alone();
    let (hops, frozen) = (size(2, 4), Duration::from_secs(size(1, 30) as u64));
    let row = Row::new("R10");
    let chain = chain(hops);
    let ledger = std::sync::Arc::new(Ledger::default());
    let node = runtime();
    node.block_on(async {
        let asker = Node::builder("asker").start().await.unwrap();
        let through = asker.route(&chain.route).unwrap();
        let unrelated = Node::builder("unrelated").start().await.unwrap();
        let beside = unrelated.route(&chain.beside).unwrap();
        ask(&through).await.unwrap();
        ask(&beside).await.unwrap();
        let alone = times(&beside, size(300, 2_000)).await.percentile_ms(99);
        let (mut resumed, mut held_up) = (Sample::default(), Sample::default());
        for (round, hop) in chain.hops.iter().enumerate() {
            hop.signal("STOP");
            let asks: Vec<_> = (0..20)
                .map(|number| {
                    let (through, ledger) = (through.clone(), std::sync::Arc::clone(&ledger));
                    let id = Id { route: round as u32, number };
                    ledger.add(id, Event::Sent);
                    tokio::spawn(async move {
                        if ask(&through).await.is_ok() {
                            ledger.add(id, Event::Acknowledged);
                            ledger.add(id, Event::Delivered);
                        }
                    })
                })
                .collect();
            let began = Instant::now();
            while began.elapsed() < frozen {
                held_up.extend([time(&beside).await]);
            }
            hop.signal("CONT");
            let began = Instant::now();
            for ask in asks {
                ask.await.unwrap();
            }
            resumed.add(began.elapsed());
        }
        let verdict = ledger.verdict();
        row.exactly("asks lost to a frozen hop", verdict.open.len() + verdict.lost.len(), 0);
        row.exactly("asks answered", verdict.acknowledged, 20 * hops);
        row.takes_at_most("answers there again after ms", resumed.percentile_ms(100), 1_000.0);
        let p99 = held_up.percentile_ms(99);
        row.takes_at_most("p99 of an unrelated route / before", p99 / alone, 1.2);
    });
    drop(chain.service);
}

async fn ask(route: &NodeRoute) -> Result<Raw, onward::AskError> {
    route.ask_within(&Raw("x".into()), 2 * PATIENCE).await
}

async fn time(route: &NodeRoute) -> Duration {
    let began = Instant::now();
    ask(route).await.unwrap();
    began.elapsed()
}

async fn times(route: &NodeRoute, count: usize) -> Sample {
    let mut sample = Sample::default();
    for _ in 0..count {
        sample.add(time(route).await);
    }
    sample
}

#[test]
fn r14_sigterm_under_load_ends_in_time_and_the_next_start_works() {
    let _alone = alone();
    let stops = size(6, 100);
    let row = Row::new("R14");
    let home = Home::new();
    let node = runtime();
    let (mut clean, mut ends) = (0, Sample::default());
    let mut at = ANY.to_owned();
    for _ in 0..stops {
        let words = ["serve", "echo", "--echo", "--trust-any", "--plain", "--listen", &at];
        let (process, said) = home.start(&words);
        let listens = text(&said["endpoint"]).to_owned();
        node.block_on(async {
            let asker = Node::builder("asker").start().await.unwrap();
            let route = asker.route(&format!("{listens} => echo")).unwrap();
            ask(&route).await.unwrap();
            let load: Vec<_> = (0..8)
                .map(|_| {
                    let route = route.clone();
                    tokio::spawn(async move { while ask(&route).await.is_ok() {} })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let began = Instant::now();
            process.signal("TERM");
            let (status, talk) = tokio::task::spawn_blocking(move || process.end()).await.unwrap();
            ends.add(began.elapsed());
            clean += usize::from(status.success() && talk.contains("0 abandoned"));
            load.iter().for_each(tokio::task::JoinHandle::abort);
        });
        // The same port again: a stop leaves nothing that hinders the next start.
        at = listens;
    }
    row.exactly("stops with exit code 0 and nothing abandoned", clean, stops);
    row.takes_at_most("longest stop ms", ends.percentile_ms(100), 25_000.0);
}

#[test]
fn r14_a_second_sigterm_ends_at_once() {
    let row = Row::new("R14");
    let home = Home::new();
    let begun = home.path().parent().unwrap().join("begun");
    let script = home.file("slow.sh", &format!("touch {}; exec sleep 60\n", begun.display()));
    let words = ["serve", "slow", "--exec", "--listen", ANY, "--trust-any", "--plain", "-o", "json"];
    let (process, said) =
        home.start_command(&mut home.command(&[&words[..], &["--", "sh", &script]].concat()));
    let route = format!("{} => slow", text(&said["endpoint"]));
    home.run(&["send", &route, "x", "--plain"]).ok();
    eventually("the program runs", || begun.exists().then_some(()));
    process.signal("TERM");
    // It says that it finishes, and then goes on finishing.
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    process.signal("TERM");
    process.end();
    row.takes_at_most("end after a second SIGTERM ms", began.elapsed().as_secs_f64() * 1e3, 1_000.0);
}

/// Channels that are tried to be taken over at the same time.
const ATTEMPTS_AT_ONCE: usize = 20;
/// Many times what an opening takes.
const WAIT_FOR_OWNER: Duration = Duration::from_secs(2);

#[test]
fn a24_nobody_else_takes_over_an_identity_and_its_owner_comes_back() {
    let _alone = alone();
    let attempts = size(ATTEMPTS_AT_ONCE, 1_000);
    let row = Row::new("A24");
    let home = Home::new();
    let mut words = vec!["serve", "echo", "--echo", "--trust-any", "--channels", "bank", "--listen", ANY];
    let (owner, said) = home.start(&words);
    let (at, identifier) = (text(&said["endpoint"]).to_owned(), text(&said["identifier"]).to_owned());
    runtime().block_on(async {
        let asker = Node::builder("asker").start().await.unwrap();
        let alice = asker.create_identity().await.unwrap();
        let peer: onward::Identifier = identifier.parse().unwrap();
        let open = async |route: &str, alice: &Identity, peer| {
            asker.open_channel(alice, route.parse().unwrap(), Peer::Identity(peer)).await
        };
        // Others listen where the owner is looked for, with an identity of their own.
        let mut limits = Limits::default();
        (limits.channels.listener.new_per_second, limits.channels.listener.half_open_max) =
            (u32::MAX, 2 * ATTEMPTS_AT_ONCE);
        let squatter = Node::builder("squatter").limits(limits).start().await.unwrap();
        let other = squatter.create_identity().await.unwrap();
        squatter.accept_channels("bank", &other, Trust::dangerously_any()).unwrap();
        let listener = squatter.listen_tcp("127.0.0.1:0").await.unwrap();
        listener.expose("bank").unwrap();
        let squatted = format!("{} => bank", listener.name());
        open(&squatted, &alice, other.identifier()).await.unwrap();
        let mut taken = 0;
        for _ in 0..attempts / ATTEMPTS_AT_ONCE {
            // What the squatter answers is taken for a forgery, after which the owner's answer may still come.
            let opening = (0..ATTEMPTS_AT_ONCE).map(|_| {
                let (asker, alice, route) = (asker.clone(), alice.clone(), squatted.parse().unwrap());
                let peer = Peer::Identity(peer);
                tokio::spawn(tokio::time::timeout(WAIT_FOR_OWNER, async move {
                    asker.open_channel(&alice, route, peer).await.is_ok()
                }))
            });
            for opened in opening.collect::<Vec<_>>() {
                taken += usize::from(opened.await.unwrap() == Ok(true));
            }
        }
        row.exactly("takeovers by another identity", taken, 0);
        let route = format!("{at} => bank");
        open(&route, &alice, peer).await.unwrap();
        owner.signal("KILL");
        owner.end();
        words.pop();
        words.push(&at);
        let began = Instant::now();
        let (_again, said) = home.start(&words);
        assert_eq!(text(&said["identifier"]), identifier);
        while open(&route, &alice, peer).await.is_err() {}
        row.takes_at_most("the owner is back after ms", began.elapsed().as_secs_f64() * 1e3, 2_000.0);
    });
}
