//! What people ask of a queue: what is in it, what died, and mending that.
//!
//! What is changed goes through the same commit as everything else.

use bytes::Bytes;

use super::super::record::{Entry, Message, Place};
use super::super::{DeadRow, MailboxRow};
use super::{Arrival, Batch, Depot, Leaving, Now, after, refusal};
use crate::queue::{DeadLetter, Lane, QueueError, Reason, Subject};

impl Depot {
    pub(super) fn list(&self) -> Result<Vec<MailboxRow>, QueueError> {
        let Some(file) = &self.file else { return Err(refusal(&self.trouble)) };
        let mut rows = Vec::new();
        for (number, mailbox) in &self.mailboxes {
            let mut oldest = None;
            let places = Place { mailbox: *number, sequence: 1 }..after(*number, mailbox.last);
            file.each(places, |place, bytes| {
                if self.is_going(place) {
                    return true;
                }
                if let Some(Entry::Message(message)) = Entry::decode(file.mark(), place, bytes) {
                    oldest = Some(message.stored);
                }
                oldest.is_none()
            })
            .map_err(|trouble| refusal(&trouble))?;
            rows.push(MailboxRow {
                subject: mailbox.subject.clone(),
                messages: mailbox.count,
                bytes: mailbox.bytes,
                unsettled: mailbox.unsettled as u64,
                subscribers: mailbox.subscribers.len() as u64,
                oldest,
            });
        }
        rows.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
        Ok(rows)
    }

    /// Every message of a subject that is not settled.
    fn messages(
        &self,
        subject: &Subject,
        mut visit: impl FnMut(Place, Option<&Message<'_>>, u64),
    ) -> Result<(), QueueError> {
        let Some(file) = &self.file else { return Err(refusal(&self.trouble)) };
        let Some(number) = self.numbers.get(subject) else { return Ok(()) };
        let Some(mailbox) = self.mailboxes.get(number) else { return Ok(()) };
        let places = Place { mailbox: *number, sequence: 1 }..after(*number, mailbox.last);
        file.each(places, |place, bytes| {
            if !self.is_going(place) {
                match Entry::decode(file.mark(), place, bytes) {
                    Some(Entry::Message(message)) => visit(place, Some(&message), message.body.len() as u64),
                    _ => visit(place, None, bytes.len() as u64),
                }
            }
            true
        })
        .map_err(|trouble| refusal(&trouble))
    }

    pub(super) fn dead_letters(&self, subject: &Subject) -> Result<Vec<DeadRow>, QueueError> {
        let mut rows = Vec::new();
        self.messages(subject, |_, message, _| {
            let letter = message.map(|message| (message, Bytes::copy_from_slice(message.body)));
            let letter = letter.and_then(|(message, body)| Some((message, DeadLetter::decode(&body)?)));
            if let Some((message, letter)) = letter {
                rows.push(DeadRow { mid: message.mid, died: message.stored, letter });
            }
        })?;
        Ok(rows)
    }

    pub(super) fn purge(&mut self, subject: &Subject, batch: &mut Batch) -> Result<u64, QueueError> {
        let mut messages = Vec::new();
        self.messages(subject, |place, _, bytes| messages.push((place, bytes)))?;
        let Some(number) = self.numbers.get(subject).copied() else { return Ok(0) };
        let count = messages.len() as u64;
        self.recall(number);
        batch.leaving.push(Leaving { mailbox: number, messages });
        Ok(count)
    }

    /// Takes back all that was handed out of a mailbox, or waits for the end of a pause.
    pub(super) fn recall(&mut self, number: u64) {
        let tags = self.leases.iter().filter(|(_, lease)| lease.place.mailbox == number);
        for tag in tags.map(|(tag, _)| *tag).collect::<Vec<_>>() {
            if let Some(lease) = self.release(tag)
                && let Some(mailbox) = self.mailboxes.get_mut(&number)
            {
                mailbox.again.insert(lease.place.sequence, lease.waiting);
            }
        }
        let paused = self.paused.keys().filter(|(_, mailbox, _)| *mailbox == number);
        if let Some(mailbox) = self.mailboxes.get_mut(&number) {
            self.fresh_bytes -= mailbox.forget_fresh();
        }
        for key in paused.copied().collect::<Vec<_>>() {
            if let Some(waiting) = self.paused.remove(&key)
                && let Some(mailbox) = self.mailboxes.get_mut(&number)
            {
                mailbox.unsettled = mailbox.unsettled.saturating_sub(1);
                mailbox.again.insert(key.2, waiting);
            }
        }
    }

    /// Gives dead letters back to their mailbox, as far as that has room for them.
    pub(super) fn redeliver(
        &mut self,
        subject: &Subject,
        batch: &mut Batch,
        now: Now,
    ) -> Result<u64, QueueError> {
        let mut letters = Vec::new();
        self.messages(subject, |place, message, bytes| {
            let letter = message.map(|message| (message.mid, Bytes::copy_from_slice(message.body)));
            let letter = letter.and_then(|(mid, body)| Some((mid, DeadLetter::decode(&body)?)));
            if let Some((mid, letter)) = letter.filter(|(_, letter)| letter.reason != Reason::Damaged) {
                letters.push((place, bytes, mid, letter.original));
            }
        })?;
        let Some(dead) = self.numbers.get(subject).copied() else { return Ok(0) };
        let number = self.number(&subject.mailbox().lane(Lane::Messages));
        self.recall(dead);
        let exp = now.unix.saturating_add(self.limits.dead_letter_age.as_secs());
        let mut moved = Vec::new();
        for (place, bytes, mid, original) in letters {
            let stored = self.store(number, mid, exp, &original, batch, now);
            match stored {
                Ok(place) => {
                    let (recent, reply, charge) = (None, None, None);
                    batch.arrivals.push(Arrival {
                        recent,
                        place,
                        exp,
                        bytes: original,
                        reply,
                        _charge: charge,
                    });
                }
                Err(error) if moved.is_empty() => return Err(error),
                Err(_) => break,
            }
            moved.push((place, bytes));
        }
        let count = moved.len() as u64;
        batch.leaving.push(Leaving { mailbox: dead, messages: moved });
        Ok(count)
    }
}
