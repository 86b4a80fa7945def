//! The state directory: who may see it, how its files change, which nodes hold a lock.
//!
//! ```text
//! $ONWARD_HOME/            0700
//!   routes.toml            the route book: name = "route"
//!   peers.toml             known peers: name = "identifier"
//!   heads.toml             newest heads seen of the logs of key caches: signer = "log size time root"
//!   exchanges/ID           what the maker of a disposable key keeps of it, which is no secret
//!   identities/NAME/       keys of one identity, its `public` history, and the histories of peers it has seen
//!   identities/NAME/service   the directory of the key service that has its keys, if one has
//!   nodes/NAME/lock        held as long as the node runs; says its process id
//!   nodes/NAME/control.sock
//!   nodes/NAME/log         what a node in the background says
//! ```
//! Files are replaced whole or not at all. The mode of a directory made by somebody else is never changed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{CliError, Code};

/// The file of an identity that says which key service has its keys.
const SERVICE_NAME: &str = "service";

/// The state directory of one person.
#[derive(Clone, Debug)]
pub(crate) struct State {
    home: PathBuf,
}

/// The lock of a running node; the system lets it go with the process.
#[derive(Debug)]
pub(crate) struct NodeLock {
    _file: File,
}

/// Names with a text each, kept in a TOML file: the route book, the list of peers, the heads of logs.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    lock: PathBuf,
}

impl State {
    /// Opens the directory, `$XDG_STATE_HOME/onward` or `~/.local/state/onward` unless named, and makes
    /// it if it is not there.
    pub(crate) fn open(home: Option<PathBuf>) -> Result<Self, CliError> {
        let home = match home.or_else(default_home) {
            Some(home) => std::path::absolute(&home).unwrap_or(home),
            None => {
                return Err(CliError::new(Code::Environment, "neither ONWARD_HOME nor HOME is set")
                    .help("set ONWARD_HOME to a directory of your own"));
            }
        };
        private_dir(&home)?;
        Ok(Self { home })
    }

    /// Where everything lies.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The route book.
    pub(crate) fn routes(&self) -> Book {
        self.book("routes")
    }

    /// The list of peers.
    pub(crate) fn peers(&self) -> Book {
        self.book("peers")
    }

    /// The newest heads seen of the logs of key caches, by the public keys that sign them.
    pub(crate) fn heads(&self) -> Book {
        self.book("heads")
    }

    /// The directory of the records of disposable keys, made if need be.
    pub(crate) fn exchanges_dir(&self) -> Result<PathBuf, CliError> {
        let path = self.home.join("exchanges");
        private_dir(&path)?;
        Ok(path)
    }

    /// The directory of an identity, made if need be.
    pub(crate) fn identity_dir(&self, name: &str) -> Result<PathBuf, CliError> {
        self.sub_dir("identities", name)
    }

    /// Notes that the keys of an identity are in the key service in `service`, and not in its directory.
    pub(crate) fn keep_in_service(&self, name: &str, service: &Path) -> Result<(), CliError> {
        let path = self.identity_dir(name)?.join(SERVICE_NAME);
        let service = std::path::absolute(service).unwrap_or_else(|_| service.to_owned());
        write_whole(&path, service.as_os_str().as_bytes()).map_err(|error| unwritable(&path, error))
    }

    /// Where the key service is that has the keys of an identity; `None` if they are in its directory.
    pub(crate) fn service_of(&self, name: &str) -> Option<PathBuf> {
        let path = self.home.join("identities").join(name).join(SERVICE_NAME);
        fs::read(path).ok().map(|bytes| std::ffi::OsString::from_vec(bytes).into())
    }

    /// Keeps the public history of an identity where it can be read while its keys are in use.
    pub(crate) fn publish_history(&self, name: &str, history: &str) -> Result<(), CliError> {
        let path = self.identity_dir(name)?.join("public");
        match fs::read_to_string(&path) {
            Ok(known) if known == history => Ok(()),
            _ => write_whole(&path, history.as_bytes()).map_err(|error| unwritable(&path, error)),
        }
    }

