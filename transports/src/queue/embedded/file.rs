//! The file of a queue: one tree of entries, changed by whole commits, and verified whenever it is opened.
//!
//! A commit is on the disk when [`QueueFile::write`] returns, and after a power cut it is there whole or
//! not at all. Opening reads everything: what the tree's own checksums refuse, or what makes the
//! database fail, is set aside, and its entries are searched for in the raw bytes. Entries that were
//! removed may come back that way, and are then handed out again; none that is whole is lost.
//!
//! Nothing here knows what messages wait for, and nothing here has a clock.

use core::ops::Range;
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase as _, StorageBackend, StorageError, TableDefinition,
};

use super::super::{MESSAGE_BYTES_MAX, Mid};
use super::medium::Medium;
use super::record::{Entry, Found, Mark, Message, OVERHEAD, Place, checksum};

const ENTRIES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("entries");

/// Memory for pages of the file, in bytes; half of it for those of one commit.
const CACHE_BYTES: usize = 16 << 20;
/// Bytes of one commit while entries are copied into a fresh file.
const COPY_BYTES: usize = 2 << 20;
/// Most bytes of an entry: a dead letter of the longest message.
pub(crate) const ENTRY_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 16 + OVERHEAD;
/// Bytes that are searched at once.
const WINDOW_BYTES: usize = 4 << 20;

/// Why a file cannot be used.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// There is no room on the disk.
    Full,
    /// It holds something that was never written.
    Damaged,
    /// The system refused something else.
    Failed(Arc<dyn Error + Send + Sync>),
}

/// An open file.
#[derive(Debug)]
pub(crate) struct QueueFile {
    database: Database,
    mark: Mark,
}

/// An open file, and what was found when it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: QueueFile,
    pub(crate) opening: Opening,
}

/// What was found when the file of a queue was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opening {
    /// The newest commit was not whole and was undone. After a power cut in the middle of a commit, of
    /// which nobody had a receipt, that is as it should be; otherwise the file is damaged.
    pub is_undone: bool,
    /// The file was damaged and set aside, and another put in its place.
    pub is_set_aside: bool,
    /// Messages that were found by searching the bytes of the file, in either case.
    pub found: u64,
    /// Places in a file that was set aside where a message begins that is not whole, or is no longer.
    pub broken: u64,
}

/// How the last user of a file ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Ended {
    InOrder,
    /// Without closing the file.
    Killed,
    /// Likewise, and the newest commit was not whole.
    Undone,
}

impl Ended {
    /// What the database says of a repair: it begins at 0, and is at 0.3 only where the newest commit
    /// did not verify and the one before is tried.
    fn at(progress: f64) -> Self {
        if progress > 0.0 && progress < 0.5 { Self::Undone } else { Self::Killed }
    }
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    puts: Vec<(u128, Range<usize>)>,
    removals: Vec<u128>,
    bytes: Vec<u8>,
}

impl Edits {
    pub(crate) fn put(&mut self, mark: Mark, place: Place, entry: &Entry<'_>) {
        let start = self.bytes.len();
        entry.encode(mark, place, &mut self.bytes);
        self.puts.push((place.key(), start..self.bytes.len()));
    }

    pub(crate) fn remove(&mut self, place: Place) {
        self.removals.push(place.key());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removals.is_empty()
    }

    /// Bytes of all that is put.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.puts.clear();
        self.removals.clear();
        self.bytes.clear();
    }
}

