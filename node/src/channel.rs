//! Secure channels of a node: opening them, accepting them, and driving their handshakes.
//!
//! The driver owns the clock, the addresses and the vault; what is sent when, and who is trusted, the
//! handshake values of `onward-channels` decide. An established channel has no task of its own: its
//! records are steps, and one timer of the node looks after all channels.
//!
//! Specification: docs/protocol.md §3.2, §3.4.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use onward_channels::identity::{Identifier, KnownHistories, Trust, VerifiedHistory};
use onward_channels::{
    Bases, Basis, CloseCode, Established, FirstMessage, HandshakeConfig, HandshakeId, HandshakeTable,
    Initiator, Input, Mode, Now, Opening, Output, Padding, Predecessor, Profile, Psk, Responder, Suite, To,
    Verdict,
};
use onward_keys::{Backend, Vault};
use onward_routing::{Address, ErrorCode, FlowId, FlowKind, Message, Route, RouteRef};
use onward_workers::{Charge, Next, Router, Step};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::NodeError;
use crate::identity::{Identities, Identity};
use crate::introduction::Introduction;
use crate::limits::ChannelLimits;
use crate::line::{Carrier, Intent, Line, Offered, may_return};
use crate::secure::{Arrived, Encryptor, Session, Tick};
use crate::state::StateDir;
use crate::tickets::TicketStore;

/// How often the node looks after its channels' timers.
const TICK: Duration = Duration::from_secs(1);
/// Packets that wait for a handshake's driver; more are dropped and repeated by the peer.
const INBOX: usize = 32;
/// How long a vault may take for one key agreement. Source: docs/protocol.md §3.5 (g).
const AGREEMENT: Duration = Duration::from_secs(2);

/// Whom a channel is opened to.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Exactly this identity; nobody else can answer.
    Identity(Identifier),
    /// Whoever answers and is accepted by the policy.
    Any(Trust),
}

/// How a channel is set up; the default is right unless a link or a peer asks for something else.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// The handshake; hybrid post-quantum by default.
    pub mode: Mode,
    /// The cipher; AES-256-GCM by default where this processor has instructions for it and an
    /// accelerated backend is compiled in, else ChaCha20-Poly1305.
    pub suite: Suite,
    /// Which implementation computes; the best by default.
    pub backend: Backend,
    /// Bound into the handshake, equal at both ends, at most 256 bytes; empty by default.
    pub app: Vec<u8>,
    /// How records are padded; not at all by default.
    pub padding: Padding,
    /// What a listener answers; by default what the node's [`ChannelLimits`] allow, which is
    /// [`Mode::HybridXx`] with either cipher.
    pub accepts: Option<BTreeSet<(Mode, Suite)>>,
    /// Keys shared within a deployment: a listener answers each, an initiator uses the first.
    pub psks: Vec<Arc<Psk>>,
    /// Peers known beforehand: an initiator needs its peer's in modes 5 to 7, a listener those of the
    /// peers that may use mode 7, at most 16.
    pub introductions: Vec<Introduction>,
    /// Whether an initiator keeps a ticket to resume the channel with. A listener that accepts
    /// [`Mode::Resumption`] keeps its half.
    pub resumable: bool,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        let backend = Backend::best();
        let fast_aes = backend != Backend::Portable && Backend::has_hardware_aes();
        Self {
            mode: Mode::HybridXx,
            suite: if fast_aes { Suite::AesGcm } else { Suite::ChaChaPoly },
            backend,
            app: Vec::new(),
            padding: Padding::None,
            accepts: None,
            psks: Vec::new(),
            introductions: Vec::new(),
            resumable: false,
        }
    }
}

/// All channels of a node.
pub(crate) struct Channels {
    pub(crate) router: Arc<Router>,
    pub(crate) identities: Identities,
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) known: Arc<RwLock<KnownHistories>>,
    /// Handshakes whose peers were accepted: each may have taught a history.
    pub(crate) learned: AtomicU64,
    /// How many forks of histories have been logged.
    alarms: AtomicUsize,
    limits: ChannelLimits,
    profile: Arc<Profile>,
    tickets: TicketStore,
    lines: Mutex<HashMap<u128, Arc<Line>>>,
    /// The node stops: no more handshakes.
    stops: AtomicBool,
    /// Handshakes: those of responders, and those that renew a channel.
    handshakes: Mutex<JoinSet<()>>,
}

/// A channel to a peer. Dropping the handle leaves the channel open.
#[derive(Clone)]
pub struct Channel {
    channels: Arc<Channels>,
    line: Arc<Line>,
}

