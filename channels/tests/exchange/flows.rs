//! What honest parties do, and what they refuse of each other.

use onward_channels::identity::KnownHistories;
use onward_channels::ok2cry::{
    Carrier, Demand, Direction, ExchangeError, Extensions, KeyObject, Policy, Schema, SealerTrust, Sealing,
    TrustMode, schema_digest,
};
use serde_json::{Value, json};

use crate::fixture::*;

#[test]
fn a_pin_is_read_under_every_policy() {
    let (client, api) = (Person::new(), Person::new());
    let mut random = Random(1);
    for policy in Policy::ALL {
        let made = Made::answer(policy, &mut random);
        let object = client.sign(&made.body);
        let verified = verify(&object, TrustMode::Identity(&client.pins())).unwrap();
        let sealed = seal(verified, b"4711", api.sealing(policy), &mut random).unwrap();
        assert_eq!(sealed.signer.is_some(), !policy.shows_sealer_inside());
        let received = made.receive(&sealed, SealerTrust::Identity(&api.pins())).unwrap();
        assert_eq!(*received.plaintext, b"4711", "{policy}");
        assert_eq!(received.sealer, Some(api.signing.identifier()), "{policy}");
    }
}

#[test]
fn a_pin_is_set_under_every_policy() {
    let (client, api) = (Person::new(), Person::new());
    let mut random = Random(2);
    for policy in Policy::ALL {
        let made = Made::new(policy, Direction::RequestToMe, &mut random);
        let pins = api.pins();
        let mode = TrustMode::Identity(&pins);
        let (verified, events) = verify_logging(&api.sign(&made.body), Direction::RequestToMe, mode);
        assert!(events.is_empty());
        let sealed = seal(verified.unwrap(), b"0815", client.sealing(policy), &mut random).unwrap();
        let received = made.receive(&sealed, SealerTrust::Identity(&client.pins())).unwrap();
        assert_eq!(
            (&received.plaintext[..], received.sealer),
            (&b"0815"[..], Some(client.signing.identifier()))
        );
    }
}

#[test]
fn what_is_not_demanded_is_refused() {
    let client = Person::new();
    let made = Made::answer(Policy::Strong, &mut Random(3));
    let object = client.sign(&made.body);
    let (known, pins) = (KnownHistories::default(), client.pins());
    let fits = demand(&known, Direction::AnswerToMe);
    let verify = |demand| object.clone().verify(&demand, TrustMode::Identity(&pins), &mut |_| ());
    assert!(verify(fits).is_ok());
    let policies = [Policy::NoiseAnonymous, Policy::StrongPq];
    let refused = verify(Demand { policies: &policies, ..fits });
    assert!(matches!(refused, Err(ExchangeError::Policy(Policy::Strong))));
    let refused = verify(Demand { aud: "https://other.example", ..fits });
    assert!(matches!(refused, Err(ExchangeError::Audience)));
    let refused = verify(demand(&known, Direction::RequestToMe));
    assert!(matches!(refused, Err(ExchangeError::Direction)));
    let refused = verify(Demand { ctx: [0; 32], ..fits });
    assert!(matches!(refused, Err(ExchangeError::Context)));
    for (now, fresh) in [(NOW - 61, false), (NOW - 60, true), (NOW + 119, true), (NOW + 120, false)] {
        let refused = verify(Demand { now, ..fits });
        // An attestation may not be used before it was made, which is another error.
        assert_eq!(matches!(refused, Err(ExchangeError::NotFresh { .. })), !fresh, "{now}");
    }
}

