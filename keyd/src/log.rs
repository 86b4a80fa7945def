//! The audit log on disk: leaves as they happen, and a signed head once a second while there are new ones.
//!
//! What was answered is written before the answer leaves. A head is written only after the leaves under it are on the
//! disk, so that no head speaks of leaves that a power failure took.
//!
//! Specification: docs/protocol.md §5.6.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use onward_keys::arena::Secret;
use onward_keys::audit::{Note, Tree, put_head};
use onward_keys::hash;

use crate::service::Now;

/// The file of leaves, in the service's directory.
pub const LOG_NAME: &str = "audit.log";
/// The file of signed heads, in the service's directory.
pub const HEADS_NAME: &str = "audit.heads";

/// The file of the heads' public key, 64 hexadecimal digits, in the service's directory.
pub const SIGNER_NAME: &str = "audit.pub";

/// A head is due this long after the last one.
pub const HEAD_EVERY: Duration = Duration::from_secs(1);
/// A head is due after this many leaves, too.
pub const HEAD_LEAVES: u64 = 1000;

/// The open log of one unlocked period.
#[derive(Debug)]
pub struct AuditLog {
    key: Secret,
    log: File,
    heads: File,
    tree: Tree,
    /// Leaves that are not written yet.
    pending: Vec<u8>,
    /// Leaves under the last head.
    headed: u64,
    head_at: Option<Instant>,
    ends: bool,
}

impl AuditLog {
    /// Opens the log in `directory`, or begins one. A last leaf that was not written whole is cut off.
    ///
    /// The public key `signer` of the heads is written beside, for whoever did not note it elsewhere.
    ///
    /// # Errors
    /// Of the system, or [`io::ErrorKind::InvalidData`] when the log was changed: it is not continued then.
    pub fn open(directory: &Path, key: Secret, signer: &[u8; 32]) -> io::Result<Self> {
        let path = directory.join(LOG_NAME);
        let log = open_to_append(&path)?;
        let content = std::fs::read(&path)?;
        let (tree, whole) = Tree::read(&content, |_, _| ())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        log.set_len(whole as u64)?;
        let text: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(directory.join(SIGNER_NAME), text + "\n")?;
        let heads = open_to_append(&directory.join(HEADS_NAME))?;
        let headed = tree.size();
        Ok(Self { key, log, heads, tree, pending: Vec::new(), headed, head_at: None, ends: false })
    }

    /// Notes what happened; [`AuditLog::write`] writes it down.
    pub fn note(&mut self, now: Now, note: &Note) {
        self.tree.append(self.key.as_bytes(), now.unix_ms, note, &mut self.pending);
    }

    /// Makes a head due now: nothing follows for a while.
    pub fn end(&mut self) {
        self.ends = true;
    }

    /// Writes down what was noted, and a head signed by `sign` where one is due.
    ///
    /// # Errors
    /// Of the system.
    pub fn write(&mut self, now: Now, sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.log.write_all(&self.pending)?;
            self.pending.clear();
        }
        let last = *self.head_at.get_or_insert(now.steady);
        let new = self.tree.size() - self.headed;
        let old_enough = now.steady.saturating_duration_since(last) >= HEAD_EVERY;
        if new == 0 || !(old_enough || self.ends || new >= HEAD_LEAVES) {
            return Ok(());
        }
        self.log.sync_data()?;
        let body = self.tree.head(&self.log_id(), now.unix_ms / 1000);
        if let Some(signature) = sign(&body) {
            let mut head = Vec::new();
            put_head(&mut head, &body, &signature);
            self.heads.write_all(&head)?;
            self.heads.sync_data()?;
        }
        (self.headed, self.head_at) = (self.tree.size(), Some(now.steady));
        Ok(())
    }

    /// Names the log without naming its key.
    fn log_id(&self) -> [u8; 32] {
        hash(&onward_keys::Label::new("audit/id").bytes(&hash(self.key.as_bytes())).encode())
    }
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}
