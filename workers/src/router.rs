//! The heart of a node: takes a message along its onward route, one synchronous step after the other.
//!
//! [`Router::send`] runs on the sender's task. Hops, relays, connections and channels are [`Step`]s;
//! the walk ends in a mailbox, on a connection, with an answer handed to a waiting request, or in a
//! refusal. The only wait is for room at the end. Reachability is asked before every step of a message
//! from outside; nothing else here decides policy.
//!
//! Specification: docs/protocol.md §1.2, §1.3.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use foldhash::fast::RandomState;
use onward_routing::{
    Address, AddressRef, Allowed, Denied, DialRule, ErrorCode, FlowId, HOPS_MAX, HopError, Kind, Message,
    Reach,
};
use tokio::sync::Semaphore;
use tokio::task::coop;

use crate::ask::{Asks, Random};
use crate::error::{SendError, StartError};
use crate::mailbox::Mailbox;
use crate::room::{Charge, Room};

/// Answers of one node that wait for room beside their workers.
const LATE_ANSWERS: usize = 256;

/// The bounds of a node's workers; each is documented with its default.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes a mailbox holds (each message counts at least 256), by default 256 KiB; a larger message
    /// enters an empty mailbox.
    pub mailbox_bytes: usize,
    /// Bytes a connection's lane to one full target holds, by default 256 KiB.
    pub lane_bytes: usize,
    /// Bytes that the lanes of all connections hold together, by default 64 MiB. A lane outlives its
    /// connection until its target has taken what was accepted.
    pub lanes_bytes: usize,
    /// How long a send waits for room, by default 5 s.
    pub send_wait: Duration,
    /// How long a connection's reader pauses for a full local worker, by default 50 ms.
    pub worker_pause: Duration,
    /// How long a connection's reader pauses for a full egress, by default 5 s.
    pub egress_pause: Duration,
    /// Requests waiting for answers at once, by default 65,536.
    pub asks: usize,
    /// How long an ask waits for its answer unless told otherwise, by default 30 s.
    pub ask_deadline: Duration,
    /// Largest payload in bytes, by default 1 MiB, at most 16 MiB.
    pub payload_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mailbox_bytes: 256 * 1024,
            lane_bytes: 256 * 1024,
            lanes_bytes: 64 * 1024 * 1024,
            send_wait: Duration::from_secs(5),
            worker_pause: Duration::from_millis(50),
            egress_pause: Duration::from_secs(5),
            asks: 65_536,
            ask_deadline: Duration::from_secs(30),
            payload_bytes: onward_routing::PAYLOAD_BYTES_MAX,
        }
    }
}

/// What a worker's address leads to besides a mailbox: something that acts on the sender's task.
pub trait Step: Send + Sync + 'static {
    /// Acts on a message whose nearest onward address is this step's. Must not block.
    ///
    /// A step that needs room takes it itself and answers [`Next::Full`] when there is none; it is then
    /// called again with the `charge` that was waited for.
    fn step(&self, router: &Arc<Router>, message: Message, charge: Option<Charge>) -> Next;

    /// This step as one that takes whole frames, if it is one.
    fn as_sink(&self) -> Option<&dyn FrameSink> {
        None
    }
}

/// An egress into which a secure channel seals its records: whole frames, written in place under the
/// egress's lock, so that the order on the wire is the order of numbers and nothing is allocated.
pub trait FrameSink: Send + Sync {
    /// The flow whose peer the frames go to.
    fn flow(&self) -> FlowId;

    /// The room that frames take.
    fn room(&self) -> &Arc<Room>;

    /// How often the connection under it was lost; each time with what was under way.
    fn losses(&self) -> u64;

    /// Bytes of the longest encoded message that it carries, the length in front not counted.
    fn frame_max(&self) -> usize;

    /// Appends one frame for which room for `bytes` was taken: `write` appends exactly one encoded
    /// message to the buffer it is given, without the length in front. With 0 bytes, the frame is part
    /// of what an earlier one took room for.
    ///
    /// # Errors
    /// [`Closed`](crate::Closed) when the egress takes nothing more or `write` appended nothing; the
    /// room is given back.
    fn append(&self, bytes: usize, write: &mut dyn FnMut(&mut Vec<u8>)) -> Result<(), crate::Closed>;
}

