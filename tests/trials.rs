//! Measured claims about whole nodes through the facade: who reaches whom, overload, churn, lost bursts,
//! stops under load, idle channels, full disks.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onward::queue::{Broker, EmbeddedQueue, Lane, QueueError, QueueLimits, Subject, conformance};
use onward::{
    AskError, Channel, Context, Echo, ErrorCode, Failure, Identity, Limits, LinkFaults, Listener,
    MemoryNetwork, Node, Peer, Raw, RemoteQueue, Route, Trust, Worker,
};
use onward_trials::{Event, Id, Ledger, Process, Row, Sample, SmallDisk, alone, is_full, size};

const DRAIN: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer on a busy machine, and all that a refusal by silence takes.
const SILENCE: Duration = Duration::from_secs(2);
const MIB: u64 = 1024 * 1024;

async fn node(name: &str) -> Node {
    Node::builder(name).start().await.unwrap()
}

fn raw(text: &str) -> Raw {
    Raw(text.to_owned().into())
}

/// Waits until a condition holds, which other tasks bring about.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Two nodes, of which the second answers in channels.
struct Pair {
    client: Node,
    service: Node,
    listener: Listener,
    alice: Identity,
    bank: Identity,
}

impl Pair {
    async fn start(limits: Limits) -> Self {
        let (client, service) =
            (node("client").await, Node::builder("service").limits(limits).start().await.unwrap());
        let alice = client.create_identity().await.unwrap();
        let bank = service.create_identity().await.unwrap();
        service.start_worker("echo", Echo).unwrap();
        let accepting = service.accept_channels("bank", &bank, Trust::pinned([alice.identifier()])).unwrap();
        accepting.expose("echo").unwrap();
        let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
        listener.expose("bank").unwrap();
        Self { client, service, listener, alice, bank }
    }

    async fn open(&self, route: Route) -> Channel {
        self.client.open_channel(&self.alice, route, Peer::Identity(self.bank.identifier())).await.unwrap()
    }

    fn route(&self) -> Route {
        format!("{} => bank", self.listener.name()).parse().unwrap()
    }
}

/// Counts what reaches it.
#[derive(Clone, Default)]
struct Reached(Arc<AtomicU64>);

impl Worker for Reached {
    type Request = Raw;
    type Reply = Raw;

    async fn handle(&mut self, _: &mut Context, request: Raw) -> Result<Raw, Failure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(request)
    }
}

/// Keeps the way back of what it gets.
struct Keep(Arc<Mutex<Option<Route>>>);

impl Worker for Keep {
    type Request = Raw;
    type Reply = Raw;

    async fn handle(&mut self, context: &mut Context, request: Raw) -> Result<Raw, Failure> {
        *self.0.lock().unwrap() = Some(context.return_route());
        Ok(request)
    }
}

