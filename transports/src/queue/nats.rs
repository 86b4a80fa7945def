//! Queues in NATS JetStream.
//!
//! Two streams hold all mailboxes of a server: one the messages and receipts, which leave it when they are
//! acknowledged, and one the dead letters. A mailbox is a subject, and what its subscribers share is a
//! pull consumer of that subject. Servers before 2.11 know no time to live of a message, so it travels in a
//! header and the subscriber keeps it.
//!
//! JetStream acknowledges before its disk has the message and does not tell its clients how often it flushes,
//! so one server alone is never more than `broker-memory`.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use async_nats::connection::State;
use async_nats::header::HeaderMap;
use async_nats::jetstream::consumer::pull::{Batch, Config as ConsumerConfig};
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::desk::{self, Arrival, Fetched, LEASE, Slip, Source};
use super::server::{ANSWER, AWAY, Backoff, DEAD_LETTER_AGE, DEAD_LETTERS, LIFETIME, UNUSED, admit};
use super::socket;
use super::{
    BoxFuture, Broker, BrokerAddress, Durability, Lane, MESSAGE_BYTES_MAX, Publish, QueueError, Server,
    Standing, Stored, Subject, Subscription, Warning, head,
};

/// The stream of messages and receipts.
const MESSAGES: &str = "onward";
/// The stream of dead letters.
const DEAD: &str = "onward-dead";
/// The header with the end of a message, in milliseconds since the Unix epoch.
const EXPIRES: &str = "Onward-Expires";
/// For how long a message that is published again is recognised.
const DEDUP: Duration = Duration::from_secs(120);
/// Messages of one mailbox that are handed out at once, to all of its subscribers together.
const UNSETTLED: i64 = 4096;
/// How long one request for messages stands.
const PULL: Duration = Duration::from_secs(60);
/// Commands that wait in the client.
const COMMANDS: usize = 256;
/// How often a server that says nothing is asked whether it is there.
const PING: Duration = Duration::from_secs(5);
/// Bytes that headers may add to a message.
const HEADER_BYTES: usize = 256;
/// Replicas from which a message survives the loss of one of them.
const REPLICAS: usize = 3;

/// Queues in a NATS server with JetStream. Cheap to clone.
#[derive(Clone)]
pub struct NatsQueue {
    context: Context,
    /// Changes whenever the connection is made or lost.
    changes: watch::Receiver<u64>,
    standing: Arc<Standing>,
}

impl NatsQueue {
    /// Connects, and makes the streams unless they are there.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`], [`QueueError::Refused`] also where there is no JetStream, and those of
    /// reading credentials.
    ///
    /// # Cancel safety
    /// It is not connected then.
    pub async fn connect(address: &BrokerAddress) -> Result<Self, QueueError> {
        let (sender, changes) = watch::channel(0);
        let mut options = ConnectOptions::new()
            .name("onward")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .client_capacity(COMMANDS)
            .ping_interval(PING)
            // Where the broker is stands in its address, and nowhere else.
            .ignore_discovered_servers()
            .reconnect_delay_callback(Backoff::pause_before)
            .event_callback(move |event| {
                tracing::debug!(%event, "NATS");
                if matches!(event, Event::Connected | Event::Disconnected) {
                    sender.send_modify(|changes| *changes += 1);
                }
                async {}
            });
        let trust = socket::trust(address).map_err(|error| QueueError::Credentials(Arc::new(error)))?;
        if let Some(trust) = trust {
            options = options.require_tls(true).tls_client_config(trust);
        }
        if let Some(credentials) = address.credentials()? {
            options = options.user_and_password(credentials.user, credentials.password);
        }
        let client = options.connect(address.to_string()).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => refused(error),
            _ => QueueError::Unreachable(Some(Arc::new(io::Error::other(error)))),
        })?;
        let context = jetstream::new(client);
        let stream = context.get_or_create_stream(messages()).await.map_err(refused)?;
        context.get_or_create_stream(dead_letters()).await.map_err(refused)?;
        let standing = Arc::new(standing(&context.client(), &stream.cached_info().config));
        Ok(Self { context, changes, standing })
    }

    /// Waits for the connection, if it is lost.
    async fn connection(&self) -> Result<(), QueueError> {
        let is_connected = || self.context.client().connection_state() == State::Connected;
        let mut changes = self.changes.clone();
        let back = async {
            while !is_connected() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(AWAY, back).await.map_err(|_| QueueError::Unreachable(None))
    }

    async fn store(&self, message: Publish) -> Result<Stored, QueueError> {
        let expires = admit(&message)?;
        let bytes = message.bytes.len();
        let bytes_max = self.context.client().max_payload().saturating_sub(HEADER_BYTES);
        if bytes > bytes_max {
            return Err(QueueError::TooLarge { bytes, bytes_max });
        }
        self.connection().await?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", message.mid.to_string());
        headers.insert(EXPIRES, expires.to_string());
        let publishing = async {
            let subject = message.subject.to_string();
            self.context.publish_with_headers(subject, headers, message.bytes).await?.await
        };
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        // What was not confirmed may be stored all the same.
        let said = tokio::select! {
            said = timeout(ANSWER, publishing) => said.map_err(|_| QueueError::Unknown)?,
            _ = changes.changed() => return Err(QueueError::Unknown),
        };
        let ack = said.map_err(|error| match error.kind() {
            PublishErrorKind::StreamNotFound | PublishErrorKind::Other => refused(error),
            _ => QueueError::Unknown,
        })?;
        Ok(Stored { durability: self.standing.durability, is_duplicate: ack.duplicate })
    }

    async fn consumer(&self, subject: &Subject) -> Result<Consumer<ConsumerConfig>, QueueError> {
        let stream = if subject.lane() == Lane::DeadLetters { DEAD } else { MESSAGES };
        // A name of a consumer has no dots.
        let name = format!("{}-{}", subject.lane().name(), subject.mailbox());
        let config = ConsumerConfig {
            durable_name: Some(name.clone()),
            name: Some(name),
            filter_subject: subject.to_string(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: LEASE,
            max_deliver: -1,
            max_ack_pending: UNSETTLED,
            inactive_threshold: UNUSED,
            ..ConsumerConfig::default()
        };
        self.context.create_consumer_on_stream(config, stream).await.map_err(refused)
    }
}

impl Broker for NatsQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(self.store(message))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        Box::pin(async move {
            self.connection().await?;
            let consumer = self.consumer(&subject).await?;
            let queue = self.clone();
            let changes = self.changes.clone();
            let unsure = handed_out(&consumer);
            let pulls = Pulls { queue, subject: subject.clone(), consumer, unsure, changes, batch: None };
            Ok(desk::open(Arc::new(self.clone()), subject, pulls, prefetch))
        })
    }
}

