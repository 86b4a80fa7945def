//! Measured claims about workers on one node: loops, error storms, churn, stuck workers, panics.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward_routing::{Address, ErrorCode, FlowId, FlowKind, Message, Route, RouteRef};
use onward_trials::{Event, Id, Ledger, Process, Row, Sample, alone, size};
use onward_workers::{
    AskError, Context, Echo, EndReason, Failure, FnWorker, Ingress, Limits, NoReply, Raw, Relay, Restart,
    Router, Strategy, Supervisor, Worker, start,
};

const WITHIN: Duration = Duration::from_secs(20);

fn router() -> Arc<Router> {
    let router = Router::new(Limits::default()).unwrap();
    tokio::spawn(Arc::clone(&router).run());
    router
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn route(text: &str) -> Route {
    text.parse().unwrap()
}

/// A connection from outside, to which these workers are exposed and errors are told.
fn ingress(router: &Arc<Router>, exposed: &[&str]) -> Ingress {
    let flow = FlowId::new(router.random().to_be_bytes());
    let mut reach = router.reach_mut();
    reach.open_flow(flow, FlowKind::Transport, None);
    reach.set_hop_errors(flow, true);
    for worker in exposed {
        reach.expose(flow, &address(worker)).unwrap();
    }
    drop(reach);
    Ingress::new(Arc::clone(router), flow, Address::random(router.random()))
}

/// What a panic of a trial says, so that those alone are not printed.
const MEANT: &str = "a panic that is meant";

/// Thousands of panics that are meant would hide any other.
fn print_only_other_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&MEANT) {
            print(panic);
        }
    }));
}

#[tokio::test]
async fn a27_an_error_never_causes_an_error() {
    let _alone = alone();
    let count = size(10_000, 100_000);
    let router = router();
    let mut peer = ingress(&router, &[]);
    for _ in 0..count {
        // Nobody is there, and nobody is where it says it came from: the way back leads to nothing.
        let message = Message::new(route("nobody").as_ref(), route("nowhere").as_ref(), b"x");
        assert!(peer.take_in(message).is_none());
    }
    let reports = router.counters().reports.load(Ordering::Relaxed);
    let row = Row::new("A27");
    row.at_most("reports made", reports, count as u64);
    // A report that cannot be delivered would count as undeliverable once more.
    let undeliverable = router.counters().undeliverable.load(Ordering::Relaxed);
    row.exactly("errors caused by errors", undeliverable - count as u64, 0);
    row.at_least("reports made, of one second's allowance", reports, 1);
}

#[tokio::test]
async fn a20_two_relays_that_point_at_each_other_stop() {
    let _alone = alone();
    let count = 10_000;
    let router = router();
    let forwards = Arc::new(AtomicU64::new(0));
    for (name, to) in [("one", "other"), ("other", "one")] {
        let relay = Relay::new(route(to));
        router.add_step(&address(name), Arc::new(Counted(relay, Arc::clone(&forwards)))).unwrap();
    }
    let mut peer = ingress(&router, &["one"]);
    for _ in 0..count {
        let message = Message::new(route("one").as_ref(), RouteRef::default(), b"x");
        assert!(peer.take_in(message).is_none());
    }
    let row = Row::new("A20");
    row.at_most("forwards of 10,000 looping messages", forwards.load(Ordering::Relaxed), 32 * count);
    // The walk ends before `take_in` returns: every message has been given up by now.
    let ended = router.counters().undeliverable.load(Ordering::Relaxed);
    row.exactly("still alive", count - ended, 0);
}

/// A relay that counts what it forwards.
struct Counted(Relay, Arc<AtomicU64>);