    /// The public history of an identity; `None` if it was never made.
    pub(crate) fn public_history(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.home.join("identities").join(name).join("public")).ok()
    }

    /// The names of all identities, sorted.
    pub(crate) fn identities(&self) -> Vec<String> {
        names_in(&self.home.join("identities"))
    }

    /// The directory of a node, made if need be.
    pub(crate) fn node_dir(&self, name: &str) -> Result<PathBuf, CliError> {
        self.sub_dir("nodes", name)
    }

    /// Where a node listens for the command line.
    pub(crate) fn control_socket(&self, name: &str) -> PathBuf {
        self.home.join("nodes").join(name).join("control.sock")
    }

    /// The names of all nodes that ever ran, sorted.
    pub(crate) fn nodes(&self) -> Vec<String> {
        names_in(&self.home.join("nodes"))
    }

    /// The names of the nodes that run, sorted.
    pub(crate) fn running_nodes(&self) -> Vec<String> {
        self.nodes().into_iter().filter(|name| self.node_pid(name).is_some()).collect()
    }

    /// The process that holds a node's lock, if one does.
    pub(crate) fn node_pid(&self, name: &str) -> Option<u32> {
        let mut file = File::open(self.home.join("nodes").join(name).join("lock")).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Takes the lock of a node, and clears away what a killed process left.
    ///
    /// # Errors
    /// [`Code::NodeRuns`] while another process holds it.
    pub(crate) fn lock_node(&self, name: &str) -> Result<NodeLock, CliError> {
        /// Whoever looks whether a node runs holds its lock for a moment.
        const PATIENCE: Duration = Duration::from_millis(300);

        let path = self.node_dir(name)?.join("lock");
        let mut file = open_private(&path).map_err(|error| unwritable(&path, error))?;
        let until = Instant::now() + PATIENCE;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(unwritable(&path, error.into()));
            }
            if Instant::now() >= until {
                let sentence = format!("a node named `{name}` already runs");
                return Err(CliError::new(Code::NodeRuns, sentence).because(error));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = std::process::id().to_string();
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
        written.map_err(|error| unwritable(&path, error))?;
        // The lock proves that whoever made this socket is gone.
        let socket = self.control_socket(name);
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(&socket, error)),
            _ => Ok(NodeLock { _file: file }),
        }
    }

    fn book(&self, name: &str) -> Book {
        Book { path: self.home.join(format!("{name}.toml")), lock: self.home.join("books.lock") }
    }

    fn sub_dir(&self, kind: &str, name: &str) -> Result<PathBuf, CliError> {
        let name = checked_name(name)?;
        private_dir(&self.home.join(kind))?;
        let path = self.home.join(kind).join(name);
        private_dir(&path)?;
        Ok(path)
    }
}

impl Book {
    /// All entries, sorted by name.
    pub(crate) fn entries(&self) -> Result<BTreeMap<String, String>, CliError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(unwritable(&self.path, error)),
        };
        toml::from_str(&text).map_err(|error| {
            CliError::new(Code::StateWrite, format!("{} is damaged", self.path.display()))
                .because(error)
                .help("mend or remove the file: it holds one line per entry, name = \"text\"")
        })
    }

    /// Adds or replaces an entry.
    pub(crate) fn add(&self, name: &str, text: &str) -> Result<(), CliError> {
        checked_name(name)?;
        self.change(|entries| {
            entries.insert(name.to_owned(), text.to_owned());
            Ok(())
        })
    }

    /// Adds an entry, or replaces one that `is_older` says is older: nobody else has it changed meanwhile.
    pub(crate) fn advance(
        &self,
        name: &str,
        text: &str,
        is_older: impl Fn(&str) -> bool,
    ) -> Result<(), CliError> {
        checked_name(name)?;
        self.change(|entries| {
            if entries.get(name).is_none_or(|kept| is_older(kept)) {
                entries.insert(name.to_owned(), text.to_owned());
            }
            Ok(())
        })
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// [`Code::NoEntry`].
    pub(crate) fn remove(&self, name: &str) -> Result<(), CliError> {
        self.change(|entries| match entries.remove(name) {
            Some(_) => Ok(()),
            None => Err(CliError::new(Code::NoEntry, format!("there is no entry `{name}`"))),
        })
    }

    fn change(
        &self,
        act: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        // Two commands at once must not lose one's entry.
        let lock = open_private(&self.lock).map_err(|error| unwritable(&self.lock, error))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| unwritable(&self.lock, error.into()))?;
        let mut entries = self.entries()?;
        act(&mut entries)?;
        let text = toml::to_string(&entries)
            .map_err(|error| CliError::new(Code::Internal, "the entries cannot be written").because(error))?;
        write_whole(&self.path, text.as_bytes()).map_err(|error| unwritable(&self.path, error))
    }
}

