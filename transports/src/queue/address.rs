//! Where a broker is, whom to trust to be it, where what it wants to be told stands, and where messages wait while it is
//! away: `SCHEME://HOST[:PORT]?ca=FILE&credentials=FILE&spool=DIR`, of which only the host has to be there.
//!
//! An address is shown in lists and logs, so it has no place for a secret: user and password are read from a
//! file that nobody else may read, when a connection is made, and are kept by nothing here. The clients of NATS
//! and Kafka keep them for as long as they connect again by themselves.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;
use core::str::FromStr;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::QueueError;

/// What a broker speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BrokerKind {
    /// AMQP 0-9-1, as RabbitMQ does, with its quorum queues.
    Amqp,
    /// Kafka.
    Kafka,
    /// MQTT 5.
    Mqtt,
    /// NATS with JetStream.
    Nats,
    /// Redis with streams.
    Redis,
}

impl BrokerKind {
    const ALL: [Self; 5] = [Self::Amqp, Self::Kafka, Self::Mqtt, Self::Nats, Self::Redis];

    /// Its name, which is the scheme of its addresses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Kafka => "kafka",
            Self::Mqtt => "mqtt",
            Self::Nats => "nats",
            Self::Redis => "redis",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Amqp => 5672,
            Self::Kafka => 9092,
            Self::Mqtt => 1883,
            Self::Nats => 4222,
            Self::Redis => 6379,
        }
    }

    /// Whether it can be spoken to by TLS here.
    const fn has_tls(self) -> bool {
        !matches!(self, Self::Kafka)
    }
}

/// Why a text is no address of a broker.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerAddressError {
    /// It begins with none of the schemes.
    #[error("a broker is nats://, redis://, amqp://, mqtt:// or kafka:// and HOST[:PORT]")]
    Scheme,
    /// No host, no port, or more than these.
    #[error("behind the scheme of a broker there is HOST[:PORT]")]
    Place,
    /// A user or a password stands in it.
    #[error("no secret stands in an address: write ?credentials=FILE")]
    Secret,
    /// Behind the `?` there are only `ca=FILE`, `credentials=FILE` and `spool=DIR`, each once, joined by `&`.
    #[error("behind the ? of a broker there are only ca=FILE, credentials=FILE and spool=DIR")]
    Option,
    /// A scheme as others write it for TLS, such as `amqps`.
    #[error("TLS is asked for by ?ca=FILE behind the broker, not by its scheme")]
    EncryptedScheme,
    /// TLS for Kafka: that of its client is OpenSSL, which is not built into anything here.
    #[error("there is no TLS for kafka:// here: reach it through a tunnel")]
    Tls,
}

/// Where a broker is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct BrokerAddress {
    kind: BrokerKind,
    host: String,
    port: u16,
    authorities: Option<PathBuf>,
    credentials: Option<PathBuf>,
    spool: Option<PathBuf>,
}

/// What a broker is told about who connects. Never printed.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl BrokerAddress {
    /// Most bytes of a file with credentials.
    const CREDENTIALS_BYTES_MAX: u64 = 4096;

    /// What the broker speaks.
    #[must_use]
    pub const fn kind(&self) -> BrokerKind {
        self.kind
    }

    /// Its name or address; an IPv6 address has no brackets here.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The file with the authorities (PEM) one of which must have certified the broker; without it, nothing is
    /// encrypted on the way there.
    #[must_use]
    pub fn authorities(&self) -> Option<&Path> {
        self.authorities.as_deref()
    }

    /// The folder of the queue on this disk in which messages wait until the broker has them; without it they wait in
    /// memory, and in whoever sends them.
    #[must_use]
    pub fn spool(&self) -> Option<&Path> {
        self.spool.as_deref()
    }

    /// The whole address: what [`Display`](fmt::Display) shows, and the files.
    #[must_use]
    pub fn with_files(&self) -> String {
        let files = [("ca", &self.authorities), ("credentials", &self.credentials), ("spool", &self.spool)];
        let named = files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?)));
        let options: Vec<String> = named.map(|(name, file)| format!("{name}={}", file.display())).collect();
        match options.is_empty() {
            true => self.to_string(),
            false => format!("{self}?{}", options.join("&")),
        }
    }

    /// Reads `USER:PASSWORD` from the file that the address names; one without a `/` is in the folder that
    /// systemd hands to a service. Blocks on that file.
    ///
    /// # Errors
    /// [`QueueError::NotPrivate`] when others may read it, [`QueueError::Credentials`].
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, QueueError> {
        let Some(named) = &self.credentials else { return Ok(None) };
        let failed = |error| QueueError::Credentials(Arc::new(error));
        let path = match named.components().count() {
            1 if named.is_relative() => credentials_folder().unwrap_or_default().join(named),
            _ => named.clone(),
        };
        let file = File::open(&path).map_err(failed)?;
        // Of what was opened, so that nobody can exchange it between the two.
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(QueueError::NotPrivate(path));
        }
        let mut text = String::new();
        file.take(Self::CREDENTIALS_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        let line = text.lines().next().unwrap_or_default();
        let form = || failed(io::Error::new(io::ErrorKind::InvalidData, "it does not hold USER:PASSWORD"));
        let (user, password) = line.split_once(':').ok_or_else(form)?;
        Ok(Some(Credentials { user: user.to_owned(), password: password.to_owned() }))
    }
}

