//! UDP: listening, connecting, dialling `udp:host:port`; messages in datagrams, each at most once if
//! nobody repeats them, and no promise that they arrive.
//!
//! One socket serves a listener and what is dialled from its node. What is decided about datagrams is
//! in [`endpoint`], a value; [`driver`] is the task that serves a socket.
//!
//! Specification: docs/protocol.md §2.2.

mod counters;
mod datagram;
mod driver;
mod endpoint;
mod outgoing;
mod reassembly;
mod socket;
mod token;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onward_routing::{Address, AddressRef, DialRule, FlowId, Kind};
use onward_workers::{Dialer, Router, Step};
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Type};
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use self::datagram::Cid;
use self::driver::Driver;
use self::socket::{Call, Order, Progress, Socket};
use crate::connection::{Carrier, Connection};
use crate::dial::{Dialled, resolve};
use crate::egress::{Egress, Registration};
use crate::error::TransportError;
use crate::limits::DatagramLimits;
use crate::listener::BoundListener;
use crate::stream::Lost;

pub use counters::DatagramCounters;
pub use endpoint::fuzzing::datagrams;

/// The UDP transport of a node; also the [`Dialer`] for `udp:` addresses.
pub struct UdpTransport {
    sockets: Arc<Sockets>,
    dialled: Dialled,
}

impl UdpTransport {
    /// Bytes of the longest encoded message that one hop over UDP carries, routes and all.
    pub const MESSAGE_BYTES_MAX: usize = datagram::MESSAGE_MAX;

    /// A transport with these limits.
    #[must_use]
    pub fn new(limits: DatagramLimits) -> Arc<Self> {
        let sockets = Sockets { limits, counters: Arc::default(), open: Mutex::default() };
        Arc::new(Self { sockets: Arc::new(sockets), dialled: Dialled::default() })
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &DatagramCounters {
        &self.sockets.counters
    }

    /// Listens on `at`; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`TransportError::Listen`].
    pub fn listen(&self, router: &Arc<Router>, at: SocketAddr) -> Result<BoundListener, TransportError> {
        let flow = FlowId::new(router.random().to_be_bytes());
        let socket = self
            .sockets
            .bind(router, at, Order::Listen(flow))
            .map_err(|source| TransportError::Listen { at: at.to_string(), source: Arc::new(source) })?;
        let local = socket.local.to_string();
        Ok(BoundListener::serve(router, flow, local, |closed| Listening(socket).until(closed)))
    }

    /// Opens a connection to a `udp:` address and keeps it until it is closed.
    ///
    /// # Errors
    /// [`TransportError::Endpoint`] for an address of another kind.
    pub fn connect(&self, router: &Arc<Router>, endpoint: &Address) -> Result<Connection, TransportError> {
        if endpoint.kind() != Kind::Udp {
            return Err(TransportError::Endpoint(endpoint.clone()));
        }
        self.start(router, endpoint.clone(), None, None)
    }

    /// Ends what messages have dialled without draining, as the last handle of a node does.
    pub fn end(&self) {
        self.dialled.end();
    }

    /// Closes every dialled connection, each draining for at most `within` from now, and waits for the
    /// sockets that nobody uses any more.
    pub async fn close(&self, within: Duration) {
        let until = Instant::now() + within;
        self.dialled.close(within).await;
        let open = std::mem::take(&mut *self.sockets.open());
        for Open { task, .. } in open {
            // A socket that a listener or a connection still uses goes on.
            let _ = timeout_at(until, task).await;
        }
    }

    fn start(
        &self,
        router: &Arc<Router>,
        endpoint: Address,
        rule: Option<DialRule>,
        idle: Option<Duration>,
    ) -> Result<Connection, TransportError> {
        let limits = &self.sockets.limits;
        let registration = Registration::new(router, None, limits.send_bytes, datagram::MESSAGE_MAX)?;
        let cid = Cid::new(router.random() as u64).ok_or(TransportError::NoAddress)?;
        let caller = Caller {
            router: Arc::clone(router),
            sockets: Arc::clone(&self.sockets),
            endpoint,
            rule,
            cid,
            egress: Arc::clone(&registration.egress),
        };
        Ok(Connection::keep(router, registration, caller, limits.retry(), idle))
    }
}

impl Dialer for UdpTransport {
    fn dial(
        &self,
        router: &Arc<Router>,
        endpoint: AddressRef<'_>,
        rule: Option<&DialRule>,
    ) -> Option<Arc<dyn Step>> {
        if endpoint.kind() != Kind::Udp {
            return None;
        }
        let limits = &self.sockets.limits;
        self.dialled.get(endpoint, rule, limits.dialled, |endpoint| {
            self.start(router, endpoint, rule.cloned(), Some(limits.dialled_idle))
        })
    }
}

impl fmt::Debug for UdpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpTransport").field("sockets", &self.sockets.open().len()).finish_non_exhaustive()
    }
}

