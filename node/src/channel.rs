//! Secure channels of a node: opening them, accepting them, and driving their handshakes.
//!
//! The driver owns the clock, the addresses and the vault; what is sent when, and who is trusted, the
//! handshake values of `onward-channels` decide. An established channel has no task of its own: its
//! records are steps, and one timer of the node looks after all channels.
//!
//! Specification: docs/protocol.md §3.2, §3.4.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use onward_channels::identity::{
    Identifier, Identity as History, KnownHistories, Params, Purpose, Trust, VerifiedHistory, channel_payload,
};
use onward_channels::{
    Bases, Basis, CloseCode, Established, FirstMessage, HandshakeConfig, HandshakeId, Initiator, Input,
    Listener as Handshakes, LocalIdentity, Mode, Now, Opening, Output, Padding, Predecessor, Profile, Psk,
    Responder, Suite, To, Verdict,
};
use onward_keys::{Backend, KeyId, KeyUsage, PublicHalf, Vault};
use onward_routing::{Address, FlowId, FlowKind, Message, Route, RouteRef};
use onward_workers::{Charge, Next, Router, Step};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::NodeError;
use crate::introduction::Introduction;
use crate::limits::ChannelLimits;
use crate::secure::{Arrived, Encryptor, Opened, Session};
use crate::state::StateDir;
use crate::tickets::TicketStore;

/// How often the node looks after its channels' timers.
const TICK: Duration = Duration::from_secs(1);
/// Packets that wait for a handshake's driver; more are dropped and repeated by the peer.
const INBOX: usize = 32;
/// How long an attestation of a channel key lasts: the most the protocol allows by default.
const ATTESTATION: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a vault may take for one key agreement. Source: docs/protocol.md §3.5 (g).
const AGREEMENT: Duration = Duration::from_secs(2);

/// An identity of this node, ready to open and accept channels. Cheap to clone; holds no secret.
#[derive(Clone)]
pub struct Identity {
    pub(crate) history: Arc<History>,
    pub(crate) local: Arc<LocalIdentity>,
}

impl Identity {
    /// Makes the channel credentials of an identity: attests a static key of the vault.
    pub(crate) async fn prepare(
        vault: &dyn Vault,
        history: History,
        key: Option<KeyId>,
    ) -> Result<Self, NodeError> {
        let key = match key {
            Some(key) => key,
            None => vault.generate(KeyUsage::ChannelStatic).await?,
        };
        let PublicHalf::Agree(public) = vault.public(key).await? else {
            return Err(NodeError::Misuse("the channel key is no X25519 key"));
        };
        let now = unix_now();
        let attestation =
            history.attest(vault, Purpose::CHANNEL_STATIC, &public, now, now + ATTESTATION.as_secs()).await?;
        let payload = channel_payload(&history, &attestation, &[], &Params::default(), 0)?;
        let local = LocalIdentity {
            identifier: history.identifier(),
            static_key: key,
            static_public: public,
            payload,
        };
        Ok(Self { history: Arc::new(history), local: Arc::new(local) })
    }

    /// Who this is.
    #[must_use]
    pub fn identifier(&self) -> Identifier {
        self.local.identifier
    }

    /// What a peer may know beforehand: history and attested channel key.
    #[must_use]
    pub fn introduction(&self) -> Introduction {
        Introduction::of(self.identifier(), &self.local.payload)
    }

    /// The public history as text, for a peer's file.
    #[must_use]
    pub fn export(&self) -> String {
        self.history.history().to_text()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.identifier()).finish()
    }
}

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
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) known: Arc<RwLock<KnownHistories>>,
    /// Set when a history was learned that is not stored yet.
    pub(crate) learned: AtomicBool,
    limits: ChannelLimits,
    tickets: TicketStore,
    open: Mutex<HashMap<u128, Kept>>,
    responders: Mutex<JoinSet<()>>,
}

/// A channel the node looks after, and where it came from.
struct Kept {
    session: Arc<Session>,
    accepted: Option<(Arc<Accepting>, HandshakeId)>,
}

/// A channel to a peer. Dropping the handle leaves the channel open.
#[derive(Clone)]
pub struct Channel {
    channels: Arc<Channels>,
    session: Arc<Session>,
}

impl Channel {
    /// The identity at the other end.
    #[must_use]
    pub fn peer(&self) -> Identifier {
        self.session.peer().unwrap_or(Identifier::from_bytes([0; 32]))
    }

    /// The address that messages through the channel go to first.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.session.encryptor().unwrap_or_else(|| unreachable!("a handle exists only for an open channel"))
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
        self.session.flow().unwrap_or_default()
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

    /// Whether the channel is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Tells the peer and ends the channel; requests that wait for an answer through it fail.
    pub fn close(&self) {
        self.channels.close(&self.session, CloseCode::Normal);
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
        let router = &self.accepting.channels.router;
        router.reach_mut().expose(self.accepting.inside, &worker).map_err(|_| NodeError::SecureOnly(worker))
    }

