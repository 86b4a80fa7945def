//! The responder's side of a handshake.
//!
//! It fails once and silently: whoever wants a channel begins again. Until the initiator's last message verifies it
//! sends one second message for each copy of the first at most, and the listener lets in only first messages that are
//! long enough for that, or that come with a cookie: so never more than three times what came goes back. A first
//! message proves nothing: it may be an old one, played back.
//!
//! Specification: docs/protocol.md §3.4, rows "R".

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onward_keys::SharedSecret;
use zeroize::Zeroizing;

use crate::Now;
use crate::error::Failure;
use crate::handshake::message::{Body, Message};
use crate::handshake::{
    AGREEMENT_DEADLINE, Agreements, Confirmation, Early, Established, HandshakeConfig, Input, Noise, Output,
    Predecessor, Role, Session, Setup, Terms, To, introduced, is_handshake, is_zero, session, verify,
};
use crate::identity::VerifiedPeer;
use crate::mode::Mode;
use crate::record::{CloseCode, Content};
use crate::schedule::Confirmed;
use crate::session::Answers;

/// A handshake the peer started. Made by [`crate::HandshakeTable::receive`]; poll it at once.
pub struct Responder {
    config: Arc<HandshakeConfig>,
    terms: Terms,
    deadline: Duration,
    state: State,
    outputs: VecDeque<Output>,
}

enum State {
    /// The key service computes what reading the first message, or answering it, needs.
    Agreeing { first: First, wanted: [u8; 32], until: Duration },
    /// SENT2: the second message is out.
    Sent2 { awaited: Awaited, packet: Vec<u8>, sent: Duration, resent: u8, early: Early },
    /// The third message was good and says that it replaces a channel, which the driver looks for.
    Finding { ready: Box<Ready>, early: Early },
    /// The initiator has proved itself and replaces no channel: the driver asks the listener for a place.
    Admitting { ready: Box<Ready>, early: Early },
    /// Established or failed.
    Over,
}

/// A first message that is not read yet. Reading is tried again on a fresh state when an agreement was missing, and
/// with each peer that is known beforehand.
struct First {
    noise: Vec<u8>,
    seed: Zeroizing<[u8; 32]>,
    agreements: Agreements,
    /// Which of the payloads known beforehand is tried.
    candidate: usize,
}

/// What the second message is to be answered with.
enum Awaited {
    /// The third message.
    Third(Noise),
    /// The initiator's CONFIRM, as everything else is there.
    Confirm(Box<Ready>),
}

/// A channel that only lacks its confirmation.
struct Ready {
    session: Session,
    peer: VerifiedPeer,
    replaced: Option<Predecessor>,
}

/// What a first message says once it has been read.
struct Read {
    noise: Noise,
    /// Who sent it, where that is known already, and the channel that it is to replace.
    peer: Option<(VerifiedPeer, Option<[u8; 32]>)>,
    /// The mode whose strength the channel will have.
    mode: Mode,
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
        let ephemeral = *first.first_chunk()?;
        let first = First {
            noise: first.to_vec(),
            seed: Zeroizing::new(*seed),
            agreements: Agreements::default(),
            candidate: 0,
        };
        let mut responder = Self {
            deadline: now.mono + config.profile.handshake,
            config,
            terms,
            state: State::Over,
            outputs: VecDeque::new(),
        };
        if responder.terms.mode.is_resumption() {
            responder.answer(now, first);
        } else {
            responder.agree(now, first, ephemeral);
        }
        Some(responder)
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
            Input::Packet(packet) => self.receive_record(now, packet),
            Input::Agreed(secret) => self.receive_agreement(now, secret),
            Input::AgreementFailed => {
                if matches!(self.state, State::Agreeing { .. }) {
                    self.fail(Failure::KeyService);
                }
            }
            Input::Found(predecessor) => self.receive_predecessor(now, predecessor),
            Input::Admitted(admitted) => self.receive_place(now, admitted),
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

