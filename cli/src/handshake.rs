//! How channels are opened and accepted: the handshake, and what it rests on beside identities.
//!
//! A pre-shared key comes from a file only. There is no fallback: both ends are told the same, or nobody answers.

use std::path::{Path, PathBuf};

use onward::{ChannelOptions, Introduction, Mode, read_psk};
use serde::Deserialize;

use crate::error::{CliError, Code};

/// Options of commands that open or accept channels, and the table `handshake` of a file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct HandshakeArgs {
    /// Handshake of channels, the same at both ends (default: hybrid)
    #[arg(long = "handshake", value_enum, value_name = "KIND", hide_short_help = true)]
    pub(crate) kind: Option<Kind>,
    /// Ask for a pre-shared key too: this file's 64 hexadecimal digits, readable by its owner only
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) psk_file: Option<PathBuf>,
    /// Know a peer beforehand, from a file that `onward identity introduce` made there
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) introduction: Vec<PathBuf>,
}

/// A handshake, by what its user knows of it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Secret from quantum computers too
    Hybrid,
    /// Shorter messages
    Classical,
    /// As hybrid, in two messages to a peer whose introduction is given
    HybridIk,
    /// As classical, in two messages to a peer whose introduction is given
    Ik,
    /// Both ends have the other's introduction
    Kk,
}

impl HandshakeArgs {
    /// These, from the command line, on top of those from a file.
    pub(crate) fn over(self, file: Self) -> Self {
        Self {
            kind: self.kind.or(file.kind),
            psk_file: self.psk_file.or(file.psk_file),
            introduction: [file.introduction, self.introduction].concat(),
        }
    }

    /// The options of a channel; a listener with them answers this handshake and no other.
    pub(crate) fn options(&self) -> Result<ChannelOptions, CliError> {
        let mode = match (self.kind.unwrap_or(Kind::Hybrid), &self.psk_file) {
            (Kind::Hybrid, None) => Mode::HybridXx,
            (Kind::Hybrid, Some(_)) => Mode::HybridXxPsk,
            (Kind::Classical, None) => Mode::ClassicalXx,
            (Kind::Classical, Some(_)) => Mode::ClassicalXxPsk,
            (Kind::HybridIk, None) => Mode::HybridIk,
            (Kind::Ik, None) => Mode::ClassicalIk,
            (Kind::Kk, None) => Mode::Kk,
            (Kind::HybridIk | Kind::Ik | Kind::Kk, Some(_)) => {
                let sentence = "a pre-shared key goes with the handshakes hybrid and classical only";
                return Err(CliError::new(Code::Usage, sentence));
            }
        };
        let psks = self.psk_file.iter().map(|path| {
            read_psk(path)
                .map_err(|error| CliError::node(Code::Input, "the pre-shared key is not used", error))
        });
        Ok(ChannelOptions {
            mode,
            accepts: Some(mode.in_every_suite().into()),
            psks: psks.collect::<Result<_, _>>()?,
            introductions: self
                .introduction
                .iter()
                .map(|path| introduction(path))
                .collect::<Result<_, _>>()?,
            ..ChannelOptions::default()
        })
    }
}

/// An introduction as one line of text.
pub(crate) fn introduction_text(introduction: &Introduction) -> String {
    introduction.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn introduction(path: &Path) -> Result<Introduction, CliError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::new(Code::Input, format!("{shown} cannot be read")).because(error))?;
    let none = || CliError::new(Code::Peer, format!("{shown} holds no introduction"));
    let bytes = from_hex(text.trim()).ok_or_else(none)?;
    Introduction::from_bytes(&bytes).map_err(|error| none().because(error))
}

/// The bytes that a text of hexadecimal digits stands for.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_and_the_file_choose_the_mode() {
        let chosen = |kind, psk_file| {
            HandshakeArgs { kind, psk_file, introduction: Vec::new() }.options().map(|options| options.mode)
        };
        assert_eq!(chosen(None, None).unwrap(), Mode::HybridXx);
        assert_eq!(chosen(Some(Kind::Classical), None).unwrap(), Mode::ClassicalXx);
        assert_eq!(chosen(Some(Kind::Kk), None).unwrap(), Mode::Kk);
        assert_eq!(chosen(Some(Kind::Kk), Some("psk".into())).unwrap_err().code(), Code::Usage);
        assert_eq!(chosen(None, Some("/no/such/file".into())).unwrap_err().code(), Code::Input);
    }

    #[test]
    fn hexadecimal_text_is_read_back() {
        assert_eq!(from_hex("00ffA1"), Some(vec![0, 255, 0xa1]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0g"), None);
    }
}
