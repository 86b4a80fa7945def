//! The ledger: what became of each message, written down as it happens and judged at the end.
//!
//! A sender writes before it sends and again when it knows the outcome; a handler writes what it gets.
//! Entries are only ever added. [`Ledger::verdict`] compares what was promised with what happened and
//! knows no excuse: whether a fault is allowed is for the test to say.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A message: the route it takes, and its place among the messages of that route.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id {
    /// Messages of one route have an order; those of two have none.
    pub route: u32,
    /// Its number on the route; later messages have larger ones.
    pub number: u64,
}

/// What happened to a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It is about to be sent. One whose outcome is not good may be sent again, with another such entry.
    Sent,
    /// The sender was promised that it is, or will be, delivered.
    Acknowledged,
    /// The sender was told that it is not and will not be delivered.
    Refused,
    /// A handler has it.
    Delivered,
}

/// A line of the ledger.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// When it was written, after the ledger was made.
    pub at: Duration,
    /// Of which message.
    pub id: Id,
    /// What happened.
    pub event: Event,
}

/// The history of a trial. Shared by all who take part in it.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
}

/// What a history amounts to. Lists are in the order of the messages.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Messages sent, acknowledged, refused and delivered: each message once.
    pub sent: usize,
    /// See `sent`.
    pub acknowledged: usize,
    /// See `sent`.
    pub refused: usize,
    /// See `sent`.
    pub delivered: usize,
    /// Sent with no known outcome and not delivered; allowed where a sender was killed.
    pub open: Vec<Id>,
    /// Acknowledged and never delivered.
    pub lost: Vec<Id>,
    /// Delivered more than once.
    pub duplicated: Vec<Id>,
    /// Delivered, acknowledged or refused before it was sent, or without being sent.
    pub unknown: Vec<Id>,
    /// Delivered although each time it was sent it was refused, or with more outcomes than sends.
    pub contradicted: Vec<Id>,
    /// Delivered for the first time after a later message of its route.
    pub reordered: Vec<Id>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { began: Instant::now(), entries: Mutex::default() }
    }
}

impl Ledger {
    /// Adds what happened to a message just now.
    pub fn add(&self, id: Id, event: Event) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that times never fall.
        entries.push(Entry { at: self.began.elapsed(), id, event });
    }

    /// Everything that was written so far, in that order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it all amounts to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::of(&self.entries())
    }
}

/// What happened to one message.
#[derive(Default)]
struct Course {
    sent: usize,
    acknowledged: usize,
    refused: usize,
    delivered: usize,
    unknown: bool,
    reordered: bool,
}

impl Verdict {
    /// Judges a history in the order it was written.
    #[must_use]
    pub fn of(history: &[Entry]) -> Self {
        let mut courses: BTreeMap<Id, Course> = BTreeMap::new();
        // The largest number delivered so far, by route.
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        for Entry { id, event, .. } in history {
            let course = courses.entry(*id).or_default();
            course.unknown |= *event != Event::Sent && course.sent == 0;
            match event {
                Event::Sent => course.sent += 1,
                Event::Acknowledged => course.acknowledged += 1,
                Event::Refused => course.refused += 1,
                Event::Delivered => {
                    let newest = newest.entry(id.route).or_insert(id.number);
                    course.reordered |= course.delivered == 0 && id.number < *newest;
                    *newest = id.number.max(*newest);
                    course.delivered += 1;
                }
            }
        }
        let mut verdict = Self::default();
        for (id, course) in courses {
            verdict.count(id, &course);
        }
        verdict
    }

    fn count(&mut self, id: Id, course: &Course) {
        let &Course { sent, acknowledged, refused, delivered, unknown, reordered } = course;
        self.sent += usize::from(sent > 0);
        self.acknowledged += usize::from(acknowledged > 0);
        self.refused += usize::from(refused > 0);
        self.delivered += usize::from(delivered > 0);
        let list = |applies: bool, ids: &mut Vec<Id>| {
            if applies {
                ids.push(id);
            }
        };
        list(delivered == 0 && acknowledged == 0 && refused < sent, &mut self.open);
        list(delivered == 0 && acknowledged > 0, &mut self.lost);
        list(delivered > 1, &mut self.duplicated);
        list(unknown, &mut self.unknown);
        let refused_yet_delivered = delivered > 0 && sent > 0 && refused >= sent;
        list(refused_yet_delivered || acknowledged + refused > sent, &mut self.contradicted);
        list(reordered, &mut self.reordered);
    }

    /// Messages with a fault of any kind; an open one is none.
    #[must_use]
    pub fn faults(&self) -> usize {
        let Self { lost, duplicated, unknown, contradicted, reordered, .. } = self;
        let mut all: Vec<&Id> =
            [lost, duplicated, unknown, contradicted, reordered].into_iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Acknowledged, Delivered, Refused, Sent};
    use super::*;

    /// The verdict on events of messages of one route.
    fn verdict(events: &[(u64, Event)]) -> Verdict {
        let ledger = Ledger::default();
        for (number, event) in events {
            ledger.add(one(*number), *event);
        }
        ledger.verdict()
    }

