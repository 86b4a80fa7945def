//! Processes that are killed: a child that stores, handles and acknowledges all the time is killed
//! again and again, and what it said until then is compared with what its successors find.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onward_routing::Rng;
use onward_transports::queue::conformance::{body, message};
use onward_transports::queue::{
    Broker as _, EmbeddedQueue, Lane, Mailbox, Mid, Publish, QueueLimits, Subject,
};
use onward_trials::{Event, Id, Ledger, Row, Sample, size};

/// Routes whose handler only has an effect outside: what it prints.
const PLAIN: [u32; 2] = [0, 1];
/// Routes whose handler has its effect together with the identifier: one line in a file.
const TRANSACTIONAL: [u32; 2] = [2, 3];

/// What the child is told: `FOLDER FIRST,OPEN;…`, and by `stop` that it sends nothing new.
const TASK: &str = "ONWARD_QUEUE_CHILD";

/// What a sender goes on with: the number of the next message, and one whose outcome is not known.
#[derive(Clone, Copy, Default)]
struct Resume {
    next: u64,
    open: Option<u64>,
}

#[test]
fn r1_kill_9_loses_nothing_that_was_acknowledged() {
    let row = Row::new("R1");
    let kills = size(100, 1_000);
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(5);
    let mut history = History::default();
    for _ in 0..kills {
        let lines = 100 + rng.below(400);
        let mut child = start(folder.path(), &history.resume(), false);
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        said.by_ref().take(lines as usize).for_each(|line| history.note(&line));
        // Not always just after a line.
        std::thread::sleep(Duration::from_micros(rng.below(2_000)));
        child.kill().unwrap();
        // What it said before it died counts.
        said.for_each(|line| history.note(&line));
        child.wait().unwrap();
    }
    let mut child = start(folder.path(), &history.resume(), true);
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    said.for_each(|line| history.note(&line.unwrap()));
    assert!(child.wait().unwrap().success());

    let mut twice = 0;
    for route in TRANSACTIONAL {
        let effects = effects(folder.path(), route);
        twice += effects.len() - effects.iter().collect::<BTreeSet<_>>().len();
        for number in effects {
            history.ledger.add(Id { route, number: number.parse().unwrap() }, Event::Delivered);
        }
    }
    let verdict = history.ledger.verdict();
    row.at_least("kills", kills, 100);
    row.at_least("messages", verdict.delivered, kills * 50);
    row.exactly("acknowledged and lost", verdict.lost.len(), 0);
    row.exactly("out of order", verdict.reordered.len(), 0);
    row.exactly("never sent", verdict.unknown.len(), 0);
    row.exactly("stored and not handled", verdict.open.len(), 0);
    row.at_most("plain: repeats", history.repeats, kills * PLAIN.len());
    row.exactly("plain: repeats that did not say so", history.unmarked, 0);
    row.exactly("transactional: effects twice", twice, 0);
    row.takes_at_most("restart to first delivery p99 ms", history.restarts.percentile_ms(99), 2_000.0);
}

/// What the children said.
#[derive(Default)]
struct History {
    ledger: Ledger,
    resume: BTreeMap<u32, Resume>,
    handled: BTreeSet<Id>,
    repeats: usize,
    unmarked: usize,
    restarts: Sample,
}

impl History {
    /// Takes down one line: `sent ROUTE NUMBER`, `stored ROUTE NUMBER`, `handled ROUTE NUMBER ATTEMPT` or
    /// `first MICROSECONDS`.
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        if words[0] == "first" {
            return self.restarts.add(Duration::from_micros(number(1)));
        }
        if !["sent", "stored", "handled"].contains(&words[0]) {
            // The frame that the test runner prints around.
            return;
        }
        let id = Id { route: number(1) as u32, number: number(2) };
        let resume = self.resume.entry(id.route).or_default();
        match words[0] {
            "sent" => {
                *resume = Resume { next: id.number + 1, open: Some(id.number) };
                self.ledger.add(id, Event::Sent);
            }
            "stored" => {
                resume.open = None;
                self.ledger.add(id, Event::Acknowledged);
            }
            _ => {
                self.ledger.add(id, Event::Delivered);
                let is_repeat = !self.handled.insert(id);
                self.repeats += usize::from(is_repeat);
                self.unmarked += usize::from(is_repeat && number(3) < 2);
            }
        }
    }

    fn resume(&self) -> String {
        let of = |route: u32| self.resume.get(&route).copied().unwrap_or_default();
        let routes = PLAIN.into_iter().chain(TRANSACTIONAL).map(of);
        let texts =
            routes.map(|Resume { next, open }| format!("{next},{}", open.map_or(-1, |open| open as i64)));
        texts.collect::<Vec<_>>().join(";")
    }
}

/// What the child that fills a queue is told: `FOLDER MEBIBYTES`.
const FILL: &str = "ONWARD_QUEUE_FILL";
/// Bytes of a message in a large queue.
const LARGE: usize = 64 * 1024;

