//! The responder's side of a handshake.
//!
//! It fails once and silently: whoever wants a channel begins again. Until the third message verifies it sends
//! one second message for each copy of the first at most, and the listener lets in only first messages that are long
//! enough for that, or that come with a cookie: so never more than three times what came goes back.
//!
//! Specification: docs/protocol.md §3.4, rows "R".

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onward_keys::SharedSecret;

use crate::Now;
use crate::error::Failure;
use crate::handshake::message::{Body, Message};
use crate::handshake::noise::Noise;
use crate::handshake::{
    AGREEMENT_DEADLINE, Early, Established, HandshakeConfig, Input, Output, Terms, To, is_handshake, is_zero,
    verify,
};
use crate::identity::PAYLOAD_BYTES_MAX;
use crate::mode::Mode;
use crate::schedule::Binding;
use crate::session::{Confirmation, Role, Session, SessionStart};

/// A handshake the peer started. Made by [`crate::Listener::receive`]; poll it at once.
pub struct Responder {
    config: Arc<HandshakeConfig>,
    terms: Terms,
    deadline: Duration,
    state: State,
    outputs: VecDeque<Output>,
}

enum State {
    /// The key service computes what the second message needs.
    Agreeing { noise: Noise, first: Vec<u8>, ephemeral: [u8; 32], until: Duration },
    /// SENT2: the second message is out.
    Sent2 { noise: Noise, packet: Vec<u8>, sent: Duration, resent: u8, early: Early },
    /// Established or failed.
    Over,
}

impl Responder {
    /// Answers a first message that the listener let in.
    pub(crate) fn new(
        now: Now,
        config: Arc<HandshakeConfig>,
        terms: Terms,
        first: &[u8],
        seed: &[u8; 32],
    ) -> Option<Self> {
        let to = terms.bound.then_some(&config.local.identifier);
        let noise = Noise::new(Role::Responder, &terms, to, &config, seed)?;
        let ephemeral = *first.first_chunk()?;
        let agree = Output::Agree { key: config.local.static_key, peer: ephemeral };
        Some(Self {
            deadline: now.mono + config.profile.handshake(),
            config,
            terms,
            state: State::Agreeing {
                noise,
                first: first.to_vec(),
                ephemeral,
                until: now.mono + AGREEMENT_DEADLINE,
            },
            outputs: VecDeque::from([agree]),
        })
    }

    /// Takes one input. What is not valid is dropped and changes nothing; what fails ends the handshake.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        if matches!(self.state, State::Over) {
            return;
        }
        if now.mono >= self.deadline {
            return self.fail(Failure::TimedOut);
        }
        match input {
            Input::Packet(packet) if is_handshake(packet) => self.receive_message(now, packet),
            Input::Packet(packet) => {
                if let State::Sent2 { early, .. } = &mut self.state {
                    early.keep(packet);
                }
            }
            Input::Agreed(secret) => self.receive_agreement(now, secret),
            Input::AgreementFailed => {
                if matches!(self.state, State::Agreeing { .. }) {
                    self.fail(Failure::KeyService);
                }
            }
            Input::TimePassed => {
                if matches!(self.state, State::Agreeing { until, .. } if now.mono >= until) {
                    self.fail(Failure::KeyService);
                }
            }
        }
    }

    /// What to do next; after every [`Self::handle`] poll until [`Output::Wait`] or the end.
    pub fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Wait { until: self.next_time() })
    }

    fn receive_agreement(&mut self, now: Now, secret: SharedSecret) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Agreeing { noise, first, ephemeral, .. } = state else {
            self.state = state;
            return;
        };
        if is_zero(&secret) {
            return self.fail(Failure::KeyService);
        }
        noise.agreed(ephemeral, secret);
        // The payload of a first message is padding.
        let answered = noise.read(&first).and_then(|(noise, _)| noise.write(&self.config.local.payload));
        let Some((noise, second)) = answered else {
            return self.fail(Failure::Unauthentic);
        };
        let packet = Message { terms: self.terms.clone(), body: Body::Second { noise: &second } }.encode();
        self.outputs.push_back(Output::Transmit(To::Peer, packet.clone()));
        self.state = State::Sent2 { noise, packet, sent: now.mono, resent: 0, early: Early::default() };
    }

    fn receive_message(&mut self, now: Now, packet: &[u8]) {
        let Some(message) = Message::decode(packet).filter(|message| message.terms == self.terms) else {
            return;
        };
        match message.body {
            // The listener hands on only copies of the first message it let in.
            Body::First { .. } => self.repeat_second(now),
            Body::Third { noise } if third_fits(self.terms.mode, noise) => {
                self.receive_third(now, packet, noise)
            }
            _ => {}
        }
    }

    fn repeat_second(&mut self, now: Now) {
        let State::Sent2 { packet, sent, resent, .. } = &mut self.state else {
            return;
        };
        if *resent < RESENDS_MAX && now.mono >= *sent + RESEND_INTERVAL {
            *sent = now.mono;
            *resent += 1;
            self.outputs.push_back(Output::Transmit(To::Peer, packet.clone()));
        }
    }

    fn receive_third(&mut self, now: Now, packet: &[u8], message: &[u8]) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Sent2 { noise, early, .. } = state else {
            self.state = state;
            return;
        };
        let Some((noise, payload)) = noise.read(message) else {
            return self.fail(Failure::Unauthentic);
        };
        let Some(remote) = noise.remote_static() else {
            return self.fail(Failure::Unauthentic);
        };
        let peer = match verify(&self.config, now, &payload, &remote, None) {
            Ok(peer) => peer,
            Err(failure) => return self.fail(failure),
        };
        let Some(split) = noise.finish() else {
            return self.fail(Failure::Unauthentic);
        };
        let identifier = &self.config.local.identifier;
        let start = SessionStart {
            now,
            backend: self.config.backend,
            algorithm: self.terms.suite.algorithm(),
            binding: Binding::derive(&split.k1, &split.k2, &split.hash, &peer.identifier(), identifier),
            outgoing: split.k2,
            incoming: split.k1,
            profile: self.config.profile,
            role: Role::Responder,
            padding: self.config.padding,
        };
        let mut session = Session::new(start, Confirmation::of_responder(packet));
        let mut confirm = Vec::new();
        if session.sealer.seal_confirm(now, &session.binding, &mut confirm).is_err() {
            return self.fail(Failure::Unauthentic);
        }
        self.outputs.push_back(Output::Transmit(To::Peer, confirm));
        let established = Established { session, peer, early: early.records };
        self.outputs.push_back(Output::Established(Box::new(established)));
    }

    fn next_time(&self) -> Duration {
        match &self.state {
            State::Agreeing { until, .. } => (*until).min(self.deadline),
            State::Sent2 { .. } | State::Over => self.deadline,
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.state = State::Over;
        self.outputs.push_back(Output::Failed(failure));
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Agreeing { .. } => "Agreeing",
            State::Sent2 { .. } => "Sent2",
            State::Over => "Over",
        };
        f.debug_struct("Responder").field("state", &state).finish_non_exhaustive()
    }
}

fn third_fits(mode: Mode, noise: &[u8]) -> bool {
    let [_, _, empty] = mode.message_bytes();
    (empty..=empty + PAYLOAD_BYTES_MAX).contains(&noise.len())
}

const RESENDS_MAX: u8 = 4;
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