impl Server for NatsQueue {
    fn standing(&self) -> Standing {
        Standing::clone(&self.standing)
    }
}

impl fmt::Debug for NatsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsQueue").field("standing", &self.standing).finish_non_exhaustive()
    }
}

/// Requests for the messages of one mailbox, one after the other.
struct Pulls {
    queue: NatsQueue,
    subject: Subject,
    consumer: Consumer<ConsumerConfig>,
    /// Messages up to this sequence of the stream may have been handed out before: servers forget it when they
    /// offer a message and nobody is there.
    unsure: u64,
    changes: watch::Receiver<u64>,
    batch: Option<Batch>,
}

impl Pulls {
    async fn pull(&mut self, most: usize) {
        let mut backoff = Backoff::new();
        loop {
            match self.consumer.batch().max_messages(most).expires(PULL).messages().await {
                Ok(batch) => break self.batch = Some(batch),
                Err(error) => {
                    tracing::debug!(subject = %self.subject, %error, "NATS: no messages yet");
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// The consumer was lost with what the server lost, or ended because nobody used it.
    async fn renew_consumer(&mut self) {
        let mut backoff = Backoff::new();
        self.consumer = loop {
            match self.queue.consumer(&self.subject).await {
                Ok(consumer) => break consumer,
                Err(error) => tracing::debug!(subject = %self.subject, %error, "NATS: no consumer yet"),
            }
            sleep(backoff.pause()).await;
        };
        self.unsure = self.unsure.max(handed_out(&self.consumer));
    }
}

impl Source for Pulls {
    type Slip = Reply;

    async fn fetch(&mut self, most: usize) -> Fetched<Reply> {
        loop {
            let Some(batch) = &mut self.batch else {
                self.pull(most).await;
                continue;
            };
            tokio::select! {
                biased;
                message = batch.next() => match message {
                    Some(Ok(first)) => {
                        let mut arrivals = vec![arrival(first, self.unsure)];
                        while let Some(Some(Ok(message))) = batch.next().now_or_never() {
                            arrivals.push(arrival(message, self.unsure));
                        }
                        return Fetched::Messages(arrivals);
                    }
                    Some(Err(error)) => {
                        tracing::debug!(subject = %self.subject, %error, "NATS");
                        self.batch = None;
                        self.renew_consumer().await;
                    }
                    None => self.batch = None,
                },
                // A request is forgotten with its connection.
                Ok(()) = self.changes.changed() => {
                    self.batch = None;
                    self.renew_consumer().await;
                }
            }
        }
    }

    async fn close(self) {
        let client = self.queue.context.client();
        // The server sees that nobody listens to the request, before it sees what is given back.
        drop(self);
        let _ = timeout(ANSWER, client.flush()).await;
    }
}

/// Where a message is settled.
#[derive(Clone)]
struct Reply {
    client: Client,
    to: Option<async_nats::Subject>,
}

impl Slip for Reply {
    async fn acknowledge(self) -> Result<(), QueueError> {
        let Some(to) = self.to else { return Ok(()) };
        // Answered when the server has noted it.
        self.client.request(to, AckKind::Ack.into()).await.map(drop).map_err(|_| QueueError::Unknown)
    }

    async fn renew(self) {
        self.tell(AckKind::Progress).await;
    }

    async fn give_back(self) {
        self.tell(AckKind::Nak(None)).await;
    }
}

impl Reply {
    async fn tell(self, kind: AckKind) {
        if let Some(to) = self.to {
            // Unheard, it comes again when its time is over.
            let _ = self.client.publish(to, Bytes::from(kind)).await;
        }
    }
}

/// The newest message that was handed out.
fn handed_out(consumer: &Consumer<ConsumerConfig>) -> u64 {
    consumer.cached_info().delivered.stream_sequence
}

fn arrival(message: jetstream::Message, unsure: u64) -> Arrival<Reply> {
    let attempt = message.info().map_or(2, |info| {
        let least = if info.stream_sequence <= unsure { 2 } else { 1 };
        u32::try_from(info.delivered).unwrap_or(u32::MAX).max(least)
    });
    let header = message.headers.as_ref().and_then(|headers| headers.get(EXPIRES));
    let expires = header.and_then(|value| head::expires(value.as_str().as_bytes()));
    let slip = Reply { client: message.context.client(), to: message.message.reply };
    Arrival { bytes: message.message.payload, attempt, expires, slip }
}

fn messages() -> StreamConfig {
    StreamConfig {
        name: MESSAGES.to_owned(),
        subjects: [Lane::Messages, Lane::Receipts].map(|lane| format!("ow.v1.{}.*", lane.name())).into(),
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_age: LIFETIME,
        duplicate_window: DEDUP,
        ..StreamConfig::default()
    }
}

fn dead_letters() -> StreamConfig {
    StreamConfig {
        name: DEAD.to_owned(),
        subjects: vec![format!("ow.v1.{}.*", Lane::DeadLetters.name())],
        max_age: DEAD_LETTER_AGE,
        max_messages_per_subject: DEAD_LETTERS.into(),
        discard: DiscardPolicy::Old,
        ..messages()
    }
}

/// Settings of a stream that somebody else made by which stored messages are lost, whatever its replicas.
fn losses(config: &StreamConfig) -> Vec<Warning> {
    let wanted = messages();
    let mut warnings = Vec::new();
    let mut warn = |what: &str, mend: &str| {
        warnings.push(Warning::new(what, format!("nats stream edit {MESSAGES} {mend}")));
    };
    let refuses = config.discard == wanted.discard;
    if !refuses && (config.max_messages > 0 || config.max_bytes > 0) {
        warn("the oldest messages give way when the stream is full", "--discard new");
    }
    // Of one subject they give way even where a full stream refuses, unless that is set beside it.
    if config.max_messages_per_subject > 0 && !(refuses && config.discard_new_per_subject) {
        let mend = "--discard new --discard-per-subject, or --max-msgs-per-subject=-1";
        warn("the oldest messages of a mailbox give way to its newest", mend);
    }
    if !config.max_age.is_zero() && config.max_age < wanted.max_age {
        warn("messages are dropped before they expire", "--max-age 30d");
    }
    if config.retention == RetentionPolicy::Interest {
        let what = "what is published before a mailbox was ever received from is dropped";
        let mend = format!("nats stream rm {MESSAGES}, and connect again: it is made as a work queue");
        warnings.push(Warning::new(what, mend));
    }
    warnings
}

fn standing(client: &Client, config: &StreamConfig) -> Standing {
    let info = client.server_info();
    let mut warnings = losses(config);
    let is_replicated = config.num_replicas >= REPLICAS && warnings.is_empty();
    if config.storage != StorageType::File {
        let mend = format!("nats stream rm {MESSAGES}, and connect again: it is made with files");
        warnings.push(Warning::new("the stream is in memory: all is lost when the server ends", mend));
    } else if config.num_replicas < REPLICAS {
        let mend = format!("nats stream edit {MESSAGES} --replicas {REPLICAS}");
        let what = "one server alone: a power cut loses what came since its last flush, up to 2 min";
        warnings.push(Warning::new(what, mend));
    }
    if info.max_payload < MESSAGE_BYTES_MAX + HEADER_BYTES {
        let what = format!("messages above {} bytes are refused", info.max_payload);
        warnings.push(Warning::new(what, "max_payload: 2MB in the configuration of nats-server"));
    }
    let durability = if is_replicated { Durability::BrokerReplicated } else { Durability::BrokerMemory };
    Standing { software: format!("nats-server {}", info.version), durability, warnings }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> QueueError {
    QueueError::Refused(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_lose_messages_are_named_and_those_that_are_asked_for_are_not() {
        assert_eq!(losses(&messages()), []);
        let old = StreamConfig { discard: DiscardPolicy::Old, ..messages() };
        assert_eq!(losses(&old), [], "a stream without a bound discards nothing");
        let refusing =
            StreamConfig { max_messages_per_subject: 1000, discard_new_per_subject: true, ..messages() };
        assert_eq!(losses(&refusing), [], "what a full mailbox refuses is not lost");
        for losing in [
            StreamConfig { max_bytes: 1 << 30, ..old.clone() },
            StreamConfig { max_messages_per_subject: 1000, ..old },
            StreamConfig { max_messages_per_subject: 1000, ..messages() },
            StreamConfig { max_age: LIFETIME / 2, ..messages() },
            StreamConfig { retention: RetentionPolicy::Interest, ..messages() },
        ] {
            assert_eq!(losses(&losing).len(), 1, "{losing:?}");
        }
    }
}