impl QueueFile {
    /// Opens the file of `medium`, verifies all of it, and if it is damaged puts a fresh one in its
    /// place with everything in it that is whole.
    pub(crate) fn open(medium: &dyn Medium) -> Result<Opened, Trouble> {
        let (storage, mark) = medium.file().map_err(io_trouble)?;
        let mut opening = Opening::default();
        match Self::over(Arc::clone(&storage), mark) {
            Ok((file, Ended::InOrder)) => return Ok(Opened { file, opening }),
            Ok((file, ended)) => {
                opening.is_undone = ended == Ended::Undone;
                opening.found = file.recover(&*storage)?;
                if opening.is_undone {
                    tracing::warn!(opening.found, "the newest commit of the queue was not whole");
                }
                return Ok(Opened { file, opening });
            }
            Err(Trouble::Damaged) => {}
            Err(other) => return Err(other),
        }
        drop(storage);
        (opening.found, opening.broken) = salvage(medium)?;
        opening.is_set_aside = true;
        tracing::warn!(opening.found, opening.broken, "the file of the queue was damaged and is set aside");
        let (storage, mark) = medium.file().map_err(io_trouble)?;
        let (file, _) = Self::over(storage, mark)?;
        Ok(Opened { file, opening })
    }

    /// A verified database over `storage`, and how its last user ended.
    fn over(storage: Arc<dyn StorageBackend>, mark: Mark) -> Result<(Self, Ended), Trouble> {
        let progress = Arc::new(Mutex::new(Ended::InOrder));
        let noted = Arc::clone(&progress);
        let database = guarded(|| {
            let mut database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_repair_callback(move |repair| {
                    let mut ended = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    *ended = (*ended).max(Ended::at(repair.progress()));
                })
                .create_with_backend(Shared(storage))?;
            let ended = *progress.lock().unwrap_or_else(PoisonError::into_inner);
            // A repair has verified everything already.
            if ended == Ended::InOrder {
                database.check_integrity()?;
            }
            let transaction = database.begin_write()?;
            transaction.open_table(ENTRIES)?;
            transaction.commit()?;
            Ok((database, ended))
        });
        database.map(|(database, ended)| (Self { database, mark }, ended))
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Makes all `edits` one commit, on the disk when this returns, and empties them.
    ///
    /// After an error the file is of no use any more; the commit is in it, or not.
    pub(crate) fn write(&self, edits: &mut Edits) -> Result<(), Trouble> {
        guarded(|| {
            let transaction = self.database.begin_write()?;
            let mut table = transaction.open_table(ENTRIES)?;
            // Neighbours go together, which takes the database a fraction of the time.
            edits.removals.sort_unstable();
            for keys in edits.removals.chunk_by(|one, other| other - one <= 1) {
                match keys {
                    [key] => drop(table.remove(key)?),
                    [first, .., last] => table.retain_in(*first..=*last, |_, _| false)?,
                    [] => {}
                }
            }
            for (key, range) in &edits.puts {
                table.insert(key, &edits.bytes[range.clone()])?;
            }
            drop(table);
            transaction.commit()?;
            Ok(())
        })?;
        edits.clear();
        Ok(())
    }

    /// Lets go of a file that failed.
    pub(crate) fn abandon(self) {
        // What it still tries fails again.
        let _ = guarded(|| {
            drop(self);
            Ok(())
        });
    }

    /// The bytes at `place`, whole or not.
    pub(crate) fn get(&self, place: Place) -> Result<Option<Vec<u8>>, Trouble> {
        self.read(|table| Ok(table.get(place.key())?.map(|bytes| bytes.value().to_vec())))
    }

    /// Hands the entries of `places` in their order to `visit` until that says `false`.
    pub(crate) fn each(
        &self,
        places: Range<Place>,
        mut visit: impl FnMut(Place, &[u8]) -> bool,
    ) -> Result<(), Trouble> {
        if places.is_empty() {
            return Ok(());
        }
        self.read(|table| {
            for item in table.range(places.start.key()..places.end.key())? {
                let (key, bytes) = item?;
                if !visit(Place::from_key(key.value()), bytes.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn read<R>(
        &self,
        work: impl FnOnce(&ReadOnlyTable<u128, &'static [u8]>) -> Result<R, StorageError>,
    ) -> Result<R, Trouble> {
        guarded(|| {
            let table = self.database.begin_read()?.open_table(ENTRIES)?;
            Ok(work(&table)?)
        })
    }

    /// Puts back messages that are newer than all that the tree knows. After a crash those of a commit
    /// that was under way may be there, which does no harm; but if the newest commit was damaged as
    /// well, the database has silently gone back to the one before it, and they were promised.
    fn recover(&self, storage: &dyn StorageBackend) -> Result<u64, Trouble> {
        let mut copy = Copy::new(self);
        let everything = Place::COUNTER..Place { mailbox: u64::MAX, sequence: 0 };
        self.each(everything, |place, bytes| {
            match Entry::decode(self.mark, place, bytes) {
                Some(Entry::Counter { next }) => copy.next = next,
                Some(Entry::Mailbox { subject, .. }) => {
                    copy.mailboxes.insert(subject.to_owned(), place.mailbox);
                }
                _ => {}
            }
            true
        })?;
        let least = copy.next;
        scan(
            storage,
            self.mark,
            |place, message| {
                if place.sequence >= least { copy.add(place, message) } else { Ok(()) }
            },
        )?;
        copy.finish()
    }
}

/// Fills a fresh file from a damaged one and puts it in its place; messages found, and broken ones.
fn salvage(medium: &dyn Medium) -> Result<(u64, u64), Trouble> {
    let (damaged, damaged_mark) = medium.file().map_err(io_trouble)?;
    let (fresh, mark) = medium.fresh().map_err(io_trouble)?;
    let (file, _) = QueueFile::over(fresh, mark)?;
    let mut copy = Copy::new(&file);
    let broken = scan(&*damaged, damaged_mark, |place, message| copy.add(place, message))?;
    let messages = copy.finish()?;
    // Its end writes what the next opening needs.
    guarded(|| {
        drop(file);
        Ok(())
    })?;
    medium.replace().map_err(io_trouble)?;
    Ok((messages, broken))
}

/// Puts messages that were found by searching into a file. The same one is often found many times,
/// since pages are copied when they change.
struct Copy<'a> {
    file: &'a QueueFile,
    edits: Edits,
    mailboxes: HashMap<String, u64>,
    next: u64,
    /// Checksums of what stands in a place; two messages in one place are possible where a commit was
    /// given up and its sequences used again.
    taken: HashMap<Place, u32>,
    displaced: Vec<(u64, OwnedMessage)>,
}

struct OwnedMessage {
    stored: u64,
    exp: u64,
    mid: Mid,
    subject: String,
    body: Vec<u8>,
}

impl<'a> Copy<'a> {
    fn new(file: &'a QueueFile) -> Self {
        Self {
            file,
            edits: Edits::default(),
            mailboxes: HashMap::new(),
            next: 1,
            taken: HashMap::new(),
            displaced: Vec::new(),
        }
    }

    fn add(&mut self, found: Place, message: Message<'_>) -> Result<(), Trouble> {
        if message.subject().is_none() {
            return Ok(());
        }
        let mailbox = self.mailbox(message.subject);
        let place = Place { mailbox, sequence: found.sequence };
        let check = checksum(message.body);
        match self.taken.get(&place) {
            None => {
                self.taken.insert(place, check);
                self.next = self.next.max(place.sequence.saturating_add(1));
                self.put(place, &message)
            }
            Some(other) if *other == check => Ok(()),
            Some(_) => {
                let Message { stored, exp, mid, subject, body } = message;
                let is_new = self.displaced.iter().all(|(_, other)| other.body != body);
                if is_new {
                    let owned =
                        OwnedMessage { stored, exp, mid, subject: subject.to_owned(), body: body.to_vec() };
                    self.displaced.push((mailbox, owned));
                }
                Ok(())
            }
        }
    }

    /// Writes what is left; how many messages were added.
    fn finish(mut self) -> Result<u64, Trouble> {
        for (mailbox, message) in core::mem::take(&mut self.displaced) {
            let place = Place { mailbox, sequence: self.next };
            self.next += 1;
            let OwnedMessage { stored, exp, mid, subject, body } = &message;
            let message = Message { stored: *stored, exp: *exp, mid: *mid, subject, body };
            self.taken.insert(place, 0);
            self.put(place, &message)?;
        }
        if !self.taken.is_empty() {
            self.edits.put(self.file.mark, Place::COUNTER, &Entry::Counter { next: self.next });
            self.file.write(&mut self.edits)?;
        }
        Ok(self.taken.len() as u64)
    }

    fn put(&mut self, place: Place, message: &Message<'_>) -> Result<(), Trouble> {
        self.edits.put(self.file.mark, place, &Entry::Message(*message));
        if self.edits.len() > COPY_BYTES { self.file.write(&mut self.edits) } else { Ok(()) }
    }

    /// The number of a mailbox; a new one gets the next. Nobody knows any more what was handed out.
    fn mailbox(&mut self, subject: &str) -> u64 {
        if let Some(mailbox) = self.mailboxes.get(subject) {
            return *mailbox;
        }
        let mailbox = self.mailboxes.values().max().map_or(1, |last| last + 1);
        self.mailboxes.insert(subject.to_owned(), mailbox);
        let entry = Entry::Mailbox { handed: u64::MAX, subject };
        self.edits.put(self.file.mark, Place { mailbox, sequence: 0 }, &entry);
        mailbox
    }
}

/// Searches raw bytes for messages and hands each to `visit`, as often as it is there; how many marks
/// of messages have no whole message behind them.
fn scan(
    storage: &dyn StorageBackend,
    mark: Mark,
    mut visit: impl FnMut(Place, Message<'_>) -> Result<(), Trouble>,
) -> Result<u64, Trouble> {
    const { assert!(WINDOW_BYTES >= 2 * ENTRY_BYTES_MAX) };
    let finder = memchr::memmem::Finder::new(&mark);
    let end = storage.len().map_err(io_trouble)?;
    let mut window = vec![0; WINDOW_BYTES.min(usize::try_from(end).unwrap_or(usize::MAX))];
    let (mut at, mut broken) = (0, 0);
    while at < end {
        let length = WINDOW_BYTES.min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let bytes = &mut window[..length];
        storage.read(at, bytes).map_err(io_trouble)?;
        let is_last = at + length as u64 == end;
        // Entries that begin before this are whole in the window, if they are anywhere.
        let begin_before = if is_last { length } else { length - ENTRY_BYTES_MAX };
        let mut from = 0;
        while let Some(start) = finder.find(&bytes[from..]).map(|found| from + found) {
            if start >= begin_before {
                break;
            }
            match Entry::find_message(mark, &bytes[start..]) {
                Found::Whole(place, message, length) => {
                    visit(place, message)?;
                    from = start + length;
                }
                Found::Broken => {
                    broken += 1;
                    from = start + 1;
                }
                Found::Other => from = start + 1,
            }
        }
        at += begin_before.max(from) as u64;
    }
    Ok(broken)
}

/// `Arc<dyn StorageBackend>` as a backend of its own.
#[derive(Debug)]
struct Shared(Arc<dyn StorageBackend>);

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// Runs what uses the database. A damaged file can make the database panic, and that must end
/// neither the queue nor its process.
fn guarded<R>(work: impl FnOnce() -> Result<R, redb::Error>) -> Result<R, Trouble> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(redb::Error::Io(error))) => Err(io_trouble(error)),
        Ok(Err(redb::Error::PreviousIo)) => Err(Trouble::Failed(Arc::new(redb::Error::PreviousIo))),
        Ok(Err(
            error @ (redb::Error::ValueTooLarge(_)
            | redb::Error::DatabaseClosed
            | redb::Error::LockPoisoned(_)),
        )) => Err(Trouble::Failed(Arc::new(error))),
        // Anything else says that the file is not what was written.
        Ok(Err(_)) | Err(_) => Err(Trouble::Damaged),
    }
}

pub(crate) fn io_trouble(error: io::Error) -> Trouble {
    use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Trouble::Full,
        InvalidData | UnexpectedEof => Trouble::Damaged,
        _ => Trouble::Failed(Arc::new(error)),
    }
}
