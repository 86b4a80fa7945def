//! Queues in Kafka.
//!
//! Kafka has logs, not queues, and few of them: the mailboxes of a lane are spread over [`SHARDS`] topics by a hash
//! of their names. A record has the mailbox as its key. Who receives from a mailbox reads the whole topic in a consumer
//! group of that mailbox, and passes what is not its own; so a mailbox is received from by one process at a time. A log is
//! acknowledged up to a place ([`offsets`]), and all else, pauses and dead letters among it, happens at the desk.
//!
//! Replication is what Kafka promises, not the disk. A receipt says so only where the topics were seen to have
//! two replicas that must both confirm.
//!
//! The client is librdkafka, with threads of its own. No header of a record is read: the client panics at names that are not UTF-8,
//! and anybody can write those. It is built without TLS, which would be a second implementation of it here.
//!
//! Specification: docs/protocol.md §2.3.

mod offsets;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures_util::FutureExt as _;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use self::offsets::{HELD_BACK, Offsets};
use super::desk::{self, Arrival, Fetched, LEASE, Slip, Source};
use super::head::Head;
use super::server::{ANSWER, AWAY, LIFETIME, admit};
use super::{
    BoxFuture, Broker, BrokerAddress, Durability, Lane, MESSAGE_BYTES_MAX, Publish, QueueError, Server,
    Standing, Stored, Subject, Subscription, Warning,
};

/// Topics of each lane.
const SHARDS: u32 = 16;
/// Bytes that the client and the broker may add to a value.
const RECORD_BYTES: usize = 1024;
/// The head of what came without one.
const ENDLESS: Head = Head { expires: u64::MAX, mark: 0, number: 0 };
/// Largest record in bytes.
const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + Head::BYTES + RECORD_BYTES;
/// Messages that wait in the client to be sent.
const SENDING: usize = 1024;
/// Kibibytes of such messages.
const SENDING_KBYTES: usize = 16 * 1024;
/// Kibibytes that a subscriber's client has read ahead.
const READING_KBYTES: usize = 4 * 1024;
/// Longest pause before the client connects again, in milliseconds.
const RECONNECT_MS: u32 = 1000;
/// How long is waited after an error. Those of a lost connection stand in one queue with messages and come as often as
/// the client tries, so it is only as long as to let no error that stays keep a processor busy.
const ERROR: Duration = Duration::from_millis(10);
/// How long a subscriber may have no room before another process may have its mailbox.
const FULL: Duration = Duration::from_secs(600);
/// Replicas that a record must be on to survive the loss of one.
const REPLICAS: usize = 2;

/// Queues in a Kafka cluster. Cheap to clone.
#[derive(Clone)]
pub struct KafkaQueue(Arc<Shared>);

struct Shared {
    address: BrokerAddress,
    sender: Mutex<Sender>,
    standing: Standing,
    sessions: Mutex<HashMap<Subject, Weak<Session>>>,
}

impl KafkaQueue {
    /// Connects, and looks at the topics and their settings.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`], [`QueueError::Refused`], and those of reading credentials.
    ///
    /// # Cancel safety
    /// It is not connected then.
    pub async fn connect(address: &BrokerAddress) -> Result<Self, QueueError> {
        let sender = Sender::open(address)?;
        let standing = look(address, &sender).await?;
        let (address, sender, sessions) = (address.clone(), Mutex::new(sender), Mutex::default());
        Ok(Self(Arc::new(Shared { address, sender, standing, sessions })))
    }

    async fn store(&self, message: Publish) -> Result<Stored, QueueError> {
        let expires = admit(&message)?;
        self.append(&message.subject, &Head { expires, mark: 0, number: 0 }.before(&message.bytes)).await?;
        Ok(Stored { durability: self.0.standing.durability, is_duplicate: false })
    }

    fn sender(&self) -> Sender {
        lock(&self.0.sender).clone()
    }

