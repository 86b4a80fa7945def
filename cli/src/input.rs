//! What a command is given to work on: a file, or standard input, up to a bound.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{CliError, Code};

/// Reads `file`, or standard input where there is none or it is `-`. What was read is wiped on drop.
///
/// # Errors
/// [`Code::Input`]; [`Code::InputTooBig`] above `bytes_max`.
pub(crate) fn read(file: Option<&Path>, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let (name, bytes) = match file {
        Some(path) if path.as_os_str() != "-" => {
            (path.display().to_string(), File::open(path).and_then(|file| bounded(file, bytes_max)))
        }
        _ => ("standard input".to_owned(), bounded(io::stdin().lock(), bytes_max)),
    };
    let bytes =
        bytes.map_err(|error| CliError::new(Code::Input, format!("{name} cannot be read")).because(error))?;
    if bytes.len() > bytes_max {
        return Err(CliError::new(Code::InputTooBig, format!("{name} has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn bounded(input: impl Read, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it at once: a buffer that moves would not be wiped where it was.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max + PROBE_BYTES));
    input.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// More than what reading looks ahead by.
const PROBE_BYTES: usize = 64;
