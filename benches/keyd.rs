//! The key service beside the same keys in the process: signatures, one request at a time, handshakes, fairness.
//!
//! Builds and starts `onward-keyd`, a process of its own as in real use.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward::{Echo, KeyClient, KeyId, KeyUsage, Node, SignatureType, SoftwareVault, Vault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::measure::{RUN, RUNS, print, runtime};
use crate::pair::{Pair, limits, must};

/// Requests under way at the same time.
const IN_FLIGHT: usize = 64;

/// Clients of the fairness figure, the greedy one left out.
const CLIENTS: usize = 99;

const PASSPHRASE: &[u8] = b"a passphrase of a bench";

/// No rate, so that it is the service that is measured.
const POLICY: &str = "version = 1\n[[rule]]\nname = \"bench\"\nrate = 4000000000\nagree_with_own = true\n\
    ops = [\"public\", \"list\", \"sign\", \"agree\", \"attest\", \"generate\"]\ntypes = [\"prekey\"]\n";

/// A service in a directory of its own, which ends with this.
struct Service {
    child: Child,
    home: tempfile::TempDir,
}

impl Service {
    fn start() -> Self {
        let home = must(tempfile::tempdir());
        must(std::fs::write(home.path().join("policy.toml"), POLICY));
        must(Command::new("chmod").arg("700").arg(home.path()).status());
        let mut command = Command::new(program());
        command.args(["serve", "--unlock-stdin", "--create", "--dir"]).arg(home.path());
        let mut child = must(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn());
        if let Some(mut input) = child.stdin.take() {
            must(input.write_all(PASSPHRASE).and_then(|()| input.write_all(b"\n")));
        }
        let mut lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines);
        assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "the key service does not start");
        Self { child, home }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("keyd.sock")
    }

    fn client(&self) -> KeyClient {
        KeyClient::new(&self.socket(), owner(self.home.path()), "bench")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who owns the directory is who runs the service.
fn owner(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&must(std::fs::metadata(path)))
}

/// The service's program, beside which the bench's own lies; cargo builds it with another package.
fn program() -> PathBuf {
    let own = must(std::env::current_exe());
    let Some(profile) = own.ancestors().nth(2) else { panic!("the bench lies in no target directory") };
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--release", "--locked", "--quiet", "--package", "onward-keyd"]);
    if let Some(target) = profile.parent() {
        build.arg("--target-dir").arg(target);
    }
    assert!(must(build.status()).success(), "onward-keyd does not build");
    profile.join("onward-keyd")
}

pub(crate) fn run(workers: usize) {
    let runtime = runtime(workers);
    let service = Service::start();
    runtime.block_on(async {
        signatures(workers, &service).await;
        one_at_a_time(workers, &service).await;
        fairness(workers, &service).await;
        handshakes(workers, &service).await;
    });
}

/// Ed25519 signatures with 64 requests under way, through the service and in the process.
async fn signatures(workers: usize, service: &Service) {
    let mut vaults = Vec::new();
    let kinds: [Arc<dyn Vault>; 2] = [Arc::new(service.client()), Arc::new(SoftwareVault::ephemeral())];
    for vault in kinds {
        let key = must(vault.generate(KeyUsage::PrekeySigning).await);
        vaults.push((vault, key));
    }
    beside(workers, "keyd.sign.64", "signatures/s", async |at| {
        let (vault, key): &(Arc<dyn Vault>, KeyId) = &vaults[at];
        signing(vault, *key).await
    })
    .await;
}

/// Signatures in a second.
async fn signing(vault: &Arc<dyn Vault>, key: KeyId) -> f64 {
    let started = Instant::now();
    let asking: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let vault = Arc::clone(vault);
            tokio::spawn(async move {
                let mut signed = 0_u64;
                while started.elapsed() < RUN {
                    must(vault.sign(key, SignatureType::Prekey, &[7; 64]).await);
                    signed += 1;
                    // An in-process vault never waits, and would keep the thread.
                    tokio::task::yield_now().await;
                }
                signed
            })
        })
        .collect();
    let mut signed = 0;
    for asked in asking {
        signed += must(asked.await);
    }
    signed as f64 / started.elapsed().as_secs_f64()
}

/// Prints what `run` measures of the service (0) and in the process (1), and the ratios of the two: in turn, so that
/// whatever else the machine does troubles both.
async fn beside(workers: usize, figure: &str, unit: &str, run: impl AsyncFn(usize) -> f64) {
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..=RUNS {
        for (at, samples) in samples.iter_mut().enumerate() {
            samples.push(run(at).await);
        }
    }
    let [service, process] = samples.each_ref().map(|samples| &samples[1..]);
    print(&format!("{figure}.keyd"), unit, workers, service);
    print(&format!("{figure}.in-process"), unit, workers, process);
    let ratios: Vec<f64> = service.iter().zip(process).map(|(service, process)| service / process).collect();
    print(figure, "x in-process", workers, &ratios);
}

