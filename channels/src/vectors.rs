//! Published Noise vectors, run through our resolver on every backend.
//!
//! The vector files are those inside the published snow package; what is skipped is counted, so that a vector cannot
//! drop out unnoticed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;

use onward_keys::{Backend, CryptoRng};
use rand_core::{TryCryptoRng, TryRng};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use snow::params::{
    BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifier, HandshakeModifierList,
    HandshakePattern, HashChoice, KemChoice, NoiseParams,
};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Kem, Random};
use snow::{Builder, HandshakeState};

use crate::handshake::noise::protocol_name;
use crate::mode::{Mode, Suite};
use crate::resolver::{MlKem, Resolver};

/// Our resolver, with SHA-256 beside BLAKE2s and a KEM whose randomness is one repeated byte.
struct VectorResolver {
    ours: Resolver,
    backend: Backend,
    kem_byte: u8,
}

impl VectorResolver {
    fn boxed(backend: Backend, kem_byte: u8) -> Box<Self> {
        Box::new(Self { ours: Resolver::with_local_keys(backend, &[1; 32]), backend, kem_byte })
    }
}

impl CryptoResolver for VectorResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        self.ours.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        self.ours.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(NoiseSha256::default())),
            other => self.ours.resolve_hash(other),
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.ours.resolve_cipher(choice)
    }

    fn resolve_kem(&self, _choice: &KemChoice) -> Option<Box<dyn Kem>> {
        let random: Box<dyn CryptoRng + Send> = Box::new(OneByte(self.kem_byte));
        Some(Box::new(MlKem::new(self.backend, random)))
    }
}

struct OneByte(u8);

impl TryRng for OneByte {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_be_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_be_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
        output.fill(self.0);
        Ok(())
    }
}

impl TryCryptoRng for OneByte {}

#[derive(Default)]
struct NoiseSha256(Sha256);

impl Hash for NoiseSha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Sha256::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

#[derive(Deserialize)]
struct VectorFile {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    protocol_name: String,
    init_prologue: String,
    resp_prologue: String,
    #[serde(default)]
    init_psks: Vec<String>,
    #[serde(default)]
    resp_psks: Vec<String>,
    init_static: Option<String>,
    init_ephemeral: Option<String>,
    init_remote_static: Option<String>,
    resp_static: Option<String>,
    resp_ephemeral: Option<String>,
    resp_remote_static: Option<String>,
    handshake_hash: Option<String>,
    messages: Vec<VectorMessage>,
}

#[derive(Deserialize)]
struct VectorMessage {
    payload: String,
    ciphertext: String,
}

/// One end's keys as a vector gives them.
struct Keys<'a> {
    prologue: &'a str,
    psks: &'a [String],
    fixed: Option<&'a String>,
    ephemeral: Option<&'a String>,
    remote: Option<&'a String>,
}

#[test]
fn cacophony_vectors_pass_through_our_resolver() {
    let skipped = run_file("cacophony.txt", 944);
    let expected = [("curve 448", 472), ("hash BLAKE2b", 118), ("hash SHA512", 118)];
    assert_eq!(skipped, BTreeMap::from(expected));
}

#[test]
fn snow_vectors_pass_through_our_resolver() {
    let skipped = run_file("snow.txt", 408);
    assert_eq!(skipped, BTreeMap::from([("hash BLAKE2b", 102), ("hash SHA512", 102)]));
}

/// Which of the protocols of our modes the published files have; the hybrid ones are in neither.
#[test]
fn the_vectors_cover_the_protocols_of_the_modes() {
    let covered = |file: &str| -> Vec<(Mode, Suite)> {
        let text = std::fs::read_to_string(vector_folder().join(file)).unwrap();
        let file: VectorFile = serde_json::from_str(&text).unwrap();
        let names: Vec<_> = file.vectors.iter().map(|vector| vector.protocol_name.as_str()).collect();
        let pairs = Mode::ALL.into_iter().flat_map(Mode::in_every_suite);
        pairs.filter(|(mode, suite)| names.contains(&&*protocol_name(*mode, *suite))).collect()
    };
    let pairs = |modes: &[Mode]| -> Vec<_> { modes.iter().flat_map(|mode| mode.in_every_suite()).collect() };
    let classical = [Mode::ClassicalXx, Mode::ClassicalXxPsk, Mode::ClassicalIk, Mode::Kk, Mode::Resumption];
    assert_eq!(covered("cacophony.txt"), pairs(&classical));
    assert_eq!(covered("snow.txt"), pairs(&[Mode::ClassicalXx, Mode::ClassicalIk, Mode::Kk]));
}

