//! All mailboxes of an embedded queue, as a value: requests and the time go in, messages come out.
//!
//! It has the file and no thread, and reads no clock. Whatever changes the file in one [`Depot::turn`]
//! is one commit, and nobody is told of it before it is on the disk. After an error of the storage the
//! file is opened again, so that neither a full disk nor a damaged file needs a restart.
//!
//! Specification: docs/protocol.md §2.3.

mod administration;
mod handing;

use core::sync::atomic::AtomicU64;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use onward_workers::Charge;
use tokio::sync::{mpsc, oneshot};

use super::super::{
    DeadLetter, Delivery, Durability, MESSAGE_BYTES_MAX, Mid, Publish, QueueError, Reason, Settle, Stored,
    Subject, Verdict,
};
use super::file::{Edits, Opened, Opening, QueueFile, Trouble};
use super::mailbox::{Fresh, Mailbox, Waiting};
use super::medium::Medium;
use super::record::{Entry, Message, Place, Recent, checksum};
use super::window::Window;
use super::{DeadRow, MailboxRow, QueueLimits};

/// How long a settled message may still be in the file when nobody waits for its end.
const LAG: Duration = Duration::from_millis(5);
/// Most messages of which that is so.
const LAG_MESSAGES: usize = 1024;
/// After how long a file that failed is opened again.
const RETRY: Duration = Duration::from_millis(500);
/// Bodies kept in memory for subscribers that wait for them, all mailboxes together.
const FRESH_BYTES: usize = 4 << 20;
/// Expired messages are searched for in steps of so many seconds.
const EXPIRY_STEP: u64 = 60;
/// The longest pause before a message comes again.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The time, as the depot is told it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Since any beginning; never falls.
    pub(crate) steady: Duration,
    /// Seconds since the Unix epoch, as the system has it.
    pub(crate) unix: u64,
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// What is asked of the depot.
#[derive(Debug)]
pub(crate) enum Request {
    Publish { message: Publish, charge: Option<Charge>, reply: Reply<Stored> },
    Subscribe { id: u64, subject: Subject, seat: Seat },
    Unsubscribe { id: u64 },
    Settle { tag: u64, verdict: Verdict, reply: Reply<()> },
    Abandon { tag: u64, taken: bool },
    List { reply: Reply<Vec<MailboxRow>> },
    DeadLetters { subject: Subject, reply: Reply<Vec<DeadRow>> },
    Purge { subject: Subject, reply: Reply<u64> },
    Redeliver { subject: Subject, reply: Reply<u64> },
}

/// A subscriber's end of a subscription.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) sender: mpsc::Sender<Delivery>,
    pub(crate) taken: Arc<AtomicU64>,
    pub(crate) broker: Arc<dyn Settle>,
    /// Messages that it still takes.
    pub(crate) credit: usize,
}

#[derive(Debug)]
struct Subscriber {
    mailbox: u64,
    seat: Seat,
    /// Messages sent to it so far.
    sent: u64,
    /// Bytes of messages that it has.
    bytes: u64,
}

/// A message that somebody has.
#[derive(Debug)]
struct Lease {
    place: Place,
    waiting: Waiting,
    subscriber: u64,
    /// Its number among those sent to the subscriber.
    ordinal: u64,
    /// Whether the subscriber has certainly had it for the whole time that ends with `until`.
    begun: bool,
    until: Duration,
}

/// A message on its way to the dead letters.
#[derive(Clone, Copy, Debug)]
struct Dying {
    place: Place,
    waiting: Waiting,
    reason: Reason,
}

/// A message that is stored with the next commit.
#[derive(Debug)]
struct Arrival {
    /// None for one that was stored before, as a dead letter.
    recent: Option<Recent>,
    place: Place,
    exp: u64,
    bytes: Bytes,
    reply: Option<Reply<Stored>>,
    _charge: Option<Charge>,
}

/// Messages that leave a mailbox with the next commit, and the bytes of each.
#[derive(Debug)]
struct Leaving {
    mailbox: u64,
    messages: Vec<(Place, u64)>,
}

/// What one turn puts into the file, and who waits for that.
#[derive(Debug, Default)]
struct Batch {
    arrivals: Vec<Arrival>,
    leaving: Vec<Leaving>,
    repeated: Vec<Reply<Stored>>,
    settled: Vec<Reply<()>>,
    /// With the number of messages that were moved.
    moved: Vec<(Reply<u64>, u64)>,
    /// Bytes that the disk takes, once they were asked for.
    available: Option<u64>,
}

