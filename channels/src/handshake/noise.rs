//! One Noise handshake state, so wrapped that it cannot be used after a failure.
//!
//! snow restores only part of its state when a step fails, so every step here consumes the state and gives it back
//! only on success. The remote static key can be read only after the message that carried it has authenticated.
//!
//! Specification: docs/protocol.md §3.2, §3.5.

use onward_keys::{Backend, SharedSecret};
use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifier, HandshakeModifierList,
    HandshakePattern, HashChoice, KemChoice, NoiseParams,
};
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize as _, Zeroizing};

use crate::handshake::{HandshakeConfig, Terms};
use crate::identity::Identifier;
use crate::mode::{Mode, Suite};
use crate::resolver::{Agreements, Resolver};
use crate::session::Role;

/// A handshake under way.
pub(super) struct Noise {
    /// Boxed: 5 KiB, and every step moves it.
    state: Box<HandshakeState>,
    agreements: Agreements,
}

/// What a state begins with.
pub(super) struct Setup<'a> {
    pub(super) role: Role,
    pub(super) terms: &'a Terms,
    /// The responder's identifier, when the handshake is bound.
    pub(super) to: Option<&'a Identifier>,
    /// The pre-shared key, in the modes that have one.
    pub(super) psk: Option<&'a SharedSecret>,
    /// The peer's static key, where it is known before the first message.
    pub(super) remote: Option<[u8; 32]>,
    /// What the key service has answered, and what a step asked for in vain.
    pub(super) agreements: Agreements,
}

/// What a finished handshake leaves.
pub(super) struct Split {
    /// Initiator to responder.
    pub(super) k1: SharedSecret,
    /// Responder to initiator.
    pub(super) k2: SharedSecret,
    pub(super) hash: [u8; 32],
}

impl Noise {
    /// A fresh state; `seed` is used for nothing else, unless for a second attempt at the same first message.
    pub(super) fn new(setup: &Setup<'_>, config: &HandshakeConfig, seed: &[u8; 32]) -> Option<Self> {
        let Setup { role, terms, to, psk, remote, agreements } = setup;
        let resolver = Resolver::new(config.backend, seed, config.local.static_public, agreements.clone());
        let prologue = terms.prologue(*to, &config.app);
        let mut builder = Builder::with_resolver(params(terms.mode, terms.suite), Box::new(resolver))
            .prologue(&prologue)
            .ok()?
            // snow wants one set; the static key of our resolver ignores it.
            .local_private_key(&[0; 32])
            .ok()?;
        if let (Some(psk), Some(place)) = (psk, psk_place(terms.mode)) {
            builder = builder.psk(place, psk.as_bytes()).ok()?;
        }
        if let Some(remote) = remote {
            builder = builder.remote_public_key(remote).ok()?;
        }
        let state = match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        };
        Some(Self { state: Box::new(state.ok()?), agreements: agreements.clone() })
    }

    /// Puts the key service's answer for the static key and `peer` where the next step finds it.
    pub(super) fn agreed(&self, peer: [u8; 32], secret: SharedSecret) {
        self.agreements.insert(peer, secret);
    }

    /// Writes the next message around `payload`.
    pub(super) fn write(mut self, payload: &[u8]) -> Option<(Self, Vec<u8>)> {
        let mut message = vec![0; payload.len() + MESSAGE_ROOM];
        let length = self.state.write_message(payload, &mut message).ok()?;
        message.truncate(length);
        Some((self, message))
    }

    /// Reads the next message and returns its payload.
    pub(super) fn read(mut self, message: &[u8]) -> Option<(Self, Zeroizing<Vec<u8>>)> {
        let mut payload = Zeroizing::new(vec![0; message.len()]);
        let length = self.state.read_message(message, &mut payload).ok()?;
        payload.truncate(length);
        Some((self, payload))
    }

    /// The peer's static key, once a message that carries it has been read.
    pub(super) fn remote_static(&self) -> Option<[u8; 32]> {
        self.state.get_remote_static()?.try_into().ok()
    }

    /// The record keys and the handshake hash, if every message has been exchanged.
    pub(super) fn finish(mut self) -> Option<Split> {
        // The raw split does not check this itself.
        if !self.state.is_handshake_finished() {
            return None;
        }
        let hash = self.state.get_handshake_hash().try_into().ok()?;
        let (mut k1, mut k2) = self.state.dangerously_get_raw_split();
        let split = Split { k1: SharedSecret::new(&k1), k2: SharedSecret::new(&k2), hash };
        k1.zeroize();
        k2.zeroize();
        Some(split)
    }
}

