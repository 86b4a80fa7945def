//! Credentials: who may say what of whom, and until when.

use onward_channels::identity::{
    AttributeValue, Attributes, CREDENTIAL_SECONDS_MAX, ChangeHash, Credential, HistoryUpdate, Identity,
    IdentityError, KnownHistories, Misuse, Params, PresentedCredential, Purpose, Trust, VerifiedPeer,
    channel_payload, verify_payload,
};
use onward_keys::{KeyId, KeyUsage, Vault as _};

use crate::fixture::{DAY, NOW, Person, YEAR, done};

/// An issuer with a key attested for credentials.
struct Issuer {
    person: Person,
    key: KeyId,
    attestation: onward_channels::identity::Attestation,
}

impl Issuer {
    fn new() -> Self {
        let person = Person::new();
        let key = done(person.vault.generate(KeyUsage::CredentialSigning)).unwrap();
        let attestation = attest(&person, key, Purpose::CREDENTIAL_SIGNING);
        Self { person, key, attestation }
    }

    fn says(&self, credential: Credential) -> PresentedCredential {
        let history = self.person.identity.history();
        done(credential.sign(&self.person.vault, self.key, history, &self.attestation)).unwrap()
    }

    fn trusted_for(&self, schema: &str) -> Trust {
        Trust::issuers([(self.person.id(), vec![schema.to_owned()])])
    }
}

fn attest(person: &Person, key: KeyId, purpose: Purpose) -> onward_channels::identity::Attestation {
    let public = person.public(key);
    done(person.identity.attest(&person.vault, purpose, public.as_bytes(), NOW, NOW + DAY)).unwrap()
}

/// "Alice is a member", for an hour.
fn membership(issuer: &Issuer, subject: &Person) -> Credential {
    Credential {
        id: [1; 16],
        issuer: issuer.person.id(),
        subject: subject.id(),
        change: subject.identity.history().newest_hash(),
        schema: "member".to_owned(),
        attributes: Attributes::new([
            ("role".to_owned(), AttributeValue::Text("clerk".to_owned())),
            ("blocked".to_owned(), AttributeValue::Bool(false)),
            ("limit".to_owned(), AttributeValue::Integer(-7)),
        ])
        .unwrap(),
        iat: NOW,
        exp: NOW + 3600,
    }
}

fn verify(
    subject: &Person,
    credentials: &[PresentedCredential],
    now: u64,
    trust: &Trust,
    known: &KnownHistories,
) -> Result<VerifiedPeer, IdentityError> {
    let bytes =
        channel_payload(&subject.identity, &subject.attestation, credentials, &Params::default(), 0).unwrap();
    verify_payload(&bytes, &subject.noise_static, None, now, trust, known)
}

/// The verdict of a stranger who trusts `issuer` for memberships.
fn verdict(
    issuer: &Issuer,
    subject: &Person,
    credential: Credential,
    now: u64,
) -> Result<VerifiedPeer, IdentityError> {
    let trust = issuer.trusted_for("member");
    verify(subject, &[issuer.says(credential)], now, &trust, &KnownHistories::default())
}

#[test]
fn a_trusted_issuer_vouches_for_a_stranger() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let peer = verdict(&issuer, &alice, membership(&issuer, &alice), NOW).unwrap();
    let credential = peer.credentials().next().unwrap();
    assert_eq!(*credential, membership(&issuer, &alice));
    assert_eq!(credential.attributes.value("limit"), Some(&AttributeValue::Integer(-7)));
    assert_eq!(credential.attributes.value("unknown"), None);
    let names: Vec<&str> = credential.attributes.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["role", "limit", "blocked"]);
    assert_eq!(peer.valid_until(), NOW + 3600);
}

#[test]
fn an_issuer_vouches_only_in_its_schemas() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let credentials = [issuer.says(membership(&issuer, &alice))];
    let known = KnownHistories::default();
    for trust in [issuer.trusted_for("admin"), Issuer::new().trusted_for("member"), Trust::default()] {
        let refused = verify(&alice, &credentials, NOW, &trust, &known);
        assert!(matches!(refused, Err(IdentityError::Untrusted(id)) if id == alice.id()));
    }
}

