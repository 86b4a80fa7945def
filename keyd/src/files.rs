//! The service's directory and socket: private, its own, and never through somebody's link.
//!
//! Specification: docs/protocol.md §7.1.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::net::AddressFamily;
use rustix::net::sockopt::{set_socket_passcred, socket_acceptconn, socket_domain};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::policy::{Policy, PolicyError};
use crate::service::Settings;

/// The socket's name in the service's directory, where no other place is named.
pub const SOCKET_NAME: &str = "keyd.sock";
/// The policy's name in the service's directory, where no other place is named.
pub const POLICY_NAME: &str = "policy.toml";

/// Bytes of a policy file, at most.
pub const POLICY_BYTES_MAX: u64 = 1 << 20;

/// Why a file or directory was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Something stands there that is not the service's: a link, a file of another kind, or one of another owner.
    #[error("{} is {what}", path.display())]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Another process holds the directory.
    #[error("another key service runs in {}", .0.display())]
    InUse(PathBuf),
    /// What a service manager passed on is not one listening Unix socket.
    #[error("the socket of the service manager cannot be used")]
    Inherited(#[source] io::Error),
    /// The policy is none.
    #[error("{}", path.display())]
    Policy {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PolicyError,
    },
    /// The system refused.
    #[error("{action} {} failed", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Makes the directory (mode 0700), or checks that it is ours alone, and locks it for as long as the file lives.
/// Answers with its full name.
///
/// # Errors
/// [`FileError`].
pub fn hold_directory(path: &Path) -> Result<(PathBuf, File), FileError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(failed("making", path, source)),
    }
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let directory = opened.map_err(|source| failed("opening", path, source))?;
    let metadata = directory.metadata().map_err(|source| failed("reading", path, source))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(not_ours(path, "somebody else's"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(not_ours(path, "open to others"));
    }
    flock(&directory, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| FileError::InUse(path.to_owned()))?;
    let name = fs::canonicalize(path).map_err(|source| failed("resolving", path, source))?;
    Ok((name, directory))
}

/// Reads the policy. A missing file denies everything.
///
/// # Errors
/// [`FileError`]: the file can be written by others than root and the service's user, or is no policy.
pub fn read_policy(settings: &Settings) -> Result<Policy, FileError> {
    let path = &settings.policy;
    let reading = |source| failed("reading", path, source);
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Policy::default()),
        Err(source) => return Err(reading(source)),
    };
    let metadata = file.metadata().map_err(reading)?;
    if !metadata.is_file() {
        return Err(not_ours(path, "no file"));
    }
    if metadata.uid() != 0 && metadata.uid() != settings.uid {
        return Err(not_ours(path, "somebody else's"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(not_ours(path, "writable by others"));
    }
    let mut text = String::new();
    file.take(POLICY_BYTES_MAX).read_to_string(&mut text).map_err(reading)?;
    Policy::parse(&text).map_err(|source| FileError::Policy { path: path.clone(), source })
}

/// Binds the socket, in the place of one that a killed service left. `mode` is what the file is then.
///
/// The process's umask leaves no moment at which the socket is open to more than `mode`.
///
/// # Errors
/// [`FileError::NotOurs`] when something else stands there: it is left alone.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, FileError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(not_ours(path, "no socket")),
        Ok(found) if found.uid() != rustix::process::geteuid().as_raw() => {
            return Err(not_ours(path, "somebody else's"));
        }
        Ok(_) => fs::remove_file(path).map_err(|source| failed("removing", path, source))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("reading", path, source)),
    }
    let listener = UnixListener::bind(path).map_err(|source| failed("binding", path, source))?;
    prepare(&listener).map_err(|source| failed("preparing", path, source))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| failed("opening", path, source))?;
    Ok(listener)
}

/// The listening socket that a service manager passed on, if one did: its clients may have connected before.
///
/// # Errors
/// [`FileError::Inherited`] when it is no listening Unix socket, or there are several.
pub fn inherited() -> Result<Option<UnixListener>, FileError> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if variable("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    if variable("LISTEN_FDS") != Some(1) {
        return Err(FileError::Inherited(io::ErrorKind::InvalidInput.into()));
    }
    let taken = (|| {
        // A copy of the descriptor, since nobody can vouch that the number itself is free to be owned.
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        let socket = pidfd_getfd(&own, LISTEN_FD, PidfdGetfdFlags::empty())?;
        let is_ours = socket_domain(&socket)? == AddressFamily::UNIX && socket_acceptconn(&socket)?;
        let listener = is_ours.then(|| UnixListener::from(socket)).ok_or(io::ErrorKind::InvalidInput)?;
        prepare(&listener)?;
        Ok(listener)
    })();
    taken.map(Some).map_err(FileError::Inherited)
}

/// Asks for the sender's credentials with every message.
fn prepare(listener: &UnixListener) -> io::Result<()> {
    // Inherited by connections, on kernels that do so: what is sent before it is accepted has credentials, too.
    Ok(set_socket_passcred(listener, true)?)
}

/// The first descriptor that a service manager passes on, as `sd_listen_fds(3)` has it.
const LISTEN_FD: i32 = 3;

fn not_ours(path: &Path, what: &'static str) -> FileError {
    FileError::NotOurs { path: path.to_owned(), what }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io { action, path: path.to_owned(), source }
}
