//! The data path of a secure channel: two steps that seal and open on the sender's task.
//!
//! The *encryptor* is a transport sender: messages from local workers are encoded and sealed straight
//! into the buffer of the connection they leave by. The *session* is an ingress: records are opened and
//! the messages in them go on from there. Protocol decisions are `onward-channels`'; routes are decided
//! here only as docs/protocol.md §3.2 *Addressing* and §3.4 *Return-route updates* say.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use onward_channels::identity::Identifier;
use onward_channels::{
    BODY_MAX, Binding, ChannelError, CloseCode, Confirmation, Content, Due, Established, FRAGMENT_HEAD_BYTES,
    FrameType, HEAD_ROOM, Now, Opener, PlannedFragment, Predecessor, Reassembly, Role, Sealer,
};
use onward_routing::{Address, ErrorCode, FlowId, LENGTH_HEAD, Message, Route, RouteRef};
use onward_workers::{Charge, FrameSink, Next, Recent, Router, Step};
use tokio::sync::mpsc;

use crate::channel::{Channels, Finished};
use crate::line::Line;

/// A grant may make a message's return route this much longer than it was when room was taken for it.
const GRANT_GROWTH: usize = 37;

/// A packet that reached a session address while its handshake runs.
pub(crate) struct Arrived {
    pub(crate) packet: Vec<u8>,
    /// The way back to who sent it.
    pub(crate) ret: Route,
}

/// One end of a channel, from its first handshake message to its close.
pub(crate) struct Session {
    pub(crate) id: u128,
    /// Where the handshake's driver waits for packets, until the channel is ready.
    inbox: Mutex<Option<mpsc::Sender<Arrived>>>,
    ready: OnceLock<Ready>,
    /// Why it is over, once it is.
    ended: OnceLock<CloseCode>,
    /// Another session carries the channel: the end of this one is not the channel's.
    replaced: AtomicBool,
}

/// What a session's timers call for, or its peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tick {
    /// This end, the initiator, starts a new handshake.
    Renew,
    /// Close it with this code.
    Close(CloseCode),
    /// It is over, and this is why.
    Ended(CloseCode),
}

/// What an established channel consists of.
struct Ready {
    /// The session address.
    id: u128,
    /// Who is told when the peer closes it.
    channels: Weak<Channels>,
    line: Weak<Line>,
    flow: FlowId,
    peer: Identifier,
    encryptor: Address,
    /// `None` once the session is over: its keys are wiped.
    sealing: Mutex<Option<Sealing>>,
    /// As `sealing`; locked before it where both are.
    opening: Mutex<Option<Opening>>,
    /// Where the messages in the records go.
    recent: Mutex<Recent>,
}

struct Sealing {
    sealer: Sealer,
    way: Way,
    /// The initiator keeps its configured route; the responder follows the peer.
    follows: bool,
}

struct Opening {
    opener: Opener,
    reassembly: Option<Box<Reassembly>>,
    binding: Binding,
    confirmation: Confirmation,
    /// The peer has sent more than what belongs to the handshake.
    used: bool,
}

/// The way records leave: the route to the peer's session, and the egress at its beginning.
struct Way {
    onward: Route,
    /// The connection the route begins with, once it is known to take whole frames.
    sink: Option<Arc<dyn Step>>,
    /// How often that connection had been lost when it was last looked at; `None` before there was one.
    losses: Option<u64>,
    /// What stands in front of the payload of every frame.
    prefix: Vec<u8>,
}

/// What opening a record led to.
enum Received {
    /// A message for a worker of this node.
    Message(Message),
    /// Nothing for anybody.
    Nothing,
    /// The peer wants this end's CONFIRM again.
    Confirm,
    /// The peer closed the session.
    Closed(CloseCode),
}

impl Session {
    pub(crate) fn new(id: u128, inbox: mpsc::Sender<Arrived>) -> Arc<Self> {
        Arc::new(Self {
            id,
            inbox: Mutex::new(Some(inbox)),
            ready: OnceLock::new(),
            ended: OnceLock::new(),
            replaced: AtomicBool::new(false),
        })
    }

