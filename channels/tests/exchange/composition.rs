//! Keys for parts of an answer.

use onward_channels::ok2cry::{
    CHILD_MARGIN_SECONDS, ExchangeError, KeyBody, Policy, Sealing, TrustMode, check_child, check_scope,
};

use crate::fixture::*;

fn child(parent: &KeyBody, ttl: u16, random: &mut Random) -> KeyBody {
    let mut child = Made::answer(Policy::Strong, random).body;
    child.parent = Some(parent.key_id);
    child.ttl = ttl;
    child
}

#[test]
fn n5_8_a_child_that_outlives_its_parent_is_refused_when_it_is_made() {
    let mut random = Random(81);
    let parent = Made::answer(Policy::Strong, &mut random).body;
    let longest = parent.ttl - CHILD_MARGIN_SECONDS as u16;
    assert!(check_child(&child(&parent, longest, &mut random), &parent).is_ok());
    for ttl in [longest + 1, parent.ttl, parent.ttl + 1] {
        let refused = check_child(&child(&parent, ttl, &mut random), &parent);
        assert!(matches!(refused, Err(ExchangeError::Child)), "{ttl}");
    }
    let mut stray = child(&parent, 10, &mut random);
    stray.parent = None;
    assert!(check_child(&stray, &parent).is_err(), "a child names its parent");
    let mut endless = child(&parent, 10, &mut random);
    endless.iat = u64::MAX;
    assert!(check_child(&endless, &parent).is_err());
}

#[test]
fn n5_8_a_child_that_outlives_its_parent_is_refused_by_whoever_seals_to_the_parent() {
    let (client, api) = (Person::new(), Person::new());
    let mut random = Random(82);
    let made = Made::answer(Policy::Strong, &mut random);
    let object = client.sign(&made.body);
    let good = child(&made.body, 60, &mut random);
    let long = child(&made.body, 116, &mut random);
    let mut sealed = |children: &[KeyBody]| {
        let verified = verify(&object, TrustMode::Identity(&client.pins())).unwrap();
        seal(verified, b"4711", Sealing { children, ..api.sealing(Policy::Strong) }, &mut random)
    };
    assert!(sealed(std::slice::from_ref(&good)).is_ok());
    assert!(matches!(sealed(&[good, long]), Err(ExchangeError::Child)));
}

#[test]
fn n5_8_a_client_is_never_in_the_scope_of_a_child() {
    let [client, composer, third] =
        [1, 2, 3].map(|byte| onward_channels::identity::Identifier::from_bytes([byte; 32]));
    assert!(check_scope(&client, &composer, [&third]).is_ok());
    assert!(check_scope(&client, &composer, [&third, &client]).is_err());
    assert!(check_scope(&client, &client, [&third]).is_err());
}
