//! When keys are due: in slots of 100 ms, each of which holds the keys whose time is over at its end.
//!
//! Specification: docs/protocol.md §5.4.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::DisposableKeyId;
use super::pile::Pile;

/// Keys by the slot in which their time is over. A key that ended before stays in its slot.
#[derive(Debug, Default)]
pub(super) struct Wheel {
    slots: BTreeMap<u64, Pile>,
}

/// How long a slot lasts.
const SLOT: Duration = Duration::from_millis(100);

impl Wheel {
    pub(super) fn add(&mut self, due: Duration, key: DisposableKeyId) {
        let slot = due.as_nanos().div_ceil(SLOT.as_nanos()) as u64;
        self.slots.entry(slot).or_default().push(key);
    }

    /// The next key of a slot that is over.
    pub(super) fn pop(&mut self, now: Duration) -> Option<DisposableKeyId> {
        loop {
            let mut first = self.slots.first_entry()?;
            if end(*first.key()) > now {
                return None;
            }
            if let Some(key) = first.get_mut().pop() {
                return Some(key);
            }
            first.remove();
        }
    }

    /// When the next slot is over.
    pub(super) fn due(&self) -> Option<Duration> {
        self.slots.keys().next().map(|slot| end(*slot))
    }
}

fn end(slot: u64) -> Duration {
    Duration::from_millis(slot.saturating_mul(SLOT.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_millisecond_makes_nothing_due_early() {
        let mut wheel = Wheel::default();
        let due = Duration::from_millis(1000) + Duration::from_nanos(1);
        wheel.add(due, DisposableKeyId::from_bytes([1; 16]));
        assert_eq!(wheel.pop(Duration::from_millis(1000)), None);
        assert!(wheel.due().is_some_and(|at| at >= due));
    }

    #[test]
    fn a_key_is_due_at_most_a_slot_late_and_never_early() {
        let mut wheel = Wheel::default();
        let key = |at: u64| DisposableKeyId::from_bytes([at as u8; 16]);
        let times = [1500, 1, 99, 100, 101, 850];
        times.iter().for_each(|at| wheel.add(Duration::from_millis(*at), key(*at)));
        let mut popped = 0;
        for now in 0..=1600 {
            while let Some(found) = wheel.pop(Duration::from_millis(now)) {
                let due = times.into_iter().find(|at| key(*at) == found).unwrap();
                assert!(due <= now && now < due + 100, "{due} at {now}");
                popped += 1;
            }
        }
        assert_eq!((popped, wheel.due()), (times.len(), None));
    }
}
