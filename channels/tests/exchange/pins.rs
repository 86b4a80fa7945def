//! Ends that are known by what a credential says of them.

use onward_channels::identity::{
    Attestation, AttributeValue, Attributes, Credential, Identifier, Identity, IdentityError, Purpose,
};
use onward_channels::ok2cry::{ExchangeError, PinnedAttribute, Pins, Policy, SealerTrust, TrustMode};
use onward_keys::{KeyId, KeyUsage, SoftwareVault, Vault as _};

use crate::fixture::*;

/// Who says who is a customer.
struct Issuer {
    vault: SoftwareVault,
    identity: Identity,
    key: KeyId,
    attestation: Attestation,
}

impl Issuer {
    fn new() -> Self {
        let vault = SoftwareVault::ephemeral();
        let identity = done(Identity::create(&vault, NOW, 1_000_000)).unwrap();
        let key = done(vault.generate(KeyUsage::CredentialSigning)).unwrap();
        let public = done(vault.public(key)).unwrap();
        let purpose = Purpose::CREDENTIAL_SIGNING;
        let attest = identity.attest(&vault, purpose, public.as_bytes(), NOW, NOW + 86_400);
        let attestation = done(attest).unwrap();
        Self { vault, identity, key, attestation }
    }

    /// Somebody of whom this issuer says in a `schema` that their role is `role`.
    fn person(&self, schema: &str, role: &str) -> Person {
        Person::presenting(|subject| {
            let role = ("role".to_owned(), AttributeValue::Text(role.to_owned()));
            let credential = Credential {
                id: [1; 16],
                issuer: self.id(),
                subject: subject.identifier(),
                change: subject.history().newest_hash(),
                schema: schema.to_owned(),
                attributes: Attributes::new([role]).unwrap(),
                iat: NOW,
                exp: NOW + 3600,
            };
            let (history, attestation) = (self.identity.history(), &self.attestation);
            vec![done(credential.sign(&self.vault, self.key, history, attestation)).unwrap()]
        })
    }

    fn id(&self) -> Identifier {
        self.identity.identifier()
    }

    /// Whoever this issuer calls a customer.
    fn customers(&self) -> Pins {
        Pins::default().or_attribute(PinnedAttribute {
            issuer: self.id(),
            schema: "member".to_owned(),
            name: "role".to_owned(),
            value: AttributeValue::Text("customer".to_owned()),
        })
    }
}

fn is_untrusted<T>(refused: Result<T, ExchangeError>) -> bool {
    matches!(refused, Err(ExchangeError::Signer(IdentityError::Untrusted(_))))
}

#[test]
fn an_end_is_known_by_what_the_pinned_issuer_says_of_it_and_by_nothing_less() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let (pins, mut random) = (issuer.customers(), Random(51));
    let cases = [
        ("a customer", issuer.person("member", "customer"), true),
        ("another role", issuer.person("member", "company"), false),
        ("another schema", issuer.person("visitor", "customer"), false),
        ("another issuer", other.person("member", "customer"), false),
        ("no credential", Person::new(), false),
    ];
    let bank = Person::new();
    for (name, person, accepted) in &cases {
        // Whose key it is.
        let body = Made::answer(Policy::Strong, &mut random).body;
        let verified = verify(&person.sign(&body), TrustMode::Identity(&pins));
        assert_eq!(verified.is_ok(), *accepted, "{name}");
        assert!(*accepted || is_untrusted(verified), "{name}");
        // Who sealed, outside and inside of what was sealed.
        for policy in [Policy::Strong, Policy::Noise] {
            let made = Made::answer(policy, &mut random);
            let key = verify(&bank.sign(&made.body), TrustMode::Identity(&bank.pins())).unwrap();
            let sealed = seal(key, b"4711", person.sealing(policy), &mut random).unwrap();
            let received = made.receive(&sealed, SealerTrust::Identity(&pins));
            assert_eq!(received.is_ok(), *accepted, "{name} {policy}");
            assert!(*accepted || is_untrusted(received), "{name} {policy}");
        }
    }
    // By its name it is accepted whatever anybody says of it.
    let [_, (_, company, _), ..] = &cases;
    let named = Pins::identifiers([company.signing.identifier()]);
    let body = Made::answer(Policy::Strong, &mut random).body;
    assert!(verify(&company.sign(&body), TrustMode::Identity(&named)).is_ok());
}
