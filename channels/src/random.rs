//! Randomness as an argument: a seed from the driver, stretched as far as one handshake needs.
//!
//! Specification: docs/protocol.md §0 (labels, MAC).

use std::convert::Infallible;

use onward_keys::{Label, SharedSecret, mac};
use rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroize as _;

/// Pseudorandom bytes: MAC in counter mode under a seed that is used nowhere else.
pub(crate) struct SeededRandom {
    seed: SharedSecret,
    blocks: u64,
}

impl SeededRandom {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self { seed: SharedSecret::new(seed), blocks: 0 }
    }

    /// The next `N` bytes, independent of all others.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    pub(crate) fn fill(&mut self, output: &mut [u8]) {
        for chunk in output.chunks_mut(32) {
            let label = Label::new("ch/random").uint(self.blocks).encode();
            self.blocks += 1;
            let mut block = mac(self.seed.as_bytes(), &label);
            chunk.copy_from_slice(&block[..chunk.len()]);
            block.zeroize();
        }
    }
}

impl TryRng for SeededRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_be_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_be_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
        self.fill(output);
        Ok(())
    }
}

impl TryCryptoRng for SeededRandom {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_and_repeat_with_the_seed() {
        let mut random = SeededRandom::new(&[1; 32]);
        let first: [u8; 40] = random.bytes();
        let second: [u8; 40] = random.bytes();
        assert_ne!(first, second);
        assert_eq!(SeededRandom::new(&[1; 32]).bytes::<40>(), first);
        assert_ne!(SeededRandom::new(&[2; 32]).bytes::<40>(), first);
    }
}