/// What a [`Step`] did with a message.
#[derive(Debug)]
pub enum Next {
    /// It goes on along its onward route.
    Forward(Message),
    /// As [`Next::Forward`], with the target found already: see [`Recent`](crate::Recent).
    ForwardTo(Known, Message),
    /// It is on its way; its block may be used again.
    Done(Option<Message>),
    /// It needs so many bytes of this room first; nothing has happened.
    Full(Arc<Room>, usize, Message),
    /// It is refused.
    Refused(ErrorCode, Message),
}

impl Next {
    /// Goes on if the hop rule allowed it.
    #[must_use]
    pub fn after(result: Result<(), HopError>, message: Message) -> Self {
        match result {
            Ok(()) => Self::Forward(message),
            Err(_) => Self::Refused(ErrorCode::HopLimit, message),
        }
    }
}

/// Opens connections for onward addresses that name an endpoint.
pub trait Dialer: Send + Sync + 'static {
    /// The connection to `endpoint`, made in the background if there is none yet.
    ///
    /// `rule` is the rule by which a message from `flow` may have it dialled; `None` for local ones.
    fn dial(
        &self,
        router: &Arc<Router>,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
    ) -> Option<Arc<dyn Step>>;
}

/// What an address leads to.
#[derive(Clone)]
pub(crate) enum Target {
    Mailbox(Arc<Mailbox>),
    Step(Arc<dyn Step>),
}

impl Target {
    /// Tells targets apart; equal for equal targets as long as one of them is held.
    pub(crate) fn key(&self) -> usize {
        match self {
            Self::Mailbox(mailbox) => Arc::as_ptr(mailbox).addr(),
            Self::Step(step) => Arc::as_ptr(step).cast::<()>().addr(),
        }
    }

    pub(crate) fn is_mailbox(&self) -> bool {
        matches!(self, Self::Mailbox(_))
    }

    fn act(&self, router: &Arc<Router>, message: Message, charge: Option<Charge>) -> Next {
        match self {
            Self::Step(step) => step.step(router, message, charge),
            Self::Mailbox(mailbox) => {
                let bytes = message.memory();
                if !charge.is_some_and(|charge| charge.spend(&mailbox.room, bytes))
                    && !mailbox.room.try_take(bytes)
                {
                    return if mailbox.is_closed() {
                        Next::Refused(ErrorCode::Stopped, message)
                    } else {
                        Next::Full(Arc::clone(&mailbox.room), bytes, message)
                    };
                }
                match mailbox.push(message) {
                    Ok(spent) => {
                        router.counters.delivered.fetch_add(1, Ordering::Relaxed);
                        Next::Done(spent)
                    }
                    Err(message) => Next::Refused(ErrorCode::Stopped, message),
                }
            }
        }
    }
}

/// A target that was found and may be reached.
pub struct Known(pub(crate) Target);

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

/// A message that waits for room at its target.
pub(crate) struct Pending {
    pub(crate) message: Message,
    pub(crate) target: Target,
    room: Arc<Room>,
    bytes: usize,
}

impl Pending {
    pub(crate) fn bytes(&self) -> usize {
        self.message.memory()
    }

    /// Waits for room at the target.
    pub(crate) async fn charge(&self) -> Result<Charge, crate::room::Closed> {
        Arc::clone(&self.room).take(self.bytes).await
    }
}

/// Where a walk along the onward route ended.
pub(crate) enum Walk {
    Done,
    Full(Pending),
    Refused(ErrorCode, Message),
}

/// Counts of what happened to messages, since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages handed to a mailbox.
    pub delivered: AtomicU64,
    /// Messages handed to a connection or channel.
    pub forwarded: AtomicU64,
    /// Messages from outside that policy kept from their target.
    pub denied: AtomicU64,
    /// Messages that could not be delivered for another reason.
    pub undeliverable: AtomicU64,
    /// Error reports made.
    pub reports: AtomicU64,
}