/// The sockets of a transport.
struct Sockets {
    limits: DatagramLimits,
    counters: Arc<DatagramCounters>,
    open: Mutex<Vec<Open>>,
}

struct Open {
    socket: Arc<Socket>,
    task: JoinHandle<()>,
}

impl Sockets {
    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| !open.socket.is_closed());
        open
    }

    /// Binds a socket and starts to serve it; `first` is what it is for.
    fn bind(&self, router: &Arc<Router>, at: SocketAddr, first: Order) -> io::Result<Arc<Socket>> {
        let socket = socket2::Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // The system gives what it allows, which is no reason not to go on with less.
        for set in [socket2::Socket::set_recv_buffer_size, socket2::Socket::set_send_buffer_size] {
            if let Err(error) = set(&socket, self.limits.socket_bytes) {
                tracing::debug!(%error, "the system keeps its buffers");
            }
        }
        socket.bind(&at.into())?;
        let udp = UdpSocket::from_std(socket.into())?;
        // Among others, this sets DF and has the system gather datagrams of one peer.
        let system = UdpSocketState::new((&udp).into())?;
        let socket = Socket::new(udp.local_addr()?, first);
        let driver = Driver::new(router, &socket, udp, system, &self.limits, &self.counters);
        let task = tokio::spawn(driver.run());
        self.open().push(Open { socket: Arc::clone(&socket), task });
        Ok(socket)
    }

    /// Has a peer at `address` asked for, by a socket that can reach it: one that is there, or a new one.
    fn call(
        &self,
        router: &Arc<Router>,
        cid: Cid,
        address: SocketAddr,
        egress: &Arc<Egress>,
    ) -> io::Result<Call> {
        let (progress, receiver) = watch::channel(Progress::Asking);
        let mut order = Order::Dial { cid, address, egress: Arc::clone(egress), progress };
        let there: Vec<_> = self.open().iter().map(|open| Arc::clone(&open.socket)).collect();
        for socket in there.into_iter().filter(|socket| reaches(socket.local, address)) {
            match socket.order(order) {
                Ok(()) => return Ok(Call::new(socket, cid, receiver)),
                // Its task has ended in between.
                Err(back) => order = back,
            }
        }
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = self.bind(router, SocketAddr::new(any, 0), order)?;
        Ok(Call::new(socket, cid, receiver))
    }
}

/// Whether a socket bound to `local` can send to `address`.
fn reaches(local: SocketAddr, address: SocketAddr) -> bool {
    local.is_ipv4() == address.is_ipv4()
        && (local.ip().is_unspecified() || local.ip().is_loopback() == address.ip().is_loopback())
}

/// The carrier over UDP: one peer id for all attempts, so that a peer that was never gone knows it.
struct Caller {
    router: Arc<Router>,
    sockets: Arc<Sockets>,
    endpoint: Address,
    /// What every address the name resolves to must be permitted by; none for the node's own routes.
    rule: Option<DialRule>,
    cid: Cid,
    egress: Arc<Egress>,
}

impl Carrier for Caller {
    type Link = Call;

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    async fn connect(&self) -> Result<Call, Lost> {
        let resolved = resolve(&self.endpoint, self.rule.as_ref()).await?;
        let share = self.sockets.limits.connect / resolved.len().max(1) as u32;
        for address in resolved {
            let mut call = self.sockets.call(&self.router, self.cid, address, &self.egress)?;
            if let Ok(Ok(())) = timeout(share, call.connected()).await {
                return Ok(call);
            }
        }
        Err(Lost::Silent)
    }

    async fn carry(&mut self, mut call: Call, egress: &Egress) -> Result<(), Lost> {
        call.gone().await;
        if egress.is_draining() { Ok(()) } else { Err(Lost::Silent) }
    }
}

/// A socket that is listened on; dropping it ends what it accepted.
struct Listening(Arc<Socket>);

impl Listening {
    /// Listens until it is told a deadline to end by.
    async fn until(self, closed: oneshot::Receiver<Instant>) {
        let deadline = closed.await.unwrap_or_else(|_| Instant::now());
        let (sender, drained) = oneshot::channel();
        if self.0.order(Order::Drain(sender)).is_ok() {
            // It is dropped and not sent when the last peer is gone.
            let _ = timeout_at(deadline, drained).await;
        }
        let (sender, done) = oneshot::channel();
        if self.0.order(Order::Unlisten(Some(sender))).is_ok() {
            let _ = done.await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Fails when the task has ended, which is what is wanted.
        let _ = self.0.order(Order::Unlisten(None));
    }
}
