//! A hop that has turned against those whose messages it carries.
//!
//! It stands between its own node and the next one and sees every frame both ways. For each frame that
//! passes it attacks several times: repeats, reorders, cuts and changes what it carries, sends it to
//! others, aims its return route at workers of the receiver, and makes up errors. What passes
//! in the end is what was sent, each frame at least once, so that the channel can go on if it withstands.
//!
//! It counts what it did and says nothing of what came of it: that is counted at the two ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onward::{Address, ErrorCode, Message, Route};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::part::{CANARY, CHANNELS, WORKER};

/// Attacks made for each frame that passes.
pub(super) const ATTACKS_PER_FRAME: u64 = 4;
/// Attacks that send something beside the frame in hand, in their turn.
const MADE_UP: [Kind; 5] = [Kind::Replay, Kind::Truncate, Kind::Forge, Kind::Reroute, Kind::FalseError];
/// Frames of each direction that are kept to be repeated.
const KEPT: usize = 2048;
/// The first frames of each direction, which hold the handshake, are kept for good.
const KEPT_FIRST: usize = 8;
/// How long a frame is held back for a later one to overtake it.
const HELD: Duration = Duration::from_millis(20);
/// What each end sends first on a connection.
const PREFACE_BYTES: usize = 8;
/// Longest frame that is taken.
const FRAME_BYTES_MAX: usize = 2 << 20;

/// A kind of attack.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// An earlier frame again, of the handshake or of the channel.
    Replay,
    /// A frame after the one that followed it.
    Reorder,
    /// A frame twice in a row.
    Duplicate,
    /// A frame with the end of its payload missing.
    Truncate,
    /// A payload changed or made up: other bits, another number, a plain message.
    Forge,
    /// A payload to another address than it was meant for.
    Reroute,
    /// A frame whose return route names a worker of the receiver.
    Redirect,
    /// An error report that nobody made.
    FalseError,
}

impl Kind {
    /// What was done, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Replay => "earlier messages sent again",
            Self::Reorder => "messages sent after the one behind them",
            Self::Duplicate => "messages sent twice",
            Self::Truncate => "messages cut short",
            Self::Forge => "messages changed or made up",
            Self::Reroute => "messages sent to other workers",
            Self::Redirect => "replies redirected to local workers",
            Self::FalseError => "false error reports",
        }
    }
}

/// How many attacks of each kind were made.
pub(super) type Counts = BTreeMap<Kind, u64>;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// From the client to the service.
    Forth,
    /// From the service to the client.
    Back,
}

/// A frame as it passed.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Frame {
    onward: Route,
    ret: Route,
    payload: Vec<u8>,
    /// Its encoding.
    bytes: Vec<u8>,
}

impl Frame {
    fn decode(bytes: Vec<u8>) -> Option<Self> {
        let message = Message::decode(&bytes, FRAME_BYTES_MAX).ok()?;
        let (onward, ret) = (message.onward().to_owned(), message.ret().to_owned());
        Some(Self { onward, ret, payload: message.payload().to_vec(), bytes })
    }

    /// The frame with other parts.
    fn with(&self, onward: &Route, ret: &Route, payload: &[u8]) -> Vec<u8> {
        encode(&Message::new(onward.as_ref(), ret.as_ref(), payload))
    }
}

/// What the hop does, decided without sockets; equal seeds and frames give equal attacks.
#[derive(Debug)]
pub(super) struct Attacker {
    dice: Dice,
    /// Attacks it still means to make.
    left: u64,
    counts: Counts,
    kept: [VecDeque<Frame>; 2],
    held: [Option<Vec<u8>>; 2],
    turn: usize,
    /// The true ways back to the client, which redirected frames did not name, by where the frames went: of each session
    /// that is in use while one replaces another, and of the handshake.
    backs: HashMap<Address, Route>,
    canary: Route,
}

