//! TLS 1.3 (rustls on AWS-LC, TLS_AES_256_GCM_SHA384) over TCP, each side with an Ed25519 certificate.

use std::sync::Arc;

use anyhow::{Context, ensure};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::measure::{Flood, HANDSHAKES, Laps, Plan, Series, Tally, asked, concurrently};
use crate::raw;

/// `channel.oneway.16384`: a stream of 16 KiB writes, which is one full record each.
pub async fn oneway(plan: Plan) -> anyhow::Result<Vec<Series>> {
    let (mut near, mut far) = Ends::new()?.connected().await?;
    let tally = Arc::new(Tally::default());
    let counting = Arc::clone(&tally);
    let receiver = tokio::spawn(async move {
        let mut buffer = vec![0; 4 * WRITE];
        let mut pending = 0;
        while let Ok(read @ 1..) = far.read(&mut buffer).await {
            pending += read;
            counting.count((pending / WRITE) as u64);
            pending %= WRITE;
        }
    });
    let message = vec![0x5a; WRITE];
    let mut rates = Vec::new();
    for _ in plan.all_runs() {
        let mut flood = Flood::start(plan, &tally);
        while flood.next() {
            near.write_all(&message).await?;
        }
        near.flush().await?;
        rates.push(flood.finish().await.rate);
    }
    drop(near);
    receiver.await?;
    let megabytes = rates.iter().map(|rate| rate * WRITE as f64 / 1e6).collect::<Vec<_>>();
    let figure = format!("channel.oneway.{WRITE}");
    Ok(vec![Series::timed(&figure, "msg/s", rates), Series::timed(&figure, "MB/s", megabytes)])
}

/// `channel.ask.64`: 64 bytes there and back.
pub async fn ask(plan: Plan) -> anyhow::Result<Vec<Series>> {
    let (mut near, mut far) = Ends::new()?.connected().await?;
    let responder = tokio::spawn(async move {
        let mut message = [0; 64];
        while far.read_exact(&mut message).await.is_ok() {
            if far.write_all(&message).await.is_err() || far.flush().await.is_err() {
                break;
            }
        }
    });
    let mut message = [0x5a; 64];
    let mut runs = Vec::new();
    for _ in plan.all_runs() {
        let mut laps = Laps::start(plan);
        while laps.next() {
            near.write_all(&message).await?;
            near.flush().await?;
            near.read_exact(&mut message).await?;
        }
        runs.push(laps.finish());
    }
    drop(near);
    responder.await?;
    Ok(asked("channel.ask.64", &runs))
}

/// `handshake.64`: 64 tasks connect TCP, shake hands in full and close; no session is resumed.
pub async fn handshakes(plan: Plan) -> anyhow::Result<Vec<Series>> {
    let ends = Arc::new(Ends::new()?);
    let mut rates = Vec::new();
    for _ in plan.all_runs() {
        let ends = Arc::clone(&ends);
        let once = move || {
            let ends = Arc::clone(&ends);
            async move { ends.connected().await.map(drop) }
        };
        rates.push(concurrently(plan, HANDSHAKES, once).await?);
    }
    Ok(vec![Series::timed("handshake.64", "handshakes/s", rates)])
}

/// Both configurations; each trusts the other's certificate and nothing else.
struct Ends {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    name: ServerName<'static>,
}

impl Ends {
    fn new() -> anyhow::Result<Self> {
        let (near_key, far_key) =
            (KeyPair::generate_for(&PKCS_ED25519)?, KeyPair::generate_for(&PKCS_ED25519)?);
        let near = CertificateParams::new(["near.test".to_owned()])?.self_signed(&near_key)?;
        let far = CertificateParams::new(["far.test".to_owned()])?.self_signed(&far_key)?;
        let (mut trusted_by_near, mut trusted_by_far) = (RootCertStore::empty(), RootCertStore::empty());
        trusted_by_near.add(far.der().clone())?;
        trusted_by_far.add(near.der().clone())?;
        // Named, because Ockam's dependencies compile a second provider in.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(trusted_by_far.into(), Arc::clone(&provider));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted_by_near)
            .with_client_auth_cert(vec![near.der().clone()], private(&near_key)?)?;
        client.resumption = rustls::client::Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(vec![far.der().clone()], private(&far_key)?)?;
        server.send_tls13_tickets = 0;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            name: ServerName::try_from("far.test")?,
        })
    }

    /// A new connection whose ends have both verified the other's certificate.
    async fn connected(
        &self,
    ) -> anyhow::Result<(client::TlsStream<TcpStream>, server::TlsStream<TcpStream>)> {
        let (near, far) = raw::connected().await?;
        let connecting = self.connector.connect(self.name.clone(), near);
        let (near, far) = tokio::try_join!(connecting, self.acceptor.accept(far))?;
        let suite = near.get_ref().1.negotiated_cipher_suite().context("no suite after a handshake")?;
        ensure!(suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384, "another suite: {suite:?}");
        Ok((near, far))
    }
}

fn private(key: &KeyPair) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)
}

const WRITE: usize = 16 * 1024;