impl onward_workers::Step for Counted {
    fn step(
        &self,
        router: &Arc<Router>,
        message: Message,
        charge: Option<onward_workers::Charge>,
    ) -> onward_workers::Next {
        let next = self.0.step(router, message, charge);
        if matches!(next, onward_workers::Next::Forward(_)) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        next
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a29_workers_that_come_and_go_leave_nothing() {
    let _alone = alone();
    let cycles = size(10_000, 100_000);
    let router = router();
    let cycle = async |number: usize| {
        let name = address(&format!("w{}", number % 100));
        let worker = start(&router, &name, Echo).unwrap();
        let answer: Raw = router.ask(&Route::from(name), &Raw("x".into()), WITHIN).await.unwrap();
        assert_eq!(&answer.0[..], b"x");
        worker.stop().await;
    };
    // The allocator and the tables reach their size first.
    for number in 0..cycles / 10 {
        cycle(number).await;
    }
    let before = Process::own().memory();
    for number in 0..cycles {
        cycle(number).await;
    }
    let growth = Process::own().memory() as f64 / before as f64;
    let row = Row::new("A29");
    row.exactly("addresses left by workers", router.names().len(), 0);
    row.at_most("memory after / before, workers", growth, 1.05);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_stuck_worker_stops_no_other() {
    let _alone = alone();
    let asks = size(1_000, 20_000);
    let router = router();
    start(&router, &address("echo"), Echo).unwrap();
    let time = async || {
        let mut sample = Sample::default();
        for _ in 0..asks {
            let began = Instant::now();
            let _: Raw = router.ask(&route("echo"), &Raw("x".into()), WITHIN).await.unwrap();
            sample.add(began.elapsed());
        }
        sample
    };
    let alone = time().await.percentile_ms(99);
    start(&router, &address("stuck"), Stuck).unwrap();
    let stuck = {
        let router = Arc::clone(&router);
        tokio::spawn(async move {
            router.ask::<_, Raw>(&route("stuck"), &Raw("x".into()), Duration::from_secs(1)).await
        })
    };
    let beside = time().await;
    let row = Row::new("R12");
    row.exactly("asks answered beside a stuck worker", beside.len(), asks);
    row.takes_at_most("p99 beside a stuck worker / alone", beside.percentile_ms(99) / alone, 1.2);
    assert!(matches!(stuck.await.unwrap(), Err(AskError::Deadline(_))), "it is stuck");
}

/// Never finishes its first message.
struct Stuck;

impl Worker for Stuck {
    type Request = Raw;
    type Reply = NoReply;

    async fn handle(&mut self, _: &mut Context, _: Raw) -> Result<NoReply, Failure> {
        std::future::pending().await
    }
}

/// Fails on odd numbers, and writes down what it handles.
struct Fragile {
    ledger: Arc<Ledger>,
}

impl Worker for Fragile {
    type Request = u64;
    type Reply = u64;

    async fn handle(&mut self, _: &mut Context, number: u64) -> Result<u64, Failure> {
        self.ledger.add(Id { route: 0, number }, Event::Delivered);
        if number % 2 == 1 {
            std::panic::panic_any(MEANT);
        }
        Ok(number)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_worker_that_panics_comes_back_with_its_mailbox() {
    let _alone = alone();
    print_only_other_panics();
    let panics = size(1_000, 10_000) as u64;
    let (router, ledger) = (router(), Arc::new(Ledger::default()));
    let child = Arc::clone(&ledger);
    let supervisor = Supervisor::new(Strategy::OneForOne)
        .intensity(usize::MAX, Duration::from_secs(5))
        .child(address("fragile"), Restart::Permanent, move || Fragile { ledger: Arc::clone(&child) });
    let supervision = supervisor.start(&router, &address("supervisor")).unwrap();
    // A message waits behind each that makes the worker panic, and its answer is what a restart takes.
    let mut restarts = Sample::default();
    let ask = async |number: u64| {
        ledger.add(Id { route: 0, number }, Event::Sent);
        let outcome = router.ask::<_, u64>(&route("fragile"), &number, WITHIN).await;
        let event = if outcome.is_ok() { Event::Acknowledged } else { Event::Refused };
        (number, outcome, event)
    };
    for round in 0..panics {
        let began = Instant::now();
        let (fatal, next) = tokio::join!(ask(2 * round + 1), ask(2 * round + 2));
        restarts.add(began.elapsed());
        assert!(
            matches!(fatal.1, Err(AskError::Reported { code: ErrorCode::Failed, .. })),
            "who made it panic is told: {:?}",
            fatal.1
        );
        assert_eq!(next.1.unwrap(), next.0);
        ledger.add(Id { route: 0, number: next.0 }, next.2);
    }
    let verdict = ledger.verdict();
    let row = Row::new("R13");
    row.exactly("messages waiting behind a panic and lost", verdict.lost.len(), 0);
    row.exactly("messages handled twice or out of order", verdict.faults(), 0);
    row.exactly("answered beside panics", verdict.acknowledged as u64, panics);
    row.takes_at_most("restart and answer p99 ms", restarts.percentile_ms(99), 10.0);
    assert_eq!(supervision.stop().await, EndReason::Stopped);
}

#[tokio::test]
async fn r13_more_restarts_than_allowed_end_the_supervisor_and_no_fewer_do() {
    print_only_other_panics();
    let row = Row::new("R13");
    for allowed in [0, 1, 3] {
        let router = router();
        let ledger = Arc::new(Ledger::default());
        let supervisor = Supervisor::new(Strategy::OneForOne)
            .intensity(allowed, Duration::from_secs(60))
            .child(address("fragile"), Restart::Permanent, move || Fragile { ledger: Arc::clone(&ledger) });
        let supervision = supervisor.start(&router, &address("supervisor")).unwrap();
        let mut survived = 0;
        loop {
            let failed = router.ask::<_, u64>(&route("fragile"), &1u64, WITHIN).await;
            assert!(failed.is_err());
            // Either it answers again, or the supervisor has given up: both end every wait.
            match router.ask::<_, u64>(&route("fragile"), &2u64, WITHIN).await {
                Ok(_) => survived += 1,
                Err(_) => break,
            }
        }
        row.exactly("panics survived, of as many restarts allowed in a period", survived, allowed);
        assert!(matches!(supervision.ended().await, EndReason::Panicked(_)));
    }
}

/// Sends `count` messages of `bytes` from outside as fast as they are taken, to a worker that handles each run of
/// `run` messages in `pause`; how many it handled. Time is that of the test.
async fn handled_of(count: u64, bytes: usize, run: u64, pause: Duration) -> u64 {
    let router = router();
    let handled = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&handled);
    let worker = move |_: Raw| {
        let number = seen.fetch_add(1, Ordering::Relaxed);
        async move {
            if number.is_multiple_of(run) {
                tokio::time::sleep(pause).await;
            }
            Ok(NoReply)
        }
    };
    start(&router, &address("worker"), FnWorker::new(worker)).unwrap();
    let mut outside = ingress(&router, &["worker"]);
    let (onward, payload) = (route("worker"), vec![0; bytes]);
    for _ in 0..count {
        let message = Message::new(onward.as_ref(), RouteRef::default(), &payload);
        if let Some(blocked) = outside.take_in(message) {
            outside.pause(blocked).await;
        }
    }
    // Whatever was taken in is handled by then.
    tokio::time::sleep(Duration::from_secs(600)).await;
    handled.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_keeps_up_slows_its_sender_down_and_loses_nothing() {
    // A worker takes a whole mailbox at once, 1,024 of these, and nobody waits for 50 ms until it does.
    assert_eq!(handled_of(20_000, 100, 1_024, Duration::from_millis(40)).await, 20_000);
    // As fast for its bytes, but slow for its messages: others would wait for it all the time.
    let handled = handled_of(2_000, 16 * 1024, 1, Duration::from_millis(3)).await;
    assert!((32..1_500).contains(&handled), "{handled}");
}