impl Attacker {
    /// Keeps what passes and does no harm until it is told to.
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            left: 0,
            counts: Counts::new(),
            kept: Default::default(),
            held: [None, None],
            turn: 0,
            backs: HashMap::new(),
            canary: local(CANARY),
        }
    }

    /// Makes `attacks` more attacks from now on, and says what it has done so far.
    pub(super) fn begin(&mut self, attacks: u64) -> Counts {
        self.left += attacks;
        self.counts.clone()
    }

    /// What is sent on instead of a frame that arrives, in this order.
    fn meet(&mut self, way: Way, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let Some(mut frame) = Frame::decode(bytes) else { return Vec::new() };
        match way {
            Way::Forth => {
                if let Some(to) = last(&frame.onward) {
                    self.backs.insert(to, frame.ret.clone());
                }
            }
            // What was redirected goes where it was meant to go, or nobody would hear the answer.
            Way::Back if frame.onward == self.canary => {
                // A session that answers for the first time was asked at the listener.
                let asked = last(&frame.ret).and_then(|session| self.backs.get(&session));
                let asked = asked.or_else(|| self.backs.get(&last(&local(CHANNELS))?));
                frame.onward = asked.cloned().unwrap_or_default();
                frame.bytes = frame.with(&frame.onward, &frame.ret, &frame.payload);
            }
            Way::Back => {}
        }
        let mut out = Vec::new();
        // Before the frame itself, so that a receiver which believes them misses the true one.
        for _ in 1..ATTACKS_PER_FRAME {
            self.turn += 1;
            let kind = MADE_UP[self.turn % MADE_UP.len()];
            if let Some(attack) = self.attack(kind, way, &frame).filter(|_| self.count(kind)) {
                out.push(attack);
            }
        }
        out.extend(self.pass_on(way, &frame));
        self.keep(way, frame);
        out
    }

    /// The frame itself, perhaps twice, later, or with another return route.
    fn pass_on(&mut self, way: Way, frame: &Frame) -> Vec<Vec<u8>> {
        match self.held[way as usize].take() {
            // The reordering is done now that another frame goes first.
            Some(held) if self.count(Kind::Reorder) => return vec![frame.bytes.clone(), held],
            Some(held) => return vec![held, frame.bytes.clone()],
            None if self.left == 0 => return vec![frame.bytes.clone()],
            None => {}
        }
        match (self.dice.below(4), way) {
            (0, _) => {
                self.held[way as usize] = Some(frame.bytes.clone());
                Vec::new()
            }
            (1 | 2, Way::Forth) => {
                self.count(Kind::Redirect);
                vec![frame.with(&frame.onward, &self.canary, &frame.payload)]
            }
            _ => {
                self.count(Kind::Duplicate);
                vec![frame.bytes.clone(), frame.bytes.clone()]
            }
        }
    }

    /// The frame that was held back for another, which does not come.
    fn release(&mut self, way: Way) -> Option<Vec<u8>> {
        self.held[way as usize].take()
    }

    /// One more attack of this kind, if it still means to make one.
    fn count(&mut self, kind: Kind) -> bool {
        let more = self.left > 0;
        if more {
            self.left -= 1;
            *self.counts.entry(kind).or_default() += 1;
        }
        more
    }

    /// An attack of a kind that adds a frame.
    fn attack(&mut self, kind: Kind, way: Way, frame: &Frame) -> Option<Vec<u8>> {
        match kind {
            Kind::Replay => self.replay(way),
            Kind::Truncate => {
                let length = self.dice.below(frame.payload.len().max(1));
                Some(frame.with(&frame.onward, &frame.ret, &frame.payload[..length]))
            }
            Kind::Forge => Some(self.forge(way, frame)),
            Kind::Reroute => self.reroute(way, frame),
            Kind::FalseError => {
                let codes = [ErrorCode::Refused, ErrorCode::NoWorker, ErrorCode::Unreachable];
                let code = codes[self.dice.below(codes.len())];
                let report = Message::new(frame.ret.as_ref(), frame.onward.as_ref(), &[]);
                Some(encode(&report.into_report(code, None)?))
            }
            Kind::Reorder | Kind::Duplicate | Kind::Redirect => None,
        }
    }

    /// A frame that passed before; one of the handshake may ask the receiver to answer its own worker.
    fn replay(&mut self, way: Way) -> Option<Vec<u8>> {
        let kept = &self.kept[way as usize];
        let among = if self.dice.below(16) == 0 { kept.len().min(KEPT_FIRST) } else { kept.len() };
        let place = if among == 0 { return None } else { self.dice.below(among) };
        let frame = &kept[place];
        match self.dice.below(4) {
            0 => Some(frame.with(&frame.onward, &self.canary, &frame.payload)),
            _ => Some(frame.bytes.clone()),
        }
    }

    fn forge(&mut self, way: Way, frame: &Frame) -> Vec<u8> {
        let mut payload = frame.payload.clone();
        match self.dice.below(4) {
            // One bit is another.
            0 => {
                let bit = self.dice.below(payload.len().max(1) * 8);
                payload.iter_mut().skip(bit / 8).take(1).for_each(|byte| *byte ^= 1 << (bit % 8));
            }
            // A later number, in this epoch or one far ahead.
            1 => {
                let ahead = 1 << self.dice.below(24);
                if let Some(head) = payload.first_chunk_mut::<8>() {
                    *head = u64::from_be_bytes(*head).wrapping_add(ahead).to_be_bytes();
                }
            }
            // Nothing is true but the length.
            2 => payload.iter_mut().for_each(|byte| *byte = self.dice.roll() as u8),
            // No channel at all.
            _ => {
                let worker = if way == Way::Forth { WORKER } else { CANARY };
                return frame.with(&self.aimed_at(way, frame, worker), &frame.ret, b"forged");
            }
        }
        frame.with(&frame.onward, &frame.ret, &payload)
    }

    fn reroute(&mut self, way: Way, frame: &Frame) -> Option<Vec<u8>> {
        let target = match self.dice.below(4) {
            0 => self.aimed_at(way, frame, WORKER),
            1 => self.aimed_at(way, frame, CHANNELS),
            2 => frame.onward.with_last(&Address::random(self.dice.roll().into())).ok()?,
            _ => self.aimed_at(way, frame, CANARY),
        };
        Some(frame.with(&target, &frame.ret, &frame.payload))
    }

    /// The route of `frame` to its receiver, and there to the worker of this name.
    fn aimed_at(&self, way: Way, frame: &Frame, worker: &str) -> Route {
        match way {
            Way::Forth => local(worker),
            Way::Back => local(worker)
                .iter()
                .last()
                .map_or(Route::empty(), |last| frame.onward.with_last(&last.to_owned()).unwrap_or_default()),
        }
    }

    fn keep(&mut self, way: Way, frame: Frame) {
        let kept = &mut self.kept[way as usize];
        if kept.len() == KEPT {
            kept.remove(KEPT_FIRST);
        }
        kept.push_back(frame);
    }
}

