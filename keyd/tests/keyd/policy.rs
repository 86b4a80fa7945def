//! What a client may do: nothing, unless a rule says so.

use std::time::Instant;

use onward_keys::service::{Call, CallKind, KeyState, NewKey, Refusal, Request};
use onward_keys::{KeyUsage, PublicHalf, Signature, SignatureAlgorithm, SignatureType, private};

use crate::harness::{Client, Daemon, Not, PASSPHRASE, calls, half};

/// A rule for everything that rules can grant on labels that begin with `app/`.
const APP: &str = r#"
    version = 1
    [[rule]]
    name = "app"
    labels = ["app/*"]
    ops = ["public", "list", "sign", "agree", "attest", "generate", "destroy", "disable", "enable"]
    types = ["credential", "prekey"]
"#;

#[test]
fn n7_1_every_operation_is_denied_without_a_rule() {
    let daemon = Daemon::start("version = 1");
    let key = daemon.operator().make(KeyUsage::CredentialSigning, "app/signer");
    let mut client = daemon.client();
    for call in calls(key.id) {
        assert_eq!(client.done(call), Err(Not::Refused(Refusal::Denied)), "{call:?}");
    }
    assert_eq!(client.list(), []);
    assert_eq!(client.unlock("a guess"), Err(Not::Refused(Refusal::Denied)));
    // And a key that there is not is denied in the same way.
    let none = onward_keys::KeyId::from_bytes([0; 16]);
    assert_eq!(client.done(Call::Destroy(none)), Err(Not::Refused(Refusal::Denied)));
    assert_eq!(daemon.operator().list().iter().filter(|key| key.state == KeyState::Active).count(), 2);
}

#[test]
fn n7_1_a_key_does_what_its_usage_names_and_nothing_else_even_for_an_operator() {
    let daemon = Daemon::start("version = 1");
    let mut operator = daemon.operator();
    for usage in KeyUsage::ALL {
        let key = operator.make(usage, usage.name());
        for kind in SignatureType::ALL {
            // These are signed by operations of their own, or need a time in them.
            let special = matches!(
                kind,
                SignatureType::KeyAttest | SignatureType::AuditSth | SignatureType::Credential
            );
            let signed = operator.sign(key.id, kind, b"body");
            if usage.signs(kind) && !special {
                let PublicHalf::Verify(public) = key.public_half() else { panic!("{usage} signs") };
                let bytes = signed.unwrap().to_vec();
                let signature = Signature { algorithm: SignatureAlgorithm::Ed25519, bytes };
                assert_eq!(public.verify(kind, b"body", &signature), Ok(()));
            } else {
                assert!(matches!(signed, Err(Not::Refused(_))), "{usage} {kind}: {signed:?}");
            }
        }
        let peer = private::public_half(KeyUsage::ChannelStatic, &[5; 32]);
        let agreed = operator.agree(key.id, peer.as_bytes().try_into().unwrap());
        if usage.agrees() {
            let expected = private::agree(&[5; 32], &half(&key)).unwrap();
            assert_eq!(agreed.as_ref(), Ok(expected.as_bytes()));
        } else {
            assert_eq!(agreed, Err(Not::Refused(Refusal::BadArguments)), "{usage}");
        }
    }
}

#[test]
fn n7_1_a_type_that_the_rule_does_not_name_is_not_signed() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let prekey = client.make(KeyUsage::PrekeySigning, "app/prekey");
    let message = client.make(KeyUsage::MessageSigning, "app/message");
    let identity = client.make(KeyUsage::Identity, "app/identity");
    assert!(client.sign(prekey.id, SignatureType::Prekey, b"body").is_ok());
    let denied = Err(Not::Refused(Refusal::Denied));
    assert_eq!(client.sign(message.id, SignatureType::SfMessage, b"body"), denied);
    // What changes an identity is never signed for a client, and an attestation only by its own operation.
    assert_eq!(client.sign(identity.id, SignatureType::IdentityChange, b"body"), denied);
    assert_eq!(client.sign(identity.id, SignatureType::KeyAttest, b"body"), denied);
    assert!(daemon.operator().sign(identity.id, SignatureType::IdentityChange, b"body").is_ok());
    assert_eq!(daemon.operator().sign(identity.id, SignatureType::KeyAttest, b"body"), denied);
}

