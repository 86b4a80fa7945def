//! Supervision: what becomes of workers that fail, in OTP's vocabulary.
//!
//! A supervisor starts its children in order, restarts them as its [`Strategy`] and their [`Restart`]
//! say, and stops them in reverse order. Too many restarts in a period end the supervisor itself,
//! which its own supervisor sees as a failure. A child's mailbox outlives its restarts.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use onward_routing::Address;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::error::StartError;
use crate::mailbox::{EndReason, Mailbox, Notice};
use crate::router::Router;
use crate::run;
use crate::worker::Worker;

/// Which children are restarted when one fails.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Strategy {
    /// The failed one.
    #[default]
    OneForOne,
    /// The failed one and all that were started after it.
    RestForOne,
    /// All.
    OneForAll,
}

/// When a child is restarted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Restart {
    /// Whenever it ends.
    #[default]
    Permanent,
    /// When it fails, not when it stops by itself.
    Transient,
    /// Never.
    Temporary,
}

/// How long a child may take to stop before its task is dropped.
const STOP_WAIT: Duration = Duration::from_secs(5);

type RunChild =
    dyn Fn(Arc<Router>, Arc<Mailbox>) -> Pin<Box<dyn Future<Output = EndReason> + Send>> + Send + Sync;

/// Children and the rules of their restarts.
pub struct Supervisor {
    strategy: Strategy,
    restarts: usize,
    period: Duration,
    children: Vec<Child>,
}

struct Child {
    address: Address,
    restart: Restart,
    is_worker: bool,
    /// The workers it is or has below it.
    workers: Vec<Address>,
    run: Box<RunChild>,
}

/// A running supervisor. Dropping the handle leaves it running.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    mailbox: Arc<Mailbox>,
    workers: Arc<[Address]>,
    task: AbortHandle,
    ended: watch::Receiver<Option<EndReason>>,
}

impl SupervisorHandle {
    /// The addresses of its workers, also of those under supervisors below it.
    #[must_use]
    pub fn workers(&self) -> &[Address] {
        &self.workers
    }

    /// Has the children finish the messages they have already, last started first, and waits for the end. A
    /// child takes no more from when it is its turn, and one that fails then is not restarted.
    pub async fn drain(&self) -> EndReason {
        self.mailbox.notify(Notice::Drain);
        self.ended().await
    }

    /// Drops the children's tasks where they stand; whoever waits for an answer is told.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Stops the children, last started first, and waits for the end.
    pub async fn stop(&self) -> EndReason {
        self.mailbox.notify(Notice::Stop);
        self.ended().await
    }

    /// Waits until the supervisor has ended: stopped, or given up.
    pub async fn ended(&self) -> EndReason {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(EndReason::Stopped),
            Err(_) => EndReason::Stopped,
        }
    }
}

impl Supervisor {
    /// A supervisor without children that gives up after more than 3 restarts in 5 seconds.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, restarts: 3, period: Duration::from_secs(5), children: Vec::new() }
    }

    /// Gives up after more than `restarts` in `period`.
    #[must_use]
    pub fn intensity(mut self, restarts: usize, period: Duration) -> Self {
        (self.restarts, self.period) = (restarts, period);
        self
    }

    /// Adds a worker; `make` is called for every start.
    #[must_use]
    pub fn child<W: Worker>(
        mut self,
        address: Address,
        restart: Restart,
        make: impl Fn() -> W + Send + Sync + 'static,
    ) -> Self {
        let run: Box<RunChild> = Box::new(move |router, mailbox| {
            let worker = make();
            Box::pin(async move { run::run(&router, &mailbox, worker).await })
        });
        let workers = vec![address.clone()];
        self.children.push(Child { address, restart, is_worker: true, workers, run });
        self
    }

    /// Adds a supervisor below this one; `name` appears in logs only.
    #[must_use]
    pub fn supervisor(mut self, name: Address, restart: Restart, supervisor: Self) -> Self {
        let workers = supervisor.workers().cloned().collect();
        let supervisor = Arc::new(supervisor);
        let run: Box<RunChild> = Box::new(move |router, mailbox| {
            let supervisor = Arc::clone(&supervisor);
            Box::pin(async move { Running::start(supervisor, router).supervise(&mailbox).await })
        });
        self.children.push(Child { address: name, restart, is_worker: false, workers, run });
        self
    }

    /// Starts the children in order; then supervises them in the background.
    ///
    /// # Errors
    /// [`StartError::Taken`] when an address is taken; no child runs then.
    pub fn start(self, router: &Arc<Router>, name: &Address) -> Result<SupervisorHandle, StartError> {
        if let Some(taken) = self.workers().find(|address| router.has(address)) {
            return Err(StartError::Taken(taken.clone()));
        }
        let mailbox = Mailbox::new(name.clone(), 0);
        let (sender, ended) = watch::channel(None);
        let workers = self.workers().cloned().collect();
        let running = Running::start(Arc::new(self), Arc::clone(router));
        let own = Arc::clone(&mailbox);
        let task = tokio::spawn(async move {
            let reason = running.supervise(&own).await;
            let _ = sender.send(Some(reason));
        });
        Ok(SupervisorHandle { mailbox, workers, task: task.abort_handle(), ended })
    }

    fn workers(&self) -> impl Iterator<Item = &Address> {
        self.children.iter().flat_map(|child| &child.workers)
    }
}