impl Channel {
    /// The identity at the other end.
    #[must_use]
    pub fn peer(&self) -> Identifier {
        self.line.peer
    }

    /// The address that messages through the channel go to first.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.line.encryptor
    }

    /// The route to `inner` at the other end of the channel.
    ///
    /// # Errors
    /// [`NodeError::Route`] for a malformed or too long route.
    pub fn route_to(&self, inner: &str) -> Result<Route, NodeError> {
        let mut route = Route::from(self.address().clone());
        route.extend(inner.parse::<Route>()?.as_ref())?;
        Ok(route)
    }

    /// The flow of what the peer sends through the channel.
    #[must_use]
    pub fn flow(&self) -> FlowId {
        self.line.flow
    }

    /// Lets the peer reach a worker of this node through the channel.
    ///
    /// # Errors
    /// [`NodeError::Address`] for a malformed name.
    pub fn expose(&self, worker: &str) -> Result<(), NodeError> {
        let worker = Address::local(worker)?;
        self.channels
            .router
            .reach_mut()
            .expose(self.flow(), &worker)
            .map_err(|_| NodeError::SecureOnly(worker))
    }

    /// How often it was renewed: another handshake's keys and session took over, under the same address.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.line.moves()
    }

    /// Whether the channel is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.line.is_closed()
    }

    /// Tells the peer and ends the channel; requests that wait for an answer through it fail.
    pub fn close(&self) {
        self.channels.close(&self.line, CloseCode::Normal);
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

/// Accepts channels at a worker address. Dropping the handle leaves it accepting.
#[derive(Clone)]
pub struct ChannelListener {
    channels: Arc<Channels>,
    accepting: Arc<Accepting>,
}

impl ChannelListener {
    /// The address that initiators name.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.accepting.address
    }

    /// Lets peers reach a worker of this node through channels accepted here.
    ///
    /// # Errors
    /// [`NodeError::Address`] for a malformed name.
    pub fn expose(&self, worker: &str) -> Result<(), NodeError> {
        let worker = Address::local(worker)?;
        let router = &self.channels.router;
        router.reach_mut().expose(self.accepting.inside, &worker).map_err(|_| NodeError::SecureOnly(worker))
    }

    /// Handshakes that are not finished.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.accepting.handshakes().half_open()
    }

    /// Channels that are open, and replaced sessions of theirs until they are drained.
    #[must_use]
    pub fn open(&self) -> usize {
        self.accepting.handshakes().open()
    }

    /// Channels that were refused because as many were open as
    /// [`ListenerLimits::open_max`](crate::ListenerLimits::open_max) says; each peer was told.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.accepting.handshakes().refused()
    }

    /// Accepts no more; channels that are open stay so.
    pub fn close(&self) {
        // Once: later the address may be another worker's.
        if !self.accepting.closed.swap(true, Ordering::Relaxed) {
            self.channels.router.remove(&self.accepting.address);
        }
    }
}

impl fmt::Debug for ChannelListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelListener").field("address", self.address()).finish_non_exhaustive()
    }
}

impl Channels {
    pub(crate) fn new(
        router: Arc<Router>,
        vault: Arc<dyn Vault>,
        known: KnownHistories,
        limits: ChannelLimits,
        state: Option<&Arc<StateDir>>,
    ) -> Result<Arc<Self>, NodeError> {
        let tickets = TicketStore::open(now(&router), state, limits.tickets)?;
        Ok(Arc::new(Self {
            router,
            identities: Identities::new(Arc::clone(&vault), limits.attestation),
            vault,
            known: Arc::new(RwLock::new(known)),
            learned: AtomicU64::new(0),
            alarms: AtomicUsize::new(0),
            profile: Arc::new(limits.profile.clone()),
            limits,
            tickets,
            lines: Mutex::default(),
            stops: AtomicBool::new(false),
            handshakes: Mutex::default(),
        }))
    }

    /// Looks after channels and identities as long as the node runs.
    pub(crate) async fn run(self: Arc<Self>) {
        // Beside each other: a vault that hangs must not stop the timers.
        tokio::join!(self.keep_channels(), self.identities.keep_attested());
    }