    /// Appends a record.
    async fn append(&self, subject: &Subject, value: &[u8]) -> Result<(), QueueError> {
        let Sender { client, .. } = &self.sender();
        let topic = topic(subject);
        let record = FutureRecord::to(&topic).key(subject.mailbox().as_str()).payload(value);
        let Err((error, _)) = client.send(record, AWAY).await else { return Ok(()) };
        tracing::debug!(%subject, %error, "Kafka");
        if client.client().fatal_error().is_some() {
            // It never sends again.
            if let Ok(next) = Sender::open(&self.0.address) {
                *lock(&self.0.sender) = next;
            }
        }
        Err(match error.rdkafka_error_code() {
            Some(Code::QueueFull) => QueueError::Unreachable(None),
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                // It does not say how much it takes.
                QueueError::TooLarge { bytes: value.len(), bytes_max: value.len() - 1 }
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::PolicyViolation
                | Code::InvalidRecord,
            ) => refused(error),
            // It may be in the log all the same.
            _ => QueueError::Unknown,
        })
    }

    /// The session of a subject, which all of this process share.
    fn session(&self, subject: &Subject) -> Result<Arc<Session>, QueueError> {
        let mut sessions = lock(&self.0.sessions);
        if let Some(session) = sessions.get(subject).and_then(Weak::upgrade) {
            return Ok(session);
        }
        sessions.retain(|_, session| session.strong_count() > 0);
        let session = Arc::new(Session::open(self.clone(), subject.clone())?);
        sessions.insert(subject.clone(), Arc::downgrade(&session));
        Ok(session)
    }
}

impl Broker for KafkaQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(self.store(message))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        Box::pin(async move {
            // Where the cluster makes topics by itself, it makes this one; one that is not there may come.
            let metadata = self.sender().ask(Some(topic(&subject))).await?;
            let error = metadata.topics().iter().find_map(|topic| topic.error());
            if let Some(code) = error.map(Code::from)
                && !matches!(
                    code,
                    Code::LeaderNotAvailable | Code::UnknownTopicOrPartition | Code::UnknownTopic
                )
            {
                return Err(refused(KafkaError::MetadataFetch(code)));
            }
            let session = self.session(&subject)?;
            let turns = session.consumer.context().turns.subscribe();
            let turn = *turns.borrow();
            let taking = Taking { session, turns, turn };
            Ok(desk::open(Arc::new(self.clone()), subject, taking, prefetch))
        })
    }
}

impl Server for KafkaQueue {
    fn standing(&self) -> Standing {
        self.0.standing.clone()
    }
}

impl fmt::Debug for KafkaQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaQueue").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// The client that appends.
#[derive(Clone)]
struct Sender {
    client: FutureProducer<Teller>,
    /// Whether the broker does not take the credentials.
    is_refused: Arc<AtomicBool>,
    _kept: Arc<Kept>,
}

impl Sender {
    fn open(address: &BrokerAddress) -> Result<Self, QueueError> {
        let mut settings = settings(address)?;
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("message.timeout.ms", ANSWER.as_millis().to_string())
            .set("queue.buffering.max.messages", SENDING.to_string())
            .set("queue.buffering.max.kbytes", SENDING_KBYTES.to_string());
        let teller = Teller::default();
        let is_refused = Arc::clone(&teller.is_refused);
        let client: FutureProducer<Teller> = settings.create_with_context(teller).map_err(refused)?;
        let kept = Arc::new(keep(client.clone()));
        Ok(Self { client, is_refused, _kept: kept })
    }

    /// Asks for one topic, or for all.
    async fn ask(&self, topic: Option<String>) -> Result<Metadata, QueueError> {
        let client = self.client.clone();
        let asked = spawn_blocking(move || client.client().fetch_metadata(topic.as_deref(), ANSWER)).await;
        asked.map_err(|_| QueueError::Closed)?.map_err(|error| {
            match self.is_refused.load(Ordering::Relaxed) {
                true => refused(error),
                false => QueueError::Unreachable(Some(Arc::new(io::Error::other(error)))),
            }
        })
    }
}

/// What the client says of itself.
#[derive(Debug, Default)]
struct Teller {
    is_refused: Arc<AtomicBool>,
}

impl ClientContext for Teller {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!(fac, message, "Kafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Authentication) {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        tracing::debug!(%error, reason, "Kafka");
    }
}