    fn one(number: u64) -> Id {
        Id { route: 1, number }
    }

    /// A good message before and after, so that a fault is not found by standing alone.
    fn among_good(events: &[(u64, Event)]) -> Verdict {
        let good = |number| [(number, Sent), (number, Acknowledged), (number, Delivered)];
        verdict(&[&good(1)[..], events, &good(9)[..]].concat())
    }

    #[test]
    fn a_good_history_has_no_fault() {
        let verdict = among_good(&[(2, Sent), (2, Delivered), (2, Acknowledged), (3, Sent), (3, Refused)]);
        assert_eq!(verdict.faults(), 0, "{verdict:?}");
        assert_eq!((verdict.sent, verdict.acknowledged, verdict.refused, verdict.delivered), (4, 3, 1, 3));
        assert!(verdict.open.is_empty());
    }

    #[test]
    fn an_empty_history_has_nothing() {
        assert_eq!(verdict(&[]), Verdict::default());
    }

    #[test]
    fn acknowledged_and_lost() {
        let verdict = among_good(&[(2, Sent), (2, Acknowledged)]);
        assert_eq!((&verdict.lost, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn delivered_twice() {
        let verdict = among_good(&[(2, Sent), (2, Delivered), (2, Delivered), (2, Acknowledged)]);
        assert_eq!((&verdict.duplicated, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn sent_twice_and_delivered_twice() {
        let verdict = among_good(&[(2, Sent), (2, Sent), (2, Delivered), (2, Delivered)]);
        assert_eq!((&verdict.duplicated, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn delivered_and_never_sent() {
        let verdict = among_good(&[(2, Delivered)]);
        assert_eq!((&verdict.unknown, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn delivered_before_it_was_sent() {
        let verdict = among_good(&[(2, Delivered), (2, Sent)]);
        assert_eq!((&verdict.unknown, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn an_outcome_without_a_send() {
        for outcome in [Acknowledged, Refused] {
            let verdict = among_good(&[(2, outcome)]);
            assert_eq!((&verdict.unknown, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
        }
    }

    #[test]
    fn refused_and_delivered_all_the_same() {
        for order in [[Refused, Delivered], [Delivered, Refused]] {
            let verdict = among_good(&[(2, Sent), (2, order[0]), (2, order[1])]);
            assert_eq!((&verdict.contradicted, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
        }
    }

    #[test]
    fn refused_and_acknowledged() {
        let verdict = among_good(&[(2, Sent), (2, Refused), (2, Acknowledged), (2, Delivered)]);
        assert_eq!((&verdict.contradicted, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn refused_and_sent_again_is_good() {
        let events = [(2, Sent), (2, Refused), (2, Sent), (2, Delivered), (2, Acknowledged)];
        assert_eq!(among_good(&events).faults(), 0);
    }

    #[test]
    fn out_of_order_on_its_route() {
        let events = [(2, Sent), (3, Sent), (3, Delivered), (2, Delivered)];
        let verdict = among_good(&events);
        assert_eq!((&verdict.reordered, verdict.faults()), (&vec![one(2)], 1), "{verdict:?}");
    }

    #[test]
    fn a_repeat_is_a_duplicate_and_not_out_of_order() {
        let verdict = verdict(&[(1, Sent), (2, Sent), (1, Delivered), (2, Delivered), (1, Delivered)]);
        assert_eq!((verdict.duplicated, verdict.reordered), (vec![one(1)], vec![]));
    }

    #[test]
    fn two_routes_have_no_order_between_them() {
        let ledger = Ledger::default();
        for event in [Sent, Delivered] {
            for (route, number) in [(1, 5), (2, 4), (1, 6), (2, 5)] {
                ledger.add(Id { route, number }, event);
            }
        }
        assert_eq!(ledger.verdict().faults(), 0);
    }

    #[test]
    fn a_send_without_an_outcome_is_open_and_no_fault() {
        let verdict = among_good(&[(2, Sent)]);
        assert_eq!((&verdict.open, verdict.faults()), (&vec![one(2)], 0), "{verdict:?}");
    }

    #[test]
    fn a_message_with_several_faults_counts_once() {
        let events = [(1, Sent), (2, Sent), (2, Delivered), (1, Refused), (1, Delivered), (1, Delivered)];
        let verdict = verdict(&events);
        assert_eq!(
            (verdict.duplicated.len(), verdict.contradicted.len(), verdict.reordered.len()),
            (1, 1, 1)
        );
        assert_eq!(verdict.faults(), 1);
    }

    #[test]
    fn times_never_fall() {
        let ledger = Ledger::default();
        std::thread::scope(|scope| {
            for route in 0..4 {
                let ledger = &ledger;
                scope.spawn(move || (0..500).for_each(|number| ledger.add(Id { route, number }, Sent)));
            }
        });
        let entries = ledger.entries();
        assert_eq!(entries.len(), 2000);
        assert!(entries.is_sorted_by_key(|entry| entry.at));
    }
}
