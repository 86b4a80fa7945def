//! Which messages were stored not long ago, so that one published again is kept once.
//!
//! The window is on the disk, too: a sender that was killed before it had its receipt publishes again
//! after the restart. It has bounds in time and in number, so it spares work and is no proof; whoever
//! handles messages remembers which it has had.

use std::collections::{HashSet, VecDeque};

use foldhash::fast::RandomState;

use super::super::Mid;
use super::record::{Place, Recent};

/// Messages in one entry of the file.
const ROW_MESSAGES: usize = 64;

/// What tells messages apart: mailbox, identifier, and checksum of the bytes. The last, because who
/// learns an identifier must not be able to keep the message from being stored.
type Key = (u64, Mid, u32);

/// The messages of the window, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    seen: HashSet<Key, RandomState>,
    rows: VecDeque<Row>,
}

#[derive(Debug)]
struct Row {
    place: Place,
    messages: Vec<Recent>,
}

/// What has to be changed in the file.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// The row that grew, as it is now.
    pub(crate) put: Option<(Place, Vec<u8>)>,
    /// Rows that are too old.
    pub(crate) removed: Vec<Place>,
}

impl Window {
    pub(crate) fn contains(&self, recent: &Recent) -> bool {
        self.seen.contains(&key(recent))
    }

    /// Adds a message that will be stored, or not.
    pub(crate) fn note(&mut self, recent: &Recent) {
        self.seen.insert(key(recent));
    }

    /// Takes over a row of the file; rows come in the order of their places.
    pub(crate) fn load(&mut self, place: Place, messages: impl Iterator<Item = Recent>) {
        let messages: Vec<Recent> = messages.collect();
        self.seen.extend(messages.iter().map(key));
        self.rows.push_back(Row { place, messages });
    }

    /// Adds `messages`, which are stored now, and drops what is older than `oldest` or more than
    /// `messages_max`.
    pub(crate) fn add(&mut self, messages: &[Recent], oldest: u64, messages_max: usize) -> Change {
        let mut change = Change::default();
        if messages.is_empty() {
            return change;
        }
        while let Some(first) = self.rows.front()
            && (self.seen.len() > messages_max
                || first.messages.last().is_none_or(|last| last.stored < oldest))
        {
            for recent in &first.messages {
                self.seen.remove(&key(recent));
            }
            change.removed.push(first.place);
            self.rows.pop_front();
        }
        let has_room = self.rows.back().is_some_and(|row| row.messages.len() < ROW_MESSAGES);
        if !has_room {
            let before = self.rows.back().map(|row| row.place).or(change.removed.last().copied());
            let place = Place { mailbox: 0, sequence: before.map_or(1, |place| place.sequence + 1) };
            self.rows.push_back(Row { place, messages: Vec::new() });
        }
        self.seen.extend(messages.iter().map(key));
        if let Some(row) = self.rows.back_mut() {
            row.messages.extend_from_slice(messages);
            let mut bytes = Vec::with_capacity(row.messages.len() * Recent::BYTES);
            row.messages.iter().for_each(|recent| recent.put(&mut bytes));
            change.put = Some((row.place, bytes));
        }
        change
    }

    /// Takes back the newest `messages`, which were not stored after all.
    pub(crate) fn take_back(&mut self, messages: &[Recent]) {
        for recent in messages {
            self.seen.remove(&key(recent));
        }
        if let Some(row) = self.rows.back_mut() {
            row.messages.truncate(row.messages.len().saturating_sub(messages.len()));
        }
    }
}

fn key(recent: &Recent) -> Key {
    (recent.mailbox, recent.mid, recent.check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(number: u8, stored: u64) -> Recent {
        Recent { mailbox: 1, mid: Mid::new([number; 16]), check: 0, stored }
    }

    #[test]
    fn what_is_in_the_window_is_known_and_what_is_too_old_is_not() {
        let mut window = Window::default();
        for number in 0..200 {
            window.add(&[recent(number, u64::from(number))], 0, 1000);
        }
        assert!((0..200).all(|number| window.contains(&recent(number, 0))));
        let change = window.add(&[recent(201, 201)], 100, 1000);
        // Rows leave whole: of 0..64 all are too old, of 64..128 not.
        assert_eq!(change.removed, [Place { mailbox: 0, sequence: 1 }]);
        assert!(!window.contains(&recent(63, 0)) && window.contains(&recent(64, 0)));
    }

    #[test]
    fn another_mailbox_or_other_bytes_are_another_message() {
        let mut window = Window::default();
        window.add(&[recent(1, 0)], 0, 10);
        assert!(!window.contains(&Recent { mailbox: 2, ..recent(1, 0) }));
        assert!(!window.contains(&Recent { check: 1, ..recent(1, 0) }));
    }

    #[test]
    fn it_has_a_bound_in_number() {
        let mut window = Window::default();
        for number in 0..=255 {
            window.add(&[recent(number, 0)], 0, 64);
        }
        assert!(window.seen.len() <= 64 + ROW_MESSAGES + 1, "{}", window.seen.len());
        assert!(window.contains(&recent(255, 0)) && !window.contains(&recent(0, 0)));
    }

    #[test]
    fn what_was_not_stored_is_taken_back() {
        let mut window = Window::default();
        window.add(&[recent(1, 0)], 0, 10);
        window.add(&[recent(2, 0), recent(3, 0)], 0, 10);
        window.take_back(&[recent(2, 0), recent(3, 0)]);
        assert!(window.contains(&recent(1, 0)) && !window.contains(&recent(3, 0)));
        let change = window.add(&[recent(4, 0)], 0, 10);
        assert_eq!(change.put.unwrap().1.len(), 2 * Recent::BYTES);
    }
}
