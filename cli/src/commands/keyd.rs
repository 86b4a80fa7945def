//! `onward keyd`: starts the key service, and says and changes what it does.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use onward::{KeyClient, KeyError, Refusal};
use serde_json::json;

use crate::args::{AtService, KeydCommand, KeydPolicyCommand};
use crate::error::{CliError, Code};
use crate::output::Output;
use crate::passphrase;
use crate::state::{State, write_whole};

pub(crate) async fn run(state: &State, command: KeydCommand, output: Output) -> Result<(), CliError> {
    match command {
        KeydCommand::Start { at, background, allow_swappable } => {
            start(&service_dir(state, &at), background, allow_swappable, output)
        }
        KeydCommand::Status { at } => status(&client(state, &at)?, output).await,
        KeydCommand::Unlock { at } => {
            let passphrase = passphrase::ask(false)?;
            let unlocked = client(state, &at)?.unlock(&passphrase, false).await;
            unlocked.map_err(|error| failed("the key service stays locked", error))?;
            output.object("unlocked", json!({ "unlocked": true }))
        }
        KeydCommand::Passphrase { at } => {
            let (present, next) = (passphrase::ask(false)?, passphrase::ask(true)?);
            let changed = client(state, &at)?.change_passphrase(&present, &next).await;
            changed.map_err(|error| failed("the passphrase is the old one", error))?;
            output.object("changed: erase the copies that the old one opens", json!({ "changed": true }))
        }
        KeydCommand::Lock { at } => {
            let locked = client(state, &at)?.lock().await;
            locked.map_err(|error| failed("the key service was not locked", error))?;
            output.object("locked: no key is in memory", json!({ "unlocked": false }))
        }
        KeydCommand::Reload { at } => {
            let reloaded = client(state, &at)?.reload().await;
            reloaded.map_err(|error| {
                failed("the old policy stays in force", error)
                    .help("onward keyd policy check says what is wrong")
            })?;
            status(&client(state, &at)?, output).await
        }
        KeydCommand::Policy(command) => policy(state, command, output),
    }
}

/// Where the service lies: named, or in the state directory.
pub(crate) fn service_dir(state: &State, at: &AtService) -> PathBuf {
    at.service.clone().unwrap_or_else(|| state.home().join("keyd"))
}

/// A client of the service. Whoever owns the socket's directory is who may answer there.
pub(crate) fn client(state: &State, at: &AtService) -> Result<KeyClient, CliError> {
    service_client(&service_dir(state, at), "onward")
}

/// A client of the service in `directory`, whose keys it labels `LABEL/…`.
pub(crate) fn service_client(directory: &Path, label: &str) -> Result<KeyClient, CliError> {
    let owner = std::fs::metadata(directory).map(|found| found.uid()).map_err(|error| {
        CliError::new(Code::KeydUnreachable, format!("there is no key service in {}", directory.display()))
            .because(error)
    })?;
    Ok(KeyClient::new(&directory.join("keyd.sock"), owner, label))
}

/// A client that has shown the passphrase.
pub(crate) async fn operator(state: &State, at: &AtService) -> Result<KeyClient, CliError> {
    unlocked(client(state, at)?).await
}

/// The client, after the passphrase was asked for and shown.
pub(crate) async fn unlocked(client: KeyClient) -> Result<KeyClient, CliError> {
    let passphrase = passphrase::ask(false)?;
    let unlocked = client.unlock(&passphrase, false).await;
    unlocked.map_err(|error| failed("the passphrase was not taken", error))?;
    Ok(client)
}

/// What the service or the way to it said.
pub(crate) fn failed(what: impl Into<String>, error: KeyError) -> CliError {
    let code = match &error {
        KeyError::Locked => Code::KeydLocked,
        KeyError::NoSuchKey(_) | KeyError::Refused(_) | KeyError::WrongUsage { .. } => Code::KeyRefused,
        _ => Code::KeydUnreachable,
    };
    let rate = matches!(error, KeyError::Refused(Refusal::Rate));
    let failed = CliError::new(code, what).because(error);
    if rate { failed.help("wait: after ten wrong passphrases each further one takes longer") } else { failed }
}

