//! Tokens: a JWT that names a disposable key, of an issuer that was configured.
//!
//! A token proves something about a key only if it names that key: the claim `okc` does. Keys of issuers come from a
//! set that was configured, never from what a token says of itself: `jku`, `jwk`, `x5u` and `x5c` are not even read.
//! No clock and no network: whoever drives a [`TokenVerifier`] gives it the set again when [`TokenVerifier::is_stale`].
//!
//! Specification: docs/protocol.md §5.1, §5.3; RFC 7515, RFC 7519, RFC 8725.

use std::collections::HashMap;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use onward_keys::{JoseKey, Label, hash};
use serde::Deserialize;

use super::{KeyBody, TOKEN_BYTES_MAX};

/// For how long a set of keys is used after it was fetched, in seconds.
pub const JWKS_SECONDS_MAX: u64 = 600;

/// Why a token does not vouch for a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not three parts of base64url with JSON objects, or longer than [`TOKEN_BYTES_MAX`].
    #[error("malformed token")]
    Malformed,
    /// Its `typ` is not `okc+jwt`, or it has an extension that must be understood.
    #[error("a token of another type")]
    Type,
    /// No key of the set has its `kid`, or that key is for another algorithm.
    #[error("no key of the issuer for this token")]
    UnknownKey,
    /// The signature is not the issuer's.
    #[error("the token's signature is not valid")]
    Signature,
    /// Of another issuer.
    #[error("a token of another issuer")]
    Issuer,
    /// Issued to somebody else.
    #[error("a token of another subject")]
    Subject,
    /// For another API.
    #[error("a token for another audience")]
    Audience,
    /// It has ended, or has not begun.
    #[error("a token out of its time")]
    Time,
    /// It names no key, or another one.
    #[error("a token that does not name the key")]
    Unbound,
    /// The keys of the issuer are older than [`JWKS_SECONDS_MAX`].
    #[error("the issuer's keys have to be fetched again")]
    Stale,
}

/// The claim `okc` that names the key with this body: base64url of H(L("ok2cry/okc", body)).
#[must_use]
pub fn token_claim(body: &KeyBody) -> String {
    Base64UrlUnpadded::encode_string(&hash(&Label::new("ok2cry/okc").bytes(&body.encode()).encode()))
}

/// The keys of an issuer by their `kid`, for EdDSA, ES256 and RS256.
#[derive(Clone, Debug, Default)]
pub struct Jwks(HashMap<String, JoseKey>);

impl Jwks {
    /// Reads a JWK set of at most [`JWKS_BYTES_MAX`] bytes. Keys of other kinds, for other uses or without `kid` are left out.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] when it is no set, or has two keys of one `kid`.
    pub fn read(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let set: JwkSet = serde_json::from_slice(bytes).map_err(|_| TokenError::Malformed)?;
        let mut keys = HashMap::new();
        for jwk in set.keys {
            let Some((kid, key)) = jwk.read() else { continue };
            if keys.insert(kid, key).is_some() {
                return Err(TokenError::Malformed);
            }
        }
        Ok(Self(keys))
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    used: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    fn read(self) -> Option<(String, JoseKey)> {
        let curve = self.crv.as_deref();
        let key = match self.kty.as_str() {
            "OKP" if curve == Some("Ed25519") => JoseKey::EdDsa(coordinate(self.x)?),
            "EC" if curve == Some("P-256") => JoseKey::Es256(coordinate(self.x)?, coordinate(self.y)?),
            "RSA" => JoseKey::Rs256(decode(&self.n?)?, decode(&self.e?)?),
            _ => return None,
        };
        let for_it =
            self.used.is_none_or(|used| used == "sig") && self.alg.is_none_or(|alg| alg == key.algorithm());
        for_it.then_some((self.kid?, key))
    }
}

fn coordinate(text: Option<String>) -> Option<[u8; 32]> {
    decode(&text?)?.try_into().ok()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text).ok()
}

/// What a verified token says of who it was issued to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenClaims {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `exp`, Unix seconds.
    pub exp: u64,
}