/// Vector 1 of the libp2p draft for `Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256` (protocol
/// `/noise-mlkem768-hfs/0.2.0`, §11; fixture `pqc-test-vectors.json` of js-libp2p-noise). Its keys are repeated
/// bytes. The handshake hash covers every byte of all three messages.
#[test]
fn public_hybrid_vector_passes_through_our_resolver() {
    let build = |secret: u8, ephemeral: u8, kem_byte: u8, initiator: bool| {
        let (secret, ephemeral) = ([secret; 32], [ephemeral; 32]);
        let params = NoiseParams::new(
            "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256".to_owned(),
            BaseChoice::Noise,
            HandshakeChoice {
                pattern: HandshakePattern::XX,
                modifiers: HandshakeModifierList { list: vec![HandshakeModifier::Hfs] },
            },
            DHChoice::Curve25519,
            Some(KemChoice::Kyber1024),
            CipherChoice::ChaChaPoly,
            HashChoice::SHA256,
        );
        let builder = Builder::with_resolver(params, VectorResolver::boxed(Backend::Portable, kem_byte))
            .local_private_key(&secret)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral);
        if initiator { builder.build_initiator().unwrap() } else { builder.build_responder().unwrap() }
    };
    let mut initiator = build(0x11, 0x13, 0x15, true);
    let mut responder = build(0x12, 0x14, 0x16, false);
    let first = exchange(&mut initiator, &mut responder, b"");
    assert_eq!(first.len(), 1216);
    assert_eq!(
        hex::encode(&first[..40]),
        "197fc2c567dc03ee2aadf0ed86681dac24daa76e83ca555875dd3be7376e5306b989c17f78bdfc62"
    );
    let second = exchange(&mut responder, &mut initiator, b"");
    assert_eq!(second.len(), 1200);
    assert_eq!(
        hex::encode(&second[..48]),
        "18a6f8c1a7fddf22bd410138f79f7298cd38d1d0a542d4266d556be8609d886271fa9be2c46cc471c8d370b63d9a6025"
    );
    let third = exchange(&mut initiator, &mut responder, b"");
    assert_eq!(
        hex::encode(&third),
        "ecee945a65a96f34fdaf116d3c70727852b0a25eb350bf72bb088f21cb374ba5\
         0c973fdc4ea63d2065ac9ff9fb347f0700dcf7ec3bb3a3c01f84290c6d8931aa"
    );
    for state in [&mut initiator, &mut responder] {
        assert_eq!(
            hex::encode(state.get_handshake_hash()),
            "b5a3c9854777aa5dad0a633c769bcc6662713f20f14e0371e4bfd253e1869eef"
        );
        let (k1, k2) = state.dangerously_get_raw_split();
        assert_eq!(hex::encode(k1), "0a825d67cbf14170dcccf6f5c54d50f46a9a23541122654f5bec41ef0a5657e5");
        assert_eq!(hex::encode(k2), "f8546817671a440fd8df45b26fd6b45ebbf39e4207455ca12bc6d56ac0b35ebc");
    }
}

/// Runs what we have the primitives for; returns how many were skipped, by reason.
fn run_file(name: &str, total: usize) -> BTreeMap<&'static str, usize> {
    let text = std::fs::read_to_string(vector_folder().join(name)).unwrap();
    let file: VectorFile = serde_json::from_str(&text).unwrap();
    assert_eq!(file.vectors.len(), total);
    let mut skipped = BTreeMap::new();
    for vector in &file.vectors {
        let params: NoiseParams = vector.protocol_name.parse().unwrap();
        let reason = match (params.dh, params.hash) {
            (DHChoice::Curve448, _) => "curve 448",
            (_, HashChoice::Blake2b) => "hash BLAKE2b",
            (_, HashChoice::SHA512) => "hash SHA512",
            _ => {
                Backend::available().iter().for_each(|backend| run_vector(*backend, &params, vector));
                continue;
            }
        };
        *skipped.entry(reason).or_default() += 1;
    }
    skipped
}

