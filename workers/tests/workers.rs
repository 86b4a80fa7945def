//! Workers on one node: typed messages, back-pressure, failure, supervision.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onward_routing::{Address, ErrorCode, ErrorReport, Message, Route, RouteRef};
use onward_workers::{
    AskError, Charge, Context, Echo, EndReason, Ended, Failure, FnWorker, Hop, Limits, Next, NoReply, Raw,
    Relay, Restart, Router, SendError, Serde, Step, Strategy, Supervisor, Worker, start,
};
use tokio::sync::{Notify, mpsc};

const WITHIN: Duration = Duration::from_secs(20);

fn router_with(limits: Limits) -> Arc<Router> {
    let router = Router::new(limits).unwrap();
    tokio::spawn(Arc::clone(&router).run());
    router
}

fn router() -> Arc<Router> {
    router_with(Limits::default())
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

fn route(text: &str) -> Route {
    text.parse().unwrap()
}

fn serve<Q, R, A>(router: &Arc<Router>, name: &str, f: impl FnMut(Q) -> A + Send + 'static)
where
    Q: onward_workers::Payload,
    R: onward_workers::Reply,
    A: Future<Output = Result<R, Failure>> + Send + 'static,
{
    start(router, &address(name), FnWorker::new(f)).unwrap();
}

#[tokio::test]
async fn a_request_passes_hops_and_a_relay_and_its_answer_comes_back() {
    let router = router();
    serve(&router, "double", |n: u64| async move { Ok(n * 2) });
    router.add_step(&address("h1"), Arc::new(Hop)).unwrap();
    router.add_step(&address("h2"), Arc::new(Hop)).unwrap();
    router.add_step(&address("relay"), Arc::new(Relay::new(route("h2 => double")))).unwrap();
    for text in ["double", "h1 => h2 => double", "h1 => relay"] {
        let answer: u64 = router.ask(&route(text), &21u64, WITHIN).await.unwrap();
        assert_eq!(answer, 42, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_end_was_waited_for_has_ended() {
    let router = router();
    for _ in 0..1_000 {
        let worker = start(&router, &address("w"), Echo).unwrap();
        assert!(!worker.has_ended());
        assert_eq!(worker.stop().await, EndReason::Stopped);
        assert!(worker.has_ended());
    }
}

#[tokio::test]
async fn application_results_and_serde_types_travel_as_such() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Order {
        id: u32,
    }
    let router = router();
    serve(&router, "shop", |Serde(order): Serde<Order>| async move {
        Ok(if order.id == 0 { Err("no such order".to_owned()) } else { Ok(order.id) })
    });
    let ask = async |id| -> Result<u32, String> {
        router.ask(&route("shop"), &Serde(Order { id }), WITHIN).await.unwrap()
    };
    assert_eq!(ask(7).await, Ok(7));
    assert_eq!(ask(0).await, Err("no such order".to_owned()));
}

#[tokio::test]
async fn errors_reach_the_asker_with_their_code() {
    let router = router();
    serve(&router, "fails", |_: u64| async { Err::<u64, _>(Failure::new("broken")) });
    serve(&router, "panics", |_: u64| async { if true { panic!("boom") } else { Ok(1u64) } });
    let ask = async |text: &str| router.ask::<_, u64>(&route(text), &1u64, WITHIN).await.unwrap_err();
    assert!(
        matches!(ask("fails").await, AskError::Reported { code: ErrorCode::Failed, at: Some(at) } if at == address("fails"))
    );
    assert!(matches!(ask("panics").await, AskError::Reported { code: ErrorCode::Failed, .. }));
    let AskError::NotSent(refused) = ask("nobody").await else { panic!("the refusal is an error here") };
    assert_eq!(refused.code(), ErrorCode::NoWorker);
    assert_eq!(refused.into_message().payload(), [1], "a refused send gives the message back");
    let malformed = router.ask::<_, u64>(&route("fails"), &"text".to_owned(), WITHIN).await.unwrap_err();
    assert!(matches!(malformed, AskError::Reported { code: ErrorCode::Malformed, .. }));
}

#[tokio::test]
async fn a_closure_that_panics_before_its_future_fails_its_message_alone() {
    let router = router();
    serve(&router, "double", |text: String| {
        let number: u32 = text.parse().unwrap();
        async move { Ok(number * 2) }
    });
    let failed = router.ask::<_, u32>(&route("double"), &"two".to_owned(), WITHIN).await.unwrap_err();
    assert!(matches!(failed, AskError::Reported { code: ErrorCode::Failed, .. }), "{failed}");
}

#[tokio::test]
async fn a_silent_worker_lets_the_deadline_pass() {
    let router = router();
    serve(&router, "silent", |_: u64| async { Ok(NoReply) });
    let within = Duration::from_millis(50);
    let error = router.ask::<_, u64>(&route("silent"), &1u64, within).await.unwrap_err();
    assert!(matches!(error, AskError::Deadline(after) if after == within));
}

/// Handles nothing until it is let go.
struct Gate(Arc<Notify>, mpsc::UnboundedSender<u64>);

impl Worker for Gate {
    type Request = u64;
    type Reply = NoReply;

    async fn handle(&mut self, _: &mut Context, request: u64) -> Result<NoReply, Failure> {
        self.0.notified().await;
        self.0.notify_one();
        self.1.send(request)?;
        Ok(NoReply)
    }
}

#[tokio::test]
async fn a_full_mailbox_holds_senders_back_and_loses_nothing() {
    let router = router_with(Limits { send_wait: Duration::from_millis(20), ..Limits::default() });
    let gate = Arc::new(Notify::new());
    let (sender, mut handled) = mpsc::unbounded_channel();
    start(&router, &address("slow"), Gate(Arc::clone(&gate), sender)).unwrap();
    let mut accepted = 0u64;
    let refused = loop {
        match router.tell(&route("slow"), &accepted).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AskError::NotSent(SendError::Full(_))), "{refused}");
    assert!((500..=2100).contains(&accepted), "{accepted}");
    gate.notify_one();
    for expected in 0..accepted {
        assert_eq!(handled.recv().await, Some(expected), "in order and complete");
    }
}

/// Sends two messages for each it gets, to the other one.
struct Bouncer(Route, mpsc::UnboundedSender<ErrorCode>);

impl Worker for Bouncer {
    type Request = Raw;
    type Reply = NoReply;

    async fn handle(&mut self, context: &mut Context, request: Raw) -> Result<NoReply, Failure> {
        for _ in 0..2 {
            if let Err(AskError::NotSent(error)) = context.send(&self.0, &request).await {
                self.1.send(error.code())?;
            }
        }
        Ok(NoReply)
    }
}

#[tokio::test]
async fn two_full_mailboxes_that_wait_for_each_other_end_in_a_typed_error() {
    let router = router_with(Limits { send_wait: Duration::from_millis(50), ..Limits::default() });
    let (sender, mut errors) = mpsc::unbounded_channel();
    start(&router, &address("a"), Bouncer(route("b"), sender.clone())).unwrap();
    start(&router, &address("b"), Bouncer(route("a"), sender)).unwrap();
    router.tell(&route("a"), &Raw(Bytes::from_static(b"x"))).await.unwrap();
    assert_eq!(errors.recv().await, Some(ErrorCode::Overloaded));
}

struct SelfAsker;

impl Worker for SelfAsker {
    type Request = u64;
    type Reply = bool;

    async fn handle(&mut self, context: &mut Context, request: u64) -> Result<bool, Failure> {
        let own = Route::from(context.address().clone());
        Ok(matches!(context.ask::<_, bool>(&own, &request).await, Err(AskError::OneSelf)))
    }
}

#[tokio::test]
async fn asking_oneself_is_an_error_at_once() {
    let router = router();
    start(&router, &address("narcissus"), SelfAsker).unwrap();
    assert!(router.ask::<_, bool>(&route("narcissus"), &1u64, WITHIN).await.unwrap());
}

/// Forwards odd numbers to "odd", answers even ones early and then goes on.
struct Sorter;

impl Worker for Sorter {
    type Request = u64;
    type Reply = NoReply;

    async fn handle(&mut self, context: &mut Context, request: u64) -> Result<NoReply, Failure> {
        if request % 2 == 1 {
            context.forward(&route("odd")).await?;
        } else {
            context.reply(&"even".to_owned()).await?;
        }
        Ok(NoReply)
    }
}

#[tokio::test]
async fn a_worker_forwards_and_replies_by_itself() {
    let router = router();
    start(&router, &address("sorter"), Sorter).unwrap();
    serve(&router, "odd", |_: u64| async { Ok("odd".to_owned()) });
    for (number, expected) in [(1u64, "odd"), (2, "even")] {
        let answer: String = router.ask(&route("sorter"), &number, WITHIN).await.unwrap();
        assert_eq!(answer, expected);
    }
}

/// Starts a child and a timer and watches the child.
struct Parent(mpsc::UnboundedSender<String>);

impl Worker for Parent {
    type Request = String;
    type Reply = NoReply;

    async fn started(&mut self, context: &mut Context) -> Result<(), Failure> {
        context.spawn(&address("child"), Echo)?;
        context.watch(&address("child"));
        context.after(Duration::from_millis(1), &"timer".to_owned())?;
        Ok(())
    }

    async fn handle(&mut self, context: &mut Context, request: String) -> Result<NoReply, Failure> {
        if request == "stop" {
            context.stop();
        }
        self.0.send(request)?;
        Ok(NoReply)
    }

    async fn ended(&mut self, _: &mut Context, ended: Ended) {
        let _ = self.0.send(format!("{} {:?}", ended.worker, ended.reason));
    }

    async fn stopped(&mut self, _: &mut Context) {
        let _ = self.0.send("stopped".to_owned());
    }
}

#[tokio::test]
async fn children_timers_and_watches_end_with_their_worker() {
    let router = router();
    let (sender, mut events) = mpsc::unbounded_channel();
    let parent = start(&router, &address("parent"), Parent(sender)).unwrap();
    assert_eq!(events.recv().await.unwrap(), "timer");
    let echoed: Raw = router.ask(&route("child"), &Raw(Bytes::from_static(b"hi")), WITHIN).await.unwrap();
    assert_eq!(echoed.0, "hi");
    router.tell(&route("parent"), &"stop".to_owned()).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), "stop");
    assert_eq!(events.recv().await.unwrap(), "stopped");
    assert_eq!(parent.ended().await, EndReason::Stopped);
    assert!(!router.has(&address("child")) && !router.has(&address("parent")));
}

#[tokio::test]
async fn a_watched_worker_that_panics_is_reported() {
    let router = router();
    let (sender, mut events) = mpsc::unbounded_channel();
    serve(&router, "victim", |_: u64| async { if true { panic!("boom") } else { Ok(NoReply) } });
    struct Watcher(mpsc::UnboundedSender<Ended>);
    impl Worker for Watcher {
        type Request = u64;
        type Reply = NoReply;
        async fn started(&mut self, context: &mut Context) -> Result<(), Failure> {
            context.watch(&address("victim"));
            context.watch(&address("nobody"));
            Ok(())
        }
        async fn handle(&mut self, _: &mut Context, _: u64) -> Result<NoReply, Failure> {
            Ok(NoReply)
        }
        async fn ended(&mut self, _: &mut Context, ended: Ended) {
            let _ = self.0.send(ended);
        }
    }
    start(&router, &address("watcher"), Watcher(sender)).unwrap();
    assert_eq!(events.recv().await.unwrap().worker, address("nobody"));
    router.tell(&route("victim"), &1u64).await.unwrap();
    assert_eq!(events.recv().await.unwrap().reason, EndReason::Panicked("boom".into()));
}

#[tokio::test]
async fn stopping_tells_the_senders_of_what_was_not_handled_and_draining_handles_it() {
    let router = router();
    let gate = Arc::new(Notify::new());
    for (name, drain) in [("stops", false), ("drains", true)] {
        let (sender, mut handled) = mpsc::unbounded_channel();
        let handle = start(&router, &address(name), Gate(Arc::clone(&gate), sender)).unwrap();
        let target = Route::from(address(name));
        let asks: Vec<_> = (0..3u64)
            .map(|n| {
                let (router, target) = (Arc::clone(&router), target.clone());
                tokio::spawn(
                    async move { router.ask::<_, u64>(&target, &n, Duration::from_millis(300)).await },
                )
            })
            .collect();
        tokio::task::yield_now().await;
        let ending =
            tokio::spawn(async move { if drain { handle.drain().await } else { handle.stop().await } });
        tokio::task::yield_now().await;
        gate.notify_one();
        assert_eq!(ending.await.unwrap(), EndReason::Stopped);
        let mut stopped = 0;
        for ask in asks {
            if let Err(AskError::Reported { code: ErrorCode::Stopped, .. }) = ask.await.unwrap() {
                stopped += 1;
            }
        }
        handled.close();
        let mut done = 0;
        while handled.recv().await.is_some() {
            done += 1;
        }
        assert_eq!((done, stopped), if drain { (3, 0) } else { (1, 2) }, "{name}");
        let gone = router.tell(&target, &1u64).await.unwrap_err();
        assert!(matches!(gone, AskError::NotSent(error) if error.code() == ErrorCode::NoWorker));
        let _ = tokio::time::timeout(Duration::from_millis(1), gate.notified()).await;
    }
}

/// Panics on 0, counts its starts.
struct Fragile(Arc<AtomicU32>);

impl Worker for Fragile {
    type Request = u64;
    type Reply = u32;

    async fn started(&mut self, _: &mut Context) -> Result<(), Failure> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn handle(&mut self, _: &mut Context, request: u64) -> Result<u32, Failure> {
        assert_ne!(request, 0, "zero");
        Ok(self.0.load(Ordering::Relaxed))
    }
}

async fn starts_after_a_panic_of_the_middle_one(strategy: Strategy) -> [u32; 3] {
    let router = router();
    let starts: [Arc<AtomicU32>; 3] = Default::default();
    let mut supervisor = Supervisor::new(strategy);
    for (name, count) in ["one", "two", "three"].into_iter().zip(&starts) {
        let count = Arc::clone(count);
        supervisor = supervisor.child(address(name), Restart::Permanent, move || Fragile(Arc::clone(&count)));
    }
    let handle = supervisor.start(&router, &address("tree")).unwrap();
    let failed = router.ask::<_, u32>(&route("two"), &0u64, WITHIN).await.unwrap_err();
    assert!(matches!(failed, AskError::Reported { code: ErrorCode::Failed, .. }));
    for name in ["one", "two", "three"] {
        // The mailbox outlives the restart, so an ask in the middle of it is answered; and the stop of the life
        // before does not end the next one within a batch.
        let asks = [route(name), route(name), route(name)];
        let [a, b, c] = asks.each_ref().map(|route| router.ask::<_, u32>(route, &1u64, WITHIN));
        let (a, b, c) = tokio::join!(a, b, c);
        for answer in [a, b, c] {
            answer.unwrap();
        }
    }
    assert_eq!(handle.stop().await, EndReason::Stopped);
    assert!(router.names().is_empty());
    starts.map(|count| count.load(Ordering::Relaxed))
}

#[tokio::test]
async fn each_strategy_restarts_its_children() {
    assert_eq!(starts_after_a_panic_of_the_middle_one(Strategy::OneForOne).await, [1, 2, 1]);
    assert_eq!(starts_after_a_panic_of_the_middle_one(Strategy::RestForOne).await, [1, 2, 2]);
    assert_eq!(starts_after_a_panic_of_the_middle_one(Strategy::OneForAll).await, [2, 2, 2]);
}

#[tokio::test]
async fn too_many_restarts_escalate_to_the_supervisor_above() {
    let router = router();
    let inner_starts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&inner_starts);
    let inner = Supervisor::new(Strategy::OneForOne).intensity(1, Duration::from_secs(60)).child(
        address("fragile"),
        Restart::Permanent,
        move || Fragile(Arc::clone(&count)),
    );
    let outer = Supervisor::new(Strategy::OneForOne)
        .intensity(1, Duration::from_secs(60))
        .supervisor(address("inner"), Restart::Permanent, inner)
        .start(&router, &address("outer"))
        .unwrap();
    let fragile = route("fragile");
    let reason = loop {
        tokio::select! {
            reason = outer.ended() => break reason,
            asked = router.ask::<_, u32>(&fragile, &0u64, Duration::from_millis(200)) => {
                assert!(asked.is_err());
            }
        }
    };
    assert!(matches!(reason, EndReason::Panicked(text) if text.contains("more than 1 restarts")));
    assert_eq!(inner_starts.load(Ordering::Relaxed), 4, "two starts in each of the inner's two lives");
}

