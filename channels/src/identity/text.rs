//! The text form of a public history: what people hand to each other in a file or a mail.
//!
//! It holds nothing secret. One history has one text, apart from line ends: armour, the identifier for people to
//! compare, and the strict encoding in hexadecimal, 64 digits a line.

use super::{History, IdentityError, VerifiedHistory};

impl VerifiedHistory {
    /// The history as text, with a line end after each line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{BEGIN}\n{}\n", self.identifier());
        for line in self.history().encode().chunks(LINE_BYTES) {
            text.push_str(&to_hex(line));
            text.push('\n');
        }
        text.push_str(END);
        text.push('\n');
        text
    }

    /// Reads and verifies a history from exactly what [`VerifiedHistory::to_text`] writes; lines may end in CR LF.
    ///
    /// # Errors
    /// [`IdentityError::Text`] for anything else, then as [`History::decode`] and [`History::verify`].
    pub fn from_text(text: &str) -> Result<Self, IdentityError> {
        let mut lines = text.lines();
        if lines.next() != Some(BEGIN) {
            return Err(IdentityError::Text("the first line of an identity file is missing"));
        }
        let identifier = lines.next().unwrap_or_default().parse()?;
        let mut bytes = Vec::new();
        let mut full = true;
        loop {
            let line =
                lines.next().ok_or(IdentityError::Text("the last line of an identity file is missing"))?;
            if line == END {
                break;
            }
            // Only the last line is shorter, and none is empty.
            let content = from_hex(line).filter(|content| full && (1..=LINE_BYTES).contains(&content.len()));
            let content =
                content.ok_or(IdentityError::Text("a line is not 64 lower-case hexadecimal digits"))?;
            full = content.len() == LINE_BYTES;
            bytes.extend(content);
        }
        if lines.next().is_some() {
            return Err(IdentityError::Text("text follows the identity"));
        }
        let history = History::decode(&bytes)?.verify()?;
        if history.identifier() != identifier {
            return Err(IdentityError::Text("the identifier is not that of the history"));
        }
        Ok(history)
    }
}

/// Writes `bytes` as lower-case hexadecimal digits.
fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads lower-case hexadecimal digits, two a byte, and nothing else.
pub(super) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

const BEGIN: &str = "-----BEGIN ONWARD IDENTITY-----";
const END: &str = "-----END ONWARD IDENTITY-----";
const LINE_BYTES: usize = 32;