/// A mailbox, while somebody here receives from it.
struct Session {
    queue: KafkaQueue,
    subject: Subject,
    topic: String,
    consumer: Arc<StreamConsumer<Reader>>,
    /// Held by the one subscription that reads.
    reading: tokio::sync::Mutex<()>,
    /// How many of the places that were noted as done the broker has heard of.
    heard: tokio::sync::Mutex<u64>,
    /// There is something that one subscription left to the others.
    left: Notify,
    _kept: Kept,
}

/// What the client and the subscriptions of a session share.
struct Reader {
    teller: Teller,
    state: Mutex<State>,
    /// How often the partitions were taken away.
    turns: watch::Sender<u64>,
}

struct State {
    offsets: Offsets,
    /// How often places were noted as done.
    notes: u64,
}

impl ClientContext for Reader {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.teller.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.teller.error(error, reason);
    }
}

impl ConsumerContext for Reader {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if matches!(rebalance, Rebalance::Assign(_)) {
            return;
        }
        // All that is not settled comes again, here or elsewhere.
        lock(&self.state).offsets.clear();
        self.turns.send_modify(|turns| *turns += 1);
    }
}

impl Session {
    fn open(queue: KafkaQueue, subject: Subject) -> Result<Self, QueueError> {
        let mut settings = settings(&queue.0.address)?;
        settings
            .set("group.id", subject.to_string())
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "true")
            // What is done is noted here, and committed when it is, at intervals, and at the end.
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("session.timeout.ms", LEASE.as_millis().to_string())
            .set("max.poll.interval.ms", FULL.as_millis().to_string())
            .set("fetch.message.max.bytes", RECORD_BYTES_MAX.to_string())
            .set("queued.max.messages.kbytes", READING_KBYTES.to_string());
        let mark = getrandom::u64().map_err(|error| QueueError::Storage(Arc::new(error)))?.max(1);
        let state = Mutex::new(State { offsets: Offsets::new(mark), notes: 0 });
        let reader = Reader { teller: Teller::default(), state, turns: watch::Sender::new(0) };
        let consumer: StreamConsumer<Reader> = settings.create_with_context(reader).map_err(refused)?;
        let topic = topic(&subject);
        consumer.subscribe(&[&topic]).map_err(refused)?;
        let consumer = Arc::new(consumer);
        let kept = keep(Arc::clone(&consumer));
        let (reading, heard, left) = (Default::default(), Default::default(), Notify::new());
        Ok(Self { queue, subject, topic, consumer, reading, heard, left, _kept: kept })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.consumer.context().state)
    }

    /// Notes what is done with, where that is `step` records further than before.
    fn note(&self, state: &mut State, step: i64) {
        let mut places = TopicPartitionList::new();
        for (partition, place) in state.offsets.progress(step) {
            let added = places.add_partition_offset(&self.topic, partition, Offset::Offset(place));
            debug_assert!(added.is_ok(), "a place in a log is none");
        }
        if places.count() > 0 {
            state.notes += 1;
            if let Err(error) = self.consumer.store_offsets(&places) {
                tracing::debug!(subject = %self.subject, %error, "Kafka: not noted");
            }
        }
    }

    /// Has the broker told of all that is noted. Those who wait at the same time share one commit.
    async fn commit(&self, notes: u64) -> Result<(), QueueError> {
        let mut heard = self.heard.lock().await;
        if *heard >= notes {
            return Ok(());
        }
        let noted = self.state().notes;
        let consumer = Arc::clone(&self.consumer);
        let told = spawn_blocking(move || consumer.commit_consumer_state(CommitMode::Sync)).await;
        match told {
            // Nothing is left to be told where the client has told it already.
            Ok(Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset))) => {
                *heard = noted;
                Ok(())
            }
            _ => Err(QueueError::Unknown),
        }
    }

    /// What a record brings, if it is for this mailbox and not here already.
    fn read(self: &Arc<Self>, state: &mut State, message: &BorrowedMessage<'_>) -> Option<Arrival<Entry>> {
        let (partition, offset) = (message.partition(), message.offset());
        if message.key() != Some(self.subject.mailbox().as_str().as_bytes()) {
            state.offsets.pass(partition, offset);
            return None;
        }
        let value = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        let head = Head::split(&value).map(|(head, _)| head);
        if let Some(head) = head.filter(|head| head.mark == state.offsets.mark()) {
            state.offsets.moved(head.number, partition, offset);
            return None;
        }
        let is_first = state.offsets.is_fresh(partition) && head.is_none_or(|head| head.mark == 0);
        let attempt = if is_first { 1 } else { 2 };
        let id = state.offsets.take_in(partition, offset, value.clone())?;
        Some(self.arrival(id, &value, attempt))
    }

    fn arrival(self: &Arc<Self>, id: u64, value: &Bytes, attempt: u32) -> Arrival<Entry> {
        // One that is not ours has no bytes, and ends as a dead letter.
        let (expires, bytes) = match Head::split(value) {
            Some((head, bytes)) => (Some(head.expires), bytes),
            None => (None, Bytes::new()),
        };
        Arrival { bytes, attempt, expires, slip: Entry { session: Arc::clone(self), id } }
    }

    /// Appends once more what holds back too many.
    fn copy_hindrances(self: &Arc<Self>) {
        loop {
            let (mark, hindrance) = {
                let mut state = self.state();
                (state.offsets.mark(), state.offsets.hindrance())
            };
            let Some((id, value)) = hindrance else { return };
            let session = Arc::clone(self);
            // It ends with the answer of the broker.
            tokio::spawn(async move {
                let (head, bytes) = Head::split(&value).unwrap_or((ENDLESS, value));
                let copy = Head { mark, number: id, ..head }.before(&bytes);
                if let Err(error) = session.queue.append(&session.subject, &copy).await {
                    tracing::debug!(subject = %session.subject, %error, "Kafka: not appended once more");
                    session.state().offsets.not_copied(id);
                }
            });
        }
    }
}

