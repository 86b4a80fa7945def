//! JSON schemas with their validator.
//!
//! A schema stands alone: what it refers to is in it, or is one of the drafts themselves. Nothing is fetched and no file
//! is read, whatever a `$ref` says.
//!
//! Specification: docs/protocol.md §5.3; JSON Schema, draft 2020-12.

use std::error::Error;
use std::fmt;

use boon::{Compiler, Draft, SchemaIndex, Schemas, UrlLoader};
use serde_json::Value;
use zeroize::Zeroize as _;

use super::{Schema, schema_digest};

/// Bytes of a schema, at most.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// A schema of draft 2020-12, or of the older one that its `$schema` names.
pub struct JsonSchema {
    digest: [u8; 32],
    compiled: Schemas,
    index: SchemaIndex,
}

impl JsonSchema {
    /// Reads a schema of at most [`SCHEMA_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`SchemaError`]; a schema that refers to another document is unusable.
    pub fn read(text: &[u8]) -> Result<Self, SchemaError> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(SchemaError::TooLong(text.len()));
        }
        let schema: Value = serde_json::from_slice(text).map_err(SchemaError::Malformed)?;
        let digest = schema_digest(&schema).ok_or(SchemaError::NoDigest)?;
        let unusable = |error: boon::CompileError| SchemaError::Unusable(error.to_string());
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.use_loader(Box::new(Nothing));
        compiler.add_resource(PLACE, schema).map_err(unusable)?;
        let mut compiled = Schemas::new();
        let index = compiler.compile(PLACE, &mut compiled).map_err(unusable)?;
        Ok(Self { digest, compiled, index })
    }
}

impl Schema for JsonSchema {
    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The texts that were read of `plaintext` meanwhile are wiped; numbers, names of members and what was read of something
    /// that is no JSON are not: a secret is better a text.
    fn admits(&self, plaintext: &[u8]) -> bool {
        let Ok(mut value) = serde_json::from_slice(plaintext) else { return false };
        let admitted = self.compiled.validate(&value, self.index).is_ok();
        wipe(&mut value);
        admitted
    }
}

impl fmt::Debug for JsonSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonSchema").finish_non_exhaustive()
    }
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Longer than [`SCHEMA_BYTES_MAX`].
    #[error("a schema of {0} bytes, where at most {SCHEMA_BYTES_MAX} are read")]
    TooLong(usize),
    /// It is no JSON.
    #[error("the schema is no JSON")]
    Malformed(#[source] serde_json::Error),
    /// It has a number that has no canonical form.
    #[error("a number in the schema has no canonical form")]
    NoDigest,
    /// It is no schema, or refers to what is not in it.
    #[error("{0}")]
    Unusable(String),
}

/// Finds no other document.
struct Nothing;

impl UrlLoader for Nothing {
    fn load(&self, _: &str) -> Result<Value, Box<dyn Error>> {
        Err("a schema stands alone: no other document is read".into())
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a schema that has no `$id` is called while it is read.
const PLACE: &str = "urn:onward:schema";

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &[u8] = br##"{ "type": "object", "properties": { "pin": { "$ref": "#/$defs/digits" } },
        "required": ["pin"], "unevaluatedProperties": false,
        "$defs": { "digits": { "type": "string", "pattern": "^[0-9]{4,12}$" } } }"##;

    #[test]
    fn what_follows_the_schema_is_admitted_and_nothing_else() {
        let schema = JsonSchema::read(PIN).unwrap();
        assert!(schema.admits(br#"{"pin":"4711"}"#));
        for other in [
            &b""[..],
            b"4711",
            br#"{"pin":4711}"#,
            br#"{"pin":"471"}"#,
            br#"{"pin":"4711"} "4711""#,
            br#"{"pin":"4711","more":1}"#,
            b"{\"pin\":\"4711\"",
        ] {
            assert!(!schema.admits(other), "{}", String::from_utf8_lossy(other));
        }
        assert_eq!(schema.digest(), schema_digest(&serde_json::from_slice(PIN).unwrap()).unwrap());
    }

    #[test]
    fn a_schema_that_is_none_or_looks_elsewhere_is_unusable() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let unusable = [
            r#"{"type":"strange"}"#.to_owned(),
            r##"{"$ref":"#/$defs/missing"}"##.to_owned(),
            r#"{"pattern":"("}"#.to_owned(),
            r#"{"$ref":"https://schemas.example/pin.json"}"#.to_owned(),
            r#"{"$schema":"https://schemas.example/draft"}"#.to_owned(),
            format!(r#"{{"$ref":"file://{}"}}"#, file.display()),
            r#"{"$ref":"pin.json"}"#.to_owned(),
        ];
        for text in unusable {
            assert!(matches!(JsonSchema::read(text.as_bytes()), Err(SchemaError::Unusable(_))), "{text}");
        }
        assert!(matches!(JsonSchema::read(b"{"), Err(SchemaError::Malformed(_))));
        assert!(matches!(JsonSchema::read(br#"{"const":9007199254740993}"#), Err(SchemaError::NoDigest)));
        let long = [b"true", &vec![b' '; SCHEMA_BYTES_MAX - 4][..]].concat();
        assert!(JsonSchema::read(&long).is_ok());
        assert!(matches!(JsonSchema::read(&[&long[..], b" "].concat()), Err(SchemaError::TooLong(_))));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let list = JsonSchema::read(br##"{"type":"object","properties":{"next":{"$ref":"#"}}}"##).unwrap();
        assert!(list.admits(br#"{"next":{"next":{}}}"#) && !list.admits(br#"{"next":{"next":1}}"#));
        let circle = JsonSchema::read(br##"{"$ref":"#"}"##);
        assert!(circle.is_err() || !circle.unwrap().admits(b"1"));
        // Deeper than is read.
        let deep = [b"{\"next\":".repeat(10_000), b"1".to_vec(), b"}".repeat(10_000)].concat();
        assert!(!list.admits(&deep));
    }
}
