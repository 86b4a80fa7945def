//! Payloads: the attestation of the key in use, and strictness.

use onward_channels::identity::{
    Attestation, Identifier, IdentityError, KeyAttest, KnownHistories, Params, Purpose, Trust,
    channel_payload, fuzzing, verify_payload,
};
use onward_keys::SignatureType;
use proptest::prelude::*;

use crate::fixture::{DAY, NOW, Person, body, payload_of, signed};

#[test]
fn a_payload_proves_its_sender() {
    let alice = Person::new();
    let peer = alice.verify(&alice.payload(), NOW).unwrap();
    assert_eq!(peer.identifier(), alice.id());
    assert_eq!(peer.attest().key, alice.noise_static);
    assert_eq!(peer.valid_until(), NOW + DAY);
    assert_eq!(peer.replaces(), None);
}

#[test]
fn padding_and_the_replaced_channel_travel_along() {
    let alice = Person::new();
    let payload =
        |pad| channel_payload(&alice.identity, &alice.attestation, &[], &Params::replacing(&[7; 32]), pad);
    let padded = payload(1024).unwrap();
    assert_eq!(padded.len(), payload(0).unwrap().len() + 1024 + 2);
    assert_eq!(alice.verify(&padded, NOW).unwrap().replaces(), Some([7; 32]));
    assert!(matches!(payload(1025), Err(IdentityError::Misuse(_))));
}

#[test]
fn n3_3_attestation_for_another_static_is_refused() {
    let (alice, mallory) = (Person::new(), Person::new());
    let known = KnownHistories::default();
    let trust = Trust::dangerously_any();
    let refused = verify_payload(&alice.payload(), &mallory.noise_static, None, NOW, &trust, &known);
    assert!(matches!(refused, Err(IdentityError::OtherKey)));
}

#[test]
fn n3_3_attestation_of_another_subject_is_refused() {
    let (alice, mallory) = (Person::new(), Person::new());
    // Mallory's own attestation beside Alice's history.
    let borrowed = alice.payload_with(&mallory.attestation);
    assert!(matches!(mallory.verify(&borrowed, NOW), Err(IdentityError::OtherSubject(_))));

    // Mallory attests in Alice's name, naming his change or hers.
    let attest = |change| {
        let key = mallory.noise_static.to_vec();
        let purpose = Purpose::CHANNEL_STATIC;
        let attest = body(&KeyAttest { subject: alice.id(), change, purpose, key, iat: NOW, exp: NOW + DAY });
        let signature = mallory.sign(mallory.identity.key(), SignatureType::KeyAttest, &attest);
        alice.payload_with(&Attestation::new(signed(&attest, &[signature])).unwrap())
    };
    let named = attest(mallory.identity.history().newest_hash());
    assert!(matches!(mallory.verify(&named, NOW), Err(IdentityError::UnknownChange)));
    let forged = attest(alice.identity.history().newest_hash());
    assert!(matches!(mallory.verify(&forged, NOW), Err(IdentityError::BadSignature { .. })));
}

#[test]
fn n3_3_expired_attestation_is_refused() {
    let alice = Person::new();
    assert!(alice.verify(&alice.payload(), NOW + DAY - 1).is_ok());
    let refused = alice.verify(&alice.payload(), NOW + DAY);
    assert!(matches!(refused, Err(IdentityError::Expired { .. })));
}

#[test]
fn n3_3_attestation_from_the_future_is_refused() {
    let alice = Person::new();
    assert!(alice.verify(&alice.payload(), NOW - 300).is_ok());
    let refused = alice.verify(&alice.payload(), NOW - 301);
    assert!(matches!(refused, Err(IdentityError::NotYetValid { .. })));
}

#[test]
fn n3_3_every_other_purpose_used_as_channel_static_is_refused() {
    let alice = Person::new();
    let others = [
        Purpose::CREDENTIAL_SIGNING,
        Purpose::PREKEY_SIGNING,
        Purpose::AUDIT_SIGNING,
        Purpose::OK2CRY_SIGNING,
        Purpose::MESSAGE_SIGNING,
        Purpose::ENVELOPE_STATIC,
        Purpose::OK2CRY_STATIC,
    ];
    for purpose in others {
        let payload = alice.payload_with(&alice.attest(purpose, NOW, NOW + DAY));
        let refused = alice.verify(&payload, NOW);
        assert!(matches!(refused, Err(IdentityError::OtherPurpose { found, .. }) if found == purpose));
    }
}