    async fn keep_channels(self: &Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let lines: Vec<_> = self.lines().values().cloned().collect();
            for line in lines {
                self.look_after(&line);
            }
            while self.handshakes().try_join_next().is_some() {}
            self.raise_alarms();
        }
    }

    /// Runs a handshake as a task of its own. Those that are finished go first: their tasks are large.
    fn spawn_handshake(
        &self,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let mut handshakes = self.handshakes();
        while handshakes.try_join_next().is_some() {}
        handshakes.spawn(handshake)
    }

    /// Logs each fork of an identity's history once.
    fn raise_alarms(&self) {
        let forked = self.forked();
        let logged = self.alarms.swap(forked.len(), Ordering::Relaxed);
        for identity in forked.iter().skip(logged) {
            tracing::error!(%identity, "ALARM: two histories of one identity contradict each other; its keys are not its owner's alone");
        }
    }

    /// Identities of which contradicting histories were seen since the node started.
    pub(crate) fn forked(&self) -> Vec<Identifier> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).forked()
    }

    /// Does what the timers of one channel, or its peer's word, call for.
    pub(crate) fn look_after(self: &Arc<Self>, line: &Arc<Line>) {
        let session = line.session();
        match session.tick(&self.router) {
            None => {}
            Some(Tick::Renew) => self.renew(line),
            Some(Tick::Close(code)) => return self.close(line, code),
            Some(Tick::Ended(code)) => {
                if line.intent.is_none() || !may_return(code) {
                    return self.close(line, code);
                }
                match line.tries_again(self.router.now(), self.profile.renew_again, self.profile.idle) {
                    None => return self.close(line, code),
                    Some(false) => {}
                    Some(true) => self.renew(line),
                }
            }
        }
        let learned = self.learned.load(Ordering::Relaxed);
        if let Err(error) = line.check_again(unix_now(), learned, &self.known) {
            tracing::info!(peer = %line.peer, %error, "a channel's peer is accepted no more");
            return self.close(line, CloseCode::Credential);
        }
        if let Some(next) = line.take_used(None) {
            self.move_line(line, next);
        }
        if let Some((next, code)) = line.take_expired(|session| session.tick(&self.router)) {
            next.session.close(&self.router, code);
            self.end(&next, code);
        }
        if line.is_unheard() {
            line.session().announce(&self.router);
        }
        for carrier in line.drained(self.router.now()) {
            self.end(&carrier, CloseCode::Lifetime);
        }
    }

    /// Channels that are open now.
    pub(crate) fn count(&self) -> usize {
        self.lines().len()
    }

    pub(crate) fn close_all(&self) {
        // First: who is told that its channel ends opens it again at once, and not here.
        self.stops.store(true, Ordering::Relaxed);
        let lines: Vec<_> = self.lines().values().cloned().collect();
        for line in lines {
            self.close(&line, CloseCode::Shutdown);
        }
        self.handshakes().abort_all();
    }

    /// Opens a channel along `route`, whose last address is the peer's channel listener.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        identity: &Identity,
        route: Route,
        peer: Peer,
        options: ChannelOptions,
    ) -> Result<Channel, NodeError> {
        if route.is_empty() {
            return Err(NodeError::Misuse("a channel needs a route to its listener"));
        }
        let (to, trust) = match peer {
            Peer::Identity(identifier) => (Some(identifier), Trust::pinned([identifier])),
            Peer::Any(trust) => (None, trust),
        };
        let mode = options.mode;
        let mut intent =
            Intent { identity: identity.clone(), route, trust: Arc::new(trust), options, renewal_mode: mode };
        let (session, finished) = self.initiate(&intent, mode, to, None).await?;
        intent.renewal_mode = finished.established.session.binding.mode();
        let line = self.establish(session, finished, Some(intent), None).await;
        Ok(Channel { channels: Arc::clone(self), line })
    }

    /// Runs the handshake of an initiator.
    async fn initiate(
        &self,
        intent: &Intent,
        mode: Mode,
        to: Option<Identifier>,
        replaces: Option<Predecessor>,
    ) -> Result<(Arc<Session>, Finished), NodeError> {
        let Intent { identity, route, trust, options, renewal_mode: _ } = intent;
        let config = self.config(identity, Arc::clone(trust), options);
        let basis = self.basis(identity.identifier(), to, mode, options)?;
        let opening = Opening { basis, replaces, ..Opening::new(mode, options.suite, to) };
        let initiator = Initiator::new(now(&self.router), config, opening, self.seed()?)?;
        let (session, inbox) = self.new_session();
        let guard = Unfinished { channels: self, session: &session, accepting: None };
        let way = Path::Initiator { route: route.clone(), peer: None };
        let driver = Driver { channels: self, session: &session, accepting: None, way, inbox };
        let finished = driver.run(Handshake::Initiator(Box::new(initiator))).await?;
        std::mem::forget(guard);
        if options.resumable {
            let now = now(&self.router);
            self.tickets.keep(now, finished.established.ticket(now, identity.identifier()));
        }
        Ok((session, finished))
    }

    /// Starts the handshake for a line's next session, unless one runs already.
    fn renew(self: &Arc<Self>, line: &Arc<Line>) {
        let Some(renewal) = line.begin_renewal() else { return };
        let channels = Arc::clone(self);
        self.spawn_handshake(async move {
            let line = renewal.line();
            if let Some(intent) = &line.intent {
                let replaces = line.session().predecessor();
                match channels.initiate(intent, intent.renewal_mode, Some(line.peer), replaces).await {
                    Ok((session, finished)) => channels.succeed(line, session, finished).await,
                    Err(error) => tracing::debug!(%error, "a channel was not renewed"),
                }
            }
        });
    }

    /// Gives a line the session that this end began for it, if it may have it.
    ///
    /// A channel that is alive is replaced only by one whose ends both know it; one that is lost is opened again, as
    /// its opener would, and what was asked through it fails.
    async fn succeed(self: &Arc<Self>, line: &Arc<Line>, session: Arc<Session>, finished: Finished) {
        let is_proved = finished.established.replaces.is_some();
        if !is_proved && !line.session().is_lost(&self.router) {
            tracing::warn!(peer = %line.peer, "a channel was not renewed: its peer does not know it");
            return self.refuse(&session, finished);
        }
        line.show(finished.established.peer.clone());
        self.learned.fetch_add(1, Ordering::Relaxed);
        let early = session.open(self, line, finished);
        if !is_proved {
            self.router.flow_lost(line.flow, false);
            tracing::info!(peer = %line.peer, "a lost channel was opened again");
        }
        self.move_line(line, Carrier { session: Arc::clone(&session), accepted: None });
        session.receive_early(&self.router, early).await;
    }

    /// Closes a session that this end does not take, so that the peer does not keep it.
    fn refuse(&self, session: &Session, finished: Finished) {
        let Finished { mut established, onward, .. } = finished;
        let mut record = Vec::new();
        let now = now(&self.router);
        if established.session.sealer.seal_close(now, CloseCode::Normal, &mut record).is_ok() {
            let ret = Route::from(Address::random(session.id));
            let message = Message::with_body(onward.as_ref(), ret.as_ref(), &record.into());
            if let Err(error) = self.router.try_send(message) {
                tracing::debug!(%error, "a session that is not taken was not closed");
            }
        }
        self.forget(session);
    }

    /// Takes in a session that a peer began: the next one of a channel, or one of its own.
    async fn accepted(
        self: &Arc<Self>,
        session: Arc<Session>,
        finished: Finished,
        accepting: Arc<Accepting>,
        id: HandshakeId,
    ) {
        let replaced = finished.established.replaces.and_then(|hs_id| {
            let is_it = |line: &&Arc<Line>| line.predecessor(&accepting, &hs_id).is_some();
            self.lines().values().find(is_it).cloned()
        });
        let line = match (replaced, finished.established.replaces) {
            (Some(line), _) => line,
            (None, None) => {
                self.establish(session, finished, None, Some((accepting, id))).await;
                return;
            }
            // It was closed meanwhile, and with it its successor, for which no place was taken.
            (None, Some(_)) => {
                accepting.handshakes().ended(id);
                return self.refuse(&session, finished);
            }
        };
        if let Some(used) = line.take_used(finished.established.replaces.as_ref()) {
            self.move_line(&line, used);
        }
        line.show(finished.established.peer.clone());
        self.learned.fetch_add(1, Ordering::Relaxed);
        let early = session.open(self, &line, finished);
        let next = Carrier { session: Arc::clone(&session), accepted: Some((accepting, id)) };
        if let Some(unused) = line.expect(next) {
            self.end(&unused, CloseCode::Normal);
        }
        session.receive_early(&self.router, early).await;
    }

    /// Has a line's messages sealed by another session from now on.
    fn move_line(&self, line: &Line, carrier: Carrier) {
        let session = Arc::clone(&carrier.session);
        match line.move_to(carrier.clone(), self.router.now() + self.profile.drain) {
            Offered::Closed => self.end(&carrier, CloseCode::Normal),
            Offered::Moved(left) => {
                self.router.replace_step(&line.encryptor, Arc::new(Encryptor(Arc::clone(&session))));
                session.announce(&self.router);
                if let Some(left) = left {
                    self.end(&left, CloseCode::Lifetime);
                }
            }
        }
    }

    /// Accepts channels at the worker address `address`.
    pub(crate) fn accept(
        self: &Arc<Self>,
        address: Address,
        identity: &Identity,
        trust: Trust,
        options: &ChannelOptions,
    ) -> Result<ChannelListener, NodeError> {
        let config = self.config(identity, Arc::new(trust), options);
        let mut limits = self.limits.listener.clone();
        limits.allowed = options.accepts.clone().unwrap_or(limits.allowed);
        let resumes = limits.allowed.iter().any(|(mode, _)| mode.is_resumption());
        let handshakes = HandshakeTable::new(Arc::clone(&config), limits)?;
        let inside = FlowId::from_number(self.router.random());
        self.router.reach_mut().open_flow(inside, FlowKind::Channel, None);
        let accepting = Arc::new(Accepting {
            router: Arc::downgrade(&self.router),
            closed: AtomicBool::new(false),
            identity: identity.clone(),
            config: Mutex::new(Arc::clone(&config)),
            address: address.clone(),
            inside,
            resumes: resumes.then_some(identity.identifier()),
            handshakes: Mutex::new(handshakes),
            running: Mutex::default(),
        });
        let step = AcceptStep { channels: Arc::downgrade(self), accepting: Arc::clone(&accepting) };
        self.router.add_step(&address, Arc::new(step))?;
        Ok(ChannelListener { channels: Arc::clone(self), accepting })
    }

    /// What an initiator's handshake rests on, as its mode asks for it. A ticket is taken out for good.
    fn basis(
        &self,
        local: Identifier,
        to: Option<Identifier>,
        mode: Mode,
        options: &ChannelOptions,
    ) -> Result<Basis, NodeError> {
        let basis = match (mode.has_psk(), mode.has_two_messages()) {
            (false, false) => Some(Basis::Nothing),
            (true, false) => options.psks.first().map(|psk| Basis::Psk(Arc::clone(psk))),
            (false, true) => {
                let mut known = options.introductions.iter();
                let known = known.find(|known| Some(known.identifier()) == to);
                known.map(|known| Basis::Introduction(known.payload()))
            }
            (true, true) => {
                let to = to.ok_or(NodeError::Misuse("resumption needs a named peer"))?;
                let ticket = self.tickets.take(now(&self.router), local, to);
                return Ok(Basis::Ticket(Box::new(ticket.ok_or(NodeError::NoTicket(to))?)));
            }
        };
        basis.ok_or(NodeError::Misuse("a handshake mode without what it rests on"))
    }

    fn config(
        &self,
        identity: &Identity,
        trust: Arc<Trust>,
        options: &ChannelOptions,
    ) -> Arc<HandshakeConfig> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        trust.pins().for_each(|identifier| known.pin(*identifier));
        Arc::new(HandshakeConfig {
            local: identity.local(),
            trust,
            known: Arc::clone(&self.known),
            bases: Bases {
                psks: options.psks.clone(),
                introductions: options.introductions.iter().map(Introduction::payload).collect(),
                tickets: self.tickets.shared(),
            },
            backend: options.backend,
            app: options.app.clone(),
            profile: Arc::clone(&self.profile),
            padding: options.padding,
        })
    }

    /// What a peer needs to replace the channel with this `hs_id`, which it opened at the same listener.
    fn predecessor(&self, accepting: &Arc<Accepting>, hs_id: &[u8; 32]) -> Option<Predecessor> {
        self.lines().values().find_map(|line| line.predecessor(accepting, hs_id))
    }

    fn new_session(&self) -> (Arc<Session>, mpsc::Receiver<Arrived>) {
        let id = self.router.random();
        let (sender, inbox) = mpsc::channel(INBOX);
        let session = Session::new(id, sender);
        self.router.reach_mut().open_session(id);
        // A random address is never taken.
        let _ = self.router.add_step(&Address::random(id), Arc::clone(&session) as Arc<dyn Step>);
        (session, inbox)
    }

    /// Makes a finished handshake a channel.
    async fn establish(
        self: &Arc<Self>,
        session: Arc<Session>,
        finished: Finished,
        intent: Option<Intent>,
        accepted: Option<(Arc<Accepting>, HandshakeId)>,
    ) -> Arc<Line> {
        let flow = FlowId::from_number(self.router.random());
        let id = self.router.random();
        let parent = accepted.as_ref().map(|(accepting, _)| accepting.inside);
        {
            let mut reach = self.router.reach_mut();
            reach.open_flow(flow, FlowKind::Channel, parent);
            reach.set_egress(flow, id);
        }
        let trust = match (&intent, &accepted) {
            (Some(intent), _) => Arc::clone(&intent.trust),
            (None, Some((accepting, _))) => Arc::clone(&accepting.config().trust),
            (None, None) => Arc::default(),
        };
        let shown = finished.established.peer.clone();
        let carrier = Carrier { session: Arc::clone(&session), accepted };
        let line = Line::new(id, shown, flow, intent, trust, carrier);
        let early = session.open(self, &line, finished);
        let _ = self.router.add_step(&line.encryptor, Arc::new(Encryptor(Arc::clone(&session))));
        self.lines().insert(id, Arc::clone(&line));
        self.learned.fetch_add(1, Ordering::Relaxed);
        session.receive_early(&self.router, early).await;
        line
    }

    /// Ends a channel and forgets it.
    fn close(&self, line: &Line, code: CloseCode) {
        for carrier in line.close() {
            carrier.session.close(&self.router, code);
            self.end(&carrier, code);
        }
        self.router.remove(&line.encryptor);
        self.router.flow_lost(line.flow, true);
        self.lines().remove(&line.id);
    }

    /// Wipes a session and forgets it; its peer is told nothing.
    fn end(&self, carrier: &Carrier, code: CloseCode) {
        carrier.session.wipe(code);
        self.forget(&carrier.session);
        if let Some((accepting, id)) = &carrier.accepted {
            accepting.handshakes().ended(*id);
        }
    }

    /// Takes a session's address away.
    fn forget(&self, session: &Session) {
        self.router.remove(&Address::random(session.id));
        self.router.reach_mut().close_session(session.id);
    }

    /// 32 random bytes, the seed of one handshake.
    fn seed(&self) -> Result<[u8; 32], NodeError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
        Ok(seed)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<u128, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handshakes(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The histories learned so far, to be stored.
    pub(crate) fn histories(&self) -> Vec<Arc<VerifiedHistory>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).histories().cloned().collect()
    }
}

