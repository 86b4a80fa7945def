//! Messages that came in pieces, until their last piece has come: of all peers of one socket.
//!
//! What is kept is bounded in messages and bytes for each peer, in bytes for all, and in time; it is
//! charged with what keeping it costs. What was touched longest ago gives way. Two copies of a piece
//! that differ spoil their message, and it stays spoiled until its time is over.
//!
//! Specification: docs/protocol.md §2.2 *Fragmentation*.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::datagram::{Cid, PIECES_MAX, Piece};

/// Unfinished messages of one peer.
const MESSAGES_MAX: usize = 64;
/// What an unfinished message costs before any of its bytes.
const MESSAGE_COST: usize = 512;
/// What a piece costs besides its bytes.
const PIECE_COST: usize = 32;

/// The bounds of what is unfinished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes for one peer.
    pub(crate) peer_bytes: usize,
    /// Bytes for all peers.
    pub(crate) bytes: usize,
    /// How long a message may take from its first piece on.
    pub(crate) time: Duration,
}

/// What became of a piece.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    /// It is kept, or was there already.
    Kept,
    /// It was the last: the whole message.
    Whole(Vec<u8>),
    /// It contradicts another piece of its message, which is given up.
    Contradicts,
}

/// The unfinished messages of all peers of a socket.
pub(crate) struct Reassembly {
    bounds: Bounds,
    messages: HashMap<(Cid, u32), Unfinished>,
    /// The messages in the order in which they were touched last.
    order: BTreeMap<u64, (Cid, u32)>,
    touches: u64,
    peers: HashMap<Cid, Share>,
    bytes: usize,
}

struct Unfinished {
    began: Duration,
    touched: u64,
    count: u8,
    /// `None` once two copies of a piece differed.
    pieces: Option<Pieces>,
    cost: usize,
}

type Pieces = [Option<Box<[u8]>>; PIECES_MAX];

/// What one peer takes up.
#[derive(Default)]
struct Share {
    /// When each of its messages was touched last, and its number.
    order: BTreeSet<(u64, u32)>,
    bytes: usize,
}

impl Reassembly {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            messages: HashMap::new(),
            order: BTreeMap::new(),
            touches: 0,
            peers: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes one piece of a message of several.
    pub(crate) fn push(&mut self, now: Duration, peer: Cid, piece: Piece<'_>) -> Taken {
        let key = (peer, piece.message);
        if self.messages.get(&key).is_some_and(|open| self.is_over(now, open)) {
            self.give_up(key);
        }
        if let Some(open) = self.messages.get(&key) {
            let Some(pieces) = &open.pieces else { return Taken::Contradicts };
            let known = pieces[usize::from(piece.index)].as_deref();
            if open.count != piece.count || known.is_some_and(|known| known != piece.bytes) {
                self.spoil(key);
                return Taken::Contradicts;
            }
            if known.is_some() {
                return Taken::Kept;
            }
        } else if self.peers.get(&peer).is_some_and(|share| share.order.len() >= MESSAGES_MAX) {
            self.give_up_oldest_of(peer);
        }
        self.keep(now, key, piece);
        let open = self.messages.get(&key).and_then(|open| open.pieces.as_ref());
        let is_whole =
            open.is_some_and(|pieces| pieces[..usize::from(piece.count)].iter().all(Option::is_some));
        if !is_whole {
            self.make_fit(peer);
            return Taken::Kept;
        }
        let pieces = self.give_up(key).and_then(|open| open.pieces).unwrap_or_default();
        let pieces: Vec<&[u8]> = pieces.iter().flatten().map(|bytes| &**bytes).collect();
        Taken::Whole(pieces.concat())
    }

    /// Gives up what has been unfinished for too long.
    pub(crate) fn expire(&mut self, now: Duration) {
        let over: Vec<_> =
            self.messages.iter().filter(|(_, open)| self.is_over(now, open)).map(|(key, _)| *key).collect();
        for key in over {
            self.give_up(key);
        }
    }