    /// The handshake is finished: records are opened here from now on, as those of `line`. Returns what came early.
    pub(crate) fn open(
        &self,
        channels: &Arc<Channels>,
        line: &Arc<Line>,
        finished: Finished,
    ) -> Vec<Vec<u8>> {
        let Finished { established, onward, mut inbox } = finished;
        let Established { session, mut early, .. } = *established;
        let onward_channels::Session { sealer, opener, binding, confirmation } = session;
        let follows = sealer.role() == Role::Responder;
        let way = Way::new(onward, self.id);
        let ready = Ready {
            id: self.id,
            channels: Arc::downgrade(channels),
            line: Arc::downgrade(line),
            flow: line.flow,
            peer: line.peer,
            encryptor: line.encryptor.clone(),
            sealing: Mutex::new(Some(Sealing { sealer, way, follows })),
            opening: Mutex::new(Some(Opening {
                opener,
                reassembly: None,
                binding,
                confirmation,
                used: false,
            })),
            recent: Mutex::default(),
        };
        let _ = self.ready.set(ready);
        *lock(&self.inbox) = None;
        // What came behind the handshake's last message.
        while let Ok(arrived) = inbox.try_recv() {
            early.push(arrived.packet);
        }
        early
    }

    /// What a handshake needs to replace it, as long as it is open.
    pub(crate) fn predecessor(&self) -> Option<Predecessor> {
        lock(&self.ready.get()?.opening).as_ref().map(|opening| opening.binding.predecessor())
    }

    /// Whether it is open and has this `hs_id`.
    pub(crate) fn is(&self, hs_id: &[u8; 32]) -> bool {
        let is_it = |ready: &Ready| {
            lock(&ready.opening).as_ref().is_some_and(|opening| opening.binding.id() == hs_id)
        };
        self.ready.get().is_some_and(is_it)
    }

