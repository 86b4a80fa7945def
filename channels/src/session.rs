//! An established channel: sealing what goes out, opening what comes in, and when something is due.
//!
//! The two directions share no key and are two values, so that one task may open while another seals. They meet
//! in the [`Pulse`] only: atomics through which the timers, all kept by the [`Sealer`], learn what was heard.
//! Nothing here decides where bytes go, and a record that is refused leaves no trace but a memoised candidate key.
//!
//! Specification: docs/protocol.md §3.3, §3.4.

mod opener;
mod sealer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onward_keys::{AeadAlgorithm, Backend, SharedSecret};
use subtle::ConstantTimeEq as _;

use crate::Now;
use crate::schedule::Binding;
use crate::time::Profile;

pub use opener::Opener;
pub use sealer::{Due, FragmentPlan, PlannedFragment, Reserved, Sealer};

/// An established channel. Take it apart into its three fields: each may live with another task.
#[derive(Debug)]
pub struct Session {
    /// Seals what this end sends; keeps the channel's timers.
    pub sealer: Sealer,
    /// Opens what this end receives.
    pub opener: Opener,
    /// What both ends derived from the handshake: channel binding and exporter.
    pub binding: Binding,
    /// This end's CONFIRM, and what is answered with it again.
    pub confirmation: Confirmation,
}

impl Session {
    /// Starts the record layer under the two keys that the handshake gave.
    pub(crate) fn new(start: SessionStart, confirmation: Confirmation) -> Self {
        let SessionStart { now, backend, algorithm, outgoing, incoming, binding, profile, role, padding } =
            start;
        let pulse = Arc::new(Pulse::new(now, profile));
        let sealer = Sealer::new(now, backend, algorithm, &outgoing, role, padding, Arc::clone(&pulse));
        let opener = Opener::new(backend, algorithm, &incoming, pulse);
        Self { sealer, opener, binding, confirmation }
    }
}

/// What [`Session::new`] needs.
pub(crate) struct SessionStart {
    pub(crate) now: Now,
    pub(crate) backend: Backend,
    pub(crate) algorithm: AeadAlgorithm,
    pub(crate) outgoing: SharedSecret,
    pub(crate) incoming: SharedSecret,
    pub(crate) binding: Binding,
    pub(crate) profile: Arc<Profile>,
    pub(crate) role: Role,
    pub(crate) padding: crate::record::Padding,
}

/// Which end of a channel this is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// It sent the first message, and alone starts new handshakes.
    Initiator,
    /// It answered.
    Responder,
}

/// What is left of the handshake once a channel is ready: its CONFIRM, and which packets ask for it again.
///
/// A responder whose CONFIRM was lost sees its peer's last packet again, be it the third message or a CONFIRM, and
/// must confirm again, as a new record.
pub struct Confirmation {
    answers: Answers,
    /// The body of this end's CONFIRM.
    body: Vec<u8>,
}

/// What a ready channel answers with a CONFIRM.
pub(crate) enum Answers {
    /// Nothing: the initiator's end, which ignores every later handshake message and CONFIRM.
    Nothing,
    /// The accepted third message, of which this is H.
    Third([u8; 32]),
    /// Every CONFIRM of the peer.
    Confirms,
}

impl Confirmation {
    pub(crate) fn new(answers: Answers, body: Vec<u8>) -> Self {
        Self { answers, body }
    }

    /// Whether `packet` is the accepted third message again: answer it with [`Sealer::seal_confirm`], and drop
    /// every other handshake message that reaches a ready channel.
    #[must_use]
    pub fn is_repeated(&self, packet: &[u8]) -> bool {
        matches!(self.answers, Answers::Third(hash) if hash.ct_eq(&onward_keys::hash(packet)).into())
    }

    /// Whether a CONFIRM of the peer is answered with [`Sealer::seal_confirm`].
    #[must_use]
    pub fn answers_confirms(&self) -> bool {
        matches!(self.answers, Answers::Confirms)
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers: _, body: _ } = self;
        f.debug_struct("Confirmation").finish_non_exhaustive()
    }
}

