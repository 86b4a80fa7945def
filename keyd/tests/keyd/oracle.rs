//! Keys as oracles: what a signature of one type is good for, and whether any answer gives a private half away.

use std::io::Write as _;

use onward_keys::general::request::GeneralCall;
use onward_keys::service::{Call, NewKey, Reply, Request};
use onward_keys::{KeyUsage, PublicKey, Signature, SignatureAlgorithm, SignatureType, WipedBuffer};
use onward_trials::{Row, size};

use crate::harness::{Daemon, half};

const APP: &str = r#"
    version = 1
    [[rule]]
    name = "app"
    labels = ["app/*"]
    ops = ["public", "list", "sign", "agree", "attest", "mac", "random"]
    types = ["credential", "prekey"]
    rate = 1000000000
"#;

#[test]
fn a48_a_signature_is_good_for_one_type_and_no_answer_holds_a_private_half() {
    let row = Row::new("A48");
    let daemon = Daemon::start(APP);
    let mut operator = daemon.operator();

    let (mut own, mut foreign, mut refused) = (0, 0, 0);
    for (number, usage) in KeyUsage::ALL.into_iter().enumerate() {
        let label = format!("matrix/{number}");
        let new = NewKey { usage, label: &label, expires: None, extractable: false };
        let Ok(key) = operator.key(Call::Generate(new)) else { continue };
        for kind in SignatureType::ALL {
            let Ok(bytes) = operator.sign(key.id, kind, b"body") else {
                refused += 1;
                continue;
            };
            let signature = Signature { algorithm: SignatureAlgorithm::Ed25519, bytes: bytes.to_vec() };
            let public = PublicKey::new(SignatureAlgorithm::Ed25519, &half(&key)).unwrap();
            for other in SignatureType::ALL {
                let good = usize::from(public.verify(other, b"body", &signature).is_ok());
                *(if other == kind { &mut own } else { &mut foreign }) += good;
            }
        }
    }
    row.at_least("signatures good for their type", own, 5);
    row.at_least("types refused for a key", refused, 50);
    row.exactly("signatures good for another type", foreign, 0);

    let mut random = 48_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % end
    };
    let secrets: [[u8; 32]; 3] = core::array::from_fn(|_| core::array::from_fn(|_| below(256) as u8));
    let parts: Vec<&[u8]> = secrets.iter().flat_map(|secret| secret.chunks(16)).collect();
    let mut import = |usage: KeyUsage, label: &str, secret: &[u8; 32]| {
        let key = NewKey { usage, label, expires: None, extractable: false };
        operator.key(Call::Import { key, id: None, secret }).unwrap().id
    };
    let signing = import(KeyUsage::CredentialSigning, "app/signing", &secrets[0]);
    let agreeing = import(KeyUsage::ChannelStatic, "app/agreeing", &secrets[1]);
    let mac = import(KeyUsage::parse("hmac-sha256:mac").unwrap(), "app/mac", &secrets[2]);
    let calls = [
        Call::Public(signing),
        Call::Sign { key: signing, kind: SignatureType::Credential, body: b"body" },
        Call::Agree { key: agreeing, peer: &[9; 32] },
        Call::Attest { key: signing, body: b"body" },
        Call::General(GeneralCall::Mac { key: mac, data: b"data" }),
        Call::General(GeneralCall::Random { bytes: 16 }),
    ];
    let mut client = daemon.client();
    let (mut answered, mut leaked) = (0, 0);
    let requests = size(20_000, 10_000_000);
    for number in 0..requests {
        let call = calls[below(calls.len())];
        let mut framed = WipedBuffer::new();
        Request { id: number as u32, call }.put(&mut framed);
        let mut bytes = framed.to_vec();
        for _ in 0..below(4) {
            // Not the length: a service that waits for more says nothing.
            let at = 4 + below(bytes.len() - 4);
            bytes[at] = below(256) as u8;
        }
        // One that was closed says so at the next read.
        let _ = client.stream.write_all(&bytes);
        match client.receive() {
            Some(content) => {
                answered += usize::from(Reply::decode(&content).is_ok());
                let holds = |part: &&[u8]| content.windows(part.len()).any(|window| window == *part);
                leaked += usize::from(parts.iter().any(holds));
            }
            None => client = daemon.client(),
        }
    }
    row.at_least("requests answered, most of them damaged", answered, requests / 10);
    row.exactly("answers with a part of a private half", leaked, 0);
}
