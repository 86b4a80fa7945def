//! Known histories: old prefixes, forks, and what is forgotten.

use onward_channels::identity::{
    Attestation, HistoryUpdate, Identity, IdentityError, KeyAttest, KnownHistories,
};
use onward_keys::SignatureType;

use crate::fixture::{DAY, NOW, Person, YEAR, body, changes, done, history_of, payload_of, signed};

fn rotated(person: &Person, at: u64) -> Identity {
    done(person.identity.rotate(&person.vault, at, YEAR)).unwrap()
}

fn knowing(identity: &Identity) -> KnownHistories {
    let mut known = KnownHistories::default();
    known.adopt(HistoryUpdate::from_history(identity.history().clone())).unwrap();
    known
}

#[test]
fn a_longer_history_is_adopted_only_on_request() {
    let person = Person::new();
    let longer = rotated(&person, NOW + 100);
    let mut known = knowing(&person.identity);
    let payload = payload_of(longer.history().history(), &person.attestation);
    let peer = person.verify_knowing(&known, &payload, NOW + 200).unwrap();
    assert_eq!(known.history(&person.id()).unwrap().history().len(), 1);
    known.adopt(peer.update()).unwrap();
    assert_eq!(known.history(&person.id()).unwrap().history().len(), 2);
}

#[test]
fn n3_4_truncated_history_is_completed_from_the_known_one() {
    let person = Person::new();
    let known = knowing(&rotated(&person, NOW + 100));
    // The old history with an attestation made before the rotation: still valid, and the longer history stays.
    let peer = person.verify_knowing(&known, &person.payload(), NOW + 200).unwrap();
    assert_eq!(peer.history().history().len(), 2);
    // A thief of the retired key hides the rotation and attests anew.
    let attest = body(&KeyAttest { iat: NOW + 150, ..person.attestation.attest().clone() });
    let signature = person.sign(person.identity.key(), SignatureType::KeyAttest, &attest);
    let payload = person.payload_with(&Attestation::new(signed(&attest, &[signature])).unwrap());
    assert!(person.verify(&payload, NOW + 200).is_ok(), "not claimed towards who has not seen the rotation");
    let refused = person.verify_knowing(&known, &payload, NOW + 200);
    assert!(matches!(refused, Err(IdentityError::KeyNotInForce { .. })));
}

#[test]
fn n3_4_truncated_history_does_not_hide_a_revocation() {
    let person = Person::new();
    let known = knowing(&done(person.identity.revoke(&person.vault, NOW + 100, YEAR)).unwrap());
    let refused = person.verify_knowing(&known, &person.payload(), NOW + 200);
    assert!(matches!(refused, Err(IdentityError::Revoked)));
}

#[test]
fn n3_4_fork_is_refused_and_counted() {
    let person = Person::new();
    let (ours, other) = (rotated(&person, NOW + 100), rotated(&person, NOW + 101));
    let mut known = knowing(&ours);
    let payload = payload_of(other.history().history(), &person.attestation);
    let refused = person.verify_knowing(&known, &payload, NOW + 200);
    assert!(matches!(refused, Err(IdentityError::Forked(id)) if id == person.id()));
    assert_eq!(known.forked(), [person.id()]);
    let refused = known.adopt(HistoryUpdate::from_history(other.history().clone()));
    assert!(matches!(refused, Err(IdentityError::Forked(_))));
    assert_eq!(known.forked(), [person.id()], "told of once");
    assert_eq!(&**known.history(&person.id()).unwrap(), ours.history());
}

#[test]
fn a_forged_fork_raises_no_alarm() {
    let person = Person::new();
    let (ours, other) = (rotated(&person, NOW + 100), rotated(&person, NOW + 101));
    let known = knowing(&ours);
    let mut forged = changes(other.history().history());
    let mut signatures = forged[1].signatures().to_vec();
    signatures[1].bytes[40] ^= 1;
    forged[1] = signed(forged[1].body(), &signatures);
    let payload = payload_of(&history_of(&forged).unwrap(), &person.attestation);
    let refused = person.verify_knowing(&known, &payload, NOW + 200);
    assert!(matches!(refused, Err(IdentityError::BadSignature { .. })));
    assert!(known.forked().is_empty());
}

#[test]
fn a_peer_seen_before_is_still_held_to_its_times() {
    let person = Person::new();
    let mut known = KnownHistories::default();
    let peer = person.verify_knowing(&known, &person.payload(), NOW).unwrap();
    known.adopt(peer.update()).unwrap();
    assert!(person.verify_knowing(&known, &person.payload(), NOW + 1).is_ok());
    let refused = person.verify_knowing(&known, &person.payload(), NOW + DAY);
    assert!(matches!(refused, Err(IdentityError::Expired { .. })));
}

#[test]
fn the_least_recently_used_is_forgotten_and_the_pinned_never() {
    let people: Vec<Person> = (0..4).map(|_| Person::new()).collect();
    let mut known = KnownHistories::new(2);
    known.pin(people[0].id());
    let update = |person: &Person| HistoryUpdate::from_history(person.identity.history().clone());
    for person in [&people[0], &people[1], &people[2], &people[1], &people[3]] {
        known.adopt(update(person)).unwrap();
    }
    let remembered = people.iter().map(|person| known.history(&person.id()).is_some());
    assert_eq!(remembered.collect::<Vec<_>>(), [true, true, false, true]);

    // Pinned after it was learned.
    known.pin(people[1].id());
    known.adopt(update(&people[2])).unwrap();
    known.adopt(update(&people[2])).unwrap();
    assert!(people.iter().all(|person| known.history(&person.id()).is_some()));
    assert_eq!(known.len(), 4);
}
