//! Nodes whose every long-term key is in the key service.

use std::sync::Arc;
use std::time::Duration;

use onward::{Echo, KeyClient, KeyError, Node, NodeError, Peer, Raw, Trust, Vault};
use onward_keys::service::{Call, NewKey};
use onward_keys::{KeyUsage, SignatureType};

use crate::harness::{Daemon, Not, PASSPHRASE};

/// What a node needs of its keys once its identity is made.
const NODES: &str = r#"
    version = 1
    [[rule]]
    name = "alice"
    labels = ["alice/*"]
    ops = ["public", "agree", "attest"]
    [[rule]]
    name = "bob"
    labels = ["bob/*"]
    ops = ["public", "agree", "attest"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_opened_with_every_long_term_key_in_the_service() {
    let mut daemon = Daemon::start(NODES);
    let home = tempfile::tempdir().unwrap();
    let alice = node(&daemon, home.path(), "alice").await;
    let bob = node(&daemon, home.path(), "bob").await;
    let (alice_id, bob_id) = (
        alice.load_identity("alice").await.unwrap().unwrap(),
        bob.load_identity("bob").await.unwrap().unwrap(),
    );
    bob.start_worker("echo", Echo).unwrap();
    let at = bob.listen_tcp("127.0.0.1:0").await.unwrap();
    let listener = bob.accept_channels("secure", &bob_id, Trust::pinned([alice_id.identifier()])).unwrap();
    listener.expose("echo").unwrap();
    at.expose("secure").unwrap();
    let route: onward::Route = format!("{} => secure", at.name()).parse().unwrap();
    let peer = || Peer::Identity(bob_id.identifier());
    let channel = alice.open_channel(&alice_id, route.clone(), peer()).await.unwrap();
    talk(&alice, &channel).await;

    // Without the service what is open goes on, and what would need a key fails with a type.
    daemon.kill();
    talk(&alice, &channel).await;
    let error = alice.open_channel(&alice_id, route.clone(), peer()).await.unwrap_err();
    assert!(!format!("{error:?}").is_empty());
    daemon.kill_and_restart();
    let again = alice.open_channel(&alice_id, route, peer()).await.unwrap();
    talk(&alice, &again).await;
    assert!(!home.path().join("alice/keys").exists(), "the node keeps no key beside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_makes_and_changes_no_identity_by_itself() {
    let daemon = Daemon::start(&NODES.replace("\"attest\"", "\"attest\", \"generate\""));
    let home = tempfile::tempdir().unwrap();
    let vault = client(&daemon, "alice");
    let node = Node::builder("alice").vault(Arc::new(vault.clone())).state_dir(home.path());
    let node = node.start().await.unwrap();
    assert!(matches!(node.create_identity().await, Err(NodeError::Identity(_))));
    vault.unlock(PASSPHRASE.as_bytes(), false).await.unwrap();
    let made = node.load_or_create_identity("alice").await.unwrap();
    let rotated = node.rotate_identity("alice").await.unwrap();
    assert_eq!(made.identifier(), rotated.identifier());
}

/// What a client that was taken over could try with an attestation: for a key of its own, for longer, or from later on.
#[tokio::test]
async fn an_attestation_is_of_a_key_of_the_service_from_now_and_not_for_long() {
    use onward_channels::identity::{Identity, Purpose};

    let daemon = Daemon::start(NODES);
    let operator = client(&daemon, "alice");
    operator.unlock(PASSPHRASE.as_bytes(), false).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let identity = Identity::create(&operator, now - 1000, 1_000_000_000).await.unwrap();
    let key = operator.generate(KeyUsage::ChannelStatic).await.unwrap();
    let public = operator.public(key).await.unwrap();
    let vault = client(&daemon, "alice");
    let attest = async |public: &[u8], iat, exp| {
        identity.attest(&vault, Purpose::CHANNEL_STATIC, public, iat, exp).await.map(|_| ())
    };
    let day = 24 * 3600;
    attest(public.as_bytes(), now, now + day).await.unwrap();
    for (public, iat, exp) in [
        (&[7; 32][..], now, now + day),
        (public.as_bytes(), now, now + 31 * day),
        (public.as_bytes(), now + 1000, now + day),
        (public.as_bytes(), now - 900, now + day),
    ] {
        assert!(attest(public, iat, exp).await.is_err(), "{iat} {exp}");
    }
    // Of another purpose than the key's.
    let body = identity.attest(&vault, Purpose::ENVELOPE_STATIC, public.as_bytes(), now, now + day).await;
    assert!(body.is_err());
    vault.public(identity.key()).await.unwrap();
    let signed = vault.sign(identity.key(), SignatureType::IdentityChange, b"body").await;
    assert!(matches!(signed, Err(KeyError::NoSuchKey(_))));
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_have_each_its_own_answer() {
    let daemon = Daemon::start(
        "version = 1\n[[rule]]\nname = \"x\"\nops = [\"sign\", \"public\"]\ntypes = [\"prekey\"]\nrate = 1000000",
    );
    let key = daemon.operator().key(Call::Generate(NewKey {
        usage: KeyUsage::PrekeySigning,
        label: "x",
        expires: None,
        extractable: false,
    }));
    let key = key.unwrap();
    let vault = client(&daemon, "x");
    let asked: Vec<_> = (0..500_u32)
        .map(|at| {
            let (vault, id) = (vault.clone(), key.id);
            tokio::spawn(async move { vault.sign(id, SignatureType::Prekey, &at.to_be_bytes()).await })
        })
        .collect();
    let onward_keys::PublicHalf::Verify(public) = key.public_half() else { panic!("it signs") };
    for (at, asked) in (0_u32..).zip(asked) {
        let signature = asked.await.unwrap().unwrap();
        assert_eq!(public.verify(SignatureType::Prekey, &at.to_be_bytes(), &signature), Ok(()));
    }
    assert_eq!(daemon.client().done(Call::Destroy(key.id)), Err(Not::Refused(onward::Refusal::Denied)));
}

fn client(daemon: &Daemon, label: &str) -> KeyClient {
    KeyClient::new(&daemon.socket(), rustix::process::geteuid().as_raw(), label)
}

/// A node whose identity an operator has made, and which runs as a client without more rights than its rule.
async fn node(daemon: &Daemon, home: &std::path::Path, name: &str) -> Node {
    let operator = client(daemon, name);
    operator.unlock(PASSPHRASE.as_bytes(), false).await.unwrap();
    let making = Node::builder(name).vault(Arc::new(operator)).state_dir(home.join(name));
    let making = making.start().await.unwrap();
    making.load_or_create_identity(name).await.unwrap();
    making.shutdown(Duration::from_secs(5)).await;
    drop(making);
    let node = Node::builder(name).vault(Arc::new(client(daemon, name))).state_dir(home.join(name));
    node.start().await.unwrap()
}

async fn talk(node: &Node, channel: &onward::Channel) {
    let echo = node.route_along(channel.route_to("echo").unwrap());
    let answer: Raw = echo.ask(&Raw("hi".to_owned().into())).await.unwrap();
    assert_eq!(answer, Raw("hi".to_owned().into()));
}