fn last(route: &Route) -> Option<Address> {
    route.iter().last().map(|address| address.to_owned())
}

/// The route to a worker of the node that reads it; empty for what is no name.
fn local(name: &str) -> Route {
    name.parse().unwrap_or_default()
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.encoded_len());
    message.encode(&mut bytes);
    bytes
}

/// Splitmix64: enough to choose the next attack.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number from 0 to `end` − 1; `end` is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }
}

/// The attacker, shared with the connections it sits on.
pub(super) type Shared = Arc<Mutex<Attacker>>;

pub(super) fn lock(attacker: &Shared) -> MutexGuard<'_, Attacker> {
    attacker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sits down in front of `target`, at a free port of this machine; ends with the process.
pub(super) async fn start(target: SocketAddr, seed: u64) -> io::Result<(SocketAddr, Shared)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let attacker = Arc::new(Mutex::new(Attacker::new(seed)));
    let shared = Arc::clone(&attacker);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let attacker = Arc::clone(&shared);
            tokio::spawn(async move {
                if let Err(error) = sit_between(near, target, &attacker).await {
                    tracing::debug!(%error, "an attacked connection ended");
                }
            });
        }
    });
    Ok((address, attacker))
}

async fn sit_between(near: TcpStream, target: SocketAddr, attacker: &Shared) -> io::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::try_join!(
        pass(near_read, far_write, Way::Forth, attacker),
        pass(far_read, near_write, Way::Back, attacker)
    )?;
    Ok(())
}