#[test]
fn an_unsigned_key_counts_only_through_a_channel_with_the_pinned_end() {
    let (client, other) = (Person::new(), Person::new());
    let body = Made::answer(Policy::Strong, &mut Random(4)).body;
    let mut object = KeyObject { body, extensions: Extensions::default() };
    object.extensions.hs_id = Some([6; 32]);
    let (known, pins) = (KnownHistories::default(), client.pins());
    let verify = |carrier| {
        let demand = Demand { carrier, ..demand(&known, Direction::AnswerToMe) };
        object.clone().verify(&demand, TrustMode::Identity(&pins), &mut |_| ())
    };
    let carrier = Carrier { peer: client.signing.identifier(), hs_id: [6; 32] };
    assert!(verify(Some(carrier)).is_ok());
    for carrier in [
        None,
        Some(Carrier { hs_id: [7; 32], ..carrier }),
        Some(Carrier { peer: other.signing.identifier(), ..carrier }),
    ] {
        assert!(matches!(verify(carrier), Err(ExchangeError::Unsigned)));
    }
}

/// Admits objects with one member, `pin`, of four digits.
struct PinSchema(Value);

impl Schema for PinSchema {
    fn digest(&self) -> [u8; 32] {
        schema_digest(&self.0).unwrap()
    }

    fn admits(&self, plaintext: &[u8]) -> bool {
        let value: Option<Value> = serde_json::from_slice(plaintext).ok();
        value.is_some_and(|value| value["pin"].as_str().is_some_and(|pin| pin.len() == 4))
    }
}

#[test]
fn a_plaintext_off_the_schema_is_refused_by_both_ends() {
    let (client, api) = (Person::new(), Person::new());
    let mut random = Random(5);
    let schema = PinSchema(json!({"required": ["pin"]}));
    let other = PinSchema(json!({"required": ["pan"]}));
    let mut made = Made::answer(Policy::Strong, &mut random);
    made.body.schema = Some(schema.digest());
    let object = client.sign(&made.body);
    let mut sealed = |plaintext: &[u8], schema| {
        let verified = verify(&object, TrustMode::Identity(&client.pins())).unwrap();
        seal(verified, plaintext, Sealing { schema, ..api.sealing(Policy::Strong) }, &mut random)
    };
    assert!(matches!(sealed(b"{}", Some(&schema)), Err(ExchangeError::OffSchema)));
    assert!(matches!(sealed(br#"{"pin":"4711"}"#, None), Err(ExchangeError::OtherSchema)));
    assert!(matches!(sealed(br#"{"pin":"4711"}"#, Some(&other)), Err(ExchangeError::OtherSchema)));
    let sealed = sealed(br#"{"pin":"4711"}"#, Some(&schema)).unwrap();
    // The receiver, too, takes nothing that it did not validate.
    let pins = api.pins();
    let trust = SealerTrust::Identity(&pins);
    assert!(matches!(made.receive(&sealed, trust), Err(ExchangeError::OtherSchema)));
    assert!(matches!(made.receive_by(&other, &sealed, trust), Err(ExchangeError::OtherSchema)));
    assert_eq!(*made.receive_by(&schema, &sealed, trust).unwrap().plaintext, *br#"{"pin":"4711"}"#);
}

/// Says that everything follows the schema.
struct Careless(PinSchema);

impl Schema for Careless {
    fn digest(&self) -> [u8; 32] {
        self.0.digest()
    }

    fn admits(&self, _: &[u8]) -> bool {
        true
    }
}

#[test]
fn n5_2_what_a_careless_sealer_sealed_off_the_schema_is_not_handed_out() {
    let (client, api) = (Person::new(), Person::new());
    let mut random = Random(6);
    let careless = Careless(PinSchema(json!({"required": ["pin"]})));
    let (pins, trust) = (client.pins(), api.pins());
    for policy in Policy::ALL {
        let mut made = Made::answer(policy, &mut random);
        made.body.schema = Some(careless.digest());
        let verified = verify(&client.sign(&made.body), TrustMode::Identity(&pins)).unwrap();
        let sealing = Sealing { schema: Some(&careless), ..api.sealing(policy) };
        let sealed = seal(verified, br#"{"pin":"4711 "}"#, sealing, &mut random).unwrap();
        let refused = made.receive_by(&careless.0, &sealed, SealerTrust::Identity(&trust));
        assert!(matches!(refused, Err(ExchangeError::OffSchema)), "{policy}");
    }
}
