//! Queues at an MQTT 5 broker, such as Mosquitto.
//!
//! MQTT knows no queues, only sessions: what is published while nobody has a session that subscribes is gone. So
//! a mailbox is a session that outlives its connections, whose client identifier is the subject. Whoever
//! publishes and is told that nobody subscribes makes that session first, and whoever receives takes
//! it over; so a mailbox is received from by one process at a time.
//!
//! A broker acknowledges before its disk has anything and tells nobody how often it saves, so its class is
//! always `broker-memory`.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;
use core::future::ready;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, Weak};

use mqtt5::mqttbytes::QoS;
use mqtt5::{
    AckMode, AsyncClient, ConnectReturnCode, ConnectionError, Event, MqttOptions, Packet, PersistedAckMode,
    PersistedSession, PubAckReason, Publish as Packed, PublishOptions, PublishProperties, PublishResult,
    SessionStore, SessionStoreError, SessionStoreKey, SubscribeReasonCode,
};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::desk::{self, Arrival, Fetched, Slip, Source};
use super::server::{ANSWER, AWAY, Backoff, LIFETIME, UNUSED, admit};
use super::socket;
use super::{
    BoxFuture, Broker, BrokerAddress, Durability, MESSAGE_BYTES_MAX, Publish, QueueError, Server, Standing,
    Stored, Subject, Subscription, Warning,
};

/// Messages that a session hands out at once, to all its subscriptions together: what the first of them asked for, within
/// these bounds.
const UNSETTLED: core::ops::RangeInclusive<u16> = 64..=1024;
/// Requests that wait in a client.
const REQUESTS: usize = 256;
/// Seconds between signs of life.
const KEEP_ALIVE: u16 = 10;
/// Bytes that the head of a packet may add to a message.
const HEAD_BYTES: usize = 1024;
/// How long another process keeps a session that it took over, before it is tried to take it back.
const TAKEN_OVER: Duration = Duration::from_secs(30);

/// Queues at an MQTT 5 broker. Cheap to clone.
#[derive(Clone)]
pub struct MqttQueue(Arc<Shared>);

struct Shared {
    address: BrokerAddress,
    lines: watch::Receiver<Lines>,
    sessions: std::sync::Mutex<HashMap<Subject, Weak<Session>>>,
    _end: oneshot::Sender<()>,
}

/// A connection as long as it lasts.
#[derive(Clone)]
struct Line {
    /// Each has its own, and later ones have larger ones.
    number: u64,
    client: AsyncClient,
}

/// What there is of connections that follow each other.
#[derive(Clone)]
enum Lines {
    /// None now.
    None,
    /// One that can be used.
    One(Line),
    /// The broker let the last one connect and not subscribe; it is tried again.
    Refused(QueueError),
}

/// What is wanted of a connection.
struct Wanted {
    address: BrokerAddress,
    /// The session that it continues, if it receives, and how many messages that hands out at once.
    session: Option<(Subject, u16)>,
    lines: watch::Sender<Lines>,
    messages: mpsc::UnboundedSender<(Line, Packed)>,
}