#[tokio::test]
async fn transient_and_temporary_children_end_as_they_should() {
    let router = router();
    let starts = Arc::new(AtomicU32::new(0));
    let (one, two) = (Arc::clone(&starts), Arc::clone(&starts));
    let handle = Supervisor::new(Strategy::OneForOne)
        .child(address("temporary"), Restart::Temporary, move || Fragile(Arc::clone(&one)))
        .child(address("transient"), Restart::Transient, move || Fragile(Arc::clone(&two)))
        .start(&router, &address("tree"))
        .unwrap();
    for name in ["temporary", "transient"] {
        let _ = router.ask::<_, u32>(&route(name), &0u64, WITHIN).await;
    }
    router.ask::<_, u32>(&route("transient"), &1u64, WITHIN).await.unwrap();
    while router.has(&address("temporary")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(starts.load(Ordering::Relaxed), 3);
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_hops_ends() {
    let router = router();
    router.add_step(&address("a"), Arc::new(Relay::new(route("b")))).unwrap();
    router.add_step(&address("b"), Arc::new(Relay::new(route("a")))).unwrap();
    let message = Message::new(route("a").as_ref(), RouteRef::default(), b"");
    assert_eq!(router.send(message).await.unwrap_err().code(), ErrorCode::HopLimit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_sender_does_not_starve_the_others_of_its_thread() {
    let router = router();
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    serve(&router, "count", move |_: u64| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok(NoReply) }
    });
    let flood = Arc::clone(&router);
    let sender = tokio::spawn(async move {
        for n in 0..200_000u64 {
            flood.tell(&route("count"), &n).await.unwrap();
        }
    });
    serve(&router, "other", |n: u64| async move { Ok(n) });
    for n in 0..100u64 {
        assert_eq!(router.ask::<_, u64>(&route("other"), &n, WITHIN).await.unwrap(), n);
    }
    sender.await.unwrap();
    while seen.load(Ordering::Relaxed) < 200_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_restart_loses_nothing_that_was_accepted() {
    let router = router();
    let starts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&starts);
    let handle = Supervisor::new(Strategy::OneForOne)
        .child(address("fragile"), Restart::Permanent, move || Fragile(Arc::clone(&count)))
        .start(&router, &address("tree"))
        .unwrap();
    let fragile = route("fragile");
    // All of them are in the mailbox before the first is handled.
    let numbers = [1u64, 0, 2, 3];
    let asks = numbers.iter().map(|number| router.ask::<_, u32>(&fragile, number, WITHIN));
    let mut asks: Vec<_> = asks.map(Box::pin).collect();
    for ask in &mut asks {
        assert!(futures_pending(ask.as_mut()).await);
    }
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(ask.await.is_ok());
    }
    assert_eq!(answers, [true, false, true, true]);
    assert_eq!(starts.load(Ordering::Relaxed), 2);
    handle.stop().await;
}

/// Polls a future once; whether it is still pending.
async fn futures_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn an_ask_keeps_its_deadline_also_while_it_waits_for_room() {
    let router = router();
    let (sender, _handled) = mpsc::unbounded_channel();
    start(&router, &address("slow"), Gate(Arc::new(Notify::new()), sender)).unwrap();
    let slow = route("slow");
    while futures_pending(std::pin::pin!(router.tell(&slow, &1u64))).await.eq(&false) {}
    let began = std::time::Instant::now();
    let within = Duration::from_millis(50);
    assert!(router.ask::<_, u64>(&slow, &1u64, within).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(4));
}

/// Keeps the codes of the reports that reach it.
struct Reports(mpsc::UnboundedSender<ErrorCode>);

impl Step for Reports {
    fn step(&self, _: &Arc<Router>, message: Message, _: Option<Charge>) -> Next {
        assert!(message.is_report());
        let _ = self.0.send(ErrorReport::decode(message.payload()).unwrap().code);
        Next::Done(None)
    }
}

#[tokio::test]
async fn what_waited_longer_than_its_time_to_live_is_not_handled_and_its_sender_is_told() {
    let router = router();
    let (reports, mut reported) = mpsc::unbounded_channel();
    router.add_step(&address("me"), Arc::new(Reports(reports))).unwrap();
    let (handled, mut seen) = mpsc::unbounded_channel();
    let (busy, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let worker = (Arc::clone(&busy), Arc::clone(&go_on));
    serve(&router, "w", move |n: u64| {
        let (handled, (busy, go_on)) = (handled.clone(), worker.clone());
        async move {
            let _ = handled.send(n);
            if n == 0 {
                busy.notify_one();
                go_on.notified().await;
            }
            Ok(NoReply)
        }
    });
    let send = async |n: u64, ttl_ms: Option<u32>| {
        let payload = minicbor::to_vec(n).unwrap();
        let mut message = Message::new(route("w").as_ref(), route("me").as_ref(), &payload);
        if let Some(ttl_ms) = ttl_ms {
            message.set_ttl_ms(ttl_ms);
        }
        router.send(message).await
    };
    let refused = send(1, Some(0)).await.unwrap_err();
    assert!(matches!(refused, SendError::Refused { code: ErrorCode::Expired, .. }), "{refused:?}");
    send(0, None).await.unwrap();
    busy.notified().await;
    send(2, Some(1)).await.unwrap();
    send(3, Some(3_600_000)).await.unwrap();
    send(4, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    go_on.notify_one();
    assert_eq!(tokio::time::timeout(WITHIN, reported.recv()).await.unwrap(), Some(ErrorCode::Expired));
    for expected in [0, 3, 4] {
        assert_eq!(tokio::time::timeout(WITHIN, seen.recv()).await.unwrap(), Some(expected));
    }
}