/// Routes the messages of one node.
pub struct Router {
    pub(crate) limits: Limits,
    /// Keys come from this node alone, so that a fast seeded hash is enough.
    directory: DashMap<Address, Target, RandomState>,
    /// Changes whenever what an address leads to, or who may reach it, may have changed.
    generation: AtomicU64,
    pub(crate) asks: Arc<Asks>,
    reach: RwLock<Reach>,
    random: Mutex<Random>,
    dialer: OnceLock<Arc<dyn Dialer>>,
    /// Room of all lanes together.
    pub(crate) lanes: Room,
    /// Places for answers that wait for room beside their workers.
    pub(crate) late_answers: Arc<Semaphore>,
    began: Instant,
    counters: Counters,
}

impl Router {
    /// A router without any workers.
    ///
    /// # Errors
    /// The system's when it gives no randomness.
    pub fn new(limits: Limits) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            asks: Asks::new(limits.asks).map_err(std::io::Error::other)?,
            lanes: Room::new(limits.lanes_bytes),
            limits,
            directory: DashMap::default(),
            generation: AtomicU64::new(0),
            reach: RwLock::default(),
            random: Mutex::default(),
            dialer: OnceLock::new(),
            late_answers: Arc::new(Semaphore::new(LATE_ANSWERS)),
            began: Instant::now(),
            counters: Counters::default(),
        }))
    }

    /// Keeps the deadlines of requests; runs as long as the node does.
    pub async fn run(self: Arc<Self>) {
        Arc::clone(&self.asks).sweep().await;
    }

    /// The bounds this router keeps.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Time since the router was made, the clock of its reachability rules.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// 128 random bits, for a fresh worker address or flow.
    pub fn random(&self) -> u128 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// The rules of who may reach whom, to read.
    pub fn reach(&self) -> RwLockReadGuard<'_, Reach> {
        self.reach.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules of who may reach whom, to change.
    pub fn reach_mut(&self) -> RwLockWriteGuard<'_, Reach> {
        let reach = self.reach.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: whoever reads the new generation sees the new rules.
        self.generation.fetch_add(1, Ordering::Release);
        reach
    }

    /// Sets who opens connections for endpoints in onward routes; only the first call has an effect.
    pub fn set_dialer(&self, dialer: Arc<dyn Dialer>) {
        let _ = self.dialer.set(dialer);
    }

    /// Registers a step under an address.
    ///
    /// # Errors
    /// [`StartError::Taken`].
    pub fn add_step(&self, address: &Address, step: Arc<dyn Step>) -> Result<(), StartError> {
        self.add(address, Target::Step(step))
    }

    /// Puts a step in the place of the one at `address`, if there is one; messages that wait for room at the old
    /// one still go to it.
    pub fn replace_step(&self, address: &Address, step: Arc<dyn Step>) -> bool {
        let Some(mut entry) = self.directory.get_mut(address) else { return false };
        *entry = Target::Step(step);
        drop(entry);
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    pub(crate) fn add(&self, address: &Address, target: Target) -> Result<(), StartError> {
        match self.directory.entry(address.clone()) {
            Place::Occupied(_) => Err(StartError::Taken(address.clone())),
            Place::Vacant(vacant) => {
                vacant.insert(target);
                Ok(())
            }
        }
    }

    /// Takes an address out of the directory, with every reply grant for it.
    pub fn remove(&self, address: &Address) {
        self.directory.remove(address);
        // Behind the removal, and a new generation with it: nothing found before is used any more.
        self.reach_mut().revoke(address);
    }

    /// Whether something answers at this address.
    #[must_use]
    pub fn has(&self, address: &Address) -> bool {
        self.directory.contains_key(address)
    }

    /// All addresses of workers and steps with a name of their own, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<Address> {
        let named =
            |address: &Address| address.kind() == Kind::Local && address.as_ref().random_id().is_none();
        let mut names: Vec<_> =
            self.directory.iter().map(|entry| entry.key().clone()).filter(named).collect();
        names.sort_by(|a, b| a.value().cmp(b.value()));
        names
    }

    pub(crate) fn mailbox(&self, address: &Address) -> Option<Arc<Mailbox>> {
        match self.directory.get(address)?.value() {
            Target::Mailbox(mailbox) => Some(Arc::clone(mailbox)),
            Target::Step(_) => None,
        }
    }

    /// Fails the requests that left by a flow, and forgets the flow's rules if it is gone for good.
    pub fn flow_lost(&self, flow: FlowId, for_good: bool) {
        if for_good {
            self.reach_mut().close_flow(flow);
        }
        self.asks.fail_flow(flow);
    }

    /// Sends a message of this node's own, waiting for room at its target.
    ///
    /// # Errors
    /// [`SendError`] gives the message back: nothing was sent.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, the message is lost and nothing was sent; dropped later, it may
    /// have been sent.
    pub async fn send(self: &Arc<Self>, message: Message) -> Result<(), SendError> {
        self.send_within(message, self.limits.send_wait).await
    }

    /// As [`Router::send`], waiting for room no longer than `wait`.
    pub(crate) async fn send_within(
        self: &Arc<Self>,
        message: Message,
        wait: Duration,
    ) -> Result<(), SendError> {
        let sent = match self.walk(message, None, None) {
            Walk::Done => Ok(()),
            Walk::Refused(code, message) => Err(Box::new(SendError::refused(code, message))),
            Walk::Full(pending) => return self.send_when_free(Box::new(pending), wait).await,
        };
        // A sender that never has to wait must not starve the others of its thread.
        coop::consume_budget().await;
        sent.map_err(|error| *error)
    }

    async fn send_when_free(
        self: &Arc<Self>,
        mut pending: Box<Pending>,
        wait: Duration,
    ) -> Result<(), SendError> {
        let until = tokio::time::Instant::now() + wait.min(self.limits.send_wait);
        loop {
            let charge = match tokio::time::timeout_at(until, pending.charge()).await {
                Err(_) => return Err(SendError::Full(pending.message)),
                Ok(Err(_)) => return Err(SendError::refused(ErrorCode::Stopped, pending.message)),
                Ok(Ok(charge)) => charge,
            };
            match self.resume(*pending, Some(charge)) {
                Walk::Done => return Ok(()),
                Walk::Refused(code, message) => return Err(SendError::refused(code, message)),
                Walk::Full(next) => *pending = next,
            }
        }
    }

    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    /// [`SendError`] gives the message back: nothing was sent.
    pub fn try_send(self: &Arc<Self>, message: Message) -> Result<(), SendError> {
        match self.walk(message, None, None) {
            Walk::Done => Ok(()),
            Walk::Full(pending) => Err(SendError::Full(pending.message)),
            Walk::Refused(code, message) => Err(SendError::refused(code, message)),
        }
    }

    /// Sends a message that came in from outside; its sender is told if it cannot be delivered.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message is lost.
    pub async fn deliver(self: &Arc<Self>, message: Message) {
        if let Err(error) = self.send(message).await {
            let code = error.code();
            self.report(error.into_message(), code);
        }
    }

    /// The egress at `address` if it takes whole frames; endpoints are dialled.
    #[must_use]
    pub fn sink(self: &Arc<Self>, address: AddressRef<'_>) -> Option<Arc<dyn Step>> {
        match self.find(address, FlowId::LOCAL) {
            Ok(Target::Step(step)) if step.as_sink().is_some() => Some(step),
            _ => None,
        }
    }

    /// A number that changes whenever what addresses lead to, or who may reach them, may have changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What a message from outside goes to, if that is so for as long as the generation stays: an
    /// exposed worker or step or a session, not a request's slot, a grant or an endpoint.
    pub(crate) fn exposed(self: &Arc<Self>, message: &Message) -> Option<Result<Target, ErrorCode>> {
        let next = message.next()?;
        let is_kept =
            next.random_id().is_none_or(|id| self.reach().session_admits(id, message.flow()) == Some(true));
        if !is_kept || next.kind() != Kind::Local || message.next_is_configured() {
            return None;
        }
        Some(self.target(message))
    }

    /// Takes a message along its route, from its `known` target on if that was found already, until it is
    /// delivered, refused, or its target is full or in `held` (targets that others wait for already, so
    /// that order is kept).
    pub(crate) fn walk(
        self: &Arc<Self>,
        message: Message,
        known: Option<Target>,
        held: Option<&dyn Fn(&Target) -> bool>,
    ) -> Walk {
        self.walk_with(message, known, None, held)
    }

    /// Goes on with a message that waited, with the room it waited for.
    pub(crate) fn resume(self: &Arc<Self>, pending: Pending, charge: Option<Charge>) -> Walk {
        self.walk_with(pending.message, Some(pending.target), charge, None)
    }

    /// As [`Router::walk`]; the `charge` is for the first target.
    fn walk_with(
        self: &Arc<Self>,
        message: Message,
        known: Option<Target>,
        mut charge: Option<Charge>,
        held: Option<&dyn Fn(&Target) -> bool>,
    ) -> Walk {
        let (mut message, mut known) = (message, known);
        for _ in 0..=HOPS_MAX {
            // Each time: a channel's record makes way for the message in it.
            message.arrive(|| self.now());
            if message.has_expired(|| self.now()) {
                return Walk::Refused(ErrorCode::Expired, message);
            }
            let target = match known.take() {
                Some(target) => target,
                None => {
                    if let Some(id) = message.next().and_then(AddressRef::random_id) {
                        message = match self.asks.answer(id, message) {
                            Ok(()) => return Walk::Done,
                            Err(message) => message,
                        };
                    }
                    match self.target(&message) {
                        Ok(target) => target,
                        Err(code) => return Walk::Refused(code, message),
                    }
                }
            };
            if held.is_some_and(|held| held(&target)) {
                // Others wait for this target already: it has to be asked in their order.
                let room = Arc::new(Room::new(0));
                let bytes = message.memory();
                return Walk::Full(Pending { message, target, room, bytes });
            }
            (message, known) = match target.act(self, message, charge.take()) {
                Next::Forward(message) => (message, None),
                Next::ForwardTo(Known(target), message) => (message, Some(target)),
                Next::Done(spent) => {
                    if let Some(spent) = spent {
                        spent.recycle();
                    }
                    return Walk::Done;
                }
                Next::Full(room, bytes, message) => {
                    return Walk::Full(Pending { message, target, room, bytes });
                }
                Next::Refused(code, message) => return Walk::Refused(code, message),
            };
        }
        Walk::Refused(ErrorCode::HopLimit, message)
    }

    /// What the nearest onward address leads to, if the message's flow may reach it.
    fn target(self: &Arc<Self>, message: &Message) -> Result<Target, ErrorCode> {
        let next = message.next().ok_or(ErrorCode::NoWorker)?;
        if message.flow().is_local() || message.next_is_configured() {
            return self.find(next, FlowId::LOCAL);
        }
        if next.kind() != Kind::Local {
            return self.find(next, message.flow());
        }
        let now = self.now();
        let allowed = {
            let reach = self.reach();
            let allowed = reach.check(message.flow(), next, now);
            if let (Ok(_), Some(id)) = (&allowed, next.random_id())
                && reach.pair_wants_touch(message.flow(), id, now)
            {
                drop(reach);
                self.reach_mut().touch_pair(message.flow(), id, now);
            }
            allowed
        };
        match allowed {
            Ok(Allowed::Address) => self.find(next, message.flow()),
            Ok(Allowed::Grant(worker)) => self.find(worker.as_ref(), message.flow()),
            Err(Denied) => {
                self.counters.denied.fetch_add(1, Ordering::Relaxed);
                Err(ErrorCode::Refused)
            }
        }
    }

    fn find(self: &Arc<Self>, address: AddressRef<'_>, flow: FlowId) -> Result<Target, ErrorCode> {
        if address.kind() != Kind::Local {
            return self.dial(address, flow);
        }
        match self.directory.get(address.encoded()) {
            Some(entry) => Ok(entry.value().clone()),
            None => Err(ErrorCode::NoWorker),
        }
    }

    fn dial(self: &Arc<Self>, endpoint: AddressRef<'_>, flow: FlowId) -> Result<Target, ErrorCode> {
        let rule = if flow.is_local() {
            None
        } else {
            let rule = self.reach().dial_rule(flow, endpoint).cloned();
            if rule.is_none() {
                self.counters.denied.fetch_add(1, Ordering::Relaxed);
                return Err(ErrorCode::Refused);
            }
            rule
        };
        let dialer = self.dialer.get().ok_or(ErrorCode::Unreachable)?;
        let step = dialer.dial(self, endpoint, rule.as_ref()).ok_or(ErrorCode::Unreachable)?;
        Ok(Target::Step(step))
    }

    /// What every egress does before it encodes a message: makes the return route fit to be seen
    /// outside, keeps pairs, takes the egress's own address off.
    ///
    /// # Errors
    /// The code to refuse the message with; it is then unchanged but for its return route.
    pub fn depart(&self, message: &mut Message, egress: FlowId) -> Result<(), ErrorCode> {
        if message.flow().is_local() {
            self.export_sender(message, egress)?;
        } else {
            self.keep_pair(message, egress);
        }
        message.leave().map_err(|_| ErrorCode::HopLimit)?;
        self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes or prolongs the pair by which answers come back to a message in transit.
    fn keep_pair(&self, message: &Message, egress: FlowId) {
        let (flow, now) = (message.flow(), self.now());
        if flow == egress {
            return;
        }
        let is_fresh = {
            let reach = self.reach();
            reach.pair_is_fresh(egress, flow, now)
                && hops_passed(message).all(|hop| reach.exposes(egress, hop))
        };
        if message.next_is_configured() {
            if !self.reach().pair_is_fresh(egress, flow, now) {
                self.reach_mut().pair_one_way(egress, flow, now);
            }
        } else if !is_fresh && message.next().is_some_and(|next| next.kind() != Kind::Local) {
            self.reach_mut().pair_by_way_of(flow, egress, hops_passed(message));
        }
    }

    /// Puts a granted random address in the place of a local worker's name at the return route's end.
    fn export_sender(&self, message: &mut Message, egress: FlowId) -> Result<(), ErrorCode> {
        let Some(sender) = message.ret().last() else { return Ok(()) };
        if let Some(id) = sender.random_id() {
            if self.asks.bind(id, egress) {
                return Ok(());
            }
            // Read before writing: nearly always the session is admitted already.
            let admitted = self.reach().session_admits(id, egress);
            if admitted == Some(true) || admitted == Some(false) && self.reach_mut().admit_session(id, egress)
            {
                return Ok(());
            }
        }
        let sender = sender.to_owned();
        let now = self.now();
        let existing = self.reach().existing_grant(egress, &sender, now);
        let granted = match existing {
            Some(id) => id,
            None => {
                let fresh = self.random();
                self.reach_mut().grant(egress, &sender, fresh, now).map_err(|Denied| ErrorCode::Refused)?
            }
        };
        message.replace_sender(&Address::random(granted)).map_err(|_| ErrorCode::HopLimit)
    }

    /// Tells the sender of a message that was not delivered, if it may and wants to hear.
    ///
    /// Nobody waits for this report: if its way is full it is dropped.
    pub fn report(self: &Arc<Self>, message: Message, code: ErrorCode) {
        self.counters.undeliverable.fetch_add(1, Ordering::Relaxed);
        let detailed = {
            // Only a count changes, no rule: the generation stays.
            let mut reach = self.reach.write().unwrap_or_else(PoisonError::into_inner);
            reach.may_report(message.flow(), self.now())
        };
        let Some(detailed) = detailed else { return };
        let code = if detailed { code } else { ErrorCode::Refused };
        let at = if detailed { message.next().map(AddressRef::to_owned) } else { None };
        if let Some(report) = message.into_report(code, at.as_ref()) {
            self.counters.reports.fetch_add(1, Ordering::Relaxed);
            // A report that cannot be delivered ends here: an error never causes another.
            let _ = self.try_send(report);
        }
    }
}

/// The hops of this node that a message in transit has passed: what stands on its return route in
/// front of the connection it came by, which its ingress wrote.
fn hops_passed(message: &Message) -> impl Iterator<Item = AddressRef<'_>> {
    message.ret().iter().take_while(|address| address.random_id().is_none())
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("addresses", &self.directory.len()).finish_non_exhaustive()
    }
}
