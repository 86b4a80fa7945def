//! The directory of a software vault: one file per key, and nothing else.
//!
//! A key file appears whole or not at all: it is written beside, synced, renamed, and the directory synced. The
//! directory is locked while it is read or changed, so that what looks unfinished then belongs to a writer that was
//! killed. Erasure of deleted files from the disk is not claimed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{PrivateKey, file};
use crate::{KeyError, KeyId, StoreError};

/// The keys of a vault.
pub(super) type Keys = BTreeMap<KeyId, PrivateKey>;

/// An open key directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Held open to lock and to sync it.
    handle: File,
}

impl Directory {
    /// Opens the directory, or makes it with mode 0700 and its marker file, and reads every key in it.
    ///
    /// Removes what a killed writer left. Writes nothing into a directory that holds anything else.
    pub(super) fn open(path: &Path) -> Result<(Self, Keys), KeyError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(path, "making the directory", error)),
        }
        let handle = open_checked(path, Kind::Directory)?;
        let directory = Self { path: path.to_owned(), handle };
        let keys = {
            let _lock = directory.lock()?;
            let (marked, keys) = directory.read()?;
            if !marked {
                directory.write_whole(MARKER_NAME, MARKER)?;
            }
            keys
        };
        Ok((directory, keys))
    }

    /// Reads every key, and whether the marker is there.
    fn read(&self) -> Result<(bool, Keys), KeyError> {
        let reading = |error| failed(&self.path, "reading the directory", error);
        let (mut marked, mut keys) = (false, Keys::new());
        for entry in fs::read_dir(&self.path).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let path = entry.path();
            match Entry::parse(entry.file_name().to_str()) {
                Some(Entry::Key(id)) => {
                    keys.insert(id, read_key(&path)?);
                }
                Some(Entry::Marker) => {
                    open_checked(&path, Kind::File)?;
                    marked = true;
                }
                Some(Entry::Unfinished) => {
                    open_checked(&path, Kind::File)?;
                    fs::remove_file(&path)
                        .map_err(|error| failed(&path, "removing an unfinished file", error))?;
                }
                None => return Err(refused(&path, StoreError::Unknown)),
            }
        }
        Ok((marked, keys))
    }

    /// Writes the file of a new key; it is on the disk when this returns.
    pub(super) fn write(&self, id: KeyId, key: &PrivateKey) -> Result<(), KeyError> {
        let _lock = self.lock()?;
        let name = key_name(id);
        let text = file::encode(key).map_err(|error| refused(&self.path.join(&name), error))?;
        self.write_whole(&name, &text)
    }

    /// Removes the file of a key; it is gone from the directory on disk when this returns.
    pub(super) fn remove(&self, id: KeyId) -> Result<(), KeyError> {
        let _lock = self.lock()?;
        let path = self.path.join(key_name(id));
        match fs::remove_file(&path) {
            Ok(()) => {}
            // Another process has removed it already, or this one before a failed sync.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, "removing the file", error)),
        }
        self.sync()
    }

    fn write_whole(&self, name: &str, text: &str) -> Result<(), KeyError> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{UNFINISHED}{name}"));
        let written = write_new(&unfinished, text.as_bytes())
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| failed(&path, "writing the file", error));
        if written.is_err() {
            // Best effort: the next open removes it too.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.sync()
    }

    fn sync(&self) -> Result<(), KeyError> {
        self.handle.sync_all().map_err(|error| failed(&self.path, "syncing the directory", error))
    }

    fn lock(&self) -> Result<Lock<'_>, KeyError> {
        self.handle.lock().map_err(|error| failed(&self.path, "locking the directory", error))?;
        Ok(Lock(&self.handle))
    }
}

/// Holds the directory's lock until dropped.
struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Cannot fail for a lock that is held; closing the directory releases it in any case.
        let _ = self.0.unlock();
    }
}

/// What a name in the directory stands for.
enum Entry {
    Key(KeyId),
    Marker,
    Unfinished,
}

impl Entry {
    fn parse(name: Option<&str>) -> Option<Self> {
        let name = name?;
        if let Some(finished) = name.strip_prefix(UNFINISHED) {
            return Self::parse_finished(finished).map(|_| Self::Unfinished);
        }
        Self::parse_finished(name)
    }

    fn parse_finished(name: &str) -> Option<Self> {
        if name == MARKER_NAME {
            return Some(Self::Marker);
        }
        KeyId::parse(name.strip_suffix(".pem")?).map(Self::Key)
    }
}

fn key_name(id: KeyId) -> String {
    format!("{id}.pem")
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKey, KeyError> {
    let reading = |error| failed(path, "reading the file", error);
    let mut handle = open_checked(path, Kind::File)?;
    let length = handle.metadata().map_err(reading)?.len();
    if length > file::FILE_BYTES_MAX {
        return Err(refused(path, StoreError::Malformed("too long")));
    }
    let mut content = Zeroizing::new(vec![0; length as usize]);
    handle.read_exact(&mut content).map_err(reading)?;
    file::decode(&content).map_err(|error| refused(path, error))
}

/// Makes a file of mode 0600 and puts `content` on the disk. Never opens one that is already there.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut handle = options.open(path)?;
    handle.write_all(content)?;
    handle.sync_all()
}

#[derive(Clone, Copy)]
enum Kind {
    Directory,
    File,
}

/// Opens what `path` names if it is of `kind`, no link, and closed to group and others.
fn open_checked(path: &Path, kind: Kind) -> Result<File, KeyError> {
    let opening = |error| failed(path, "opening it", error);
    let named = fs::symlink_metadata(path).map_err(opening)?;
    match kind {
        Kind::Directory if !named.is_dir() => {
            return Err(refused(path, StoreError::WrongKind("directory")));
        }
        Kind::File if !named.is_file() => {
            return Err(refused(path, StoreError::WrongKind("file")));
        }
        Kind::Directory | Kind::File => {}
    }
    let handle = File::open(path).map_err(opening)?;
    let opened = handle.metadata().map_err(opening)?;
    // A link put in place between the two looks would lead elsewhere.
    if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
        return Err(refused(path, StoreError::Replaced));
    }
    let mode = opened.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(refused(path, StoreError::Exposed(mode)));
    }
    Ok(handle)
}

fn refused(path: &Path, source: StoreError) -> KeyError {
    KeyError::Store { path: path.to_owned(), source }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> KeyError {
    refused(path, StoreError::Io { action, source })
}

/// What a file's name begins with until it is whole.
const UNFINISHED: &str = ".new-";
const MARKER_NAME: &str = "README";
const MARKER: &str = "\
Development keys of onward.

Whoever can read these files has the keys: nothing but the file modes protects them.
Keep keys of real use in an isolated vault. Other files in this directory are refused.
";