    /// Handshakes that are not finished.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.accepting.handshakes().half_open()
    }

    /// Accepts no more; channels that are open stay so.
    pub fn close(&self) {
        self.accepting.channels.router.remove(&self.accepting.address);
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
            vault,
            known: Arc::new(RwLock::new(known)),
            learned: AtomicBool::new(false),
            limits,
            tickets,
            open: Mutex::default(),
            responders: Mutex::default(),
        }))
    }

    /// Runs the timers of all channels as long as the node does.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sessions: Vec<_> = self.open().values().map(|kept| Arc::clone(&kept.session)).collect();
            for session in sessions {
                if let Some(code) = session.tick(&self.router) {
                    self.close(&session, code);
                }
            }
            while self.responders().try_join_next().is_some() {}
        }
    }

    /// Channels that are open now.
    pub(crate) fn count(&self) -> usize {
        self.open().len()
    }

    pub(crate) fn close_all(&self) {
        let sessions: Vec<_> = self.open().values().map(|kept| Arc::clone(&kept.session)).collect();
        for session in sessions {
            self.close(&session, CloseCode::Normal);
        }
        self.responders().abort_all();
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
        let config = self.config(identity, trust, &options);
        let basis = self.basis(identity.identifier(), to, &options)?;
        let opening = Opening { basis, ..Opening::new(options.mode, options.suite, to) };
        let initiator = Initiator::new(now(&self.router), config, opening, self.seed()?)?;
        let (session, inbox) = self.new_session();
        let guard = Unfinished { channels: self, session: &session };
        let driver =
            Driver { channels: self, session: &session, way: Path::Initiator { route, peer: None }, inbox };
        let established = driver.run(Handshake::Initiator(Box::new(initiator))).await?;
        std::mem::forget(guard);
        if options.resumable {
            let now = now(&self.router);
            self.tickets.keep(now, established.established.ticket(now, identity.identifier()));
        }
        self.establish(&session, established, None).await;
        Ok(Channel { channels: Arc::clone(self), session })
    }

    /// Accepts channels at the worker address `address`.
    pub(crate) fn accept(
        self: &Arc<Self>,
        address: Address,
        identity: &Identity,
        trust: Trust,
        options: &ChannelOptions,
    ) -> Result<ChannelListener, NodeError> {
        let config = self.config(identity, trust, options);
        let mut limits = self.limits.listener.clone();
        limits.allowed = options.accepts.clone().unwrap_or(limits.allowed);
        let resumes = limits.allowed.iter().any(|(mode, _)| mode.is_resumption());
        let handshakes = Handshakes::new(config, limits)?;
        let inside = FlowId::from_number(self.router.random());
        self.router.reach_mut().open_flow(inside, FlowKind::Channel, None);
        let accepting = Arc::new(Accepting {
            channels: Arc::clone(self),
            address: address.clone(),
            inside,
            resumes: resumes.then_some(identity.identifier()),
            handshakes: Mutex::new(handshakes),
            running: Mutex::default(),
        });
        self.router.add_step(&address, Arc::new(AcceptStep(Arc::clone(&accepting))))?;
        Ok(ChannelListener { accepting })
    }

    /// What an initiator's handshake rests on, as its mode asks for it. A ticket is taken out for good.
    fn basis(
        &self,
        local: Identifier,
        to: Option<Identifier>,
        options: &ChannelOptions,
    ) -> Result<Basis, NodeError> {
        let mode = options.mode;
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

    fn config(&self, identity: &Identity, trust: Trust, options: &ChannelOptions) -> Arc<HandshakeConfig> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        trust.pins().for_each(|identifier| known.pin(*identifier));
        Arc::new(HandshakeConfig {
            local: Arc::clone(&identity.local),
            trust: Arc::new(trust),
            known: Arc::clone(&self.known),
            bases: Bases {
                psks: options.psks.clone(),
                introductions: options.introductions.iter().map(Introduction::payload).collect(),
                tickets: self.tickets.shared(),
            },
            backend: options.backend,
            app: options.app.clone(),
            profile: Profile::Live,
            padding: options.padding,
        })
    }

    /// What a peer needs to replace the accepted channel with this `hs_id`.
    fn predecessor(&self, hs_id: &[u8; 32]) -> Option<Predecessor> {
        let open = self.open();
        let mut accepted = open.values().filter(|kept| kept.accepted.is_some());
        accepted.find_map(|kept| kept.session.predecessor(hs_id))
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
        session: &Arc<Session>,
        finished: Finished,
        accepted: Option<(Arc<Accepting>, HandshakeId)>,
    ) {
        let Finished { established, onward } = finished;
        let Established { session: records, peer, early, .. } = *established;
        let flow = FlowId::from_number(self.router.random());
        let encryptor_id = self.router.random();
        let encryptor = Address::random(encryptor_id);
        let parent = accepted.as_ref().map(|(accepting, _)| accepting.inside);
        {
            let mut reach = self.router.reach_mut();
            reach.open_flow(flow, FlowKind::Channel, parent);
            reach.set_egress(flow, encryptor_id);
        }
        session.open(Opened {
            flow,
            peer: peer.identifier(),
            encryptor: encryptor.clone(),
            onward,
            session: records,
        });
        let _ = self.router.add_step(&encryptor, Arc::new(Encryptor(Arc::clone(session))));
        self.open().insert(session.id, Kept { session: Arc::clone(session), accepted });
        self.learned.store(true, Ordering::Relaxed);
        session.receive_early(&self.router, early).await;
    }

    /// Ends a channel and forgets it.
    fn close(&self, session: &Arc<Session>, code: CloseCode) {
        session.send_close(&self.router, code);
        self.forget(session);
        if let Some(encryptor) = session.encryptor() {
            self.router.remove(encryptor);
        }
        if let Some(flow) = session.flow() {
            self.router.flow_lost(flow, true);
        }
        if let Some(Kept { accepted: Some((accepting, id)), .. }) = self.open().remove(&session.id) {
            accepting.handshakes().ended(id);
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

    fn open(&self) -> MutexGuard<'_, HashMap<u128, Kept>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn responders(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.responders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The histories learned so far, to be stored.
    pub(crate) fn histories(&self) -> Vec<Arc<VerifiedHistory>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).histories().cloned().collect()
    }
}

