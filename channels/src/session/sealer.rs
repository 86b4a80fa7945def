//! The sending half of a channel: numbers, epochs, padding, and the channel's timers.
//!
//! A number is given out once and never taken back: a record that fails after it was numbered burns its number.
//!
//! Specification: docs/protocol.md §3.3 (records), §3.4 (timers).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use onward_keys::{AeadAlgorithm, Backend, SharedSecret, TAG_BYTES};

use crate::epoch::EpochKey;
use crate::record::{
    BODY_MAX, CloseCode, END_MARK, EPOCH_BITS, FRAGMENT_HEAD_BYTES, FrameType, HEAD_BYTES, HEAD_ROOM,
    OVERHEAD, PIECE_MAX, Padding, Sequence,
};
use crate::session::{Confirmation, Pulse, Role};
use crate::{ChannelError, Now};

/// Seals what one end of a channel sends, and says when something is due.
///
/// Not `Clone`: two counters under one key would repeat a nonce. Holds one AEAD context and allocates only when
/// an epoch ends.
pub struct Sealer {
    /// The number of the next record, unless the epoch is too old.
    next: u64,
    /// The epoch `key` belongs to.
    epoch: u64,
    /// Shared with the records that are reserved but not yet sealed.
    key: Arc<EpochKey>,
    /// When the first record of this epoch was sealed.
    epoch_began: Option<Duration>,
    /// Number of the last DATA or FRAG.
    last_data: Option<Sequence>,
    next_message: u32,
    /// Bytes sealed so far, with everything around them.
    sent_bytes: u64,
    padding: Padding,
    role: Role,
    began: Duration,
    last_sent: Duration,
    /// When the first record after the last heard one was sent.
    waiting_since: Option<Duration>,
    /// When [`Due::Renew`] was last reported.
    renewed: Option<Duration>,
    pulse: Arc<Pulse>,
}

/// What a timer of the channel calls for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing was sent for [`crate::Profile::keepalive`]: seal a KEEPALIVE.
    KeepAlive,
    /// An initiator starts a new handshake, a responder seals a REHANDSHAKE. Reported at most once in
    /// [`crate::Profile::renew_again`].
    Renew,
    /// Close with this code, then drop the session.
    Close(CloseCode),
}