/// What a commit changes beside its batch.
#[derive(Debug, Default)]
struct Changed {
    leaving: Vec<Leaving>,
    /// Dead letters: place, time of expiry, bytes.
    dead: Vec<(Place, u64, u64)>,
    rows: BTreeSet<u64>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.arrivals.is_empty() && self.settled.is_empty() && self.moved.is_empty()
    }
}

#[derive(Debug)]
pub(crate) struct Depot {
    limits: QueueLimits,
    medium: Arc<dyn Medium>,
    /// None after it failed, until it is opened again.
    file: Option<QueueFile>,
    trouble: Trouble,
    retry_at: Duration,
    mailboxes: BTreeMap<u64, Mailbox>,
    numbers: HashMap<Subject, u64, RandomState>,
    next_sequence: u64,
    last_number: u64,
    count: u64,
    bytes: u64,
    /// What the file holds by its last commit, and the most it has held: pages for so much are in it already,
    /// also when the disk has none left.
    held: u64,
    held_most: u64,
    window: Window,
    subscribers: HashMap<u64, Subscriber, RandomState>,
    leases: HashMap<u64, Lease, RandomState>,
    /// Ends of leases in their order, with those of leases that have ended or were extended.
    lease_ends: VecDeque<(Duration, u64)>,
    leased_bytes: u64,
    /// Mailboxes that had to stop because too many bytes are handed out.
    starved: BTreeSet<u64>,
    next_tag: u64,
    /// Messages that come again after a pause: end, mailbox, sequence.
    paused: BTreeMap<(Duration, u64, u64), Waiting>,
    /// By step of time and mailbox, the sequences between which messages end in that step.
    expiries: BTreeMap<(u64, u64), (u64, u64)>,
    /// Mailboxes that may have something for somebody.
    ready: BTreeSet<u64>,
    /// Settled messages that are still in the file.
    settled: BTreeSet<Place>,
    dying: Vec<Dying>,
    /// When these have to be out of it.
    lag_end: Option<Duration>,
    /// Mailboxes whose entry in the file is not as it should be.
    rows: BTreeSet<u64>,
    fresh_bytes: usize,
    edits: Edits,
}

impl Depot {
    /// Opens the file of `medium` and learns what is in it.
    pub(crate) fn open(medium: Arc<dyn Medium>, limits: QueueLimits) -> Result<(Self, Opening), QueueError> {
        let opened = QueueFile::open(&*medium).map_err(|trouble| refusal(&trouble))?;
        let mut depot = Self {
            limits,
            medium,
            file: None,
            trouble: Trouble::Damaged,
            retry_at: Duration::ZERO,
            mailboxes: BTreeMap::new(),
            numbers: HashMap::default(),
            next_sequence: 1,
            last_number: 0,
            count: 0,
            bytes: 0,
            held: 0,
            held_most: 0,
            window: Window::default(),
            subscribers: HashMap::default(),
            leases: HashMap::default(),
            leased_bytes: 0,
            starved: BTreeSet::new(),
            lease_ends: VecDeque::new(),
            next_tag: 1,
            paused: BTreeMap::new(),
            expiries: BTreeMap::new(),
            ready: BTreeSet::new(),
            settled: BTreeSet::new(),
            dying: Vec::new(),
            lag_end: None,
            rows: BTreeSet::new(),
            fresh_bytes: 0,
            edits: Edits::default(),
        };
        let opening = opened.opening;
        depot.load(opened).map_err(|trouble| refusal(&trouble))?;
        Ok((depot, opening))
    }

    /// Does what is asked, commits it, answers, and hands out messages.
    pub(crate) fn turn(&mut self, requests: impl IntoIterator<Item = Request>, now: Now) {
        self.revive(now);
        self.look_at_clock(now);
        let mut batch = Batch::default();
        for request in requests {
            self.take(request, &mut batch, now);
        }
        self.commit(batch, now);
        self.hand_out(now);
    }

    /// When there is something to do although nothing is asked; none when there will not be.
    pub(crate) fn due(&self, now: Now) -> Option<Duration> {
        let waits = !self.settled.is_empty() || !self.dying.is_empty() || !self.ready.is_empty();
        let retry = (self.file.is_none() && waits).then_some(self.retry_at);
        let lag = self.lag_end.filter(|_| self.file.is_some());
        let lease = self.lease_ends.front().map(|(end, _)| *end);
        let pause = self.paused.first_key_value().map(|((end, ..), _)| *end);
        let expiry = self.expiries.first_key_value().map(|((step, _), _)| {
            let wait = step.saturating_add(1).saturating_mul(EXPIRY_STEP).saturating_sub(now.unix);
            now.steady.saturating_add(Duration::from_secs(wait))
        });
        [retry, lag, lease, pause, expiry].into_iter().flatten().min()
    }

