//! What an intermediary can do to keys and to what is sealed, and what it cannot.

use onward_channels::identity::IdentityError;
use onward_channels::ok2cry::{
    Ciphertext, Direction, Event, ExchangeError, KeyObject, Policy, Sealed, SealerTrust, Sealing, TokenError,
    TrustMode, Voucher, context,
};

use crate::fixture::*;
use crate::tokens::Issuer;

#[test]
fn n5_1_a_key_in_the_place_of_the_clients_is_refused_with_a_pin() {
    let (client, intermediary) = (Person::new(), Person::new());
    let mut random = Random(11);
    let theirs = Made::answer(Policy::Strong, &mut random);
    // With its own valid identity.
    let refused = verify(&intermediary.sign(&theirs.body), TrustMode::Identity(&client.pins()));
    assert!(matches!(refused, Err(ExchangeError::Signer(IdentityError::Untrusted(_)))));
    // With the client's signature over another body.
    let mine = Made::answer(Policy::Strong, &mut random);
    let mut object = client.sign(&mine.body);
    object.body.public.clone_from(&theirs.body.public);
    let refused = verify(&object, TrustMode::Identity(&client.pins()));
    assert!(matches!(refused, Err(ExchangeError::Signer(IdentityError::BadSignature { .. }))));
    // With nothing: a mode is never silently another.
    object.extensions = Default::default();
    let refused = verify(&object, TrustMode::Identity(&client.pins()));
    assert!(matches!(refused, Err(ExchangeError::Unsigned)));
}

#[test]
fn n5_1_a_key_in_the_place_of_the_clients_is_refused_with_a_token() {
    let mut issuer = Issuer::new();
    let mut random = Random(12);
    let (mine, theirs) =
        (Made::answer(Policy::Strong, &mut random), Made::answer(Policy::Strong, &mut random));
    let object = |made: &Made, token: Option<String>| {
        let mut object = KeyObject { body: made.body.clone(), extensions: Default::default() };
        object.extensions.token = token;
        object
    };
    let token = issuer.token(&mine.body, "client");
    let own = issuer.token(&theirs.body, "intermediary");
    let proof_of_possession = issuer.sign_claims(&format!(
        r#"{{"iss":"{}","aud":"{API}","sub":"client","exp":{},"cnf":{{"jkt":"x"}}}}"#,
        Issuer::NAME,
        NOW + 60
    ));
    let mut verified = |object: &KeyObject| {
        verify(object, TrustMode::Bound { verifier: &mut issuer.verifier, subject: "client" })
    };
    let accepted = verified(&object(&mine, Some(token.clone()))).unwrap();
    assert!(matches!(accepted.voucher(), Voucher::Token { subject, .. } if subject == "client"));
    for (token, why) in
        [(token, TokenError::Unbound), (own, TokenError::Subject), (proof_of_possession, TokenError::Unbound)]
    {
        let refused = verified(&object(&theirs, Some(token)));
        assert!(matches!(refused, Err(ExchangeError::Token(found)) if found == why), "{why:?}");
    }
    assert!(matches!(verified(&object(&theirs, None)), Err(ExchangeError::Unsigned)));
}

/// The limit of the mode, shown: the intermediary reads the PIN, and neither end notices.
#[test]
fn n5_1_transitive_does_not_stop_an_intermediary_that_acts() {
    let mut random = Random(13);
    let client = Made::answer(Policy::Strong, &mut random);
    let intermediary = Made::answer(Policy::Strong, &mut random);
    let mut swapped = KeyObject { body: client.body.clone(), extensions: Default::default() };
    swapped.body.public.clone_from(&intermediary.body.public);
    let body = swapped.body.clone();
    let (verified, events) = verify_logging(&swapped, Direction::AnswerToMe, TrustMode::Transitive);
    assert_eq!(events, [Event::Transitive { key_id: client.body.key_id, aud: API.into() }]);
    let sealed = seal(verified.unwrap(), b"4711", Sealing::default(), &mut random).unwrap();
    let theirs = Made { key: intermediary.key, body };
    let read = theirs.receive(&sealed, SealerTrust::Anybody).unwrap();
    assert_eq!(*read.plaintext, b"4711", "the intermediary reads");

    let genuine = KeyObject { body: client.body.clone(), extensions: Default::default() };
    let (verified, _) = verify_logging(&genuine, Direction::AnswerToMe, TrustMode::Transitive);
    let passed_on = seal(verified.unwrap(), b"0000", Sealing::default(), &mut random).unwrap();
    let received = client.receive(&passed_on, SealerTrust::Anybody).unwrap();
    assert_eq!(*received.plaintext, b"0000", "and answers what it likes");
    // Whoever demands an identity is not deceived.
    let refused = client.receive(&passed_on, SealerTrust::Identity(&Person::new().pins()));
    assert!(matches!(refused, Err(ExchangeError::Unsigned)));
}

#[test]
fn n5_1_a_request_that_the_intermediary_sealed_is_refused() {
    let (client, intermediary, api) = (Person::new(), Person::new(), Person::new());
    let mut random = Random(14);
    for policy in Policy::ALL {
        let made = Made::new(policy, Direction::RequestToMe, &mut random);
        let pins = api.pins();
        let mode = TrustMode::Identity(&pins);
        let (verified, _) = verify_logging(&api.sign(&made.body), Direction::RequestToMe, mode);
        let sealed = seal(verified.unwrap(), b"0000", intermediary.sealing(policy), &mut random).unwrap();
        let refused = made.receive(&sealed, SealerTrust::Identity(&client.pins()));
        let untrusted = matches!(refused, Err(ExchangeError::Signer(IdentityError::Untrusted(_))));
        assert!(untrusted, "{policy}");
    }
}

