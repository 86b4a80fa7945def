//! Structures as text: base64 between two lines that say what it is.
//!
//! Only a form to copy and mail them in. Nothing here looks into the bytes, and no structure is believed for its label.

use base64ct::{Base64, Encoding as _};

/// What is between the lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Label {
    /// A disposable key as others are shown it.
    Shown,
    /// What was sealed to one.
    Sealed,
    /// What became of one.
    Evidence,
}

impl Label {
    const ALL: [Self; 3] = [Self::Shown, Self::Sealed, Self::Evidence];

    fn text(self) -> &'static str {
        match self {
            Self::Shown => "ONWARD DISPOSABLE KEY",
            Self::Sealed => "ONWARD SEALED",
            Self::Evidence => "ONWARD EVIDENCE",
        }
    }
}

/// The text of `bytes`, each line ended.
pub(crate) fn write(label: Label, bytes: &[u8]) -> String {
    let mut text = format!("-----BEGIN {}-----\n", label.text());
    for line in bytes.chunks(LINE_BYTES) {
        text.push_str(&Base64::encode_string(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {}-----\n", label.text()));
    text
}

/// What stands between the lines of a text; `None` if it is no such text. Blanks around lines are let pass.
pub(crate) fn read(text: &[u8]) -> Option<(Label, Vec<u8>)> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let find = |label: &Label| {
        let inside = text.strip_prefix(&format!("-----BEGIN {}-----", label.text()))?;
        Some((*label, inside.strip_suffix(&format!("-----END {}-----", label.text()))?))
    };
    let (label, inside) = Label::ALL.iter().find_map(find)?;
    let digits: String = inside.split_ascii_whitespace().collect();
    Some((label, Base64::decode_vec(&digits).ok()?))
}

/// 64 digits a line.
const LINE_BYTES: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for bytes in [0, 1, 47, 48, 49, 1000] {
            let bytes: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
            for label in Label::ALL {
                let text = write(label, &bytes);
                assert!(text.lines().all(|line| line.len() <= 64));
                let mailed = format!("\r\n{}", text.replace('\n', "\r\n"));
                assert_eq!(read(text.as_bytes()), Some((label, bytes.clone())));
                assert_eq!(read(mailed.as_bytes()), Some((label, bytes.clone())));
            }
        }
        let text = write(Label::Sealed, b"1234567");
        for other in [text.replace("SEALED", "LETTER"), text.replace("END", "DNE"), text.replace('=', "!")] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(read(&[0xff]), None);
    }
}