impl Sealer {
    pub(super) fn new(
        now: Now,
        backend: Backend,
        algorithm: AeadAlgorithm,
        key: &SharedSecret,
        role: Role,
        padding: Padding,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            next: 0,
            epoch: 0,
            key: Arc::new(EpochKey::new(backend, algorithm, key)),
            epoch_began: None,
            last_data: None,
            next_message: 0,
            sent_bytes: 0,
            padding,
            role,
            began: now.mono,
            last_sent: now.mono,
            waiting_since: None,
            renewed: None,
            pulse,
        }
    }

    /// Length of the record that carries a body of `body_bytes`, padding included.
    #[must_use]
    pub fn sealed_bytes(&self, body_bytes: usize) -> usize {
        sealed_bytes(self.padding, body_bytes)
    }

    /// Seals the next record, appending it to `out`: number (8, big endian), ciphertext, tag (16).
    ///
    /// `write_body` appends exactly `body_bytes` to the vector it is given, which is `out`. Appends
    /// [`Self::sealed_bytes`]; allocates nothing when `out` has that much room.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`] above [`BODY_MAX`], [`ChannelError::Exhausted`] at the end of all numbers,
    /// [`ChannelError::Misuse`] when `write_body` appended another amount. `out` is then as before.
    ///
    /// Source: docs/protocol.md §3.3.
    pub fn seal_into(
        &mut self,
        now: Now,
        frame_type: FrameType,
        body_bytes: usize,
        write_body: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Result<Sequence, ChannelError> {
        check_body(body_bytes)?;
        let start = out.len();
        let length = self.sealed_bytes(body_bytes);
        out.reserve(length);
        out.extend_from_slice(&[0; HEAD_ROOM]);
        write_body(out);
        if out.len() != start + HEAD_ROOM + body_bytes {
            out.truncate(start);
            return Err(ChannelError::Misuse("a body of another length than announced"));
        }
        out.resize(start + length, 0);
        // Numbered only now: what fails before has burnt nothing.
        let sealed = self
            .reserve(now, frame_type, body_bytes)
            .and_then(|reserved| reserved.seal_in_place(&mut out[start..]));
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Takes the next number for a record around `body_bytes`, to be sealed outside the lock this sealer lives behind.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`] above [`BODY_MAX`], [`ChannelError::Exhausted`] at the end of all numbers; nothing
    /// is numbered then.
    pub fn reserve(
        &mut self,
        now: Now,
        frame_type: FrameType,
        body_bytes: usize,
    ) -> Result<Reserved, ChannelError> {
        check_body(body_bytes)?;
        let number = self.number(now).ok_or(ChannelError::Exhausted)?;
        let sequence = Sequence::new(number);
        if sequence.epoch() != self.epoch {
            self.key = Arc::new(self.key.next());
            self.epoch = sequence.epoch();
            self.epoch_began = None;
        }
        self.next = number + 1;
        self.epoch_began.get_or_insert(now.mono);
        if matches!(frame_type, FrameType::Data | FrameType::Fragment) {
            self.last_data = Some(sequence);
        }
        self.last_sent = now.mono;
        if self.waiting_since.is_none_or(|since| since <= self.pulse.heard()) {
            self.waiting_since = Some(now.mono);
        }
        let record_bytes = self.sealed_bytes(body_bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(record_bytes as u64);
        Ok(Reserved { sequence, frame_type, body_bytes, record_bytes, key: Arc::clone(&self.key) })
    }

    /// The number of a record that is sealed now, unless all are used.
    fn number(&self, now: Now) -> Option<u64> {
        let too_old = self
            .epoch_began
            .is_some_and(|began| now.mono.saturating_sub(began) >= self.pulse.profile.key_age);
        let number = if too_old { (self.epoch + 1) << EPOCH_BITS } else { self.next };
        (number < NUMBER_END).then_some(number)
    }

    /// Appends this end's CONFIRM to `out`.
    ///
    /// # Errors
    /// As [`Self::seal_into`].
    pub fn seal_confirm(
        &mut self,
        now: Now,
        confirmation: &Confirmation,
        out: &mut Vec<u8>,
    ) -> Result<Sequence, ChannelError> {
        let body = confirmation.body();
        self.seal_into(now, FrameType::Confirm, body.len(), |out| out.extend_from_slice(body), out)
    }

    /// Appends a frame without a body to `out`: KEEPALIVE or REHANDSHAKE.
    ///
    /// # Errors
    /// As [`Self::seal_into`].
    pub fn seal_empty(
        &mut self,
        now: Now,
        frame_type: FrameType,
        out: &mut Vec<u8>,
    ) -> Result<Sequence, ChannelError> {
        self.seal_into(now, frame_type, 0, |_| {}, out)
    }

    /// Appends a CLOSE to `out`, naming the last DATA or FRAG. Drop the sealer afterwards.
    ///
    /// # Errors
    /// As [`Self::seal_into`].
    pub fn seal_close(
        &mut self,
        now: Now,
        code: CloseCode,
        out: &mut Vec<u8>,
    ) -> Result<Sequence, ChannelError> {
        let last = self.last_data.map_or(u64::MAX, Sequence::value);
        let write = |body: &mut Vec<u8>| {
            body.push(code.code());
            body.extend_from_slice(&last.to_be_bytes());
        };
        self.seal_into(now, FrameType::Close, 9, write, out)
    }

    /// Plans the pieces of a message of `message_bytes` that does not fit one record.
    ///
    /// `piece_bytes` is the longest piece, 1 to [`PIECE_MAX`]; seal each planned piece as a
    /// [`FrameType::Fragment`] whose body is its head and then its range of the message.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`] above [`crate::MESSAGE_BYTES_MAX`] or 65 535 pieces,
    /// [`ChannelError::Misuse`] for an empty message or a piece length out of range.
    pub fn plan_fragments(
        &mut self,
        message_bytes: usize,
        piece_bytes: usize,
    ) -> Result<FragmentPlan, ChannelError> {
        if message_bytes == 0 || !(1..=PIECE_MAX).contains(&piece_bytes) {
            return Err(ChannelError::Misuse("nothing to fragment, or pieces of an impossible length"));
        }
        let limit = crate::MESSAGE_BYTES_MAX.min(piece_bytes.saturating_mul(usize::from(u16::MAX)));
        let count = message_bytes.div_ceil(piece_bytes);
        let (true, Ok(count)) = (message_bytes <= limit, u16::try_from(count)) else {
            return Err(ChannelError::TooLong { length: message_bytes, limit });
        };
        let message = self.next_message;
        self.next_message = self.next_message.wrapping_add(1);
        Ok(FragmentPlan { message, count, index: 0, message_bytes, piece_bytes })
    }

    /// What is due at `now`, most urgent first; call again until `None`.
    pub fn due(&mut self, now: Now) -> Option<Due> {
        let age = now.mono.saturating_sub(self.began);
        let silence = now.mono.saturating_sub(self.pulse.heard());
        // Without a number nothing else that is due could be sealed.
        if age >= self.pulse.profile.hard_age || self.number(now).is_none() {
            return Some(Due::Close(CloseCode::Lifetime));
        }
        if silence >= self.pulse.profile.idle {
            return Some(Due::Close(CloseCode::Idle));
        }
        let is_old = age >= self.pulse.profile.soft_age || self.sent_bytes >= self.pulse.profile.soft_bytes;
        if now.mono >= self.renew_again() && (is_old || self.pulse.wants_renewal() || self.is_unanswered(now))
        {
            self.renewed = Some(now.mono);
            self.pulse.forget_renewal();
            return Some(Due::Renew);
        }
        (now.mono.saturating_sub(self.last_sent) >= self.pulse.profile.keepalive).then_some(Due::KeepAlive)
    }

    /// Which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Has [`Due::Renew`] reported as soon as it may be.
    pub fn want_renewal(&self) {
        self.pulse.want_renewal();
    }

    /// The connection below was lost: the peer may have lost more, and is given less time to be heard.
    pub fn suspect(&self, now: Now) {
        self.pulse.suspect(now);
    }

    /// Whether this end sent for [`crate::Profile::unanswered`], or under suspicion for [`crate::Profile::suspected`],
    /// and heard nothing authentic: the peer may have lost the channel.
    #[must_use]
    pub fn is_unanswered(&self, now: Now) -> bool {
        let heard = self.pulse.heard();
        // The first record after the last heard one.
        let Some(since) = self.waiting_since.filter(|since| *since > heard) else { return false };
        let suspected = Some(self.pulse.suspected()).filter(|suspected| *suspected > heard);
        let suspected = suspected.map(|suspected| suspected.max(since) + self.pulse.profile.suspected);
        now.mono >= since + self.pulse.profile.unanswered || suspected.is_some_and(|from| now.mono >= from)
    }

    fn renew_again(&self) -> Duration {
        self.renewed.map_or(Duration::ZERO, |renewed| renewed + self.pulse.profile.renew_again)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("next", &self.next).field("role", &self.role).finish_non_exhaustive()
    }
}

