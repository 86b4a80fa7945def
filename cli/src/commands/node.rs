//! `onward node`: start, stop and list nodes.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::args::{NodeCommand, NodeStart};
use crate::config::NodePlan;
use crate::control::{ControlClient, Request};
use crate::error::{CliError, Code};
use crate::output::{Output, Table};
use crate::running::{Running, is_endpoint};
use crate::state::{State, checked_name};

pub(crate) async fn run(state: &State, command: NodeCommand, output: Output) -> Result<(), CliError> {
    match command {
        NodeCommand::Start(start) => self::start(state, *start, output).await,
        NodeCommand::Stop { name, drain } => stop(state, name.as_deref(), drain, output).await,
        NodeCommand::Ls => list(state, output).await,
    }
}

async fn start(state: &State, start: NodeStart, output: Output) -> Result<(), CliError> {
    let plan = match &start.config {
        Some(path) => start.plan.clone().over(NodePlan::read(path)?),
        None => start.plan.clone(),
    };
    let name = start.name.clone().or_else(|| plan.name.clone()).unwrap_or_else(|| "node".to_owned());
    checked_name(&name)?;
    if plan.channels.is_none()
        && (plan.trust_any || !plan.trust.is_empty() || !plan.channel_expose.is_empty())
    {
        return Err(CliError::new(Code::Usage, "trust and channel exposures need a channel listener")
            .help("add --channels NAME"));
    }
    if start.background {
        return in_background(state, &name, output).await;
    }
    if start.detached {
        // Closing the terminal must not end a node that was put into the background.
        let _ = rustix::process::setsid();
    }
    let mut running = Running::start(state, &name, &plan).await?;
    announce(
        &name,
        &running.endpoints(),
        running.identifier.map(|id| id.to_string()),
        std::process::id(),
        output,
    )?;
    let drain = running.until_stopped(start.drain).await?;
    output.say(&format!("node `{name}` finishes what it has in hand, {drain:?} at most"));
    match running.stop(drain).await {
        Some(onward::ShutdownReport { drained, cut_off }) => {
            output.say(&format!("node `{name}` stopped: {drained} workers finished, {cut_off} were cut off"));
        }
        None => output.say(&format!("node `{name}` stopped at once, as a second signal asked")),
    }
    Ok(())
}

/// Starts this command again without a terminal, and waits until the node answers.
async fn in_background(state: &State, name: &str, output: Output) -> Result<(), CliError> {
    /// A node needs milliseconds; a machine may be busy.
    const PATIENCE: Duration = Duration::from_secs(10);

    let failed = |sentence: &str| CliError::new(Code::Internal, format!("node `{name}` {sentence}"));
    if state.node_pid(name).is_some() {
        return Err(CliError::new(Code::NodeRuns, format!("a node named `{name}` already runs")));
    }
    let log_path = state.node_dir(name)?.join("log");
    let log =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&log_path).map_err(
            |error| CliError::new(Code::StateWrite, "the node's log cannot be written").because(error),
        )?;
    let words = std::env::args_os().skip(1).filter(|word| word != "--background");
    let program = std::env::current_exe().map_err(|error| failed("cannot be started").because(error))?;
    let mut child = Command::new(program)
        .args(words)
        .arg("--detached")
        .env("ONWARD_HOME", state.home())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|error| failed("cannot be started").because(error))?;
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(from_log(&log_path).unwrap_or_else(|| failed("ended at once")));
        }
        if state.control_socket(name).exists()
            && let Ok(client) = ControlClient::connect(state, Some(name)).await
        {
            let status = client.status().await?;
            client.close().await;
            let endpoints: Vec<String> = status
                .listeners
                .into_iter()
                .map(|listener| listener.address)
                .filter(|address| is_endpoint(address))
                .collect();
            return announce(name, &endpoints, status.identifier, status.pid, output);
        }
        if Instant::now() > until {
            let _ = child.kill();
            return Err(failed("did not answer in time").help(format!("read {}", log_path.display())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The error that a node in the background ended with, as it stands in its log.
fn from_log(path: &Path) -> Option<CliError> {
    let log = std::fs::read_to_string(path).ok()?;
    let (number, sentence, cause) =
        match log.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()) {
            Some(value) => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let error = &value["error"];
                (text(&error["code"])?, text(&error["message"])?, text(&error["causes"][0]))
            }
            None => {
                let line = log.lines().find_map(|line| line.strip_prefix("error["))?;
                let (number, sentence) = line.split_once("]: ")?;
                let cause = log.lines().find_map(|line| line.trim().strip_prefix("cause: "));
                (number.to_owned(), sentence.to_owned(), cause.map(str::to_owned))
            }
        };
    let error = CliError::new(Code::find(&number)?, sentence);
    Some(match cause {
        Some(cause) => error.because(cause),
        None => error,
    })
}

fn announce(
    name: &str,
    endpoints: &[String],
    identifier: Option<String>,
    pid: u32,
    output: Output,
) -> Result<(), CliError> {
    let mut text = format!("node `{name}` runs (process {pid})");
    endpoints.iter().for_each(|endpoint| text.push_str(&format!("\n  listens on {endpoint}")));
    if let Some(identifier) = &identifier {
        text.push_str(&format!("\n  identity   {identifier}"));
    }
    output
        .object(&text, json!({ "node": name, "pid": pid, "listeners": endpoints, "identifier": identifier }))
}

async fn stop(state: &State, name: Option<&str>, drain: Duration, output: Output) -> Result<(), CliError> {
    let client = ControlClient::connect(state, name).await?;
    let name = client.name().to_owned();
    let milliseconds = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
    client.ask(Request::Stop(milliseconds)).await?;
    client.close().await;
    // The lock ends with the process: that is the proof that it is gone.
    let until = Instant::now() + drain + Duration::from_secs(5);
    while state.node_pid(&name).is_some() {
        if Instant::now() > until {
            return Err(CliError::new(Code::Control, format!("node `{name}` did not stop in time")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    output.object(&format!("node `{name}` stopped"), json!({ "node": name, "stopped": true }))
}

async fn list(state: &State, output: Output) -> Result<(), CliError> {
    let mut table = Table::new("nodes", &["name", "state", "pid", "listeners"]);
    for name in state.nodes() {
        let Some(pid) = state.node_pid(&name) else {
            table.row([json!(name), json!("stopped"), Value::Null, json!([])]);
            continue;
        };
        let listeners = match ControlClient::connect(state, Some(&name)).await {
            Ok(client) => {
                let status = client.status().await;
                client.close().await;
                status.map(|status| status.listeners).unwrap_or_default()
            }
            Err(_) => Vec::new(),
        };
        let endpoints: Vec<String> = listeners
            .into_iter()
            .map(|listener| listener.address)
            .filter(|address| is_endpoint(address))
            .collect();
        table.row([json!(name), json!("running"), json!(pid), json!(endpoints)]);
    }
    output.table(&table)
}
