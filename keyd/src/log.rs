//! The files of a log: its leaves, its signed heads, and the public key of these.
//!
//! Specification: docs/protocol.md §5.6.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use onward_keys::audit::{AuditError, Leaf, Log, Medium, last_head};

/// The public key of the heads of both logs, 64 hexadecimal digits, in the service's directory.
pub const SIGNER_NAME: &str = "audit.pub";

/// The names of a log's files in the service's directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogNames {
    /// The leaves.
    pub leaves: &'static str,
    /// The signed heads.
    pub heads: &'static str,
}

/// What was done with the keys of the store.
pub const AUDIT_NAMES: LogNames = LogNames { leaves: "audit.log", heads: "audit.heads" };

/// What became of the keys of the cache.
pub const CACHE_NAMES: LogNames = LogNames { leaves: "cache.log", heads: "cache.heads" };

/// A log's open files.
#[derive(Debug)]
pub struct LogFiles {
    leaves: File,
    heads: File,
}

impl LogFiles {
    /// Opens the log in `directory`, or begins one; `key` is the log's key, and `look` sees every leaf. A last leaf and a
    /// last head that were not written whole are cut off.
    ///
    /// # Errors
    /// Of the system, or [`io::ErrorKind::InvalidData`] when the log was changed: it is not continued then.
    pub fn open(
        directory: &Path,
        names: LogNames,
        key: &[u8; 32],
        look: impl FnMut(&Leaf),
    ) -> io::Result<Log<Self>> {
        let path = directory.join(names.leaves);
        let leaves = open_to_append(&path)?;
        let cut = leaves.try_clone()?;
        let content = BufReader::with_capacity(READ_BYTES, File::open(&path)?);
        let changed = |error: AuditError| io::Error::new(io::ErrorKind::InvalidData, error);
        let path = directory.join(names.heads);
        let heads = open_to_append(&path)?;
        let (last, whole_heads) = last_head(BufReader::new(File::open(&path)?)).map_err(changed)?;
        heads.set_len(whole_heads)?;
        let (mut log, whole) = Log::open(Self { leaves, heads }, key, content, look).map_err(changed)?;
        cut.set_len(whole)?;
        if let Some(last) = last {
            log.continue_after(&last);
        }
        Ok(log)
    }
}

impl Medium for LogFiles {
    fn append_leaves(&mut self, leaves: &[u8]) -> io::Result<()> {
        append(&mut self.leaves, leaves)
    }

    fn append_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.leaves.sync_data()?;
        append(&mut self.heads, head)?;
        self.heads.sync_data()
    }

    fn read_leaves(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.leaves.read_exact_at(out, at)
    }
}

/// Appends all of `bytes`, or nothing: what a full disk has taken of them is cut off again, so that nothing can be
/// written behind it.
fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let whole = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| {
        // Should that fail too, the log is cut when it is opened, unless more was written.
        let _ = file.set_len(whole);
    })
}

/// Writes the public key of the heads beside them, for whoever did not note it elsewhere.
///
/// # Errors
/// Of the system.
pub fn write_signer(directory: &Path, signer: &[u8; 32]) -> io::Result<()> {
    let text: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(directory.join(SIGNER_NAME), text + "\n")
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

/// Bytes of a log that are read at once.
const READ_BYTES: usize = 64 * 1024;