/// One request under way: the median lap, beside a bare socket between two processes plus the operation itself.
async fn one_at_a_time(workers: usize, service: &Service) {
    let client = service.client();
    let key = must(client.generate(KeyUsage::PrekeySigning).await);
    let asked = laps(async || drop(must(client.sign(key, SignatureType::Prekey, &[7; 64]).await))).await;
    let software = SoftwareVault::ephemeral();
    let key = must(software.generate(KeyUsage::PrekeySigning).await);
    let signed = laps(async || drop(must(software.sign(key, SignatureType::Prekey, &[7; 64]).await))).await;
    let (near, far) = must(std::os::unix::net::UnixStream::pair());
    let output = OwnedFd::from(must(far.try_clone()));
    let mut echo = must(Command::new("cat").stdin(OwnedFd::from(far)).stdout(output).spawn());
    must(near.set_nonblocking(true));
    let near = tokio::sync::Mutex::new(must(tokio::net::UnixStream::from_std(near)));
    let bare = laps(async || {
        let (mut near, mut answer) = (near.lock().await, [0; 100]);
        must(near.write_all(&[7; 100]).await);
        must(near.read_exact(&mut answer).await);
    })
    .await;
    drop(near);
    must(echo.wait());
    print("keyd.one", "us p50", workers, &[asked]);
    print("keyd.one.bare", "us p50", workers, &[bare]);
    print("keyd.one.operation", "us p50", workers, &[signed]);
    print("keyd.one", "x bare and operation", workers, &[asked / (bare + signed)]);
}

/// What 99 polite clients wait at most, with and without a greedy one that keeps 64 requests under way.
async fn fairness(workers: usize, service: &Service) {
    let client = service.client();
    let key = must(client.generate(KeyUsage::PrekeySigning).await);
    let clients: Vec<_> = (0..CLIENTS).map(|_| service.client()).collect();
    let alone = p99(&clients, key).await;
    // Its tasks end when this is dropped.
    let mut greedy = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let client = client.clone();
        greedy.spawn(async move {
            loop {
                must(client.sign(key, SignatureType::Prekey, &[7; 64]).await);
            }
        });
    }
    let beside = p99(&clients, key).await;
    drop(greedy);
    print("keyd.fair.100", "us p99 alone", workers, &[alone]);
    print("keyd.fair.100", "us p99 beside a greedy one", workers, &[beside]);
    print("keyd.fair.100", "x p99 alone", workers, &[beside / alone]);
}

async fn p99(clients: &[KeyClient], key: KeyId) -> f64 {
    let started = Instant::now();
    let asking: Vec<_> = clients
        .iter()
        .map(|client| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut laps = Vec::new();
                while started.elapsed() < RUN {
                    let asked = Instant::now();
                    must(client.sign(key, SignatureType::Prekey, &[7; 64]).await);
                    laps.push(asked.elapsed().as_secs_f64() * 1e6);
                    // Each asks a few times a second, so that together they leave the service idle half of the time.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                laps
            })
        })
        .collect();
    let mut laps = Vec::new();
    for asked in asking {
        laps.extend(must(asked.await));
    }
    laps.sort_by(f64::total_cmp);
    laps[laps.len() * 99 / 100]
}

/// Handshakes with 64 under way, the static and identity keys of both ends in the service or in the process.
async fn handshakes(workers: usize, service: &Service) {
    let operator = service.client();
    must(operator.unlock(PASSPHRASE, false).await);
    let kinds: [Arc<dyn Vault>; 2] = [Arc::new(operator), Arc::new(SoftwareVault::ephemeral())];
    let mut pairs = Vec::new();
    for vault in kinds {
        pairs.push(Pair::channel_with(vault).await);
    }
    beside(workers, "keyd.handshake.64", "handshakes/s", async |at| {
        pairs[at].handshakes(IN_FLIGHT, RUN, true).await
    })
    .await;
}

impl Pair {
    /// With a secure channel between two nodes that keep their keys in `vault`.
    pub(crate) async fn channel_with(vault: Arc<dyn Vault>) -> Self {
        let node = |name| Node::builder(name).limits(limits()).vault(Arc::clone(&vault));
        let (client, server) = (must(node("client").start().await), must(node("server").start().await));
        must(server.start_worker("echo", Echo));
        Self::channel_between(false, (client, server)).await
    }
}

/// The median lap of one run, in µs.
async fn laps(ask: impl AsyncFn()) -> f64 {
    let mut laps = Vec::new();
    let started = Instant::now();
    while started.elapsed() < RUN {
        let asked = Instant::now();
        ask().await;
        laps.push(asked.elapsed().as_nanos() as f64 / 1e3);
    }
    median(&laps)
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
