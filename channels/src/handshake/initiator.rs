//! The initiator's side of a handshake.
//!
//! It starts again with fresh keys after any failure, at the next time it would have sent anyway, until its one
//! deadline: somebody on the way who sends rubbish can delay it, not end it. It shows its identity only to a
//! responder that has passed the trust policy.
//!
//! Specification: docs/protocol.md §3.4, rows "I".

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onward_keys::SharedSecret;
use zeroize::Zeroizing;

use crate::error::Failure;
use crate::handshake::message::{Body, Cookie, Message, second_bytes};
use crate::handshake::{
    AGREEMENT_DEADLINE, AMPLIFICATION_MAX, Agreements, Basis, Confirmation, Early, Established,
    HandshakeConfig, Input, Noise, Output, Predecessor, Role, Session, Setup, Terms, Ticket, To,
    check_config, introduced, is_handshake, is_zero, resend_after, session, verify,
};
use crate::identity::{IdPayload, Identifier, VerifiedPeer};
use crate::mode::{FIRST_PADDING_MAX, Mode, Suite};
use crate::random::SeededRandom;
use crate::record::Content;
use crate::schedule::Confirmed;
use crate::session::Answers;
use crate::{ChannelError, Now};

/// A channel to be opened.
#[derive(Debug)]
pub struct Opening {
    /// The handshake. There is no fallback to another.
    pub mode: Mode,
    /// The cipher.
    pub suite: Suite,
    /// Who is meant; the channel is then bound, and only that identity can answer. Without, which modes 1 to 4
    /// allow, whoever the trust policy accepts.
    pub to: Option<Identifier>,
    /// What the mode needs beside the static keys.
    pub basis: Basis,
    /// The open channel whose place this one shall take.
    pub replaces: Option<Predecessor>,
}

impl Opening {
    /// A channel of mode 1 or 2 that replaces none.
    #[must_use]
    pub fn new(mode: Mode, suite: Suite, to: Option<Identifier>) -> Self {
        Self { mode, suite, to, basis: Basis::Nothing, replaces: None }
    }
}

/// A handshake this end started. Poll it at once: what it needs first is waiting.
pub struct Initiator {
    config: Arc<HandshakeConfig>,
    opening: Opening,
    /// Our identity payload; in a re-handshake it names the channel to be replaced.
    payload: Vec<u8>,
    /// The peer and its static key, where both are known beforehand.
    introduced: Option<(VerifiedPeer, [u8; 32])>,
    random: SeededRandom,
    deadline: Duration,
    /// Why the latest attempt failed, to be told at the deadline.
    last_failure: Failure,
    state: State,
    outputs: VecDeque<Output>,
}

enum State {
    /// The key service computes what the first message needs: the agreement with the known static key of the peer.
    Preparing { remote: [u8; 32], until: Duration },
    /// SENT1: the first message is out.
    Sent1 { terms: Terms, noise: Noise, first: Vec<u8>, packet: Vec<u8>, again: Again, retries: u8 },
    /// The key service computes what reading the second message needs, in two-message modes.
    Reading {
        terms: Terms,
        noise: Noise,
        second: Vec<u8>,
        ephemeral: [u8; 32],
        again: Again,
        until: Duration,
    },
    /// The second message was good; the key service computes what the third needs.
    Agreeing { terms: Terms, noise: Noise, peer: VerifiedPeer, ephemeral: [u8; 32], until: Duration },
    /// SENT3: the keys are there, the responder's CONFIRM is not.
    Confirming {
        third: Option<Vec<u8>>,
        again: Again,
        session: Box<Session>,
        peer: VerifiedPeer,
        early: Early,
    },
    /// The attempt failed; the next begins at this time.
    Restarting { at: Duration },
    /// Established or failed.
    Over,
}

/// When what was sent is sent again, until something comes back.
struct Again {
    first: Duration,
    copies: u32,
}

impl Again {
    fn new(now: Now) -> Self {
        Self { first: now.mono, copies: 1 }
    }

    fn next(&self) -> Duration {
        self.first + resend_after(self.copies)
    }

