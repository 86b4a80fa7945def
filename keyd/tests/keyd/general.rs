//! Keys of general use: what each does, and all that it does not.

use onward_keys::general::request::GeneralCall;
use onward_keys::general::{Family, Form, General, KeyType, Mode, OUTPUT_BYTES_MAX, Scheme, hpke, signing};
use onward_keys::service::{Call, KeyMeta, KeyState, NewKey, Refusal};
use onward_keys::{Backend, KeyId, KeyUsage, SignatureType, signed_bytes};

use crate::harness::{Client, Daemon, Not, general_calls};

/// Everything that rules can grant with keys whose labels begin with `app/`.
const APP: &str = r#"
    version = 1
    [[rule]]
    name = "app"
    labels = ["app/*"]
    rate = 100000
    ops = ["public", "list", "generate", "destroy", "disable", "enable", "sign-raw", "verify", "ecdh-kdf", "hpke-open", "encrypt",
           "decrypt", "wrap", "unwrap", "mac", "encapsulate", "decapsulate", "seal", "open", "narrow"]
"#;

const BAD: Not = Not::Refused(Refusal::BadArguments);
const DENIED: Not = Not::Refused(Refusal::Denied);
const FAILED: Not = Not::Refused(Refusal::Crypto);

fn new<'a>(usage: &str, label: &'a str) -> NewKey<'a> {
    NewKey { usage: KeyUsage::parse(usage).unwrap(), label, expires: None, extractable: false }
}

fn make(client: &mut Client, usage: &str, label: &str) -> KeyMeta {
    client.key(Call::Generate(new(usage, label))).unwrap()
}

/// Which operations a family has.
fn is_of(family: Family, call: &GeneralCall<'_>) -> bool {
    match call {
        GeneralCall::SignRaw { .. } | GeneralCall::Verify { .. } => family == Family::SignRaw,
        GeneralCall::EcdhKdf { .. } => family == Family::EcdhKdf,
        GeneralCall::HpkeOpen { .. } => family == Family::Hpke,
        GeneralCall::Encrypt { mode, .. } | GeneralCall::Decrypt { mode, .. } => family == mode.family(),
        GeneralCall::Wrap { .. } | GeneralCall::Unwrap { .. } => family == Family::Wrap,
        GeneralCall::Mac { .. } => family == Family::Mac,
        GeneralCall::Encapsulate(_) | GeneralCall::Decapsulate { .. } => family == Family::Kem,
        _ => true,
    }
}

