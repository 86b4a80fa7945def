//! Pre-shared keys of deployments, as files.
//!
//! A key is read from a file that nobody else may read; there is no way to give one as an argument.
//!
//! Specification: docs/protocol.md §3.2 (modes 3 and 4).

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use onward_channels::Psk;
use onward_keys::SharedSecret;
use zeroize::Zeroizing;

use crate::error::NodeError;

/// Reads a deployment's key: 64 hexadecimal digits and perhaps the end of the line.
///
/// # Errors
/// [`NodeError::Psk`] if the file cannot be read, may be read by others than its owner, or holds anything else.
pub fn read_psk(path: &Path) -> Result<Arc<Psk>, NodeError> {
    let failed = |source| NodeError::Psk { path: path.display().to_string(), source };
    let refused = |why: &'static str| failed(io::Error::other(why));
    let file = std::fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(refused("others than its owner may read or write it"));
    }
    // One byte more than fits shows that there is more; the buffer never grows, which would leave a copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * FILE_BYTES_MAX));
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    let digits = text.trim_ascii_end();
    let mut key = Zeroizing::new([0; 32]);
    if text.len() > FILE_BYTES_MAX || digits.len() != 2 * key.len() {
        return Err(refused("a key is 64 hexadecimal digits"));
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let value = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        *byte = value.ok_or_else(|| refused("a key is 64 hexadecimal digits"))?;
    }
    Ok(Arc::new(Psk::new(SharedSecret::new(&key))))
}

/// The digits and the end of a line.
const FILE_BYTES_MAX: usize = 66;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_read_from_a_private_file_of_the_right_form_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("psk");
        let read = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_psk(&path).is_ok()
        };
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        assert!(read(&digits, 0o600) && read(&format!("{digits}\n"), 0o400));
        assert!(!read(&digits, 0o640) && !read(&digits, 0o604));
        for text in
            ["", &digits[1..], &format!("{digits}0"), &format!("g{}", &digits[1..]), &digits.repeat(9)]
        {
            assert!(!read(text, 0o600), "{text}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_psk(&path), Err(NodeError::Psk { .. })));
    }
}