/// Takes a session's address and its place at the listener away when its handshake came to nothing, be it by a panic.
struct Unfinished<'a> {
    channels: &'a Channels,
    session: &'a Session,
    accepting: Option<(&'a Arc<Accepting>, HandshakeId)>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.channels.forget(self.session);
        if let Some((accepting, id)) = self.accepting {
            accepting.running().remove(&id);
            accepting.handshakes().ended(id);
        }
    }
}

/// A channel listener.
pub(crate) struct Accepting {
    router: Weak<Router>,
    address: Address,
    /// Nothing answers at the address any more, at least not this.
    closed: AtomicBool,
    identity: Identity,
    /// What handshakes that begin now are answered with.
    config: Mutex<Arc<HandshakeConfig>>,
    /// The parent flow of all channels accepted here: what it exposes, they do.
    inside: FlowId,
    /// The identity whose channels can be resumed here, if they can.
    resumes: Option<Identifier>,
    handshakes: Mutex<HandshakeTable>,
    running: Mutex<HashMap<HandshakeId, Running>>,
}

impl Drop for Accepting {
    /// Neither the address nor any channel is left: what they exposed is forgotten.
    fn drop(&mut self) {
        if let Some(router) = self.router.upgrade() {
            router.reach_mut().close_flow(self.inside);
        }
    }
}