impl MqttQueue {
    /// Connects.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`], [`QueueError::Refused`], and those of reading credentials.
    ///
    /// # Cancel safety
    /// It is not connected then.
    pub async fn connect(address: &BrokerAddress) -> Result<Self, QueueError> {
        let (sender, lines) = watch::channel(Lines::None);
        // Nothing is received by this connection.
        let (messages, _) = mpsc::unbounded_channel();
        let wanted = Wanted { address: address.clone(), session: None, lines: sender, messages };
        let (end, ended) = oneshot::channel();
        let (first, begun) = oneshot::channel();
        tokio::spawn(wanted.keep(Some(first), ended));
        match timeout(ANSWER, begun).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => return Err(error),
            _ => return Err(QueueError::Unreachable(None)),
        }
        let sessions = std::sync::Mutex::default();
        Ok(Self(Arc::new(Shared { address: address.clone(), lines, sessions, _end: end })))
    }

    async fn store(&self, message: Publish) -> Result<Stored, QueueError> {
        admit(&message)?;
        let line = line(&self.0.lines, AWAY).await?;
        let mut reason = publish(&line, &message).await?;
        if reason == PubAckReason::NoMatchingSubscribers {
            // As long as it is held here, there is one who subscribes.
            let session = self.session(&message.subject, *UNSETTLED.start());
            session.line(ANSWER).await?;
            reason = publish(&line, &message).await?;
        }
        match reason {
            PubAckReason::Success => Ok(Stored { durability: Durability::BrokerMemory, is_duplicate: false }),
            PubAckReason::QuotaExceeded => {
                Err(QueueError::QuotaExceeded { quota: "the broker's own", limit: 0 })
            }
            PubAckReason::NoMatchingSubscribers => Err(QueueError::Unreachable(None)),
            reason => Err(refused(reason)),
        }
    }

    /// The session of a subject, which all of this process share; who makes it says how much it hands out.
    fn session(&self, subject: &Subject, unsettled: u16) -> Arc<Session> {
        let mut sessions = self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(subject).and_then(Weak::upgrade) {
            return session;
        }
        sessions.retain(|_, session| session.strong_count() > 0);
        let session = Arc::new(Session::open(self.0.address.clone(), subject.clone(), unsettled));
        sessions.insert(subject.clone(), Arc::downgrade(&session));
        session
    }
}

impl Broker for MqttQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(self.store(message))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        Box::pin(async move {
            let most = u16::try_from(prefetch).unwrap_or(u16::MAX);
            let session = self.session(&subject, most.clamp(*UNSETTLED.start(), *UNSETTLED.end()));
            session.line(AWAY).await?;
            let taking = Taking { session, number: 0, next: None };
            Ok(desk::open(Arc::new(self.clone()), subject, taking, prefetch))
        })
    }
}

impl Server for MqttQueue {
    fn standing(&self) -> Standing {
        let warnings = vec![
            Warning::new(
                "a stop of the broker loses what came since it last saved, 30 min unless it is set",
                "autosave_interval 1 and autosave_on_changes true in mosquitto.conf",
            ),
            Warning::new(
                "what waits for a receiver beyond a number of messages, 1,000 unless it is set, is dropped",
                "max_queued_messages 0 in mosquitto.conf",
            ),
            Warning::new(
                "where another client subscribes to all topics, what is published before a mailbox was ever received \
                 from is lost: the broker says that somebody has it",
                "pattern read ow/v1/+/+ for onward alone, in the acl_file of mosquitto",
            ),
        ];
        Standing { software: "MQTT 5".to_owned(), durability: Durability::BrokerMemory, warnings }
    }
}

impl fmt::Debug for MqttQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttQueue").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// Publishes on this connection; what the broker says.
async fn publish(line: &Line, message: &Publish) -> Result<PubAckReason, QueueError> {
    let seconds = message.ttl.min(LIFETIME).as_millis().div_ceil(1000) as u32;
    let properties =
        PublishProperties { message_expiry_interval: Some(seconds), ..PublishProperties::default() };
    let options = PublishOptions::at_least_once().properties(properties);
    let published = async {
        let notice = line.client.publish_tracked(topic(&message.subject), message.bytes.clone(), options);
        notice.await.ok()?.wait_async().await.ok()
    };
    match timeout(ANSWER, published).await {
        Ok(Some(PublishResult::Qos1(ack))) => Ok(ack.reason),
        // Its connection ended, or nothing came.
        _ => Err(QueueError::Unknown),
    }
}

