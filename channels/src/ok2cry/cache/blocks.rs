//! What keys have of any length, a body or a list of delegates, in blocks of one length: what one key leaves fits the next.
//!
//! Nothing secret is kept here.

use super::slab::{At, Slab};

/// Byte strings.
pub(super) struct Blocks(Slab<Block>);

struct Block {
    bytes: [u8; BLOCK_BYTES],
    next: Option<At>,
}

/// A byte string in [`Blocks`]. Not `Clone`: it is dropped there once.
#[derive(Default)]
pub(super) struct Chain {
    first: Option<At>,
    bytes: usize,
}

/// Bytes of a string in one block.
const BLOCK_BYTES: usize = 48;

impl Blocks {
    pub(super) fn new() -> Self {
        Self(Slab::new())
    }

    /// Bytes that a string of `bytes` bytes takes up.
    pub(super) const fn room(bytes: usize) -> usize {
        bytes.div_ceil(BLOCK_BYTES) * Slab::<Block>::PLACE_BYTES
    }

    pub(super) fn put(&mut self, string: &[u8]) -> Chain {
        let mut first = None;
        // The last one first: each knows the one after it.
        for part in string.chunks(BLOCK_BYTES).rev() {
            let mut bytes = [0; BLOCK_BYTES];
            bytes[..part.len()].copy_from_slice(part);
            first = Some(self.0.put(Block { bytes, next: first }));
        }
        Chain { first, bytes: string.len() }
    }

    pub(super) fn read(&self, chain: &Chain) -> Vec<u8> {
        let (mut string, mut next) = (Vec::with_capacity(Self::room(chain.bytes)), chain.first);
        while let Some(block) = next.and_then(|at| self.0.get(at)) {
            string.extend_from_slice(&block.bytes);
            next = block.next;
        }
        string.truncate(chain.bytes);
        string
    }

    pub(super) fn free(&mut self, chain: Chain) {
        let mut next = chain.first;
        while let Some((at, block)) = next.and_then(|at| Some((at, self.0.get(at)?))) {
            next = block.next;
            self.0.free(at);
        }
    }
}

impl Chain {
    /// The length of the string.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_any_length_are_read_as_they_were_put_and_leave_their_blocks_to_others() {
        let mut blocks = Blocks::new();
        let string = |len: usize| (0..len).map(|at| (at * 7 + len) as u8).collect::<Vec<_>>();
        let lengths = [0, 1, 47, 48, 49, 96, 97, 2000];
        for _ in 0..3 {
            let chains = lengths.map(|len| blocks.put(&string(len)));
            for (chain, len) in chains.iter().zip(lengths) {
                assert_eq!((blocks.read(chain), chain.len()), (string(len), len));
            }
            chains.into_iter().for_each(|chain| blocks.free(chain));
        }
        let room: usize = lengths.into_iter().map(Blocks::room).sum();
        assert_eq!(blocks.0.places() * Slab::<Block>::PLACE_BYTES, room, "as much as is counted");
    }
}
