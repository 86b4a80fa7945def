//! TCP: listening, connecting, dialling `tcp:host:port`.
//!
//! Specification: docs/protocol.md §2.1.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use onward_routing::{Address, AddressRef, DialRule, Kind};
use onward_workers::{Dialer, Router, Step};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::connection::{Connection, Connector};
use crate::dial::{Dialled, resolve};
use crate::error::TransportError;
use crate::limits::Streams;
use crate::listener::{Acceptor, Arrival, BoundListener};
use crate::stream::Halves;

/// Options of TCP sockets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TcpOptions {
    /// Sends small segments at once, by default on: frames are gathered before they are written.
    pub nodelay: bool,
    /// After how much silence the system probes the peer, by default 60 s; `None` for never.
    pub keepalive: Option<Duration>,
    /// Bytes of the system's send buffer; `None`, the default, leaves them to the system.
    pub send_buffer: Option<u32>,
    /// Bytes of the system's receive buffer; `None`, the default, leaves them to the system.
    pub receive_buffer: Option<u32>,
    /// Connections that wait to be accepted, by default 1,024.
    pub backlog: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Duration::from_secs(60)),
            send_buffer: None,
            receive_buffer: None,
            backlog: 1024,
        }
    }
}

/// The TCP transport of a node; also the [`Dialer`] for `tcp:` addresses.
pub struct TcpTransport {
    streams: Arc<Streams>,
    options: TcpOptions,
    dialled: Dialled,
}

impl TcpTransport {
    /// A transport with these options.
    #[must_use]
    pub fn new(streams: Arc<Streams>, options: TcpOptions) -> Arc<Self> {
        Arc::new(Self { streams, options, dialled: Dialled::default() })
    }

    /// Listens on `at`; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`TransportError::Listen`].
    pub fn listen(&self, router: &Arc<Router>, at: SocketAddr) -> Result<BoundListener, TransportError> {
        let bound = self
            .bind(at)
            .map_err(|source| TransportError::Listen { at: at.to_string(), source: Arc::new(source) })?;
        let (listener, local) = bound;
        let acceptor = TcpAcceptor { listener, options: self.options.clone() };
        Ok(BoundListener::start(router, &self.streams, acceptor, local.to_string()))
    }

    fn bind(&self, at: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
        let socket = self.options.socket(at)?;
        // A node that is started again must not wait for connections of its former life to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        let listener = socket.listen(self.options.backlog)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    }

    /// Opens a connection to a `tcp:` address and keeps it until it is closed.
    ///
    /// # Errors
    /// [`TransportError::Endpoint`] for an address of another kind.
    pub fn connect(&self, router: &Arc<Router>, endpoint: &Address) -> Result<Connection, TransportError> {
        if endpoint.kind() != Kind::Tcp {
            return Err(TransportError::Endpoint(endpoint.clone()));
        }
        Connection::start(router, &self.streams, self.connector(endpoint.clone(), None), None)
    }

    /// Ends what messages have dialled without draining, as the last handle of a node does.
    pub fn end(&self) {
        self.dialled.end();
    }

    /// Closes every dialled connection, each draining for at most `within` from now.
    pub async fn close(&self, within: Duration) {
        self.dialled.close(within).await;
    }

    fn connector(&self, endpoint: Address, rule: Option<DialRule>) -> TcpConnector {
        TcpConnector { endpoint, rule, options: self.options.clone() }
    }
}

impl Dialer for TcpTransport {
    fn dial(
        &self,
        router: &Arc<Router>,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
    ) -> Option<Arc<dyn Step>> {
        if endpoint.kind() != Kind::Tcp {
            return None;
        }
        let limits = &self.streams.limits;
        self.dialled.get(endpoint, rule, limits.dialled, |endpoint| {
            let connector = self.connector(endpoint, rule.cloned());
            Connection::start(router, &self.streams, connector, Some(limits.dialled_idle))
        })
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport").field("options", &self.options).finish_non_exhaustive()
    }
}

impl TcpOptions {
    /// A socket for this address family with buffers set, which must happen before it is connected.
    fn socket(&self, for_address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if for_address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(socket)
    }

    fn halves(&self, stream: TcpStream) -> io::Result<Halves<OwnedReadHalf, OwnedWriteHalf>> {
        stream.set_nodelay(self.nodelay)?;
        if let Some(time) = self.keepalive {
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(time))?;
        }
        Ok(stream.into_split())
    }
}

struct TcpAcceptor {
    listener: TcpListener,
    options: TcpOptions,
}

impl Acceptor for TcpAcceptor {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    async fn accept(&self) -> io::Result<Arrival<OwnedReadHalf, OwnedWriteHalf>> {
        let (stream, peer) = self.listener.accept().await?;
        Ok(Arrival { halves: self.options.halves(stream)?, from: Some(peer.ip()) })
    }
}

struct TcpConnector {
    endpoint: Address,
    /// What every address the name resolves to must be permitted by; none for the node's own routes.
    rule: Option<DialRule>,
    options: TcpOptions,
}

impl Connector for TcpConnector {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    async fn connect(&self) -> io::Result<Halves<OwnedReadHalf, OwnedWriteHalf>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in resolve(&self.endpoint, self.rule.as_ref()).await? {
            match self.options.socket(address)?.connect(address).await {
                Ok(stream) => return self.options.halves(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
