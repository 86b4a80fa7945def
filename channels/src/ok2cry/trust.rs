//! Trust modes: what makes a disposable key, or what was sealed to one, worth believing.
//!
//! The mode is a required argument and part of no object, so nothing that a peer sends can choose or weaken it.
//!
//! Specification: docs/protocol.md §5.1.

use std::collections::HashSet;
use std::fmt;

use super::DisposableKeyId;
#[cfg(feature = "ok2cry-json")]
use super::TokenVerifier;
use crate::identity::{AttributeValue, Identifier, Trust, VerifiedPeer};

/// What a party that seals asks of a disposable key.
pub enum TrustMode<'a> {
    /// It is signed by a pinned end, or came through a channel whose peer is one. What is sealed is signed too.
    Identity(&'a Pins),
    /// A JWT that a known issuer gave to the end names it. Confidentiality only: nothing says who answers.
    #[cfg(feature = "ok2cry-json")]
    Bound {
        /// The issuer, its keys and the API.
        verifier: &'a mut TokenVerifier,
        /// The `sub` of the end: a token that an intermediary got for itself names its own key.
        subject: &'a str,
    },
    /// Nothing: whoever handed the key over is believed. Only against those who listen, never against those who act; an
    /// intermediary may have put its own key in the place of the real one. Every use is reported as an [`Event`].
    Transitive,
}

impl fmt::Debug for TrustMode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity(_) => "Identity",
            #[cfg(feature = "ok2cry-json")]
            Self::Bound { .. } => "Bound",
            Self::Transitive => "Transitive",
        })
    }
}

/// Of whom a party that opens takes what was sealed to its key.
#[derive(Clone, Copy, Debug)]
pub enum SealerTrust<'a> {
    /// Of a pinned end, which signed it: the other half of [`TrustMode::Identity`].
    Identity(&'a Pins),
    /// Of anybody: the other half of the modes that know no identity.
    Anybody,
}

/// Who may be the end of an exchange over one resource. The empty value accepts nobody.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    identifiers: HashSet<Identifier>,
    attributes: Vec<PinnedAttribute>,
}

/// What a credential must say for its subject to be an end. To be one that no intermediary is given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedAttribute {
    /// Who says it.
    pub issuer: Identifier,
    /// In which schema.
    pub schema: String,
    /// Under which name.
    pub name: String,
    /// What it says.
    pub value: AttributeValue,
}

impl Pins {
    /// Accepts exactly these identities.
    #[must_use]
    pub fn identifiers(identifiers: impl IntoIterator<Item = Identifier>) -> Self {
        Self { identifiers: identifiers.into_iter().collect(), attributes: Vec::new() }
    }

    /// Accepts also whoever presents a credential that says this.
    #[must_use]
    pub fn or_attribute(mut self, attribute: PinnedAttribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Whether `identifier` is accepted by its name alone.
    #[must_use]
    pub fn names(&self, identifier: &Identifier) -> bool {
        self.identifiers.contains(identifier)
    }

    /// Whether `peer` is accepted.
    #[must_use]
    pub fn accepts(&self, peer: &VerifiedPeer) -> bool {
        let says = |pin: &PinnedAttribute| {
            peer.credentials().any(|credential| {
                credential.subject == peer.identifier()
                    && credential.issuer == pin.issuer
                    && credential.schema == pin.schema
                    && credential.attributes.value(&pin.name) == Some(&pin.value)
            })
        };
        self.names(&peer.identifier()) || self.attributes.iter().any(says)
    }

    /// Who may pass the verification of an identity, before the attributes are looked at.
    pub(super) fn trust(&self) -> Trust {
        let issuers = self.attributes.iter().map(|pin| (pin.issuer, vec![pin.schema.clone()]));
        Trust::pinned(self.identifiers.iter().copied()).or(Trust::issuers(issuers))
    }
}

/// What a caller has to log.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A key was believed because it was there: an active intermediary reads what is sealed to it.
    Transitive {
        /// Which key.
        key_id: DisposableKeyId,
        /// For whom it claims to be.
        aud: String,
    },
}

/// Why a verified key was believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Voucher {
    /// This identity signed it, or handed it over itself.
    Identity(Identifier),
    /// A JWT named it.
    #[cfg(feature = "ok2cry-json")]
    Token {
        /// Its `iss`.
        issuer: String,
        /// Its `sub`.
        subject: String,
    },
    /// Nobody.
    Nobody,
}