#[test]
fn n7_1_a_key_of_general_use_does_what_its_family_names_and_nothing_else_even_for_an_operator() {
    let daemon = Daemon::start("version = 1");
    let mut operator = daemon.operator();
    let mut tried = 0;
    for general in General::ALL {
        // The larger ones differ in nothing but the time that it takes to make them.
        if matches!(general.kind(), KeyType::Rsa3072 | KeyType::Rsa4096) {
            continue;
        }
        let key = make(&mut operator, general.name(), general.name());
        for call in general_calls(key.id) {
            if !is_of(general.family(), &call) {
                assert_eq!(operator.done(Call::General(call)), Err(BAD), "{general} {call:?}");
                tried += 1;
            }
        }
        // Nor is it a protocol's key.
        for kind in SignatureType::ALL {
            let refused = operator.sign(key.id, kind, b"body");
            assert!(matches!(refused, Err(Not::Refused(_))), "{general} {kind}");
        }
        assert_eq!(operator.agree(key.id, &[9; 32]), Err(BAD), "{general}");
        assert_eq!(operator.done(Call::Attest { key: key.id, body: b"body" }), Err(BAD), "{general}");
    }
    // And a protocol's key is of no general use.
    for usage in KeyUsage::ALL {
        let key = operator.make(usage, usage.name());
        for call in general_calls(key.id).into_iter().filter(|call| call.key().is_some()) {
            if matches!(call, GeneralCall::Narrow(_)) {
                continue;
            }
            assert_eq!(operator.done(Call::General(call)), Err(BAD), "{usage} {call:?}");
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn every_kind_of_key_does_its_work_within_its_rule() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let mut operator = daemon.operator();
    for general in General::ALL {
        let label = format!("app/{general}");
        // RSA keys are made for operators alone: it takes seconds.
        let key = if general.kind().is_rsa() {
            assert_eq!(client.key(Call::Generate(new(general.name(), &label))), Err(DENIED));
            if general.kind() == KeyType::Rsa4096 {
                continue;
            }
            make(&mut operator, general.name(), &label)
        } else {
            make(&mut client, general.name(), &label)
        };
        match general.family() {
            Family::SignRaw => signs(&mut client, &key, general.kind()),
            Family::EcdhKdf => {
                let peer = make(&mut client, general.name(), &format!("app/peer of {general}"));
                let derive = |client: &mut Client, key: KeyId, peer: &[u8], bytes| {
                    client.bytes(GeneralCall::EcdhKdf { key, peer, info: b"info", bytes })
                };
                let one = derive(&mut client, key.id, &peer.public, 40).unwrap();
                assert_eq!(one, derive(&mut client, peer.id, &key.public, 40).unwrap());
                assert_eq!(one.len(), 40);
                assert_eq!(derive(&mut client, key.id, &peer.public[1..], 40), Err(FAILED));
            }
            Family::Hpke => opens(&mut client, &key, general.kind()),
            Family::Aead => {
                for mode in [Mode::Gcm, Mode::GcmSiv, Mode::CtrHmac] {
                    encrypts(&mut client, &key, mode);
                }
            }
            Family::CbcLegacy => encrypts(&mut client, &key, Mode::CbcHmac),
            Family::Mac => {
                let code = |client: &mut Client, data| client.bytes(GeneralCall::Mac { key: key.id, data });
                assert_eq!(code(&mut client, b"a").unwrap(), code(&mut client, b"a").unwrap());
                assert_ne!(code(&mut client, b"a").unwrap(), code(&mut client, b"b").unwrap());
            }
            Family::Kem => {
                let call = Call::General(GeneralCall::Encapsulate(key.id));
                let (ciphertext, secret) = client.ask(call, |reply| reply.encapsulated()).unwrap();
                let call = GeneralCall::Decapsulate { key: key.id, ciphertext: &ciphertext };
                let opened = client.ask(Call::General(call), |reply| reply.shared()).unwrap();
                assert_eq!(opened.as_bytes(), secret.as_bytes());
            }
            _ => {}
        }
        if general.kind().is_symmetric() {
            assert_eq!(key.public.len(), 32, "a fingerprint");
        }
    }
    // What was made is there after a restart, and does the same.
    let names: Vec<_> = client.list().into_iter().map(|key| key.label).collect();
    assert!(names.len() > 20);
}

fn signs(client: &mut Client, key: &KeyMeta, kind: KeyType) {
    for scheme in Scheme::ALL {
        let signed = client.bytes(GeneralCall::SignRaw { key: key.id, scheme, message: b"message" });
        if !scheme.fits(kind) {
            assert_eq!(signed, Err(BAD), "{kind:?} {scheme:?}");
            continue;
        }
        let signature = signed.unwrap();
        assert_eq!(signing::verify(kind, &key.public, scheme, b"message", &signature), Ok(true));
        for (message, verdict) in [(&b"message"[..], true), (b"massage", false)] {
            let call = GeneralCall::Verify { key: key.id, scheme, message, signature: &signature };
            assert_eq!(client.ask(Call::General(call), |reply| reply.verdict()), Ok(verdict));
        }
        let typed = signed_bytes(SignatureType::Release, b"body");
        let call = GeneralCall::SignRaw { key: key.id, scheme, message: &typed };
        assert_eq!(client.bytes(call), Err(BAD), "a typed signature is nobody's to ask for");
    }
}

fn opens(client: &mut Client, key: &KeyMeta, kind: KeyType) {
    let mut random = rand_core::UnwrapErr(getrandom::SysRng);
    let (backend, bound) = (Backend::best(), (&b"info"[..], &b"aad"[..]));
    let suite = hpke::suite(kind).unwrap();
    for data in [&b""[..], b"data", &[7; 60_000]] {
        let sealed = suite.seal(backend, &key.public, bound, data, &mut random).unwrap();
        let mut open = |enc: &[u8], aad: &[u8], ciphertext: &[u8]| {
            client.bytes(GeneralCall::HpkeOpen { key: key.id, enc, info: b"info", aad, ciphertext })
        };
        assert_eq!(open(&sealed.enc, b"aad", &sealed.ct).unwrap(), data);
        assert_eq!(open(&sealed.enc, b"ada", &sealed.ct), Err(FAILED));
        assert_eq!(open(&sealed.enc[1..], b"aad", &sealed.ct), Err(FAILED));
        assert_eq!(open(&sealed.enc, b"aad", &sealed.ct[1..]), Err(FAILED));
        assert_eq!(open(&sealed.enc, b"aad", b""), Err(FAILED));
    }
}

fn encrypts(client: &mut Client, key: &KeyMeta, mode: Mode) {
    let (key, aad) = (key.id, &b"aad"[..]);
    for data in [&b""[..], b"data", &[7; 64_000]] {
        let sealed = client.bytes(GeneralCall::Encrypt { key, mode, aad, data }).unwrap();
        let again = client.bytes(GeneralCall::Encrypt { key, mode, aad, data }).unwrap();
        assert_ne!(sealed[..12], again[..12], "a nonce is used once");
        assert_eq!(client.bytes(GeneralCall::Decrypt { key, mode, aad, sealed: &sealed }).unwrap(), data);
        let mut changed = sealed.clone();
        changed[sealed.len() - 1] ^= 1;
        assert_eq!(client.bytes(GeneralCall::Decrypt { key, mode, aad, sealed: &changed }), Err(FAILED));
        assert_eq!(client.bytes(GeneralCall::Decrypt { key, mode, aad: b"", sealed: &sealed }), Err(FAILED));
    }
}

#[test]
fn keys_of_general_use_are_there_after_a_restart() {
    let mut daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let keys: Vec<_> =
        ["p-256:sign-raw", "aes-256:aead", "hmac-sha256:mac", "ml-kem-768:kem", "ml-dsa-65:sign-raw"]
            .map(|usage| make(&mut client, usage, &format!("app/{usage}")))
            .into();
    let code = client.bytes(GeneralCall::Mac { key: keys[2].id, data: b"data" }).unwrap();
    daemon.kill_and_restart();
    let mut client = daemon.client();
    let mut listed = client.list();
    listed.sort_by_key(|key| key.created);
    for key in &keys {
        assert!(listed.contains(key), "{key:?}");
    }
    assert_eq!(client.bytes(GeneralCall::Mac { key: keys[2].id, data: b"data" }).unwrap(), code);
    signs(&mut client, &keys[0], KeyType::P256);
    encrypts(&mut client, &keys[1], Mode::Gcm);
}

/// From one store to another, by way of a key that an operator has put into both.
#[test]
fn n7_9_a_wrapped_key_comes_back_as_what_it_was_or_as_less() {
    let (here, there) = (Daemon::start(APP), Daemon::start(APP));
    let wrapping = |daemon: &Daemon| {
        let key = new("aes-256:wrap", "app/wrapping");
        daemon.operator().key(Call::Import { key, id: None, secret: &[0x31; 32] }).unwrap().id
    };
    let (with_here, with_there) = (wrapping(&here), wrapping(&there));
    let (mut client, mut other) = (here.client(), there.client());
    let end = 4_000_000_000;
    let leaves = NewKey { extractable: true, expires: Some(end), ..new("hmac-sha256:mac", "app/mac") };
    let key = client.key(Call::Generate(leaves)).unwrap();
    assert!(key.extractable);
    let stays = make(&mut client, "hmac-sha256:mac", "app/stays");
    let wrap =
        |client: &mut Client, key, form| client.bytes(GeneralCall::Wrap { with: with_here, key, form });
    assert_eq!(wrap(&mut client, stays.id, Form::Sealed), Err(BAD), "it never leaves");
    assert_eq!(wrap(&mut client, with_here, Form::Sealed), Err(BAD), "no key wraps itself");
    let wrapped = wrap(&mut client, key.id, Form::Sealed).unwrap();
    let unwrap = |client: &mut Client, wrapped: &[u8], new| {
        client.key(Call::General(GeneralCall::Unwrap { with: with_there, form: Form::Sealed, wrapped, new }))
    };
    let wider = [
        NewKey { expires: None, ..leaves },
        NewKey { expires: Some(end + 1), ..leaves },
        NewKey { label: "app/renamed", ..leaves },
        NewKey { usage: KeyUsage::parse("aes-256:aead").unwrap(), ..leaves },
    ];
    for new in wider {
        assert_eq!(unwrap(&mut other, &wrapped, new), Err(BAD), "{new:?}");
    }
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        assert_eq!(unwrap(&mut other, &changed, leaves), Err(FAILED), "{at}");
    }
    assert_eq!(unwrap(&mut other, &wrapped, NewKey { label: "other", ..leaves }), Err(DENIED), "by the rule");
    let less = NewKey { extractable: false, expires: Some(end - 1), ..leaves };
    let back = unwrap(&mut other, &wrapped, less).unwrap();
    assert_eq!(
        (back.usage, &back.label, back.owner, back.created),
        (key.usage, &key.label, key.owner, key.created)
    );
    assert!(!back.extractable);
    // It is the same key, known by another fingerprint, and cannot be wider by another way.
    let code = |client: &mut Client, key| client.bytes(GeneralCall::Mac { key, data: b"data" }).unwrap();
    assert_eq!(code(&mut client, key.id), code(&mut other, back.id));
    assert_ne!(key.public, back.public);
    assert_eq!(unwrap(&mut other, &wrapped, leaves), Err(BAD), "a key is in a store once");
    let call = GeneralCall::Wrap { with: with_there, key: back.id, form: Form::Sealed };
    assert_eq!(other.bytes(call), Err(BAD), "extractable no more");
    // And in the first store there is no way back either.
    client.done(Call::General(GeneralCall::Narrow(key.id))).unwrap();
    assert_eq!(wrap(&mut client, key.id, Form::Sealed), Err(BAD));
    assert!(!client.key(Call::Public(key.id)).unwrap().extractable);
}

#[test]
fn n7_9_a_protocols_key_is_never_extractable() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let new = NewKey { extractable: true, ..new("identity", "app/identity") };
    // It cannot even be said: the request has no such form.
    assert_eq!(operator.key(Call::Generate(new)), Err(Not::Closed));
}

