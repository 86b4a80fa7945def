//! Histories: what may follow what, and what an old key is still good for.

use onward_channels::identity::{
    Attestation, Attributes, CHANGES_MAX, Commitment, Credential, History, HistoryRule, Identity,
    IdentityChange, IdentityError, KeyAttest, Misuse, Purpose,
};
use onward_keys::{
    KeyId, KeyUsage, PublicKey, Signature, SignatureAlgorithm, SignatureType, Vault as _, signed_bytes,
};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;

use crate::fixture::{DAY, NOW, Person, YEAR, body, changes, done, history_of, payload_of, signed};

/// The newest change of `identity`, to be altered.
fn newest(identity: &Identity) -> IdentityChange {
    identity.history().newest().clone()
}

/// The history of `before` followed by `change`, signed by the keys in this order.
fn followed_by(person: &Person, change: &IdentityChange, signers: &[KeyId]) -> History {
    let change = body(change);
    let signatures: Vec<Signature> =
        signers.iter().map(|key| person.sign(*key, SignatureType::IdentityChange, &change)).collect();
    let mut all = changes(person.identity.history().history());
    all.push(signed(&change, &signatures));
    history_of(&all).unwrap()
}

/// The honest second change of `person`, and the keys that sign it.
fn second_change(person: &Person) -> (IdentityChange, [KeyId; 2]) {
    let next = person.identity.next_key().unwrap();
    let change = IdentityChange {
        seq: 1,
        previous: Some(person.identity.history().newest_hash()),
        key: person.public(next),
        next: None,
        valid_from: NOW + DAY,
        valid_until: NOW + YEAR,
        revoke_all: false,
    };
    (change, [next, person.identity.key()])
}

/// What `person`'s first key says of its channel key, whatever has become of that first key.
fn attested_by_first_key(person: &Person, iat: u64, exp: u64) -> Attestation {
    let attest = body(&KeyAttest { iat, exp, ..person.attestation.attest().clone() });
    let signature = person.sign(person.identity.key(), SignatureType::KeyAttest, &attest);
    Attestation::new(signed(&attest, &[signature])).unwrap()
}

/// The body of the only change of an identity with this ECDSA key.
fn first_change_of(key: &SigningKey) -> Vec<u8> {
    let sec1 = key.verifying_key().to_sec1_point(true);
    body(&IdentityChange {
        seq: 0,
        previous: None,
        key: PublicKey::new(SignatureAlgorithm::EcdsaP256, sec1.as_bytes()).unwrap(),
        next: None,
        valid_from: NOW,
        valid_until: NOW + YEAR,
        revoke_all: false,
    })
}

fn ecdsa(signature: p256::ecdsa::Signature) -> Signature {
    let bytes = signature.to_bytes().to_vec();
    Signature { algorithm: SignatureAlgorithm::EcdsaP256, bytes }
}

fn broken(history: History) -> (usize, HistoryRule) {
    match history.verify() {
        Err(IdentityError::BrokenHistory { seq, rule }) => (seq, rule),
        other => panic!("not broken: {other:?}"),
    }
}

#[test]
fn an_identity_changes_thirty_one_times_and_stays_the_same() {
    let person = Person::new();
    let mut identity = person.identity.clone();
    for seq in 1..CHANGES_MAX {
        identity = done(identity.rotate(&person.vault, NOW + seq, YEAR)).unwrap();
        assert_eq!(identity.identifier(), person.id());
        assert_eq!(u64::from(newest(&identity).seq), seq);
    }
    assert_eq!(identity.history().history().changes().count(), 32);
    assert_eq!(identity.next_key(), None);
    let refused = done(identity.rotate(&person.vault, NOW + 40, YEAR));
    assert!(matches!(refused, Err(IdentityError::Misuse(Misuse::LastChange))));
    let read = History::decode(&identity.history().history().encode()).unwrap();
    assert_eq!(&read.verify().unwrap(), identity.history());
}

#[test]
fn the_rules_of_a_change_are_each_enforced() {
    let person = Person::new();
    let (honest, signers) = second_change(&person);
    assert!(followed_by(&person, &honest, &signers).verify().is_ok());

    let change = |alter: fn(&mut IdentityChange)| {
        let mut change = honest.clone();
        alter(&mut change);
        broken(followed_by(&person, &change, &signers))
    };
    assert_eq!(change(|change| change.seq = 2), (1, HistoryRule::Sequence));
    assert_eq!(change(|change| change.seq = 0), (1, HistoryRule::Sequence));
    assert_eq!(change(|change| change.previous = None), (1, HistoryRule::Previous));
    assert_eq!(change(|change| change.valid_until = change.valid_from), (1, HistoryRule::EmptyWindow));
    assert_eq!(change(|change| change.valid_from = NOW - 1), (1, HistoryRule::OutsideWindow));
}