#[tokio::test]
async fn r1_a_large_queue_that_was_killed_delivers_soon_after_its_restart() {
    let row = Row::new("R1");
    let mebibytes = size(64, 1024);
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::the_child_that_fills", "--ignored", "--nocapture"])
        .env(FILL, format!("{} {mebibytes}", folder.path().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let full = said.skip_while(|line| line != "full").count() > 0;
    child.wait().unwrap();
    assert!(full, "the child did not fill the queue");

    let began = Instant::now();
    let queue = EmbeddedQueue::open(&folder.path().join("queue"), roomy()).await.unwrap();
    let mut subscription = queue.subscribe(large(), 1).await.unwrap();
    let first = subscription.next().await.unwrap();
    let took = began.elapsed();
    assert_eq!(body(&first), vec![7; LARGE]);
    let waiting = queue.mailboxes().await.unwrap().iter().map(|row| row.messages).sum::<u64>();
    row.exactly(
        &format!("{mebibytes} MiB: messages after the restart"),
        waiting,
        (mebibytes << 20) as u64 / LARGE as u64,
    );
    row.takes_at_most(
        &format!("{mebibytes} MiB: restart to first delivery ms"),
        took.as_secs_f64() * 1e3,
        5_000.0,
    );
    first.ack().await.unwrap();
    queue.close().await.unwrap();
}

fn large() -> Subject {
    let mailbox: Mailbox = "large".parse().unwrap();
    mailbox.lane(Lane::Messages)
}

/// Room for a gibibyte in one mailbox.
fn roomy() -> QueueLimits {
    QueueLimits { mailbox_bytes: 2 << 30, bytes: 2 << 30, ..QueueLimits::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that r1 starts, and that kills itself"]
async fn the_child_that_fills() {
    let task = std::env::var(FILL).unwrap();
    let (folder, mebibytes) = task.split_once(' ').unwrap();
    let queue = EmbeddedQueue::open(&PathBuf::from(folder).join("queue"), roomy()).await.unwrap();
    let count = (mebibytes.parse::<usize>().unwrap() << 20) / LARGE;
    let mut stores = tokio::task::JoinSet::new();
    for _ in 0..count {
        if stores.len() == 64 {
            stores.join_next().await.unwrap().unwrap();
        }
        let queue = queue.clone();
        stores.spawn(async move { queue.publish(message(&large(), &[7; LARGE])).await.map(|_| ()).unwrap() });
    }
    while let Some(stored) = stores.join_next().await {
        stored.unwrap();
    }
    println!("\nfull");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

fn start(folder: &Path, resume: &str, stop: bool) -> Child {
    let task = format!("{} {resume} {}", folder.display(), if stop { "stop" } else { "go" });
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::the_child", "--ignored", "--nocapture"])
        .env(TASK, task)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The lines of effects of a transactional route.
fn effects(folder: &Path, route: u32) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(format!("effects-{route}"))).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

// ---- The child -----------------------------------------------------------------------------------

fn say(line: &str) {
    // One write, so that a line is said whole or not at all.
    let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that r1 starts and kills"]
async fn the_child() {
    let began = Instant::now();
    let task = std::env::var(TASK).unwrap();
    let [folder, resume, stop] = task.split(' ').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let folder = PathBuf::from(folder);
    // A kill is nobody's fault: no message may become a dead letter for it.
    let queue = EmbeddedQueue::open(&folder.join("queue"), QueueLimits::default()).await.unwrap();
    let first = Arc::new(Mutex::new(Some(began)));
    let had = queue.mailboxes().await.unwrap().iter().any(|row| row.messages > 0);
    if !had {
        first.lock().unwrap().take();
    }
    let mut senders = Vec::new();
    for (route, resume) in PLAIN.into_iter().chain(TRANSACTIONAL).zip(resume.split(';')) {
        tokio::spawn(handle(queue.clone(), folder.clone(), route, Arc::clone(&first)));
        let (next, open) = resume.split_once(',').unwrap();
        let (next, open) = (next.parse().unwrap(), open.parse::<i64>().unwrap());
        senders.push(tokio::spawn(send(queue.clone(), route, next, open, stop == "stop")));
    }
    for sender in senders {
        sender.await.unwrap();
    }
    while queue.mailboxes().await.unwrap().iter().any(|row| row.messages > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    queue.close().await.unwrap();
}

fn subject(route: u32) -> Subject {
    let mailbox: Mailbox = format!("route-{route}").parse().unwrap();
    mailbox.lane(Lane::Messages)
}

/// Stores one message after the other, first the one whose outcome its predecessor did not learn.
async fn send(queue: EmbeddedQueue, route: u32, next: u64, open: i64, stop: bool) {
    let open = u64::try_from(open).ok();
    let new = if stop { next..next } else { next..u64::MAX };
    for number in open.into_iter().chain(new) {
        say(&format!("sent {route} {number}"));
        let mut mid = [route as u8; 16];
        mid[8..].copy_from_slice(&number.to_be_bytes());
        let mid = Mid::new(mid);
        let mut sent = message(&subject(route), &number.to_be_bytes());
        // The same bytes under the same identifier, whoever sends them.
        let decoded = onward_transports::queue::QueueMessage::decode(&sent.bytes).unwrap();
        sent.bytes = onward_transports::queue::QueueMessage { mid, ..decoded }.encode();
        queue.publish(Publish { mid, ..sent }).await.unwrap();
        say(&format!("stored {route} {number}"));
    }
}

/// Handles one message after the other, and waits until each acknowledgement holds.
async fn handle(queue: EmbeddedQueue, folder: PathBuf, route: u32, first: Arc<Mutex<Option<Instant>>>) {
    let mut had: BTreeSet<String> = effects(&folder, route).into_iter().collect();
    let mut file =
        OpenOptions::new().create(true).append(true).open(folder.join(format!("effects-{route}"))).unwrap();
    let mut subscription = queue.subscribe(subject(route), 8).await.unwrap();
    while let Some(delivery) = subscription.next().await {
        let number = u64::from_be_bytes(body(&delivery).try_into().unwrap());
        if let Some(began) = first.lock().unwrap().take() {
            say(&format!("first {}", began.elapsed().as_micros()));
        }
        if PLAIN.contains(&route) {
            say(&format!("handled {route} {number} {}", delivery.attempt()));
        } else if had.insert(number.to_string()) {
            file.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        delivery.ack().await.unwrap();
    }
}
