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

use crate::error::Failure;
use crate::handshake::message::{Body, Cookie, Message, second_bytes};
use crate::handshake::noise::Noise;
use crate::handshake::{
    AGREEMENT_DEADLINE, AMPLIFICATION_MAX, Early, Established, FIRST_PADDING_MAX, HandshakeConfig, Input,
    Output, Terms, To, check_config, is_handshake, is_zero, resend_after, verify,
};
use crate::identity::{Identifier, PAYLOAD_BYTES_MAX, VerifiedPeer};
use crate::mode::{Mode, Suite};
use crate::random::SeededRandom;
use crate::record::Content;
use crate::schedule::Binding;
use crate::session::{Confirmation, Role, Session, SessionStart};
use crate::{ChannelError, Now};

/// A handshake this end started. Poll it at once: the first message is waiting.
pub struct Initiator {
    config: Arc<HandshakeConfig>,
    mode: Mode,
    suite: Suite,
    to: Option<Identifier>,
    random: SeededRandom,
    deadline: Duration,
    /// Why the latest attempt failed, to be told at the deadline.
    last_failure: Failure,
    state: State,
    outputs: VecDeque<Output>,
}

enum State {
    /// SENT1: the first message is out.
    Sent1 { terms: Terms, noise: Noise, first: Vec<u8>, sent: Sent, retries: u8 },
    /// The second message was good; the key service computes what the third needs.
    Agreeing { terms: Terms, noise: Noise, peer: VerifiedPeer, ephemeral: [u8; 32], until: Duration },
    /// SENT3: the third message is out, the keys are there, the responder's CONFIRM is not.
    Sent3 { sent: Sent, session: Box<Session>, peer: VerifiedPeer, early: Early },
    /// The attempt failed; the next begins at this time.
    Restarting { at: Duration },
    /// Established or failed.
    Over,
}

/// A packet that is sent again until something comes back.
struct Sent {
    to: To,
    packet: Vec<u8>,
    first: Duration,
    copies: u32,
}

impl Sent {
    fn new(now: Now, to: To, packet: Vec<u8>) -> Self {
        Self { to, packet, first: now.mono, copies: 1 }
    }

    fn next(&self) -> Duration {
        self.first + resend_after(self.copies)
    }

    /// The packet again, if it is time.
    fn again(&mut self, now: Now) -> Option<Output> {
        if now.mono < self.next() {
            return None;
        }
        // A late timer sends once, not once for each time that it missed.
        while now.mono >= self.next() {
            self.copies += 1;
        }
        Some(Output::Transmit(self.to, self.packet.clone()))
    }
}

