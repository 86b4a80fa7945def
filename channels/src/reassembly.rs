//! Messages that came in pieces, until their last piece has come.
//!
//! What is kept is bounded in messages, bytes and time, and grows with what was received, never with what was
//! announced.
//!
//! Specification: docs/protocol.md §3.3 (FRAG).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::record::Fragment;
use crate::{ChannelError, Now};

/// The unfinished messages of one direction of one channel.
///
/// Holds at most 16 messages and 32 MiB together, each at most 16 MiB and 30 s. Empty, it owns no memory.
#[derive(Default)]
pub struct Reassembly {
    open: BTreeMap<u32, Unfinished>,
    /// Bytes of all of them, with [`PIECE_COST`] for each piece.
    held: usize,
}

struct Unfinished {
    count: u16,
    pieces: BTreeMap<u16, Vec<u8>>,
    bytes: usize,
    began: Duration,
}

impl Unfinished {
    fn held(&self) -> usize {
        self.bytes + self.pieces.len() * PIECE_COST
    }
}

impl Reassembly {
    /// Takes one piece; returns the message when it is complete.
    ///
    /// # Errors
    /// [`ChannelError::Malformed`] for a piece that contradicts an earlier one of its message, and
    /// [`ChannelError::ReassemblyLimit`] for one too many; that message is then given up, all others are kept.
    /// Where only the number of open messages is the limit, the oldest is given up silently.
    pub fn push(&mut self, now: Now, fragment: Fragment<'_>) -> Result<Option<Vec<u8>>, ChannelError> {
        self.expire(now);
        let Fragment { message, index, count, piece } = fragment;
        if index >= count {
            return Err(ChannelError::Malformed("FRAG index outside its count"));
        }
        if !self.open.contains_key(&message) && self.open.len() == OPEN_MAX {
            self.give_up_oldest();
        }
        let unfinished = self.open.entry(message).or_insert_with(|| Unfinished {
            count,
            pieces: BTreeMap::new(),
            bytes: 0,
            began: now.mono,
        });
        if unfinished.count != count || unfinished.pieces.contains_key(&index) {
            self.give_up(message);
            return Err(ChannelError::Malformed("FRAG contradicts an earlier piece"));
        }
        if unfinished.bytes + piece.len() > MESSAGE_BYTES_MAX
            || self.held + piece.len() + PIECE_COST > HELD_MAX
        {
            self.give_up(message);
            return Err(ChannelError::ReassemblyLimit);
        }
        unfinished.pieces.insert(index, piece.to_vec());
        unfinished.bytes += piece.len();
        let complete = unfinished.pieces.len() == usize::from(count);
        self.held += piece.len() + PIECE_COST;
        if !complete {
            return Ok(None);
        }
        Ok(self.give_up(message).map(|finished| {
            let mut whole = Vec::with_capacity(finished.bytes);
            finished.pieces.into_values().for_each(|piece| whole.extend_from_slice(&piece));
            whole
        }))
    }

    /// Gives up what has been unfinished for 30 s. [`Self::push`] does this too.
    pub fn expire(&mut self, now: Now) {
        while let Some((&message, _)) =
            self.open.iter().find(|(_, open)| now.mono.saturating_sub(open.began) >= KEPT)
        {
            self.give_up(message);
        }
    }

    /// Bytes held for unfinished messages.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    fn give_up_oldest(&mut self) {
        if let Some((&message, _)) = self.open.iter().min_by_key(|(_, open)| open.began) {
            self.give_up(message);
        }
    }

    fn give_up(&mut self, message: u32) -> Option<Unfinished> {
        let unfinished = self.open.remove(&message)?;
        self.held -= unfinished.held();
        Some(unfinished)
    }
}

impl fmt::Debug for Reassembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reassembly").field("open", &self.open.len()).field("held", &self.held).finish()
    }
}