/// Passes the frames of one direction, with what the attacker makes of them.
async fn pass(from: OwnedReadHalf, to: OwnedWriteHalf, way: Way, attacker: &Shared) -> io::Result<()> {
    let (mut from, mut to) = (BufReader::new(from), BufWriter::new(to));
    let mut preface = [0; PREFACE_BYTES];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    to.flush().await?;
    let (frames, mut arrived) = tokio::sync::mpsc::channel(1);
    let read = async move {
        while let Some(frame) = read_frame(&mut from).await? {
            if frames.send(frame).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let write = async {
        loop {
            let out = match tokio::time::timeout(HELD, arrived.recv()).await {
                Ok(None) => return to.shutdown().await,
                Ok(Some(frame)) => lock(attacker).meet(way, frame),
                Err(_) => lock(attacker).release(way).into_iter().collect(),
            };
            for frame in out {
                to.write_u32(frame.len() as u32).await?;
                to.write_all(&frame).await?;
            }
            to.flush().await?;
        }
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

/// The next frame, `None` at the end of the stream; one without content keeps the connection alive only.
async fn read_frame(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let length = match from.read_u32().await {
            Ok(0) => continue,
            Ok(length) => length as usize,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other("a frame is too long"));
        }
        let mut frame = vec![0; length];
        from.read_exact(&mut frame).await?;
        return Ok(Some(frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64) -> Vec<u8> {
        let payload = [&number.to_be_bytes()[..], &[7; 40]].concat();
        encode(&Message::new(
            local("session").as_ref(),
            "hop => client".parse::<Route>().unwrap().as_ref(),
            &payload,
        ))
    }

    fn passed(attacker: &mut Attacker, way: Way, frames: std::ops::Range<u64>) -> Vec<Vec<u8>> {
        let mut out: Vec<_> = frames.flat_map(|number| attacker.meet(way, frame(number))).collect();
        out.extend(attacker.release(way));
        out
    }

    #[test]
    fn every_kind_is_used_and_as_many_attacks_are_made_as_were_meant() {
        let mut attacker = Attacker::new(1);
        attacker.begin(1000);
        for part in 0..20 {
            for way in [Way::Forth, Way::Back] {
                passed(&mut attacker, way, part * 20..part * 20 + 20);
            }
        }
        let counts = attacker.begin(0);
        assert_eq!((counts.len(), counts.values().sum::<u64>()), (8, 1000), "{counts:?}");
        assert!(counts.values().all(|count| *count >= 40), "{counts:?}");
        assert_eq!(passed(&mut attacker, Way::Forth, 0..9), (0..9).map(frame).collect::<Vec<_>>());
    }

    #[test]
    fn no_frame_is_lost_and_each_attack_is_another_frame() {
        let mut attacker = Attacker::new(2);
        attacker.begin(1 << 40);
        let out = passed(&mut attacker, Way::Back, 0..500);
        for number in 0..500 {
            assert!(out.contains(&frame(number)), "{number}");
        }
        let counts = attacker.begin(0);
        let added = counts.values().sum::<u64>() - counts[&Kind::Reorder];
        assert_eq!(out.len() as u64, 500 + added);
    }

    #[test]
    fn what_was_redirected_finds_its_way_back() {
        let mut attacker = Attacker::new(3);
        passed(&mut attacker, Way::Forth, 0..1);
        let answer = encode(&Message::new(local(CANARY).as_ref(), local("session").as_ref(), b"answer"));
        let out = attacker.meet(Way::Back, answer);
        let back = Frame::decode(out[0].clone()).unwrap();
        assert_eq!((back.onward.to_string().as_str(), &back.payload[..]), ("hop => client", &b"answer"[..]));
        // A session that replaces the first has a way of its own, and the first keeps its.
        let handshake = Message::new(local(CHANNELS).as_ref(), local("next").as_ref(), b"first message");
        attacker.meet(Way::Forth, encode(&handshake));
        for (answers, client) in [("successor", "next"), ("session", "hop => client")] {
            let answer = encode(&Message::new(local(CANARY).as_ref(), local(answers).as_ref(), b"answer"));
            let back = Frame::decode(attacker.meet(Way::Back, answer)[0].clone()).unwrap();
            assert_eq!(back.onward.to_string(), client);
        }
    }
}