    /// Gives up everything of a peer.
    pub(crate) fn forget(&mut self, peer: Cid) {
        while self.peers.contains_key(&peer) {
            self.give_up_oldest_of(peer);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes that are held, with what keeping them costs.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_over(&self, now: Duration, open: &Unfinished) -> bool {
        now.saturating_sub(open.began) >= self.bounds.time
    }

    fn keep(&mut self, now: Duration, key: (Cid, u32), piece: Piece<'_>) {
        self.touches += 1;
        let touched = self.touches;
        let mut cost = piece.bytes.len() + PIECE_COST;
        let open = self.messages.entry(key).or_insert_with(|| {
            cost += MESSAGE_COST;
            Unfinished { began: now, touched, count: piece.count, pieces: Some(Pieces::default()), cost: 0 }
        });
        if let Some(place) = open.pieces.as_mut().and_then(|all| all.get_mut(usize::from(piece.index))) {
            *place = Some(piece.bytes.into());
        }
        open.cost += cost;
        self.bytes += cost;
        self.order.remove(&open.touched);
        self.order.insert(touched, key);
        let share = self.peers.entry(key.0).or_default();
        share.bytes += cost;
        share.order.remove(&(open.touched, key.1));
        share.order.insert((touched, key.1));
        open.touched = touched;
    }

    /// Makes `peer` and all peers keep to their bytes.
    fn make_fit(&mut self, peer: Cid) {
        while self.peers.get(&peer).is_some_and(|share| share.bytes > self.bounds.peer_bytes) {
            self.give_up_oldest_of(peer);
        }
        while self.bytes > self.bounds.bytes
            && let Some((_, key)) = self.order.first_key_value()
        {
            self.give_up(*key);
        }
    }

    /// Gives up what a peer touched longest ago.
    fn give_up_oldest_of(&mut self, peer: Cid) {
        let Some(share) = self.peers.get(&peer) else { return };
        match share.order.first() {
            Some(&(_, message)) => drop(self.give_up((peer, message))),
            None => drop(self.peers.remove(&peer)),
        }
    }

    /// Drops the pieces of a message and keeps that it is spoiled.
    fn spoil(&mut self, key: (Cid, u32)) {
        let Some(open) = self.messages.get_mut(&key) else { return };
        open.pieces = None;
        let freed = open.cost.saturating_sub(MESSAGE_COST);
        open.cost -= freed;
        self.bytes -= freed;
        if let Some(share) = self.peers.get_mut(&key.0) {
            share.bytes -= freed;
        }
    }

    fn give_up(&mut self, key: (Cid, u32)) -> Option<Unfinished> {
        let open = self.messages.remove(&key)?;
        self.order.remove(&open.touched);
        self.bytes -= open.cost;
        if let Some(share) = self.peers.get_mut(&key.0) {
            share.bytes -= open.cost;
            share.order.remove(&(open.touched, key.1));
            if share.order.is_empty() {
                self.peers.remove(&key.0);
            }
        }
        Some(open)
    }
}

#[cfg(test)]
mod tests {
    use super::super::datagram::PIECE_MAX;
    use super::*;

    const BOUNDS: Bounds = Bounds { peer_bytes: 256 * 1024, bytes: 64 << 20, time: Duration::from_secs(5) };

    fn cid(number: u64) -> Cid {
        Cid::new(number).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn piece(message: u32, index: u8, count: u8, bytes: &[u8]) -> Piece<'_> {
        Piece { message, index, count, bytes }
    }

    fn all_is_given_back(reassembly: &Reassembly) -> bool {
        reassembly.bytes == 0 && reassembly.order.is_empty() && reassembly.peers.is_empty()
    }

    #[test]
    fn pieces_in_any_order_become_the_message_and_copies_change_nothing() {
        let mut reassembly = Reassembly::new(BOUNDS);
        for (index, bytes) in [(2, b"cc"), (0, b"aa"), (2, b"cc"), (0, b"aa")] {
            assert_eq!(reassembly.push(at(0), cid(1), piece(7, index, 3, bytes)), Taken::Kept);
        }
        assert_eq!(reassembly.push(at(0), cid(2), piece(7, 1, 3, b"xx")), Taken::Kept, "another peer's");
        let whole = reassembly.push(at(0), cid(1), piece(7, 1, 3, b"bb"));
        assert_eq!(whole, Taken::Whole(b"aabbcc".to_vec()));
        reassembly.forget(cid(2));
        assert!(all_is_given_back(&reassembly));
    }

    #[test]
    fn n2_5_pieces_that_contradict_spoil_their_message_until_its_time_is_over() {
        for contradicting in [piece(1, 0, 2, b"b"), piece(1, 0, 3, b"a"), piece(1, 2, 3, b"c")] {
            let mut reassembly = Reassembly::new(BOUNDS);
            reassembly.push(at(0), cid(1), piece(1, 0, 2, b"a"));
            reassembly.push(at(0), cid(1), piece(2, 0, 2, b"x"));
            assert_eq!(reassembly.push(at(1), cid(1), contradicting), Taken::Contradicts);
            assert_eq!(reassembly.push(at(2), cid(1), piece(1, 0, 2, b"a")), Taken::Contradicts);
            assert_eq!(reassembly.push(at(2), cid(1), piece(1, 1, 2, b"b")), Taken::Contradicts);
            let other = reassembly.push(at(2), cid(1), piece(2, 1, 2, b"y"));
            assert_eq!(other, Taken::Whole(b"xy".to_vec()), "no other message suffers");
            assert_eq!(reassembly.push(at(5), cid(1), piece(1, 0, 2, b"a")), Taken::Kept);
            reassembly.expire(at(10));
            assert!(all_is_given_back(&reassembly));
        }
    }

    #[test]
    fn n2_5_a_hundred_thousand_half_messages_take_no_more_than_their_bounds() {
        let mut reassembly = Reassembly::new(BOUNDS);
        for message in 0..100_000 {
            reassembly.push(at(0), cid(1), piece(message, 0, 16, &[0; PIECE_MAX]));
            assert!(reassembly.bytes <= BOUNDS.peer_bytes && reassembly.messages.len() <= MESSAGES_MAX);
        }
        // What was touched last is still there, and what gave way is not.
        for (message, is_kept) in [(99_999, true), (0, false)] {
            let known = reassembly.messages.contains_key(&(cid(1), message));
            assert_eq!(known, is_kept, "message {message}");
        }
        reassembly.expire(at(5));
        assert!(all_is_given_back(&reassembly));
    }

    #[test]
    fn all_peers_together_are_bounded_and_the_longest_untouched_gives_way() {
        let mut reassembly = Reassembly::new(Bounds { bytes: 8 * 1024, ..BOUNDS });
        let one = MESSAGE_COST + PIECE_COST + 1000;
        for peer in 1..=100 {
            reassembly.push(at(0), cid(peer), piece(0, 0, 16, &[0; 1000]));
            // The first one is touched again and again at first.
            if peer < 10 {
                reassembly.push(at(0), cid(1), piece(0, peer as u8, 16, b"y"));
                assert!(reassembly.messages.contains_key(&(cid(1), 0)));
            }
            assert!(reassembly.bytes <= 8 * 1024);
        }
        assert_eq!(reassembly.messages.len(), 8 * 1024 / one);
        assert!(reassembly.messages.contains_key(&(cid(100), 0)));
    }

    #[test]
    fn messages_expire_from_their_first_piece_on() {
        let mut reassembly = Reassembly::new(BOUNDS);
        reassembly.push(at(0), cid(1), piece(1, 0, 3, b"a"));
        reassembly.push(at(4), cid(1), piece(1, 1, 3, b"b"));
        assert_eq!(reassembly.push(at(5), cid(1), piece(1, 2, 3, b"c")), Taken::Kept, "begun anew");
        reassembly.expire(at(9));
        assert!(!reassembly.is_empty());
        reassembly.expire(at(10));
        assert!(all_is_given_back(&reassembly));
    }
}
