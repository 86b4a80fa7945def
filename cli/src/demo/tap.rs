//! A tap: a proxy in front of a listener that keeps every byte that passes, each way.
//!
//! It stands in the process of whoever is watched, between the network and its node, and changes
//! nothing. What it keeps is bounded; a connection beyond that is closed rather than not recorded, until its
//! record is asked for.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Most bytes that are kept in all.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// Longest datagram.
const DATAGRAM_MAX: usize = 64 << 10;

/// What passed a tap: one stream per connection and direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    streams: Vec<Vec<u8>>,
    /// What passes now is kept no more.
    finished: bool,
}

impl Record {
    /// The streams so far; what passes from now on is not kept.
    pub(crate) fn finish(&self) -> Vec<Vec<u8>> {
        let mut kept = self.kept();
        kept.finished = true;
        kept.streams.clone()
    }

    fn open(&self) -> usize {
        let mut kept = self.kept();
        kept.streams.push(Vec::new());
        kept.streams.len() - 1
    }

    fn keep(&self, stream: usize, bytes: &[u8]) -> io::Result<()> {
        let mut kept = self.kept();
        if kept.finished {
            return Ok(());
        }
        let length: usize = kept.streams.iter().map(Vec::len).sum();
        if length + bytes.len() > KEPT_BYTES_MAX {
            return Err(io::Error::other("the tap's record is full"));
        }
        kept.streams[stream].extend_from_slice(bytes);
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a tap in front of `target` on a free port of this machine; it ends with the process.
pub(crate) async fn start(target: SocketAddr) -> io::Result<(SocketAddr, Record)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let record = Record::default();
    let kept = record.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let record = kept.clone();
            tokio::spawn(async move {
                if let Err(error) = pass(near, target, &record).await {
                    tracing::debug!(%error, "a tapped connection ended");
                }
            });
        }
    });
    Ok((address, record))
}

/// As [`start`], in front of a socket for datagrams.
pub(crate) async fn start_udp(target: SocketAddr) -> io::Result<(SocketAddr, Record)> {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let address = near.local_addr()?;
    let record = Record::default();
    let kept = record.clone();
    tokio::spawn(async move {
        if let Err(error) = pass_datagrams(&near, target, &kept).await {
            tracing::debug!(%error, "a tap of datagrams ended");
        }
    });
    Ok((address, record))
}

/// Gives each sender a socket of its own towards the target, and passes what comes back by it.
async fn pass_datagrams(near: &Arc<UdpSocket>, target: SocketAddr, record: &Record) -> io::Result<()> {
    let mut senders: HashMap<SocketAddr, (Arc<UdpSocket>, usize)> = HashMap::new();
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        let (length, from) = near.recv_from(&mut datagram).await?;
        let datagram = &datagram[..length];
        let (far, stream) = match senders.get(&from) {
            Some(known) => known.clone(),
            None => {
                let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
                far.connect(target).await?;
                tokio::spawn(answer_datagrams(Arc::clone(near), Arc::clone(&far), from, record.clone()));
                let opened = (far, record.open());
                senders.insert(from, opened.clone());
                opened
            }
        };
        record.keep(stream, datagram)?;
        // One that cannot be sent is lost, as datagrams may be.
        let _ = far.send(datagram).await;
    }
}

async fn answer_datagrams(near: Arc<UdpSocket>, far: Arc<UdpSocket>, to: SocketAddr, record: Record) {
    let stream = record.open();
    let mut datagram = vec![0; DATAGRAM_MAX];
    while let Ok(length) = far.recv(&mut datagram).await {
        if record.keep(stream, &datagram[..length]).is_err() {
            return;
        }
        let _ = near.send_to(&datagram[..length], to).await;
    }
}

async fn pass(near: TcpStream, target: SocketAddr, record: &Record) -> io::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::try_join!(copy(near_read, far_write, record), copy(far_read, near_write, record))?;
    Ok(())
}

/// Passes bytes on, each kept before it is passed.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    record: &Record,
) -> io::Result<()> {
    let stream = record.open();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        record.keep(stream, &buffer[..read])?;
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tap_of_datagrams_passes_each_sender_its_own_answers() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, record) = start_udp(server.local_addr().unwrap()).await.unwrap();
        let clients =
            [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
        let mut bytes = [0; 16];
        for (client, text) in clients.iter().zip(["one", "two"]) {
            client.send_to(text.as_bytes(), address).await.unwrap();
            let (length, from) = server.recv_from(&mut bytes).await.unwrap();
            server.send_to(&[&bytes[..length], b"!"].concat(), from).await.unwrap();
            let (length, _) = client.recv_from(&mut bytes).await.unwrap();
            assert_eq!(&bytes[..length], format!("{text}!").as_bytes());
        }
        let mut streams = record.finish();
        streams.sort();
        assert_eq!(streams, [b"one".to_vec(), b"one!".to_vec(), b"two".to_vec(), b"two!".to_vec()]);
    }

    #[tokio::test]
    async fn a_tap_changes_nothing_and_keeps_both_directions() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"there").await.unwrap();
            request
        });
        let (address, record) = start(target).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, &served.await.unwrap()), (b"there", b"hello"));
        let mut streams = record.finish();
        streams.sort();
        assert_eq!(streams, [b"hello".to_vec(), b"there".to_vec()]);
    }
}