#[test]
fn n5_1_a_sealed_message_signed_again_is_refused() {
    let (client, intermediary, api) = (Person::new(), Person::new(), Person::new());
    let mut random = Random(15);
    let made = Made::answer(Policy::Strong, &mut random);
    let object = client.sign(&made.body);
    let mut sealed_by = |person: &Person| {
        let verified = verify(&object, TrustMode::Identity(&client.pins())).unwrap();
        seal(verified, b"4711", person.sealing(Policy::Strong), &mut random).unwrap()
    };
    let (genuine, other) = (sealed_by(&api), sealed_by(&intermediary));
    // The intermediary's name over the API's ciphertext: its signature is over another one.
    let again = Sealed { signer: other.signer, ..genuine.clone() };
    let refused = made.receive(&again, SealerTrust::Identity(&api.pins()));
    assert!(matches!(refused, Err(ExchangeError::Signer(IdentityError::Untrusted(_)))));
    let refused = made.receive(&again, SealerTrust::Identity(&intermediary.pins()));
    assert!(matches!(refused, Err(ExchangeError::Signer(IdentityError::BadSignature { .. }))));
    // And without a signature it does not open: the sealer is part of what was sealed.
    let stripped = Sealed { signer: None, ..genuine };
    let refused = made.receive(&stripped, SealerTrust::Anybody);
    assert!(matches!(refused, Err(ExchangeError::Unauthentic)));
}

#[test]
fn n5_2_what_is_not_the_ends_answer_to_this_request_is_refused() {
    let (client, api) = (Person::new(), Person::new());
    let pins = api.pins();
    let trust = SealerTrust::Identity(&pins);
    let mut random = Random(21);
    for policy in [Policy::Strong, Policy::NoiseAnonymous, Policy::StrongPq] {
        let made = Made::answer(policy, &mut random);
        let object = client.sign(&made.body);
        let mut sealed = || {
            let verified = verify(&object, TrustMode::Identity(&client.pins())).unwrap();
            seal(verified, b"4711", api.sealing(policy), &mut random).unwrap()
        };
        let (one, two) = (sealed(), sealed());
        assert!(made.receive(&one, trust).is_ok());
        let bad_signature = |sealed: &Sealed| {
            let refused = made.receive(sealed, trust);
            matches!(refused, Err(ExchangeError::Signer(IdentityError::BadSignature { .. })))
        };
        let (first, second) = (&one.ciphertext, &two.ciphertext);
        // Parts of two answers of the same sealer to the same key.
        let ciphertext = Ciphertext { enc: first.enc.clone(), ct: second.ct.clone() };
        assert!(bad_signature(&Sealed { ciphertext, ..one.clone() }), "{policy}");
        if first.enc.is_some() {
            let ciphertext = Ciphertext { enc: second.enc.clone(), ct: first.ct.clone() };
            assert!(bad_signature(&Sealed { ciphertext, ..one.clone() }), "{policy}");
        }
        // Another policy of the same shape, and another key.
        let mut next = Made::answer(policy, &mut random);
        let replayed = next.receive(&one, trust);
        assert!(matches!(replayed, Err(ExchangeError::OtherKey)), "{policy}");
        next.body.key_id = one.key_id;
        let replayed = next.receive(&one, trust);
        assert!(matches!(replayed, Err(ExchangeError::Signer(IdentityError::BadSignature { .. }))));
        // Another request: the key is bound to one, and so is the signature.
        let other = context("GET", "/cards/2/pin", b"request 42");
        assert!(matches!(made.receive_for(other, &one, trust), Err(ExchangeError::Context)));
        // The owner's view of policy, schema and binding is what counts, not the sender's.
        let changes: [fn(&mut Made); 3] = [
            |made| made.body.schema = Some([1; 32]),
            |made| made.body.binding = None,
            |made| made.body.direction = Direction::RequestToMe,
        ];
        for change in changes {
            let key =
                onward_channels::ok2cry::DisposableKey::from_private(policy, made.key.private()).unwrap();
            let mut changed = Made { key, body: made.body.clone() };
            change(&mut changed);
            let refused = changed.receive(&one, trust);
            assert!(matches!(refused, Err(ExchangeError::Signer(IdentityError::BadSignature { .. }))));
        }
    }
}

#[test]
fn n5_2_an_answer_of_another_policy_is_refused() {
    let (client, api) = (Person::new(), Person::new());
    let mut random = Random(22);
    let made = Made::answer(Policy::NoiseAnonymous, &mut random);
    let verified = verify(&client.sign(&made.body), TrustMode::Identity(&client.pins())).unwrap();
    let sealed = seal(verified, b"4711", api.sealing(Policy::NoiseAnonymous), &mut random).unwrap();
    let refused =
        made.receive(&Sealed { policy: Policy::Noise, ..sealed }, SealerTrust::Identity(&api.pins()));
    assert!(matches!(refused, Err(ExchangeError::OtherKey)));
}