/// Whoever has the public half of an RSA key, or an AES key of an operator, brings keys in; none of them wraps others.
#[test]
fn what_a_foreign_store_wrapped_never_leaves_again_and_wraps_nothing() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let rsa = make(&mut operator, "rsa-2048:wrap", "app/rsa");
    let aes = new("aes-128:wrap", "app/aes");
    let aes = operator.key(Call::Import { key: aes, id: None, secret: &[0x42; 16] }).unwrap();
    let mut client = daemon.client();
    let leaves = NewKey { extractable: true, ..new("aes-256:aead", "app/key") };
    let key = client.key(Call::Generate(leaves)).unwrap();
    for (with, form) in [(rsa.id, Form::Oaep), (aes.id, Form::Kwp)] {
        let wrapped = client.bytes(GeneralCall::Wrap { with, key: key.id, form }).unwrap();
        let unwrap = |client: &mut Client, wrapped: &[u8], new| {
            client.key(Call::General(GeneralCall::Unwrap { with, form, wrapped, new }))
        };
        assert_eq!(unwrap(&mut client, &wrapped, NewKey { label: "app/new", ..leaves }), Err(BAD));
        assert_eq!(unwrap(&mut client, &wrapped, new("aes-256:wrap", "app/new")), Err(BAD));
        assert_eq!(unwrap(&mut client, &wrapped, new("identity", "app/new")), Err(BAD));
        // It is in the store already, under whatever usage, and is not let in twice.
        assert_eq!(unwrap(&mut client, &wrapped, new("hmac-sha256:mac", "app/new")), Err(FAILED));
        assert_eq!(
            unwrap(&mut client, &wrapped, new("aes-128:aead", "app/new")),
            Err(FAILED),
            "of another length"
        );
    }
    // From another store.
    let there = Daemon::start(APP);
    let aes = there.operator().key(Call::Import {
        key: new("aes-128:wrap", "app/aes"),
        id: None,
        secret: &[0x42; 16],
    });
    let with = aes.unwrap().id;
    let call = GeneralCall::Wrap { with: client_key(&mut client, "app/aes"), key: key.id, form: Form::Kwp };
    let wrapped = client.bytes(call).unwrap();
    let call =
        GeneralCall::Unwrap { with, form: Form::Kwp, wrapped: &wrapped, new: new("aes-256:aead", "app/in") };
    let taken = there.client().key(Call::General(call)).unwrap();
    let mode = Mode::GcmSiv;
    let sealed = client.bytes(GeneralCall::Encrypt { key: key.id, mode, aad: b"", data: b"data" }).unwrap();
    let call = GeneralCall::Decrypt { key: taken.id, mode, aad: b"", sealed: &sealed };
    assert_eq!(there.client().bytes(call).unwrap(), b"data");
}

