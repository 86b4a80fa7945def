//! The state directory: one process at a time, private to its owner, every write atomic.
//!
//! Layout: `lock`, `keys/` (the software vault), `identities/NAME`, `histories/` (the longest identity
//! histories seen), `tickets/` (of channels that can be resumed). Other files are the application's, written with [`StateDir::write`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::NodeError;

/// An open state directory; the lock is held as long as this lives, also after kill -9 of an earlier
/// owner, because the system gives it back.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens or makes a directory of mode 0700 and locks it.
    ///
    /// # Errors
    /// [`NodeError::StateInUse`] when another process holds the lock; [`NodeError::State`] when the
    /// directory cannot be made or others may write to it.
    pub fn open(path: &Path) -> Result<Self, NodeError> {
        make_private(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| failed("open", &lock_path, source))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| NodeError::StateInUse(path.display().to_string()))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// [`NodeError::State`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, NodeError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path, source)),
        }
    }

    /// Replaces a file (mode 0600) so that a crash leaves the old or the new one, whole.
    ///
    /// # Errors
    /// [`NodeError::State`]; the old file is then still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), NodeError> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            make_private(parent)?;
        }
        let fresh = path.with_extension("new");
        let written = (|| {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(path.parent().unwrap_or(&self.path))?.sync_all()
        })();
        written.map_err(|source| {
            let _ = fs::remove_file(&fresh);
            failed("write", &path, source)
        })
    }

    /// Erases a file, so that no crash brings it back; that there is none is as good.
    ///
    /// # Errors
    /// [`NodeError::State`]; the file may still be there.
    pub fn remove(&self, name: &str) -> Result<(), NodeError> {
        let path = self.path.join(name);
        let removed = (|| {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
            File::open(path.parent().unwrap_or(&self.path))?.sync_all()
        })();
        removed.map_err(|source| failed("erase", &path, source))
    }

    /// The names of the files in a folder, sorted; empty if there is none.
    ///
    /// # Errors
    /// [`NodeError::State`].
    pub fn list(&self, folder: &str) -> Result<Vec<String>, NodeError> {
        let path = self.path.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed("list", &path, source)),
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.ends_with(".new"))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Makes a directory of mode 0700, or checks that nobody else may write to an existing one.
fn make_private(path: &Path) -> Result<(), NodeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| failed("make", path, source))?;
    let mode = fs::metadata(path).map_err(|source| failed("read", path, source))?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(failed(
            "use",
            path,
            io::Error::other(format!("others may write to it (mode {:o})", mode & 0o777)),
        ));
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> NodeError {
    NodeError::State { action, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time_and_whole_private_files() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        let state = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(NodeError::StateInUse(_))));
        assert_eq!(state.read("a/b").unwrap(), None);
        state.write("a/b", b"one").unwrap();
        state.write("a/b", b"two").unwrap();
        assert_eq!(state.read("a/b").unwrap().unwrap(), b"two");
        assert_eq!(state.list("a").unwrap(), ["b"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("a/b"))), (0o700, 0o600));
        state.remove("a/b").unwrap();
        state.remove("a/b").unwrap();
        assert_eq!(state.read("a/b").unwrap(), None);
        drop(state);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_others_may_write_to_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(StateDir::open(home.path()), Err(NodeError::State { .. })));
    }
}
