//! Queues in Redis Streams.
//!
//! A mailbox is a stream with one consumer group and, in that, one consumer, whose name all subscribers
//! share: what one of them leaves behind is claimed by any other once nobody spoke of it for 30 s. What is
//! acknowledged is deleted. Everything is sent as counted bytes, so that no name or body can be a command.
//!
//! Redis says how it keeps what it acknowledges (`CONFIG GET`), and the class is that. Where it may not
//! be asked, the class is `broker-memory`.
//!
//! Specification: docs/protocol.md §2.3.

pub(crate) mod reply;

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, Value, cmd, pipe,
};
use tokio::time::{Instant, sleep, timeout};

use self::reply::{BYTES, EXPIRES, FIRST};
use super::desk::{self, Arrival, Fetched, LEASE, Slip, Source};
use super::link::Link;
use super::server::{ANSWER, AWAY, Backoff, DEAD_LETTERS, LIFETIME, UNUSED, admit, unix_millis};
use super::socket;
use super::{
    BoxFuture, Broker, BrokerAddress, Durability, Lane, Publish, QueueError, Server, Standing, Stored,
    Subject, Subscription, Warning,
};

/// The consumer group of every stream, and the consumer in it.
const GROUP: &str = "onward";
/// How long one request for messages stands, and how often abandoned ones are looked for.
const READ: Duration = Duration::from_secs(1);
/// Messages that are claimed at once.
const CLAIM: usize = 64;

/// Queues in a Redis server. Cheap to clone.
#[derive(Clone)]
pub struct RedisQueue(Arc<Shared>);

struct Shared {
    link: Link<MultiplexedConnection>,
    address: Arc<BrokerAddress>,
    standing: Arc<Mutex<Standing>>,
}

impl RedisQueue {
    /// Connects and looks at how the server keeps what it acknowledges.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`], [`QueueError::Refused`], and those of reading credentials.
    ///
    /// # Cancel safety
    /// It is not connected then.
    pub async fn connect(address: &BrokerAddress) -> Result<Self, QueueError> {
        let address = Arc::new(address.clone());
        let standing = Arc::new(Mutex::new(Standing {
            software: String::new(),
            durability: Durability::BrokerMemory,
            warnings: Vec::new(),
        }));
        let (dialled, seen) = (Arc::clone(&address), Arc::clone(&standing));
        let dial = move || {
            let (address, seen) = (Arc::clone(&dialled), Arc::clone(&seen));
            async move {
                let mut connection = open(&address, Some(ANSWER)).await?;
                let standing = look(&mut connection).await.map_err(failed)?;
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = standing;
                Ok(connection)
            }
        };
        let link = Link::new(dial).await?;
        Ok(Self(Arc::new(Shared { link, address, standing })))
    }

    /// Has commands executed, and answers with the first refusal if there is one. A connection that fails is
    /// given up.
    async fn execute(&self, commands: &mut Pipeline) -> RedisResult<Vec<Value>> {
        let away = |_| RedisError::from(io::Error::from(io::ErrorKind::NotConnected));
        let (number, mut connection) = self.0.link.get(AWAY).await.map_err(away)?;
        let said: RedisResult<Vec<RedisResult<Value>>> =
            commands.ignore_errors().query_async(&mut connection).await;
        if said.as_ref().is_err_and(RedisError::is_io_error) {
            self.0.link.broke(number);
        }
        said?.into_iter().collect()
    }

    async fn store(&self, message: Publish) -> Result<Stored, QueueError> {
        let expires = admit(&message)?;
        let key = message.subject.to_string();
        let mut add = cmd("XADD");
        add.arg(&key);
        if message.subject.lane() == Lane::DeadLetters {
            add.arg("MAXLEN").arg("~").arg(DEAD_LETTERS);
        } else {
            add.arg("MINID").arg("~").arg(unix_millis().saturating_sub(LIFETIME.as_millis() as u64));
        }
        add.arg("*").arg(BYTES).arg(&message.bytes[..]).arg(EXPIRES).arg(expires);
        let mut commands = pipe();
        commands.add_command(add).cmd("EXPIRE").arg(&key).arg(UNUSED.as_secs());
        match self.execute(&mut commands).await {
            Ok(_) => Ok(Stored { durability: self.standing().durability, is_duplicate: false }),
            Err(error) => Err(match error.code() {
                Some("OOM") => QueueError::QuotaExceeded { quota: "maxmemory", limit: 0 },
                Some("MISCONF") => QueueError::StorageFull,
                _ if is_away(&error) => QueueError::Unreachable(None),
                // It may have been executed all the same.
                _ if error.is_io_error() => QueueError::Unknown,
                _ => failed(error),
            }),
        }
    }
}

impl Broker for RedisQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(self.store(message))
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        Box::pin(async move {
            let key: Arc<str> = subject.to_string().into();
            make_group(self, &key).await.map_err(failed)?;
            let reads = Reads {
                queue: self.clone(),
                key,
                reading: None,
                idle: None,
                claimed: None,
                cursor: FIRST.to_owned(),
            };
            Ok(desk::open(Arc::new(self.clone()), subject, reads, prefetch))
        })
    }
}

