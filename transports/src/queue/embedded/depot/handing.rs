//! Handing messages out: who has a turn, what is next for them, and what becomes of what they had.
//!
//! A message is handed out under a lease. It comes again when the lease ends, or dies when nobody ever says what became
//! of it; nothing here changes the file.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;

use super::super::file::Trouble;
use super::super::mailbox::Waiting;
use super::super::record::{Entry, Place};
use super::{Batch, Depot, Dying, Lease, Now, PAUSE_MAX, Reply, after, tell};
use crate::queue::{Delivery, Reason, Verdict};

impl Depot {
    pub(super) fn settle(
        &mut self,
        tag: u64,
        verdict: Verdict,
        reply: Reply<()>,
        batch: &mut Batch,
        now: Now,
    ) {
        // One that is not known has been handed out again, or was purged.
        if let Verdict::Extend = verdict {
            if let Some(lease) = self.leases.get_mut(&tag) {
                (lease.until, lease.begun) = (now.steady + self.limits.ack_wait, true);
                self.lease_ends.push_back((lease.until, tag));
            }
            return tell(reply, Ok(()));
        }
        let Some(Lease { place, waiting, .. }) = self.release(tag) else { return tell(reply, Ok(())) };
        match verdict {
            Verdict::Ack => self.remove(place, waiting.bytes, now),
            Verdict::Term(reason) => self.let_die(Dying { place, waiting, reason }, now),
            Verdict::Nak(Duration::ZERO) => self.again(place, waiting),
            Verdict::Nak(pause) => {
                let end = now.steady + pause.min(PAUSE_MAX);
                self.paused.insert((end, place.mailbox, place.sequence), waiting);
                if let Some(mailbox) = self.mailboxes.get_mut(&place.mailbox) {
                    mailbox.unsettled += 1;
                }
            }
            Verdict::Extend => {}
        }
        // A pause is not in the file, and where nobody waits the file may lag behind.
        match verdict {
            Verdict::Ack | Verdict::Term(_) if !reply.is_closed() => batch.settled.push(reply),
            _ => tell(reply, Ok(())),
        }
    }

    /// Ends a lease; its subscriber may have another message.
    pub(super) fn release(&mut self, tag: u64) -> Option<Lease> {
        let lease = self.leases.remove(&tag)?;
        self.leased_bytes -= lease.waiting.bytes;
        self.ready.append(&mut self.starved);
        if let Some(subscriber) = self.subscribers.get_mut(&lease.subscriber) {
            subscriber.seat.credit += 1;
            subscriber.bytes = subscriber.bytes.saturating_sub(lease.waiting.bytes);
        }
        if let Some(mailbox) = self.mailboxes.get_mut(&lease.place.mailbox) {
            mailbox.unsettled = mailbox.unsettled.saturating_sub(1);
        }
        self.ready.insert(lease.place.mailbox);
        while let Some((_, first)) = self.lease_ends.front()
            && !self.leases.contains_key(first)
        {
            self.lease_ends.pop_front();
        }
        // Behind one that takes long there may be many that have ended.
        if self.lease_ends.len() > 64 + 4 * self.leases.len() {
            self.lease_ends.retain(|(_, tag)| self.leases.contains_key(tag));
        }
        Some(lease)
    }

    /// Nobody has said what became of a message.
    pub(super) fn give_back(&mut self, lease: Lease, taken: bool, now: Now) {
        let Lease { place, mut waiting, .. } = lease;
        if taken {
            waiting.unanswered += 1;
        } else {
            // It never left the queue.
            waiting.attempts -= 1;
        }
        if waiting.unanswered >= self.limits.unanswered {
            let reason = Reason::Unanswered;
            self.let_die(Dying { place, waiting, reason }, now);
        } else {
            self.again(place, waiting);
        }
    }

    /// The time of a lease is over, unless it was extended. It runs only from when the subscriber took
    /// the message, which is known here only afterwards.
    pub(super) fn end_lease(&mut self, end: Duration, tag: u64, now: Now) {
        let Some(lease) = self.leases.get_mut(&tag).filter(|lease| lease.until == end) else { return };
        if lease.begun {
            if let Some(lease) = self.release(tag) {
                self.give_back(lease, true, now);
            }
            return;
        }
        let subscriber = self.subscribers.get(&lease.subscriber);
        lease.begun = subscriber.is_none_or(|one| lease.ordinal < one.seat.taken.load(Ordering::Relaxed));
        lease.until = now.steady + self.limits.ack_wait;
        self.lease_ends.push_back((lease.until, tag));
    }

    pub(super) fn hand_out(&mut self, now: Now) {
        while self.file.is_some()
            && let Some(number) = self.ready.pop_first()
        {
            if let Err(trouble) = self.hand_out_of(number, now) {
                self.ready.insert(number);
                self.fail(trouble, now);
            }
        }
    }

