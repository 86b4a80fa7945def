//! Queues in RabbitMQ, by AMQP 0-9-1.
//!
//! A mailbox is a durable quorum queue, declared by whoever needs it first. Messages are persistent and
//! `mandatory`, and a receipt is given after the publisher confirm: a quorum queue confirms what is on the disk of
//! most of its members. One that comes back as unroutable found no queue: it is declared, and the message is
//! published again.
//!
//! A server notes with a delay of seconds where a new queue has its log. Killed before, it may bring the queue back
//! empty and for ever without a leader, so a receipt promises the disk only where the queue was seen some
//! time ago.
//!
//! Acknowledgements of this protocol are not answered, so one that is lost with its connection lets the message
//! come again.
//!
//! Specification: docs/protocol.md §2.3.

mod socketless;

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPUri, AMQPUserInfo};
use lapin::{Acker, BasicProperties, Channel, Confirmation, Connection, Consumer, Error};
use tokio::time::{Instant, sleep, timeout};

use super::desk::{self, Arrival, Fetched, Slip, Source};
use super::link::Link;
use super::server::{ANSWER, AWAY, Backoff, DEAD_LETTERS, LIFETIME, UNUSED, admit};
use super::{
    BoxFuture, Broker, BrokerAddress, Durability, Lane, Publish, QueueError, Server, Standing, Stored,
    Subject, Subscription, Warning,
};

/// Seconds between signs of life.
const HEARTBEAT: u16 = 10;
/// `delivery_mode` of a message that is kept on disk.
const PERSISTENT: u8 = 2;
/// How often a queue may hand out a message: never too often. Only receivers count.
const DELIVERIES_MAX: i64 = i32::MAX as i64;
/// From when on a server that was killed surely finds a queue again; RabbitMQ 3.10 notes a new one after 3 s.
const SETTLED: Duration = Duration::from_secs(10);
/// Queues of which it is remembered when they were first seen.
const SEEN: usize = 4096;
/// The code with which a channel is closed.
const GOODBYE: u16 = 200;

/// Queues in a RabbitMQ server. Cheap to clone.
#[derive(Clone)]
pub struct AmqpQueue(Arc<Shared>);

struct Shared {
    link: Link<Arc<Session>>,
    /// When this process first knew that a queue was there.
    seen: Mutex<HashMap<Subject, Instant>>,
}

/// A connection with the channel for publishing.
struct Session {
    connection: Connection,
    channel: Channel,
}

impl AmqpQueue {
    /// Connects.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`], [`QueueError::Refused`], and those of reading credentials.
    ///
    /// # Cancel safety
    /// It is not connected then.
    pub async fn connect(address: &BrokerAddress) -> Result<Self, QueueError> {
        let address = address.clone();
        let dial = move || {
            let address = address.clone();
            async move {
                let userinfo = match address.credentials()? {
                    Some(given) => AMQPUserInfo { username: given.user, password: given.password },
                    None => AMQPUserInfo { username: "guest".to_owned(), password: "guest".to_owned() },
                };
                let (host, port) = (address.host().to_owned(), address.port());
                let query = AMQPQueryString { heartbeat: Some(HEARTBEAT), ..AMQPQueryString::default() };
                let authority = AMQPAuthority { userinfo, host, port };
                let uri = AMQPUri { authority, query, ..AMQPUri::default() };
                let connection = socketless::connect(address, uri).await.map_err(failed)?;
                let channel = connection.create_channel().await.map_err(failed)?;
                channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
                Ok(Arc::new(Session { connection, channel }))
            }
        };
        let link = Link::new(dial).await?;
        Ok(Self(Arc::new(Shared { link, seen: Mutex::default() })))
    }

    /// What a message survives that the server confirmed now.
    fn durability(&self, subject: &Subject, is_new: bool) -> Durability {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if is_new {
            seen.remove(subject);
        }
        if seen.len() >= SEEN && !seen.contains_key(subject) {
            // What is forgotten only counts as new for a while.
            seen.clear();
        }
        let first = *seen.entry(subject.clone()).or_insert_with(Instant::now);
        if first.elapsed() < SETTLED { Durability::BrokerMemory } else { Durability::BrokerDisk }
    }

    async fn store(&self, message: Publish) -> Result<Stored, QueueError> {
        admit(&message)?;
        let ttl = message.ttl.min(LIFETIME).as_millis();
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(message.mid.to_string().into())
            .with_expiration(ttl.to_string().into());
        let (number, session) = self.0.link.get(AWAY).await?;
        let publish = || async {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, queue) = (ShortString::default(), name(&message.subject));
            let properties = properties.clone();
            let published =
                session.channel.basic_publish(exchange, queue, options, &message.bytes, properties);
            published.await?.await
        };
        let publishing = async {
            let confirmed = publish().await?;
            if !matches!(confirmed, Confirmation::Ack(Some(_))) {
                return Ok::<_, Error>((confirmed, false));
            }
            declare(&session.channel, &message.subject).await?;
            Ok((publish().await?, true))
        };
        match timeout(ANSWER, publishing).await {
            Ok(Ok((Confirmation::Ack(None), is_new))) => {
                Ok(Stored { durability: self.durability(&message.subject, is_new), is_duplicate: false })
            }
            // Refused by a bound that somebody set on the queue.
            Ok(Ok((Confirmation::Nack(_), _))) => {
                Err(QueueError::QuotaExceeded { quota: "the queue's length", limit: 0 })
            }
            Ok(Ok(_)) => Err(QueueError::Unreachable(None)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "AMQP");
                self.0.link.broke(number);
                Err(QueueError::Unknown)
            }
            Err(_) => {
                // Whether the connection is alive shows on a new one.
                self.0.link.broke(number);
                Err(QueueError::Unknown)
            }
        }
    }
}