/// snow wipes nothing itself. Another state, without secrets, is put where this one lies, so that its chaining key, its
/// pre-shared keys and its cipher keys do not stay behind in freed memory.
impl Drop for Noise {
    fn drop(&mut self) {
        let resolver = Resolver::new(Backend::Portable, &[0; 32], [0; 32], Agreements::default());
        let params = params(Mode::ClassicalXx, Suite::ChaChaPoly);
        let builder = Builder::with_resolver(params, Box::new(resolver)).local_private_key(&[0; 32]);
        if let Ok(mut blank) = builder.and_then(Builder::build_initiator) {
            for place in 0..=PSK_PLACE_MAX {
                let _ = blank.set_psk(place, &[0; 32]);
            }
            *self.state = blank;
        }
    }
}

/// The Noise protocol of a mode and suite. Built by hand, since snow parses no name with ML-KEM; what is hashed is
/// the name, and snow's one KEM choice is only a token for the KEM that our resolver supplies.
fn params(mode: Mode, suite: Suite) -> NoiseParams {
    let pattern = match mode {
        Mode::HybridXx | Mode::ClassicalXx | Mode::HybridXxPsk | Mode::ClassicalXxPsk => HandshakePattern::XX,
        Mode::HybridIk | Mode::ClassicalIk => HandshakePattern::IK,
        Mode::Kk => HandshakePattern::KK,
        Mode::Resumption => HandshakePattern::NN,
    };
    let hybrid = mode.is_hybrid().then_some(HandshakeModifier::Hfs);
    let modifiers = hybrid.into_iter().chain(psk_place(mode).map(HandshakeModifier::Psk)).collect();
    let kem = mode.is_hybrid().then_some(KemChoice::Kyber1024);
    let cipher = match suite {
        Suite::ChaChaPoly => CipherChoice::ChaChaPoly,
        Suite::AesGcm => CipherChoice::AESGCM,
    };
    NoiseParams::new(
        protocol_name(mode, suite),
        BaseChoice::Noise,
        HandshakeChoice { pattern, modifiers: HandshakeModifierList { list: modifiers } },
        DHChoice::Curve25519,
        kem,
        cipher,
        HashChoice::Blake2s,
    )
}

/// Which message the pre-shared key is mixed in with; 0 is before the first.
fn psk_place(mode: Mode) -> Option<u8> {
    match mode {
        Mode::HybridXxPsk | Mode::ClassicalXxPsk => Some(3),
        Mode::Resumption => Some(0),
        _ => None,
    }
}

/// The name that is hashed.
pub(crate) fn protocol_name(mode: Mode, suite: Suite) -> String {
    let handshake = match mode {
        Mode::HybridXx => "XXhfs_25519+MLKEM768",
        Mode::ClassicalXx => "XX_25519",
        Mode::HybridXxPsk => "XXhfs+psk3_25519+MLKEM768",
        Mode::ClassicalXxPsk => "XXpsk3_25519",
        Mode::HybridIk => "IKhfs_25519+MLKEM768",
        Mode::ClassicalIk => "IK_25519",
        Mode::Kk => "KK_25519",
        Mode::Resumption => "NNpsk0_25519",
    };
    let cipher = match suite {
        Suite::ChaChaPoly => "ChaChaPoly",
        Suite::AesGcm => "AESGCM",
    };
    format!("Noise_{handshake}_{cipher}_BLAKE2s")
}

/// The last place at which a mode mixes in a pre-shared key.
const PSK_PLACE_MAX: usize = 3;

/// More than any message of any mode adds to its payload.
const MESSAGE_ROOM: usize = 1_400;