/// A supervisor at work.
struct Running {
    spec: Arc<Supervisor>,
    router: Arc<Router>,
    places: Vec<Place>,
    tasks: JoinSet<(usize, u64, EndReason)>,
    starts: u64,
    restarted: VecDeque<Instant>,
}

/// A child's place: its mailbox as long as it may come back, and its task while it runs.
struct Place {
    mailbox: Option<Arc<Mailbox>>,
    task: Option<(u64, AbortHandle)>,
}

impl Running {
    fn start(spec: Arc<Supervisor>, router: Arc<Router>) -> Self {
        let places =
            spec.children.iter().map(|child| Place { mailbox: open(&router, child), task: None }).collect();
        let mut running =
            Self { spec, router, places, tasks: JoinSet::new(), starts: 0, restarted: VecDeque::new() };
        for index in 0..running.places.len() {
            running.start_child(index);
        }
        running
    }

    fn start_child(&mut self, index: usize) {
        let child = &self.spec.children[index];
        let Some(mailbox) = &self.places[index].mailbox else {
            tracing::error!(worker = %child.address, "not started: its address is taken");
            return;
        };
        mailbox.revive();
        self.starts += 1;
        let number = self.starts;
        // A panic in the function that makes the worker must count as the worker's.
        let (router, mailbox) = (Arc::clone(&self.router), Arc::clone(mailbox));
        let spec = Arc::clone(&self.spec);
        let task = self.tasks.spawn(async move {
            let reason = tokio::spawn(async move { (spec.children[index].run)(router, mailbox).await });
            let guard = AbortOnDrop(reason.abort_handle());
            let reason = match reason.await {
                Ok(reason) => reason,
                Err(error) if error.is_panic() => {
                    EndReason::Panicked("the worker could not be made".to_owned())
                }
                Err(_) => EndReason::Stopped,
            };
            drop(guard);
            (index, number, reason)
        });
        self.places[index].task = Some((number, task));
    }

    async fn supervise(mut self, own: &Mailbox) -> EndReason {
        let mut none = VecDeque::new();
        loop {
            let (index, number, reason) = tokio::select! {
                biased;
                notice = poll_fn(|cx| own.poll_next(cx, &mut none, &mut Vec::new())) => match notice {
                    Some(Notice::Stop) => {
                        self.stop_all().await;
                        return EndReason::Stopped;
                    }
                    Some(Notice::Drain) => {
                        self.drain_all().await;
                        return EndReason::Stopped;
                    }
                    _ => continue,
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(ended) => ended,
                    Err(_) => continue,
                },
                else => return EndReason::Stopped,
            };
            let is_current =
                |place: &Place| place.task.as_ref().is_some_and(|(current, _)| *current == number);
            if !is_current(&self.places[index]) {
                continue;
            }
            self.places[index].task = None;
            if let Err(given_up) = self.child_ended(index, reason).await {
                self.stop_all().await;
                return given_up;
            }
        }
    }

