//! A queue on the disk of this machine, without a server.
//!
//! One thread has the file. What is asked while it commits goes into its next commit, so many who store
//! at once share one wait for the disk, and one who stores alone waits for nobody. A receipt is given
//! after that wait, and an acknowledgement holds after it. A queue that nobody uses has a thread that
//! sleeps until the next message expires, or for ever.
//!
//! Specification: docs/protocol.md §2.3.

mod depot;
mod file;
mod mailbox;
mod medium;
mod record;
mod window;
mod writer;

pub use file::Opening;
pub use medium::{Folder, Medium};

use core::fmt;
use core::future;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use onward_workers::Room;
use tokio::sync::oneshot;

use super::{
    BoxFuture, Broker, DeadLetter, Lane, Mailbox, Mid, Publish, QueueError, Settle, Stored, Subject,
    Subscription, Verdict,
};
use depot::{Depot, Reply, Request, Seat};
use writer::Writer;

/// The bounds of an embedded queue; each is documented with its default.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueueLimits {
    /// Messages in one lane of a mailbox, by default 100,000.
    pub mailbox_messages: u64,
    /// Bytes of messages in one lane of a mailbox, by default 256 MiB.
    pub mailbox_bytes: u64,
    /// Messages in the whole queue, by default 1,000,000.
    pub messages: u64,
    /// Bytes of messages in the whole queue, by default 1 GiB.
    pub bytes: u64,
    /// Lanes of mailboxes that have messages or subscribers, by default 10,000.
    pub mailboxes: u64,
    /// Dead letters of one mailbox, by default 10,000; the oldest give way.
    pub dead_letters: u64,
    /// How long a dead letter is kept, by default 7 days.
    pub dead_letter_age: Duration,
    /// The longest that a message waits, whatever its sender says, by default 30 days.
    pub lifetime: Duration,
    /// How long a subscriber may take to settle a message, by default 30 s from when it took it (and at
    /// most twice as long).
    pub ack_wait: Duration,
    /// Messages of one mailbox that are handed out, or wait for the end of a pause, at once; by default 1,024.
    pub unsettled: usize,
    /// Bytes of messages that one subscription has at once, by default 1 MiB; one larger message is handed out alone.
    pub subscription_bytes: u64,
    /// Bytes of messages that all subscriptions together have at once, by default 256 MiB; further ones stay on the disk.
    pub unsettled_bytes: u64,
    /// How often a subscriber may end or fall silent with a message before that is a dead letter, by
    /// default 6.
    pub unanswered: u32,
    /// For how long a message that is published again is recognised, by default 2 min.
    pub dedup_window: Duration,
    /// How many messages are remembered for that, by default 65,536.
    pub dedup_messages: usize,
    /// Bytes of messages that wait to be written, by default 16 MiB; further ones wait for room.
    pub pending_bytes: usize,
    /// Bytes of the disk that are left free, so that messages can always be removed; by default 1 MiB.
    pub spare_bytes: u64,
}

impl Default for QueueLimits {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            mailbox_messages: 100_000,
            mailbox_bytes: 256 << 20,
            messages: 1_000_000,
            bytes: 1 << 30,
            mailboxes: 10_000,
            dead_letters: 10_000,
            dead_letter_age: 7 * DAY,
            lifetime: 30 * DAY,
            ack_wait: Duration::from_secs(30),
            unsettled: 1024,
            subscription_bytes: 1 << 20,
            unsettled_bytes: 256 << 20,
            unanswered: 6,
            dedup_window: Duration::from_secs(120),
            dedup_messages: 65_536,
            pending_bytes: 16 << 20,
            spare_bytes: 1 << 20,
        }
    }
}

/// A lane of a mailbox, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MailboxRow {
    /// Which.
    pub subject: Subject,
    /// Messages in it.
    pub messages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// How many of them are handed out, or wait for the end of a pause.
    pub unsettled: u64,
    /// Subscriptions.
    pub subscribers: u64,
    /// When the oldest message was stored, in seconds since the Unix epoch.
    pub oldest: Option<u64>,
}

/// A dead letter, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeadRow {
    /// The identifier of the message.
    pub mid: Mid,
    /// When it became a dead letter, in seconds since the Unix epoch.
    pub died: u64,
    /// Why, and its bytes.
    pub letter: DeadLetter,
}

/// A queue on the disk of this machine. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct EmbeddedQueue {
    writer: Arc<Writer>,
    pending: Arc<Room>,
    opening: Opening,
    last_subscription: Arc<AtomicU64>,
}