/// The connection, when there is one.
async fn line(lines: &watch::Receiver<Lines>, patience: Duration) -> Result<Line, QueueError> {
    let mut lines = lines.clone();
    let known = timeout(patience, lines.wait_for(|lines| !matches!(lines, Lines::None))).await;
    let known = known.map_err(|_| QueueError::Unreachable(None))?.map_err(|_| QueueError::Closed)?;
    match &*known {
        Lines::One(line) => Ok(line.clone()),
        Lines::Refused(error) => Err(error.clone()),
        Lines::None => Err(QueueError::Unreachable(None)),
    }
}

/// A mailbox at the broker, while somebody here receives from it.
struct Session {
    lines: watch::Receiver<Lines>,
    messages: Mutex<mpsc::UnboundedReceiver<(Line, Packed)>>,
    /// For what one subscription leaves to the others.
    again: mpsc::UnboundedSender<(Line, Packed)>,
    _end: oneshot::Sender<()>,
}

impl Session {
    fn open(address: BrokerAddress, subject: Subject, unsettled: u16) -> Self {
        let (sender, lines) = watch::channel(Lines::None);
        // The broker sends no more than `unsettled` that are not acknowledged.
        let (again, messages) = mpsc::unbounded_channel();
        let wanted =
            Wanted { address, session: Some((subject, unsettled)), lines: sender, messages: again.clone() };
        let (end, ended) = oneshot::channel();
        tokio::spawn(wanted.keep(None, ended));
        Self { lines, messages: Mutex::new(messages), again, _end: end }
    }

    async fn line(&self, patience: Duration) -> Result<Line, QueueError> {
        line(&self.lines, patience).await
    }
}

/// A subscription's part of a session.
struct Taking {
    session: Arc<Session>,
    /// The connection by which came what it handed out.
    number: u64,
    /// A message of a later connection.
    next: Option<(Line, Packed)>,
}

impl Source for Taking {
    type Slip = Packet5;

    async fn fetch(&mut self, most: usize) -> Fetched<Packet5> {
        let mut arrivals = Vec::new();
        let mut messages = self.session.messages.lock().await;
        let mut next = self.next.take();
        if next.is_none() {
            next = messages.recv().await;
        }
        while let Some((line, packed)) = next {
            if line.number > self.number {
                let is_first = self.number == 0;
                self.number = line.number;
                if !is_first {
                    // Everything older comes again by this connection.
                    self.next = Some((line, packed));
                    return Fetched::Lost;
                }
            }
            if line.number == self.number {
                arrivals.push(arrival(Arc::clone(&self.session), line, packed));
            }
            next = if arrivals.len() < most { messages.try_recv().ok() } else { None };
        }
        Fetched::Messages(arrivals)
    }

    async fn close(self) {
        if let Some((line, packed)) = self.next {
            arrival(self.session, line, packed).slip.give_back().await;
        }
    }
}

/// A message of a session, and the connection it came by.
#[derive(Clone)]
struct Packet5 {
    session: Arc<Session>,
    line: Line,
    packed: Packed,
}

impl Slip for Packet5 {
    async fn acknowledge(self) -> Result<(), QueueError> {
        self.line.client.ack(&self.packed).await.map_err(|_| QueueError::Unknown)
    }

    async fn give_back(mut self) {
        self.packed.dup = true;
        // Others of this process have it next; if there are none, the broker has it still.
        let _ = self.session.again.send((self.line, self.packed));
    }
}

fn arrival(session: Arc<Session>, line: Line, packed: Packed) -> Arrival<Packet5> {
    let attempt = if packed.dup { 2 } else { 1 };
    Arrival { bytes: packed.payload.clone(), attempt, expires: None, slip: Packet5 { session, line, packed } }
}

