//! Which records of a log a subscriber has, and how far all of them are done with.
//!
//! A log is acknowledged up to a place, not record by record. So what is settled out of order waits here for what came
//! before it, and a record that holds back too many later ones is to be appended to the log once more: the copy takes
//! its place, and the log can be acknowledged beyond the first one.
//!
//! A value: it reads no clock and asks nobody. What it holds is bounded by what subscribers hold.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

/// Records that one which is not settled may hold back, counted in places of the log: about so many that are settled
/// already come again after a crash.
pub(super) const HELD_BACK: i64 = 1024;

/// What is known of the partitions that were assigned.
#[derive(Debug)]
pub(super) struct Offsets {
    /// On copies that are appended here, since the partitions were assigned.
    mark: u64,
    partitions: BTreeMap<i32, Partition>,
    held: HashMap<u64, Held>,
    /// What one subscription leaves to others of this process.
    left: VecDeque<u64>,
    last: u64,
}

#[derive(Debug, Default)]
struct Partition {
    /// The place behind the last record that was read.
    next: i64,
    /// Up to where it was noted as done.
    noted: i64,
    /// The places of records that are not settled.
    open: BTreeMap<i64, u64>,
    /// Whether everything was read that was there at the beginning.
    is_read: bool,
}

/// A record that is not settled.
#[derive(Debug)]
struct Held {
    partition: i32,
    offset: i64,
    value: Bytes,
    is_copied: bool,
}

impl Partition {
    /// All before this place is done with.
    fn done(&self) -> i64 {
        self.open.first_key_value().map_or(self.next, |(offset, _)| *offset)
    }
}

impl Offsets {
    /// Nothing is known; `mark` is random.
    pub(super) fn new(mark: u64) -> Self {
        let (partitions, held, left) = (BTreeMap::new(), HashMap::new(), VecDeque::new());
        Self { mark, partitions, held, left, last: 0 }
    }

    /// What is on copies that are appended from now on. A copy with it is of a record that is held, or settled.
    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// Takes note of a record that is nobody's here.
    pub(super) fn pass(&mut self, partition: i32, offset: i64) {
        let partition = self.read(partition, offset);
        partition.next = partition.next.max(offset + 1);
    }

    /// Takes a record in; the number it has from now on, or none if it is held already.
    pub(super) fn take_in(&mut self, partition: i32, offset: i64, value: Bytes) -> Option<u64> {
        self.pass(partition, offset);
        let id = self.last + 1;
        let open = &mut self.read(partition, offset).open;
        if open.contains_key(&offset) {
            return None;
        }
        open.insert(offset, id);
        self.last = id;
        self.held.insert(id, Held { partition, offset, value, is_copied: false });
        Some(id)
    }

    /// Takes note that the copy of a record was read, which takes its place unless it is settled.
    pub(super) fn moved(&mut self, id: u64, partition: i32, offset: i64) {
        self.pass(partition, offset);
        let Some(held) = self.held.get_mut(&id) else { return };
        let old = (held.partition, held.offset);
        (held.partition, held.offset, held.is_copied) = (partition, offset, false);
        self.read(old.0, old.1).open.remove(&old.1);
        self.read(partition, offset).open.insert(offset, id);
    }

    /// Takes note that a partition was read to its end.
    pub(super) fn at_end(&mut self, partition: i32) {
        self.partitions.entry(partition).or_default().is_read = true;
    }

    /// Whether a record that is read now was appended after this began, so that nobody else can have had it.
    pub(super) fn is_fresh(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_some_and(|partition| partition.is_read)
    }

    /// Settles a record: whether nothing holds it back, or none if it is not held.
    pub(super) fn settle(&mut self, id: u64) -> Option<bool> {
        let Held { partition, offset, .. } = self.held.remove(&id)?;
        let partition = self.read(partition, offset);
        partition.open.remove(&offset);
        Some(partition.done() > offset)
    }

    /// Leaves a record to others of this process.
    pub(super) fn leave(&mut self, id: u64) {
        if self.held.contains_key(&id) {
            self.left.push_back(id);
        }
    }

    /// A record that was left, if there is one.
    pub(super) fn next_left(&mut self) -> Option<(u64, Bytes)> {
        loop {
            let id = self.left.pop_front()?;
            if let Some(held) = self.held.get(&id) {
                return Some((id, held.value.clone()));
            }
        }
    }

    /// Partitions with the place before which all is done with, where that is at least `step` further than before;
    /// they are noted with that.
    pub(super) fn progress(&mut self, step: i64) -> Vec<(i32, i64)> {
        let mut noted = Vec::new();
        for (number, partition) in &mut self.partitions {
            let done = partition.done();
            if done - partition.noted >= step {
                partition.noted = done;
                noted.push((*number, done));
            }
        }
        noted
    }

    /// A record that holds back too many, to be appended once more; each is named once, until its copy is read.
    pub(super) fn hindrance(&mut self) -> Option<(u64, Bytes)> {
        for partition in self.partitions.values() {
            let behind =
                partition.open.iter().take_while(|(offset, _)| partition.next - **offset > HELD_BACK);
            for (_, id) in behind {
                if let Some(held) = self.held.get_mut(id).filter(|held| !held.is_copied) {
                    held.is_copied = true;
                    return Some((*id, held.value.clone()));
                }
            }
        }
        None
    }