    /// Whether it is time.
    fn is_due(&mut self, now: Now) -> bool {
        let due = now.mono >= self.next();
        // A late timer sends once, not once for each time that it missed.
        while now.mono >= self.next() {
            self.copies += 1;
        }
        due
    }
}

impl Initiator {
    /// Starts a handshake; `random` is 32 fresh random bytes, used for nothing else.
    ///
    /// A peer that is known beforehand and no longer trusted makes [`Output::Failed`].
    ///
    /// # Errors
    /// [`ChannelError::Misuse`] for a channel to this end itself, a basis that the mode does not have, an unbound
    /// channel in a mode that is always bound, or an `app` or payload that is too long.
    pub fn new(
        now: Now,
        config: Arc<HandshakeConfig>,
        opening: Opening,
        random: [u8; 32],
    ) -> Result<Self, ChannelError> {
        check_config(&config)?;
        if opening.to == Some(config.local.identifier) {
            return Err(ChannelError::Misuse("a channel to oneself"));
        }
        if !opening.basis.suits(opening.mode) {
            return Err(ChannelError::Misuse("a handshake mode without what it rests on"));
        }
        if opening.to.is_none() && opening.mode.has_two_messages() {
            return Err(ChannelError::Misuse("an unbound channel in a mode that is always bound"));
        }
        let mut initiator = Self {
            deadline: now.mono + config.profile.handshake,
            payload: own_payload(&config, &opening)?,
            config,
            opening,
            introduced: None,
            random: SeededRandom::new(&Zeroizing::new(random)),
            last_failure: Failure::TimedOut,
            state: State::Over,
            outputs: VecDeque::new(),
        };
        let known = initiator.opening.basis.introduction();
        let known = known.map(|known| introduced(&initiator.config, now, known, initiator.opening.to));
        match known.transpose() {
            Ok(introduced) => {
                initiator.introduced = introduced;
                initiator.spend();
                initiator.begin(now);
            }
            Err(failure) => initiator.fail(failure),
        }
        Ok(initiator)
    }