/// What comes in by the first reaches the second, and nothing else does.
const ALLOWED: [(&str, &str); 5] = [
    ("tcp", "for-tcp"),
    ("unix", "for-unix"),
    ("dialled", "for-dialled"),
    ("channel", "for-channel"),
    ("channel", "secure-only"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a23_every_ingress_reaches_what_is_exposed_to_it_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::start(Limits::default()).await;
    let (client, service) = (&pair.client, &pair.service);
    let workers = ["for-tcp", "for-unix", "for-dialled", "for-channel", "secure-only", "private"];
    for worker in workers {
        service.start_worker(worker, Echo).unwrap();
    }
    service.router().reach_mut().secure_only(&"secure-only".parse().unwrap()).unwrap();
    pair.listener.expose("for-tcp").unwrap();
    let socket = folder.path().join("private").join("socket");
    let on_socket = service.listen_unix(&socket).await.unwrap();
    on_socket.expose("for-unix").unwrap();
    let accepting =
        service.accept_channels("door", &pair.bank, Trust::pinned([pair.alice.identifier()])).unwrap();
    pair.listener.expose("door").unwrap();
    accepting.expose("for-channel").unwrap();
    accepting.expose("secure-only").unwrap();
    // The service itself connects to the client, which keeps the way back.
    let way = Arc::new(Mutex::new(None));
    client.start_worker("keep", Keep(Arc::clone(&way))).unwrap();
    let at_client = client.listen_tcp("127.0.0.1:0").await.unwrap();
    at_client.expose("keep").unwrap();
    let dialled = service.connect_tcp(at_client.local_address()).await.unwrap();
    dialled.expose("for-dialled").unwrap();
    let _: Raw = dialled.route_to("keep").unwrap().ask(&raw("x")).await.unwrap();
    let back = way.lock().unwrap().take().unwrap();
    let back = back.as_ref().first().unwrap().to_owned();

    let tcp = client.connect_tcp(pair.listener.local_address()).await.unwrap();
    let unix = client.connect_unix(&socket).await.unwrap();
    let channel = pair.open(format!("{} => door", pair.listener.name()).parse().unwrap()).await;
    let ways = [
        ("tcp", tcp.address().to_string()),
        ("unix", unix.address().to_string()),
        ("dialled", back.to_string()),
        ("channel", channel.address().to_string()),
    ];
    let mut asks = Vec::new();
    for (ingress, way) in &ways {
        for worker in workers {
            let route = client.route(&format!("{way} => {worker}")).unwrap();
            let ingress = *ingress;
            asks.push(tokio::spawn(async move {
                let answer = route.ask_within::<_, Raw>(&raw("x"), SILENCE).await;
                (ingress, worker, answer.is_ok())
            }));
        }
    }
    let mut otherwise = 0;
    for ask in asks {
        let (ingress, worker, reached) = ask.await.unwrap();
        otherwise += usize::from(reached != ALLOWED.contains(&(ingress, worker)));
    }
    let row = Row::new("A23");
    row.exactly("pairs of ingress and worker that differ from the table, of 24", otherwise, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a23_no_route_of_an_unprivileged_link_reaches_a_worker() {
    let count = size(5_000, 100_000) as u64;
    let service = node("service").await;
    let reached = Reached::default();
    let names = ["keyd", "admin", "echo", "control"];
    for name in names {
        service.start_worker(name, reached.clone()).unwrap();
    }
    service.start_hop("hop").unwrap();
    let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
    let client = node("client").await;
    let connection = client.connect_tcp(listener.local_address()).await.unwrap();
    let mut seed = 23_u64;
    let mut pick = |of: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % of
    };
    for _ in 0..count {
        let mut address = || match pick(8) {
            number @ 0..4 => names[number as usize].to_owned(),
            4 => "hop".to_owned(),
            5 => format!("#{:032x}", u128::from(pick(u64::MAX))),
            6 => format!("tcp:127.0.0.1:{}", 1 + pick(65_535)),
            _ => format!("w{}", pick(1_000)),
        };
        let route = [address(), address(), address()].join(" => ");
        connection.route_to(&route).unwrap().send(&raw("x")).await.unwrap();
    }
    let denied = || service.router().counters().denied.load(Ordering::Relaxed);
    until("all are refused", || denied() >= count).await;
    let row = Row::new("A23");
    row.exactly("denials counted", denied(), count);
    row.exactly("workers reached that are not exposed", reached.0.load(Ordering::Relaxed), 0);
}

/// Takes 5 ms for each message.
struct Slow;

impl Worker for Slow {
    type Request = Raw;
    type Reply = Raw;

    async fn handle(&mut self, _: &mut Context, request: Raw) -> Result<Raw, Failure> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(request)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a28_ten_times_too_much_for_one_worker_is_told_and_slows_no_other() {
    let _alone = alone();
    let (seconds, rate) = (size(2, 60), 2_000);
    let pair = Pair::start(Limits::default()).await;
    pair.service.start_worker("slow", Slow).unwrap();
    let accepting =
        pair.service.accept_channels("door", &pair.bank, Trust::pinned([pair.alice.identifier()])).unwrap();
    accepting.expose("slow").unwrap();
    pair.listener.expose("door").unwrap();
    pair.listener.expose("echo").unwrap();
    let other = node("other").await;
    let echo = other.route(&format!("{} => echo", pair.listener.name())).unwrap();
    let time = async || {
        let began = Instant::now();
        let _: Raw = echo.ask_within(&raw("x"), PATIENCE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        began.elapsed() - Duration::from_millis(1)
    };
    let mut before = Sample::default();
    for _ in 0..size(300, 2_000) {
        before.add(time().await);
    }
    let channel = pair.open(format!("{} => door", pair.listener.name()).parse().unwrap()).await;
    let slow = pair.client.route_along(channel.route_to("slow").unwrap());
    let memory = Process::own().memory_peak();
    let producing = tokio::spawn(async move {
        let mut asks = tokio::task::JoinSet::new();
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..seconds * 200 {
            tick.tick().await;
            for _ in 0..rate / 200 {
                let slow = slow.clone();
                asks.spawn(async move {
                    let began = Instant::now();
                    let answer = slow.ask_within::<_, Raw>(&Raw(vec![0; 1_000].into()), PATIENCE).await;
                    (began.elapsed(), answer)
                });
            }
        }
        let (mut answered, mut overloaded, mut other) = (0, Sample::default(), 0);
        while let Some(ask) = asks.join_next().await {
            match ask.unwrap() {
                (_, Ok(_)) => answered += 1,
                (time, Err(AskError::Reported { code: ErrorCode::Overloaded, .. })) => overloaded.add(time),
                _ => other += 1,
            }
        }
        (answered, overloaded, other)
    });
    let mut during = Sample::default();
    while !producing.is_finished() {
        during.add(time().await);
    }
    let (answered, overloaded, other) = producing.await.unwrap();
    let row = Row::new("A28");
    row.at_least("asks of the slow worker answered", answered, 100);
    row.at_least("asks refused as overloaded", overloaded.len(), 100);
    row.exactly("asks that ended otherwise", other, 0);
    row.at_most("memory taken by both ends MiB", (Process::own().memory_peak() - memory) / MIB, 32);
    // An ask that was accepted into a lane may be refused only when its turn comes; most are at once.
    row.takes_at_most("told p50 ms", overloaded.percentile_ms(50), 100.0);
    let factor = during.percentile_ms(99) / before.percentile_ms(99);
    row.takes_at_most("p99 of another worker, during / before", factor, 1.5);
}

/// Channels of one cycle: the far end sees within a second that they are closed.
const AT_ONCE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a29_channels_that_come_and_go_leave_nothing() {
    let _alone = alone();
    let cycles = size(40, 100_000);
    let pair = Pair::start(Limits::default()).await;
    let cycle = async || {
        let mut channels = Vec::new();
        for _ in 0..AT_ONCE {
            let channel = pair.open(pair.route()).await;
            let to = pair.client.route_along(channel.route_to("echo").unwrap());
            let _: Raw = to.ask(&raw("x")).await.unwrap();
            channels.push(channel);
        }
        channels.iter().for_each(Channel::close);
        until("both ends have ended", || pair.service.channels() + pair.client.channels() == 0).await;
    };
    for _ in 0..size(40, 1_000) / AT_ONCE {
        cycle().await;
    }
    let (memory, descriptors) = (Process::own().memory(), Process::own().descriptors());
    for _ in 0..cycles / AT_ONCE {
        cycle().await;
    }
    let row = Row::new("A29");
    row.at_most("memory after / before, channels", Process::own().memory() as f64 / memory as f64, 1.05);
    row.at_most("descriptors more or fewer", Process::own().descriptors().abs_diff(descriptors), 2);
    let names = pair.service.router().names();
    row.exactly("names left at the service, of 2", names.len(), 2);
}

/// What is stored through a relay, and whether the disk was full instead, as somebody elsewhere is told.
async fn store(queue: &RemoteQueue, subject: &Subject, number: u32) -> Result<(), QueueError> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(10_000, 1);
    queue.publish(conformance::message(subject, &body)).await.map(|_| ())
}

/// The other half of R3: a queue on a full disk, seen from another node, beside a route that stores nothing.
#[tokio::test(flavor = "multi_thread")]
async fn r3_a_queue_on_a_full_disk_slows_no_other_route_of_its_node() {
    let _alone = alone();
    let Some(disk) = SmallDisk::ext4(16).or_else(|| SmallDisk::memory(16)) else {
        println!("no small disk can be mounted here, and this was not tried");
        return;
    };
    let row = Row::new("R3");
    let limits = QueueLimits { unsettled: 100_000, ..QueueLimits::default() };
    let stored = Arc::new(EmbeddedQueue::open(&disk.path().join("queue"), limits).await.unwrap());
    let relay = node("relay").await;
    relay.mount_queue("cards", Arc::clone(&stored) as Arc<dyn Broker>).unwrap();
    relay.serve_queue("queue.cards", "cards").unwrap();
    relay.start_worker("echo", Echo).unwrap();
    let listener = relay.listen_tcp("127.0.0.1:0").await.unwrap();
    listener.expose("queue.cards").unwrap();
    listener.expose("echo").unwrap();

    let sender = node("sender").await;
    let queue = RemoteQueue::new(sender.route(&format!("{} => queue.cards", listener.name())).unwrap());
    let subject = conformance::fresh_mailbox().lane(Lane::Messages);
    let other = node("other").await;
    let echo = other.route(&format!("{} => echo", listener.name())).unwrap();
    let time = async || {
        let began = Instant::now();
        let _: Raw = echo.ask_within(&raw("x"), PATIENCE).await.unwrap();
        began.elapsed()
    };

    let (mut count, mut before) = (0, Sample::default());
    loop {
        let (answer, took) = tokio::join!(store(&queue, &subject, count), time());
        match answer {
            Ok(()) => before.add(took),
            Err(QueueError::StorageFull) => break,
            Err(error) => panic!("{error:?}"),
        }
        count += 1;
    }
    let (mut refusals, mut during) = (Sample::default(), Sample::default());
    for _ in 0..size(300, 2_000) {
        let began = Instant::now();
        let refused = async { (store(&queue, &subject, count).await, began.elapsed()) };
        let ((refused, told), took) = tokio::join!(refused, time());
        assert!(matches!(refused, Err(QueueError::StorageFull)), "{refused:?}");
        refusals.add(told);
        during.add(took);
    }
    // Whoever handles what waits makes the room that others need.
    let mut subscription = queue.subscribe(subject.clone(), 16).await.unwrap();
    let mut found = std::collections::BTreeSet::new();
    let mut take = async || {
        let delivery = subscription.next().await.unwrap();
        found.insert(u32::from_be_bytes(*conformance::body(&delivery).first_chunk().unwrap()));
        delivery.ack().await.unwrap();
    };
    for _ in 0..count / 2 {
        take().await;
    }
    let began = Instant::now();
    while let Err(error) = store(&queue, &subject, count).await {
        assert!(matches!(error, QueueError::StorageFull), "{error:?}");
        assert!(began.elapsed() < PATIENCE, "nothing can be stored again");
    }
    let resumed = began.elapsed();
    for _ in count / 2..=count {
        take().await;
    }
    row.at_least("whole nodes: stored until it is full", count, 100);
    row.takes_at_most("whole nodes: told p99 ms", refusals.percentile_ms(99), 100.0);
    let factor = during.percentile_ms(99) / before.percentile_ms(99);
    row.takes_at_most("whole nodes: p99 of another route, full / filling", factor, 1.5);
    row.takes_at_most("whole nodes: works again after ms", resumed.as_secs_f64() * 1e3, 1_000.0);
    row.exactly("whole nodes: acknowledged and lost", count as usize + 1 - found.len(), 0);
    relay.shutdown(DRAIN).await;
    stored.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_a_channel_survives_bursts_of_loss() {
    let bursts: &[usize] = if is_full() { &[1, 33, 1_000, 100_000] } else { &[1, 33, 1_000] };
    let pair = Pair::start(Limits::default()).await;
    let network = Arc::new(MemoryNetwork::new(9));
    let (out, back) =
        network.connect(pair.client.router(), pair.service.router(), LinkFaults::default()).await.unwrap();
    pair.service.router().reach_mut().expose(back.flow(), &"bank".parse().unwrap()).unwrap();
    let clock = {
        let network = Arc::clone(&network);
        tokio::spawn(async move {
            loop {
                network.advance(Duration::from_millis(1)).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let channel = pair.open(format!("{} => bank", out.address()).parse().unwrap()).await;
    let to = pair.client.route_along(channel.route_to("echo").unwrap());
    let _: Raw = to.ask(&raw("before")).await.unwrap();
    let (mut answered, mut lost) = (0, 0);
    for burst in bursts {
        network.cut(&out, true).await;
        let before = pair.service.router().counters().delivered.load(Ordering::Relaxed);
        for _ in 0..*burst {
            to.send(&raw("lost")).await.unwrap();
        }
        // What is still in the buffer has to be lost too.
        tokio::time::sleep(Duration::from_millis(20)).await;
        lost += pair.service.router().counters().delivered.load(Ordering::Relaxed) - before;
        network.cut(&out, false).await;
        let answer = to.ask_within::<_, Raw>(&raw("after"), PATIENCE).await;
        answered += usize::from(answer.is_ok());
    }
    let row = Row::new("R9");
    row.exactly("messages that came through a cut", lost, 0);
    row.exactly("bursts after which the channel goes on", answered, bursts.len());
    row.exactly("channels of the service, none of them new", pair.service.channels(), 1);
    clock.abort();
}

/// Writes down what it handles.
struct Recorded(Arc<Ledger>);

impl Worker for Recorded {
    type Request = u64;
    type Reply = u64;

    async fn handle(&mut self, _: &mut Context, number: u64) -> Result<u64, Failure> {
        self.0.add(Id { route: 0, number }, Event::Delivered);
        tokio::task::yield_now().await;
        Ok(number)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_a_stop_under_load_loses_nothing_that_was_taken() {
    let stops = size(50, 1_000);
    let mut worst = Sample::default();
    let (mut handled, mut unanswered, mut cut_off) = (0, 0, 0);
    for _ in 0..stops {
        let ledger = Arc::new(Ledger::default());
        let service = node("service").await;
        service.start_worker("recorded", Recorded(Arc::clone(&ledger))).unwrap();
        let listener = service.listen_tcp("127.0.0.1:0").await.unwrap();
        listener.expose("recorded").unwrap();
        let client = node("client").await;
        let connection = client.connect_tcp(listener.local_address()).await.unwrap();
        let route = connection.route_to("recorded").unwrap();
        let next = Arc::new(AtomicU64::new(0));
        let load: Vec<_> = (0..4)
            .map(|_| {
                let (ledger, route, next) = (Arc::clone(&ledger), route.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let id = Id { route: 0, number: next.fetch_add(1, Ordering::Relaxed) };
                        ledger.add(id, Event::Sent);
                        match route.ask_within::<_, u64>(&id.number, PATIENCE).await {
                            Ok(_) => ledger.add(id, Event::Acknowledged),
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        until("it is under load", || next.load(Ordering::Relaxed) > 20).await;
        let began = Instant::now();
        cut_off += service.shutdown(DRAIN).await.cut_off;
        worst.add(began.elapsed());
        for load in load {
            load.await.unwrap();
        }
        let verdict = ledger.verdict();
        handled += verdict.delivered;
        unanswered += verdict.delivered - verdict.acknowledged;
        assert!(verdict.lost.is_empty() && verdict.duplicated.is_empty(), "{verdict:?}");
    }
    let row = Row::new("R14");
    row.at_least("requests handled", handled, 20 * stops);
    row.exactly("requests handled whose answer was lost", unanswered, 0);
    row.exactly("workers cut off", cut_off, 0);
    row.takes_at_most("longest stop ms", worst.percentile_ms(100), DRAIN.as_secs_f64() * 1e3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_an_idle_channel_takes_its_socket_and_no_thread() {
    let _alone = alone();
    let count = size(60, 10_000);
    let mut limits = Limits::default();
    (limits.streams.connections, limits.streams.connections_per_ip) = (count, count);
    (limits.channels.listener.new_per_second, limits.channels.listener.half_open_max) = (u32::MAX, count);
    let pair = Pair::start(limits).await;
    let before = Process::own().descriptors();
    let mut channels = Vec::new();
    for _ in 0..count {
        let connection = pair.client.connect_tcp(pair.listener.local_address()).await.unwrap();
        channels.push(pair.open(format!("{} => bank", connection.address()).parse().unwrap()).await);
    }
    assert_eq!((pair.client.channels(), pair.service.channels()), (count, count));
    let row = Row::new("R27");
    let taken = Process::own().descriptors() - before;
    // Both ends of each connection are in this process.
    row.at_most("descriptors of both ends", taken, 2 * (count as u64 + 32));
    row.at_most("threads of two nodes and the test", Process::own().threads(), 8);
}