impl EmbeddedQueue {
    /// Opens the queue in a folder, made with mode 0700 if there is none, and reads all of it: after a
    /// crash, a power cut or damage it goes on with every message that is whole.
    ///
    /// # Errors
    /// [`QueueError::InUse`], [`QueueError::NotPrivate`], [`QueueError::StorageFull`],
    /// [`QueueError::Storage`].
    ///
    /// # Cancel safety
    /// It is opened, and closed again.
    pub async fn open(folder: &Path, limits: QueueLimits) -> Result<Self, QueueError> {
        let folder = folder.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let medium = Arc::new(Folder::open(&folder)?);
            Self::open_on(medium, limits)
        });
        opened.await.map_err(|error| QueueError::Storage(Arc::new(error)))?
    }

    /// Opens the queue on another medium than a folder; blocks until it is read.
    ///
    /// # Errors
    /// [`QueueError::StorageFull`], [`QueueError::Storage`].
    pub fn open_on(medium: Arc<dyn Medium>, limits: QueueLimits) -> Result<Self, QueueError> {
        let pending = Arc::new(Room::new(limits.pending_bytes));
        let (depot, opening) = Depot::open(medium, limits)?;
        let writer = Arc::new(Writer::start(depot)?);
        Ok(Self { writer, pending, opening, last_subscription: Arc::new(AtomicU64::new(0)) })
    }

    /// What was found when the file was opened.
    #[must_use]
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// Every lane of every mailbox, sorted by name.
    ///
    /// # Errors
    /// [`QueueError`].
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn mailboxes(&self) -> Result<Vec<MailboxRow>, QueueError> {
        self.ask(|reply| Request::List { reply }).await
    }

    /// The dead letters of a mailbox, oldest first.
    ///
    /// # Errors
    /// [`QueueError`].
    ///
    /// # Cancel safety
    /// Nothing changes.
    pub async fn dead_letters(&self, mailbox: &Mailbox) -> Result<Vec<DeadRow>, QueueError> {
        let subject = mailbox.lane(Lane::DeadLetters);
        self.ask(|reply| Request::DeadLetters { subject, reply }).await
    }

    /// Removes all messages of a lane, those that somebody has included; how many.
    ///
    /// # Errors
    /// [`QueueError`]; none is removed.
    ///
    /// # Cancel safety
    /// All or none are removed.
    pub async fn purge(&self, subject: &Subject) -> Result<u64, QueueError> {
        let subject = subject.clone();
        self.ask(|reply| Request::Purge { subject, reply }).await
    }

    /// Gives the dead letters of a mailbox back to it, the oldest first, as many as it has room for;
    /// they live for as long as dead letters are kept. How many; damaged ones stay.
    ///
    /// # Errors
    /// [`QueueError`]; none is moved.
    ///
    /// # Cancel safety
    /// Each is moved whole or stays.
    pub async fn redeliver(&self, mailbox: &Mailbox) -> Result<u64, QueueError> {
        let subject = mailbox.lane(Lane::DeadLetters);
        self.ask(|reply| Request::Redeliver { subject, reply }).await
    }

    /// Commits what is under way and closes the file; every clone is closed then.
    ///
    /// # Errors
    /// [`QueueError`]: what was acknowledged to senders is safe, what was settled may come again.
    ///
    /// # Cancel safety
    /// It is closed all the same.
    pub async fn close(&self) -> Result<(), QueueError> {
        let (reply, answer) = oneshot::channel();
        self.writer.close(Some(reply));
        answer.await.unwrap_or(Err(QueueError::Closed))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.writer.push(request(reply))?;
        answer.await.unwrap_or(Err(QueueError::Closed))
    }
}

impl Broker for EmbeddedQueue {
    fn publish(&self, message: Publish) -> BoxFuture<'_, Result<Stored, QueueError>> {
        Box::pin(async move {
            let room = Arc::clone(&self.pending).take(message.bytes.len()).await;
            let charge = Some(room.map_err(|_| QueueError::Closed)?);
            self.ask(|reply| Request::Publish { message, charge, reply }).await
        })
    }

    fn subscribe(
        &self,
        subject: Subject,
        prefetch: usize,
    ) -> BoxFuture<'_, Result<Subscription, QueueError>> {
        let id = self.last_subscription.fetch_add(1, Ordering::Relaxed) + 1;
        let broker: Arc<dyn Settle> = Arc::new(Counter { id, writer: Arc::downgrade(&self.writer) });
        let (sender, taken, subscription) = Subscription::new(prefetch, Arc::clone(&broker));
        let seat = Seat { sender, taken, broker, credit: prefetch.max(1) };
        let asked = self.writer.push(Request::Subscribe { id, subject, seat });
        Box::pin(future::ready(asked.map(|()| subscription)))
    }
}

impl fmt::Debug for EmbeddedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedQueue").finish_non_exhaustive()
    }
}

/// Where one subscription settles its messages.
#[derive(Debug)]
struct Counter {
    id: u64,
    writer: std::sync::Weak<Writer>,
}

impl Settle for Counter {
    fn settle(&self, tag: u64, verdict: Verdict) -> BoxFuture<'static, Result<(), QueueError>> {
        let (reply, answer) = oneshot::channel();
        let told = self.push(Request::Settle { tag, verdict, reply });
        Box::pin(async move {
            told?;
            answer.await.unwrap_or(Err(QueueError::Closed))
        })
    }

    fn abandon(&self, tag: u64, taken: bool) {
        // A closed queue hands everything out again anyway.
        let _ = self.push(Request::Abandon { tag, taken });
    }

    fn unsubscribe(&self) {
        let _ = self.push(Request::Unsubscribe { id: self.id });
    }
}

impl Counter {
    fn push(&self, request: Request) -> Result<(), QueueError> {
        self.writer.upgrade().map_or(Err(QueueError::Closed), |writer| writer.push(request))
    }
}
