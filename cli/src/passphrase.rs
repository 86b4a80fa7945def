//! Asking for a passphrase, or for a key in hexadecimal: at the terminal without showing it, else one line of standard
//! input.
//!
//! Never from an argument, the environment or a file that is named. What was read is wiped.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use onward::general::WRAPPED_BYTES_MAX;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{CliError, Code};

/// Bytes of a passphrase, at most.
const BYTES_MAX: usize = 1024;

/// Bytes of a key in hexadecimal, at most: one that is wrapped.
const DIGITS_MAX: usize = 2 * WRAPPED_BYTES_MAX;

/// A passphrase; wiped on drop.
pub(crate) type Passphrase = Zeroizing<Vec<u8>>;

/// Asks for a passphrase; with `twice`, for a new one, which at a terminal has to be typed twice. One after another they are
/// lines of standard input.
pub(crate) fn ask(twice: bool) -> Result<Passphrase, CliError> {
    let input = io::stdin();
    let terminal = input.is_terminal();
    let mut file = input.as_fd().try_clone_to_owned().map(File::from).map_err(unreadable)?;
    if !terminal {
        return read_line(&mut file, "passphrase", BYTES_MAX);
    }
    let quiet = Quiet::start(&file).map_err(unreadable)?;
    let first = if twice { "new passphrase of the key service: " } else { "passphrase of the key service: " };
    let first = prompt(first, &mut file, "passphrase", BYTES_MAX)?;
    if twice && first != prompt("once more: ", &mut file, "passphrase", BYTES_MAX)? {
        return Err(CliError::new(Code::Input, "the two passphrases differ"));
    }
    drop(quiet);
    Ok(first)
}

/// Asks for `what`, which is bytes in hexadecimal.
pub(crate) fn ask_bytes(what: &str) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let input = io::stdin();
    let mut file = input.as_fd().try_clone_to_owned().map(File::from).map_err(unreadable)?;
    let digits = if input.is_terminal() {
        let _quiet = Quiet::start(&file).map_err(unreadable)?;
        prompt(&format!("{what} in hexadecimal: "), &mut file, what, DIGITS_MAX)?
    } else {
        read_line(&mut file, what, DIGITS_MAX)?
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for pair in pairs {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { break };
        bytes.push((high << 4 | low) as u8);
    }
    if bytes.len() != pairs.len() || !rest.is_empty() {
        return Err(CliError::new(Code::Input, format!("the {what} is not hexadecimal")).help(IN_A_LINE));
    }
    Ok(bytes)
}

fn prompt(text: &str, file: &mut File, what: &str, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut errors = io::stderr();
    let _ = write!(errors, "{text}").and_then(|()| errors.flush());
    let line = read_line(file, what, bytes_max);
    let _ = writeln!(errors);
    line
}

/// Reads up to the end of a line, without a buffer that nobody wipes.
fn read_line(file: &mut File, what: &str, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut line = Zeroizing::new(Vec::with_capacity(bytes_max));
    let mut byte = [0];
    while file.read(&mut byte).map_err(unreadable)? == 1 && byte[0] != b'\n' {
        if line.len() == bytes_max {
            return Err(CliError::new(Code::Input, format!("a {what} has at most {bytes_max} bytes")));
        }
        line.push(byte[0]);
    }
    if line.is_empty() {
        return Err(CliError::new(Code::Input, format!("there is no {what}")).help(IN_A_LINE));
    }
    Ok(line)
}

const IN_A_LINE: &str = "type it at the terminal, or give it as one line of standard input";

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
