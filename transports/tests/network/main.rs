//! Routers that talk to each other through real sockets and through the network in memory.

#![allow(clippy::unwrap_used, reason = "also in what tests share")]

mod memory;
mod outgoing;
mod reach;
mod tcp;
mod trials;
mod udp;
mod unix;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onward_routing::{Address, LENGTH_HEAD, Message, Route};
use onward_transports::{BoundListener, StreamLimits, Streams, TcpOptions, TcpTransport};
use onward_workers::{AskError, Echo, FnWorker, Limits, NoReply, Raw, Router, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No condition a test waits for takes this long unless something is broken.
const DEADLINE: Duration = Duration::from_secs(20);
const PREFACE: &[u8; 8] = b"ONWD\x01\x00\x00\x00";

fn router() -> Arc<Router> {
    let router = Router::new(Limits::default()).unwrap();
    tokio::spawn(Arc::clone(&router).run());
    router
}

fn name(name: &str) -> Address {
    Address::local(name).unwrap()
}

fn route<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> Route {
    Route::new(addresses).unwrap()
}

async fn ask(router: &Arc<Router>, route: &Route, payload: &[u8]) -> Result<Bytes, AskError> {
    let answer: Raw = router.ask(route, &Raw(Bytes::copy_from_slice(payload)), DEADLINE).await?;
    Ok(answer.0)
}

/// Waits until a condition holds, which other tasks bring about.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "never happened: {what}");
}

/// Starts a worker that counts what it gets.
fn start_counter(router: &Arc<Router>, address: &Address) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let worker = FnWorker::new(move |_: Raw| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok(NoReply) }
    });
    start(router, address, worker).unwrap();
    count
}

/// A node with an echo worker exposed on its TCP listener.
struct Server {
    router: Arc<Router>,
    listener: BoundListener,
}

impl Server {
    fn start(limits: StreamLimits) -> Self {
        let router = router();
        let tcp = TcpTransport::new(Streams::new(limits), TcpOptions::default());
        let listener = tcp.listen(&router, "127.0.0.1:0".parse().unwrap()).unwrap();
        start(&router, &name("echo"), Echo).unwrap();
        let server = Self { router, listener };
        server.expose(&name("echo"));
        server
    }

    fn expose(&self, worker: &Address) {
        self.router.reach_mut().expose(self.listener.flow(), worker).unwrap();
    }

    fn endpoint(&self) -> Address {
        format!("tcp:{}", self.listener.local_address()).parse().unwrap()
    }

    fn denied(&self) -> u64 {
        self.router.counters().denied.load(Ordering::Relaxed)
    }
}

fn transport() -> Arc<TcpTransport> {
    TcpTransport::new(Streams::new(StreamLimits::default()), TcpOptions::default())
}

/// A peer made of nothing but a socket.
struct Wire(TcpStream);

impl Wire {
    async fn connect(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.listener.local_address()).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        let mut theirs = [0; 8];
        stream.read_exact(&mut theirs).await.unwrap();
        assert_eq!(&theirs, PREFACE);
        Self(stream)
    }

    async fn accept(listener: &tokio::net::TcpListener) -> Self {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        let mut theirs = [0; 8];
        stream.read_exact(&mut theirs).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, onward: &Route, ret: &Route, payload: &[u8]) {
        let message = Message::new(onward.as_ref(), ret.as_ref(), payload);
        self.0.write_all(&frame(&message)).await.unwrap();
    }

    async fn receive(&mut self) -> Message {
        let reading = async {
            let length = self.0.read_u32().await.unwrap();
            let mut bytes = vec![0; length as usize];
            self.0.read_exact(&mut bytes).await.unwrap();
            Message::decode(&bytes, 1 << 24).unwrap()
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap()
    }

    /// Sends a request and waits for its answer: everything sent before has then been handled.
    async fn settle(&mut self) {
        self.send(&route([&name("echo")]), &route([&name("settle")]), b"?").await;
        assert_eq!(self.receive().await.onward().first(), Some(name("settle").as_ref()));
    }

    /// Waits until the peer has closed the connection.
    async fn closed(mut self) {
        let mut rest = Vec::new();
        // A reset is a close too.
        let _ = tokio::time::timeout(DEADLINE, self.0.read_to_end(&mut rest)).await.unwrap();
    }
}

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = vec![0; LENGTH_HEAD];
    message.encode(&mut bytes);
    let length = (bytes.len() - LENGTH_HEAD) as u32;
    bytes[..LENGTH_HEAD].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn no_route() -> Route {
    Route::empty()
}