/// A number that was taken and not yet used. Dropping it burns the number, which is harmless.
pub struct Reserved {
    sequence: Sequence,
    frame_type: FrameType,
    body_bytes: usize,
    record_bytes: usize,
    key: Arc<EpochKey>,
}

impl Reserved {
    /// Seals the record where its body already lies.
    ///
    /// `buffer` is the whole record: [`HEAD_ROOM`] bytes, then the body, then room for the end mark, padding and tag;
    /// its length is [`Self::record_bytes`]. Allocates nothing.
    ///
    /// # Errors
    /// [`ChannelError::Misuse`] for a buffer of another length; `buffer` is then as before.
    pub fn seal_in_place(self, buffer: &mut [u8]) -> Result<Sequence, ChannelError> {
        if buffer.len() != self.record_bytes {
            return Err(ChannelError::Misuse("a buffer of another length than its record"));
        }
        let number = self.sequence.value();
        let (head, rest) = buffer.split_at_mut(HEAD_BYTES);
        let (plaintext, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        head.copy_from_slice(&number.to_be_bytes());
        plaintext[0] = self.frame_type as u8;
        let padding = &mut plaintext[1 + self.body_bytes..];
        padding.fill(0);
        padding[0] = END_MARK;
        tag.copy_from_slice(&self.key.seal(number, plaintext));
        Ok(self.sequence)
    }

    /// Length of the whole record, padding included.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// The number this record will have.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, frame_type, body_bytes: _, record_bytes: _, key: _ } = self;
        f.debug_struct("Reserved")
            .field("sequence", sequence)
            .field("frame_type", frame_type)
            .finish_non_exhaustive()
    }
}

/// The pieces a message is cut into, in order. Made by [`Sealer::plan_fragments`].
#[derive(Clone, Debug)]
pub struct FragmentPlan {
    message: u32,
    count: u16,
    index: u16,
    message_bytes: usize,
    piece_bytes: usize,
}

/// One piece of a planned message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlannedFragment {
    /// What the body begins with: message (4), index (2), count (2), big endian.
    pub head: [u8; FRAGMENT_HEAD_BYTES],
    /// Which bytes of the message follow.
    pub range: Range<usize>,
}