#[test]
fn n7_1_the_key_of_the_log_is_nobodys() {
    let daemon =
        Daemon::start("version = 1\n[[rule]]\nname = \"all\"\nops = [\"list\", \"public\", \"destroy\"]");
    let mut operator = daemon.operator();
    let key = operator.list().into_iter().find(|key| key.usage == KeyUsage::AuditSigning).unwrap();
    let denied = Err(Not::Refused(Refusal::Denied));
    assert_eq!(operator.done(Call::Destroy(key.id)), denied);
    assert_eq!(operator.sign(key.id, SignatureType::AuditSth, b"body").map(|_| ()), denied);
    assert_eq!(daemon.client().list(), []);
}

#[test]
fn n7_7_points_of_low_order_are_refused_and_uses_have_a_rate() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let key = client.make(KeyUsage::ChannelStatic, "app/static");
    for point in LOW_ORDER {
        for top_bit in [0, 0x80] {
            let mut point = bytes(point);
            point[31] |= top_bit;
            assert_eq!(client.agree(key.id, &point), Err(Not::Refused(Refusal::Crypto)));
        }
    }
    // One key's rate is not another's.
    let second = client.make(KeyUsage::ChannelStatic, "app/second");
    let mut peer = [0; 32];
    peer[0] = 9;
    let start = Instant::now();
    let mut agreed = 0;
    for _ in 0..2000 {
        match client.agree(second.id, &peer) {
            Ok(_) => agreed += 1,
            Err(refused) => assert_eq!(refused, Not::Refused(Refusal::Rate)),
        }
    }
    let allowed = 200.0 * (1.0 + start.elapsed().as_secs_f64());
    assert!((200.0..=allowed + 1.0).contains(&f64::from(agreed)), "{agreed} of at most {allowed}");
}

/// RFC 7748 §5.2, with private keys that were made elsewhere; and what is signed is what the software vault signs.
#[test]
fn agreements_and_signatures_are_those_of_the_published_vectors_and_of_the_software_vault() {
    let daemon = Daemon::start("version = 1");
    let mut operator = daemon.operator();
    for (at, (secret, public, shared)) in RFC_7748.into_iter().enumerate() {
        let label = format!("vector {at}");
        let new = NewKey { usage: KeyUsage::ChannelStatic, label: &label, expires: None, extractable: false };
        let key = operator.key(Call::Import { key: new, id: None, secret: &bytes(secret) }).unwrap();
        assert_eq!(operator.agree(key.id, &bytes(public)), Ok(bytes(shared)), "{at}");
    }
    let new = NewKey { usage: KeyUsage::PrekeySigning, label: "signer", expires: None, extractable: false };
    let key = operator.key(Call::Import { key: new, id: None, secret: &[0x42; 32] }).unwrap();
    let signed = operator.sign(key.id, SignatureType::Prekey, b"body");
    assert_eq!(signed, Ok(private::sign(&[0x42; 32], SignatureType::Prekey, b"body")));
}

#[test]
fn an_agreement_with_a_key_of_the_same_store_needs_a_rule_that_says_so() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let one = client.make(KeyUsage::ChannelStatic, "app/one");
    let other = client.make(KeyUsage::ChannelStatic, "app/other");
    assert_eq!(client.agree(one.id, &half(&other)), Err(Not::Refused(Refusal::Denied)));
    daemon.set_policy(&format!("{APP}\nagree_with_own = true"));
    assert_eq!(client.agree(one.id, &half(&other)), client.agree(other.id, &half(&one)));
}

#[test]
fn n7_9_a_denied_key_is_in_no_list_and_no_answer_holds_a_private_half() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let secret = [0x3c; 32];
    let hidden = operator.make(KeyUsage::CredentialSigning, "hidden");
    let new = NewKey {
        usage: KeyUsage::CredentialSigning,
        label: "app/imported",
        expires: None,
        extractable: false,
    };
    let imported = operator.key(Call::Import { key: new, id: None, secret: &secret }).unwrap();
    assert_eq!(imported.public, *private::public_half(new.usage, &secret).as_bytes());
    let mut client = daemon.client();
    assert_eq!(client.list(), std::slice::from_ref(&imported));
    assert_eq!(client.key(Call::Public(hidden.id)), Err(Not::Refused(Refusal::Denied)));
    let everything = [Call::List, Call::Status, Call::Reload].into_iter().chain(calls(imported.id));
    for (id, call) in (1000..).zip(everything) {
        for client in [&mut client, &mut operator] {
            client.send(&Request { id, call });
            let answer = client.receive().unwrap();
            let found = answer.windows(8).any(|window| window == &secret[..8]);
            assert!(!found, "{call:?}");
        }
    }
}

