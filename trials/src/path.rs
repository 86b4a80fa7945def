//! A path over UDP on this machine that does to datagrams what networks do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to datagrams, in percent of them and either direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathFaults {
    /// They are lost.
    pub loss: u64,
    /// They arrive twice.
    pub duplication: u64,
    /// They are held until another one has passed.
    pub reordering: u64,
}

/// A path between one client, who sends to [`UdpPath::address`], and one server. Two threads carry the
/// datagrams as long as it lives.
#[derive(Debug)]
pub struct UdpPath {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    near: UdpSocket,
    far: Mutex<Arc<UdpSocket>>,
    server: SocketAddr,
    client: Mutex<Option<SocketAddr>>,
    faults: Mutex<PathFaults>,
    random: AtomicU64,
    is_cut: AtomicBool,
    /// So many datagrams of the client are still to be lost.
    to_lose: AtomicU64,
    lost: AtomicU64,
    is_over: AtomicBool,
}

/// A thread that waits for a datagram looks whether it is over this often.
const LOOK: Duration = Duration::from_millis(10);

impl UdpPath {
    /// A path to `server` that does nothing to datagrams yet; equal seeds choose equally.
    ///
    /// # Errors
    /// The system's when there are no sockets.
    pub fn new(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            near: socket()?,
            far: Mutex::new(Arc::new(socket()?)),
            server,
            client: Mutex::default(),
            faults: Mutex::default(),
            random: AtomicU64::new(seed | 1),
            is_cut: AtomicBool::new(false),
            to_lose: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let threads = [Shared::carry_to_server, Shared::carry_to_client].map(|carry| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || carry(&shared))
        });
        Ok(Self { shared, threads: threads.into() })
    }

    /// Where the client sends to.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.shared.near.local_addr()
    }

    /// From now on this happens.
    pub fn set_faults(&self, faults: PathFaults) {
        *lock(&self.shared.faults) = faults;
    }

    /// Lets nothing pass, or lets it pass again.
    pub fn cut(&self, cut: bool) {
        self.shared.is_cut.store(cut, Ordering::SeqCst);
    }

    /// Loses the next datagrams of the client, all of them.
    pub fn lose(&self, datagrams: u64) {
        self.shared.to_lose.store(datagrams, Ordering::SeqCst);
    }

    /// Datagrams that were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// The client comes from another port from now on, and nothing reaches it by the old one.
    ///
    /// # Errors
    /// The system's when there is no socket.
    pub fn rebind(&self) -> io::Result<()> {
        *lock(&self.shared.far) = Arc::new(socket()?);
        Ok(())
    }
}

impl Drop for UdpPath {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // One that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn carry_to_server(&self) {
        let mut held = None;
        let mut buffer = [0; 65_536];
        while !self.is_over.load(Ordering::SeqCst) {
            let Ok((length, from)) = self.near.recv_from(&mut buffer) else { continue };
            *lock(&self.client) = Some(from);
            let lose = |left: u64| left.checked_sub(1);
            if self.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
                self.lost.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let far = Arc::clone(&lock(&self.far));
            self.carry(&buffer[..length], &mut held, |datagram| {
                // What the system does not take is lost, as on any network.
                let _ = far.send_to(datagram, self.server);
            });
        }
    }

    fn carry_to_client(&self) {
        let mut held = None;
        let mut buffer = [0; 65_536];
        while !self.is_over.load(Ordering::SeqCst) {
            let far = Arc::clone(&lock(&self.far));
            let Ok((length, _)) = far.recv_from(&mut buffer) else { continue };
            let Some(client) = *lock(&self.client) else { continue };
            if !Arc::ptr_eq(&far, &lock(&self.far)) {
                continue;
            }
            self.carry(&buffer[..length], &mut held, |datagram| {
                let _ = self.near.send_to(datagram, client);
            });
        }
    }

    fn carry(&self, datagram: &[u8], held: &mut Option<Vec<u8>>, pass: impl Fn(&[u8])) {
        let faults = *lock(&self.faults);
        if self.is_cut.load(Ordering::SeqCst) || self.happens(faults.loss) {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if held.is_none() && self.happens(faults.reordering) {
            *held = Some(datagram.to_vec());
            return;
        }
        pass(datagram);
        if self.happens(faults.duplication) {
            pass(datagram);
        }
        if let Some(late) = held.take() {
            pass(&late);
        }
    }

    fn happens(&self, percent: u64) -> bool {
        let step = |seed: u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let seed = self.random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step).unwrap_or_default();
        (seed >> 33) % 100 < percent
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, its server and its client, connected to it.
    fn path() -> (UdpPath, UdpSocket, UdpSocket) {
        let (server, client) = (socket().unwrap(), socket().unwrap());
        let path = UdpPath::new(server.local_addr().unwrap(), 7).unwrap();
        client.connect(path.address().unwrap()).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (path, server, client)
    }

    fn receive(socket: &UdpSocket) -> (u8, SocketAddr) {
        let mut byte = [0];
        let (length, from) = socket.recv_from(&mut byte).unwrap();
        assert_eq!(length, 1);
        (byte[0], from)
    }

    #[test]
    fn a_path_carries_both_ways_and_changes_its_port() {
        let (path, server, client) = path();
        client.send(&[1]).unwrap();
        let (byte, first) = receive(&server);
        server.send_to(&[byte + 1], first).unwrap();
        assert_eq!(receive(&client).0, 2);
        path.rebind().unwrap();
        client.send(&[3]).unwrap();
        let (byte, second) = receive(&server);
        assert!(byte == 3 && first != second);
        server.send_to(&[4], second).unwrap();
        assert_eq!(receive(&client).0, 4);
    }

    #[test]
    fn a_path_loses_repeats_and_reorders_what_it_is_told_to() {
        let (path, server, client) = path();
        path.lose(2);
        for byte in 1..=3 {
            client.send(&[byte]).unwrap();
        }
        assert_eq!((receive(&server).0, path.lost()), (3, 2));
        path.set_faults(PathFaults { duplication: 100, ..PathFaults::default() });
        client.send(&[4]).unwrap();
        assert_eq!([receive(&server).0, receive(&server).0], [4, 4]);
        path.set_faults(PathFaults { reordering: 100, ..PathFaults::default() });
        client.send(&[5]).unwrap();
        client.send(&[6]).unwrap();
        assert_eq!([receive(&server).0, receive(&server).0], [6, 5]);
        path.set_faults(PathFaults { loss: 30, ..PathFaults::default() });
        server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let (before, mut arrived) = (path.lost(), 0);
        for sent in 1..=1000 {
            client.send(&[7]).unwrap();
            // One at a time, so that the system loses none.
            while arrived + path.lost() - before < sent {
                arrived += u64::from(server.recv(&mut [0]).is_ok());
            }
        }
        assert!((600..800).contains(&arrived), "{arrived} of 1000 arrived");
    }
}