    /// Whether the peer has sent anything by it since it is ready.
    pub(crate) fn was_used(&self) -> bool {
        let used = |ready: &Ready| lock(&ready.opening).as_ref().is_some_and(|opening| opening.used);
        self.ready.get().is_some_and(used)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Whether this end has reason to think that the peer lost the session: it is over, or nothing answers.
    pub(crate) fn is_lost(&self, router: &Router) -> bool {
        let now = now(router);
        let is_unanswered = |ready: &Ready| {
            lock(&ready.sealing).as_ref().is_none_or(|sealing| sealing.sealer.is_unanswered(now))
        };
        self.is_over() || self.ready.get().is_some_and(is_unanswered)
    }

    /// Another session carries the channel from now on; this one only opens what is under way.
    pub(crate) fn replace(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }

    /// Ends it and wipes its keys; nothing is sent.
    pub(crate) fn wipe(&self, code: CloseCode) {
        let _ = self.ended.set(code);
        if let Some(ready) = self.ready.get() {
            *lock(&ready.opening) = None;
            *lock(&ready.sealing) = None;
        }
    }

    /// Opens records that came while the handshake ran, and hands their messages on.
    pub(crate) async fn receive_early(self: &Arc<Self>, router: &Arc<Router>, early: Vec<Vec<u8>>) {
        let Some(ready) = self.ready.get() else { return };
        for mut record in early {
            match ready.receive(router, &mut record, None) {
                Received::Message(message) => router.deliver(message).await,
                Received::Closed(code) => self.closed_by_peer(router, ready, code),
                Received::Confirm | Received::Nothing => {}
            }
        }
    }

    /// The peer has closed it. The channel learns of that at once, unless another session carries it.
    fn closed_by_peer(&self, router: &Router, ready: &Ready, code: CloseCode) {
        self.wipe(code);
        if self.replaced.load(Ordering::Relaxed) {
            return;
        }
        router.flow_lost(ready.flow, false);
        if let (Some(channels), Some(line)) = (ready.channels.upgrade(), ready.line.upgrade()) {
            channels.look_after(&line);
        }
    }

    /// Does what the session's timers call for; the rest is its channel's.
    pub(crate) fn tick(&self, router: &Arc<Router>) -> Option<Tick> {
        let ready = self.ready.get()?;
        if let Some(code) = self.ended.get() {
            return Some(Tick::Ended(*code));
        }
        let now = now(router);
        if let Some(opening) = &mut *lock(&ready.opening) {
            opening.opener.erase_expired(now);
            if let Some(reassembly) = &mut opening.reassembly {
                reassembly.expire(now);
                if reassembly.held_bytes() == 0 {
                    opening.reassembly = None;
                }
            }
        }
        loop {
            let due = {
                let mut sealing = lock(&ready.sealing);
                let Sealing { sealer, way, .. } = sealing.as_mut()?;
                if way.was_cut() {
                    sealer.suspect(now);
                }
                (sealer.due(now)?, sealer.role())
            };
            let frame_type = match due {
                (Due::Close(code), _) => return Some(Tick::Close(code)),
                (Due::Renew, Role::Initiator) => return Some(Tick::Renew),
                (Due::Renew, Role::Responder) => FrameType::Rehandshake,
                (Due::KeepAlive, _) => FrameType::KeepAlive,
            };
            if !self.send_control(router, |sealer, out| sealer.seal_empty(now, frame_type, out)) {
                return None;
            }
        }
    }

    /// Lets the peer hear that this end uses the session.
    pub(crate) fn announce(&self, router: &Arc<Router>) {
        let now = now(router);
        self.send_control(router, |sealer, out| sealer.seal_empty(now, FrameType::KeepAlive, out));
    }

    /// Tells the peer that the session is over, and wipes its keys.
    pub(crate) fn close(&self, router: &Arc<Router>, code: CloseCode) {
        if self.ended.set(code).is_ok() {
            let now = now(router);
            self.send_control(router, |sealer, out| sealer.seal_close(now, code, out));
        }
        self.wipe(code);
    }

    /// Seals a frame of the channel's own and sends it if there is room; the peer has timers of its own. `false` if
    /// it could not even be sealed.
    fn send_control<T>(
        &self,
        router: &Arc<Router>,
        seal: impl FnOnce(&mut Sealer, &mut Vec<u8>) -> Result<T, ChannelError>,
    ) -> bool {
        let message = self.ready.get().and_then(|ready| ready.control(seal));
        let is_sealed = message.is_some();
        if let Some(Err(error)) = message.map(|message| router.try_send(message)) {
            tracing::debug!(%error, "a control record was not sent");
        }
        is_sealed
    }

    fn confirm_if(&self, router: &Arc<Router>, wanted: impl FnOnce(&Confirmation) -> bool) {
        let Some(ready) = self.ready.get() else { return };
        let now = now(router);
        let message = match &*lock(&ready.opening) {
            Some(opening) if wanted(&opening.confirmation) => {
                ready.control(|sealer, out| sealer.seal_confirm(now, &opening.confirmation, out))
            }
            _ => return,
        };
        if let Some(Err(error)) = message.map(|message| router.try_send(message)) {
            tracing::debug!(%error, "a confirmation was not sent");
        }
    }

    /// Hands a packet to the handshake's driver, if it still runs; more than it takes are dropped, their
    /// sender repeats.
    pub(crate) fn hand_to_driver(&self, packet: &[u8], ret: RouteRef<'_>) -> bool {
        let inbox = lock(&self.inbox);
        if let Some(inbox) = &*inbox {
            let _ = inbox.try_send(Arrived { packet: packet.to_vec(), ret: ret.to_owned() });
        }
        inbox.is_some()
    }

    /// Seals one message and hands it to the connection; see [`Step::step`].
    fn seal(&self, router: &Arc<Router>, mut message: Message, charge: Option<Charge>) -> Next {
        let Some(ready) = self.ready.get() else { return Next::Refused(ErrorCode::Unreachable, message) };
        let mut sealing = lock(&ready.sealing);
        let Some(Sealing { sealer, way, .. }) = &mut *sealing else {
            return Next::Refused(ErrorCode::Unreachable, message);
        };
        way.find_sink(router, self.id);
        let Some(step) = way.sink.clone() else {
            return self.seal_for_steps(router, ready, sealer, way, message);
        };
        let Some(sink) = step.as_sink() else { return Next::Refused(ErrorCode::Unreachable, message) };
        let body_max = way.body_max(sealer, sink.frame_max());
        let bytes = way.frames_bytes(sealer, message.encoded_len() + GRANT_GROWTH, body_max);
        if !charge.is_some_and(|charge| charge.spend(sink.room(), bytes)) && !sink.room().try_take(bytes) {
            if sink.room().is_closed() {
                way.sink = None;
                return Next::Refused(ErrorCode::Unreachable, message);
            }
            return Next::Full(Arc::clone(sink.room()), bytes, message);
        }
        if let Err(code) = router.depart(&mut message, ready.flow) {
            sink.room().give(bytes);
            return Next::Refused(code, message);
        }
        let now = now(router);
        let sealed = if message.encoded_len() <= body_max {
            way.append_record(sealer, now, sink, bytes, &message)
        } else {
            way.append_fragments(sealer, now, sink, bytes, &message, body_max - FRAGMENT_HEAD_BYTES)
        };
        match sealed {
            Ok(()) => Next::Done(Some(message)),
            Err(code) => {
                way.sink = None;
                Next::Refused(code, message)
            }
        }
    }

    /// The way of a route that begins with a step of this node, not with a connection: the record
    /// becomes a message of its own.
    fn seal_for_steps(
        &self,
        router: &Arc<Router>,
        ready: &Ready,
        sealer: &mut Sealer,
        way: &Way,
        mut message: Message,
    ) -> Next {
        if message.encoded_len() + GRANT_GROWTH > BODY_MAX {
            // Only one message can go on from here.
            return Next::Refused(ErrorCode::TooBig, message);
        }
        if let Err(code) = router.depart(&mut message, ready.flow) {
            return Next::Refused(code, message);
        }
        let mut record = Vec::new();
        let body = message.encoded_len();
        match sealer.seal_into(now(router), FrameType::Data, body, |out| message.encode(out), &mut record) {
            Ok(_) => Next::Forward(way.message(self.id, record)),
            Err(_) => Next::Refused(ErrorCode::TooBig, message),
        }
    }
}

impl Way {
    fn new(onward: Route, session: u128) -> Self {
        let ret = Route::from(Address::random(session));
        let mut template = Message::new(onward.rest(), ret.as_ref(), &[]);
        template.set_hops(template.hops() - 1);
        let mut prefix = Vec::new();
        template.encode_routes(&mut prefix);
        prefix.shrink_to_fit();
        Self { onward, sink: None, losses: None, prefix }
    }

