//! A socket to a broker, encrypted where its address names whom to trust.
//!
//! There is one way to be trusted: a certificate for the host that the address names, from an authority in the
//! file that the address names. Nothing that a broker says changes that, and where it is asked for, nothing is ever sent in
//! the clear. Only TLS 1.3 is spoken.

use std::fs;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::BrokerAddress;

/// Both directions of a connection.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// Connects to a broker. Reads the file that says whom to trust, if there is one: blocks on that.
///
/// # Errors
/// Those of the network and of that file; `InvalidData` when the broker is not who was meant.
///
/// # Cancel safety
/// It is not connected then.
pub(super) async fn dial(address: &BrokerAddress) -> io::Result<Box<dyn Socket>> {
    let trust = trust(address)?;
    let plain = TcpStream::connect((address.host(), address.port())).await?;
    plain.set_nodelay(true)?;
    let Some(trust) = trust else { return Ok(Box::new(plain)) };
    let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::new(trust)).connect(name, plain).await?))
}

/// Whom to trust, if that is asked for.
///
/// # Errors
/// When the file cannot be read, or names no authority.
pub(super) fn trust(address: &BrokerAddress) -> io::Result<Option<ClientConfig>> {
    let Some(file) = address.authorities() else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&fs::read(file)?) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        let what = format!("{} holds no certificate", file.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_protocol_versions(&[&TLS13]).map_err(io::Error::other)?;
    Ok(Some(config.with_root_certificates(roots).with_no_client_auth()))
}