/// Longest message that travels in pieces, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
const OPEN_MAX: usize = 16;
const HELD_MAX: usize = 32 << 20;
const KEPT: Duration = Duration::from_secs(30);
/// What keeping a piece costs besides its bytes: without it, empty pieces would be free.
const PIECE_COST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), unix: 0 }
    }

    fn piece(message: u32, index: u16, count: u16, piece: &[u8]) -> Fragment<'_> {
        Fragment { message, index, count, piece }
    }

    #[test]
    fn pieces_in_any_order_become_the_message() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.push(at(0), piece(1, 2, 3, b"c")).unwrap(), None);
        assert_eq!(reassembly.push(at(0), piece(2, 0, 2, b"x")).unwrap(), None);
        assert_eq!(reassembly.push(at(0), piece(1, 0, 3, b"a")).unwrap(), None);
        assert_eq!(reassembly.push(at(0), piece(1, 1, 3, b"b")).unwrap(), Some(b"abc".to_vec()));
        assert_eq!(reassembly.push(at(0), piece(2, 1, 2, b"y")).unwrap(), Some(b"xy".to_vec()));
        assert_eq!(reassembly.push(at(0), piece(3, 0, 1, b"")).unwrap(), Some(Vec::new()));
        assert_eq!(reassembly.held_bytes(), 0);
    }

    #[test]
    fn contradicting_pieces_give_up_their_message_alone() {
        let mut reassembly = Reassembly::default();
        reassembly.push(at(0), piece(1, 0, 2, b"a")).unwrap();
        reassembly.push(at(0), piece(2, 0, 2, b"x")).unwrap();
        assert!(matches!(reassembly.push(at(0), piece(1, 0, 2, b"b")), Err(ChannelError::Malformed(_))));
        assert!(matches!(reassembly.push(at(0), piece(2, 1, 3, b"y")), Err(ChannelError::Malformed(_))));
        assert_eq!(reassembly.held_bytes(), 0);
        assert_eq!(reassembly.push(at(0), piece(1, 1, 2, b"b")).unwrap(), None);
    }

    #[test]
    fn the_seventeenth_message_pushes_the_oldest_out() {
        let mut reassembly = Reassembly::default();
        for message in 0..17 {
            reassembly.push(at(u64::from(message)), piece(message, 0, 2, b"a")).unwrap();
        }
        assert_eq!(reassembly.open.len(), OPEN_MAX);
        assert_eq!(reassembly.push(at(17), piece(0, 1, 2, b"b")).unwrap(), None);
        assert_eq!(reassembly.push(at(17), piece(16, 1, 2, b"b")).unwrap(), Some(b"ab".to_vec()));
    }

    #[test]
    fn unfinished_messages_expire() {
        let mut reassembly = Reassembly::default();
        reassembly.push(at(0), piece(1, 0, 2, b"a")).unwrap();
        assert_eq!(reassembly.push(at(30), piece(1, 1, 2, b"b")).unwrap(), None, "the first piece is gone");
        reassembly.expire(at(60));
        assert_eq!(reassembly.held_bytes(), 0);
    }

    #[test]
    fn bytes_are_bounded_for_one_message_and_for_all() {
        let mut reassembly = Reassembly::default();
        let large = vec![0; 60_000];
        let mut refused = None;
        for index in 0..300 {
            if reassembly.push(at(0), piece(1, index, 300, &large)).is_err() {
                refused = Some(usize::from(index));
                break;
            }
        }
        assert_eq!(refused, Some(MESSAGE_BYTES_MAX / large.len()));
        assert_eq!(reassembly.held_bytes(), 0);
        let mut held_max = 0;
        for message in 0..4 {
            for index in 0..200 {
                let _ = reassembly.push(at(0), piece(message, index, 300, &large));
                held_max = held_max.max(reassembly.held_bytes());
            }
        }
        assert!(held_max <= HELD_MAX && held_max > HELD_MAX / 2);
        let mut tiny = Reassembly::default();
        for message in 0..16 {
            for index in 0..u16::MAX {
                let _ = tiny.push(at(0), piece(message, index, u16::MAX, b""));
            }
        }
        assert!(tiny.held_bytes() <= HELD_MAX);
    }
}
