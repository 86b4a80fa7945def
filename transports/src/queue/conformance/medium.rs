//! A medium in memory that can be filled up, altered, and cut off from power at any moment.
//!
//! It writes down what was written between two syncs. After a power cut any part of that may be on the
//! disk, in any order, the last of it torn at sectors; what was synced is there.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onward_routing::Rng;
use redb::StorageBackend;

use super::super::Medium;

/// Bytes that a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// The mark of every file here.
const MARK: [u8; 8] = *b"\xffmemory\x01";
/// The mark of files in whose place others were put.
const FRESH_MARK: [u8; 8] = *b"\xffmemory\x02";

/// A medium in memory. Cheap to clone; every clone is the same medium.
#[derive(Clone, Debug, Default)]
pub struct MemoryMedium(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    current: MemoryFile,
    fresh: MemoryFile,
    replaced: u64,
    capacity: Option<u64>,
    is_silent: bool,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub struct MemoryFile(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    capacity: Option<u64>,
    history: Option<Vec<Change>>,
}

/// What was done to a file, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Bytes were written at an offset.
    Write(u64, Vec<u8>),
    /// It got another length.
    Length(u64),
    /// Everything before is on the disk.
    Sync,
}

impl MemoryMedium {
    /// A medium whose file holds these bytes.
    #[must_use]
    pub fn holding(bytes: Vec<u8>) -> Self {
        let medium = Self::default();
        lock(&medium.file_now().0).bytes = bytes;
        medium
    }

    /// The bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.file_now().0).bytes.clone()
    }

    /// Changes the bytes of the file behind the back of whoever has it.
    pub fn alter(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut lock(&self.file_now().0).bytes);
    }

    /// The medium takes so many bytes and no more; any number of them with `None`.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        let mut files = lock(&self.0);
        files.capacity = capacity;
        for file in [&files.current, &files.fresh] {
            lock(&file.0).capacity = capacity;
        }
    }

    /// It no longer says how much it takes, so that it is full without a warning.
    pub fn keep_silent(&self) {
        lock(&self.0).is_silent = true;
    }

    /// Writes down every change from now on.
    pub fn record(&self) {
        lock(&self.file_now().0).history = Some(Vec::new());
    }

    /// How many changes were written down.
    #[must_use]
    pub fn recorded(&self) -> usize {
        lock(&self.file_now().0).history.as_ref().map_or(0, Vec::len)
    }

    /// Which of the changes that were written down is the last sync; 0 without any.
    #[must_use]
    pub fn last_sync(&self) -> usize {
        let file = self.file_now();
        let content = lock(&file.0);
        let history = content.history.as_deref().unwrap_or_default();
        history.iter().rposition(|change| *change == Change::Sync).unwrap_or(0)
    }

    /// What was written down.
    #[must_use]
    pub fn history(&self) -> Vec<Change> {
        lock(&self.file_now().0).history.clone().unwrap_or_default()
    }

    /// How often a damaged file was set aside.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        lock(&self.0).replaced
    }

    fn file_now(&self) -> MemoryFile {
        lock(&self.0).current.clone()
    }
}

impl Medium for MemoryMedium {
    fn file(&self) -> io::Result<(Arc<dyn StorageBackend>, [u8; 8])> {
        let mark = if self.replaced() == 0 { MARK } else { FRESH_MARK };
        Ok((Arc::new(self.file_now()), mark))
    }

    fn fresh(&self) -> io::Result<(Arc<dyn StorageBackend>, [u8; 8])> {
        let mut files = lock(&self.0);
        files.fresh = MemoryFile::default();
        lock(&files.fresh.0).capacity = files.capacity;
        Ok((Arc::new(files.fresh.clone()), FRESH_MARK))
    }

    fn replace(&self) -> io::Result<()> {
        let mut files = lock(&self.0);
        files.current = files.fresh.clone();
        files.replaced += 1;
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        let files = lock(&self.0);
        let capacity = files.capacity.filter(|_| !files.is_silent);
        drop(files);
        let used = lock(&self.file_now().0).bytes.len() as u64;
        Ok(capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used)))
    }
}

impl Content {
    fn note(&mut self, change: impl FnOnce() -> Change) {
        if let Some(history) = &mut self.history {
            history.push(change());
        }
    }

    fn check(&self, end: u64) -> io::Result<()> {
        let is_full = self.capacity.is_some_and(|capacity| end > capacity);
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = lock(&self.0);
        let end = offset as usize + out.len();
        let bytes = content.bytes.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        content.check(len)?;
        content.note(|| Change::Length(len));
        content.bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        lock(&self.0).note(|| Change::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = lock(&self.0);
        content.check(offset + data.len() as u64)?;
        content.note(|| Change::Write(offset, data.to_vec()));
        put(&mut content.bytes, offset, data);
        Ok(())
    }
}

/// What a disk that held `disk` may hold when power fails before the sync that `unsynced` was to end
/// with: all of these writes, or at most three of them, each whole or torn at sectors.
#[must_use]
pub fn after_power_cut(disk: &[u8], unsynced: &[Change], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = disk.to_vec();
    let writes: Vec<&Change> = unsynced.iter().filter(|change| matches!(change, Change::Write(..))).collect();
    // A file that gets another length may have it, or not yet.
    for change in unsynced {
        if let Change::Length(len) = change
            && rng.below(2) == 0
        {
            bytes.resize(*len as usize, 0);
        }
    }
    let all = rng.below(8) == 0;
    let count = if all { writes.len() as u64 } else { rng.below(4) };
    for number in 0..count {
        let chosen = if all { number } else { rng.below(writes.len().max(1) as u64) };
        let Some(Change::Write(offset, data)) = writes.get(chosen as usize) else { continue };
        let sectors = data.len().div_ceil(SECTOR) as u64;
        let (from, to) = match rng.below(3) {
            0 => (0, data.len()),
            // The first or the last sectors of it.
            1 => (0, (rng.below(sectors + 1) as usize * SECTOR).min(data.len())),
            _ => ((rng.below(sectors + 1) as usize * SECTOR).min(data.len()), data.len()),
        };
        put(&mut bytes, offset + from as u64, &data[from..to]);
    }
    bytes
}

/// Applies changes that are all on the disk.
pub fn apply(disk: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Write(offset, data) => put(disk, *offset, data),
            Change::Length(len) => disk.resize(*len as usize, 0),
            Change::Sync => {}
        }
    }
}

/// Writes as a disk does: what lies behind the end of the file is not there.
fn put(bytes: &mut [u8], offset: u64, data: &[u8]) {
    let start = (offset as usize).min(bytes.len());
    let end = (offset as usize + data.len()).min(bytes.len());
    bytes[start..end].copy_from_slice(&data[..end - start]);
}

fn lock<T>(content: &Mutex<T>) -> MutexGuard<'_, T> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}
