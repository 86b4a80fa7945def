//! `onward queue`: what waits in the queues of a running node, and what to do about it.

use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use onward::queue::Mailbox;
use onward::{Address, Kind, Node};
use serde_json::json;

use crate::args::{OnNode, QueueCommand};
use crate::control::{Answer, ControlClient, Request};
use crate::error::{CliError, Code};
use crate::output::{Output, Table};
use crate::queues::QueueRow;
use crate::state::State;

/// After so long, a command says that it is still at work.
const SILENCE: Duration = Duration::from_millis(200);

pub(crate) async fn run(state: &State, command: QueueCommand, output: Output) -> Result<(), CliError> {
    match command {
        QueueCommand::Ls { on } => list(state, &on, output).await,
        QueueCommand::Show { queue, on } => show(state, &queue, &on, output).await,
        QueueCommand::New { queue } => new(&queue, output).await,
        QueueCommand::Dead { mailbox, on } => dead(state, &mailbox, &on, output).await,
        QueueCommand::Purge { mailbox, dead, yes, on } => {
            purge(state, &mailbox, dead, yes, &on, output).await
        }
        QueueCommand::Redeliver { mailbox, on } => redeliver(state, &mailbox, &on, output).await,
    }
}

async fn list(state: &State, on: &OnNode, output: Output) -> Result<(), CliError> {
    let mut table =
        Table::new("queues", &["queue", "backend", "waiting", "dead", "oldest_s", "ack_means", "note"]);
    for row in queues(state, on, output).await? {
        let lanes = |name: &'static str| row.lanes.iter().filter(move |lane| lane.lane == name);
        let kept = row.backend == "embedded";
        let count = |name| kept.then(|| lanes(name).map(|lane| lane.messages).sum::<u64>());
        let oldest = lanes("messages").filter_map(|lane| lane.oldest).min().map(age);
        table.row([
            json!(row.queue),
            json!(row.backend),
            json!(count("messages")),
            json!(count("dead")),
            json!(oldest),
            json!(row.ack_means),
            json!(row.note),
        ]);
    }
    output.table(&table)
}

async fn show(state: &State, queue: &str, on: &OnNode, output: Output) -> Result<(), CliError> {
    let rows = queues(state, on, output).await?;
    let Some(row) = rows.iter().find(|row| row.queue == queue) else { return Err(unknown(queue, &rows)) };
    let mut table = Table::new(
        "mailboxes",
        &["mailbox", "lane", "waiting", "bytes", "oldest_s", "unsettled", "subscribers"],
    );
    for lane in &row.lanes {
        table.row([
            json!(lane.mailbox),
            json!(lane.lane),
            json!(lane.messages),
            json!(lane.bytes),
            json!(lane.oldest.map(age)),
            json!(lane.unsettled),
            json!(lane.subscribers),
        ]);
    }
    output.table(&table)
}

async fn new(queue: &str, output: Output) -> Result<(), CliError> {
    let failed = |error| CliError::node(Code::Usage, format!("`{queue}` cannot name a queue"), error);
    let node = Node::builder("cli").start().await.map_err(failed)?;
    let mailbox = node.new_mailbox(queue).map_err(failed)?.to_string();
    output.object(&mailbox, json!({ "mailbox": mailbox }))
}

async fn dead(state: &State, mailbox: &str, on: &OnNode, output: Output) -> Result<(), CliError> {
    let (queue, mailbox) = place(mailbox)?;
    let request = Request::QueueDead(queue.clone(), mailbox.to_string());
    let Answer::Letters(letters) = ask(state, on, request, output).await? else { return Err(strange()) };
    let mut table = Table::new("dead_letters", &["mid", "died_s", "reason", "attempts", "bytes"]);
    for letter in letters {
        table.row([
            json!(letter.mid),
            json!(age(letter.died)),
            json!(letter.reason),
            json!(letter.attempts),
            json!(letter.bytes),
        ]);
    }
    output.table(&table)
}

async fn purge(
    state: &State,
    mailbox: &str,
    dead: bool,
    yes: bool,
    on: &OnNode,
    output: Output,
) -> Result<(), CliError> {
    let (queue, box_name) = place(mailbox)?;
    let what = if dead { "dead letters" } else { "messages" };
    if !yes && !confirmed(&format!("remove all {what} of {mailbox}?"))? {
        return Err(CliError::new(Code::Usage, format!("the {what} of {mailbox} were not removed"))
            .help("add --yes to remove them without being asked"));
    }
    let request = Request::QueuePurge(queue, box_name.to_string(), dead);
    let Answer::Counted(count) = ask(state, on, request, output).await? else { return Err(strange()) };
    output.object(&format!("{count} {what} removed"), json!({ "removed": count }))
}

async fn redeliver(state: &State, mailbox: &str, on: &OnNode, output: Output) -> Result<(), CliError> {
    let (queue, box_name) = place(mailbox)?;
    let request = Request::QueueRedeliver(queue, box_name.to_string());
    let Answer::Counted(count) = ask(state, on, request, output).await? else { return Err(strange()) };
    output.object(&format!("{count} dead letters wait again"), json!({ "redelivered": count }))
}

async fn queues(state: &State, on: &OnNode, output: Output) -> Result<Vec<QueueRow>, CliError> {
    match ask(state, on, Request::Queues, output).await? {
        Answer::Queues(rows) => Ok(rows),
        _ => Err(strange()),
    }
}

/// Asks the node, and says so if it takes a while.
async fn ask(state: &State, on: &OnNode, request: Request, output: Output) -> Result<Answer, CliError> {
    let client = ControlClient::connect(state, on.node.as_deref()).await?;
    let answer = {
        let mut asking = std::pin::pin!(client.ask(request));
        match tokio::time::timeout(SILENCE, &mut asking).await {
            Ok(answer) => answer,
            Err(_) => {
                output.say("the queue is at work");
                asking.await
            }
        }
    };
    client.close().await;
    answer
}

/// The queue and the mailbox of `queue:NAME/MAILBOX`, the prefix of which may be left out.
fn place(text: &str) -> Result<(String, Mailbox), CliError> {
    let full = if text.starts_with("queue:") { text.to_owned() } else { format!("queue:{text}") };
    let failed = || {
        CliError::new(Code::Usage, format!("`{text}` is no mailbox"))
            .help("write it as NAME/MAILBOX; `onward queue show NAME` lists them")
    };
    let address: Address = full.parse().map_err(|error| failed().because(error))?;
    let parts = address.value().split_once('/').filter(|_| address.kind() == Kind::Queue);
    let (queue, mailbox) = parts.ok_or_else(failed)?;
    Ok((queue.to_owned(), mailbox.parse().map_err(|error| failed().because(error))?))
}

fn confirmed(question: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|error| CliError::new(Code::Input, "standard input cannot be read").because(error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Seconds since a time of the system's clock.
fn age(since: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    now.saturating_sub(since)
}

fn unknown(queue: &str, rows: &[QueueRow]) -> CliError {
    let names: Vec<&str> = rows.iter().map(|row| row.queue.as_str()).collect();
    let error = CliError::new(Code::NoQueue, format!("the node has no queue named `{queue}`"));
    match crate::config::nearest(queue, &names) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error,
    }
}

fn strange() -> CliError {
    CliError::new(Code::Control, "the node answered something else")
}
