//! Servers that tests start themselves: message brokers from the packages of the system, each on free
//! ports of the loopback interface and in a folder of its own, with the settings that lose nothing.
//!
//! A server ends with its [`Server`], and with the process that started it, however that ends.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// How long a server may take until it answers: the slowest needs some seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(5);
/// How often a server that ends at once is started on other ports.
const ATTEMPTS: usize = 3;
/// Ports are taken from here. Above begin those that the system gives to outgoing connections, one of which could
/// hold a server's port while it is down, or connect to itself and seem to be the server.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// What Mosquitto's plugin is told, for nobody to subscribe.
const MUTE: &str = r#"{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true,
    "subscribe": false, "unsubscribe": true}, "clients": [], "groups": [], "roles": []}"#;

/// What can be started.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ServerKind {
    /// NATS with JetStream.
    Nats,
    /// Redis with an append-only file that is flushed at every command.
    Redis,
    /// Mosquitto, which saves its store at every change.
    Mosquitto,
    /// RabbitMQ.
    RabbitMq,
}

impl ServerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nats, Self::Redis, Self::Mosquitto, Self::RabbitMq];

    /// The Debian package that brings it.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            Self::Mosquitto => "mosquitto",
            Self::RabbitMq => "rabbitmq-server",
        }
    }

    /// Where its program is, if it is installed.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        // RabbitMQ's own script: the one in the path changes the user first.
        let own = match self {
            Self::RabbitMq => "/usr/lib/rabbitmq/bin",
            _ => "/usr/sbin",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(PathBuf::from(own)).chain(std::env::split_paths(&path));
        folders.map(|folder| folder.join(self.package())).find(|program| program.is_file())
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Mosquitto => "mqtt",
            Self::RabbitMq => "amqp",
        }
    }
}

/// A server that runs, or was killed and can be started again on the same port and files.
#[derive(Debug)]
pub struct Server {
    kind: ServerKind,
    folder: TempDir,
    /// That for clients, and two that only this server's own parts use.
    ports: [Port; 3],
    mode: Mode,
    running: Option<Child>,
}

/// What is special about a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Plain,
    /// It speaks TLS only.
    Encrypted,
    /// It is Mosquitto, and lets nobody subscribe.
    Mute,
}

/// A TCP port of the loopback interface that no other test takes, in this process or another.
#[derive(Debug)]
struct Port {
    number: u16,
    /// The UDP port of this number, which no server uses: holding it is the claim.
    _claim: UdpSocket,
}

impl Port {
    /// Claims one that nobody uses now.
    fn claim() -> Self {
        let mut numbers: Vec<u16> = PORTS.collect();
        // Where to begin differs between processes; the claims settle the rest.
        let begin = std::process::id() as usize % numbers.len();
        numbers.rotate_left(begin);
        let mut ports = numbers.into_iter().filter_map(|number| {
            let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            Some(Self { number, _claim: claim })
        });
        ports.next().unwrap_or_else(|| panic!("no port is free"))
    }
}

impl Server {
    /// Starts a server and waits until it answers; `None`, with a note on standard error, when it is not
    /// installed. Blocks.
    ///
    /// # Panics
    /// When it does not start, or is not installed although `CI=true` asks for everything.
    #[must_use]
    pub fn start(kind: ServerKind) -> Option<Self> {
        is_installed(kind).then(|| Self::start_with(kind, Mode::Plain, None))
    }

    /// As [`start`](Self::start), for a server that speaks TLS only, with this certificate and its key (PEM).
    ///
    /// # Panics
    /// As for `start`.
    #[must_use]
    pub fn start_encrypted(kind: ServerKind, certificate: &str, key: &str) -> Option<Self> {
        is_installed(kind).then(|| Self::start_with(kind, Mode::Encrypted, Some((certificate, key))))
    }

    /// As [`start`](Self::start), for a Mosquitto that refuses every subscription; its access lists do not, so it needs the
    /// plugin that its package brings.
    ///
    /// # Panics
    /// As for `start`.
    #[must_use]
    pub fn start_mute() -> Option<Self> {
        is_installed(ServerKind::Mosquitto).then(|| Self::start_with(ServerKind::Mosquitto, Mode::Mute, None))
    }