impl Server for RedisQueue {
    fn standing(&self) -> Standing {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for RedisQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueue").field("standing", &self.standing()).finish_non_exhaustive()
    }
}

/// A request for messages that is under way; it returns the connection it was made on.
type Reading = BoxFuture<'static, (Option<MultiplexedConnection>, RedisResult<Value>)>;

/// Requests for the messages of one stream, one after the other, on a connection of their own.
struct Reads {
    queue: RedisQueue,
    key: Arc<str>,
    reading: Option<Reading>,
    /// Where the next request is made.
    idle: Option<MultiplexedConnection>,
    /// When abandoned messages were last looked for.
    claimed: Option<Instant>,
    /// Where that goes on: one look passes only some of what others hold.
    cursor: String,
}

impl Reads {
    /// Begins a request, on this connection if there is one.
    fn read(&self, connection: Option<MultiplexedConnection>, most: usize) -> Reading {
        let (address, key) = (Arc::clone(&self.queue.0.address), Arc::clone(&self.key));
        Box::pin(async move {
            let mut connection = match connection {
                Some(connection) => connection,
                // A request that stands takes as long as it likes.
                None => match open(&address, Some(READ + ANSWER)).await {
                    Ok(connection) => connection,
                    Err(error) => return (None, Err(io::Error::other(error).into())),
                },
            };
            let mut read = cmd("XREADGROUP");
            read.arg("GROUP").arg(GROUP).arg(GROUP).arg("COUNT").arg(most);
            read.arg("BLOCK").arg(READ.as_millis() as u64).arg("STREAMS").arg(&*key).arg(">");
            let said = read.query_async(&mut connection).await;
            (Some(connection), said)
        })
    }

    /// Messages of which nobody spoke for a while, with how often each was handed out.
    async fn claim(&mut self, most: usize) -> RedisResult<Vec<Arrival<Entry>>> {
        let mut commands = pipe();
        commands.cmd("XAUTOCLAIM").arg(&*self.key).arg(GROUP).arg(GROUP).arg(LEASE.as_millis() as u64);
        commands.arg(&self.cursor).arg("COUNT").arg(most.min(CLAIM));
        let said = self.queue.execute(&mut commands).await?;
        let (place, entries) = reply::claimed(said.into_iter().next().unwrap_or(Value::Nil));
        self.cursor = place;
        let mut arrivals = self.arrivals(entries);
        for arrival in &mut arrivals {
            let mut commands = pipe();
            commands
                .cmd("XPENDING")
                .arg(&*self.key)
                .arg(GROUP)
                .arg(&arrival.slip.id)
                .arg(&arrival.slip.id)
                .arg(1);
            let said = self.queue.execute(&mut commands).await?;
            let count = said.into_iter().next().and_then(reply::count);
            arrival.attempt = count.unwrap_or_default().max(2);
        }
        Ok(arrivals)
    }

    fn arrivals(&self, entries: Vec<reply::Entry>) -> Vec<Arrival<Entry>> {
        let arrival = |reply::Entry { id, bytes, expires }| {
            let slip = Entry { queue: self.queue.clone(), key: Arc::clone(&self.key), id };
            Arrival { bytes, attempt: 1, expires, slip }
        };
        entries.into_iter().map(arrival).collect()
    }
}

impl Source for Reads {
    type Slip = Entry;

    async fn fetch(&mut self, most: usize) -> Fetched<Entry> {
        let mut backoff = Backoff::new();
        loop {
            if self.reading.is_none() && self.claimed.is_none_or(|when| when.elapsed() >= READ) {
                // Looked for only while nothing is under way, so that no more comes than was asked for.
                let claimed = self.claim(most).await;
                self.claimed = Some(Instant::now());
                match claimed {
                    Ok(arrivals) if arrivals.is_empty() => {}
                    Ok(arrivals) => return Fetched::Messages(arrivals),
                    Err(error) => tracing::debug!(key = &*self.key, %error, "Redis: nothing claimed"),
                }
            }
            let reading = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    let idle = self.idle.take();
                    self.read(idle, most)
                }
            };
            // It stays here when nobody waits for it any more: what it brings is not lost.
            let (connection, said) = self.reading.insert(reading).await;
            self.reading = None;
            match said {
                Ok(value) => {
                    self.idle = connection;
                    let arrivals = self.arrivals(reply::read(value));
                    if !arrivals.is_empty() {
                        return Fetched::Messages(arrivals);
                    }
                }
                Err(error) => {
                    tracing::debug!(key = &*self.key, %error, "Redis: no messages yet");
                    sleep(backoff.pause()).await;
                    // The stream may be gone with what the server lost.
                    let _ = make_group(&self.queue, &self.key).await;
                }
            }
        }
    }

    async fn close(mut self) {
        if let Some(reading) = self.reading.take()
            && let (_, Ok(value)) = reading.await
        {
            for arrival in self.arrivals(reply::read(value)) {
                arrival.slip.give_back().await;
            }
        }
    }
}