/// Nothing says what was wrong: the length, the nonce, the data, the tag, the padding, or what was in it.
#[test]
fn n7_8_all_that_a_peer_can_get_wrong_is_one_status() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let rsa = make(&mut operator, "rsa-2048:wrap", "app/rsa").id;
    let aes = make(&mut operator, "aes-256:wrap", "app/aes").id;
    let mut client = daemon.client();
    let leaves = NewKey { extractable: true, ..new("hmac-sha256:mac", "app/mac") };
    let mac = client.key(Call::Generate(leaves)).unwrap().id;
    let wanted = new("hmac-sha256:mac", "app/new");
    for (with, form) in [(rsa, Form::Oaep), (aes, Form::Kwp), (aes, Form::Sealed)] {
        let whole = client.bytes(GeneralCall::Wrap { with, key: mac, form }).unwrap();
        for wrapped in wrong(&whole) {
            let call = GeneralCall::Unwrap { with, form, wrapped: &wrapped, new: wanted };
            assert_eq!(client.key(Call::General(call)), Err(FAILED), "{form:?} {}", wrapped.len());
        }
    }
    for (usage, mode) in [
        ("aes-128:aead", Mode::Gcm),
        ("aes-256:aead", Mode::GcmSiv),
        ("aes-256:aead", Mode::CtrHmac),
        ("aes-256:cbc-legacy", Mode::CbcHmac),
    ] {
        let key = make(&mut client, usage, &format!("app/{mode:?}")).id;
        let whole = client.bytes(GeneralCall::Encrypt { key, mode, aad: b"", data: &[7; 40] }).unwrap();
        for sealed in wrong(&whole) {
            let call = GeneralCall::Decrypt { key, mode, aad: b"", sealed: &sealed };
            assert_eq!(client.bytes(call), Err(FAILED), "{mode:?} {}", sealed.len());
        }
    }
}

