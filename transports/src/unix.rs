//! Unix sockets: the framing of TCP between processes of one machine.
//!
//! A socket lies in a private directory and is open to its owner alone. `unix:name` names the socket
//! of that name in the transport's directory.
//!
//! Specification: docs/protocol.md §1.1, §2.1.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onward_routing::{Address, AddressRef, DialRule, Kind};
use onward_workers::{Dialer, Router, Step};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use crate::connection::{Connection, Connector};
use crate::dial::Dialled;
use crate::error::TransportError;
use crate::limits::Streams;
use crate::listener::{Acceptor, Arrival, BoundListener};
use crate::stream::Halves;

/// Options of Unix sockets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnixOptions {
    /// Where `unix:name` is looked for; made with mode 0700 if missing.
    pub directory: PathBuf,
    /// Whether only processes of this process's user may connect, by default yes.
    pub owner_only: bool,
}

impl UnixOptions {
    /// The defaults, in this directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), owner_only: true }
    }
}

/// The Unix socket transport of a node; also the [`Dialer`] for `unix:` addresses.
pub struct UnixTransport {
    streams: Arc<Streams>,
    options: UnixOptions,
    dialled: Dialled,
}

impl UnixTransport {
    /// A transport with these options.
    #[must_use]
    pub fn new(streams: Arc<Streams>, options: UnixOptions) -> Arc<Self> {
        Arc::new(Self { streams, options, dialled: Dialled::default() })
    }

    /// Listens on the socket a `unix:` address names; replaces the socket of a process that is no more.
    ///
    /// # Errors
    /// [`TransportError::InUse`] when a live process has it, [`TransportError::Listen`] when the
    /// directory or socket cannot be made, or others may write to the directory,
    /// [`TransportError::Endpoint`].
    pub async fn listen(&self, router: &Arc<Router>, at: &Address) -> Result<BoundListener, TransportError> {
        let path = self.path(at)?;
        let shown = path.display().to_string();
        let failed = |source| TransportError::Listen { at: shown.clone(), source: Arc::new(source) };
        private_directory(&self.options.directory).map_err(failed)?;
        if is_alive(&path).await.map_err(failed)? {
            return Err(TransportError::InUse(shown));
        }
        let listener = bind(&path).map_err(failed)?;
        let owner = self.options.owner_only.then(|| rustix::process::geteuid().as_raw());
        let acceptor = UnixAcceptor { listener, owner, socket: SocketFile(path) };
        Ok(BoundListener::start(router, &self.streams, acceptor, shown))
    }

    /// Opens a connection to a `unix:` address and keeps it until it is closed.
    ///
    /// # Errors
    /// [`TransportError::Endpoint`] for an address of another kind.
    pub fn connect(&self, router: &Arc<Router>, endpoint: &Address) -> Result<Connection, TransportError> {
        Connection::start(router, &self.streams, UnixConnector(self.path(endpoint)?), None)
    }

    /// Closes every dialled connection, each draining for at most `within` from now.
    pub async fn close(&self, within: Duration) {
        self.dialled.close(within).await;
    }

    fn path(&self, endpoint: &Address) -> Result<PathBuf, TransportError> {
        // A name has no slash, but `.` and `..` are names.
        if endpoint.kind() != Kind::Unix || endpoint.value().starts_with('.') {
            return Err(TransportError::Endpoint(endpoint.clone()));
        }
        Ok(self.options.directory.join(endpoint.value()))
    }
}

impl Dialer for UnixTransport {
    fn dial(
        &self,
        router: &Arc<Router>,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
    ) -> Option<Arc<dyn Step>> {
        if endpoint.kind() != Kind::Unix {
            return None;
        }
        let limits = &self.streams.limits;
        self.dialled.get(endpoint, rule, limits.dialled, |endpoint| {
            let connector = UnixConnector(self.path(&endpoint)?);
            Connection::start(router, &self.streams, connector, Some(limits.dialled_idle))
        })
    }
}

impl fmt::Debug for UnixTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixTransport").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Makes the directory if need be, and requires that nobody else may change it.
fn private_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::metadata(directory)?;
    let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if is_ours && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may change the socket's directory"))
}

/// Whether somebody listens on the socket; removes a socket on which nobody does.
async fn is_alive(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // Nothing but a socket is ever removed.
            if fs::symlink_metadata(path)?.file_type().is_socket() {
                fs::remove_file(path)?;
                return Ok(false);
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Binds in the private directory, where nobody else can come between bind and the change of mode.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A socket's name in the file system, gone with its listener.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "a socket was not removed");
        }
    }
}

struct UnixAcceptor {
    listener: UnixListener,
    /// The only user who may connect, if there is one.
    owner: Option<u32>,
    #[expect(dead_code, reason = "held to be dropped with the listener")]
    socket: SocketFile,
}

impl Acceptor for UnixAcceptor {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn accept(&self) -> io::Result<Arrival<OwnedReadHalf, OwnedWriteHalf>> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            // Before a byte of it is read.
            let peer = stream.peer_cred()?.uid();
            if self.owner.is_none_or(|owner| owner == peer) {
                return Ok(Arrival { halves: stream.into_split(), from: None });
            }
            tracing::warn!(uid = peer, "a connection of another user was refused");
        }
    }
}

struct UnixConnector(PathBuf);

impl Connector for UnixConnector {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    fn endpoint(&self) -> String {
        self.0.display().to_string()
    }

    async fn connect(&self) -> io::Result<Halves<OwnedReadHalf, OwnedWriteHalf>> {
        Ok(UnixStream::connect(&self.0).await?.into_split())
    }
}
