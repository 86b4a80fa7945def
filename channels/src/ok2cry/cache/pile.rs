//! Keys in no particular order. However many there are, no more than a piece of them is moved or freed at a time.

use super::super::DisposableKeyId;

/// Keys that are put on a pile, and taken from its top.
#[derive(Debug, Default)]
pub(super) struct Pile {
    /// Of at most [`PIECE`] keys, none empty.
    pieces: Vec<Vec<DisposableKeyId>>,
}

/// 4 KiB.
const PIECE: usize = 256;

impl Pile {
    pub(super) fn push(&mut self, key: DisposableKeyId) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(key),
            _ => self.pieces.push(vec![key]),
        }
    }

    pub(super) fn pop(&mut self) -> Option<DisposableKeyId> {
        let piece = self.pieces.last_mut()?;
        let key = piece.pop();
        if piece.is_empty() {
            self.pieces.pop();
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_on_last_is_taken_first_and_nothing_is_left() {
        let key = |at: usize| DisposableKeyId::from_bytes((at as u128).to_be_bytes());
        let mut pile = Pile::default();
        (0..2 * PIECE + 3).for_each(|at| pile.push(key(at)));
        assert_eq!(pile.pieces.len(), 3);
        for at in (0..2 * PIECE + 3).rev() {
            assert_eq!(pile.pop(), Some(key(at)));
        }
        assert_eq!((pile.pop(), pile.pieces.len()), (None, 0));
    }
}