    fn start_with(kind: ServerKind, mode: Mode, certified: Option<(&str, &str)>) -> Self {
        for _ in 1..ATTEMPTS {
            let mut server = Self::prepare(kind, mode, certified);
            server.launch();
            if server.is_up() {
                return server;
            }
            eprintln!("{} did not start: {}", kind.package(), server.output());
        }
        let mut server = Self::prepare(kind, mode, certified);
        server.restart();
        server
    }

    fn prepare(kind: ServerKind, mode: Mode, certified: Option<(&str, &str)>) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no folder for a server: {error}"));
        for (name, text) in
            certified.into_iter().flat_map(|(one, other)| [("server.pem", one), ("server.key", other)])
        {
            let written = fs::write(folder.path().join(name), text);
            written.unwrap_or_else(|error| panic!("no file for a server: {error}"));
        }
        let ports = [(); 3].map(|()| Port::claim());
        Self { kind, folder, ports, mode, running: None }
    }

    /// Where clients find it: `nats://127.0.0.1:PORT` and the like.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.kind.scheme(), self.port())
    }

    fn port(&self) -> u16 {
        self.ports[0].number
    }

    /// The folder with its configuration and data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it, with no time for anything.
    pub fn kill(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // One that has ended already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
        let until = Instant::now() + PATIENCE;
        while self.answers() && Instant::now() < until {
            sleep(POLL);
        }
    }

    /// Kills it if it runs, starts it on the same port and files, and waits until it accepts connections.
    /// Blocks.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
        assert!(self.is_up(), "{:?} does not answer: {}", self.kind, self.output());
    }

    fn launch(&mut self) {
        let folder = self.folder.path().display().to_string();
        let program = self.kind.program().unwrap_or_default();
        let log = fs::File::create(self.folder.path().join("output.log"));
        let log = log.unwrap_or_else(|error| panic!("no log for a server: {error}"));
        let errors = log.try_clone().unwrap_or_else(|error| panic!("no log for a server: {error}"));
        // RabbitMQ would start a name service that outlives it, if there were none.
        let names = match self.kind {
            ServerKind::RabbitMq => "epmd & until epmd -names >/dev/null 2>&1; do sleep 0.02; done; ",
            _ => "",
        };
        // The shell ends them all when its input ends, which is when this process does, or when the server ends.
        let script = format!("{names}(\"$@\"; kill -9 0) & read -r _; kill -9 0");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(program).current_dir(self.folder.path());
        self.configure(&mut command, &folder)
            .unwrap_or_else(|error| panic!("a server cannot be configured: {error}"));
        let child = command.stdin(Stdio::piped()).stdout(log).stderr(errors).process_group(0).spawn();
        self.running = Some(child.unwrap_or_else(|error| panic!("a server does not start: {error}")));
    }

    /// Waits until it answers, or has ended, or its time is over; whether it answers.
    fn is_up(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while !self.answers() {
            let has_ended = self.running.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if has_ended || Instant::now() >= until {
                return false;
            }
            sleep(POLL);
        }
        true
    }

    /// Runs `rabbitmqctl` with these words for this server; what it printed. Blocks.
    ///
    /// # Panics
    /// When it does not succeed.
    #[must_use]
    pub fn rabbitmqctl(&self, words: &[&str]) -> String {
        let mut command = Command::new(self.kind.program().unwrap_or_default().with_file_name("rabbitmqctl"));
        self.name_rabbit(command.args(words).stdin(Stdio::null()));
        let said = command.output().unwrap_or_else(|error| panic!("rabbitmqctl does not start: {error}"));
        assert!(said.status.success(), "rabbitmqctl {words:?}: {said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Whether it accepts connections.
    #[must_use]
    pub fn answers(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_ok()
    }

    /// What it printed since it was started.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output.log")).unwrap_or_default()
    }

    /// Says which RabbitMQ is meant, and where its name and its secret are found.
    fn name_rabbit<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let [port, _, names] = self.ports.each_ref().map(|port| port.number.to_string());
        command
            .env("HOME", self.folder.path())
            .env("ERL_EPMD_PORT", names)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("onward{port}@localhost"))
    }

    fn configure(&self, command: &mut Command, folder: &str) -> std::io::Result<()> {
        let [port, inner, _] = self.ports.each_ref().map(|port| port.number);
        let file = format!("{folder}/server.conf");
        let is_encrypted = self.mode == Mode::Encrypted;
        let text = match self.kind {
            ServerKind::Nats => {
                command.args(["-c", &file]);
                let tls = format!(
                    "tls {{ cert_file: \"{folder}/server.pem\", key_file: \"{folder}/server.key\" }}\n"
                );
                format!(
                    "listen: 127.0.0.1:{port}\nmax_payload: 2MB\n\
                     jetstream {{ store_dir: \"{folder}\", max_file_store: 8GB }}\n{}",
                    if is_encrypted { &tls } else { "" }
                )
            }
            ServerKind::Redis => {
                command.arg(&file);
                let port = match is_encrypted {
                    true => format!(
                        "0\ntls-port {port}\ntls-cert-file {folder}/server.pem\n\
                         tls-key-file {folder}/server.key\ntls-auth-clients no"
                    ),
                    false => port.to_string(),
                };
                format!(
                    "bind 127.0.0.1\nport {port}\ndir {folder}\nsave \"\"\n\
                     appendonly yes\nappendfsync always\n"
                )
            }
            ServerKind::Mosquitto => {
                command.args(["-c", &file]);
                let tls = format!("certfile {folder}/server.pem\nkeyfile {folder}/server.key\n");
                let special = match self.mode {
                    Mode::Plain => String::new(),
                    Mode::Encrypted => tls,
                    Mode::Mute => {
                        fs::write(format!("{folder}/access.json"), MUTE)?;
                        let plugin = mosquitto_plugin()?;
                        format!("plugin {}\nplugin_opt_config_file {folder}/access.json\n", plugin.display())
                    }
                };
                format!(
                    "listener {port} 127.0.0.1\n{special}allow_anonymous true\nuser root\npersistence true\n\
                     persistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n\
                     max_queued_messages 0\nset_tcp_nodelay true\n"
                )
            }
            ServerKind::RabbitMq => {
                let rabbit = |name: &str| format!("RABBITMQ_{name}");
                self.name_rabbit(command)
                    .env(rabbit("DIST_PORT"), inner.to_string())
                    .env(rabbit("CONF_ENV_FILE"), "/dev/null")
                    .env(rabbit("CONFIG_FILE"), &file)
                    .env(rabbit("ENABLED_PLUGINS_FILE"), format!("{folder}/plugins"))
                    .env(rabbit("MNESIA_BASE"), format!("{folder}/data"))
                    .env(rabbit("LOG_BASE"), format!("{folder}/log"))
                    .env(rabbit("PID_FILE"), format!("{folder}/pid"));
                let listener = match is_encrypted {
                    true => format!(
                        "listeners.tcp = none\nlisteners.ssl.default = 127.0.0.1:{port}\n\
                         ssl_options.certfile = {folder}/server.pem\nssl_options.keyfile = {folder}/server.key\n\
                         ssl_options.versions.1 = tlsv1.3\nssl_options.verify = verify_none\n\
                         ssl_options.fail_if_no_peer_cert = false\n"
                    ),
                    false => format!("listeners.tcp.default = 127.0.0.1:{port}\n"),
                };
                format!("{listener}disk_free_limit.absolute = 50MB\n")
            }
        };
        fs::write(&file, text)
    }
}

/// Where the library is by which Mosquitto decides who may subscribe.
fn mosquitto_plugin() -> std::io::Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut places = folders.map(|folder| folder.join("mosquitto_dynamic_security.so"));
    places.find(|place| place.is_file()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Whether a server is installed; says so where it is not.
///
/// # Panics
/// When it is not although `CI=true` asks for everything.
fn is_installed(kind: ServerKind) -> bool {
    if kind.program().is_some() {
        return true;
    }
    let missing = format!("{} is not installed: NOT tested with it", kind.package());
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{missing}");
    eprintln!("{missing}");
    false
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_that_is_installed_starts_is_killed_and_starts_again() {
        for kind in ServerKind::ALL {
            let Some(mut server) = Server::start(kind) else { continue };
            server.kill();
            assert!(!server.answers(), "{kind:?}");
            server.restart();
            assert!(server.answers(), "{kind:?}");
        }
    }
}
