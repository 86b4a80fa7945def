//! Who stands between a node and its broker.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use onward_transports::queue::conformance::{self, body, fresh_mailbox, message};
use onward_transports::queue::{self, BrokerAddress, Lane, QueueError};
use onward_trials::{Row, Server, ServerKind};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

/// The first byte of a TLS connection.
const HANDSHAKE: u8 = 22;
/// What a broker of NATS says first: here, that it wants nothing encrypted, and where else it is.
const GREETING: &str = "INFO {\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.9.10\",\"proto\":1,\
     \"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true,\
     \"client_id\":1,\"tls_required\":false,\"connect_urls\":[\"127.0.0.1:1\"]}\r\n";
/// How long a client may take to say something that it should not.
const LISTENING: Duration = Duration::from_secs(2);

/// Somebody who certifies.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for this name, and its key.
fn certified(by: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

fn address(url: &str, authorities: &Path) -> BrokerAddress {
    format!("{url}?ca={}", authorities.display()).parse().unwrap()
}

/// A41 for one kind of server.
async fn only_the_broker_that_is_meant_is_spoken_to(kind: ServerKind) {
    let (trusted, other) = (authority(), authority());
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    fs::write(&authorities, trusted.pem()).unwrap();
    let start = |(certificate, key): (String, String)| Server::start_encrypted(kind, &certificate, &key);

    let Some(meant) = start(certified(&trusted, "127.0.0.1")) else { return };
    let broker = queue::connect(&address(&meant.url(), &authorities)).await.unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let mut subscription = broker.subscribe(subject.clone(), 4).await.unwrap();
    broker.publish(message(&subject, b"by TLS")).await.unwrap();
    let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(body(&delivery), b"by TLS");
    delivery.ack().await.unwrap();

    let mut accepted = 0;
    let mut attempts = 0;
    for certificate in [certified(&other, "127.0.0.1"), certified(&trusted, "broker.example")] {
        let impostor = start(certificate).unwrap();
        attempts += 1;
        match queue::connect(&address(&impostor.url(), &authorities)).await {
            Ok(_) => accepted += 1,
            // And for that alone: it answers.
            Err(error) => assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}"),
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url =
        format!("{}://{}", address(&meant.url(), &authorities).kind().name(), listener.local_addr().unwrap());
    let listening = std::thread::spawn(move || said_to_an_impostor(listener.accept().unwrap().0, kind));
    attempts += 1;
    accepted += usize::from(queue::connect(&address(&url, &authorities)).await.is_ok());
    let said = listening.join().unwrap();
    let row = Row::new("A41");
    row.exactly("impostors", attempts, 3);
    row.exactly("impostors that were accepted", accepted, 0);
    row.exactly(
        "connections that began in the clear",
        usize::from(said.is_some_and(|byte| byte != HANDSHAKE)),
        0,
    );
    let empty = folder.path().join("none.pem");
    fs::write(&empty, "").unwrap();
    let refused = queue::connect(&address(&meant.url(), &empty)).await.err();
    assert!(matches!(refused, Some(QueueError::Credentials(_) | QueueError::Unreachable(_))), "{refused:?}");
}

/// Says what a server says that wants nothing encrypted; the first byte that comes for that.
fn said_to_an_impostor(mut stream: TcpStream, kind: ServerKind) -> Option<u8> {
    stream.set_read_timeout(Some(LISTENING)).unwrap();
    if kind == ServerKind::Nats {
        stream.write_all(GREETING.as_bytes()).unwrap();
    }
    let mut first = [0];
    // One that goes away without a word says nothing wrong.
    let said = stream.read_exact(&mut first).is_ok().then_some(first[0]);
    drop(stream.write_all(b"+OK\r\n"));
    said
}

/// What every queue has to, also by TLS, and by the next connection again.
async fn passes_by_tls(kind: ServerKind) {
    let trusted = authority();
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    fs::write(&authorities, trusted.pem()).unwrap();
    let (certificate, key) = certified(&trusted, "127.0.0.1");
    let Some(mut server) = Server::start_encrypted(kind, &certificate, &key) else { return };
    let broker = queue::connect(&address(&server.url(), &authorities)).await.unwrap();
    conformance::all(&*broker, crate::abilities(kind)).await;
    block_in_place(|| server.restart());
    let subject = fresh_mailbox().lane(Lane::Messages);
    let publishing = async {
        while broker.publish(message(&subject, b"again")).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, publishing).await.unwrap();
    let mut subscription = broker.subscribe(subject, 4).await.unwrap();
    let delivery = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(body(&delivery), b"again");
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a41_impostors_of_nats() {
    only_the_broker_that_is_meant_is_spoken_to(ServerKind::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a41_impostors_of_redis() {
    only_the_broker_that_is_meant_is_spoken_to(ServerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a41_impostors_of_mosquitto() {
    only_the_broker_that_is_meant_is_spoken_to(ServerKind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a41_impostors_of_rabbitmq() {
    only_the_broker_that_is_meant_is_spoken_to(ServerKind::RabbitMq).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_passes_by_tls_what_every_queue_has_to() {
    passes_by_tls(ServerKind::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_passes_by_tls_what_every_queue_has_to() {
    passes_by_tls(ServerKind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_passes_by_tls_what_every_queue_has_to() {
    passes_by_tls(ServerKind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_passes_by_tls_what_every_queue_has_to() {
    passes_by_tls(ServerKind::RabbitMq).await;
}