    fn agree(&mut self, now: Now, first: First, wanted: [u8; 32]) {
        self.outputs.push_back(Output::Agree { key: self.config.local.static_key, peer: wanted });
        self.state = State::Agreeing { first, wanted, until: now.mono + AGREEMENT_DEADLINE };
    }

    fn receive_agreement(&mut self, now: Now, secret: SharedSecret) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Agreeing { first, wanted, .. } = state else {
            self.state = state;
            return;
        };
        if is_zero(&secret) {
            return self.fail(Failure::KeyService);
        }
        first.agreements.insert(wanted, secret);
        self.answer(now, first);
    }

    /// Reads the first message and sends the second, or asks for the agreement that is still missing.
    fn answer(&mut self, now: Now, mut first: First) {
        let read = loop {
            match self.read_first(now, &first) {
                Ok(read) => break read,
                Err(failure) => {
                    if let Some(missing) = first.agreements.take_missing() {
                        return self.agree(now, first, missing);
                    }
                    // Only a mode without identities is tried with another peer.
                    first.candidate += 1;
                    let another = !self.terms.mode.shows_identities() && !self.terms.mode.is_resumption();
                    if !another || first.candidate >= self.config.bases.introductions.len() {
                        return self.fail(failure);
                    }
                }
            }
        };
        let payload: &[u8] =
            if self.terms.mode.shows_identities() { &self.config.local.payload } else { &[] };
        let Some((noise, second)) = read.noise.write(payload) else {
            return self.fail(Failure::Unauthentic);
        };
        let packet = Message { terms: self.terms.clone(), body: Body::Second { noise: &second } }.encode();
        self.outputs.push_back(Output::Transmit(To::Peer, packet.clone()));
        let awaited = match read.peer {
            None => Awaited::Third(noise),
            Some((peer, replaces)) => {
                let Some(split) = noise.finish() else {
                    return self.fail(Failure::Unauthentic);
                };
                self.outputs.extend(replaces.map(Output::Find));
                let terms = (&self.terms, read.mode);
                let session = session(&self.config, now, terms, Role::Responder, split, &peer);
                Awaited::Confirm(Box::new(Ready { session, peer, replaced: None }))
            }
        };
        self.state = State::Sent2 { awaited, packet, sent: now.mono, resent: 0, early: Early::default() };
    }

    /// Reads the first message as the mode says: with padding, with the sender's identity, or with nothing but the
    /// channel to be replaced from a peer that is known beforehand.
    fn read_first(&mut self, now: Now, first: &First) -> Result<Read, Failure> {
        let mode = self.terms.mode;
        if mode.is_resumption() {
            return self.read_resumption(now, first);
        }
        if mode.shows_identities() {
            let psk = self.terms.pskid.and_then(|id| self.config.bases.psk(&id));
            let (noise, payload) = self.read(first, psk.map(|psk| psk.secret()), None)?;
            if !mode.has_two_messages() {
                return Ok(Read { noise, peer: None, mode });
            }
            let remote = noise.remote_static().ok_or(Failure::Unauthentic)?;
            let peer = verify(&self.config, now, &payload, &remote, None)?;
            let replaces = peer.replaces();
            return Ok(Read { noise, peer: Some((peer, replaces)), mode });
        }
        let known = self.config.bases.introductions.get(first.candidate).ok_or(Failure::Unauthentic)?;
        let (peer, remote) = introduced(&self.config, now, known, None)?;
        let (noise, payload) = self.read(first, None, Some(remote))?;
        Ok(Read { noise, peer: Some((peer, replaced(&payload)?)), mode })
    }

    /// Reads a first message under a ticket, which is taken out of the table once the message has authenticated:
    /// of two that name it, one finds it gone.
    fn read_resumption(&mut self, now: Now, first: &First) -> Result<Read, Failure> {
        let id = self.terms.pskid.ok_or(Failure::Unauthentic)?;
        let (noise, payload) = {
            let tickets = self.config.bases.tickets();
            let ticket = tickets.get(now, &id, &self.config.local.identifier).ok_or(Failure::Unauthentic)?;
            self.read(first, Some(ticket.secret()), None)?
        };
        let replaces = replaced(&payload)?;
        let ticket = self.config.bases.tickets().take(&id).ok_or(Failure::Unauthentic)?;
        self.outputs.push_back(Output::Spend(Role::Responder, id));
        let (peer, _) = introduced(&self.config, now, ticket.peer(), Some(ticket.remote()))?;
        Ok(Read { noise, peer: Some((peer, replaces)), mode: ticket.mode() })
    }

    fn read(
        &self,
        first: &First,
        psk: Option<&SharedSecret>,
        remote: Option<[u8; 32]>,
    ) -> Result<(Noise, Zeroizing<Vec<u8>>), Failure> {
        let setup = Setup {
            role: Role::Responder,
            terms: &self.terms,
            to: self.terms.bound.then_some(&self.config.local.identifier),
            psk,
            remote,
            agreements: first.agreements.clone(),
        };
        let noise = Noise::new(&setup, &self.config, &first.seed);
        noise.and_then(|noise| noise.read(&first.noise)).ok_or(Failure::Unauthentic)
    }

    fn receive_message(&mut self, now: Now, packet: &[u8]) {
        let Some(message) = Message::decode(packet).filter(|message| message.terms == self.terms) else {
            return;
        };
        match message.body {
            // The listener hands on only copies of the first message it let in.
            Body::First { .. } => self.repeat_second(now),
            Body::Third { noise } if self.terms.mode.third_lengths().contains(&noise.len()) => {
                self.receive_third(now, packet, noise);
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
        let State::Sent2 { awaited: Awaited::Third(noise), early, .. } = state else {
            self.state = state;
            return;
        };
        let read = noise.read(message).and_then(|(noise, payload)| {
            let remote = noise.remote_static()?;
            Some((noise.finish()?, remote, payload))
        });
        let Some((split, remote, payload)) = read else {
            return self.fail(Failure::Unauthentic);
        };
        let peer = match verify(&self.config, now, &payload, &remote, None) {
            Ok(peer) => peer,
            Err(failure) => return self.fail(failure),
        };
        let terms = (&self.terms, self.terms.mode);
        let mut session = session(&self.config, now, terms, Role::Responder, split, &peer);
        let body = session.binding.confirm(Role::Responder, None);
        session.confirmation = Confirmation::new(Answers::Third(onward_keys::hash(packet)), body);
        let replaces = peer.replaces();
        let ready = Box::new(Ready { session, peer, replaced: None });
        match replaces {
            None => self.ask_for_place(ready, early),
            Some(id) => {
                self.outputs.push_back(Output::Find(id));
                self.state = State::Finding { ready, early };
            }
        }
    }

    /// The driver has looked for the channel to be replaced. If it is there, the initiator still has to prove that it
    /// knows it; if not, this is a channel of its own.
    fn receive_predecessor(&mut self, now: Now, predecessor: Option<Predecessor>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Finding { mut ready, early } => {
                ready.replaced = predecessor.filter(|found| found.may_become(&ready.session.binding));
                if ready.replaced.is_none() {
                    return self.ask_for_place(ready, early);
                }
                let body = ready.session.binding.confirm(Role::Responder, None);
                ready.session.confirmation = Confirmation::new(Answers::Confirms, body);
                self.state = State::Sent2 {
                    awaited: Awaited::Confirm(ready),
                    packet: Vec::new(),
                    sent: now.mono,
                    resent: RESENDS_MAX,
                    early,
                };
            }
            State::Sent2 { awaited: Awaited::Confirm(mut ready), packet, sent, resent, early } => {
                ready.replaced = predecessor.filter(|found| found.may_become(&ready.session.binding));
                self.state = State::Sent2 { awaited: Awaited::Confirm(ready), packet, sent, resent, early };
            }
            other => self.state = other,
        }
    }

    /// Keeps what comes early; the initiator's CONFIRM completes a handshake that waits for it.
    fn receive_record(&mut self, now: Now, record: &[u8]) {
        let (early, ready) = match &mut self.state {
            State::Sent2 { awaited: Awaited::Confirm(ready), early, .. } => (early, ready),
            State::Sent2 { early, .. } | State::Finding { early, .. } | State::Admitting { early, .. } => {
                return early.keep(record);
            }
            State::Agreeing { .. } | State::Over => return,
        };
        let mut opened = record.to_vec();
        let Ok(content) = ready.session.opener.peek(now, &mut opened) else {
            return;
        };
        let Content::Confirm(body) = content else {
            return early.keep(record);
        };
        let confirmed = ready.session.binding.confirmed(Role::Initiator, body, ready.replaced.as_ref());
        let State::Sent2 { awaited: Awaited::Confirm(mut ready), early, .. } =
            std::mem::replace(&mut self.state, State::Over)
        else {
            return;
        };
        let marked = ready.session.opener.open_in_place(now, &mut record.to_vec()).is_ok();
        match confirmed {
            _ if !marked => self.fail(Failure::Unauthentic),
            Confirmed::Nothing => self.fail(Failure::Unauthentic),
            Confirmed::Channel => {
                ready.replaced = None;
                self.ask_for_place(ready, early);
            }
            Confirmed::Successor => self.establish(now, ready, early),
        }
    }

    /// Only a channel that takes the place of another needs none of its own.
    fn ask_for_place(&mut self, ready: Box<Ready>, early: Early) {
        self.outputs.push_back(Output::Admit);
        self.state = State::Admitting { ready, early };
    }

    fn receive_place(&mut self, now: Now, admitted: bool) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Admitting { ready, early } if admitted => self.establish(now, ready, early),
            State::Admitting { mut ready, .. } => {
                let mut close = Vec::new();
                if ready.session.sealer.seal_close(now, CloseCode::Full, &mut close).is_ok() {
                    self.outputs.push_back(Output::Transmit(To::Peer, close));
                }
                self.fail(Failure::Full);
            }
            other => self.state = other,
        }
    }

    /// Sends this end's CONFIRM: the channel is ready. If it replaces another, both ends know that one.
    fn establish(&mut self, now: Now, ready: Box<Ready>, early: Early) {
        let Ready { mut session, peer, replaced } = *ready;
        if replaced.is_some() {
            let body = session.binding.confirm(Role::Responder, replaced.as_ref());
            session.confirmation = Confirmation::new(Answers::Confirms, body);
        }
        let mut confirm = Vec::new();
        if session.sealer.seal_confirm(now, &session.confirmation, &mut confirm).is_err() {
            return self.fail(Failure::Unauthentic);
        }
        self.state = State::Over;
        self.outputs.push_back(Output::Transmit(To::Peer, confirm));
        let replaces = replaced.map(|replaced| *replaced.id());
        let established = Established { session, peer, early: early.records, replaces };
        self.outputs.push_back(Output::Established(Box::new(established)));
    }

    fn next_time(&self) -> Duration {
        match &self.state {
            State::Agreeing { until, .. } => (*until).min(self.deadline),
            State::Sent2 { .. } | State::Finding { .. } | State::Admitting { .. } | State::Over => {
                self.deadline
            }
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
            State::Finding { .. } => "Finding",
            State::Admitting { .. } => "Admitting",
            State::Over => "Over",
        };
        f.debug_struct("Responder").field("state", &state).finish_non_exhaustive()
    }
}

/// What a first message without an identity says: the channel that it is to replace, or nothing.
fn replaced(payload: &[u8]) -> Result<Option<[u8; 32]>, Failure> {
    match payload.len() {
        0 => Ok(None),
        _ => payload.try_into().map(Some).map_err(|_| Failure::Unauthentic),
    }
}

const RESENDS_MAX: u8 = 4;
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