/// A half-open handshake and the task that drives it.
struct Running {
    session: Arc<Session>,
    task: tokio::task::AbortHandle,
}

impl Accepting {
    fn handshakes(&self) -> MutexGuard<'_, HandshakeTable> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<HandshakeId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> MutexGuard<'_, Arc<HandshakeConfig>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has handshakes that begin from now on answered with the identity's newest history and attestation.
    fn refresh(&self) {
        let local = self.identity.local();
        let mut config = self.config();
        if Arc::ptr_eq(&config.local, &local) {
            return;
        }
        let newest = Arc::new(HandshakeConfig { local, ..HandshakeConfig::clone(&config) });
        match self.handshakes().reconfigure(Arc::clone(&newest)) {
            Ok(()) => *config = newest,
            Err(error) => tracing::warn!(%error, "a listener keeps its older attestation"),
        }
    }

    fn start(
        self: &Arc<Self>,
        channels: &Arc<Channels>,
        id: HandshakeId,
        responder: Box<Responder>,
        back: Route,
    ) {
        let (session, inbox) = channels.new_session();
        let (accepting, driven) = (Arc::clone(self), Arc::clone(&session));
        let driving = Arc::clone(channels);
        // The entry is made before the task may remove it.
        let mut running = self.running();
        let task = channels.spawn_handshake(async move {
            let channels = driving;
            let accepts = Some((&accepting, id));
            let guard = Unfinished { channels: &channels, session: &driven, accepting: accepts };
            let way = Path::Responder { back };
            let driver = Driver { channels: &channels, session: &driven, accepting: accepts, way, inbox };
            match driver.run(Handshake::Responder(responder)).await {
                Ok(finished) => {
                    std::mem::forget(guard);
                    accepting.running().remove(&id);
                    accepting.handshakes().established(id);
                    let now = now(&channels.router);
                    let ticket = accepting.resumes.map(|local| finished.established.ticket(now, local));
                    channels.accepted(driven, finished, accepting, id).await;
                    // Behind the opening: to write it takes time, and records are on their way.
                    if let Some(ticket) = ticket {
                        channels.tickets.keep(now, ticket);
                    }
                }
                Err(error) => tracing::debug!(%error, "a handshake failed"),
            }
        });
        running.insert(id, Running { session, task });
    }

