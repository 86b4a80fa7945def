//! What a queue's file lies on: a folder of this machine, or in tests anything that loses power.
//!
//! Layout of a folder of mode 0700: `lock`, held by the one process that has it open; `queue-MARK`, the
//! file; and what was set aside because it was damaged, `damaged-MARK`, for people to look at. `fresh-MARK`
//! is a file that is being filled from a damaged one. All of mode 0600.

use core::fmt;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;

use super::super::QueueError;
use super::record::Mark;

/// Where the file of a queue is, and where a fresh one can be made. Opened by one queue at a time.
pub trait Medium: fmt::Debug + Send + Sync + 'static {
    /// The file, made if there is none, and its mark.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn file(&self) -> io::Result<(Arc<dyn StorageBackend>, Mark)>;

    /// An empty file with a mark of its own, to be filled in the place of one that is damaged.
    ///
    /// # Errors
    /// When it cannot be made.
    fn fresh(&self) -> io::Result<(Arc<dyn StorageBackend>, Mark)>;

    /// Sets the damaged file aside and puts the fresh one in its place; a crash leaves the one or the
    /// other there.
    ///
    /// # Errors
    /// When neither is certain.
    fn replace(&self) -> io::Result<()>;

    /// Bytes that it still takes.
    ///
    /// # Errors
    /// When it does not say.
    fn available(&self) -> io::Result<u64>;
}

/// A folder of this machine, locked as long as this lives; also after kill -9 of an earlier owner,
/// because the system gives the lock back.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

const LOCK: &str = "lock";
const CURRENT: &str = "queue-";
const FRESH: &str = "fresh-";
const DAMAGED: &str = "damaged-";

impl Folder {
    /// Opens or makes a folder of mode 0700 and locks it.
    ///
    /// # Errors
    /// [`QueueError::InUse`] when another has it open; [`QueueError::NotPrivate`] when others may enter
    /// it; [`QueueError::Storage`].
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        let failed = |error: io::Error| QueueError::Storage(Arc::new(error));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(QueueError::NotPrivate(path.to_owned()));
        }
        let lock = private(&path.join(LOCK), false).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(QueueError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let folder = Self { path: path.to_owned(), _lock: lock };
        folder.settle().map_err(failed)?;
        Ok(folder)
    }

    /// Ends what a crash left half done in [`Medium::replace`].
    fn settle(&self) -> io::Result<()> {
        let Some(fresh) = self.find(FRESH)? else { return Ok(()) };
        let has_damaged = self.find(DAMAGED)?.is_some();
        match self.find(CURRENT)? {
            // The damaged one is set aside only once the fresh one is complete.
            None if has_damaged => fs::rename(self.named(FRESH, fresh), self.named(CURRENT, fresh))?,
            _ => fs::remove_file(self.named(FRESH, fresh))?,
        }
        self.sync()
    }

    /// The mark in the name of the first file that begins with `prefix`.
    fn find(&self, prefix: &str) -> io::Result<Option<Mark>> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if let Some(mark) = parse_mark(&name, prefix) {
                return Ok(Some(mark));
            }
        }
        Ok(None)
    }

    fn named(&self, prefix: &str, mark: Mark) -> PathBuf {
        self.path.join(format!("{prefix}{:016x}", u64::from_be_bytes(mark)))
    }

    fn make(&self, prefix: &str) -> io::Result<Mark> {
        let mut mark = Mark::default();
        getrandom::fill(&mut mark).map_err(io::Error::other)?;
        private(&self.named(prefix, mark), true)?;
        self.sync()?;
        Ok(mark)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Medium for Folder {
    fn file(&self) -> io::Result<(Arc<dyn StorageBackend>, Mark)> {
        let mark = match self.find(CURRENT)? {
            Some(mark) => mark,
            None => self.make(CURRENT)?,
        };
        Ok((Arc::new(Disk(private(&self.named(CURRENT, mark), false)?)), mark))
    }

    fn fresh(&self) -> io::Result<(Arc<dyn StorageBackend>, Mark)> {
        let mark = self.make(FRESH)?;
        Ok((Arc::new(Disk(private(&self.named(FRESH, mark), false)?)), mark))
    }

    fn replace(&self) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let (current, fresh) =
            (self.find(CURRENT)?.ok_or_else(missing)?, self.find(FRESH)?.ok_or_else(missing)?);
        fs::rename(self.named(CURRENT, current), self.named(DAMAGED, current))?;
        fs::rename(self.named(FRESH, fresh), self.named(CURRENT, fresh))?;
        self.sync()
    }

    fn available(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

/// A file as storage. It is not locked: the folder is.
#[derive(Debug)]
struct Disk(File);

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

fn private(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .create_new(new)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

fn parse_mark(name: &OsStr, prefix: &str) -> Option<Mark> {
    let digits = name.to_str()?.strip_prefix(prefix)?;
    let is_mark =
        digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_mark.then(|| u64::from_str_radix(digits, 16).ok().map(u64::to_be_bytes))?
}