/// Verifies the tokens of one issuer for one API.
///
/// Remembers tokens that verified, so that a token that comes again costs no signature: only after every check has
/// passed, under the hash of the whole token and key, and until the keys are replaced.
#[derive(Debug)]
pub struct TokenVerifier {
    issuer: String,
    audience: String,
    keys: Jwks,
    /// When the keys were fetched, Unix seconds.
    fetched: u64,
    verified: HashMap<[u8; 32], TokenClaims>,
}

impl TokenVerifier {
    /// For tokens of `issuer` for `audience`, with the issuer's `keys` as fetched at `now` (Unix seconds).
    #[must_use]
    pub fn new(issuer: String, audience: String, keys: Jwks, now: u64) -> Self {
        Self { issuer, audience, keys, fetched: now, verified: HashMap::new() }
    }

    /// Whether the keys have to be fetched again, from where the configuration says.
    #[must_use]
    pub fn is_stale(&self, now: u64) -> bool {
        now.checked_sub(self.fetched).is_none_or(|age| age >= JWKS_SECONDS_MAX)
    }

    /// Puts `keys` in the place of those before, as fetched at `now`. What was verified is verified again.
    pub fn replace_keys(&mut self, keys: Jwks, now: u64) {
        self.keys = keys;
        self.fetched = now;
        self.verified.clear();
    }

    /// Verifies that `token` was issued to `subject` and names the key with `body`, at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`TokenError`]. Nothing is remembered of a token that is refused.
    pub fn verify(
        &mut self,
        token: &str,
        body: &KeyBody,
        subject: &str,
        now: u64,
    ) -> Result<TokenClaims, TokenError> {
        if self.is_stale(now) {
            return Err(TokenError::Stale);
        }
        let name = hash(&Label::new("ok2cry/token").text(token).text(subject).bytes(&body.hash()).encode());
        if let Some(claims) = self.verified.get(&name) {
            return if now < claims.exp { Ok(claims.clone()) } else { Err(TokenError::Time) };
        }
        let claims = self.verify_anew(token, body, subject, now)?;
        if self.verified.len() >= VERIFIED_MAX {
            self.verified.retain(|_, claims| now < claims.exp);
        }
        // Full of what still holds: the next token costs a signature, and nothing that holds is pushed out.
        if self.verified.len() < VERIFIED_MAX {
            self.verified.insert(name, claims.clone());
        }
        Ok(claims)
    }

    fn verify_anew(
        &self,
        token: &str,
        body: &KeyBody,
        subject: &str,
        now: u64,
    ) -> Result<TokenClaims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = json(header)?;
        if header.typ != TOKEN_TYPE || header.crit.is_some() {
            return Err(TokenError::Type);
        }
        // The key decides the algorithm; the token's word must only agree.
        let key = self.keys.0.get(&header.kid).ok_or(TokenError::UnknownKey)?;
        if key.algorithm() != header.alg {
            return Err(TokenError::UnknownKey);
        }
        let signature = decode(signature).ok_or(TokenError::Malformed)?;
        key.verify(message.as_bytes(), &signature).map_err(|_| TokenError::Signature)?;

        let claims: Claims = json(claims)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if claims.sub != subject {
            return Err(TokenError::Subject);
        }
        if !claims.aud.names(&self.audience) || body.aud != self.audience {
            return Err(TokenError::Audience);
        }
        let begun = claims.nbf.is_none_or(|nbf| nbf <= now.saturating_add(CLOCK_SKEW_SECONDS));
        if now >= claims.exp || !begun {
            return Err(TokenError::Time);
        }
        if claims.okc.as_deref() != Some(&token_claim(body)) {
            return Err(TokenError::Unbound);
        }
        Ok(TokenClaims { issuer: claims.iss, subject: claims.sub, exp: claims.exp })
    }
}

/// Whatever else a header says is not read: above all nothing that brings a key.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
    sub: String,
    okc: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

fn json<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, TokenError> {
    let bytes = decode(part).ok_or(TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

/// The longest JWK set, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// How many verified tokens are remembered.
const VERIFIED_MAX: usize = 4096;

const TOKEN_TYPE: &str = "okc+jwt";

/// How far ahead of ours an issuer's clock may run.
const CLOCK_SKEW_SECONDS: u64 = 60;
