//! Asking for a passphrase: at the terminal without showing it, else one line of standard input.
//!
//! Never from an argument, the environment or a file that is named. What was read is wiped.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{CliError, Code};

/// Bytes of a passphrase, at most.
const BYTES_MAX: usize = 1024;

/// A passphrase; wiped on drop.
pub(crate) type Passphrase = Zeroizing<Vec<u8>>;

/// Asks for a passphrase; with `twice`, for a new one, which at a terminal has to be typed twice.
pub(crate) fn ask(twice: bool) -> Result<Passphrase, CliError> {
    let input = io::stdin();
    let terminal = input.is_terminal();
    let mut file = input.as_fd().try_clone_to_owned().map(File::from).map_err(unreadable)?;
    if !terminal {
        return read_line(&mut file);
    }
    let quiet = Quiet::start(&file).map_err(unreadable)?;
    let first = prompt("passphrase of the key service: ", &mut file)?;
    if twice && first != prompt("once more: ", &mut file)? {
        return Err(CliError::new(Code::Input, "the two passphrases differ"));
    }
    drop(quiet);
    Ok(first)
}

fn prompt(text: &str, file: &mut File) -> Result<Passphrase, CliError> {
    let mut errors = io::stderr();
    let _ = write!(errors, "{text}").and_then(|()| errors.flush());
    let line = read_line(file);
    let _ = writeln!(errors);
    line
}

/// Reads up to the end of a line, without a buffer that nobody wipes.
fn read_line(file: &mut File) -> Result<Passphrase, CliError> {
    let mut line = Zeroizing::new(Vec::with_capacity(BYTES_MAX));
    let mut byte = [0];
    while file.read(&mut byte).map_err(unreadable)? == 1 && byte[0] != b'\n' {
        if line.len() == BYTES_MAX {
            return Err(CliError::new(Code::Input, format!("a passphrase has at most {BYTES_MAX} bytes")));
        }
        line.push(byte[0]);
    }
    if line.is_empty() {
        return Err(CliError::new(Code::Input, "there is no passphrase")
            .help("type it at the terminal, or give it as one line of standard input"));
    }
    Ok(line)
}

/// A terminal that does not show what is typed, until dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn start(terminal: &File) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell then.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn unreadable(error: io::Error) -> CliError {
    CliError::new(Code::Input, "the passphrase cannot be read").because(error)
}