/// An entry of a stream.
#[derive(Clone)]
struct Entry {
    queue: RedisQueue,
    key: Arc<str>,
    id: String,
}

impl Slip for Entry {
    async fn acknowledge(self) -> Result<(), QueueError> {
        let mut commands = pipe();
        commands.cmd("XACK").arg(&*self.key).arg(GROUP).arg(&self.id);
        commands.cmd("XDEL").arg(&*self.key).arg(&self.id);
        self.queue.execute(&mut commands).await.map(drop).map_err(failed)
    }

    async fn renew(self) {
        self.claim(0).await;
    }

    async fn give_back(self) {
        // As if nobody had spoken of it for long: the next who looks for such has it.
        self.claim(LEASE.as_millis() as u64).await;
    }
}

impl Entry {
    /// Says that the entry was last spoken of so many milliseconds ago.
    async fn claim(self, idle: u64) {
        let mut commands = pipe();
        commands.cmd("XCLAIM").arg(&*self.key).arg(GROUP).arg(GROUP).arg(0).arg(&self.id);
        commands.arg("IDLE").arg(idle).arg("JUSTID");
        // Unheard, it is claimed when its time is over.
        let _ = self.queue.execute(&mut commands).await;
    }
}

/// Connects, and says who this is. The connection is kept by a task that ends with the last handle to it.
async fn open(
    address: &BrokerAddress,
    answer: Option<Duration>,
) -> Result<MultiplexedConnection, QueueError> {
    let mut settings = RedisConnectionInfo::default();
    if let Some(credentials) = address.credentials()? {
        settings = settings.set_username(credentials.user).set_password(credentials.password);
    }
    let config = AsyncConnectionConfig::new().set_response_timeout(answer);
    let connecting = async {
        let socket =
            socket::dial(address).await.map_err(|error| QueueError::Unreachable(Some(Arc::new(error))))?;
        let made = MultiplexedConnection::new_with_config(&settings, socket, config);
        let (connection, driver) = made.await.map_err(failed)?;
        tokio::spawn(driver);
        Ok(connection)
    };
    timeout(ANSWER, connecting).await.unwrap_or(Err(QueueError::Unreachable(None)))
}

/// Makes a stream and its group unless they are there.
async fn make_group(queue: &RedisQueue, key: &str) -> RedisResult<()> {
    let mut commands = pipe();
    commands.cmd("XGROUP").arg("CREATE").arg(key).arg(GROUP).arg("0").arg("MKSTREAM");
    match queue.execute(&mut commands).await {
        Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
        _ => {}
    }
    let mut commands = pipe();
    commands.cmd("EXPIRE").arg(key).arg(UNUSED.as_secs());
    queue.execute(&mut commands).await.map(drop)
}

/// Sees how the server keeps what it acknowledges.
async fn look(connection: &mut MultiplexedConnection) -> RedisResult<Standing> {
    let info: String = cmd("INFO").arg("server").query_async(connection).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?");
    let mut settings = HashMap::new();
    for name in ["appendonly", "appendfsync", "maxmemory", "maxmemory-policy"] {
        let read: RedisResult<HashMap<String, String>> =
            cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
        match read {
            Ok(read) => settings.extend(read),
            Err(error) if error.is_io_error() => return Err(error),
            // It may not be asked: then nothing is known, and nothing promised.
            Err(_) => {}
        }
    }
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|set| set == value);
    let mut warnings = Vec::new();
    let mut warn = |what: &str, mend: &str| warnings.push(Warning::new(what, mend));
    if settings.is_empty() {
        warn("the server does not say how it keeps messages", "allow CONFIG GET to this user");
    } else if !is("appendonly", "yes") {
        warn("there is no append-only file: a stop loses minutes", "redis-cli CONFIG SET appendonly yes");
    }
    if !settings.is_empty() && !is("appendfsync", "always") {
        warn("a power cut loses the last second or more", "redis-cli CONFIG SET appendfsync always");
    }
    if !is("maxmemory", "0") && !is("maxmemory-policy", "noeviction") && !settings.is_empty() {
        warn("messages give way when memory is full", "redis-cli CONFIG SET maxmemory-policy noeviction");
    }
    let durability = if warnings.is_empty() { Durability::BrokerDisk } else { Durability::BrokerMemory };
    Ok(Standing { software: format!("redis-server {version}"), durability, warnings })
}

/// Whether there was nobody who could have executed it.
fn is_away(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
}

fn failed(error: RedisError) -> QueueError {
    if error.is_io_error() || is_away(&error) {
        QueueError::Unreachable(Some(Arc::new(io::Error::other(error))))
    } else {
        refused(error)
    }
}

fn refused(error: RedisError) -> QueueError {
    QueueError::Refused(Arc::new(error))
}