    /// Finds the egress the route begins with, and lets the peer answer by it.
    fn find_sink(&mut self, router: &Arc<Router>, session: u128) {
        let lost = |step: &Arc<dyn Step>| step.as_sink().is_none_or(|sink| sink.room().is_closed());
        if self.sink.as_ref().is_some_and(|step| !lost(step)) {
            return;
        }
        self.sink =
            self.onward.as_ref().first().and_then(|first| router.sink(first)).filter(|step| !lost(step));
        if let Some(sink) = self.sink.as_ref().and_then(|step| step.as_sink()) {
            router.reach_mut().admit_session(session, sink.flow());
            self.losses.get_or_insert(sink.losses());
        }
    }

    /// Whether the connection was lost since the last call.
    fn was_cut(&mut self) -> bool {
        let Some(known) = self.losses else { return false };
        let now = match self.sink.as_ref().and_then(|step| step.as_sink()) {
            Some(sink) if !sink.room().is_closed() => Some(sink.losses()),
            // The next one, if there is one, begins anew.
            _ => None,
        };
        self.losses = now;
        now != Some(known)
    }

    /// A message that carries a record.
    fn message(&self, session: u128, record: Vec<u8>) -> Message {
        let ret = Route::from(Address::random(session));
        Message::with_body(self.onward.as_ref(), ret.as_ref(), &record.into())
    }

    /// Bytes of the frame around a record of `record` bytes.
    fn frame_bytes(&self, record: usize) -> usize {
        LENGTH_HEAD + self.prefix.len() + Message::payload_head_len(record) + record + 1
    }

    /// Bytes of the longest body whose record is no longer than a frame of `frame_max` bytes can carry.
    fn body_max(&self, sealer: &Sealer, frame_max: usize) -> usize {
        let mut body = BODY_MAX;
        loop {
            let frame = self.frame_bytes(sealer.sealed_bytes(body)) - LENGTH_HEAD;
            let excess = frame.saturating_sub(frame_max);
            if excess == 0 || body <= excess + FRAGMENT_HEAD_BYTES {
                return body;
            }
            // Padding makes a shorter body take as much, so that one step may not be enough.
            body -= excess;
        }
    }

    /// Bytes of all frames for a message of `length` bytes, with bodies of at most `body_max`.
    fn frames_bytes(&self, sealer: &Sealer, length: usize, body_max: usize) -> usize {
        if length <= body_max {
            return self.frame_bytes(sealer.sealed_bytes(length));
        }
        let pieces = length.div_ceil(body_max - FRAGMENT_HEAD_BYTES);
        pieces * self.frame_bytes(sealer.sealed_bytes(body_max))
    }

    /// Seals `message` as one record inside the buffer of `sink`.
    fn append_record(
        &self,
        sealer: &mut Sealer,
        now: Now,
        sink: &dyn FrameSink,
        bytes: usize,
        message: &Message,
    ) -> Result<(), ErrorCode> {
        let body = message.encoded_len();
        self.append(sealer, now, sink, bytes, FrameType::Data, body, &mut |out| message.encode(out))
    }

