//! What each command does; a file per noun.

mod audit;
mod cache;
mod doctor;
mod identity;
pub(crate) mod key;
pub(crate) mod keyd;
mod message;
mod node;
mod ok2cry;
mod peer;
mod queue;
mod reference;
mod route;
mod serve;
mod status;

use crate::args::{Cli, Command, DemoCommand};
use crate::demo;
use crate::error::CliError;
use crate::output::Output;
use crate::state::State;

/// Runs the command that was typed.
pub(crate) async fn run(cli: Cli, output: Output) -> Result<(), CliError> {
    let home = cli.global.home;
    let state = || State::open(home);
    match cli.command {
        Command::Node(command) => node::run(&state()?, command, output).await,
        Command::Serve(serve) => serve::run(&state()?, serve, output).await,
        Command::Send(message) => message::send(&state()?, message, output).await,
        Command::Ask(message) => message::ask(&state()?, message, output).await,
        Command::Route(command) => route::run(&state()?, command, output),
        Command::Identity(command) => identity::run(&state()?, command, output).await,
        Command::Key(command) => key::run(&state()?, command, output).await,
        Command::Keyd(command) => keyd::run(&state()?, command, output).await,
        Command::Cache(command) => cache::run(&state()?, command, output).await,
        Command::Ok2cry(command) => ok2cry::run(&state()?, command, output).await,
        Command::Audit(command) => audit::run(&state()?, command, output),
        Command::Doctor(at) => doctor::run(&state()?, &at, output).await,
        Command::Peer(command) => peer::run(&state()?, command, output),
        Command::Queue(command) => queue::run(&state()?, command, output).await,
        Command::Status(on) => status::run(&state()?, on.node.as_deref(), output).await,
        Command::Demo(DemoCommand::Chain { text, attack, broker, keyd }) => {
            demo::chain(text, attack, broker, keyd, output).await
        }
        Command::Demo(DemoCommand::Pin { keyd }) => demo::pin(keyd, output).await,
        Command::DemoPart { part } => demo::part(part).await,
        Command::Limits => reference::limits(output),
        Command::Explain { code } => reference::explain(code.as_deref(), output),
        Command::Completion { shell } => reference::completion(shell, output),
        Command::Help { man, man_dir, command } => reference::help(&command, man, man_dir.as_deref(), output),
        Command::Version => reference::version(output),
    }
}
