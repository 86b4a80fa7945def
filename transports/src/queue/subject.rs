//! Under what a message is stored: `ow.v1.<lane>.<mailbox>`.
//!
//! A closed alphabet, checked once: a subject holds no wildcard, separator, space or control character
//! of any broker, so that no name chosen by a stranger can reach beyond its own mailbox.
//!
//! Specification: docs/protocol.md §2.3.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

/// Which of the queues of a mailbox.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Messages for whoever holds the mailbox.
    Messages,
    /// Receipts for what was sent from here.
    Receipts,
    /// Messages of this mailbox that can never be handled.
    DeadLetters,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Messages, Self::Receipts, Self::DeadLetters];

    /// Its two letters in a subject.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "mb",
            Self::Receipts => "rc",
            Self::DeadLetters => "dl",
        }
    }
}

/// Why a text is no subject or mailbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// A mailbox is 1 to 128 of `A-Z a-z 0-9 _ -`.
    #[error("a mailbox is 1 to 128 of A-Z a-z 0-9 _ -")]
    Mailbox,
    /// A subject is `ow.v1.mb.`, `ow.v1.rc.` or `ow.v1.dl.` and a mailbox.
    #[error("a subject is ow.v1.mb., ow.v1.rc. or ow.v1.dl. and a mailbox")]
    Subject,
}

/// The name of a mailbox: 1 to 128 of `A-Z a-z 0-9 _ -`. Who knows it can fill it, so it is random and
/// never derived from an identity. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mailbox(Arc<str>);

impl Mailbox {
    /// Longest name in bytes.
    pub const BYTES_MAX: usize = 128;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject of one of its lanes.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> Subject {
        Subject { lane, mailbox: self.clone() }
    }
}

impl FromStr for Mailbox {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_mailbox = (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
        if is_mailbox { Ok(Self(text.into())) } else { Err(SubjectError::Mailbox) }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// One lane of one mailbox.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Subject {
    lane: Lane,
    mailbox: Mailbox,
}

impl Subject {
    const PREFIX: &str = "ow.v1.";

    /// Which lane.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Of which mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Where the dead letters of this mailbox are.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        self.mailbox.lane(Lane::DeadLetters)
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let rest = text.strip_prefix(Self::PREFIX).ok_or(SubjectError::Subject)?;
        let (name, mailbox) = rest.split_once('.').ok_or(SubjectError::Subject)?;
        let lane = Lane::ALL.into_iter().find(|lane| lane.name() == name).ok_or(SubjectError::Subject)?;
        Ok(Self { lane, mailbox: mailbox.parse()? })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}.{}", Self::PREFIX, self.lane.name(), self.mailbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_survive_a_round_trip() {
        let longest = format!("ow.v1.mb.{}", "x".repeat(Mailbox::BYTES_MAX));
        for text in ["ow.v1.mb.a", "ow.v1.rc.A-_9", "ow.v1.dl.7", longest.as_str()] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(subject.to_string(), text);
        }
        let subject: Subject = "ow.v1.mb.a".parse().unwrap();
        assert_eq!(subject.dead_letters().to_string(), "ow.v1.dl.a");
    }

    #[test]
    fn nothing_else_is_a_subject() {
        let too_long = format!("ow.v1.mb.{}", "x".repeat(Mailbox::BYTES_MAX + 1));
        for text in [
            "",
            "a",
            "ow.v1.mb",
            "ow.v1.mb.",
            "ow.v2.mb.a",
            "ow.v1.xx.a",
            "ow.v1.MB.a",
            "ow.v1.mb.a.b",
            "ow.v1.mb.*",
            "ow.v1.mb.>",
            "ow.v1.mb.#",
            "ow.v1.mb.a+",
            "ow.v1.mb.a/b",
            "ow.v1.mb.a b",
            "ow.v1.mb.a\r\nDEL x",
            "ow.v1.mb.\u{e9}",
            "ow.v1.mb.a\0",
            " ow.v1.mb.a",
            too_long.as_str(),
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
        }
    }
}