/// Where systemd puts the credentials of a service.
fn credentials_folder() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .filter(|folder: &OsString| !folder.is_empty())
        .map(PathBuf::from)
}

impl FromStr for BrokerAddress {
    type Err = BrokerAddressError;

    fn from_str(text: &str) -> Result<Self, BrokerAddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(BrokerAddressError::Scheme)?;
        let named = |name| BrokerKind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = named(scheme).ok_or_else(|| match scheme.strip_suffix('s').and_then(named) {
            Some(kind) if kind.has_tls() => BrokerAddressError::EncryptedScheme,
            Some(_) => BrokerAddressError::Tls,
            None => BrokerAddressError::Scheme,
        })?;
        let (place, options) = rest.split_once('?').map_or((rest, None), |(place, rest)| (place, Some(rest)));
        if place.contains('@') {
            return Err(BrokerAddressError::Secret);
        }
        let (mut authorities, mut credentials, mut spool) = (None, None, None);
        for option in options.into_iter().flat_map(|options| options.split('&')) {
            let (name, file) = option.split_once('=').ok_or(BrokerAddressError::Option)?;
            let place = match name {
                "ca" => &mut authorities,
                "credentials" => &mut credentials,
                "spool" => &mut spool,
                _ => return Err(BrokerAddressError::Option),
            };
            if file.is_empty() || place.replace(PathBuf::from(file)).is_some() {
                return Err(BrokerAddressError::Option);
            }
        }
        if authorities.is_some() && !kind.has_tls() {
            return Err(BrokerAddressError::Tls);
        }
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(BrokerAddressError::Place)?)),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(BrokerAddressError::Place);
        }
        let port = port.map_or(Ok(kind.port()), str::parse).map_err(|_| BrokerAddressError::Place)?;
        Ok(Self { kind, host: host.to_owned(), port, authorities, credentials, spool })
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, host, port, authorities: _, credentials: _, spool: _ } = self;
        if host.contains(':') {
            write!(f, "{}://[{host}]:{port}", kind.name())
        } else {
            write!(f, "{}://{host}:{port}", kind.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn address(text: &str) -> Result<BrokerAddress, BrokerAddressError> {
        text.parse()
    }

    #[test]
    fn addresses_have_a_scheme_a_host_and_a_port() {
        for (text, shown) in [
            ("nats://a.example", "nats://a.example:4222"),
            ("redis://127.0.0.1:7", "redis://127.0.0.1:7"),
            ("amqp://[::1]:8", "amqp://[::1]:8"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("nats://a?credentials=/etc/x", "nats://a:4222"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), shown);
        }
        for whole in
            ["mqtt://a:1", "nats://a:1?ca=/x", "redis://a:1?ca=/x&credentials=y", "amqp://a:1?ca=/x&spool=z"]
        {
            assert_eq!(address(whole).unwrap().with_files(), whole);
        }
    }

    #[test]
    fn nothing_else_is_an_address_and_no_secret_stands_in_one() {
        assert_eq!(address("nats://user:secret@a"), Err(BrokerAddressError::Secret));
        assert_eq!(address("a.example:4222"), Err(BrokerAddressError::Scheme));
        assert_eq!(address("http://a"), Err(BrokerAddressError::Scheme));
        assert_eq!(address("nats://a?tls=no"), Err(BrokerAddressError::Option));
        assert_eq!(address("nats://a?credentials="), Err(BrokerAddressError::Option));
        assert_eq!(address("nats://a?ca=x&ca=y"), Err(BrokerAddressError::Option));
        for text in
            ["nats://", "nats://:1", "nats://a:", "nats://a:70000", "nats://a/b", "nats://a b", "nats://[::1"]
        {
            assert_eq!(address(text), Err(BrokerAddressError::Place), "{text}");
        }
    }

    #[test]
    fn tls_is_asked_for_in_one_way_and_refused_where_there_is_none() {
        for scheme in ["natss", "rediss", "amqps", "mqtts"] {
            let refused = address(&format!("{scheme}://a")).unwrap_err();
            assert_eq!(refused, BrokerAddressError::EncryptedScheme, "{scheme}");
            assert!(refused.to_string().contains("?ca=FILE"));
        }
        for text in ["kafka://a?ca=x", "kafkas://a", "kafkas://a?ca=x"] {
            let refused = address(text).unwrap_err();
            assert_eq!(refused, BrokerAddressError::Tls, "{text}");
            assert!(refused.to_string().contains("no TLS for kafka://"));
        }
    }

    #[test]
    fn credentials_are_read_from_a_file_that_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker");
        let at = address(&format!("nats://a?credentials={}", path.display())).unwrap();
        assert!(matches!(at.credentials(), Err(QueueError::Credentials(_))), "there is no file");
        fs::write(&path, "user:pass:word\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(at.credentials(), Err(QueueError::NotPrivate(_))));
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        let read = at.credentials().unwrap().unwrap();
        assert_eq!((read.user.as_str(), read.password.as_str()), ("user", "pass:word"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "secret").unwrap();
        let refused = at.credentials().err().unwrap();
        assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
        assert!(address("nats://a").unwrap().credentials().unwrap().is_none());
    }
}