/// There is no operation that changes what a key is, and no place in a request to ask for it.
#[test]
fn n7_9_nothing_makes_a_key_extractable() {
    let daemon = Daemon::start(APP);
    let key = daemon.client().make(KeyUsage::CredentialSigning, "app/signer");
    assert!(
        !CallKind::ALL.iter().any(|kind| kind.name().contains("export") || kind.name().contains("extract"))
    );
    // GENERATE with a fourth argument, `extractable: true`; DISABLE with a second.
    let mut generate = vec![0x84, 1, 1, 1, 0x84, 2, 0x61, b'x', 0xf6, 0xf5];
    let mut disable = vec![0x84, 1, 1, 0x18, 36, 0x82, 0x50];
    disable.extend_from_slice(key.id.as_bytes());
    disable.push(0xf5);
    for request in [&mut generate, &mut disable] {
        let mut client = daemon.client();
        let framed = [&(request.len() as u32).to_be_bytes()[..], request].concat();
        std::io::Write::write_all(&mut client.stream, &framed).unwrap();
        assert_eq!(client.receive(), None, "the connection ends without an answer");
    }
}

#[test]
fn a_label_and_a_public_key_are_used_once() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let new =
        NewKey { usage: KeyUsage::CredentialSigning, label: "app/a", expires: None, extractable: false };
    let bad = Err(Not::Refused(Refusal::BadArguments));
    let first = operator.key(Call::Import { key: new, id: None, secret: &[1; 32] }).unwrap();
    assert_eq!(operator.key(Call::Generate(new)), bad);
    // The same private half under another name and usage.
    let other = NewKey { usage: KeyUsage::MessageSigning, label: "app/b", expires: None, extractable: false };
    assert_eq!(operator.key(Call::Import { key: other, id: None, secret: &[1; 32] }), bad);
    operator.done(Call::Disable(first.id)).unwrap();
    let second = operator.key(Call::Generate(new)).unwrap();
    assert_eq!(operator.done(Call::Enable(first.id)), Err(Not::Refused(Refusal::BadArguments)));
    operator.done(Call::Destroy(second.id)).unwrap();
    operator.done(Call::Enable(first.id)).unwrap();
    operator.done(Call::Destroy(first.id)).unwrap();
    // A tombstone remembers its public half.
    assert_eq!(operator.key(Call::Import { key: new, id: None, secret: &[1; 32] }), bad);
}

#[test]
fn a_resting_destroyed_or_ended_key_is_not_used() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let denied = Err(Not::Refused(Refusal::Denied));
    let key = client.make(KeyUsage::PrekeySigning, "app/a");
    client.done(Call::Disable(key.id)).unwrap();
    assert_eq!(client.sign(key.id, SignatureType::Prekey, b"x"), denied);
    client.done(Call::Enable(key.id)).unwrap();
    assert!(client.sign(key.id, SignatureType::Prekey, b"x").is_ok());
    client.done(Call::Destroy(key.id)).unwrap();
    assert_eq!(client.sign(key.id, SignatureType::Prekey, b"x"), denied);
    assert_eq!(client.done(Call::Enable(key.id)).map(|()| [0; 64]), denied);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let ended =
        NewKey { usage: KeyUsage::PrekeySigning, label: "app/b", expires: Some(now), extractable: false };
    assert_eq!(client.key(Call::Generate(ended)), Err(Not::Refused(Refusal::BadArguments)));
    let soon = client.key(Call::Generate(NewKey { expires: Some(now + 2), ..ended })).unwrap();
    while std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() < now + 2 {
        std::thread::yield_now();
    }
    assert_eq!(client.sign(soon.id, SignatureType::Prekey, b"x"), denied);
}

#[test]
fn a_locked_service_says_what_keys_there_are_and_computes_nothing() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let key = operator.make(KeyUsage::CredentialSigning, "app/signer");
    operator.done(Call::Lock).unwrap();
    assert_eq!(operator.list().len(), 1, "an operator's proof ends with the unlocked period");
    for call in calls(key.id).into_iter().filter(|call| call.kind() != CallKind::Public) {
        assert_eq!(operator.done(call), Err(Not::Refused(Refusal::Locked)), "{call:?}");
    }
    assert_eq!(operator.key(Call::Public(key.id)).unwrap(), key);
    assert!(!operator.ask(Call::Status, |reply| reply.state()).unwrap().unlocked);
    assert_eq!(operator.unlock("another"), Err(Not::Refused(Refusal::Denied)));
    operator.unlock(PASSPHRASE).unwrap();
    assert!(operator.ask(Call::Status, |reply| reply.state()).unwrap().unlocked);
    daemon.signal(rustix::process::Signal::HUP);
    let until = Instant::now() + crate::harness::PATIENCE;
    while operator.ask(Call::Status, |reply| reply.state()).unwrap().unlocked {
        assert!(Instant::now() < until, "SIGHUP does not lock");
    }
}