/// Takes a session's address away when its handshake came to nothing.
struct Unfinished<'a> {
    channels: &'a Channels,
    session: &'a Session,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.channels.forget(self.session);
    }
}

/// A channel listener.
struct Accepting {
    channels: Arc<Channels>,
    address: Address,
    /// The parent flow of all channels accepted here: what it exposes, they do.
    inside: FlowId,
    /// The identity whose channels can be resumed here, if they can.
    resumes: Option<Identifier>,
    handshakes: Mutex<Handshakes>,
    running: Mutex<HashMap<HandshakeId, Running>>,
}

/// A half-open handshake and the task that drives it.
struct Running {
    session: Arc<Session>,
    task: tokio::task::AbortHandle,
}

impl Accepting {
    fn handshakes(&self) -> MutexGuard<'_, Handshakes> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<HandshakeId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, id: HandshakeId, responder: Box<Responder>, back: Route) {
        let (session, inbox) = self.channels.new_session();
        let (accepting, driven) = (Arc::clone(self), Arc::clone(&session));
        // The entry is made before the task may remove it.
        let mut running = self.running();
        let task = self.channels.responders().spawn(async move {
            let channels = Arc::clone(&accepting.channels);
            let guard = Unfinished { channels: &channels, session: &driven };
            let driver =
                Driver { channels: &channels, session: &driven, way: Path::Responder { back }, inbox };
            let finished = driver.run(Handshake::Responder(responder)).await;
            accepting.running().remove(&id);
            match finished {
                Ok(finished) => {
                    std::mem::forget(guard);
                    accepting.handshakes().established(id);
                    if let Some(local) = accepting.resumes {
                        let now = now(&channels.router);
                        channels.tickets.keep(now, finished.established.ticket(now, local));
                    }
                    channels.establish(&driven, finished, Some((accepting, id))).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "a handshake failed");
                    accepting.handshakes().ended(id);
                }
            }
        });
        running.insert(id, Running { session, task });
    }

    fn evict(&self, id: HandshakeId) {
        if let Some(Running { session, task }) = self.running().remove(&id) {
            task.abort();
            self.channels.forget(&session);
        }
    }
}

/// The step at a channel listener's address.
struct AcceptStep(Arc<Accepting>);

impl Step for AcceptStep {
    fn step(&self, router: &Arc<Router>, message: Message, _: Option<Charge>) -> Next {
        let accepting = &self.0;
        let Ok(seed) = accepting.channels.seed() else { return Next::Done(Some(message)) };
        let behind = message.ret().iter().nth(1).map_or(&[][..], |address| address.encoded());
        let first = FirstMessage {
            flow: u128::from_be_bytes(message.flow().to_bytes()),
            behind,
            packet: message.payload(),
        };
        let verdict = accepting.handshakes().receive(now(router), first, seed);
        match verdict {
            Verdict::Drop => {}
            Verdict::Retry(packet) => {
                let back = Message::with_body(message.ret(), RouteRef::default(), packet.into());
                if let Err(error) = router.try_send(back) {
                    tracing::debug!(%error, "a cookie was not sent");
                }
            }
            Verdict::Accept { id, responder, evicted } => {
                if let Some(evicted) = evicted {
                    accepting.evict(evicted);
                }
                accepting.start(id, responder, message.ret().to_owned());
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
    way: Path,
    inbox: mpsc::Receiver<Arrived>,
}

/// A finished handshake and the route of its records.
struct Finished {
    established: Box<Established>,
    onward: Route,
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
                        let found = self.channels.predecessor(&hs_id);
                        handshake.handle(now(router), Input::Found(found));
                    }
                    Output::Spend(role, id) => self.channels.tickets.erase(role, id)?,
                    Output::Established(established) => {
                        let onward = self.way.to(To::Peer).ok_or(NodeError::Misuse("no way to the peer"))?;
                        return Ok(Finished { established, onward });
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
        let message = Message::with_body(onward.as_ref(), ret.as_ref(), packet.into());
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