    /// Restarts what has to be restarted; `Err` when there were too many.
    async fn child_ended(&mut self, index: usize, reason: EndReason) -> Result<(), EndReason> {
        let child = &self.spec.children[index];
        let failed = reason != EndReason::Stopped;
        tracing::info!(worker = %child.address, ?reason, "a supervised worker ended");
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => failed,
            Restart::Temporary => false,
        };
        if !again {
            self.close(index, reason);
            return Ok(());
        }
        let now = Instant::now();
        self.restarted.push_back(now);
        while self.restarted.front().is_some_and(|first| now.duration_since(*first) > self.spec.period) {
            self.restarted.pop_front();
        }
        if self.restarted.len() > self.spec.restarts {
            let text = format!("more than {} restarts in {:?}", self.spec.restarts, self.spec.period);
            tracing::error!(worker = %child.address, "supervision gave up: {text}");
            self.close(index, reason);
            return Err(EndReason::Panicked(text));
        }
        match self.spec.strategy {
            Strategy::OneForOne => self.start_child(index),
            Strategy::RestForOne => self.restart_from(index).await,
            Strategy::OneForAll => self.restart_from(0).await,
        }
        Ok(())
    }

    /// Stops the running children from `first` on, last started first, and starts all of them again
    /// that have not ended for good.
    async fn restart_from(&mut self, first: usize) {
        for index in (first..self.places.len()).rev() {
            self.halt(index).await;
        }
        for index in first..self.places.len() {
            if self.places[index].mailbox.is_some() {
                self.start_child(index);
            }
        }
    }

    async fn stop_all(&mut self) {
        for index in (0..self.places.len()).rev() {
            self.halt(index).await;
            self.close(index, EndReason::Stopped);
        }
    }

    /// Waits for each child for as long as it takes: whoever asked for this has a deadline.
    async fn drain_all(&mut self) {
        for index in (0..self.places.len()).rev() {
            if let Some((number, _)) = self.tell(index, Notice::Drain) {
                self.await_end(number).await;
            }
            self.close(index, EndReason::Stopped);
        }
    }

    /// Stops a child's task and keeps its mailbox.
    async fn halt(&mut self, index: usize) {
        let Some((number, task)) = self.tell(index, Notice::Stop) else { return };
        if tokio::time::timeout(STOP_WAIT, self.await_end(number)).await.is_err() {
            tracing::warn!(worker = %self.spec.children[index].address, "did not stop in time");
            task.abort();
        }
    }

    /// Tells a running child to end; its end is no failure any more.
    fn tell(&mut self, index: usize, notice: Notice) -> Option<(u64, AbortHandle)> {
        let task = self.places[index].task.take()?;
        if let Some(mailbox) = &self.places[index].mailbox {
            mailbox.notify(notice);
        }
        Some(task)
    }

    async fn await_end(&mut self, number: u64) {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((_, ended, _)) if ended == number => return,
                // Another child ended meanwhile: it is halted or restarted in its turn.
                Ok((other, ended, _)) => {
                    let place = &mut self.places[other];
                    if place.task.as_ref().is_some_and(|(current, _)| *current == ended) {
                        place.task = None;
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn close(&mut self, index: usize, reason: EndReason) {
        let Some(mailbox) = self.places[index].mailbox.take() else { return };
        if self.spec.children[index].is_worker {
            run::close(&self.router, &mailbox, reason);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for index in 0..self.places.len() {
            self.close(index, EndReason::Stopped);
        }
    }
}

fn open(router: &Arc<Router>, child: &Child) -> Option<Arc<Mailbox>> {
    if child.is_worker {
        run::open(router, &child.address).ok()
    } else {
        Some(Mailbox::new(child.address.clone(), 0))
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("strategy", &self.strategy)
            .field("restarts", &self.restarts)
            .field("period", &self.period)
            .field("children", &self.children.iter().map(|child| &child.address).collect::<Vec<_>>())
            .finish()
    }
}