    /// Writes how far messages were handed out, and closes the file.
    pub(crate) fn close(mut self, now: Now) -> Result<(), QueueError> {
        self.lag_end = Some(now.steady);
        self.commit(Batch::default(), now);
        let Some(file) = self.file.take() else { return Err(refusal(&self.trouble)) };
        for (number, mailbox) in &self.mailboxes {
            if mailbox.handed.is_some_and(|handed| handed != mailbox.cursor) && mailbox.was_subscribed {
                let row = Entry::Mailbox { handed: mailbox.cursor, subject: &mailbox.text };
                self.edits.put(file.mark(), Place { mailbox: *number, sequence: 0 }, &row);
            }
        }
        if self.edits.is_empty() {
            return Ok(());
        }
        file.write(&mut self.edits).map_err(|trouble| refusal(&trouble))
    }

    // ---- The file ----------------------------------------------------------------------------------

    /// Learns what is in a file, in the place of all that was known. Subscribers stay; what they have
    /// is handed out again.
    fn load(&mut self, opened: Opened) -> Result<(), Trouble> {
        let Opened { file, opening } = opened;
        let seats: Vec<(u64, Subject)> = self
            .subscribers
            .iter()
            .filter_map(|(id, one)| Some((*id, self.mailboxes.get(&one.mailbox)?.subject.clone())))
            .collect();
        self.mailboxes.clear();
        self.numbers.clear();
        self.window = Window::default();
        self.leases.clear();
        self.leased_bytes = 0;
        self.subscribers.values_mut().for_each(|subscriber| subscriber.bytes = 0);
        self.starved.clear();
        self.lease_ends.clear();
        self.paused.clear();
        self.expiries.clear();
        self.settled.clear();
        self.dying.clear();
        self.rows.clear();
        (self.count, self.bytes, self.fresh_bytes) = (0, 0, 0);
        let everything = Place::COUNTER..Place { mailbox: u64::MAX, sequence: 0 };
        file.each(everything, |place, bytes| {
            let entry = Entry::decode(file.mark(), place, bytes);
            if let (Some(Entry::Message(message)), true) = (&entry, opening.found > 0) {
                // What was found again, or a part of it, came without its entry in the window.
                let (mailbox, check) = (place.mailbox, checksum(message.body));
                let recent = Recent { mailbox, mid: message.mid, check, stored: message.stored };
                self.window.note(&recent);
            }
            self.load_entry(place, entry, bytes.len() as u64);
            true
        })?;
        (self.held, self.held_most) = (self.bytes, self.bytes);
        let next = self.next_sequence;
        let mut empty = Vec::new();
        for (number, mailbox) in &mut self.mailboxes {
            mailbox.unsure = mailbox.unsure.min(next);
            if mailbox.count == 0 {
                empty.push(*number);
            }
        }
        for number in empty {
            self.forget(number);
        }
        self.file = Some(file);
        for (id, subject) in seats {
            self.sit(id, &subject);
        }
        Ok(())
    }

    fn load_entry(&mut self, place: Place, entry: Option<Entry<'_>>, bytes: u64) {
        let number = place.mailbox;
        self.next_sequence = self.next_sequence.max(if number == 0 { 1 } else { place.sequence + 1 });
        match entry {
            Some(Entry::Counter { next }) => self.next_sequence = self.next_sequence.max(next),
            Some(Entry::Recent(messages)) => self.window.load(place, Recent::all(messages)),
            Some(Entry::Mailbox { handed, subject }) => {
                if let Ok(subject) = subject.parse::<Subject>() {
                    let mut mailbox = Mailbox::new(subject.clone());
                    (mailbox.handed, mailbox.unsure) = (Some(handed), handed);
                    self.numbers.insert(subject, number);
                    self.mailboxes.insert(number, mailbox);
                }
            }
            Some(Entry::Message(message)) if self.mailboxes.contains_key(&number) => {
                let bytes = message.body.len() as u64;
                self.account(number, bytes);
                self.appear(place, message.exp, None);
            }
            // It is not what was written, or belongs to nobody.
            _ if self.mailboxes.contains_key(&number) => {
                self.account(number, bytes);
                self.appear(place, u64::MAX, None);
                let waiting = Waiting { attempts: 0, unanswered: 0, bytes };
                self.dying.push(Dying { place, waiting, reason: Reason::Damaged });
                self.lag_end = Some(Duration::ZERO);
            }
            _ => {
                self.settled.insert(place);
            }
        }
    }

