//! The replay window: which numbers of one epoch in one direction have been accepted.
//!
//! Records arrive twice and out of order, so a number is accepted once, and only within
//! [`ReplayWindow::WIDTH`] of the highest seen. Asking never changes the window: a number is marked
//! only *after* its record authenticates, since marking first would let a forged record block the
//! real one.
//!
//! Specification: docs/protocol.md §3.3. The bitmap is that of RFC 6479.

use crate::record::Sequence;

/// One epoch's accepted numbers: 2048 bits in a ring of words, and the highest number.
#[derive(Hash)]
pub(crate) struct ReplayWindow {
    /// Highest accepted number, once there is one.
    highest: Option<u64>,
    words: [u64; WORDS],
}

impl ReplayWindow {
    /// How far behind the highest number one is still accepted. The ring is one word wider, so that
    /// the word being cleared is never one that still counts.
    pub(crate) const WIDTH: u64 = (WORDS as u64 - 1) * BITS;

    pub(crate) fn new() -> Self {
        Self { highest: None, words: [0; WORDS] }
    }

    /// Whether `sequence` would be accepted: above the highest, or at most [`Self::WIDTH`] below it
    /// and not yet marked.
    pub(crate) fn accepts(&self, sequence: Sequence) -> bool {
        let number = sequence.value();
        match self.highest {
            None => true,
            Some(highest) if number > highest => true,
            Some(highest) => highest - number <= Self::WIDTH && self.word(number) & bit(number) == 0,
        }
    }

    /// Marks a number that [`Self::accepts`] and whose record has authenticated.
    ///
    /// Returns whether it is now the highest.
    pub(crate) fn mark(&mut self, sequence: Sequence) -> bool {
        let number = sequence.value();
        let newest = self.highest.is_none_or(|highest| number > highest);
        if newest {
            let from = self.highest.map_or(0, |highest| highest / BITS);
            let ahead = (number / BITS - from).min(WORDS as u64);
            for word in 1..=ahead {
                self.words[ring(from + word)] = 0;
            }
            self.highest = Some(number);
        }
        self.words[ring(number / BITS)] |= bit(number);
        newest
    }

    fn word(&self, number: u64) -> u64 {
        self.words[ring(number / BITS)]
    }
}

/// Place of a word in the ring; always below `WORDS`.
fn ring(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % BITS)
}

const BITS: u64 = u64::BITS as u64;
const WORDS: usize = 2048 / BITS as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn try_accept(window: &mut ReplayWindow, number: u64) -> bool {
        let sequence = Sequence::new(number);
        let accepted = window.accepts(sequence);
        if accepted {
            window.mark(sequence);
        }
        accepted
    }

    #[test]
    fn width_is_that_of_the_protocol() {
        assert_eq!(ReplayWindow::WIDTH, 1984);
    }

    /// The cases of WireGuard's counter self-test (`selftest/counter.c`), stated anew for our window.
    #[test]
    fn wireguard_counter_cases_hold() {
        const LIMIT: u64 = ReplayWindow::WIDTH + 1;
        let run = |cases: &[(u64, bool)]| {
            let mut window = ReplayWindow::new();
            for (step, &(number, expected)) in cases.iter().enumerate() {
                assert_eq!(try_accept(&mut window, number), expected, "step {step}: {number}");
            }
        };
        run(&[
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (LIMIT, true),
            (LIMIT - 1, true),
            (LIMIT - 1, false),
            (LIMIT - 2, true),
            (2, true),
            (2, false),
            (LIMIT + 16, true),
            (3, false),
            (LIMIT + 16, false),
            (LIMIT * 4, true),
            (LIMIT * 4 - (LIMIT - 1), true),
            (10, false),
            (LIMIT * 4 - LIMIT, false),
            (LIMIT * 4 - (LIMIT + 1), false),
            (LIMIT * 4 - (LIMIT - 2), true),
            (LIMIT * 4 + 1 - LIMIT, false),
            (0, false),
        ]);
        let width = ReplayWindow::WIDTH;
        let up = |numbers: std::ops::RangeInclusive<u64>| numbers.map(|n| (n, true)).collect::<Vec<_>>();
        let down = |numbers| up(numbers).into_iter().rev().collect::<Vec<_>>();
        run(&[up(1..=width), vec![(0, true), (0, false)]].concat());
        run(&[up(2..=width + 1), vec![(1, true), (0, false)]].concat());
        run(&down(0..=width));
        run(&[down(1..=width + 1), vec![(0, false)]].concat());
        run(&[down(1..=width), vec![(width + 1, true), (0, false)]].concat());
        run(&[down(1..=width), vec![(0, true), (width + 1, true)]].concat());
    }

    #[test]
    fn asking_changes_nothing() {
        let mut window = ReplayWindow::new();
        assert!(window.mark(Sequence::new(10)));
        assert!(window.accepts(Sequence::new(1_000_000)));
        assert!(window.accepts(Sequence::new(5)));
        assert!(window.accepts(Sequence::new(5)));
        assert!(!window.mark(Sequence::new(5)));
        assert!(!window.accepts(Sequence::new(5)));
    }
}