#[test]
fn n3_3_signature_of_another_type_on_an_attestation_is_refused() {
    let alice = Person::new();
    let attest = alice.attestation.signed().body();
    let signature = alice.sign(alice.identity.key(), SignatureType::IdentityChange, attest);
    let payload = alice.payload_with(&Attestation::new(signed(attest, &[signature])).unwrap());
    assert!(matches!(alice.verify(&payload, NOW), Err(IdentityError::BadSignature { .. })));
}

#[test]
fn an_attestation_with_no_or_two_signatures_is_refused() {
    let alice = Person::new();
    let attest = alice.attestation.signed();
    let signature = &attest.signatures()[0];
    for signatures in [vec![], vec![signature.clone(); 2]] {
        let attestation = Attestation::new(signed(attest.body(), &signatures)).unwrap();
        let refused = alice.verify(&alice.payload_with(&attestation), NOW);
        assert!(matches!(refused, Err(IdentityError::SignatureCount { expected: 1, .. })));
    }
}

#[test]
fn the_empty_trust_accepts_nobody() {
    let alice = Person::new();
    let known = KnownHistories::default();
    let verify =
        |trust: &Trust| verify_payload(&alice.payload(), &alice.noise_static, None, NOW, trust, &known);
    for trust in
        [Trust::default(), Trust::pinned([]), Trust::issuers([]), Trust::pinned([Person::new().id()])]
    {
        assert!(matches!(verify(&trust), Err(IdentityError::Untrusted(id)) if id == alice.id()));
    }
    assert!(verify(&Trust::pinned([alice.id()])).is_ok());
    assert!(verify(&Trust::default().or(Trust::pinned([alice.id()]))).is_ok());
}

#[test]
fn a_peer_other_than_the_one_meant_is_refused_even_if_trusted() {
    let (alice, bob) = (Person::new(), Person::new());
    let known = KnownHistories::default();
    let trust = Trust::dangerously_any();
    let verify = |meant: Identifier| {
        verify_payload(&alice.payload(), &alice.noise_static, Some(meant), NOW, &trust, &known)
    };
    assert!(matches!(verify(bob.id()), Err(IdentityError::OtherPeer { .. })));
    assert!(verify(alice.id()).is_ok());
}

#[test]
fn only_parameters_below_128_may_be_unknown() {
    let alice = Person::new();
    let with = |params: &[u8]| {
        let mut payload = alice.payload();
        payload.truncate(payload.len() - 2);
        [payload.as_slice(), params, &[0xf6]].concat()
    };
    assert!(alice.verify(&with(&[0xa1, 0x01, 0x82, 0x00, 0xf5]), NOW).is_ok());
    assert!(alice.verify(&with(&[0xa1, 0x18, 0x7f, 0xa0]), NOW).is_ok());
    let refused = alice.verify(&with(&[0xa1, 0x18, 0x80, 0xa0]), NOW);
    assert!(matches!(refused, Err(IdentityError::CriticalParam(128))));
    // Parameter 0 of another length, a key twice, keys out of order, a float, a map of text keys.
    let malformed: [&[u8]; 5] = [
        &[0xa1, 0x00, 0x41, 0x00],
        &[0xa2, 0x01, 0x00, 0x01, 0x00],
        &[0xa2, 0x02, 0x00, 0x01, 0x00],
        &[0xa1, 0x01, 0xf9, 0x00, 0x00],
        &[0xa1, 0x01, 0xa1, 0x61, 0x61, 0x00],
    ];
    for params in malformed {
        assert!(
            matches!(alice.verify(&with(params), NOW), Err(IdentityError::Malformed(_))),
            "{params:02x?}"
        );
    }
}

#[test]
fn params_nest_at_most_six_deep_within_the_payload() {
    let alice = Person::new();
    let nested = |levels: usize| {
        let mut payload = alice.payload();
        payload.truncate(payload.len() - 2);
        [payload, vec![0xa1, 0x01], vec![0x81; levels], vec![0x00, 0xf6]].concat()
    };
    assert!(alice.verify(&nested(6), NOW).is_ok());
    assert!(matches!(alice.verify(&nested(7), NOW), Err(IdentityError::Malformed(_))));
}