    /// Opens the file again when it failed a while ago.
    fn revive(&mut self, now: Now) {
        if self.file.is_some() || now.steady < self.retry_at {
            return;
        }
        match QueueFile::open(&*self.medium) {
            Ok(opened) if !opened.opening.is_set_aside => self.file = Some(opened.file),
            Ok(opened) => {
                if let Err(trouble) = self.load(opened) {
                    self.fail(trouble, now);
                }
            }
            Err(trouble) => self.fail(trouble, now),
        }
    }

    /// The file is of no use any more.
    fn fail(&mut self, trouble: Trouble, now: Now) {
        tracing::warn!(?trouble, "the file of the queue failed");
        if let Some(file) = self.file.take() {
            file.abandon();
        }
        self.edits.clear();
        self.trouble = trouble;
        self.retry_at = now.steady + RETRY;
    }

    fn commit(&mut self, mut batch: Batch, now: Now) {
        let lagging = self.settled.len() >= LAG_MESSAGES || self.lag_end.is_some_and(|end| end <= now.steady);
        if !batch.is_empty() || lagging {
            match self.write(&mut batch, now) {
                Ok(changed) => self.confirm(&mut batch, changed),
                Err(trouble) => {
                    let error = refusal(&trouble);
                    if self.file.is_some() {
                        self.fail(trouble, now);
                    }
                    return self.undo(batch, &error);
                }
            }
        }
        for reply in batch.repeated {
            tell(reply, Ok(Stored { durability: Durability::Disk, is_duplicate: true }));
        }
        for reply in batch.settled {
            tell(reply, Ok(()));
        }
        for (reply, count) in batch.moved {
            tell(reply, Ok(count));
        }
    }

    /// Puts everything into the file as one commit: first what leaves, then what comes.
    fn write(&mut self, batch: &mut Batch, now: Now) -> Result<Changed, Trouble> {
        let mut changed = self.bury(now)?;
        let Some(file) = &self.file else { return Err(self.trouble.clone()) };
        let mark = file.mark();
        let leaving = batch.leaving.iter().chain(&changed.leaving).flat_map(|leaving| &leaving.messages);
        for place in self.settled.iter().chain(leaving.map(|(place, _)| place)) {
            self.edits.remove(*place);
        }
        let recents: Vec<Recent> = batch.arrivals.iter().filter_map(|arrival| arrival.recent).collect();
        let oldest = now.unix.saturating_sub(self.limits.dedup_window.as_secs());
        let change = self.window.add(&recents, oldest, self.limits.dedup_messages);
        // What a commit that fails does not remove stays in the window for good, which is no harm.
        change.removed.iter().for_each(|place| self.edits.remove(*place));
        if let Some((place, row)) = change.put {
            self.edits.put(mark, place, &Entry::Recent(&row));
        }
        changed.rows = core::mem::take(&mut self.rows);
        for number in &changed.rows {
            if let Some(mailbox) = self.mailboxes.get(number) {
                let row = Entry::Mailbox { handed: mailbox.handed_wanted(), subject: &mailbox.text };
                self.edits.put(mark, Place { mailbox: *number, sequence: 0 }, &row);
            }
        }
        if !batch.arrivals.is_empty() || !changed.dead.is_empty() {
            self.edits.put(mark, Place::COUNTER, &Entry::Counter { next: self.next_sequence });
        }
        let written = if self.edits.is_empty() { Ok(()) } else { file.write(&mut self.edits) };
        if written.is_err() {
            self.rows.append(&mut changed.rows);
            self.window.take_back(&recents);
        }
        written.map(|()| changed)
    }

