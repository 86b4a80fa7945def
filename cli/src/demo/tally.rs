//! What arrived at an end of the channel, compared with what the other end sent it.
//!
//! It is the judge of the attacks, and is told nothing of them: whatever arrived beyond what was sent, as
//! another text or once more, was accepted from somebody else.

use std::collections::HashMap;

/// One end's messages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Tally {
    /// Messages that were sent and arrived, each once.
    pub(super) arrived: u64,
    /// Messages that were sent and did not arrive.
    pub(super) missing: u64,
    /// Messages that arrived and were not sent, or not so often.
    pub(super) surplus: u64,
}

impl Tally {
    /// Compares the texts that were sent, no two of them equal, with all that arrived, in any order.
    pub(super) fn of<'a>(
        sent: impl IntoIterator<Item = &'a str>,
        arrived: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut outstanding: HashMap<&str, bool> = sent.into_iter().map(|text| (text, true)).collect();
        let mut tally = Self::default();
        for text in arrived {
            match outstanding.get_mut(text) {
                Some(due) if *due => {
                    *due = false;
                    tally.arrived += 1;
                }
                _ => tally.surplus += 1,
            }
        }
        tally.missing = outstanding.values().filter(|due| **due).count() as u64;
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: [&str; 3] = ["one", "two", "three"];

    #[test]
    fn what_was_sent_arrives_once_in_any_order() {
        let tally = Tally::of(SENT, ["three", "one", "two"]);
        assert_eq!(tally, Tally { arrived: 3, missing: 0, surplus: 0 });
    }

    #[test]
    fn an_accepted_attack_is_counted() {
        for (attack, arrived) in [
            ("a replay", &["one", "two", "one", "three"][..]),
            ("a forgery", &["one", "two", "three", "forged"]),
            ("a message of nothing", &["one", "", "two", "three"]),
        ] {
            assert_eq!(
                Tally::of(SENT, arrived.iter().copied()),
                Tally { arrived: 3, missing: 0, surplus: 1 },
                "{attack}"
            );
        }
        // Cut short or changed in place of the true one: one is missing and another came.
        let tally = Tally::of(SENT, ["one", "tw", "three"]);
        assert_eq!(tally, Tally { arrived: 2, missing: 1, surplus: 1 });
        assert_eq!(Tally::of(SENT, []).missing, 3);
    }
}