/// Every truncation, something longer, nothing, and every changed byte.
fn wrong(whole: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    let changed = (0..whole.len()).map(|at| {
        let mut changed = whole.to_vec();
        changed[at] ^= 1;
        changed
    });
    let longer = [whole, &[0]].concat();
    cut.chain(changed).chain([longer, vec![0; whole.len()], vec![0xff; whole.len()]]).collect()
}

fn client_key(client: &mut Client, label: &str) -> KeyId {
    client.list().into_iter().find(|key| key.label == label).unwrap().id
}

#[test]
fn wrapping_takes_the_permission_for_both_keys() {
    let rules = APP.to_owned()
        + "[[rule]]\nname = \"vault\"\nlabels = [\"vault/*\"]\nops = [\"generate\", \"public\", \"mac\"]";
    let daemon = Daemon::start(&rules);
    let mut client = daemon.client();
    let with = make(&mut client, "aes-256:wrap", "app/wrapping").id;
    let leaves = NewKey { extractable: true, ..new("hmac-sha256:mac", "vault/mac") };
    let key = client.key(Call::Generate(leaves)).unwrap().id;
    assert_eq!(client.bytes(GeneralCall::Wrap { with, key, form: Form::Sealed }), Err(DENIED));
    assert!(daemon.operator().bytes(GeneralCall::Wrap { with, key, form: Form::Sealed }).is_ok());
}

#[test]
fn n7_9_keys_that_a_client_may_not_list_are_not_in_its_list() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    make(&mut operator, "aes-256:aead", "other/a");
    make(&mut operator, "p-256:sign-raw", "app/b");
    let labels: Vec<_> = daemon.client().list().into_iter().map(|key| key.label).collect();
    assert_eq!(labels, ["app/b"]);
}

