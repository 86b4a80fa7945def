//! Schemas: what a plaintext has to look like, named by a digest on which both ends agree.
//!
//! The digest is SHA-256 of the schema's canonical JSON, so that blanks and the order of members do not matter. Which
//! library validates is up to who implements [`Schema`]; with the feature `ok2cry-schema` there is `JsonSchema`.
//!
//! Specification: docs/protocol.md §5.3; RFC 8785.

#[cfg(feature = "ok2cry-json")]
mod canonical;

#[cfg(feature = "ok2cry-schema")]
mod json;

#[cfg(feature = "ok2cry-json")]
pub use canonical::{canonical_json, schema_digest};
#[cfg(feature = "ok2cry-schema")]
pub use json::{JsonSchema, SCHEMA_BYTES_MAX, SchemaError};

/// A schema, and whatever validates by it.
pub trait Schema: Sync {
    /// SHA-256 of the canonical schema, see `schema_digest`.
    fn digest(&self) -> [u8; 32];

    /// Whether `plaintext` follows the schema. Called by whoever seals and by whoever opened.
    fn admits(&self, plaintext: &[u8]) -> bool;
}
