//! What a node is started with: the options of `node start`, or the same keys in a TOML file.
//!
//! Options on the command line are added to the lists of the file. A key that does not exist is an
//! error with a suggestion, never ignored.

use std::path::Path;

use serde::Deserialize;

use crate::error::{CliError, Code};
use crate::handshake::HandshakeArgs;

/// Everything a node listens on, exposes and allows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct NodePlan {
    /// Listen on tcp:HOST:PORT, udp:HOST:PORT or queue:NAME (port 0: any)
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) listen: Vec<String>,
    /// Let the listeners' peers reach this worker
    #[arg(long, value_name = "WORKER")]
    pub(crate) expose: Vec<String>,
    /// Start a hop of this name and expose it
    #[arg(long, value_name = "NAME")]
    pub(crate) hop: Vec<String>,
    /// Let the listeners' peers be connected on to this endpoint, or queue:NAME/*
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) allow: Vec<String>,
    /// Keep a queue in a folder and serve it, or use another node's (NAME=ROUTE)
    #[arg(long, value_name = "[NAME=]DIR")]
    pub(crate) queue: Vec<String>,
    /// Open a channel listener at this address and expose it
    #[arg(long, value_name = "NAME")]
    pub(crate) channels: Option<String>,
    /// Let this peer open channels (name, identifier or file)
    #[arg(long, value_name = "PEER")]
    pub(crate) trust: Vec<String>,
    /// Let everybody open channels who proves any identity
    #[arg(long, conflicts_with = "trust")]
    pub(crate) trust_any: bool,
    /// Let channels reach this worker
    #[arg(long, value_name = "WORKER", hide_short_help = true)]
    pub(crate) channel_expose: Vec<String>,
    /// Identity of the channel listener (default: the node's name)
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub(crate) identity: Option<String>,
    /// How channels are accepted.
    #[command(flatten)]
    pub(crate) handshake: HandshakeArgs,
    /// The node's name; on the command line it is the argument.
    #[arg(skip)]
    pub(crate) name: Option<String>,
}

impl NodePlan {
    /// Reads a plan from a TOML file.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let failed = |sentence: String| CliError::new(Code::ConfigFile, sentence);
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| failed(format!("{shown} cannot be read")).because(error))?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|error| failed(format!("{shown} is not TOML")).because(error))?;
        if let Some(key) = table.keys().find(|key| !keys().contains(&key.as_str())) {
            let error = failed(format!("{shown} has an unknown key `{key}`"));
            return Err(match nearest(key, keys()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("the keys are {}", keys().join(", "))),
            });
        }
        let plan: Self = table
            .try_into()
            .map_err(|error| failed(format!("{shown} has a value of the wrong kind")).because(error))?;
        if plan.trust_any && !plan.trust.is_empty() {
            return Err(failed(format!("{shown} sets both trust and trust-any")).help("keep one of them"));
        }
        Ok(plan)
    }

    /// This plan, from the command line, on top of one from a file.
    pub(crate) fn over(self, file: Self) -> Self {
        let both = |mut first: Vec<String>, second: Vec<String>| {
            first.extend(second);
            first
        };
        Self {
            listen: both(file.listen, self.listen),
            expose: both(file.expose, self.expose),
            hop: both(file.hop, self.hop),
            allow: both(file.allow, self.allow),
            queue: both(file.queue, self.queue),
            channels: self.channels.or(file.channels),
            trust: both(file.trust, self.trust),
            trust_any: self.trust_any || file.trust_any,
            channel_expose: both(file.channel_expose, self.channel_expose),
            identity: self.identity.or(file.identity),
            handshake: self.handshake.over(file.handshake),
            name: self.name.or(file.name),
        }
    }
}

/// The keys of a plan, as serde knows them from its fields.
fn keys() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It takes the names and then has nothing to read.
    let _ = NodePlan::deserialize(FieldNames(&mut keys));
    keys
}

/// Learns which fields a struct asks for, and gives it none.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> serde::Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("there is nothing to read"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The known word that `word` most likely was meant to be.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (near.0 <= 1 + word.len() / 4).then_some(near.1)
}

/// Letters to insert, remove or replace to make one word of the other; `_` and `-` are the same.
fn distance(one: &str, other: &str) -> usize {
    let letters = |text: &str| text.replace('_', "-").to_lowercase().chars().collect::<Vec<_>>();
    let (one, other) = (letters(one), letters(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NodePlan, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("onward.toml");
        std::fs::write(&path, text).unwrap();
        NodePlan::read(&path)
    }

    #[test]
    fn a_file_has_the_keys_of_the_options() {
        let plan =
            read("name = \"edge\"\nlisten = [\"tcp:127.0.0.1:0\"]\nhop = [\"hop\"]\ntrust-any = true\n")
                .unwrap();
        assert_eq!(plan.name.as_deref(), Some("edge"));
        assert_eq!(plan.hop, ["hop"]);
        assert!(plan.trust_any);
        let typed = NodePlan { hop: vec!["second".into()], ..NodePlan::default() };
        assert_eq!(typed.over(plan).hop, ["hop", "second"]);
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        for (key, near) in [("lisen", "listen"), ("trust_any", "trust-any"), ("chanels", "channels")] {
            let error = read(&format!("{key} = true")).unwrap_err();
            assert_eq!(error.code(), Code::ConfigFile);
            assert_eq!(error.help_line(), format!("did you mean `{near}`?"));
        }
        let error = read("banana = 1").unwrap_err();
        assert!(error.help_line().contains("listen"), "{}", error.help_line());
    }

    #[test]
    fn values_of_the_wrong_kind_and_broken_files_are_errors() {
        for text in ["listen = 5", "listen = [", "trust = [\"a\"]\ntrust-any = true"] {
            assert_eq!(read(text).unwrap_err().code(), Code::ConfigFile, "{text}");
        }
        let missing = NodePlan::read(Path::new("/nonexistent/onward.toml")).unwrap_err();
        assert_eq!(missing.code(), Code::ConfigFile);
        assert!(!missing.causes().is_empty());
    }
}