/// Starts `onward-keyd` and stays with it, or leaves it in the background once it is ready.
fn start(directory: &Path, background: bool, swappable: bool, output: Output) -> Result<(), CliError> {
    let new = !directory.join("keys.store").exists();
    let passphrase = passphrase::ask(new)?;
    let cannot = |error: std::io::Error| {
        CliError::new(Code::KeydMissing, "onward-keyd cannot be started").because(error)
    };
    let mut command = program()?;
    command.args(["serve", "--unlock-stdin", "--dir"]).arg(directory);
    if new {
        command.arg("--create");
    }
    if swappable {
        command.arg("--allow-swappable-keys");
    }
    if background {
        // Not in this terminal's group: Ctrl-C is for what runs in front.
        command.process_group(0);
        command.stderr(log(directory)?);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(&passphrase).and_then(|()| input.write_all(b"\n"));
    }
    drop(passphrase);
    let mut protection = Vec::new();
    let mut ready = false;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        match line.map_err(cannot)? {
            line if line == "ready" => {
                ready = true;
                break;
            }
            line => protection.push(line),
        }
    }
    if !ready {
        let status = child.wait().map_err(cannot)?;
        return Err(CliError::new(
            Code::KeydMissing,
            format!("onward-keyd ended before it was ready ({status})"),
        )
        .help("its message stands above"));
    }
    starter_policy(directory)?;
    let text = format!("{}\nready in {}", protection.join("\n"), directory.display());
    output.object(&text, json!({ "pid": child.id(), "service": directory, "protection": protection }))?;
    if background {
        return Ok(());
    }
    match child.wait().map_err(cannot)? {
        status if status.success() => Ok(()),
        status => Err(CliError::new(Code::KeydMissing, format!("onward-keyd ended with {status}"))),
    }
}

/// Where a service in the background says what it has to say.
fn log(directory: &Path) -> Result<Stdio, CliError> {
    let path = directory.join("log");
    let opened = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| OpenOptions::new().create(true).append(true).mode(0o600).open(&path));
    let cannot = |error| {
        CliError::new(Code::StateWrite, format!("{} cannot be written", path.display())).because(error)
    };
    opened.map(Stdio::from).map_err(cannot)
}

async fn status(client: &KeyClient, output: Output) -> Result<(), CliError> {
    let state = client.status().await.map_err(|error| failed("the key service does not answer", error))?;
    let lock = if state.unlocked { "unlocked" } else { "locked" };
    let text = format!(
        "{lock}\nkeys      {}\nrules     {}\nclients   {}\nanswered  {}\n{}",
        state.keys,
        state.rules,
        state.clients,
        state.answered,
        state.protection.join("\n")
    );
    output.object(
        &text,
        json!({
            "unlocked": state.unlocked,
            "keys": state.keys,
            "rules": state.rules,
            "clients": state.clients,
            "answered": state.answered,
            "protection": state.protection,
        }),
    )
}

/// Has `onward-keyd` read a policy file as the service would.
fn policy(state: &State, command: KeydPolicyCommand, output: Output) -> Result<(), CliError> {
    let (at, file, words) = match command {
        KeydPolicyCommand::Check { at, file } => (at, file, None),
        KeydPolicyCommand::Explain { at, file, wish } => (at, file, Some(wish)),
    };
    let file = file.unwrap_or_else(|| service_dir(state, &at).join("policy.toml"));
    let mut command = program()?;
    command.arg("policy").arg(if words.is_some() { "explain" } else { "check" });
    command.arg(&file).args(words.unwrap_or_default());
    let done = command
        .output()
        .map_err(|error| CliError::new(Code::KeydMissing, "onward-keyd cannot be started").because(error))?;
    let text = String::from_utf8_lossy(&done.stdout).trim_end().to_owned();
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        return Err(CliError::new(Code::Policy, format!("{} is no policy", file.display())).because(why));
    }
    output.object(&text, json!({ "file": file, "said": text.lines().collect::<Vec<_>>() }))
}

/// The program of the service: beside this one, else wherever programs are.
pub(crate) fn program() -> Result<Command, CliError> {
    let name = "onward-keyd";
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    if let Some(path) = beside.filter(|path| path.exists()) {
        return Ok(Command::new(path));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|path| path.join(name).exists()) {
        return Ok(Command::new(name));
    }
    Err(CliError::new(Code::KeydMissing, "onward-keyd is neither beside this program nor in PATH"))
}

/// Puts an example that allows nothing where there is no policy.
fn starter_policy(directory: &Path) -> Result<(), CliError> {
    let path = directory.join("policy.toml");
    if path.exists() {
        return Ok(());
    }
    write_whole(&path, STARTER_POLICY.as_bytes()).map_err(|error| {
        CliError::new(Code::StateWrite, format!("{} cannot be written", path.display())).because(error)
    })
}

const STARTER_POLICY: &str = "\
# Who may do what with which key. What no rule allows is denied; the first rule that fits decides.
# Check with `onward keyd policy check`, put in force with `onward keyd reload`.
version = 1

# [[rule]]
# name = \"orders\"
# uid = [1000]
# labels = [\"orders/*\"]
# ops = [\"public\", \"agree\", \"attest\"]

# Who may have disposable keys (onward ok2cry), and how many.
# [[cache]]
# name = \"orders\"
# uid = [1000]
# keys = 1000
";
