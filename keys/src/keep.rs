//! Where a process keeps the secrets of its own that last: in an [`Arena`](crate::arena::Arena), or on the heap.
//!
//! Specification: docs/protocol.md §7.4.

use std::fmt;
use std::io;

use zeroize::{Zeroize as _, Zeroizing};

#[cfg(feature = "store")]
use crate::arena::{Arena, Secret};

/// Takes secrets of 32 bytes in.
#[derive(Clone, Debug)]
pub struct Keep(Place);

#[derive(Clone, Debug)]
enum Place {
    Heap,
    #[cfg(feature = "store")]
    Arena(Arena),
}

impl Keep {
    /// On the heap: wiped, but neither locked into memory nor left out of dumps. For development.
    #[must_use]
    pub fn on_heap() -> Self {
        Self(Place::Heap)
    }

    /// In the pages of `arena`.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn in_arena(arena: &Arena) -> Self {
        Self(Place::Arena(arena.clone()))
    }

    /// A place of all zeros, to be written.
    ///
    /// # Errors
    /// When an arena has no place left.
    pub fn take(&self) -> io::Result<Kept> {
        match &self.0 {
            Place::Heap => Ok(Kept(Held::Heap(Box::new(Zeroizing::new([0; 32]))))),
            #[cfg(feature = "store")]
            Place::Arena(arena) => arena.take().map(|secret| Kept(Held::Arena(secret))),
        }
    }

    /// Moves a secret in; the original is wiped.
    ///
    /// # Errors
    /// As [`Keep::take`]; the original is wiped then, too.
    pub fn hold(&self, original: &mut [u8; 32]) -> io::Result<Kept> {
        let taken = self.take().map(|mut kept| {
            kept.bytes_mut().copy_from_slice(original);
            kept
        });
        original.zeroize();
        taken
    }
}

/// A secret that is kept; wiped when it is dropped.
pub struct Kept(Held);

enum Held {
    Heap(Box<Zeroizing<[u8; 32]>>),
    #[cfg(feature = "store")]
    Arena(Secret),
}

impl Kept {
    /// The secret itself: for computing with, never for comparison, logs or the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        match &self.0 {
            Held::Heap(secret) => secret,
            #[cfg(feature = "store")]
            Held::Arena(secret) => secret.as_bytes(),
        }
    }

    /// The place, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8; 32] {
        match &mut self.0 {
            Held::Heap(secret) => secret,
            #[cfg(feature = "store")]
            Held::Arena(secret) => secret.bytes_mut(),
        }
    }
}

#[cfg(feature = "store")]
impl From<Secret> for Kept {
    fn from(secret: Secret) -> Self {
        Self(Held::Arena(secret))
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(_) = self;
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_moves_in_and_is_not_shown() {
        let mut original = [0xab; 32];
        let kept = Keep::on_heap().hold(&mut original).unwrap();
        assert_eq!((original, kept.as_bytes()), ([0; 32], &[0xab; 32]));
        assert_eq!(format!("{kept:?}"), "Kept { .. }");
    }

    #[cfg(feature = "store")]
    #[test]
    fn an_arena_that_is_full_takes_nothing_and_wipes_the_original() {
        let keep = Keep::in_arena(&Arena::new(1, true).unwrap());
        let mut held = Vec::new();
        while let Ok(kept) = keep.hold(&mut [1; 32]) {
            held.push(kept);
        }
        let mut original = [2; 32];
        assert!(keep.hold(&mut original).is_err());
        assert_eq!(original, [0; 32]);
        held.pop();
        assert!(keep.take().is_ok());
    }
}