#[test]
fn only_trusted_issuers_are_remembered() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let credentials = [issuer.says(membership(&issuer, &alice))];
    for (trust, remembered) in [(Trust::dangerously_any(), 1), (issuer.trusted_for("member"), 2)] {
        let mut known = KnownHistories::default();
        let peer = verify(&alice, &credentials, NOW, &trust, &known).unwrap();
        known.adopt(peer.update()).unwrap();
        assert_eq!(known.len(), remembered);
    }
}

#[test]
fn a_credential_of_somebody_else_is_refused() {
    let (issuer, alice, bob) = (Issuer::new(), Person::new(), Person::new());
    let stolen = Credential { change: alice.identity.history().newest_hash(), ..membership(&issuer, &bob) };
    assert!(matches!(verdict(&issuer, &alice, stolen, NOW), Err(IdentityError::OtherCredential)));
    let framed = Credential { issuer: bob.id(), ..membership(&issuer, &alice) };
    assert!(matches!(verdict(&issuer, &alice, framed, NOW), Err(IdentityError::OtherCredential)));
}

#[test]
fn a_credential_naming_a_change_that_is_not_shown_is_refused() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let unknown = Credential { change: ChangeHash::from_bytes([3; 32]), ..membership(&issuer, &alice) };
    assert!(matches!(verdict(&issuer, &alice, unknown, NOW), Err(IdentityError::UnknownChange)));

    // Known to the verifier, but not shown by the subject.
    let longer = done(alice.identity.rotate(&alice.vault, NOW + 1, YEAR)).unwrap();
    let mut known = KnownHistories::default();
    known.adopt(HistoryUpdate::from_history(longer.history().clone())).unwrap();
    let hidden = Credential { change: longer.history().newest_hash(), ..membership(&issuer, &alice) };
    let refused = verify(&alice, &[issuer.says(hidden)], NOW, &issuer.trusted_for("member"), &known);
    assert!(matches!(refused, Err(IdentityError::UnknownChange)));
}

#[test]
fn a_credential_is_held_to_its_times() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let at = |now| verdict(&issuer, &alice, membership(&issuer, &alice), now);
    assert!(at(NOW + 3599).is_ok());
    assert!(matches!(at(NOW + 3600), Err(IdentityError::Expired { .. })));
    assert!(matches!(at(NOW - 301), Err(IdentityError::NotYetValid { .. })));
    let early = Credential { iat: NOW - 1, ..membership(&issuer, &alice) };
    assert!(matches!(verdict(&issuer, &alice, early, NOW), Err(IdentityError::KeyNotInForce { .. })));
}

#[test]
fn a_credential_longer_than_thirty_days_is_refused() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let lasting = |seconds| Credential { exp: NOW + seconds, ..membership(&issuer, &alice) };
    assert!(verdict(&issuer, &alice, lasting(CREDENTIAL_SECONDS_MAX), NOW).is_ok());
    let history = issuer.person.identity.history();
    let too_long = lasting(CREDENTIAL_SECONDS_MAX + 1);
    let refused = done(too_long.sign(&issuer.person.vault, issuer.key, history, &issuer.attestation));
    assert!(matches!(refused, Err(IdentityError::Misuse(Misuse::BadPeriod))));
}

#[test]
fn a_credential_by_a_key_of_another_purpose_is_refused() {
    let (mut issuer, alice) = (Issuer::new(), Person::new());
    issuer.attestation = attest(&issuer.person, issuer.key, Purpose::AUDIT_SIGNING);
    let refused = verdict(&issuer, &alice, membership(&issuer, &alice), NOW);
    assert!(matches!(refused, Err(IdentityError::OtherPurpose { .. })));
}