    /// Takes note that a copy was not appended.
    pub(super) fn not_copied(&mut self, id: u64) {
        if let Some(held) = self.held.get_mut(&id) {
            held.is_copied = false;
        }
    }

    /// Lets go of everything: the partitions are somebody else's. Of copies that were appended before it is not known
    /// any more whether they are settled.
    pub(super) fn clear(&mut self) {
        self.mark = self.mark.wrapping_add(1);
        self.partitions.clear();
        self.held.clear();
        self.left.clear();
    }

    /// A partition as it is when this record is read; what came before it in the log is done with, if it is the first.
    fn read(&mut self, partition: i32, offset: i64) -> &mut Partition {
        let partition = self.partitions.entry(partition).or_default();
        if partition.next == 0 {
            (partition.next, partition.noted) = (offset, offset);
        }
        partition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(range: core::ops::Range<i64>) -> (Offsets, Vec<u64>) {
        let mut offsets = Offsets::new(1);
        let ids = range.map(|offset| offsets.take_in(7, offset, Bytes::new()).unwrap()).collect();
        (offsets, ids)
    }

    #[test]
    fn what_is_settled_out_of_order_waits_for_what_came_before() {
        let (mut offsets, ids) = offsets(100..104);
        assert_eq!(offsets.settle(ids[1]), Some(false));
        assert_eq!(offsets.settle(ids[3]), Some(false));
        assert_eq!(offsets.progress(1), []);
        assert_eq!(offsets.settle(ids[0]), Some(true));
        assert_eq!(offsets.progress(1), [(7, 102)]);
        assert_eq!(offsets.settle(ids[0]), None, "it is settled already");
        assert_eq!(offsets.settle(ids[2]), Some(true));
        assert_eq!(offsets.progress(1), [(7, 104)]);
        assert_eq!(offsets.progress(1), [], "nothing is noted twice");
    }

    #[test]
    fn records_of_others_are_passed_and_noted_in_larger_steps() {
        let mut offsets = Offsets::new(1);
        (50..60).for_each(|offset| offsets.pass(1, offset));
        assert_eq!(offsets.progress(11), []);
        offsets.pass(1, 60);
        assert_eq!(offsets.progress(11), [(1, 61)]);
    }

    #[test]
    fn a_record_that_is_read_twice_is_held_once() {
        let (mut offsets, ids) = offsets(0..1);
        assert_eq!(offsets.take_in(7, 0, Bytes::new()), None);
        assert_eq!(offsets.settle(ids[0]), Some(true));
        assert_eq!(offsets.progress(1), [(7, 1)]);
    }

    #[test]
    fn what_holds_back_too_many_is_copied_once_and_its_copy_takes_its_place() {
        let (mut offsets, ids) = offsets(0..HELD_BACK);
        ids[1..].iter().for_each(|id| assert_eq!(offsets.settle(*id), Some(false)));
        assert_eq!(offsets.hindrance(), None);
        offsets.pass(7, HELD_BACK);
        assert_eq!(offsets.hindrance(), Some((ids[0], Bytes::new())));
        assert_eq!(offsets.hindrance(), None, "one copy is enough");
        offsets.not_copied(ids[0]);
        assert!(offsets.hindrance().is_some(), "unless it was not appended");
        let place = 1 + HELD_BACK;
        offsets.moved(ids[0], 7, place);
        assert_eq!(offsets.progress(1), [(7, place)]);
        assert_eq!(offsets.settle(ids[0]), Some(true));
        assert_eq!(offsets.progress(1), [(7, place + 1)]);
    }

    #[test]
    fn the_copy_of_what_was_settled_meanwhile_is_passed() {
        let (mut offsets, ids) = offsets(5..6);
        assert_eq!(offsets.settle(ids[0]), Some(true));
        offsets.moved(ids[0], 7, 6);
        assert_eq!(offsets.progress(1), [(7, 7)]);
    }

    #[test]
    fn what_is_left_is_for_others_until_it_is_settled() {
        let (mut offsets, ids) = offsets(0..2);
        ids.iter().for_each(|id| offsets.leave(*id));
        assert_eq!(offsets.settle(ids[0]), Some(true));
        assert_eq!(offsets.next_left(), Some((ids[1], Bytes::new())));
        assert_eq!(offsets.next_left(), None);
        offsets.clear();
        offsets.leave(ids[1]);
        assert_eq!(offsets.next_left(), None, "what is somebody else's is not left to anybody");
    }

    #[test]
    fn a_copy_is_not_passed_once_it_is_not_known_what_was_settled() {
        let (mut offsets, _) = offsets(0..1);
        let before = offsets.mark();
        offsets.clear();
        assert_ne!(offsets.mark(), before);
    }

    #[test]
    fn only_what_comes_after_the_end_was_seen_is_fresh() {
        let (mut offsets, _) = offsets(0..1);
        assert!(!offsets.is_fresh(7));
        offsets.at_end(7);
        assert!(offsets.is_fresh(7) && !offsets.is_fresh(8));
    }
}