    /// Turns the dying into dead letters, the oldest of which give way.
    fn bury(&mut self, now: Now) -> Result<Changed, Trouble> {
        let mut changed = Changed::default();
        for Dying { place, waiting, reason } in self.dying.clone() {
            let mailbox = place.mailbox;
            changed.leaving.push(Leaving { mailbox, messages: vec![(place, waiting.bytes)] });
            let subject = match self.mailboxes.get(&mailbox) {
                Some(mailbox) if !mailbox.is_dead_letters() => mailbox.subject.dead_letters(),
                _ => continue,
            };
            let Some(file) = &self.file else { return Err(self.trouble.clone()) };
            let Some(raw) = file.get(place)? else { continue };
            let (mid, original) = match Entry::decode(file.mark(), place, &raw) {
                Some(Entry::Message(message)) => (message.mid, Bytes::copy_from_slice(message.body)),
                _ => (Mid::new([0; 16]), raw.clone().into()),
            };
            let mark = file.mark();
            let body = DeadLetter { reason, attempts: waiting.attempts, original }.encode();
            let number = self.number(&subject);
            let place = Place { mailbox: number, sequence: self.next_sequence };
            self.next_sequence += 1;
            let exp = now.unix.saturating_add(self.limits.dead_letter_age.as_secs());
            let text = subject.to_string();
            let message = Message { stored: now.unix, exp, mid, subject: &text, body: &body };
            self.edits.put(mark, place, &Entry::Message(message));
            changed.dead.push((place, exp, body.len() as u64));
        }
        let numbers: BTreeSet<u64> = changed.dead.iter().map(|(place, ..)| place.mailbox).collect();
        for number in numbers {
            changed.leaving.extend(self.oldest_above_limits(number, &changed.dead)?);
        }
        Ok(changed)
    }

    /// The oldest dead letters of a mailbox that have to give way to those that come.
    fn oldest_above_limits(
        &self,
        number: u64,
        coming: &[(Place, u64, u64)],
    ) -> Result<Option<Leaving>, Trouble> {
        let (Some(mailbox), Some(file)) = (self.mailboxes.get(&number), &self.file) else { return Ok(None) };
        let coming = coming.iter().filter(|(place, ..)| place.mailbox == number);
        let (mut count, mut bytes) = coming
            .fold((mailbox.count, mailbox.bytes), |(count, bytes), (.., more)| (count + 1, bytes + more));
        let is_above = |count, bytes| count > self.limits.dead_letters || bytes > self.limits.mailbox_bytes;
        let mut messages = Vec::new();
        if is_above(count, bytes) {
            let leased: BTreeSet<Place> = self.leases.values().map(|lease| lease.place).collect();
            let places = Place { mailbox: number, sequence: 1 }..after(number, mailbox.last);
            file.each(places, |place, entry| {
                let is_above = is_above(count, bytes);
                if is_above && !self.is_going(place) && !leased.contains(&place) {
                    let less = body_bytes(file, place, entry);
                    messages.push((place, less));
                    count -= 1;
                    bytes = bytes.saturating_sub(less);
                }
                is_above
            })?;
        }
        Ok((!messages.is_empty()).then_some(Leaving { mailbox: number, messages }))
    }

    /// What `write` has put into the file is so.
    fn confirm(&mut self, batch: &mut Batch, changed: Changed) {
        self.settled.clear();
        self.dying.clear();
        self.lag_end = None;
        for number in changed.rows {
            if let Some(mailbox) = self.mailboxes.get_mut(&number) {
                mailbox.handed = Some(mailbox.handed_wanted());
                self.ready.insert(number);
            }
        }
        for leaving in batch.leaving.drain(..).chain(changed.leaving) {
            self.leave(leaving.mailbox, &leaving.messages);
        }
        for (place, exp, bytes) in changed.dead {
            self.account(place.mailbox, bytes);
            self.appear(place, exp, None);
        }
        for arrival in batch.arrivals.drain(..) {
            let Arrival { place, exp, bytes, reply, .. } = arrival;
            self.appear(place, exp, Some(bytes));
            if let Some(reply) = reply {
                tell(reply, Ok(Stored { durability: Durability::Disk, is_duplicate: false }));
            }
        }
        self.holds(self.bytes);
    }

    fn holds(&mut self, bytes: u64) {
        self.held = bytes;
        self.held_most = self.held_most.max(bytes);
    }

    /// Nothing of the batch is in the file, or must not stay there.
    fn undo(&mut self, batch: Batch, error: &QueueError) {
        // Whatever was the matter: only the disk itself is believed from here on.
        self.held_most = self.held;
        for arrival in batch.arrivals {
            let bytes = arrival.bytes.len() as u64;
            if let Some(mailbox) = self.mailboxes.get_mut(&arrival.place.mailbox) {
                mailbox.leave(bytes);
            }
            (self.count, self.bytes) = (self.count.saturating_sub(1), self.bytes.saturating_sub(bytes));
            self.settled.insert(arrival.place);
            if let Some(reply) = arrival.reply {
                tell(reply, Err(error.clone()));
            }
        }
        batch.repeated.into_iter().for_each(|reply| tell(reply, Err(error.clone())));
        batch.settled.into_iter().for_each(|reply| tell(reply, Err(error.clone())));
        batch.moved.into_iter().for_each(|(reply, _)| tell(reply, Err(error.clone())));
    }