#[test]
fn a_blob_is_opened_for_its_name_and_data_alone() {
    let daemon = Daemon::start(APP);
    let mut client = daemon.client();
    let seal = |client: &mut Client, label: &str| {
        client.bytes(GeneralCall::Seal { label, aad: b"aad", data: b"state" })
    };
    let sealed = seal(&mut client, "app/state").unwrap();
    let open = |client: &mut Client, label: &str, aad: &[u8], sealed: &[u8]| {
        client.bytes(GeneralCall::Open { label, aad, sealed })
    };
    assert_eq!(open(&mut client, "app/state", b"aad", &sealed).unwrap(), b"state");
    assert_eq!(open(&mut client, "app/other", b"aad", &sealed), Err(FAILED));
    assert_eq!(open(&mut client, "app/state", b"dda", &sealed), Err(FAILED));
    assert_eq!(open(&mut client, "app/state", b"aad", &sealed[1..]), Err(FAILED));
    assert_eq!(seal(&mut client, "other"), Err(DENIED));
}

#[test]
fn random_bytes_are_as_many_as_asked_for_and_never_the_same() {
    let daemon = Daemon::start("version = 1\n[[rule]]\nname = \"x\"\nops = [\"random\"]");
    let mut client = daemon.client();
    for bytes in [1, 32, OUTPUT_BYTES_MAX as u16] {
        assert_eq!(client.bytes(GeneralCall::Random { bytes }).unwrap().len(), usize::from(bytes));
    }
    let draw = |client: &mut Client| client.bytes(GeneralCall::Random { bytes: 32 }).unwrap();
    assert_ne!(draw(&mut client), draw(&mut client));
    assert_eq!(client.bytes(GeneralCall::Random { bytes: 0 }), Err(Not::Closed), "no such request");
}

#[test]
fn a_rule_that_names_usages_grants_no_more_than_those() {
    let daemon = Daemon::start(
        "version = 1\n[[rule]]\nname = \"x\"\nusages = [\"p-256:sign-raw\"]\nops = [\"generate\", \"sign-raw\", \"random\"]",
    );
    let mut client = daemon.client();
    let key = make(&mut client, "p-256:sign-raw", "a");
    let scheme = Scheme::EcdsaP256Sha256;
    assert!(client.bytes(GeneralCall::SignRaw { key: key.id, scheme, message: b"x" }).is_ok());
    assert_eq!(client.key(Call::Generate(new("p-384:sign-raw", "b"))), Err(DENIED));
    assert_eq!(client.bytes(GeneralCall::Random { bytes: 1 }), Err(DENIED), "random bytes are of no usage");
}

#[test]
fn one_secret_is_one_key_whatever_it_is_for() {
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();
    let mut import = |usage: &str, label: &str, secret: &[u8]| {
        operator.key(Call::Import { key: new(usage, label), id: None, secret })
    };
    let first = import("aes-256:aead", "app/a", &[5; 32]).unwrap();
    for usage in ["aes-256:aead", "aes-256:wrap", "aes-256:cbc-legacy", "hmac-sha256:mac"] {
        assert_eq!(import(usage, "app/b", &[5; 32]), Err(BAD), "{usage}");
    }
    // An Ed25519 seed and an X25519 scalar are known by their public halves, a protocol's key among them.
    import("credential-signing", "app/c", &[6; 32]).unwrap();
    assert_eq!(import("ed25519:sign-raw", "app/d", &[6; 32]), Err(BAD));
    for (usage, length) in
        [("aes-128:aead", 15), ("p-384:sign-raw", 47), ("ml-kem-1024:kem", 32), ("identity", 31)]
    {
        assert_eq!(import(usage, "app/e", &vec![7; length]), Err(BAD), "{usage}");
    }
    operator.done(Call::Destroy(first.id)).unwrap();
    let again = Call::Import { key: new("aes-256:aead", "app/a"), id: None, secret: &[5; 32] };
    assert_eq!(operator.key(again), Err(BAD), "a tombstone remembers");
    let tombstone = operator.list().into_iter().find(|key| key.id == first.id).unwrap();
    assert_eq!(tombstone.state, KeyState::Destroyed);
    let call = GeneralCall::Encrypt { key: first.id, mode: Mode::Gcm, aad: b"", data: b"" };
    assert_eq!(operator.bytes(call), Err(DENIED));
}
