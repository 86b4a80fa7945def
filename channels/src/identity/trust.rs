//! Trust: whom a channel may be with. Always a required argument; nothing is trusted unless it is named here.
//!
//! Specification: docs/protocol.md §3.1, "Trust policy".

use std::collections::{HashMap, HashSet};

use super::{Credential, Identifier};

/// Which peers are accepted: pinned identities, and identities of which a trusted issuer says something it may say.
///
/// The empty value, [`Trust::default`], accepts nobody.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trust {
    pinned: HashSet<Identifier>,
    issuers: HashMap<Identifier, HashSet<String>>,
    any: bool,
}

impl Trust {
    /// Accepts exactly these identities.
    #[must_use]
    pub fn pinned(identifiers: impl IntoIterator<Item = Identifier>) -> Self {
        Self { pinned: identifiers.into_iter().collect(), ..Self::default() }
    }

    /// Accepts whoever presents a credential of one of these issuers, of a schema that this issuer may assert.
    #[must_use]
    pub fn issuers(issuers: impl IntoIterator<Item = (Identifier, Vec<String>)>) -> Self {
        let mut trust = Self::default();
        for (issuer, schemas) in issuers {
            trust.issuers.entry(issuer).or_default().extend(schemas);
        }
        trust
    }

    /// Accepts everybody who proves any identity at all. Encrypts, but says nothing about to whom.
    #[must_use]
    pub fn dangerously_any() -> Self {
        Self { any: true, ..Self::default() }
    }

    /// Accepts whom `self` or `other` accepts.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.pinned.extend(other.pinned);
        for (issuer, schemas) in other.issuers {
            self.issuers.entry(issuer).or_default().extend(schemas);
        }
        self.any |= other.any;
        self
    }

    /// Whether `issuer` may assert `schema`: from any other issuer an attribute of it does not exist.
    #[must_use]
    pub fn asserts(&self, issuer: &Identifier, schema: &str) -> bool {
        self.issuers.get(issuer).is_some_and(|schemas| schemas.contains(schema))
    }

    /// The identities that are accepted by name.
    pub fn pins(&self) -> impl Iterator<Item = &Identifier> {
        self.pinned.iter()
    }

    /// Whether `peer`, of which the verified `credentials` speak, is accepted.
    #[must_use]
    pub fn accepts<'a>(
        &self,
        peer: &Identifier,
        credentials: impl IntoIterator<Item = &'a Credential>,
    ) -> bool {
        let vouched = |credential: &Credential| {
            credential.subject == *peer && self.asserts(&credential.issuer, &credential.schema)
        };
        self.any || self.pinned.contains(peer) || credentials.into_iter().any(vouched)
    }
}
