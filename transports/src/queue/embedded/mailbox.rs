//! What the memory holds of one lane of a mailbox: how much there is, and how far it was handed out.
//!
//! The messages themselves are in the file, in the order of their sequences. A cursor goes through
//! them; only what was handed out and is not settled is remembered one by one, and that has a bound.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::super::{Lane, Subject};

/// One lane of a mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) subject: Subject,
    /// The subject as text.
    pub(crate) text: Box<str>,
    /// Messages stored and not settled.
    pub(crate) count: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
    /// Messages in front of it were handed out since the queue was opened, or are gone.
    pub(crate) cursor: u64,
    /// The newest message.
    pub(crate) last: u64,
    /// Messages in front of it may have been handed out before the queue was opened.
    pub(crate) unsure: u64,
    /// What the file says of `unsure` for the next time; none when it does not know this mailbox.
    pub(crate) handed: Option<u64>,
    /// Whether anybody had messages of it since the queue was opened.
    pub(crate) was_subscribed: bool,
    /// To be handed out again now.
    pub(crate) again: BTreeMap<u64, Waiting>,
    /// Messages that are leased, or wait for the end of a pause.
    pub(crate) unsettled: usize,
    /// The newest messages without a gap, as long as they are in memory anyway.
    pub(crate) fresh: VecDeque<Fresh>,
    pub(crate) subscribers: VecDeque<u64>,
}

/// A message that was handed out before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// How often.
    pub(crate) attempts: u32,
    /// How often nobody said what became of it.
    pub(crate) unanswered: u32,
    /// Bytes of its body.
    pub(crate) bytes: u64,
}

/// A message that was just stored.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) sequence: u64,
    pub(crate) exp: u64,
    pub(crate) bytes: Bytes,
}

impl Mailbox {
    pub(crate) fn new(subject: Subject) -> Self {
        Self {
            text: subject.to_string().into(),
            subject,
            count: 0,
            bytes: 0,
            // What is known of the mailbox itself stands at 0.
            cursor: 1,
            last: 0,
            unsure: 0,
            handed: None,
            was_subscribed: false,
            again: BTreeMap::new(),
            unsettled: 0,
            fresh: VecDeque::new(),
            subscribers: VecDeque::new(),
        }
    }

    pub(crate) fn is_dead_letters(&self) -> bool {
        self.subject.lane() == Lane::DeadLetters
    }

    /// Nothing is in it and nobody waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.count == 0 && self.subscribers.is_empty() && self.unsettled == 0
    }

    /// What the file should say is handed out: everything, while anybody may have it.
    pub(crate) fn handed_wanted(&self) -> u64 {
        if self.was_subscribed { u64::MAX } else { self.unsure }
    }

    /// Lets go of what is in memory of messages that are in the file as well; how many bytes that was.
    pub(crate) fn forget_fresh(&mut self) -> usize {
        self.fresh.drain(..).map(|fresh| fresh.bytes.len()).sum()
    }

    /// Counts a message in.
    pub(crate) fn enter(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    /// Counts a message out.
    pub(crate) fn leave(&mut self, bytes: u64) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// How often a message was handed out, as far as can be known, when this memory knows nothing of it.
    pub(crate) fn attempts_before(&self, sequence: u64) -> u32 {
        u32::from(sequence < self.unsure)
    }
}