#[test]
fn a_change_needs_both_signatures_in_their_order() {
    let person = Person::new();
    let (change, [new, old]) = second_change(&person);
    for signers in [&[][..], &[new], &[old], &[new, old, old]] {
        let refused = followed_by(&person, &change, signers).verify();
        assert!(matches!(refused, Err(IdentityError::SignatureCount { expected: 2, .. })));
    }
    for signers in [[old, new], [new, new], [old, old]] {
        let refused = followed_by(&person, &change, &signers).verify();
        assert!(matches!(refused, Err(IdentityError::BadSignature { .. })));
    }
}

#[test]
fn n3_3_credential_or_attestation_as_a_change_is_refused() {
    let person = Person::new();
    let refused = history_of(&[person.attestation.signed().clone()]);
    assert!(matches!(refused, Err(IdentityError::Malformed(_))));

    let change = person.identity.history().newest_hash();
    let credential = body(&Credential {
        id: [1; 16],
        issuer: person.id(),
        subject: person.id(),
        change,
        schema: "member".to_owned(),
        attributes: Attributes::default(),
        iat: NOW,
        exp: NOW + DAY,
    });
    let key = done(person.vault.generate(KeyUsage::CredentialSigning)).unwrap();
    let signature = person.sign(key, SignatureType::Credential, &credential);
    let refused = history_of(&[signed(&credential, &[signature])]);
    assert!(matches!(refused, Err(IdentityError::Malformed(_))));
}

#[test]
fn n3_3_change_signed_as_another_type_is_refused() {
    // A key outside any vault, which signs whatever it is given.
    let key = SigningKey::from_slice(&[0x42; 32]).unwrap();
    let change = first_change_of(&key);
    for kind in SignatureType::ALL {
        let made: p256::ecdsa::Signature = key.sign(&signed_bytes(kind, &change));
        let history = history_of(&[signed(&change, &[ecdsa(made.normalize_s())])]).unwrap();
        let accepted = history.verify().is_ok();
        assert_eq!(accepted, kind == SignatureType::IdentityChange, "{kind}");
    }
}

#[test]
fn n3_4_history_without_its_beginning_is_refused() {
    let mut person = Person::new();
    person.identity = done(person.identity.rotate(&person.vault, NOW + 1, YEAR)).unwrap();
    let all = changes(person.identity.history().history());
    let headless = history_of(&all[1..]).unwrap();
    assert_ne!(headless.identifier(), person.id());
    assert_eq!(broken(headless), (0, HistoryRule::Sequence));
}

#[test]
fn n3_4_expired_key_signing_the_next_change_is_refused() {
    let person = Person::new();
    let (mut change, signers) = second_change(&person);
    change.valid_until = NOW + 3 * YEAR;
    change.valid_from = NOW + YEAR - 1;
    assert!(followed_by(&person, &change, &signers).verify().is_ok());
    change.valid_from = NOW + YEAR;
    assert_eq!(broken(followed_by(&person, &change, &signers)), (1, HistoryRule::OutsideWindow));
    let refused = done(person.identity.rotate(&person.vault, NOW + YEAR, YEAR));
    assert!(matches!(refused, Err(IdentityError::Misuse(Misuse::NotInForce))));
}

#[test]
fn n3_4_high_s_ecdsa_is_refused() {
    let key = SigningKey::from_slice(&[0x42; 32]).unwrap();
    let change = first_change_of(&key);
    let message = signed_bytes(SignatureType::IdentityChange, &change);
    let made: p256::ecdsa::Signature = key.sign(&message);
    let low = made.normalize_s();
    let high = p256::ecdsa::Signature::from_scalars(low.r(), -*low.s()).unwrap();
    let verify = |signature| {
        let history = history_of(&[signed(&change, &[ecdsa(signature)])]).unwrap();
        history.verify()
    };
    assert!(verify(low).is_ok());
    assert!(matches!(verify(high), Err(IdentityError::BadSignature { .. })));
}