impl Initiator {
    /// Starts a handshake; `random` is 32 fresh random bytes, used for nothing else.
    ///
    /// With `to`, the channel is bound: only that identifier can answer. Without, whoever the trust policy accepts.
    ///
    /// # Errors
    /// [`ChannelError::Misuse`] for `to` being this end itself, or an `app` or payload that is too long.
    pub fn new(
        now: Now,
        config: Arc<HandshakeConfig>,
        mode: Mode,
        suite: Suite,
        to: Option<Identifier>,
        random: [u8; 32],
    ) -> Result<Self, ChannelError> {
        check_config(&config)?;
        if to == Some(config.local.identifier) {
            return Err(ChannelError::Misuse("a channel to oneself"));
        }
        let mut initiator = Self {
            deadline: now.mono + config.profile.handshake(),
            config,
            mode,
            suite,
            to,
            random: SeededRandom::new(&random),
            last_failure: Failure::TimedOut,
            state: State::Over,
            outputs: VecDeque::new(),
        };
        initiator.begin(now);
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
            Input::AgreementFailed => {
                if matches!(self.state, State::Agreeing { .. }) {
                    self.fail(Failure::KeyService);
                }
            }
            Input::TimePassed => self.pass_time(now),
        }
    }

    /// What to do next; after every [`Self::handle`] poll until [`Output::Wait`] or the end.
    pub fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Wait { until: self.next_time() })
    }

    /// Sends a first message with a fresh hsid and fresh keys.
    fn begin(&mut self, now: Now) {
        let terms =
            Terms { mode: self.mode, suite: self.suite, bound: self.to.is_some(), hsid: self.random.bytes() };
        let seed = zeroize::Zeroizing::new(self.random.bytes());
        let mut padding = vec![0; self.first_padding()];
        self.random.fill(&mut padding);
        let begun = Noise::new(Role::Initiator, &terms, self.to.as_ref(), &self.config, &seed)
            .and_then(|noise| noise.write(&padding));
        let Some((noise, first)) = begun else {
            return self.fail(Failure::Unauthentic);
        };
        let packet = encode_first(&terms, None, &first);
        self.outputs.push_back(Output::Transmit(To::Listener, packet.clone()));
        self.state =
            State::Sent1 { terms, noise, first, sent: Sent::new(now, To::Listener, packet), retries: 0 };
    }

    /// As much padding as makes the first message a third of the second that is to be expected: one around a
    /// payload as long as our own. Without it, a responder would first ask for a cookie.
    fn first_padding(&self) -> usize {
        let [first, second, _] = self.mode.message_bytes();
        let expected = second_bytes(second + self.config.local.payload.len() + PADDING_SLACK);
        expected.div_ceil(AMPLIFICATION_MAX).saturating_sub(first).min(FIRST_PADDING_MAX)
    }

    fn receive_message(&mut self, now: Now, packet: &[u8]) {
        let State::Sent1 { terms, first, sent, retries, .. } = &mut self.state else {
            return;
        };
        let Some(message) = Message::decode(packet).filter(|message| message.terms == *terms) else {
            return;
        };
        match message.body {
            Body::Retry { cookie } if *retries < RETRIES_MAX => {
                *retries += 1;
                sent.packet = encode_first(terms, Some(cookie), first);
                self.outputs.push_back(Output::Transmit(sent.to, sent.packet.clone()));
            }
            Body::Second { noise } if second_fits(self.mode, noise) => self.receive_second(now, noise),
            _ => {}
        }
    }

    fn receive_second(&mut self, now: Now, message: &[u8]) {
        let State::Sent1 { terms, noise, sent, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return;
        };
        let restart_at = sent.next();
        let read = noise.read(message);
        let (Some((noise, payload)), Some(ephemeral)) = (read, message.first_chunk()) else {
            return self.restart(restart_at, Failure::Unauthentic);
        };
        let Some(remote) = noise.remote_static() else {
            return self.restart(restart_at, Failure::Unauthentic);
        };
        match verify(&self.config, now, &payload, &remote, self.to) {
            Err(failure) => self.restart(restart_at, failure),
            Ok(peer) => {
                self.outputs.push_back(Output::Agree { key: self.config.local.static_key, peer: *ephemeral });
                let until = now.mono + AGREEMENT_DEADLINE;
                self.state = State::Agreeing { terms, noise, peer, ephemeral: *ephemeral, until };
            }
        }
    }

    fn receive_agreement(&mut self, now: Now, secret: SharedSecret) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Agreeing { terms, noise, peer, ephemeral, .. } = state else {
            self.state = state;
            return;
        };
        if is_zero(&secret) {
            return self.fail(Failure::KeyService);
        }
        noise.agreed(ephemeral, secret);
        let written =
            noise.write(&self.config.local.payload).and_then(|(noise, third)| Some((noise.finish()?, third)));
        let Some((split, third)) = written else {
            return self.fail(Failure::Unauthentic);
        };
        let identifier = &self.config.local.identifier;
        let start = SessionStart {
            now,
            backend: self.config.backend,
            algorithm: self.suite.algorithm(),
            binding: Binding::derive(&split.k1, &split.k2, &split.hash, identifier, &peer.identifier()),
            outgoing: split.k1,
            incoming: split.k2,
            profile: self.config.profile,
            role: Role::Initiator,
            padding: self.config.padding,
        };
        let packet = Message { terms, body: Body::Third { noise: &third } }.encode();
        self.outputs.push_back(Output::Transmit(To::Peer, packet.clone()));
        self.state = State::Sent3 {
            sent: Sent::new(now, To::Peer, packet),
            session: Box::new(Session::new(start, Confirmation::of_initiator())),
            peer,
            early: Early::default(),
        };
    }

    fn receive_record(&mut self, now: Now, record: &[u8]) {
        let State::Sent3 { sent, session, early, .. } = &mut self.state else {
            return;
        };
        let mut opened = record.to_vec();
        match session.opener.peek(now, &mut opened) {
            Ok(Content::Confirm(body)) if session.binding.confirms(body) => self.establish(now, record),
            Ok(Content::Confirm(_)) => {
                let at = sent.next();
                self.restart(at, Failure::Unauthentic);
            }
            Ok(_) => early.keep(record),
            Err(_) => {}
        }
    }

    fn establish(&mut self, now: Now, confirm: &[u8]) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Sent3 { session, peer, early, .. } = state else {
            return;
        };
        let mut session = *session;
        let mut confirm = confirm.to_vec();
        // Opened before, so this marks its number and cannot fail.
        if session.opener.open_in_place(now, &mut confirm).is_ok() {
            let established = Established { session, peer, early: early.records };
            self.outputs.push_back(Output::Established(Box::new(established)));
        }
    }

    fn pass_time(&mut self, now: Now) {
        match &mut self.state {
            State::Sent1 { sent, .. } | State::Sent3 { sent, .. } => self.outputs.extend(sent.again(now)),
            State::Agreeing { until, .. } if now.mono >= *until => self.fail(Failure::KeyService),
            State::Restarting { at } if now.mono >= *at => self.begin(now),
            State::Agreeing { .. } | State::Restarting { .. } | State::Over => {}
        }
    }

    fn next_time(&self) -> Duration {
        let next = match &self.state {
            State::Sent1 { sent, .. } | State::Sent3 { sent, .. } => sent.next(),
            State::Agreeing { until, .. } => *until,
            State::Restarting { at } => *at,
            State::Over => self.deadline,
        };
        next.min(self.deadline)
    }

    /// Forgets this attempt, silently; the next begins when this one would have sent again.
    fn restart(&mut self, at: Duration, failure: Failure) {
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
            State::Sent1 { .. } => "Sent1",
            State::Agreeing { .. } => "Agreeing",
            State::Sent3 { .. } => "Sent3",
            State::Restarting { .. } => "Restarting",
            State::Over => "Over",
        };
        f.debug_struct("Initiator").field("state", &state).finish_non_exhaustive()
    }
}

fn encode_first(terms: &Terms, cookie: Option<Cookie>, noise: &[u8]) -> Vec<u8> {
    Message { terms: terms.clone(), body: Body::First { cookie, noise } }.encode()
}

fn second_fits(mode: Mode, noise: &[u8]) -> bool {
    let [_, empty, _] = mode.message_bytes();
    (empty..=empty + PAYLOAD_BYTES_MAX).contains(&noise.len())
}

const RETRIES_MAX: u8 = 3;
/// The responder's payload may be somewhat longer than ours.
const PADDING_SLACK: usize = 192;