#[test]
fn a_credential_by_another_key_than_the_attested_is_refused() {
    let (mut issuer, alice) = (Issuer::new(), Person::new());
    issuer.key = done(issuer.person.vault.generate(KeyUsage::CredentialSigning)).unwrap();
    let refused = verdict(&issuer, &alice, membership(&issuer, &alice), NOW);
    assert!(matches!(refused, Err(IdentityError::BadSignature { .. })));
}

#[test]
fn a_revocation_voids_what_was_said_of_the_subject_or_by_the_issuer() {
    let (issuer, alice) = (Issuer::new(), Person::new());
    let trust = issuer.trusted_for("member");
    let credentials = [issuer.says(membership(&issuer, &alice))];
    let mut peer = verify(&alice, &credentials, NOW, &trust, &KnownHistories::default()).unwrap();

    let revoke =
        |identity: &Identity, person: &Person| done(identity.revoke(&person.vault, NOW + 1, YEAR)).unwrap();
    let knowing = |identity: &Identity| {
        let mut known = KnownHistories::default();
        known.adopt(HistoryUpdate::from_history(identity.history().clone())).unwrap();
        known
    };
    let issuer_revoked = knowing(&revoke(&issuer.person.identity, &issuer.person));
    assert!(matches!(
        verify(&alice, &credentials, NOW + 2, &trust, &issuer_revoked),
        Err(IdentityError::Revoked)
    ));
    let subject_revoked = knowing(&revoke(&alice.identity, &alice));
    assert!(matches!(
        verify(&alice, &credentials, NOW + 2, &trust, &subject_revoked),
        Err(IdentityError::Revoked)
    ));

    // An open channel notices both, and the end of its credential.
    assert!(peer.check_again(NOW + 2, &trust, &KnownHistories::default()).is_ok());
    let again = |known: &KnownHistories, now| peer.clone().check_again(now, &trust, known);
    assert!(matches!(again(&subject_revoked, NOW + 2), Err(IdentityError::Revoked)));
    assert!(matches!(again(&issuer_revoked, NOW + 2), Err(IdentityError::Untrusted(_))));
    assert!(matches!(again(&KnownHistories::default(), NOW + 3600), Err(IdentityError::Untrusted(_))));
    assert!(matches!(again(&KnownHistories::default(), NOW + DAY), Err(IdentityError::Expired { .. })));
}

#[test]
fn a_payload_that_costs_more_than_64_signatures_is_refused() {
    let (mut issuer, alice) = (Issuer::new(), Person::new());
    // Four changes carry seven signatures; with the attestation and the credential itself each costs nine.
    for change in 1..4 {
        issuer.person.identity =
            done(issuer.person.identity.rotate(&issuer.person.vault, NOW + change, YEAR)).unwrap();
    }
    let credentials = vec![issuer.says(membership(&issuer, &alice)); 8];
    let trust = issuer.trusted_for("member");
    let known = KnownHistories::default();
    let refused = verify(&alice, &credentials, NOW + 10, &trust, &known);
    assert!(matches!(refused, Err(IdentityError::TooManySignatures(74))));
    assert!(verify(&alice, &credentials[..6], NOW + 10, &trust, &known).is_ok());
    let nine = vec![credentials[0].clone(); 9];
    let refused = channel_payload(&alice.identity, &alice.attestation, &nine, &Params::default(), 0);
    assert!(matches!(refused, Err(IdentityError::Misuse(Misuse::TooLong))));
}

#[test]
fn attributes_have_bounds() {
    let attribute = |name: &str, value: &str| (name.to_owned(), AttributeValue::Text(value.to_owned()));
    assert!(Attributes::new([attribute(&"n".repeat(64), &"v".repeat(256))]).is_ok());
    for refused in [
        attribute("", "v"),
        attribute("n", ""),
        attribute(&"n".repeat(65), "v"),
        attribute("n", &"v".repeat(257)),
    ] {
        assert!(matches!(Attributes::new([refused]), Err(IdentityError::Misuse(Misuse::TooLong))));
    }
    let many = |count: i64| Attributes::new((0..count).map(|n| (n.to_string(), AttributeValue::Integer(n))));
    assert!(many(32).is_ok());
    assert!(many(33).is_err());
}