/// A subscription's part of a session.
struct Taking {
    session: Arc<Session>,
    turns: watch::Receiver<u64>,
    /// The turn in which what it handed out was read.
    turn: u64,
}

impl Taking {
    /// Waits for records; whoever waits first reads for all.
    ///
    /// # Cancel safety
    /// No record is lost: nothing waits after the first one.
    async fn take(&mut self, most: usize) -> Fetched<Entry> {
        let session = Arc::clone(&self.session);
        let _reading = session.reading.lock().await;
        let mut arrivals = Vec::new();
        loop {
            {
                let mut state = session.state();
                let turn = *self.turns.borrow();
                if turn != self.turn {
                    self.turn = turn;
                    // What came since then is for whoever asks next.
                    arrivals.iter().for_each(|arrival: &Arrival<Entry>| state.offsets.leave(arrival.slip.id));
                    return Fetched::Lost;
                }
                while arrivals.len() < most
                    && let Some((id, value)) = state.offsets.next_left()
                {
                    arrivals.push(session.arrival(id, &value, 2));
                }
            }
            let message = match arrivals.len() {
                0 => tokio::select! {
                    message = session.consumer.recv() => message,
                    () = session.left.notified() => continue,
                },
                count if count >= most => break,
                _ => match session.consumer.recv().now_or_never() {
                    Some(message) => message,
                    None => break,
                },
            };
            match message {
                Ok(message) => {
                    let mut state = session.state();
                    arrivals.extend(session.read(&mut state, &message));
                    session.note(&mut state, HELD_BACK);
                    drop(state);
                    // Also when all that comes is for others.
                    session.copy_hindrances();
                }
                Err(KafkaError::PartitionEOF(partition)) => session.state().offsets.at_end(partition),
                Err(error) => {
                    tracing::debug!(subject = %session.subject, %error, "Kafka");
                    if arrivals.is_empty() {
                        sleep(ERROR).await;
                    }
                }
            }
        }
        Fetched::Messages(arrivals)
    }
}

impl Source for Taking {
    type Slip = Entry;