    /// Counts a message in, for the quotas.
    fn account(&mut self, number: u64, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        if let Some(mailbox) = self.mailboxes.get_mut(&number) {
            mailbox.enter(bytes);
        }
    }

    /// A message is in the file now.
    fn appear(&mut self, place: Place, exp: u64, bytes: Option<Bytes>) {
        let Place { mailbox: number, sequence } = place;
        let Some(mailbox) = self.mailboxes.get_mut(&number) else { return };
        let is_read = mailbox.cursor > mailbox.last;
        mailbox.last = mailbox.last.max(sequence);
        match bytes {
            Some(bytes)
                if !mailbox.subscribers.is_empty() && self.fresh_bytes + bytes.len() <= FRESH_BYTES =>
            {
                if mailbox.fresh.is_empty() && is_read {
                    // Nothing of this mailbox lies between.
                    mailbox.cursor = sequence;
                }
                self.fresh_bytes += bytes.len();
                mailbox.fresh.push_back(Fresh { sequence, exp, bytes });
            }
            // What is behind a gap is read from the file.
            _ => self.fresh_bytes -= mailbox.forget_fresh(),
        }
        self.ready.insert(number);
        self.expect_expiry(number, exp, (sequence, sequence));
    }

    /// Between two sequences of a mailbox there are messages that end at `exp`.
    fn expect_expiry(&mut self, number: u64, exp: u64, (first, last): (u64, u64)) {
        let span = self.expiries.entry((exp / EXPIRY_STEP, number)).or_insert((first, last));
        *span = (span.0.min(first), span.1.max(last));
    }

    /// Counts messages of a mailbox out, with the bytes of each.
    fn leave(&mut self, number: u64, messages: &[(Place, u64)]) {
        let Some(mailbox) = self.mailboxes.get_mut(&number) else { return };
        for (place, bytes) in messages {
            mailbox.leave(*bytes);
            mailbox.again.remove(&place.sequence);
            (self.count, self.bytes) = (self.count.saturating_sub(1), self.bytes.saturating_sub(*bytes));
        }
    }

    // ---- Requests ----------------------------------------------------------------------------------

    fn take(&mut self, request: Request, batch: &mut Batch, now: Now) {
        match request {
            Request::Publish { message, charge, reply } => match self.admit(&message, batch, now) {
                Ok(None) => batch.repeated.push(reply),
                Ok(Some((recent, place, exp))) => {
                    let bytes = message.bytes;
                    let (recent, reply) = (Some(recent), Some(reply));
                    batch.arrivals.push(Arrival { recent, place, exp, bytes, reply, _charge: charge });
                }
                Err(error) => tell(reply, Err(error)),
            },
            Request::Subscribe { id, subject, seat } => {
                // Without a place for its mailbox the subscription ends at once.
                if self.has_place_for(&subject) {
                    self.subscribers.insert(id, Subscriber { mailbox: 0, seat, sent: 0, bytes: 0 });
                    self.sit(id, &subject);
                }
            }
            Request::Unsubscribe { id } => {
                if let Some(subscriber) = self.subscribers.remove(&id)
                    && let Some(mailbox) = self.mailboxes.get_mut(&subscriber.mailbox)
                {
                    mailbox.subscribers.retain(|other| *other != id);
                }
            }
            Request::Settle { tag, verdict, reply } => self.settle(tag, verdict, reply, batch, now),
            Request::Abandon { tag, taken } => {
                if let Some(lease) = self.release(tag) {
                    self.give_back(lease, taken, now);
                }
            }
            Request::List { reply } => tell(reply, self.list()),
            Request::DeadLetters { subject, reply } => tell(reply, self.dead_letters(&subject)),
            Request::Purge { subject, reply } => match self.purge(&subject, batch) {
                Ok(count) => batch.moved.push((reply, count)),
                Err(error) => tell(reply, Err(error)),
            },
            Request::Redeliver { subject, reply } => match self.redeliver(&subject, batch, now) {
                Ok(count) => batch.moved.push((reply, count)),
                Err(error) => tell(reply, Err(error)),
            },
        }
    }

