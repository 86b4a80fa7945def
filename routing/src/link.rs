//! The seeded link-fault value: what a bad link does to packets, decided without clock or sockets.
//!
//! Given the same seed, faults and packets it does the same again, so every failing test replays.

use core::time::Duration;

/// What goes wrong on a link; probabilities per packet in 1/65 536.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LinkFaults {
    /// Packets that vanish.
    pub loss: u16,
    /// Packets that arrive twice.
    pub duplicate: u16,
    /// Packets held back behind later ones for up to `reorder_by`.
    pub reorder: u16,
    /// Packets with one bit flipped.
    pub corrupt: u16,
    /// The least delay of every packet.
    pub delay: Duration,
    /// The most additional delay of every packet.
    pub jitter: Duration,
    /// How long a reordered packet is held back at most.
    pub reorder_by: Duration,
}

/// A packet that arrives, and when.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delivery {
    /// When it arrives, on the caller's clock.
    pub at: Duration,
    /// Its bytes, perhaps not as they were sent.
    pub packet: Vec<u8>,
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    faults: LinkFaults,
    rng: Rng,
    cut: bool,
}

impl Link {
    /// A link with these faults; equal seeds behave equally.
    #[must_use]
    pub fn new(faults: LinkFaults, seed: u64) -> Self {
        Self { faults, rng: Rng::new(seed), cut: false }
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&mut self, faults: LinkFaults) {
        self.faults = faults;
    }

    /// Drops everything (`true`) or lets packets pass again (`false`).
    pub fn cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Decides what becomes of one packet sent at `now`: none, one or two deliveries.
    pub fn send(&mut self, now: Duration, packet: &[u8]) -> Vec<Delivery> {
        if self.cut || self.rng.chance(self.faults.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.rng.chance(self.faults.duplicate));
        (0..copies).map(|_| self.deliver(now, packet)).collect()
    }

    fn deliver(&mut self, now: Duration, packet: &[u8]) -> Delivery {
        let mut at = now + self.faults.delay + self.rng.up_to(self.faults.jitter);
        if self.rng.chance(self.faults.reorder) {
            at += self.rng.up_to(self.faults.reorder_by);
        }
        let mut packet = packet.to_vec();
        if self.rng.chance(self.faults.corrupt) && !packet.is_empty() {
            let bit = self.rng.below(packet.len() as u64 * 8);
            packet[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        Delivery { at, packet }
    }
}

/// A small seeded generator (SplitMix64) for faults and tests; never for keys.
///
/// Source: Steele, Lea, Flood, *Fast splittable pseudorandom number generators*, 2014.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that repeats itself for equal seeds.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 if it is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    fn chance(&mut self, of_65536: u16) -> bool {
        self.below(65_536) < u64::from(of_65536)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.below(most.as_nanos() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_behave_equally_and_rates_hold() {
        let faults = LinkFaults {
            loss: 6554,
            duplicate: 6554,
            corrupt: 6554,
            reorder: 6554,
            reorder_by: Duration::from_millis(9),
            ..LinkFaults::default()
        };
        let run = |seed| {
            let mut link = Link::new(faults, seed);
            (0..10_000).map(|_| link.send(Duration::ZERO, &[0; 8])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        let lost = run(1).iter().filter(|deliveries| deliveries.is_empty()).count();
        let doubled = run(1).iter().filter(|deliveries| deliveries.len() == 2).count();
        let corrupt = run(1).iter().flatten().filter(|delivery| delivery.packet != [0; 8]).count();
        assert!(
            (800..1200).contains(&lost) && (700..1100).contains(&doubled) && (800..1200).contains(&corrupt)
        );
    }

    #[test]
    fn a_cut_link_passes_nothing() {
        let mut link = Link::new(LinkFaults::default(), 0);
        link.cut(true);
        assert!(link.send(Duration::ZERO, b"x").is_empty());
        link.cut(false);
        assert_eq!(link.send(Duration::ZERO, b"x").len(), 1);
    }
}
