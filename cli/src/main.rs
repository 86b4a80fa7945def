//! The `onward` command: the library's jobs, for people and scripts.
//!
//! Data goes to standard output, talk and errors to standard error; every error has a code. The command
//! uses the library's public interface only, and takes no secret as an argument.

mod args;
mod armour;
mod client;
mod commands;
mod config;
mod control;
mod demo;
mod error;
mod explain;
mod handshake;
mod input;
mod output;
mod own_keys;
mod passphrase;
mod program;
mod queues;
mod running;
mod state;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::error::{CliError, Code, Exit};
use crate::output::{Output, print_error};

/// What is left of a process's tasks has so long to end.
const SHUTDOWN: std::time::Duration = std::time::Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Errors in the command line itself are told in the format that it asks for, too.
    let json = asks_for_json(&arguments);
    let exit = match run(&arguments) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            if error.code() != Code::OutputClosed {
                print_error(&error, json);
            }
            error.code().exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn run(arguments: &[OsString]) -> Result<(), CliError> {
    if arguments.iter().any(|argument| argument == "=") {
        return Err(CliError::new(
            Code::Unquoted,
            "the shell took the `>` of an unquoted route for a redirection",
        ));
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    start_log()?;
    let output = Output { format: cli.global.output, quiet: cli.global.quiet };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Code::Internal, "no runtime").because(error))?;
    let result = runtime.block_on(commands::run(cli, output));
    // Programs that are under way end with their tasks; a read of standard input that nobody waits for any more must
    // not keep the process.
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

/// Help that was asked for goes to standard output; everything else is an error.
fn unparsed(error: &clap::Error) -> Result<(), CliError> {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Output { format: output::Format::Plain, quiet: false }.write(text.as_bytes());
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let words = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("onward <COMMAND>");
        return Err(CliError::new(Code::Usage, "a command is missing")
            .help(format!("{words}; onward help lists all")));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ");
    // What is missing or possible stands in the lines up to the usage.
    let details: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("Usage:")).collect();
    let (tips, named): (Vec<&str>, Vec<&str>) =
        details.into_iter().partition(|line| line.starts_with("tip: "));
    let failed = CliError::new(Code::Usage, [&[first], &named[..]].concat().join(" "));
    Err(match tips.first() {
        Some(tip) => failed.help(tip.trim_start_matches("tip: ")),
        None => failed,
    })
}

fn asks_for_json(arguments: &[OsString]) -> bool {
    let words: Vec<_> =
        arguments.iter().skip(1).map(|word| word.to_string_lossy()).take_while(|word| word != "--").collect();
    let joined = words
        .iter()
        .any(|word| ["--output=json", "--output=jsonl", "-ojson", "-ojsonl"].contains(&word.as_ref()));
    let separate = words.windows(2).any(|pair| {
        ["-o", "--output"].contains(&pair[0].as_ref()) && ["json", "jsonl"].contains(&pair[1].as_ref())
    });
    joined || separate || std::env::var("ONWARD_OUTPUT").is_ok_and(|format| format.starts_with("json"))
}

/// Logs to standard error what `ONWARD_LOG` selects, as text or JSON.
fn start_log() -> Result<(), CliError> {
    use tracing_subscriber::EnvFilter;

    let selected = std::env::var("ONWARD_LOG").unwrap_or_else(|_| "warn".to_owned());
    let filter = EnvFilter::try_new(&selected).map_err(|error| {
        CliError::new(Code::Environment, format!("ONWARD_LOG is `{selected}`")).because(error)
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match std::env::var("ONWARD_LOG_FORMAT").as_deref() {
        Ok("json") => log.json().init(),
        Ok("text" | "") | Err(_) => log.init(),
        Ok(other) => {
            return Err(CliError::new(Code::Environment, format!("ONWARD_LOG_FORMAT is `{other}`"))
                .help("the formats are text and json"));
        }
    }
    Ok(())
}