    /// Puts a message into the next commit; none if it is stored already.
    fn admit(
        &mut self,
        message: &Publish,
        batch: &mut Batch,
        now: Now,
    ) -> Result<Option<(Recent, Place, u64)>, QueueError> {
        let (bytes, bytes_max) = (message.bytes.len(), MESSAGE_BYTES_MAX);
        if bytes > bytes_max {
            return Err(QueueError::TooLarge { bytes, bytes_max });
        }
        if message.ttl.is_zero() {
            return Err(QueueError::Expired);
        }
        if !self.has_place_for(&message.subject) {
            return Err(exceeded("mailboxes", self.limits.mailboxes));
        }
        let number = self.number(&message.subject);
        let check = checksum(&message.bytes);
        let recent = Recent { mailbox: number, mid: message.mid, check, stored: now.unix };
        if self.window.contains(&recent) {
            return Ok(None);
        }
        let ttl = message.ttl.min(self.limits.lifetime);
        // A message lives for at least a second.
        let exp = now.unix.saturating_add(ttl.as_secs().max(1));
        let place = self.store(number, message.mid, exp, &message.bytes, batch, now)?;
        self.window.note(&recent);
        Ok(Some((recent, place, exp)))
    }

    /// Takes room for a message and puts it into the next commit.
    fn store(
        &mut self,
        number: u64,
        mid: Mid,
        exp: u64,
        bytes: &Bytes,
        batch: &mut Batch,
        now: Now,
    ) -> Result<Place, QueueError> {
        let Some(file) = &self.file else { return Err(refusal(&self.trouble)) };
        let Some(mailbox) = self.mailboxes.get(&number) else { return Err(QueueError::Closed) };
        let (limits, more) = (&self.limits, bytes.len() as u64);
        for (quota, used, more, limit) in [
            ("mailbox_messages", mailbox.count, 1, limits.mailbox_messages),
            ("mailbox_bytes", mailbox.bytes, more, limits.mailbox_bytes),
            ("messages", self.count, 1, limits.messages),
            ("bytes", self.bytes, more, limits.bytes),
        ] {
            if used + more > limit {
                return Err(exceeded(quota, limit));
            }
        }
        let medium = &self.medium;
        let available = *batch.available.get_or_insert_with(|| medium.available().unwrap_or(u64::MAX));
        let unused = self.held_most.saturating_sub(self.held);
        // Each page is written beside its old self, and removing needs some as well.
        let needed = 2 * (self.edits.len() as u64 + more) + limits.spare_bytes;
        if available.saturating_add(unused) < needed {
            return Err(QueueError::StorageFull);
        }
        let place = Place { mailbox: number, sequence: self.next_sequence };
        self.next_sequence += 1;
        let message = Message { stored: now.unix, exp, mid, subject: &mailbox.text, body: bytes };
        self.edits.put(file.mark(), place, &Entry::Message(message));
        self.account(number, more);
        Ok(place)
    }

    /// A message comes again, before all that were never handed out.
    fn again(&mut self, place: Place, waiting: Waiting) {
        if let Some(mailbox) = self.mailboxes.get_mut(&place.mailbox) {
            mailbox.again.insert(place.sequence, waiting);
            self.ready.insert(place.mailbox);
        }
    }

    /// A message is done with; it leaves the file with the next commit.
    fn remove(&mut self, place: Place, bytes: u64, now: Now) {
        // It may have been found expired in two ways; it is counted out once.
        if !self.settled.insert(place) {
            return;
        }
        self.leave(place.mailbox, &[(place, bytes)]);
        self.lag_end.get_or_insert(now.steady + LAG);
    }

    /// Whether a message is still in the file, but not for long.
    fn is_going(&self, place: Place) -> bool {
        self.settled.contains(&place) || self.dying.iter().any(|dying| dying.place == place)
    }

    fn let_die(&mut self, dying: Dying, now: Now) {
        self.dying.push(dying);
        self.lag_end.get_or_insert(now.steady + LAG);
    }

    // ---- Mailboxes ---------------------------------------------------------------------------------

    /// The number of a mailbox's lane, which there is from now on.
    fn number(&mut self, subject: &Subject) -> u64 {
        if let Some(number) = self.numbers.get(subject) {
            return *number;
        }
        // Never one that was used: entries of a mailbox that was forgotten may still be in the file.
        let last = self.mailboxes.last_key_value().map_or(0, |(last, _)| *last);
        let number = self.last_number.max(last) + 1;
        self.last_number = number;
        self.numbers.insert(subject.clone(), number);
        let mut mailbox = Mailbox::new(subject.clone());
        mailbox.cursor = self.next_sequence;
        self.mailboxes.insert(number, mailbox);
        self.rows.insert(number);
        number
    }

    /// Whether a mailbox is known, or may become so.
    fn has_place_for(&mut self, subject: &Subject) -> bool {
        self.numbers.contains_key(subject)
            || (self.mailboxes.len() as u64) < self.limits.mailboxes
            || self.forget_an_idle_one()
    }