    /// Seals a message that does not fit one record as several.
    fn append_fragments(
        &self,
        sealer: &mut Sealer,
        now: Now,
        sink: &dyn FrameSink,
        bytes: usize,
        message: &Message,
        piece_max: usize,
    ) -> Result<(), ErrorCode> {
        let mut encoded = Vec::with_capacity(message.encoded_len());
        message.encode(&mut encoded);
        let plan = sealer.plan_fragments(encoded.len(), piece_max).map_err(|_| ErrorCode::TooBig)?;
        // The first frame carries the charge of all; the rest is written under it.
        let mut charged = bytes;
        for PlannedFragment { head, range } in plan {
            let piece = &encoded[range];
            let body = head.len() + piece.len();
            self.append(sealer, now, sink, charged, FrameType::Fragment, body, &mut |out| {
                out.extend_from_slice(&head);
                out.extend_from_slice(piece);
            })?;
            charged = 0;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one frame: its parts, and where they go")]
    fn append(
        &self,
        sealer: &mut Sealer,
        now: Now,
        sink: &dyn FrameSink,
        charged: usize,
        frame_type: FrameType,
        body: usize,
        write_body: &mut dyn FnMut(&mut Vec<u8>),
    ) -> Result<(), ErrorCode> {
        let mut sealed = Ok(());
        let record = sealer.sealed_bytes(body);
        sink.append(charged, &mut |out| {
            out.extend_from_slice(&self.prefix);
            Message::encode_payload_head(record, out);
            sealed = sealer.seal_into(now, frame_type, body, &mut *write_body, out).map(drop);
            out.push(0xf6);
        })
        .map_err(|_| ErrorCode::Unreachable)?;
        sealed.map_err(|_| ErrorCode::Unreachable)
    }
}

/// An opened record, with what it says taken out of the memory it was opened in.
enum Record {
    /// An encoded message, in the record from [`HEAD_ROOM`] on.
    Data(Range<usize>),
    /// A message that came in pieces.
    Whole(Vec<u8>),
    /// The initiator confirms again: the CONFIRM that answered it was lost.
    Confirm,
    Close(CloseCode),
    Nothing,
}

impl Ready {
    /// A message that carries a frame of the channel's own.
    fn control<T>(
        &self,
        seal: impl FnOnce(&mut Sealer, &mut Vec<u8>) -> Result<T, ChannelError>,
    ) -> Option<Message> {
        let mut sealing = lock(&self.sealing);
        let sealing = sealing.as_mut()?;
        let mut record = Vec::new();
        seal(&mut sealing.sealer, &mut record).ok()?;
        Some(sealing.way.message(self.id, record))
    }

    /// Opens one record in place and follows the peer to where the newest one came from.
    fn open(&self, router: &Arc<Router>, record: &mut [u8], ret: Option<&Route>) -> Record {
        let now = now(router);
        let mut opening = lock(&self.opening);
        let Some(Opening { opener, reassembly, confirmation, used, .. }) = &mut *opening else {
            return Record::Nothing;
        };
        let Ok(frame) = opener.open_in_place(now, record) else { return Record::Nothing };
        let newest = frame.newest;
        *used |= !matches!(frame.content, Content::Confirm(_));
        let opened = match frame.content {
            Content::Data(encoded) => Record::Data(HEAD_ROOM..HEAD_ROOM + encoded.len()),
            Content::Fragment(fragment) => {
                let reassembly = reassembly.get_or_insert_with(Box::default);
                match reassembly.push(now, fragment) {
                    Ok(Some(whole)) => Record::Whole(whole),
                    _ => Record::Nothing,
                }
            }
            Content::Confirm(_) if confirmation.answers_confirms() => Record::Confirm,
            Content::Close { code, .. } => Record::Close(code),
            Content::Rehandshake => {
                self.want_renewal();
                Record::Nothing
            }
            _ => Record::Nothing,
        };
        drop(opening);
        if let (true, Some(ret)) = (newest, ret) {
            self.follow(ret);
        }
        opened
    }

    /// Opens a record in memory of its own.
    fn receive(&self, router: &Arc<Router>, record: &mut [u8], ret: Option<&Route>) -> Received {
        match self.open(router, record, ret) {
            Record::Data(range) => {
                self.take_in(router, Message::decode(&record[range], router.limits().payload_bytes))
            }
            other => self.receive_rest(router, other),
        }
    }

    /// Opens a record that shares memory with others: in a copy, unless it is the last to share it. A
    /// large payload stays where it was opened.
    fn receive_shared(&self, router: &Arc<Router>, body: Bytes, ret: Option<&Route>) -> Received {
        let mut record = body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        match self.open(router, &mut record, ret) {
            Record::Data(range) => {
                let encoded = record.freeze().slice(range);
                self.take_in(router, Message::decode_shared(&encoded, router.limits().payload_bytes))
            }
            other => self.receive_rest(router, other),
        }
    }

    fn receive_rest(&self, router: &Arc<Router>, opened: Record) -> Received {
        match opened {
            Record::Whole(whole) => {
                let whole = Bytes::from(whole);
                self.take_in(router, Message::decode_shared(&whole, router.limits().payload_bytes))
            }
            Record::Confirm => Received::Confirm,
            Record::Close(code) => Received::Closed(code),
            Record::Data(_) | Record::Nothing => Received::Nothing,
        }
    }

    /// Marks a message that came through the channel as an ingress does.
    fn take_in(
        &self,
        router: &Arc<Router>,
        decoded: Result<Message, onward_routing::DecodeError>,
    ) -> Received {
        let Ok(mut message) = decoded else { return Received::Nothing };
        message.set_flow(self.flow);
        message.clamp_hops();
        if message.onward().is_empty() || message.prepend_return(self.encryptor.as_ref()).is_err() {
            router.report(message, ErrorCode::HopLimit);
            return Received::Nothing;
        }
        Received::Message(message)
    }

    /// Moves the responder's way back to where the newest authentic record came from.
    ///
    /// Which flows a session is reachable by was checked before the record came here.
    fn follow(&self, ret: &Route) {
        if let Some(Sealing { way, follows: true, .. }) = &mut *lock(&self.sealing)
            && !ret.is_empty()
            && way.onward != *ret
        {
            *way = Way::new(ret.clone(), self.id);
        }
    }

    /// The peer asks for a new handshake, which only an initiator starts.
    fn want_renewal(&self) {
        if let Some(Sealing { sealer, .. }) = &*lock(&self.sealing)
            && sealer.role() == Role::Initiator
        {
            sealer.want_renewal();
        }
    }
}

impl Step for Session {
    /// What reaches the session address: a handshake message or a record.
    fn step(&self, router: &Arc<Router>, mut message: Message, _: Option<Charge>) -> Next {
        if self.ready.get().is_none() && self.hand_to_driver(message.payload(), message.ret()) {
            return Next::Done(Some(message));
        }
        // It became ready in between, or never will.
        let Some(ready) = self.ready.get() else { return Next::Done(Some(message)) };
        if message.payload().first() == Some(&0x89) {
            // The last message of the handshake again: its CONFIRM was lost.
            self.confirm_if(router, |confirmation| confirmation.is_repeated(message.payload()));
            return Next::Done(Some(message));
        }
        // Only the responder follows, and only then is the way back worth copying.
        let ret = match &*lock(&ready.sealing) {
            Some(Sealing { way, follows: true, .. }) if way.onward.as_ref() != message.ret() => {
                Some(message.ret().to_owned())
            }
            _ => None,
        };
        let received = match message.take_body() {
            Some(body) => ready.receive_shared(router, body, ret.as_ref()),
            None => match message.inline_mut() {
                Some(record) => ready.receive(router, record, ret.as_ref()),
                None => Received::Nothing,
            },
        };
        match received {
            Received::Message(inner) => {
                message.recycle();
                lock(&ready.recent).forward(router, inner)
            }
            Received::Nothing => Next::Done(Some(message)),
            Received::Confirm => {
                self.confirm_if(router, |_| true);
                Next::Done(Some(message))
            }
            Received::Closed(code) => {
                self.closed_by_peer(router, ready, code);
                Next::Done(Some(message))
            }
        }
    }
}

/// The step at a channel's encryptor address: the way in for messages of local workers.
pub(crate) struct Encryptor(pub(crate) Arc<Session>);

impl Step for Encryptor {
    fn step(&self, router: &Arc<Router>, message: Message, charge: Option<Charge>) -> Next {
        self.0.seal(router, message, charge)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.ready.get().map(|ready| ready.peer))
            .field("over", &self.is_over())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of the record layer, which has no use for the wall clock.
fn now(router: &Router) -> Now {
    Now { mono: router.now(), unix: 0 }
}