impl Wanted {
    /// Keeps a connection up until its other half is dropped; `first` is told what came of the first attempt.
    async fn keep(
        self,
        mut first: Option<oneshot::Sender<Result<(), QueueError>>>,
        mut ended: oneshot::Receiver<()>,
    ) {
        let mut backoff = Backoff::new();
        for number in 1.. {
            let options = match self.options() {
                Ok(options) => options,
                Err(error) => {
                    tracing::debug!(%error, "MQTT");
                    if let Some(first) = first.take() {
                        // Whoever waited is told, or has gone.
                        let _ = first.send(Err(error));
                        return;
                    }
                    sleep(backoff.pause()).await;
                    continue;
                }
            };
            let (client, mut events) = AsyncClient::builder(options).capacity(REQUESTS).build();
            let line = Line { number, client };
            let mut is_taken = false;
            let failed = loop {
                tokio::select! {
                    _ = &mut ended => return,
                    event = events.poll() => match event {
                        Ok(event) => match self.notice(&line, event) {
                            Noticed::Usable => {
                                backoff = Backoff::new();
                                if let Some(first) = first.take() {
                                    let _ = first.send(Ok(()));
                                }
                            }
                            Noticed::Useless(error) => {
                                self.lines.send_replace(match &error {
                                    QueueError::Refused(_) => Lines::Refused(error.clone()),
                                    _ => Lines::None,
                                });
                                break error;
                            }
                            Noticed::Nothing => {}
                        },
                        Err(error) => {
                            tracing::debug!(%error, "MQTT");
                            self.lines.send_replace(Lines::None);
                            is_taken = is_taken_over(&error);
                            break refusal(error);
                        }
                    }
                }
            };
            if let Some(first) = first.take() {
                let _ = first.send(Err(failed));
                return;
            }
            let pause = if is_taken { TAKEN_OVER } else { backoff.pause() };
            tokio::select! {
                _ = &mut ended => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes note of what happened.
    fn notice(&self, line: &Line, event: Event) -> Noticed {
        match (event, &self.session) {
            (Event::Incoming(Packet::ConnAck(_)), Some((subject, _))) => {
                // Nothing waits in front of it yet. Also in a session that is there: whoever made it may have been gone
                // before it subscribed.
                let _ = line.client.try_subscribe(topic(subject), QoS::AtLeastOnce);
                Noticed::Nothing
            }
            (Event::Incoming(Packet::ConnAck(_)), None) => self.usable(line),
            (Event::Incoming(Packet::SubAck(ack)), _) => {
                let is_granted = |code: &_| matches!(code, SubscribeReasonCode::Success(QoS::AtLeastOnce));
                match ack.return_codes.into_iter().find(|code| !is_granted(code)) {
                    Some(code) => Noticed::Useless(denial(code)),
                    None => self.usable(line),
                }
            }
            (Event::Incoming(Packet::Publish(packed)), _) => {
                let _ = self.messages.send((line.clone(), packed));
                Noticed::Nothing
            }
            _ => Noticed::Nothing,
        }
    }

    fn usable(&self, line: &Line) -> Noticed {
        self.lines.send_replace(Lines::One(line.clone()));
        Noticed::Usable
    }

    fn options(&self) -> Result<MqttOptions, QueueError> {
        let identifier = match &self.session {
            Some((subject, _)) => subject.to_string(),
            None => {
                let random = getrandom::u64().map_err(|error| QueueError::Storage(Arc::new(error)))?;
                format!("onward-{random:016x}")
            }
        };
        let place = mqtt5::Broker::tcp(self.address.host(), self.address.port());
        let mut options = MqttOptions::new(identifier, place);
        let address = self.address.clone();
        options.set_socket_connector(move |_, _| {
            let address = address.clone();
            async move { socket::dial(&address).await }
        });
        options.set_keep_alive(KEEP_ALIVE);
        options.set_connect_timeout(ANSWER);
        options.set_max_packet_size(Some((MESSAGE_BYTES_MAX + HEAD_BYTES) as u32));
        if let Some((_, unsettled)) = self.session {
            options.set_clean_start(false);
            options.set_session_expiry_interval(Some(UNUSED.as_secs() as u32));
            options.set_receive_maximum(Some(unsettled));
            options.set_ack_mode(AckMode::Manual);
            options.set_session_store(Nothing);
        }
        if let Some(credentials) = self.address.credentials()? {
            options.set_credentials(credentials.user, credentials.password);
        }
        Ok(options)
    }
}

/// What the client knows of a session that is there: that nothing of it is under way here. Not knowing even that, it
/// would send nothing that needs a number, and so no subscription.
#[derive(Debug)]
struct Nothing;

impl SessionStore for Nothing {
    fn load<'a>(
        &'a self,
        key: &'a SessionStoreKey,
    ) -> BoxFuture<'a, Result<Option<PersistedSession>, SessionStoreError>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(UNUSED.as_secs() as u32),
            outgoing_inflight_upper_limit: None,
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(ready(Ok(Some(session))))
    }

    fn save<'a>(
        &'a self,
        _: &'a SessionStoreKey,
        _: &'a PersistedSession,
    ) -> BoxFuture<'a, Result<(), SessionStoreError>> {
        Box::pin(ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> BoxFuture<'a, Result<(), SessionStoreError>> {
        Box::pin(ready(Ok(())))
    }
}