impl Iterator for FragmentPlan {
    type Item = PlannedFragment;

    fn next(&mut self) -> Option<PlannedFragment> {
        if self.index == self.count {
            return None;
        }
        let start = usize::from(self.index) * self.piece_bytes;
        let end = (start + self.piece_bytes).min(self.message_bytes);
        let [m3, m2, m1, m0] = self.message.to_be_bytes();
        let [i1, i0] = self.index.to_be_bytes();
        let [c1, c0] = self.count.to_be_bytes();
        self.index += 1;
        Some(PlannedFragment { head: [m3, m2, m1, m0, i1, i0, c1, c0], range: start..end })
    }
}

fn sealed_bytes(padding: Padding, body_bytes: usize) -> usize {
    // The plaintext is the body with its type and end mark.
    padding.padded(body_bytes + 2) + OVERHEAD - 2
}

fn check_body(length: usize) -> Result<(), ChannelError> {
    if length > BODY_MAX {
        return Err(ChannelError::TooLong { length, limit: BODY_MAX });
    }
    Ok(())
}

/// Numbers stay below 2^62, so that a record's first byte tells it from a handshake message.
const NUMBER_END: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use onward_trials::{Row, size};

    use super::*;
    use crate::Profile;

    fn sealer() -> Sealer {
        let now = at(0);
        let (key, pulse) =
            (SharedSecret::new(&[7; 32]), Arc::new(Pulse::new(now, Arc::new(Profile::live()))));
        let (backend, algorithm) = (Backend::best(), AeadAlgorithm::Aes256Gcm);
        Sealer::new(now, backend, algorithm, &key, Role::Initiator, Padding::None, pulse)
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), unix: 0 }
    }

    fn number(sealer: &mut Sealer, now: Now) -> Result<u64, ChannelError> {
        sealer.reserve(now, FrameType::Data, 1).map(|reserved| reserved.sequence().value())
    }

    #[test]
    fn a15_no_number_is_given_out_twice_under_a_key() {
        let row = Row::new("A15");
        let records = size(500_000, 10_000_000);
        let mut sealer = sealer();
        // A key belongs to the numbers of its epoch, so that numbers which only grow repeat no pair of both.
        let (mut last, mut repeated, mut epochs, mut wrong_keys) = (None, 0, 0, 0);
        let mut seconds = 0;
        for record in 0..records {
            // Some epochs end by their count and some, while time passes, by their age.
            if record / 200_000 % 2 == 1 && record % 10_000 == 0 {
                seconds += 30;
            }
            let now = at(seconds);
            let before = Arc::as_ptr(&sealer.key);
            let number = number(&mut sealer, now).unwrap();
            repeated += usize::from(last.is_some_and(|last| number <= last));
            let is_next_epoch = last.is_some_and(|last| last >> EPOCH_BITS != number >> EPOCH_BITS);
            epochs += usize::from(is_next_epoch);
            wrong_keys += usize::from(is_next_epoch == std::ptr::eq(before, Arc::as_ptr(&sealer.key)));
            last = Some(number);
        }
        row.exactly("repeated pairs of key and number", repeated, 0);
        row.exactly("records under a key of another epoch", wrong_keys, 0);
        row.at_least("rekeys", epochs, records >> EPOCH_BITS);
    }

    #[test]
    fn a15_numbers_end_before_they_could_repeat() {
        let row = Row::new("A15");
        for (beginning, left) in [(NUMBER_END - 2, 2), (NUMBER_END, 0), (u64::MAX - 2, 0)] {
            let mut sealer = sealer();
            (sealer.next, sealer.epoch) = (beginning, beginning >> EPOCH_BITS);
            let given = (0..10).filter(|_| number(&mut sealer, at(0)).is_ok()).count();
            row.exactly(&format!("numbers given out from {beginning} on"), given, left);
            assert!(matches!(number(&mut sealer, at(0)), Err(ChannelError::Exhausted)));
            // Nor does the age of the epoch lead on.
            assert!(matches!(number(&mut sealer, at(1000)), Err(ChannelError::Exhausted)));
            assert!(sealer.seal_empty(at(1000), FrameType::KeepAlive, &mut Vec::new()).is_err());
            // What could not be sealed is not asked for, again and again.
            assert_eq!(sealer.due(at(100)), Some(Due::Close(CloseCode::Lifetime)));
        }
    }
}