/// What the two directions tell each other: when something authentic was last heard, and whether the opener wants
/// a new handshake; and the times that both keep.
pub(crate) struct Pulse {
    /// Milliseconds of [`Now::mono`].
    heard: AtomicU64,
    /// When there last was reason to think that the peer lost the channel, as `heard`.
    suspected: AtomicU64,
    renewal: AtomicBool,
    profile: Arc<Profile>,
}

impl Pulse {
    fn new(now: Now, profile: Arc<Profile>) -> Self {
        Self {
            heard: AtomicU64::new(millis(now.mono)),
            suspected: AtomicU64::new(0),
            renewal: AtomicBool::new(false),
            profile,
        }
    }

    /// Relaxed: a timer that sees an old value only fires and looks again.
    fn hear(&self, now: Now) {
        self.heard.store(millis(now.mono), Ordering::Relaxed);
    }

    fn heard(&self) -> Duration {
        Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    fn suspect(&self, now: Now) {
        self.suspected.store(millis(now.mono), Ordering::Relaxed);
    }

    fn suspected(&self) -> Duration {
        Duration::from_millis(self.suspected.load(Ordering::Relaxed))
    }

    fn want_renewal(&self) {
        self.renewal.store(true, Ordering::Relaxed);
    }

    fn wants_renewal(&self) -> bool {
        self.renewal.load(Ordering::Relaxed)
    }

    fn forget_renewal(&self) {
        self.renewal.store(false, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use onward_keys::TAG_BYTES;
    use snow::{Builder, StatelessTransportState};

    use super::*;
    use crate::identity::Identifier;
    use crate::mode::Mode;
    use crate::record::{Content, FrameType, HEAD_BYTES, Padding, Sequence};
    use crate::replay::ReplayWindow;
    use crate::resolver::Resolver;

    fn now(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), unix: 0 }
    }

    fn session(
        role: Role,
        backend: Backend,
        algorithm: AeadAlgorithm,
        outgoing: u8,
        incoming: u8,
    ) -> Session {
        let (k1, k2) = (SharedSecret::new(&[1; 32]), SharedSecret::new(&[2; 32]));
        let (ours, theirs) = (Identifier::from_bytes([3; 32]), Identifier::from_bytes([4; 32]));
        let start = SessionStart {
            now: now(0),
            backend,
            algorithm,
            outgoing: SharedSecret::new(&[outgoing; 32]),
            incoming: SharedSecret::new(&[incoming; 32]),
            binding: Binding::derive(Mode::HybridXx, &k1, &k2, &[5; 32], [ours, theirs]),
            profile: Arc::default(),
            role,
            padding: Padding::None,
        };
        Session::new(start, Confirmation::new(Answers::Nothing, Vec::new()))
    }

    /// Both ends of a stock Noise transport; what keys it begins with does not matter, they are replaced.
    fn stock(backend: Backend, name: &str) -> [StatelessTransportState; 2] {
        let build = |initiator: bool| {
            let resolver = Resolver::with_local_keys(backend, &[u8::from(initiator); 32]);
            let builder = Builder::with_resolver(name.parse().unwrap(), Box::new(resolver));
            if initiator { builder.build_initiator() } else { builder.build_responder() }.unwrap()
        };
        let (mut initiator, mut responder) = (build(true), build(false));
        let (mut message, mut payload) = ([0; 256], [0; 256]);
        let length = initiator.write_message(&[], &mut message).unwrap();
        responder.read_message(&message[..length], &mut payload).unwrap();
        let length = responder.write_message(&[], &mut message).unwrap();
        initiator.read_message(&message[..length], &mut payload).unwrap();
        [initiator, responder].map(|state| {
            let mut state = state.into_stateless_transport_mode().unwrap();
            state.rekey_manually(Some(&[7; 32]), Some(&[8; 32]));
            state
        })
    }

    #[test]
    fn records_equal_those_of_a_stock_noise_transport_with_rekeys() {
        for (algorithm, name) in [
            (AeadAlgorithm::ChaCha20Poly1305, "Noise_NN_25519_ChaChaPoly_BLAKE2s"),
            (AeadAlgorithm::Aes256Gcm, "Noise_NN_25519_AESGCM_BLAKE2s"),
        ] {
            for backend in Backend::available() {
                let [mut theirs, mut their_peer] = stock(*backend, name);
                let mut ours = session(Role::Initiator, *backend, algorithm, 7, 8);
                let mut our_peer = session(Role::Responder, *backend, algorithm, 8, 7);
                for number in 0..3 * 65_536u64 + 10 {
                    if number > 0 && number % 65_536 == 0 {
                        theirs.rekey_outgoing();
                        their_peer.rekey_incoming();
                    }
                    // Numbers in the middle of an epoch are skipped: they would only repeat the comparison.
                    if (20..65_500).contains(&(number % 65_536)) {
                        ours.sealer.reserve(now(0), FrameType::Data, 8).unwrap();
                        continue;
                    }
                    let body = number.to_be_bytes();
                    let mut record = Vec::new();
                    let write = |out: &mut Vec<u8>| out.extend_from_slice(&body);
                    ours.sealer.seal_into(now(0), FrameType::Data, 8, write, &mut record).unwrap();
                    let plaintext = [&[1][..], &body, &[0x80]].concat();
                    let mut stock = [0; 64];
                    let length = theirs.write_message(number, &plaintext, &mut stock).unwrap();
                    assert_eq!(record[..HEAD_BYTES], number.to_be_bytes());
                    assert_eq!(record[HEAD_BYTES..], stock[..length], "{name} {number}");
                    let mut opened = [0; 64];
                    let length = their_peer.read_message(number, &record[HEAD_BYTES..], &mut opened).unwrap();
                    assert_eq!(opened[..length], plaintext);
                    let frame = our_peer.opener.open_in_place(now(0), &mut record).unwrap();
                    assert_eq!(frame.content, Content::Data(&body));
                }
            }
        }
    }

    #[test]
    fn an_idle_channel_stays_small() {
        let counts = 2 * size_of::<usize>();
        let shared = counts + size_of::<crate::epoch::EpochKey>() + counts + size_of::<Pulse>();
        // `onward-keys` holds each context below this, with what it owns.
        let contexts = 2 * 1024;
        let values = size_of::<Sealer>() + size_of::<Opener>();
        assert!(values <= 512, "{values} bytes");
        assert!(shared + contexts <= 2560, "{shared} bytes beside the contexts");
        let mut session = session(Role::Initiator, Backend::best(), AeadAlgorithm::Aes256Gcm, 7, 8);
        assert_eq!(session.opener.memoised_keys(), 0);
        session.opener.erase_expired(now(60));
        assert_eq!(session.opener.deadline(), None, "no previous epoch is kept");
    }

    #[test]
    fn n3_7_forged_far_numbers_cost_their_keys_once() {
        for backend in Backend::available() {
            let mut ours = session(Role::Responder, *backend, AeadAlgorithm::Aes256Gcm, 8, 7);
            for number in [64 << 16, 1 << 16, 64 << 16, 2 << 16] {
                let mut forged = vec![0; HEAD_BYTES + 2 + TAG_BYTES];
                forged[..HEAD_BYTES].copy_from_slice(&u64::to_be_bytes(number));
                let refused = ours.opener.open_in_place(now(0), &mut forged);
                assert!(matches!(refused, Err(crate::ChannelError::Unauthentic)));
                assert_eq!(ours.opener.memoised_keys(), 64);
            }
            let mut peer = session(Role::Initiator, *backend, AeadAlgorithm::Aes256Gcm, 7, 8);
            let mut record = Vec::new();
            peer.sealer.seal_empty(now(0), FrameType::KeepAlive, &mut record).unwrap();
            ours.opener.open_in_place(now(0), &mut record).unwrap();
            let mut record = Vec::new();
            peer.sealer.seal_empty(now(120), FrameType::KeepAlive, &mut record).unwrap();
            ours.opener.open_in_place(now(120), &mut record).unwrap();
            assert_eq!(ours.opener.memoised_keys(), 63);
        }
    }

    #[test]
    fn the_pulse_and_the_window_are_what_the_protocol_says() {
        assert_eq!(ReplayWindow::WIDTH, 1984);
        assert_eq!(Sequence::new(65_535).epoch(), 0);
        assert_eq!(Sequence::new(65_536).epoch(), 1);
        let pulse = Pulse::new(now(3), Arc::default());
        assert_eq!(pulse.heard(), Duration::from_secs(3));
        assert!(!pulse.wants_renewal());
        pulse.want_renewal();
        assert!(pulse.wants_renewal());
    }
}