    fn evict(&self, channels: &Channels, id: HandshakeId) {
        let running = self.running().remove(&id);
        if let Some(Running { session, task }) = running {
            task.abort();
            channels.forget(&session);
        }
    }
}

/// The step at a channel listener's address. Weak, since what it belongs to holds the router that holds it.
struct AcceptStep {
    channels: Weak<Channels>,
    accepting: Arc<Accepting>,
}

impl Step for AcceptStep {
    fn step(&self, router: &Arc<Router>, message: Message, _: Option<Charge>) -> Next {
        let accepting = &self.accepting;
        let channels = self.channels.upgrade().filter(|channels| !channels.stops.load(Ordering::Relaxed));
        let Some(channels) = channels else {
            return Next::Refused(ErrorCode::Stopped, message);
        };
        let Ok(seed) = channels.seed() else { return Next::Done(Some(message)) };
        let behind = message.ret().iter().nth(1).map_or(&[][..], |address| address.encoded());
        let first = FirstMessage {
            flow: u128::from_be_bytes(message.flow().to_bytes()),
            behind,
            packet: message.payload(),
        };
        accepting.refresh();
        let verdict = accepting.handshakes().receive(now(router), first, seed);
        match verdict {
            Verdict::Drop => {}
            Verdict::Retry(packet) => {
                let back = Message::with_body(message.ret(), RouteRef::default(), &packet.into());
                if let Err(error) = router.try_send(back) {
                    tracing::debug!(%error, "a cookie was not sent");
                }
            }
            Verdict::Accept { id, responder, evicted } => {
                if let Some(evicted) = evicted {
                    accepting.evict(&channels, evicted);
                }
                accepting.start(&channels, id, responder, message.ret().to_owned());
            }
            Verdict::Repeated(id) => {
                let session = accepting.running().get(&id).map(|running| Arc::clone(&running.session));
                if let Some(session) = session {
                    session.hand_to_driver(message.payload(), message.ret());
                }
            }
        }
        Next::Done(Some(message))
    }
}

