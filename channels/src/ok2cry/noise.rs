//! The Noise policies: one message of the one-way patterns N and X.
//!
//! Specification: docs/protocol.md §5.2; Noise rev. 34 §7.4.

use onward_keys::{Backend, SharedSecret};
use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifierList, HandshakePattern, HashChoice,
    NoiseParams,
};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::Opened;
use crate::resolver::{Agreements, Resolver};

/// The sealer's static key (purpose 8) in its vault: its public half, and its agreement with the disposable key.
pub struct NoiseSender {
    /// The public half.
    pub public: [u8; 32],
    /// What [`onward_keys::Vault::agree`] answered for the disposable public key.
    pub agreement: SharedSecret,
}

impl std::fmt::Debug for NoiseSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { public: _, agreement: _ } = self;
        f.debug_struct("NoiseSender").finish_non_exhaustive()
    }
}

/// Seals to `public`, with the sender's static key in pattern X, without one in pattern N. `None` for a key of low order.
pub(super) fn seal(
    sender: Option<NoiseSender>,
    public: &[u8; 32],
    prologue: &[u8],
    plaintext: &[u8],
    seed: &[u8; 32],
) -> Option<Vec<u8>> {
    let pattern = pattern(sender.is_some());
    let resolver = match sender {
        Some(NoiseSender { public: own, agreement }) => {
            let agreements = Agreements::default();
            agreements.insert(*public, agreement);
            Resolver::new(Backend::best(), seed, own, agreements)
        }
        None => Resolver::with_local_keys(Backend::best(), seed),
    };
    let with_static = pattern == HandshakePattern::X;
    let mut builder = Builder::with_resolver(params(pattern), Box::new(resolver)).prologue(prologue).ok()?;
    if with_static {
        // snow wants one set; the static key of our resolver ignores it.
        builder = builder.local_private_key(&[0; 32]).ok()?;
    }
    let mut state = builder.remote_public_key(public).ok()?.build_initiator().ok()?;
    let mut message = vec![0; plaintext.len() + MESSAGE_OVERHEAD_MAX];
    let len = state.write_message(plaintext, &mut message).ok()?;
    message.truncate(len);
    Some(message)
}

/// Opens what was sealed to the public key of `private`; in pattern X with the static key that the sealer proved.
pub(super) fn open(with_static: bool, private: &[u8; 32], prologue: &[u8], message: &[u8]) -> Option<Opened> {
    // A receiver of a one-way pattern draws nothing.
    let resolver = Resolver::with_local_keys(Backend::best(), &[0; 32]);
    let builder = Builder::with_resolver(params(pattern(with_static)), Box::new(resolver));
    let builder = builder.prologue(prologue).ok()?.local_private_key(private).ok()?;
    let mut state: HandshakeState = builder.build_responder().ok()?;
    let mut plaintext = Zeroizing::new(vec![0; message.len()]);
    let len = state.read_message(message, &mut plaintext).ok()?;
    plaintext.truncate(len);
    let sender = if with_static { Some(*state.get_remote_static()?.first_chunk()?) } else { None };
    Some(Opened { plaintext, sender })
}

fn pattern(with_static: bool) -> HandshakePattern {
    if with_static { HandshakePattern::X } else { HandshakePattern::N }
}

fn params(pattern: HandshakePattern) -> NoiseParams {
    let name = match pattern {
        HandshakePattern::X => "Noise_X_25519_ChaChaPoly_BLAKE2s",
        _ => "Noise_N_25519_ChaChaPoly_BLAKE2s",
    };
    NoiseParams::new(
        name.to_owned(),
        BaseChoice::Noise,
        HandshakeChoice { pattern, modifiers: HandshakeModifierList { list: Vec::new() } },
        DHChoice::Curve25519,
        None,
        CipherChoice::ChaChaPoly,
        HashChoice::Blake2s,
    )
}

/// Pattern X: an ephemeral key, a sealed static key, a tag.
const MESSAGE_OVERHEAD_MAX: usize = 32 + 48 + 16;
