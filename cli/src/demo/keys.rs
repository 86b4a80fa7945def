//! The long-term keys of the demonstration, in a key service of its own.
//!
//! Identities are made here, their keys handed to the service, and the files erased; the client and the service of
//! the demonstration only ask. The private halves are kept here, in the process that shows the demonstration, to
//! look for them in the memory of the others.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use onward::{Identity, KeyClient, Node};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::search::Needle;
use crate::commands::key::take_over;
use crate::commands::keyd::program;
use crate::error::{CliError, Code};

/// The processes that have identities.
pub(super) const NAMES: [&str; 2] = ["client", "service"];

/// What a process needs of the service once its identity is made: the least that a node can do with.
const OPERATIONS: &str = r#"ops = ["public", "agree", "attest"]"#;

/// What lets a process have disposable keys.
const CACHE: &str = r#"
[[rule]]
name = "exchanges"
labels = ["client/*", "service/*"]
ops = ["sign"]
types = ["ok2cry-key", "ok2cry-sealed"]
[[cache]]
name = "demo"
"#;

/// The key service; it is killed, and its directory erased, when this is dropped.
pub(super) struct KeyService {
    place: TempDir,
    uid: u32,
    secrets: Vec<Zeroizing<[u8; 32]>>,
    _child: Child,
}

/// Where a process finds its identity and the service that holds its keys.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct KeysAt {
    socket: PathBuf,
    uid: u32,
    state: PathBuf,
}

impl KeyService {
    /// Makes the identities and starts a service with their keys.
    ///
    /// # Errors
    /// [`Code::KeydMissing`] without the program; [`Code::DemoFailed`].
    pub(super) async fn start() -> Result<Self, CliError> {
        Self::start_for(OPERATIONS, "").await
    }

    /// With disposable keys too, and a key that signs them.
    ///
    /// # Errors
    /// As [`KeyService::start`].
    pub(super) async fn start_with_cache() -> Result<Self, CliError> {
        Self::start_for(r#"ops = ["public", "agree", "attest", "generate"]"#, CACHE).await
    }

    async fn start_for(operations: &str, more: &str) -> Result<Self, CliError> {
        let place = place()?;
        let directory = place.path().join("keyd");
        let made = DirBuilder::new().mode(0o700).create(&directory);
        let policy: String = NAMES
            .iter()
            .map(|name| format!("[[rule]]\nname = \"{name}\"\nlabels = [\"{name}/*\"]\n{operations}\n"))
            .collect();
        made.and_then(|()| fs::write(directory.join("policy.toml"), format!("version = 1\n{policy}{more}")))
            .map_err(|error| failed("the key service has no directory").because(error))?;
        let passphrase = Zeroizing::new(super::journey::random_tag()?);
        let mut child = spawn(&directory, &passphrase).await?;
        wait_until_ready(&mut child).await?;
        let uid = rustix::process::geteuid().as_raw();
        let operator = KeyClient::new(&directory.join("keyd.sock"), uid, "demo");
        operator
            .unlock(passphrase.as_bytes(), false)
            .await
            .map_err(|error| failed("the key service was not unlocked").because(error))?;
        let mut secrets = Vec::new();
        for name in NAMES {
            let state = place.path().join(name);
            let identity = make_identity(name, &state).await;
            identity.map_err(|error| failed("an identity was not made").because(error))?;
            let keys = state.join("keys");
            secrets.extend(take_over(&operator, &keys, name).await?.into_iter().map(|(_, secret)| secret));
            fs::remove_dir_all(&keys).map_err(|error| failed("a key file was not erased").because(error))?;
        }
        Ok(Self { place, uid, secrets, _child: child })
    }

    /// What the process `name` is told.
    pub(super) fn at(&self, name: &str) -> KeysAt {
        KeysAt {
            socket: self.place.path().join("keyd/keyd.sock"),
            uid: self.uid,
            state: self.place.path().join(name),
        }
    }

    /// How many keys the service holds for the demonstration.
    pub(super) fn count(&self) -> usize {
        self.secrets.len()
    }

    /// How many of the keys stand in a process's memory; `None` when it could not be searched.
    pub(super) fn found_in(&self, pid: Option<u32>) -> Option<usize> {
        let pid = pid?;
        let all = Needle::of_secrets(self.secrets.iter().map(|secret| &**secret));
        if all.search_process(pid).ok()?.found.is_empty() {
            return Some(0);
        }
        let found = |secret: &&Zeroizing<[u8; 32]>| {
            Needle::of_secrets([&***secret]).search_process(pid).is_ok_and(|search| !search.found.is_empty())
        };
        Some(self.secrets.iter().filter(found).count())
    }
}

impl KeysAt {
    /// A client of the service.
    pub(super) fn client(&self, name: &str) -> KeyClient {
        KeyClient::new(&self.socket, self.uid, name)
    }

    /// Starts the node `name` with its keys in the service.
    ///
    /// # Errors
    /// [`Code::DemoFailed`].
    pub(super) async fn start_node(&self, name: &str) -> Result<(Node, Identity), CliError> {
        let vault = self.client(name);
        let node = Node::builder(name).vault(std::sync::Arc::new(vault)).state_dir(&self.state).start().await;
        let node = node.map_err(|error| failed("a node did not start").because(error))?;
        let identity = node.load_identity(name).await;
        let identity = identity.map_err(|error| failed("a node has no identity").because(error))?;
        Ok((node, identity.ok_or_else(|| failed("a node has no identity"))?))
    }
}

async fn make_identity(name: &str, state: &Path) -> Result<(), onward::NodeError> {
    let node = Node::builder(name).state_dir(state).start().await?;
    node.load_or_create_identity(name).await?;
    node.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

async fn spawn(directory: &Path, passphrase: &str) -> Result<Child, CliError> {
    let cannot = |error: std::io::Error| {
        CliError::new(Code::KeydMissing, "onward-keyd cannot be started").because(error)
    };
    let mut command = Command::from(program()?);
    command.args(["serve", "--end-with-parent", "--unlock-stdin", "--create", "--dir"]).arg(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(passphrase.as_bytes()).await.map_err(cannot)?;
        input.write_all(b"\n").await.map_err(cannot)?;
    }
    Ok(child)
}

async fn wait_until_ready(child: &mut Child) -> Result<(), CliError> {
    let ended = || failed("the key service ended before it was ready");
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(ended)?).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| ended().because(error))? {
        if line == "ready" {
            return Ok(());
        }
    }
    Err(ended())
}

/// A directory for this demonstration alone, which is erased when it is dropped.
fn place() -> Result<TempDir, CliError> {
    let private = Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix("onward-demo-").permissions(private).tempdir();
    made.map_err(|error| failed("there is no directory for the demonstration").because(error))
}

fn failed(what: &str) -> CliError {
    CliError::new(Code::DemoFailed, what.to_owned())
}