/// A handshake of either role, which are driven alike.
enum Handshake {
    Initiator(Box<Initiator>),
    Responder(Box<Responder>),
}

impl Handshake {
    fn handle(&mut self, now: Now, input: Input<'_>) {
        match self {
            Self::Initiator(initiator) => initiator.handle(now, input),
            Self::Responder(responder) => responder.handle(now, input),
        }
    }

    fn poll(&mut self) -> Output {
        match self {
            Self::Initiator(initiator) => initiator.poll(),
            Self::Responder(responder) => responder.poll(),
        }
    }
}

/// Where the packets of a handshake go.
enum Path {
    /// Along the configured route; to the peer's session once its address is known.
    Initiator { route: Route, peer: Option<Address> },
    /// Back along the return route of the packet in hand.
    Responder { back: Route },
}

impl Path {
    /// The path if a packet that came by `ret` is accepted.
    fn after(&self, ret: Route) -> Self {
        match self {
            Self::Initiator { route, .. } => Self::Initiator {
                route: route.clone(),
                peer: ret.as_ref().last().map(|last| last.to_owned()),
            },
            Self::Responder { .. } => Self::Responder { back: ret },
        }
    }

    fn to(&self, to: To) -> Option<Route> {
        match (self, to) {
            (Self::Responder { back }, _) => Some(back.clone()),
            (Self::Initiator { route, .. }, To::Listener) => Some(route.clone()),
            (Self::Initiator { route, peer: Some(peer) }, To::Peer) => route.with_last(peer).ok(),
            (Self::Initiator { .. }, To::Peer) => None,
        }
    }
}

/// Moves the packets of one handshake; decides nothing.
struct Driver<'a> {
    channels: &'a Channels,
    session: &'a Session,
    /// The listener of a responder, and what it calls the handshake.
    accepting: Option<(&'a Arc<Accepting>, HandshakeId)>,
    way: Path,
    inbox: mpsc::Receiver<Arrived>,
}