    async fn fetch(&mut self, most: usize) -> Fetched<Entry> {
        let mut turns = self.turns.clone();
        let turn = self.turn;
        tokio::select! {
            biased;
            fetched = self.take(most) => fetched,
            // While another reads.
            Ok(changed) = turns.wait_for(|now| *now != turn) => {
                let now = *changed;
                drop(changed);
                self.turn = now;
                Fetched::Lost
            }
        }
    }

    async fn close(self) {}
}

/// A record of a session.
#[derive(Clone)]
struct Entry {
    session: Arc<Session>,
    id: u64,
}

impl Slip for Entry {
    async fn acknowledge(self) -> Result<(), QueueError> {
        let notes = {
            let mut state = self.session.state();
            let is_next = state.offsets.settle(self.id).ok_or(QueueError::Unknown)?;
            self.session.note(&mut state, 1);
            is_next.then_some(state.notes)
        };
        match notes {
            Some(notes) => {
                timeout(ANSWER, self.session.commit(notes)).await.unwrap_or(Err(QueueError::Unknown))
            }
            // It holds as soon as what came before it is settled.
            None => Ok(()),
        }
    }

    async fn give_back(self) {
        // Others of this process have it next; if there are none, the log has it still.
        self.session.state().offsets.leave(self.id);
        self.session.left.notify_one();
    }
}

/// What all clients are told.
fn settings(address: &BrokerAddress) -> Result<ClientConfig, QueueError> {
    let host = address.host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", format!("{host}:{}", address.port()))
        .set("client.id", "onward")
        .set("reconnect.backoff.max.ms", RECONNECT_MS.to_string())
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string());
    if let Some(credentials) = address.credentials()? {
        settings
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanisms", "PLAIN")
            .set("sasl.username", credentials.user)
            .set("sasl.password", credentials.password);
    }
    Ok(settings)
}

/// Sees what an acknowledgement is worth.
async fn look(address: &BrokerAddress, sender: &Sender) -> Result<Standing, QueueError> {
    let metadata = sender.ask(None).await?;
    let wanted: Vec<String> = topics().collect();
    let replicas = wanted.iter().map(|name| {
        let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
        topic.partitions().iter().map(|partition| partition.replicas().len()).min()
    });
    let replicas = replicas.collect::<Option<Vec<usize>>>().and_then(|counts| counts.into_iter().min());
    let admin: AdminClient<_> = settings(address)?.create_with_context(Teller::default()).map_err(refused)?;
    let asked: Vec<ResourceSpecifier<'_>> =
        wanted.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let said = match replicas {
        Some(_) => admin.describe_configs(&asked, &options).await.unwrap_or_default(),
        None => Vec::new(),
    };
    drop(keep(admin));
    let least = |name: &str| {
        let set = said.iter().map(|topic| topic.as_ref().ok()?.get(name)?.value.as_ref()?.parse().ok());
        set.collect::<Option<Vec<usize>>>().and_then(|values| values.into_iter().min())
    };
    let keeps = !said.is_empty() && said.iter().all(|topic| topic.as_ref().is_ok_and(keeps));
    let (confirming, bytes_max) = (least("min.insync.replicas"), least("max.message.bytes"));
    let seen = Seen { replicas, confirming, bytes_max, keeps };
    Ok(seen.standing(metadata.brokers().len()))
}

/// Whether a topic keeps what nobody has read, for as long as a message may live.
fn keeps(topic: &ConfigResource) -> bool {
    let set = |name: &str| topic.get(name).and_then(|entry| entry.value.as_deref());
    let milliseconds = set("retention.ms").and_then(|value| value.parse::<i128>().ok());
    let is_long = milliseconds.is_some_and(|time| time < 0 || time >= LIFETIME.as_millis() as i128);
    is_long && set("retention.bytes") == Some("-1") && set("cleanup.policy") == Some("delete")
}

/// The least of what was seen of all topics; nothing, if some are not there or do not say it.
struct Seen {
    replicas: Option<usize>,
    confirming: Option<usize>,
    bytes_max: Option<usize>,
    /// Whether all were seen to keep what nobody has read.
    keeps: bool,
}