/// The name, if it may be a file's and a worker's.
pub(crate) fn checked_name(name: &str) -> Result<&str, CliError> {
    let sentence = || format!("`{name}` is no name");
    if name.starts_with('.') || name.starts_with('#') {
        return Err(CliError::new(Code::Name, sentence()));
    }
    match onward::Address::local(name) {
        Ok(_) => Ok(name),
        Err(error) => Err(CliError::new(Code::Name, sentence()).because(error)),
    }
}

/// Replaces a file whole: writes beside it, syncs, renames, syncs the directory. Mode 0600.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Makes a directory that only its owner may enter, or checks that it is one.
fn private_dir(path: &Path) -> Result<(), CliError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(error) => return Err(unwritable(path, error)),
    }
    let metadata = fs::metadata(path).map_err(|error| unwritable(path, error))?;
    let shown = path.display();
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let sentence = format!("{shown} belongs to somebody else");
        return Err(
            CliError::new(Code::StateUnsafe, sentence).help("set ONWARD_HOME to a directory of your own")
        );
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        let sentence = format!("{shown} is open to others (mode {mode:o})");
        return Err(CliError::new(Code::StateUnsafe, sentence).help(format!("chmod 700 {shown}")));
    }
    Ok(())
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn unwritable(path: &Path, error: io::Error) -> CliError {
    CliError::new(Code::StateWrite, format!("{} cannot be used", path.display())).because(error)
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| checked_name(name).is_ok())
        .collect();
    names.sort();
    names
}

fn default_home() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("onward"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(Some(dir.path().join("home"))).unwrap();
        (dir, state)
    }

    #[test]
    fn the_directory_is_private_and_an_open_one_is_refused() {
        let (_dir, state) = state();
        assert_eq!(fs::metadata(state.home()).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(state.home(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = State::open(Some(state.home().to_owned())).unwrap_err();
        assert_eq!(error.code(), Code::StateUnsafe);
        assert!(error.help_line().contains("chmod 700"));
        assert_eq!(fs::metadata(state.home()).unwrap().mode() & 0o777, 0o750, "the mode is left alone");
    }

    #[test]
    fn a_lock_is_held_once_and_taken_over_after_its_holder() {
        let (_dir, state) = state();
        let lock = state.lock_node("a").unwrap();
        assert_eq!(state.node_pid("a"), Some(std::process::id()));
        assert_eq!(state.lock_node("a").unwrap_err().code(), Code::NodeRuns);
        assert_eq!(state.running_nodes(), ["a"]);
        fs::write(state.control_socket("a"), "").unwrap();
        drop(lock);
        assert_eq!(state.node_pid("a"), None);
        let _lock = state.lock_node("a").unwrap();
        assert!(!state.control_socket("a").exists(), "what the last holder left is gone");
    }

    #[test]
    fn book_entries_come_back_and_go() {
        let (_dir, state) = state();
        state.routes().add("pin", "hop => bank").unwrap();
        state.routes().add("a.b", "x").unwrap();
        let entries = state.routes().entries().unwrap();
        assert_eq!(
            entries.into_iter().collect::<Vec<_>>(),
            [("a.b".to_owned(), "x".to_owned()), ("pin".to_owned(), "hop => bank".to_owned()),]
        );
        state.routes().remove("pin").unwrap();
        assert_eq!(state.routes().remove("pin").unwrap_err().code(), Code::NoEntry);
        assert_eq!(fs::metadata(state.home().join("routes.toml")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_file_and_leaves_no_other() {
        let (_dir, state) = state();
        let path = state.home().join("missing/file");
        assert!(write_whole(&path, b"new").is_err());
        let path = state.home().join("file");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(state.home()).unwrap().count(), 1);
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "a b", "#00"] {
            assert_eq!(checked_name(name).unwrap_err().code(), Code::Name, "{name:?}");
        }
        assert!(checked_name("card-api.v2").is_ok());
    }
}
