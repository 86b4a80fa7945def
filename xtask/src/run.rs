//! Running other programs: say what is run, run it, pass on what it prints.
//!
//! Nothing here interprets output; a task that wants to reads the lines it is given.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

/// The root of the workspace, fixed when this program was built.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where cargo puts what it builds: `CARGO_TARGET_DIR`, else `target` in the root.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |named| root().join(named))
}

/// The cargo that runs this program, to be started in the root with the arguments that `words`
/// names, one space apart.
pub(crate) fn cargo(words: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(words.split(' '));
    command
}

/// Whether `cargo <name>` is installed.
pub(crate) fn has_subcommand(name: &str) -> bool {
    cargo(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Prints `command` and runs it to its end.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| describe(command))?;
    ensure!(status.success(), "{}: {status}", describe(command));
    Ok(())
}

/// Prints `command`, runs it to its end, and hands on how it ended, for a task that ends with it.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn finish(command: &mut Command) -> Result<ExitCode> {
    announce(command);
    let status = command.status().with_context(|| describe(command))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What of a program's output is read.
#[derive(Clone, Copy)]
pub(crate) enum Streams {
    /// Standard output; standard error goes where this program's goes.
    Output,
    /// Both, in the order they were written.
    Both,
}

/// Prints `command`, runs it, and hands every line of `streams` to `line`.
///
/// # Errors
/// When it cannot be started or read; how it ended is returned, not judged.
pub(crate) fn each_line(
    command: &mut Command,
    streams: Streams,
    mut line: impl FnMut(&str),
) -> Result<ExitStatus> {
    announce(command);
    let (reader, writer) = std::io::pipe()?;
    if let Streams::Both = streams {
        command.stderr(writer.try_clone()?);
    }
    let mut child = command.stdout(writer).spawn().with_context(|| describe(command))?;
    // The reading below ends when no writing end is left, and `command` still holds one.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for read in BufReader::new(reader).split(b'\n') {
        line(&String::from_utf8_lossy(&read?));
    }
    Ok(child.wait()?)
}

fn announce(command: &Command) {
    eprintln!("\n$ {}", describe(command));
}

/// The command as it would be typed in the root, without the folder that the program stands in.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_stem().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        // Writing to a string does not fail.
        let _ = write!(text, " {}", argument.to_string_lossy());
    }
    text
}