fn run_vector(backend: Backend, params: &NoiseParams, vector: &Vector) {
    let initiator = Keys {
        prologue: &vector.init_prologue,
        psks: &vector.init_psks,
        fixed: vector.init_static.as_ref(),
        ephemeral: vector.init_ephemeral.as_ref(),
        remote: vector.init_remote_static.as_ref(),
    };
    let responder = Keys {
        prologue: &vector.resp_prologue,
        psks: &vector.resp_psks,
        fixed: vector.resp_static.as_ref(),
        ephemeral: vector.resp_ephemeral.as_ref(),
        remote: vector.resp_remote_static.as_ref(),
    };
    let mut ends = [build(backend, params, &initiator, true), build(backend, params, &responder, false)];
    let mut messages = vector.messages.iter().enumerate();
    while !ends[0].is_handshake_finished() {
        let (index, message) = messages.next().unwrap();
        let [initiator, responder] = &mut ends;
        let (from, to) = if index % 2 == 0 { (initiator, responder) } else { (responder, initiator) };
        let sent = exchange(from, to, &bytes(&message.payload));
        assert_eq!(hex::encode(sent), message.ciphertext, "{} message {index}", vector.protocol_name);
    }
    for end in &ends {
        if let Some(expected) = &vector.handshake_hash {
            assert_eq!(hex::encode(end.get_handshake_hash()), *expected, "{}", vector.protocol_name);
        }
    }
    let oneway = params.handshake.pattern.is_oneway();
    let mut ends = ends.map(|end| end.into_transport_mode().unwrap());
    for (index, message) in messages {
        let [initiator, responder] = &mut ends;
        let (from, to) =
            if oneway || index % 2 == 0 { (initiator, responder) } else { (responder, initiator) };
        let (mut sealed, mut opened) = (vec![0; 1024], vec![0; 1024]);
        let length = from.write_message(&bytes(&message.payload), &mut sealed).unwrap();
        assert_eq!(hex::encode(&sealed[..length]), message.ciphertext, "{}", vector.protocol_name);
        let length = to.read_message(&sealed[..length], &mut opened).unwrap();
        assert_eq!(hex::encode(&opened[..length]), message.payload);
    }
}

fn build(backend: Backend, params: &NoiseParams, keys: &Keys<'_>, initiator: bool) -> HandshakeState {
    let decoded = |text: Option<&String>| text.map(|text| bytes(text));
    let (fixed, ephemeral, remote) = (decoded(keys.fixed), decoded(keys.ephemeral), decoded(keys.remote));
    let prologue = bytes(keys.prologue);
    let psks: Vec<[u8; 32]> = keys.psks.iter().map(|psk| bytes(psk).try_into().unwrap()).collect();
    let places = params.handshake.modifiers.list.iter().filter_map(|modifier| match modifier {
        HandshakeModifier::Psk(place) => Some(*place),
        _ => None,
    });
    let mut builder = Builder::with_resolver(params.clone(), VectorResolver::boxed(backend, 0))
        .prologue(&prologue)
        .unwrap();
    for (place, psk) in places.zip(&psks) {
        builder = builder.psk(place, psk).unwrap();
    }
    if let Some(fixed) = &fixed {
        builder = builder.local_private_key(fixed).unwrap();
    }
    if let Some(remote) = &remote {
        builder = builder.remote_public_key(remote).unwrap();
    }
    if let Some(ephemeral) = &ephemeral {
        builder = builder.fixed_ephemeral_key_for_testing_only(ephemeral);
    }
    if initiator { builder.build_initiator().unwrap() } else { builder.build_responder().unwrap() }
}

/// Sends one handshake message and checks that its payload arrives; returns the message.
fn exchange(from: &mut HandshakeState, to: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let (mut message, mut opened) = (vec![0; 4096], vec![0; 4096]);
    let length = from.write_message(payload, &mut message).unwrap();
    message.truncate(length);
    let length = to.read_message(&message, &mut opened).unwrap();
    assert_eq!(&opened[..length], payload);
    message
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// Where cargo keeps the sources of the snow package, which contains the vectors.
fn vector_folder() -> PathBuf {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        manifest_path: PathBuf,
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    let snow = metadata.packages.into_iter().find(|package| package.name == "snow").unwrap();
    snow.manifest_path.parent().map(|folder: &Path| folder.join("tests/vectors")).unwrap()
}