impl Seen {
    fn standing(&self, brokers: usize) -> Standing {
        let enough = |count: Option<usize>| count.is_some_and(|count| count >= REPLICAS);
        let is_replicated = enough(self.replicas) && enough(self.confirming);
        let mut warnings = Vec::new();
        if !is_replicated {
            warnings.push(Warning::new(
                format!("not every topic was seen to have {REPLICAS} replicas that must confirm: one loss loses all"),
                format!(
                    "kafka-topics.sh --create --topic ow.v1.LANE.NN --replication-factor 3 --config \
                     min.insync.replicas={REPLICAS}, for mb, rc and dl and 00 to {}",
                    SHARDS - 1
                ),
            ));
        }
        if self.bytes_max.is_none_or(|bytes| bytes < RECORD_BYTES_MAX) {
            warnings.push(Warning::new(
                "the largest messages may be refused",
                format!("max.message.bytes={RECORD_BYTES_MAX} for each topic"),
            ));
        }
        if is_replicated && !self.keeps {
            let days = LIFETIME.as_secs() / 86_400;
            warnings.push(Warning::new(
                format!("not every topic was seen to keep for {days} days what nobody has read"),
                format!(
                    "cleanup.policy=delete, retention.bytes=-1 and retention.ms={} for each topic",
                    LIFETIME.as_millis()
                ),
            ));
        }
        let durability =
            if is_replicated && self.keeps { Durability::BrokerReplicated } else { Durability::BrokerMemory };
        Standing { software: format!("Kafka, {brokers} brokers"), durability, warnings }
    }
}

/// The topic of a subject: `ow.v1.LANE.NN`.
fn topic(subject: &Subject) -> String {
    shard(subject.lane(), crc32fast::hash(subject.mailbox().as_str().as_bytes()) % SHARDS)
}

fn shard(lane: Lane, number: u32) -> String {
    format!("ow.v1.{}.{number:02}", lane.name())
}

/// All topics that there are.
fn topics() -> impl Iterator<Item = String> {
    let lanes = [Lane::Messages, Lane::Receipts, Lane::DeadLetters];
    lanes.into_iter().flat_map(|lane| (0..SHARDS).map(move |number| shard(lane, number)))
}

/// Held by whoever uses a client, and dropped after it.
type Kept = oneshot::Sender<()>;

/// Keeps a client until the returned half is dropped, and then drops it where it may take its time: it says goodbye,
/// and waits for its threads.
fn keep(client: impl Send + 'static) -> Kept {
    let (kept, ended) = oneshot::channel();
    tokio::spawn(async move {
        // Nothing is ever sent.
        let _ = ended.await;
        std::thread::spawn(move || drop(client));
    });
    kept
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(error: KafkaError) -> QueueError {
    QueueError::Refused(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_replicas_that_must_confirm_are_replication() {
        let class = |replicas, confirming| {
            let standing =
                Seen { replicas, confirming, bytes_max: Some(RECORD_BYTES_MAX), keeps: true }.standing(3);
            assert_eq!(standing.warnings.is_empty(), standing.durability == Durability::BrokerReplicated);
            standing.durability
        };
        assert_eq!(class(Some(2), Some(2)), Durability::BrokerReplicated);
        for (replicas, confirming) in
            [(Some(3), Some(1)), (Some(1), Some(2)), (None, Some(2)), (Some(3), None), (None, None)]
        {
            assert_eq!(class(replicas, confirming), Durability::BrokerMemory);
        }
        let forgetful =
            Seen { replicas: Some(3), confirming: Some(2), bytes_max: Some(RECORD_BYTES_MAX), keeps: false };
        let standing = forgetful.standing(3);
        assert_eq!((standing.warnings.len(), standing.durability), (1, Durability::BrokerMemory));
    }

    #[test]
    fn a_mailbox_has_one_topic_of_each_lane() {
        let subject: Subject = "ow.v1.mb.a".parse().unwrap();
        // CRC-32 of `a` is 0xe8b7be43.
        assert_eq!(topic(&subject), "ow.v1.mb.03");
        assert_eq!(topic(&subject.dead_letters()), "ow.v1.dl.03");
        assert_eq!(topics().count(), 48);
        assert!(topics().any(|name| name == topic(&subject)));
    }
}