impl Broker for AmqpQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(self.store(message))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        Box::pin(async move {
            let count = u16::try_from(prefetch.max(1)).unwrap_or(u16::MAX);
            let mut consuming =
                Consuming { queue: self.clone(), subject: subject.clone(), prefetch: count, open: None };
            let (_, session) = self.0.link.get(AWAY).await?;
            consuming.open = Some(consuming.consume(&session).await.map_err(failed)?);
            Ok(desk::open(Arc::new(self.clone()), subject, consuming, count.into()))
        })
    }
}

impl Server for AmqpQueue {
    fn standing(&self) -> Standing {
        // What it takes is asked for with each message and queue, and refused by a server that has it not.
        let software = "AMQP 0-9-1, quorum queues".to_owned();
        let young = Warning::new(
            format!(
                "a server killed within {} s of making a mailbox may lose it, and what its receipts call \
                 broker-memory",
                SETTLED.as_secs()
            ),
            "rabbitmqctl delete_queue NAME for one that has no leader then; it is made again",
        );
        Standing { software, durability: Durability::BrokerDisk, warnings: vec![young] }
    }
}

impl fmt::Debug for AmqpQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpQueue").finish_non_exhaustive()
    }
}

/// The messages of one queue, on a channel of their own.
struct Consuming {
    queue: AmqpQueue,
    subject: Subject,
    prefetch: u16,
    open: Option<(Channel, Consumer)>,
}

impl Consuming {
    async fn consume(&self, session: &Session) -> Result<(Channel, Consumer), Error> {
        let channel = session.connection.create_channel().await?;
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        declare(&channel, &self.subject).await?;
        let queue = name(&self.subject);
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let consumer = channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
        Ok((channel, consumer))
    }

    /// Connects again.
    async fn again(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            let (number, session) = self.queue.0.link.wait().await;
            match timeout(ANSWER, self.consume(&session)).await {
                Ok(Ok(open)) => return self.open = Some(open),
                Ok(Err(error)) => tracing::debug!(subject = %self.subject, %error, "AMQP: no messages yet"),
                Err(_) => {}
            }
            if !session.connection.status().connected() {
                self.queue.0.link.broke(number);
            }
            sleep(backoff.pause()).await;
        }
    }
}

impl Source for Consuming {
    type Slip = Acker;

    async fn fetch(&mut self, most: usize) -> Fetched<Acker> {
        let consumer = match &mut self.open {
            Some((_, consumer)) => consumer,
            None => {
                self.again().await;
                return Fetched::Messages(Vec::new());
            }
        };
        match consumer.next().await {
            Some(Ok(first)) => {
                let mut arrivals = vec![arrival(first)];
                while arrivals.len() < most
                    && let Some(Some(Ok(delivery))) = consumer.next().now_or_never()
                {
                    arrivals.push(arrival(delivery));
                }
                Fetched::Messages(arrivals)
            }
            Some(Err(error)) => {
                tracing::debug!(subject = %self.subject, %error, "AMQP");
                self.open = None;
                Fetched::Lost
            }
            None => {
                self.open = None;
                Fetched::Lost
            }
        }
    }

    async fn close(self) {
        if let Some((channel, _)) = self.open {
            // All that was not acknowledged goes back to its queue with the channel.
            let _ = timeout(ANSWER, channel.close(GOODBYE, "done".into())).await;
        }
    }
}

impl Slip for Acker {
    async fn acknowledge(self) -> Result<(), QueueError> {
        let told = self.ack(BasicAckOptions::default()).await;
        told.map(drop).map_err(|_| QueueError::Unknown)
    }
}

fn arrival(delivery: Delivery) -> Arrival<Acker> {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get("x-delivery-count"));
    let count = match count {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(u32::MAX),
        _ => 0,
    };
    let attempt = count.saturating_add(1).max(if delivery.redelivered { 2 } else { 1 });
    Arrival { bytes: Bytes::from(delivery.data), attempt, expires: None, slip: delivery.acker }
}

/// Declares the queue of a subject, unless it is there.
async fn declare(channel: &Channel, subject: &Subject) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES_MAX));
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(UNUSED.as_millis() as i64));
    if subject.lane() == Lane::DeadLetters {
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(DEAD_LETTERS.into()));
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name(subject), options, arguments).await.map(drop)
}

fn name(subject: &Subject) -> ShortString {
    subject.to_string().into()
}

fn failed(error: Error) -> QueueError {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(_) => QueueError::Refused(Arc::new(error)),
        _ => QueueError::Unreachable(Some(Arc::new(io::Error::other(error)))),
    }
}