#[test]
fn n3_15_old_key_attests_nothing_after_rotation() {
    let person = Person::new();
    let rotated = done(person.identity.rotate(&person.vault, NOW + 100, YEAR)).unwrap();
    let history = rotated.history().history();
    let accepted =
        |iat| person.verify(&payload_of(history, &attested_by_first_key(&person, iat, NOW + DAY)), NOW + 200);
    // What it attested before stays; from the moment of the rotation on it says nothing more.
    assert!(accepted(NOW + 99).is_ok());
    assert!(matches!(accepted(NOW + 100), Err(IdentityError::KeyNotInForce { iat }) if iat == NOW + 100));
    assert!(matches!(accepted(NOW + 150), Err(IdentityError::KeyNotInForce { .. })));
    assert!(matches!(accepted(NOW - 1), Err(IdentityError::KeyNotInForce { .. })));
    let refused = done(rotated.attest(&person.vault, Purpose::CHANNEL_STATIC, &[9; 32], NOW + 99, NOW + DAY));
    assert!(matches!(refused, Err(IdentityError::Misuse(Misuse::NotInForce))));
}

#[test]
fn n3_15_old_key_attests_nothing_after_its_window() {
    let person = Person::new();
    let history = person.identity.history().history();
    let accepted = |iat| {
        let attestation = attested_by_first_key(&person, iat, iat + DAY);
        person.verify(&payload_of(history, &attestation), iat)
    };
    assert!(accepted(NOW + YEAR - 1).is_ok());
    assert!(matches!(accepted(NOW + YEAR), Err(IdentityError::KeyNotInForce { .. })));
}

#[test]
fn n3_15_revocation_voids_what_the_old_key_ever_attested() {
    let person = Person::new();
    let revoked = done(person.identity.revoke(&person.vault, NOW + 100, YEAR)).unwrap();
    for identity in [revoked.clone(), done(revoked.rotate(&person.vault, NOW + 110, YEAR)).unwrap()] {
        for iat in [NOW, NOW + 99, NOW + 150] {
            let attestation = attested_by_first_key(&person, iat, NOW + DAY);
            let refused = person.verify(&payload_of(identity.history().history(), &attestation), NOW + 200);
            assert!(matches!(refused, Err(IdentityError::Revoked)));
        }
    }
    // The new key attests the same static key again.
    let purpose = Purpose::CHANNEL_STATIC;
    let attestation =
        done(revoked.attest(&person.vault, purpose, &person.noise_static, NOW + 100, NOW + DAY)).unwrap();
    assert!(person.verify(&payload_of(revoked.history().history(), &attestation), NOW + 200).is_ok());
}

#[test]
fn n3_15_change_to_a_key_that_was_not_announced_is_refused() {
    let person = Person::new();
    // A thief of the current key signs with it, but the next key lies elsewhere.
    let (mut change, [_, stolen]) = second_change(&person);
    let thief = done(person.vault.generate(KeyUsage::Identity)).unwrap();
    change.key = person.public(thief);
    assert_eq!(broken(followed_by(&person, &change, &[thief, stolen])), (1, HistoryRule::Commitment));
    assert_ne!(Commitment::to(&change.key), person.identity.history().newest().next.unwrap());
}

#[test]
fn n3_15_change_after_the_last_is_refused() {
    let mut person = Person::new();
    let (change, signers) = second_change(&person);
    assert_eq!(change.next, None);
    let ended = followed_by(&person, &change, &signers).verify().unwrap();
    let stored = {
        // The identity as its owner would store it after that last change.
        let mut e = minicbor::Encoder::new(Vec::new());
        e.array(4).unwrap().u8(1).unwrap().encode(ended.history()).unwrap();
        e.bytes(signers[0].as_bytes()).unwrap().null().unwrap();
        e.into_writer()
    };
    person.identity = Identity::decode(&stored).unwrap();
    let refused = done(person.identity.rotate(&person.vault, NOW + 2 * DAY, YEAR));
    assert!(matches!(refused, Err(IdentityError::Misuse(Misuse::LastChange))));
    let third =
        IdentityChange { seq: 2, previous: Some(ended.newest_hash()), valid_from: NOW + 2 * DAY, ..change };
    assert_eq!(broken(followed_by(&person, &third, &[signers[0], signers[0]])), (2, HistoryRule::Commitment));
}

#[test]
fn a_key_that_does_not_fit_its_algorithm_is_refused() {
    let person = Person::new();
    let first = body(&newest(&person.identity));
    // [v, seq, prev, alg, key ..]: Ed25519 called ECDSA, ML-DSA, unknown.
    assert_eq!(first[..6], [0x89, 0x01, 0x00, 0xf6, 0x01, 0x58]);
    for algorithm in [0x00, 0x02, 0x03, 0x04] {
        let mut other = first.clone();
        other[4] = algorithm;
        let signature = person.sign(person.identity.key(), SignatureType::IdentityChange, &other);
        assert!(matches!(history_of(&[signed(&other, &[signature])]), Err(IdentityError::Malformed(_))));
    }
}
