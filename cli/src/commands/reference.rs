//! What can be looked up: limits, error codes, manual pages, completion scripts, the version.

use std::path::Path;

use clap::CommandFactory as _;
use serde_json::json;

use crate::args::Cli;
use crate::error::{CliError, Code};
use crate::output::{Output, Table};
use crate::state::write_whole;

pub(crate) fn limits(output: Output) -> Result<(), CliError> {
    let mut table = Table::new("limits", &["name", "value", "bounds"]);
    for limit in onward::Limits::default().rows() {
        table.row([json!(limit.name), json!(limit.value), json!(limit.bounds)]);
    }
    output.table(&table)
}

pub(crate) fn explain(code: Option<&str>, output: Output) -> Result<(), CliError> {
    let Some(number) = code else {
        let mut table = Table::new("errors", &["code", "exit", "retryable", "help"]);
        for code in Code::ALL {
            table.row([
                json!(code.number()),
                json!(code.exit() as u8),
                json!(code.retryable()),
                json!(code.help()),
            ]);
        }
        return output.table(&table);
    };
    let code = Code::find(number)
        .ok_or_else(|| CliError::new(Code::UnknownNumber, format!("`{number}` is no error code")))?;
    let text = format!(
        "{}  (exit code {})\n\n{}\n\nhelp: {}",
        code.number(),
        code.exit() as u8,
        code.text(),
        code.help()
    );
    output.object(
        &text,
        json!({
            "code": code.number(),
            "exit": code.exit() as u8,
            "retryable": code.retryable(),
            "text": code.text(),
            "help": code.help(),
        }),
    )
}

pub(crate) fn completion(shell: clap_complete::Shell, output: Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "onward", &mut script);
    output.write(&script)
}

pub(crate) fn help(
    words: &[String],
    man: bool,
    man_dir: Option<&Path>,
    output: Output,
) -> Result<(), CliError> {
    let mut root = Cli::command();
    root.build();
    if let Some(dir) = man_dir {
        return write_pages(&root, dir, output);
    }
    let mut command = root;
    for word in words {
        command = match command.find_subcommand(word) {
            Some(found) => found.clone(),
            None => {
                return Err(CliError::new(Code::Usage, format!("there is no command `{}`", words.join(" "))));
            }
        };
    }
    if man {
        return output.write(&page(&command)?);
    }
    output.write(command.render_long_help().to_string().as_bytes())
}

pub(crate) fn version(output: Output) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    output.object(&format!("onward {version}"), json!({ "version": version }))
}

/// Writes a manual page per command, and says where.
fn write_pages(command: &clap::Command, dir: &Path, output: Output) -> Result<(), CliError> {
    let name = command.get_display_name().unwrap_or("onward").replace(' ', "-");
    let path = dir.join(format!("{name}.1"));
    write_whole(&path, &page(command)?).map_err(|error| {
        CliError::new(Code::StateWrite, format!("{} cannot be written", path.display())).because(error)
    })?;
    output.say(&format!("wrote {}", path.display()));
    let visible = command.get_subcommands().filter(|command| !command.is_hide_set());
    visible.into_iter().try_for_each(|command| write_pages(command, dir, output))
}

fn page(command: &clap::Command) -> Result<Vec<u8>, CliError> {
    let name = command.get_display_name().unwrap_or("onward").replace(' ', "-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut page)?;
    Ok(page)
}