    /// Hands messages of one mailbox to its subscribers in turn, as many as they take.
    fn hand_out_of(&mut self, number: u64, now: Now) -> Result<(), Trouble> {
        loop {
            let Some(mailbox) = self.mailboxes.get_mut(&number) else { return Ok(()) };
            let most = self.limits.subscription_bytes;
            let has_credit = |id: &u64| {
                self.subscribers.get(id).is_some_and(|one| one.seat.credit > 0 && one.bytes < most)
            };
            let Some(turn) = mailbox.subscribers.iter().position(has_credit) else { return Ok(()) };
            if mailbox.count == 0 {
                return Ok(());
            }
            if mailbox.handed != Some(u64::MAX) {
                // First the file has to say that messages may be handed out.
                self.rows.insert(number);
                self.lag_end = Some(now.steady);
                return Ok(());
            }
            if self.leased_bytes >= self.limits.unsettled_bytes {
                self.starved.insert(number);
                return Ok(());
            }
            mailbox.subscribers.rotate_left(turn);
            let Some(id) = mailbox.subscribers.pop_front() else { return Ok(()) };
            mailbox.subscribers.push_back(id);
            let Some((sequence, waiting, bytes)) = self.next_message(number, now)? else { return Ok(()) };
            self.lease(id, Place { mailbox: number, sequence }, waiting, bytes, now);
        }
    }

    fn lease(&mut self, id: u64, place: Place, mut waiting: Waiting, bytes: Bytes, now: Now) {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return };
        waiting.attempts += 1;
        self.leased_bytes += waiting.bytes;
        let (tag, until) = (self.next_tag, now.steady + self.limits.ack_wait);
        self.next_tag += 1;
        let delivery = Delivery::new(bytes, waiting.attempts, tag, Arc::clone(&subscriber.seat.broker));
        let lease = Lease { place, waiting, subscriber: id, ordinal: subscriber.sent, begun: false, until };
        self.leases.insert(tag, lease);
        self.lease_ends.push_back((until, tag));
        subscriber.sent += 1;
        subscriber.bytes += waiting.bytes;
        subscriber.seat.credit -= 1;
        if let Some(mailbox) = self.mailboxes.get_mut(&place.mailbox) {
            mailbox.unsettled += 1;
        }
        if subscriber.seat.sender.try_send(delivery).is_err() {
            // It is gone: the delivery comes back by itself, and no other follows.
            subscriber.seat.credit = 0;
        }
    }

    /// The next message of a mailbox for whoever has a turn: one that comes again, else the next in the
    /// order they were stored in.
    fn next_message(&mut self, number: u64, now: Now) -> Result<Option<(u64, Waiting, Bytes)>, Trouble> {
        loop {
            let Some(mailbox) = self.mailboxes.get_mut(&number) else { return Ok(None) };
            if let Some((sequence, waiting)) = mailbox.again.pop_first() {
                let place = Place { mailbox: number, sequence };
                let Some(file) = &self.file else { return Ok(None) };
                let Some(raw) = file.get(place)? else { continue };
                if let Some((bytes, exp)) = self.read(place, &raw, waiting, now)
                    && self.is_alive(place, exp, waiting.bytes, now)
                {
                    return Ok(Some((sequence, waiting, bytes)));
                }
                continue;
            }
            if mailbox.unsettled >= self.limits.unsettled || mailbox.cursor > mailbox.last {
                return Ok(None);
            }
            let place = Place { mailbox: number, sequence: mailbox.cursor };
            let attempts = mailbox.attempts_before(mailbox.cursor);
            let is_fresh = mailbox.fresh.front().is_some_and(|fresh| fresh.sequence == place.sequence);
            if let Some(fresh) = is_fresh.then(|| mailbox.fresh.pop_front()).flatten() {
                self.fresh_bytes -= fresh.bytes.len();
                let next = mailbox.fresh.front().map(|next| next.sequence);
                mailbox.cursor = next.unwrap_or(fresh.sequence + 1);
                let bytes = fresh.bytes.len() as u64;
                if self.is_alive(place, fresh.exp, bytes, now) {
                    let waiting = Waiting { attempts, unanswered: 0, bytes };
                    return Ok(Some((fresh.sequence, waiting, fresh.bytes)));
                }
                continue;
            }
            let end = mailbox.fresh.front().map_or(after(number, mailbox.last), |fresh| Place {
                mailbox: number,
                sequence: fresh.sequence,
            });
            let Some(file) = &self.file else { return Ok(None) };
            let mut found = None;
            file.each(place..end, |place, raw| {
                found = Some((place, raw.to_vec()));
                false
            })?;
            let Some((place, raw)) = found else {
                mailbox.cursor = end.sequence;
                continue;
            };
            mailbox.cursor = place.sequence + 1;
            let attempts = mailbox.attempts_before(place.sequence);
            if self.settled.contains(&place) {
                continue;
            }
            let mut waiting = Waiting { attempts, unanswered: 0, bytes: raw.len() as u64 };
            if let Some((bytes, exp)) = self.read(place, &raw, waiting, now) {
                waiting.bytes = bytes.len() as u64;
                if self.is_alive(place, exp, waiting.bytes, now) {
                    return Ok(Some((place.sequence, waiting, bytes)));
                }
            }
        }
    }

    /// The body of a message and when it ends. One that is damaged dies.
    fn read(&mut self, place: Place, raw: &[u8], waiting: Waiting, now: Now) -> Option<(Bytes, u64)> {
        let mark = self.file.as_ref()?.mark();
        if let Some(Entry::Message(message)) = Entry::decode(mark, place, raw) {
            return Some((Bytes::copy_from_slice(message.body), message.exp));
        }
        let is_dying = self.dying.iter().any(|dying| dying.place == place);
        if !is_dying {
            self.let_die(Dying { place, waiting, reason: Reason::Damaged }, now);
        }
        None
    }

    /// Whether a message has not expired; one that has leaves.
    fn is_alive(&mut self, place: Place, exp: u64, bytes: u64, now: Now) -> bool {
        if exp <= now.unix {
            self.remove(place, bytes, now);
        }
        exp > now.unix
    }
}
