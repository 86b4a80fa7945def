//! `onward ok2cry inspect`: what a structure says, and which of it was checked.
//!
//! Nothing here is believed, and nothing is opened: what it takes to believe it is said beside what was found.

use std::fmt::Write as _;
use std::path::Path;

use onward::audit::{Evidence, Leaf, Proved};
use onward::ok2cry::{Direction, KeyBody, KeyObject, PEM_BYTES, Policy, Sealed};
use serde_json::{Value, json};

use super::{PEM, TEXT_BYTES_MAX, hex, now};
use crate::armour::{self, Label};
use crate::error::{CliError, Code};
use crate::input;
use crate::output::Output;

/// Shows `file`, or standard input.
pub(super) fn run(file: Option<&Path>, output: Output) -> Result<(), CliError> {
    let bytes = input::read(file, TEXT_BYTES_MAX)?;
    let shown = look(&bytes).ok_or_else(|| {
        CliError::new(Code::Input, "it is no disposable key, nothing sealed and no evidence")
            .help("give what `onward ok2cry new`, `seal` or `proof --out` wrote, as text or as it is encoded")
    })?;
    output.object(&shown.to_text(), shown.to_json())
}

/// Names and what they stand for, in the order in which they are printed.
struct Shown(Vec<(&'static str, Value)>);

impl Shown {
    fn new(kind: &str, bytes: usize) -> Self {
        Self(vec![("kind", json!(kind)), ("bytes", json!(bytes))])
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    fn checked(self, checked: &[&str], not_checked: &[&str]) -> Self {
        self.with("checked", checked).with("not_checked", not_checked)
    }

    fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let lines = match value {
                Value::Null => vec!["none".to_owned()],
                Value::Array(values) => values.iter().map(cell).collect(),
                other => vec![cell(other)],
            };
            for (at, line) in lines.iter().enumerate() {
                let name = if at == 0 { name.replace('_', " ") } else { String::new() };
                let _ = writeln!(text, "{name:<12}  {line}");
            }
        }
        text
    }
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn look(bytes: &[u8]) -> Option<Shown> {
    match armour::read(bytes) {
        Some((Label::Shown, bytes)) => key(&KeyObject::decode(&bytes).ok()?, bytes.len()),
        Some((Label::Sealed, bytes)) => Some(sealed(&Sealed::decode(&bytes).ok()?, bytes.len())),
        Some((Label::Evidence, bytes)) => Some(evidence(&Evidence::decode(&bytes).ok()?, bytes.len())),
        None if bytes.len() == PEM_BYTES && bytes.starts_with(PEM) => Some(public(bytes.len())),
        None => encoded(bytes),
    }
}

/// The three structures have no encoding in common.
fn encoded(bytes: &[u8]) -> Option<Shown> {
    if let Ok(object) = KeyObject::decode(bytes) {
        return key(&object, bytes.len());
    }
    if let Ok(found) = Sealed::decode(bytes) {
        return Some(sealed(&found, bytes.len()));
    }
    Evidence::decode(bytes).ok().map(|found| evidence(&found, bytes.len()))
}

fn key(object: &KeyObject, bytes: usize) -> Option<Shown> {
    let KeyBody { policy, key_id, public, direction, iat, ttl, aud, purpose, binding, parent, schema } =
        &object.body;
    let extensions = &object.extensions;
    let claims = extensions.signer.as_ref().map(|signer| signer.claims().map(|found| found.to_string()));
    let (signature, checked) = match object.signed_by() {
        Ok(None) => ("none".to_owned(), "its form"),
        Ok(Some(_)) => (
            "holds, of the signer's attested key".to_owned(),
            "its form; the signature, as of when the key was made",
        ),
        Err(error) => (format!("does not hold: {error}"), "its form; the signature, which does not hold"),
    };
    let life = match now() {
        now if now < *iat => "not begun".to_owned(),
        now if now < object.body.exp() => format!("{} s left", object.body.exp() - now),
        _ => "over".to_owned(),
    };
    let way = match direction {
        Direction::AnswerToMe => "an answer to its maker",
        Direction::RequestToMe => "a request to its maker",
    };
    let shown = Shown::new("disposable key", bytes)
        .with("id", key_id.to_string())
        .with("policy", policy.name())
        .with("public", public_text(*policy, public))
        .with("direction", way)
        .with("made", *iat)
        .with("ttl", *ttl)
        .with("life", life)
        .with("audience", aud.as_str())
        .with("purpose", purpose.as_str())
        .with("bound_to", binding.as_ref().map(|it| hex(it)))
        .with("parent", parent.map(|parent| parent.to_string()))
        .with("follows", schema.as_ref().map(|it| hex(it)))
        .with("signer", claims.map(|claims| claims.unwrap_or_else(|error| error.to_string())))
        .with("signature", signature)
        .with("token", extensions.token.as_ref().map(|token| format!("{} bytes", token.len())))
        .with(
            "evidence",
            extensions.evidence.as_ref().map(|it| format!("type {}, {} bytes", it.kind, it.bytes.len())),
        )
        .with("channel", extensions.hs_id.as_ref().map(|it| hex(it)));
    let not_checked = [
        "whether the signer is who should have made it: onward ok2cry seal --trust",
        "whether its audience, direction and request are yours",
        "a token, evidence or a channel that comes with it",
        "whether it still lives: its cache knows",
    ];
    Some(shown.checked(&[checked], &not_checked))
}

fn public_text(policy: Policy, public: &[u8]) -> Value {
    match policy {
        Policy::Strong => Value::Array(String::from_utf8_lossy(public).lines().map(Value::from).collect()),
        _ => hex(public).into(),
    }
}

fn sealed(sealed: &Sealed, bytes: usize) -> Shown {
    let claims = sealed.signer.as_ref().map(|signer| signer.claims().map(|found| found.to_string()));
    let claims = match claims {
        None if sealed.policy.shows_sealer_inside() => Some("shown inside, to whoever opens it".to_owned()),
        claims => claims.map(|claims| claims.unwrap_or_else(|error| error.to_string())),
    };
    Shown::new("sealed", bytes)
        .with("id", sealed.key_id.to_string())
        .with("policy", sealed.policy.name())
        .with("ciphertext", format!("{} bytes", sealed.ciphertext.ct.len()))
        .with("encapsulated", sealed.ciphertext.enc.as_ref().map(|enc| format!("{} bytes", enc.len())))
        .with("signer", claims)
        .checked(
            &["its form"],
            &[
                "the signature, which is over the key and the request too: onward ok2cry open checks it first",
                "whether its key still lives",
                "what is inside, which only the key opens",
            ],
        )
}

fn evidence(evidence: &Evidence, bytes: usize) -> Shown {
    let head = &evidence.head.head;
    let leaf = |Proved { leaf, path }: &Proved| match Leaf::decode(leaf) {
        Ok(leaf) => {
            format!("{} {} {}, path of {}", leaf.seq, leaf.entry.event.name(), leaf.time_ms, path.len())
        }
        Err(_) => "no leaf".to_owned(),
    };
    Shown::new("evidence", bytes)
        .with("log", hex(&head.log_id))
        .with("head", format!("{} leaves at {}", head.size, head.time))
        .with("root", hex(&head.root))
        .with("leaves", evidence.leaves.iter().map(leaf).collect::<Vec<_>>())
        .with("consistency", evidence.consistency.as_ref().map(|it| format!("path of {}", it.len())))
        .checked(
            &["its form"],
            &[
                "who signed the head, whether the leaves are under it and whether it continues one seen before:",
                "onward ok2cry proof checks all three for a key of one's own",
            ],
        )
}

fn public(bytes: usize) -> Shown {
    Shown::new("public key alone", bytes).checked(
        &["its length and first line"],
        &["everything else: nobody says whose it is, what for and until when, so nothing is sealed to it"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_of_them_is_not_shown() {
        assert!(look(b"").is_none() && look(b"hello").is_none() && look(&[0x80]).is_none());
        let public = [PEM, &[b'\n'; PEM_BYTES - PEM.len()]].concat();
        assert!(look(&public).is_some_and(|shown| shown.to_json()["kind"] == "public key alone"));
    }
}