#[test]
fn every_flipped_bit_is_refused() {
    let alice = Person::new();
    let payload = alice.payload();
    // Whoever saw the peer before skips signatures, and must notice all the same.
    let mut known = KnownHistories::default();
    known.adopt(alice.verify(&payload, NOW).unwrap().update()).unwrap();
    let stranger = KnownHistories::default();
    for position in 0..payload.len() {
        for bit in 0..8 {
            let mut flipped = payload.clone();
            flipped[position] ^= 1 << bit;
            for known in [&known, &stranger] {
                assert!(alice.verify_knowing(known, &flipped, NOW).is_err(), "byte {position}, bit {bit}");
            }
        }
    }
    assert!(known.forked().is_empty() && stranger.forked().is_empty());
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    let alice = Person::new();
    let payload = alice.payload();
    for length in 0..payload.len() {
        assert!(
            matches!(alice.verify(&payload[..length], NOW), Err(IdentityError::Malformed(_))),
            "{length} bytes"
        );
    }
    for byte in 0..=255 {
        let extended = [payload.as_slice(), &[byte]].concat();
        assert!(matches!(alice.verify(&extended, NOW), Err(IdentityError::Malformed(_))));
    }
    let endless = [payload, vec![0; 33 * 1024]].concat();
    assert!(matches!(alice.verify(&endless, NOW), Err(IdentityError::Malformed(_))));
}

#[test]
fn other_encodings_of_a_valid_payload_are_refused() {
    let alice = Person::new();
    let payload = alice.payload();
    assert_eq!(payload[..3], [0x86, 0x01, 0x81]);
    let rest = &payload[3..];
    let without_break = &payload[1..];
    let others = [
        [&[0x98, 0x06], without_break].concat(),       // long array head
        [&[0x9f], without_break, &[0xff]].concat(),    // indefinite array
        [&[0x86, 0x18, 0x01, 0x81], rest].concat(),    // long integer
        [&[0x87, 0x01, 0x81], rest, &[0x00]].concat(), // surplus element
        [&[0x86, 0x02, 0x81], rest].concat(),          // unknown version
        [&[0xc0, 0x86, 0x01, 0x81], rest].concat(),    // a tag
        [&[0x86, 0x01, 0x98, 0x01], rest].concat(),    // long head of the history
    ];
    for other in others {
        assert!(
            matches!(alice.verify(&other, NOW), Err(IdentityError::Malformed(_))),
            "{:02x?}",
            &other[..4]
        );
    }
}

#[test]
fn a_signed_body_in_another_encoding_is_refused() {
    let alice = Person::new();
    let attest = alice.attestation.signed().body();
    assert_eq!(attest[..2], [0x87, 0x01]);
    let others = [
        [&[0x98, 0x07], &attest[1..]].concat(),
        [&[0x9f], &attest[1..], &[0xff]].concat(),
        [&[0x87, 0x18, 0x01], &attest[2..]].concat(),
        [&[0x88], &attest[1..], &[0x00]].concat(),
        [attest, &[0x00]].concat(),
    ];
    for other in others {
        // The signature is good: only the encoding is wrong.
        let signature = alice.sign(alice.identity.key(), SignatureType::KeyAttest, &other);
        assert!(matches!(Attestation::new(signed(&other, &[signature])), Err(IdentityError::Malformed(_))));
    }
}

#[test]
fn a_history_of_no_changes_is_refused() {
    let alice = Person::new();
    let payload = payload_of(alice.identity.history().history(), &alice.attestation);
    assert_eq!(payload, alice.payload());
    let history = alice.identity.history().history().encode().len();
    let empty = [&payload[..2], &[0x80], &payload[2 + history..]].concat();
    assert!(matches!(alice.verify(&empty, NOW), Err(IdentityError::Malformed(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode_to_one_meaning_or_none(data in proptest::collection::vec(any::<u8>(), 0..256)) {
        fuzzing::identity(&data);
    }

    #[test]
    fn mutated_structures_decode_to_one_meaning_or_none(
        which in 0..5_usize,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let alice = Person::new();
        let attestation = alice.attestation.encode();
        let structures = [
            alice.payload(),
            alice.identity.encode(),
            alice.identity.history().history().encode(),
            attestation,
            alice.attestation.signed().body().to_vec(),
        ];
        let mut data = structures[which].clone();
        for (index, byte) in edits {
            let position = index.index(data.len());
            data[position] = byte;
        }
        fuzzing::identity(&data);
    }
}