    /// Takes one input. What is not valid is dropped and changes nothing.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        if matches!(self.state, State::Over) {
            return;
        }
        if now.mono >= self.deadline {
            return self.fail(self.last_failure.clone());
        }
        match input {
            Input::Packet(packet) if is_handshake(packet) => self.receive_message(now, packet),
            Input::Packet(packet) => self.receive_record(now, packet),
            Input::Agreed(secret) => self.receive_agreement(now, secret),
            Input::AgreementFailed => self.lack_agreement(),
            Input::Found(_) | Input::Admitted(_) => {}
            Input::TimePassed => self.pass_time(now),
        }
    }

    /// What to do next; after every [`Self::handle`] poll until [`Output::Wait`] or the end.
    pub fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Wait { until: self.next_time() })
    }

    /// Gives the ticket to the driver to be erased; a copy of its key stays here for the one attempt.
    fn spend(&mut self) {
        if let Some(ticket) = self.opening.basis.ticket() {
            self.outputs.push_back(Output::Spend(ticket.role(), ticket.id()));
        }
    }

    /// Begins an attempt: at once, or when the key service has answered.
    fn begin(&mut self, now: Now) {
        match &self.introduced {
            Some((_, remote)) if !self.opening.mode.is_resumption() => {
                let remote = *remote;
                self.outputs.push_back(self.agree(remote));
                self.state = State::Preparing { remote, until: now.mono + AGREEMENT_DEADLINE };
            }
            _ => self.send_first(now, Agreements::default()),
        }
    }

    fn agree(&self, peer: [u8; 32]) -> Output {
        Output::Agree { key: self.config.local.static_key, peer }
    }

    /// Sends a first message with a fresh hsid and fresh keys.
    fn send_first(&mut self, now: Now, agreements: Agreements) {
        let Opening { mode, suite, to, basis, .. } = &self.opening;
        let psk = basis.psk();
        let terms = Terms {
            mode: *mode,
            suite: *suite,
            bound: to.is_some(),
            hsid: self.random.bytes(),
            pskid: psk.map(|(id, _)| id),
        };
        let seed = Zeroizing::new(self.random.bytes());
        let setup = Setup {
            role: Role::Initiator,
            terms: &terms,
            to: to.as_ref(),
            psk: psk.map(|(_, secret)| secret),
            remote: self.introduced.as_ref().map(|(_, remote)| *remote).filter(|_| !mode.is_resumption()),
            agreements,
        };
        let noise = Noise::new(&setup, &self.config, &seed);
        let payload = self.first_payload();
        let Some((noise, first)) = noise.and_then(|noise| noise.write(&payload)) else {
            return self.fail(Failure::Unauthentic);
        };
        let packet = encode_first(&terms, None, &first);
        self.outputs.push_back(Output::Transmit(To::Listener, packet.clone()));
        self.state = State::Sent1 { terms, noise, first, packet, again: Again::new(now), retries: 0 };
    }

    /// What the first message carries: our identity where it is sealed already, the channel to be replaced in modes
    /// without identities, else padding.
    fn first_payload(&mut self) -> Vec<u8> {
        let mode = self.opening.mode;
        if mode.has_two_messages() {
            return self.payload.clone();
        }
        let mut padding = vec![0; self.first_padding()];
        self.random.fill(&mut padding);
        padding
    }

    /// As much padding as makes the first message a third of the second that is to be expected: one around a
    /// payload as long as our own. Without it, a responder would first ask for a cookie.
    fn first_padding(&self) -> usize {
        let mode = self.opening.mode;
        let [first, second, _] = mode.message_bytes();
        let expected = second_bytes(mode, second + self.payload.len() + PADDING_SLACK);
        expected.div_ceil(AMPLIFICATION_MAX).saturating_sub(first).min(FIRST_PADDING_MAX)
    }

    fn receive_message(&mut self, now: Now, packet: &[u8]) {
        let State::Sent1 { terms, first, packet: sent, retries, .. } = &mut self.state else {
            return;
        };
        let Some(message) = Message::decode(packet).filter(|message| message.terms == *terms) else {
            return;
        };
        match message.body {
            Body::Retry { cookie } if *retries < RETRIES_MAX => {
                *retries += 1;
                *sent = encode_first(terms, Some(cookie), first);
                self.outputs.push_back(Output::Transmit(To::Listener, sent.clone()));
            }
            Body::Second { noise } if terms.mode.second_lengths().contains(&noise.len()) => {
                self.receive_second(now, noise);
            }
            _ => {}
        }
    }

    fn receive_second(&mut self, now: Now, message: &[u8]) {
        let State::Sent1 { terms, noise, again, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return;
        };
        let Some(ephemeral) = message.first_chunk().copied() else {
            return self.restart(again.next(), Failure::Unauthentic);
        };
        match terms.mode {
            mode if mode.is_resumption() => self.read_second(now, terms, noise, message, again),
            mode if mode.has_two_messages() => {
                self.outputs.push_back(self.agree(ephemeral));
                let (second, until) = (message.to_vec(), now.mono + AGREEMENT_DEADLINE);
                self.state = State::Reading { terms, noise, second, ephemeral, again, until };
            }
            _ => {
                let read = self.read_identity(now, noise, message);
                let (noise, peer) = match read {
                    Ok(read) => read,
                    Err(failure) => return self.restart(again.next(), failure),
                };
                self.outputs.push_back(self.agree(ephemeral));
                let until = now.mono + AGREEMENT_DEADLINE;
                self.state = State::Agreeing { terms, noise, peer, ephemeral, until };
            }
        }
    }

    /// Reads a second message with an identity payload, and verifies that.
    fn read_identity(
        &self,
        now: Now,
        noise: Noise,
        message: &[u8],
    ) -> Result<(Noise, VerifiedPeer), Failure> {
        let (noise, payload) = noise.read(message).ok_or(Failure::Unauthentic)?;
        let remote = noise.remote_static().ok_or(Failure::Unauthentic)?;
        let peer = verify(&self.config, now, &payload, &remote, self.opening.to)?;
        Ok((noise, peer))
    }

    /// Reads the second message of two, which completes the Noise handshake.
    fn read_second(&mut self, now: Now, terms: Terms, noise: Noise, message: &[u8], again: Again) {
        let read = match &self.introduced {
            Some((peer, _)) if !terms.mode.shows_identities() => {
                noise.read(message).map(|(noise, _)| (noise, peer.clone())).ok_or(Failure::Unauthentic)
            }
            _ => self.read_identity(now, noise, message),
        };
        match read.and_then(|(noise, peer)| Ok((noise.finish().ok_or(Failure::Unauthentic)?, peer))) {
            Err(failure) => self.restart(again.next(), failure),
            Ok((split, peer)) => {
                let mode = self.opening.basis.ticket().map_or(terms.mode, Ticket::mode);
                let session = session(&self.config, now, (&terms, mode), Role::Initiator, split, &peer);
                self.confirm(now, None, session, peer);
            }
        }
    }

    fn receive_agreement(&mut self, now: Now, secret: SharedSecret) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let is_zero = is_zero(&secret);
        match state {
            State::Preparing { .. } | State::Agreeing { .. } if is_zero => self.fail(Failure::KeyService),
            State::Reading { again, .. } if is_zero => self.restart(again.next(), Failure::KeyService),
            State::Preparing { remote, .. } => {
                let agreements = Agreements::default();
                agreements.insert(remote, secret);
                self.send_first(now, agreements);
            }
            State::Reading { terms, noise, second, ephemeral, again, .. } => {
                noise.agreed(ephemeral, secret);
                self.read_second(now, terms, noise, &second, again);
            }
            State::Agreeing { terms, noise, peer, ephemeral, .. } => {
                noise.agreed(ephemeral, secret);
                self.send_third(now, &terms, noise, peer);
            }
            other => self.state = other,
        }
    }

    /// Fails, unless the second message was not authentic yet: its sender may have chosen what cannot be agreed with.
    fn lack_agreement(&mut self) {
        match &self.state {
            State::Preparing { .. } | State::Agreeing { .. } => self.fail(Failure::KeyService),
            State::Reading { again, .. } => self.restart(again.next(), Failure::KeyService),
            _ => {}
        }
    }

    fn send_third(&mut self, now: Now, terms: &Terms, noise: Noise, peer: VerifiedPeer) {
        let written = noise.write(&self.payload).and_then(|(noise, third)| Some((noise.finish()?, third)));
        let Some((split, third)) = written else {
            return self.fail(Failure::Unauthentic);
        };
        let session = session(&self.config, now, (terms, terms.mode), Role::Initiator, split, &peer);
        let packet = Message { terms: terms.clone(), body: Body::Third { noise: &third } }.encode();
        self.confirm(now, Some(packet), session, peer);
    }

    /// Sends the last message and waits for the responder's CONFIRM.
    fn confirm(&mut self, now: Now, third: Option<Vec<u8>>, mut session: Session, peer: VerifiedPeer) {
        if self.opening.replaces.as_ref().is_some_and(|replaced| !replaced.may_become(&session.binding)) {
            self.opening.replaces = None;
        }
        let body = session.binding.confirm(Role::Initiator, self.opening.replaces.as_ref());
        session.confirmation = Confirmation::new(Answers::Nothing, body);
        self.state = State::Confirming {
            third,
            again: Again::new(now),
            session: Box::new(session),
            peer,
            early: Early::default(),
        };
        self.send_last(now);
    }

    /// Sends the third message, and where something must be proved a CONFIRM, which is a new record each time.
    fn send_last(&mut self, now: Now) {
        let State::Confirming { third, session, .. } = &mut self.state else {
            return;
        };
        self.outputs.extend(third.clone().map(|third| Output::Transmit(To::Peer, third)));
        if third.is_none() || self.opening.replaces.is_some() {
            let mut confirm = Vec::new();
            if session.sealer.seal_confirm(now, &session.confirmation, &mut confirm).is_ok() {
                self.outputs.push_back(Output::Transmit(To::Peer, confirm));
            }
        }
    }

    fn receive_record(&mut self, now: Now, record: &[u8]) {
        let State::Confirming { again, session, early, .. } = &mut self.state else {
            return;
        };
        let mut opened = record.to_vec();
        let Ok(content) = session.opener.peek(now, &mut opened) else {
            return;
        };
        let body = match content {
            Content::Confirm(body) => body,
            // The responder has proved itself with the second message: its word ends the handshake.
            Content::Close { code, .. } => return self.fail(Failure::Closed(code)),
            _ => return early.keep(record),
        };
        match session.binding.confirmed(Role::Responder, body, self.opening.replaces.as_ref()) {
            Confirmed::Nothing => {
                let at = again.next();
                self.restart(at, Failure::Unauthentic);
            }
            Confirmed::Channel => self.establish(now, record, None),
            Confirmed::Successor => {
                let replaced = self.opening.replaces.as_ref().map(|replaced| *replaced.id());
                self.establish(now, record, replaced);
            }
        }
    }

    fn establish(&mut self, now: Now, confirm: &[u8], replaces: Option<[u8; 32]>) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Confirming { session, peer, early, .. } = state else {
            return;
        };
        let mut session = *session;
        let mut confirm = confirm.to_vec();
        // Opened before, so this marks its number and cannot fail.
        if session.opener.open_in_place(now, &mut confirm).is_ok() {
            let established = Established { session, peer, early: early.records, replaces };
            self.outputs.push_back(Output::Established(Box::new(established)));
        }
    }

    fn pass_time(&mut self, now: Now) {
        match &mut self.state {
            State::Sent1 { packet, again, .. } => {
                if again.is_due(now) {
                    self.outputs.push_back(Output::Transmit(To::Listener, packet.clone()));
                }
            }
            State::Confirming { again, .. } => {
                if again.is_due(now) {
                    self.send_last(now);
                }
            }
            State::Preparing { until, .. } | State::Reading { until, .. } | State::Agreeing { until, .. } => {
                if now.mono >= *until {
                    self.lack_agreement();
                }
            }
            State::Restarting { at } if now.mono >= *at => self.begin(now),
            State::Restarting { .. } | State::Over => {}
        }
    }

    fn next_time(&self) -> Duration {
        let next = match &self.state {
            State::Sent1 { again, .. } | State::Confirming { again, .. } => again.next(),
            State::Preparing { until, .. } | State::Reading { until, .. } | State::Agreeing { until, .. } => {
                *until
            }
            State::Restarting { at } => *at,
            State::Over => self.deadline,
        };
        next.min(self.deadline)
    }

    /// Forgets this attempt, silently; the next begins when this one would have sent again. A ticket allows only one.
    fn restart(&mut self, at: Duration, failure: Failure) {
        if self.opening.mode.is_resumption() {
            return self.fail(failure);
        }
        self.last_failure = failure;
        self.state = State::Restarting { at };
    }

    fn fail(&mut self, failure: Failure) {
        self.state = State::Over;
        self.outputs.push_back(Output::Failed(failure));
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Preparing { .. } => "Preparing",
            State::Sent1 { .. } => "Sent1",
            State::Reading { .. } => "Reading",
            State::Agreeing { .. } => "Agreeing",
            State::Confirming { .. } => "Confirming",
            State::Restarting { .. } => "Restarting",
            State::Over => "Over",
        };
        f.debug_struct("Initiator").field("state", &state).finish_non_exhaustive()
    }
}

fn encode_first(terms: &Terms, cookie: Option<Cookie>, noise: &[u8]) -> Vec<u8> {
    Message { terms: terms.clone(), body: Body::First { cookie, noise } }.encode()
}

/// Our payload, which in a re-handshake names the channel that is to be replaced.
fn own_payload(config: &HandshakeConfig, opening: &Opening) -> Result<Vec<u8>, ChannelError> {
    match &opening.replaces {
        Some(replaced) if !opening.mode.shows_identities() => Ok(replaced.id().to_vec()),
        None if !opening.mode.shows_identities() => Ok(Vec::new()),
        None => Ok(config.local.payload.clone()),
        Some(replaced) => {
            let payload = IdPayload::decode(&config.local.payload);
            let payload =
                payload.map_err(|_| ChannelError::Misuse("an identity payload that does not decode"))?;
            Ok(payload.replacing(replaced.id()).encode())
        }
    }
}

const RETRIES_MAX: u8 = 3;
/// The responder's payload may be somewhat longer than ours.
const PADDING_SLACK: usize = 192;