/// A finished handshake and the route of its records.
pub(crate) struct Finished {
    pub(crate) established: Box<Established>,
    pub(crate) onward: Route,
    /// What comes until the session is open.
    pub(crate) inbox: mpsc::Receiver<Arrived>,
}

impl Driver<'_> {
    async fn run(mut self, mut handshake: Handshake) -> Result<Finished, NodeError> {
        let router = &self.channels.router;
        // The path before the packet in hand, which is gone back to if the packet led to nothing.
        let mut before = None;
        loop {
            let until = loop {
                let output = handshake.poll();
                if let (Some(before), Output::Wait { .. }) = (before.take(), &output) {
                    self.way = before;
                }
                match output {
                    Output::Transmit(to, packet) => self.transmit(to, packet).await,
                    Output::Agree { key, peer } => {
                        let agreed =
                            tokio::time::timeout(AGREEMENT, self.channels.vault.agree(key, &peer)).await;
                        match agreed {
                            Ok(Ok(secret)) => handshake.handle(now(router), Input::Agreed(secret)),
                            _ => handshake.handle(now(router), Input::AgreementFailed),
                        }
                    }
                    Output::Find(hs_id) => {
                        let find = |(accepting, _)| self.channels.predecessor(accepting, &hs_id);
                        let found = self.accepting.and_then(find);
                        handshake.handle(now(router), Input::Found(found));
                    }
                    Output::Admit => {
                        let admit = |(accepting, id): (&Arc<Accepting>, _)| accepting.handshakes().admit(id);
                        let admitted = self.accepting.is_some_and(admit);
                        handshake.handle(now(router), Input::Admitted(admitted));
                    }
                    Output::Spend(role, id) => self.channels.tickets.erase(role, id)?,
                    Output::Established(established) => {
                        let onward = self.way.to(To::Peer).ok_or(NodeError::Misuse("no way to the peer"))?;
                        return Ok(Finished { established, onward, inbox: self.inbox });
                    }
                    Output::Failed(failure) => return Err(NodeError::Handshake(failure)),
                    Output::Wait { until } => break until,
                }
            };
            let wait = until.saturating_sub(router.now());
            tokio::select! {
                arrived = self.inbox.recv() => if let Some(Arrived { packet, ret }) = arrived {
                    let after = self.way.after(ret);
                    before = Some(std::mem::replace(&mut self.way, after));
                    handshake.handle(now(router), Input::Packet(&packet));
                },
                () = tokio::time::sleep(wait) => handshake.handle(now(router), Input::TimePassed),
            }
        }
    }

    /// Sends a packet; a lost one is sent again by the handshake's own timers.
    async fn transmit(&self, to: To, packet: Vec<u8>) {
        let Some(onward) = self.way.to(to) else { return };
        let ret = Route::from(Address::random(self.session.id));
        let message = Message::with_body(onward.as_ref(), ret.as_ref(), &packet.into());
        if let Err(error) = self.channels.router.send(message).await {
            tracing::debug!(%error, "a handshake packet was not sent");
        }
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn now(router: &Router) -> Now {
    Now { mono: router.now(), unix: unix_now() }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::limits::Limits;
    use crate::node::Node;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_next_session_that_its_peer_never_uses_ends_and_the_channel_does_not() {
        let mut limits = Limits::default();
        let profile = &mut limits.channels.profile;
        (profile.keepalive, profile.idle) = (Duration::from_millis(200), Duration::from_secs(4));
        let node = Node::builder("n").limits(limits).start().await.unwrap();
        let alice = node.create_identity().await.unwrap();
        let bob = node.create_identity().await.unwrap();
        let trust = Trust::pinned([alice.identifier()]);
        let listener = node.accept_channels("bank", &bob, trust).unwrap();
        let peer = Peer::Identity(bob.identifier());
        let channel = node.open_channel(&alice, "bank".parse().unwrap(), peer).await.unwrap();
        let Channel { channels, line } = &channel;
        let (intent, replaces) = (line.intent.as_ref().unwrap(), line.session().predecessor());
        let next = channels.initiate(intent, intent.renewal_mode, Some(line.peer), replaces).await.unwrap();
        assert!(next.1.established.replaces.is_some(), "both ends know what it is to replace");
        let began = Instant::now();
        let within = Duration::from_secs(30);
        while listener.open() < 2 {
            assert!(began.elapsed() < within, "it is not there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while listener.open() > 1 {
            assert!(began.elapsed() < within, "it stays for ever");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!channel.is_closed() && node.channels() == 2, "both ends of the channel are here");
    }
}