#[test]
fn a_policy_that_cannot_be_read_leaves_the_old_one() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    client.make(KeyUsage::PrekeySigning, "app/a");
    std::fs::write(daemon.path().join("policy.toml"), "version = 1\n[[rule]]\nname = 1").unwrap();
    assert_eq!(client.done(Call::Reload), Err(Not::Refused(Refusal::Backend)));
    client.make(KeyUsage::PrekeySigning, "app/b");
    daemon.set_policy("version = 1");
    assert_eq!(client.list(), []);
}

#[test]
fn ten_wrong_passphrases_are_free_and_the_next_has_to_wait() {
    let daemon = Daemon::start("version = 1");
    let mut client = daemon.client();
    for _ in 0..10 {
        assert_eq!(client.unlock("wrong"), Err(Not::Refused(Refusal::Denied)));
    }
    // Even the right one is not looked at now.
    assert_eq!(client.unlock(PASSPHRASE), Err(Not::Refused(Refusal::Rate)));
}

#[test]
fn another_passphrase_takes_the_place_of_the_old_one_for_good() {
    let mut daemon = Daemon::start(APP);
    let key = daemon.operator().make(KeyUsage::PrekeySigning, "app/a");
    let mut client = daemon.client();
    let change = |client: &mut Client, passphrase: &str, next: &str| {
        client.done(Call::ChangePassphrase { passphrase: passphrase.as_bytes(), next: next.as_bytes() })
    };
    assert_eq!(change(&mut client, "wrong", "other"), Err(Not::Refused(Refusal::Denied)));
    change(&mut client, PASSPHRASE, "other").unwrap();
    assert_eq!(client.unlock(PASSPHRASE), Err(Not::Refused(Refusal::Denied)));
    client.done(Call::Lock).unwrap();
    assert_eq!(change(&mut client, "other", "third"), Err(Not::Refused(Refusal::Locked)));
    assert_eq!(client.unlock(PASSPHRASE), Err(Not::Refused(Refusal::Denied)));
    client.unlock("other").unwrap();
    assert!(client.sign(key.id, SignatureType::Prekey, b"x").is_ok());
    assert!(!daemon.path().join("keys.store.before").exists(), "no file is left that the old one opens");
    change(&mut client, "other", PASSPHRASE).unwrap();
    daemon.kill_and_restart();
    assert!(daemon.client().sign(key.id, SignatureType::Prekey, b"x").is_ok());
}

#[test]
fn answers_to_many_requests_at_once_come_in_their_order_and_whole() {
    let daemon = Daemon::start(&APP.replace("types =", "rate = 100000\ntypes ="));
    let mut client = daemon.client();
    let key = client.make(KeyUsage::PrekeySigning, "app/a");
    let long = vec![7; 60_000];
    for id in 0..64 {
        let body = if id % 8 == 0 { &long[..] } else { b"short" };
        client.send(&Request { id, call: Call::Sign { key: key.id, kind: SignatureType::Prekey, body } });
    }
    for id in 0..64 {
        let content = client.receive().unwrap();
        let reply = onward_keys::service::Reply::decode(&content).unwrap();
        assert_eq!(reply.id, id);
        assert!(reply.signature().is_ok());
    }
}

#[test]
fn a_request_that_is_too_long_or_none_ends_the_connection() {
    let daemon = Daemon::start(APP);
    for bytes in [&[0, 2, 0, 0][..], &[0xff; 8], &[0, 0, 0, 1, 0xff], &[0, 0, 0, 0]] {
        let mut client: Client = daemon.client();
        std::io::Write::write_all(&mut client.stream, bytes).unwrap();
        assert_eq!(client.receive(), None, "{bytes:?}");
    }
    assert!(daemon.client().list().is_empty());
}

fn bytes(text: &str) -> [u8; 32] {
    let byte = |at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    std::array::from_fn(byte)
}

/// A private key, a public key and what they agree on.
const RFC_7748: [(&str, &str, &str); 2] = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
];

/// 0, 1, the two points of order 8, p − 1, p and p + 1, little endian.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];