    /// Forgets a mailbox that has nothing and that nobody waits for.
    fn forget_an_idle_one(&mut self) -> bool {
        let idle = self.mailboxes.iter().find(|(_, mailbox)| mailbox.is_idle()).map(|(number, _)| *number);
        idle.is_some_and(|number| self.forget(number))
    }

    fn forget(&mut self, number: u64) -> bool {
        self.last_number = self.last_number.max(number);
        self.rows.remove(&number);
        self.ready.remove(&number);
        if let Some(mailbox) = self.mailboxes.remove(&number) {
            self.numbers.remove(&mailbox.subject);
            if mailbox.handed.is_some() {
                self.settled.insert(Place { mailbox: number, sequence: 0 });
            }
        }
        true
    }

    /// Gives a subscriber its place at a mailbox.
    fn sit(&mut self, id: u64, subject: &Subject) {
        let number = self.number(subject);
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.mailbox = number;
        }
        if let Some(mailbox) = self.mailboxes.get_mut(&number) {
            mailbox.subscribers.push_back(id);
            mailbox.was_subscribed = true;
            self.ready.insert(number);
        }
    }

    // ---- Time --------------------------------------------------------------------------------------

    fn look_at_clock(&mut self, now: Now) {
        while let Some(first) = self.paused.first_entry().filter(|first| first.key().0 <= now.steady) {
            let ((_, number, sequence), waiting) = first.remove_entry();
            if let Some(mailbox) = self.mailboxes.get_mut(&number) {
                mailbox.unsettled = mailbox.unsettled.saturating_sub(1);
            }
            self.again(Place { mailbox: number, sequence }, waiting);
        }
        while let Some((end, tag)) = self.lease_ends.front().copied().filter(|(end, _)| *end <= now.steady) {
            self.lease_ends.pop_front();
            self.end_lease(end, tag, now);
        }
        while let Some(first) = self.expiries.first_entry()
            && (first.key().0 + 1).saturating_mul(EXPIRY_STEP) <= now.unix
        {
            let ((_, number), span) = first.remove_entry();
            self.expire(number, span, now);
        }
    }

    /// Removes what has expired between two sequences; what somebody has is left to them.
    fn expire(&mut self, number: u64, span: (u64, u64), now: Now) {
        let Some(file) = &self.file else { return self.expect_expiry(number, now.unix, span) };
        let leased: BTreeSet<Place> = self.leases.values().map(|lease| lease.place).collect();
        let mut expired = Vec::new();
        let places = Place { mailbox: number, sequence: span.0 }..after(number, span.1);
        let outcome = file.each(places, |place, bytes| {
            if let Some(Entry::Message(message)) = Entry::decode(file.mark(), place, bytes)
                && message.exp <= now.unix
                && !self.is_going(place)
                && !leased.contains(&place)
            {
                expired.push((place, message.body.len() as u64));
            }
            true
        });
        if !expired.is_empty()
            && let Some(mailbox) = self.mailboxes.get_mut(&number)
        {
            // What is left of them in memory would be counted out once more when it is handed out.
            self.fresh_bytes -= mailbox.forget_fresh();
        }
        for (place, bytes) in expired {
            self.remove(place, bytes, now);
        }
        if let Err(trouble) = outcome {
            self.fail(trouble, now);
        }
    }
}

/// The first place behind a message.
fn after(mailbox: u64, sequence: u64) -> Place {
    Place { mailbox, sequence: sequence.saturating_add(1) }
}

/// What a stored message counts for its mailbox: the bytes of its body, or all of what is damaged.
fn body_bytes(file: &QueueFile, place: Place, raw: &[u8]) -> u64 {
    match Entry::decode(file.mark(), place, raw) {
        Some(Entry::Message(message)) => message.body.len() as u64,
        _ => raw.len() as u64,
    }
}

fn exceeded(quota: &'static str, limit: u64) -> QueueError {
    QueueError::QuotaExceeded { quota, limit }
}

/// What whoever asked is told of a trouble.
fn refusal(trouble: &Trouble) -> QueueError {
    match trouble {
        Trouble::Full => QueueError::StorageFull,
        Trouble::Damaged => {
            QueueError::Storage(Arc::new(std::io::Error::from(std::io::ErrorKind::InvalidData)))
        }
        Trouble::Failed(error) => QueueError::Storage(Arc::clone(error)),
    }
}

/// Answers; whether anybody still waits is theirs.
fn tell<T>(reply: Reply<T>, answer: Result<T, QueueError>) {
    let _ = reply.send(answer);
}

#[cfg(test)]
mod tests;
