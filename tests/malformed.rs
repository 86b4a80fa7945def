//! Listeners that are given what no honest peer sends: mutated handshakes and frames, over real sockets.
//!
//! Nothing else runs in this process, because panics are counted for the whole of it.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onward::{Echo, Listener, Message, Node, Peer, Raw, Route, Trust};
use onward_trials::{Row, size};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// No step takes this long unless something is broken.
const DEADLINE: Duration = Duration::from_secs(20);
const PREFACE: &[u8; 8] = b"ONWD\x01\0\0\0";
/// Mutated handshakes on one connection; then comes something that ends it.
const PER_CONNECTION: usize = 64;
const PAYLOAD_MAX: usize = 1 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Splitmix64: enough to choose what is wrong.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    /// `bytes` with up to four things wrong.
    fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut spoiled = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let place = self.below(spoiled.len().max(1));
            match self.below(4) {
                0 => spoiled.truncate(place),
                1 => spoiled.insert(place.min(spoiled.len()), self.roll() as u8),
                2 => spoiled.extend((0..self.below(64)).map(|_| self.roll() as u8)),
                _ => spoiled.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            }
        }
        spoiled
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

/// The first message of an honest handshake, as it goes to the address `door`.
async fn first_message(client: &Node) -> Message {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route: Route = format!("tcp:{} => door", listener.local_addr().unwrap()).parse().unwrap();
    let (client, identity) = (client.clone(), client.create_identity().await.unwrap());
    let opening = tokio::spawn(async move {
        let _ = client.open_channel(&identity, route, Peer::Any(Trust::dangerously_any())).await;
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    let mut frame = vec![0; stream.read_u32().await.unwrap() as usize];
    stream.read_exact(&mut frame).await.unwrap();
    opening.abort();
    Message::decode(&frame, PAYLOAD_MAX).unwrap()
}

/// One connection's worth of bad messages; returns when the listener has let go of it.
async fn attack(stream: impl Stream, first: &Message, dice: &mut Dice) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut sent = if dice.below(16) == 0 { dice.spoil(PREFACE) } else { PREFACE.to_vec() };
    for _ in 0..PER_CONNECTION {
        let packet = dice.spoil(first.payload());
        let mut message = Vec::new();
        Message::new(first.onward(), first.ret(), &packet).encode(&mut message);
        sent.extend(framed(&message));
    }
    let mut message = Vec::new();
    first.encode(&mut message);
    let mut last = framed(&dice.spoil(&message));
    if dice.below(4) == 0 {
        // Its length says something else.
        last[dice.below(4)] ^= 1 << dice.below(8);
    }
    sent.extend(last);
    // The listener may end the connection in the midst of it, which is an error here.
    let writing = async {
        let _ = to.write_all(&sent).await;
        let _ = to.shutdown().await;
    };
    let mut answers = Vec::new();
    let reading = from.read_to_end(&mut answers);
    let ended = tokio::time::timeout(DEADLINE, async { tokio::join!(writing, reading) }).await;
    assert!(ended.is_ok(), "the listener holds on to a connection that ended");
}

/// The node under attack, by one of its listeners.
async fn serve(name: &str) -> (Node, onward::Identity) {
    let node = Node::builder(name).start().await.unwrap();
    node.start_worker("echo", Echo).unwrap();
    let identity = node.create_identity().await.unwrap();
    let channels = node.accept_channels("door", &identity, Trust::dangerously_any()).unwrap();
    channels.expose("echo").unwrap();
    (node, identity)
}

/// Whether an honest client still gets a channel along `route`, and an answer through it.
async fn answers(client: &Node, route: Route, peer: &onward::Identity) -> bool {
    let identity = client.create_identity().await.unwrap();
    let Ok(channel) = client.open_channel(&identity, route, Peer::Identity(peer.identifier())).await else {
        return false;
    };
    let route = client.route_along(channel.route_to("echo").unwrap());
    route.ask::<_, Raw>(&Raw("still".into())).await.is_ok_and(|Raw(bytes)| bytes == "still")
}

async fn connect(listener: &Listener, path: Option<&Path>) -> Box<dyn Stream> {
    match path {
        None => Box::new(TcpStream::connect(listener.local_address()).await.unwrap()),
        Some(path) => Box::new(UnixStream::connect(path).await.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_malformed_handshakes_end_no_listener() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        default(info);
    }));
    let row = Row::new("A10");
    let handshakes = size(10_000, 1_000_000);
    let directory = tempfile::tempdir().unwrap();
    let client = Node::builder("client").start().await.unwrap();
    let first = first_message(&client).await;
    let mut dice = Dice(10);
    for kind in ["TCP", "Unix socket"] {
        let (node, identity) = serve(kind).await;
        let path = directory.path().join("private/socket");
        let path = (kind != "TCP").then_some(path.as_path());
        let listener = match path {
            None => node.listen_tcp("127.0.0.1:0").await.unwrap(),
            Some(path) => node.listen_unix(path).await.unwrap(),
        };
        listener.expose("door").unwrap();
        let mut made = 0;
        while made < handshakes {
            attack(connect(&listener, path).await, &first, &mut dice).await;
            made += PER_CONNECTION;
        }
        let route = match path {
            None => format!("{} => door", listener.name()).parse().unwrap(),
            Some(path) => {
                let connection = client.connect_unix(path).await.unwrap();
                format!("{} => door", connection.address()).parse().unwrap()
            }
        };
        let answered = answers(&client, route, &identity).await;
        row.exactly(
            &format!("honest clients answered after {made} handshakes over {kind}"),
            u8::from(answered),
            1,
        );
    }
    row.exactly("panics", PANICS.load(Ordering::SeqCst), 0);
}