/// What an event means for a connection.
enum Noticed {
    Nothing,
    /// It can be used from now on.
    Usable,
    /// The broker does not let it receive.
    Useless(QueueError),
}

/// The levels of a subject.
fn topic(subject: &Subject) -> String {
    subject.to_string().replace('.', "/")
}

fn is_taken_over(error: &ConnectionError) -> bool {
    use mqtt5::{DisconnectReasonCode, StateError};
    matches!(
        error,
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        })
    )
}

/// Why a subscription was not granted: what may pass is tried again, as a broker that is away is.
fn denial(code: SubscribeReasonCode) -> QueueError {
    match code {
        SubscribeReasonCode::Unspecified
        | SubscribeReasonCode::ImplementationSpecific
        | SubscribeReasonCode::PkidInUse
        | SubscribeReasonCode::QuotaExceeded => QueueError::Unreachable(None),
        code => refused(code),
    }
}

fn refused(code: impl fmt::Debug) -> QueueError {
    QueueError::Refused(Arc::new(io::Error::other(format!("{code:?}"))))
}

fn refusal(error: ConnectionError) -> QueueError {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => QueueError::Refused(Arc::new(error)),
        ConnectionError::Io(error) => QueueError::Unreachable(Some(Arc::new(error))),
        _ => QueueError::Unreachable(None),
    }
}

#[cfg(test)]
mod tests {
    use mqtt5::mqttbytes::v5::SubAck;

    use super::*;

    #[test]
    fn a_session_is_usable_only_when_all_of_its_subscription_is_granted() {
        let (lines, seen) = watch::channel(Lines::None);
        let (messages, _) = mpsc::unbounded_channel();
        let address = "mqtt://127.0.0.1".parse().unwrap();
        let wanted = Wanted { address, session: Some(("ow.v1.mb.a".parse().unwrap(), 64)), lines, messages };
        let (client, _events) = AsyncClient::builder(wanted.options().unwrap()).capacity(REQUESTS).build();
        let line = Line { number: 1, client };
        let said = |code| {
            let ack = SubAck { pkid: 1, return_codes: vec![code], properties: None };
            wanted.notice(&line, Event::Incoming(Packet::SubAck(ack)))
        };
        for refused in [SubscribeReasonCode::NotAuthorized, SubscribeReasonCode::Success(QoS::AtMostOnce)] {
            assert!(matches!(said(refused), Noticed::Useless(QueueError::Refused(_))));
            assert!(matches!(*seen.borrow(), Lines::None));
        }
        for passing in [SubscribeReasonCode::QuotaExceeded, SubscribeReasonCode::Unspecified] {
            assert!(matches!(said(passing), Noticed::Useless(QueueError::Unreachable(_))));
        }
        assert!(matches!(said(SubscribeReasonCode::Success(QoS::AtLeastOnce)), Noticed::Usable));
        assert!(matches!(*seen.borrow(), Lines::One(_)));
    }
}
