//! Tokens of an issuer, good ones and all the others.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use onward_channels::ok2cry::{
    JWKS_SECONDS_MAX, Jwks, KeyBody, Policy, TokenError, TokenVerifier, token_claim,
};
use onward_trials::{Row, size};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

use crate::fixture::*;

/// Issues tokens with ES256.
pub(crate) struct Issuer {
    key: SigningKey,
    pub(crate) verifier: TokenVerifier,
}

impl Issuer {
    pub(crate) const NAME: &str = "https://issuer.example";

    pub(crate) fn new() -> Self {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let keys = Jwks::read(jwks(&key).as_bytes()).unwrap();
        assert_eq!(keys.len(), 1);
        Self { key, verifier: TokenVerifier::new(Self::NAME.into(), API.into(), keys, NOW) }
    }

    /// A token for `subject` that names the key with `body`.
    pub(crate) fn token(&self, body: &KeyBody, subject: &str) -> String {
        self.sign_claims(&claims(body, subject, Self::NAME, API, NOW + 60))
    }

    pub(crate) fn sign_claims(&self, claims: &str) -> String {
        self.sign(HEADER, claims)
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature: Signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    }
}

fn jwks(key: &SigningKey) -> String {
    let point = key.verifying_key().to_sec1_point(false);
    let [x, y] = [1..33, 33..65].map(|part| Base64UrlUnpadded::encode_string(&point.as_bytes()[part]));
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"1","use":"sig","alg":"ES256","x":"{x}","y":"{y}"}},
            {{"kty":"oct","kid":"2","k":"AAAA"}}]}}"#
    )
}

fn claims(body: &KeyBody, subject: &str, issuer: &str, audience: &str, exp: u64) -> String {
    let okc = token_claim(body);
    format!(r#"{{"iss":"{issuer}","aud":["x","{audience}"],"sub":"{subject}","exp":{exp},"okc":"{okc}"}}"#)
}

fn encode(json: &str) -> String {
    Base64UrlUnpadded::encode_string(json.as_bytes())
}

fn body() -> KeyBody {
    Made::answer(Policy::Strong, &mut Random(31)).body
}

#[test]
fn a_token_that_names_the_key_vouches_for_it() {
    let mut issuer = Issuer::new();
    let body = body();
    let token = issuer.token(&body, "client");
    let claims = issuer.verifier.verify(&token, &body, "client", NOW).unwrap();
    assert_eq!(
        (claims.issuer.as_str(), claims.subject.as_str(), claims.exp),
        (Issuer::NAME, "client", NOW + 60)
    );
}

#[test]
fn n5_3_a_token_of_another_kind_is_refused() {
    let mut issuer = Issuer::new();
    let body = body();
    let good = claims(&body, "client", Issuer::NAME, API, NOW + 60);
    let header = |alg: &str, more: &str| format!(r#"{{"alg":"{alg}","typ":"okc+jwt","kid":"1"{more}}}"#);
    let unsigned = format!("{}.{}.", encode(&header("none", "")), encode(&good));
    // The public key as a MAC key: there is no algorithm here that would take it.
    let public = issuer.sign(&header("HS256", ""), &good);
    let signed = |header: &str, claims: &str| issuer.sign(header, claims);
    let cases = [
        (unsigned, TokenError::UnknownKey),
        (public, TokenError::UnknownKey),
        (signed(&header("RS256", ""), &good), TokenError::UnknownKey),
        (signed(&header("ES256", r#","crit":["b64"],"b64":false"#), &good), TokenError::Type),
        (signed(&HEADER.replace("okc+jwt", "JWT"), &good), TokenError::Type),
        (signed(&HEADER.replace(r#""kid":"1""#, r#""kid":"3""#), &good), TokenError::UnknownKey),
        (signed(r#"{"alg":"ES256","typ":"okc+jwt"}"#, &good), TokenError::Malformed),
        (signed(HEADER, &claims(&body, "client", "https://evil.example", API, NOW + 60)), TokenError::Issuer),
        (signed(HEADER, &claims(&body, "client", Issuer::NAME, "y", NOW + 60)), TokenError::Audience),
        (signed(HEADER, &claims(&body, "other", Issuer::NAME, API, NOW + 60)), TokenError::Subject),
        (signed(HEADER, &claims(&body, "client", Issuer::NAME, API, NOW)), TokenError::Time),
        (
            signed(HEADER, &good.replace(r#""sub""#, &format!(r#""nbf":{},"sub""#, NOW + 61))),
            TokenError::Time,
        ),
        (signed(HEADER, &good.replace("okc", "okd")), TokenError::Unbound),
        (signed(HEADER, &good.replace(r#""exp""#, r#""exp":1,"exp""#)), TokenError::Malformed),
        (signed(HEADER, &good).replace('.', ".."), TokenError::Signature),
        (signed(HEADER, &good) + "=", TokenError::Malformed),
        ("a.b".into(), TokenError::Malformed),
        ("a".repeat(9000), TokenError::Malformed),
    ];
    for (at, (token, why)) in cases.iter().enumerate() {
        assert_eq!(issuer.verifier.verify(token, &body, "client", NOW), Err(*why), "case {at}");
    }
    let mut other = body.clone();
    other.key_id = onward_channels::ok2cry::DisposableKeyId::from_bytes([0; 16]);
    let token = issuer.sign(HEADER, &good);
    assert_eq!(issuer.verifier.verify(&token, &other, "client", NOW), Err(TokenError::Unbound));
}

#[test]
fn n5_3_keys_that_a_token_brings_along_are_not_read() {
    let mut issuer = Issuer::new();
    let thief = SigningKey::from_slice(&[8; 32]).unwrap();
    let point = thief.verifying_key().to_sec1_point(false);
    let [x, y] = [1..33, 33..65].map(|part| Base64UrlUnpadded::encode_string(&point.as_bytes()[part]));
    let body = body();
    for more in [
        r#""jku":"https://evil.example/jwks""#.to_owned(),
        r#""x5u":"https://evil.example/x5u""#.to_owned(),
        format!(r#""jwk":{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#),
    ] {
        let header = HEADER.replace('}', &format!(",{more}}}"));
        let token = |key: SigningKey| {
            let signer = Issuer { key, verifier: Issuer::new().verifier };
            signer.sign(&header, &claims(&body, "client", Issuer::NAME, API, NOW + 60))
        };
        let refused = issuer.verifier.verify(&token(thief.clone()), &body, "client", NOW);
        assert_eq!(refused, Err(TokenError::Signature), "{more}");
        // The same header from the issuer does no harm.
        assert!(issuer.verifier.verify(&token(issuer.key.clone()), &body, "client", NOW).is_ok());
    }
}

#[test]
fn an_issuers_keys_are_used_for_ten_minutes() {
    let mut issuer = Issuer::new();
    let body = body();
    let token = issuer.sign(HEADER, &claims(&body, "client", Issuer::NAME, API, NOW + 10_000));
    let last = NOW + JWKS_SECONDS_MAX - 1;
    assert!(issuer.verifier.verify(&token, &body, "client", last).is_ok());
    assert_eq!(issuer.verifier.verify(&token, &body, "client", last + 1), Err(TokenError::Stale));
    // A clock set back makes nothing fresh.
    assert_eq!(issuer.verifier.verify(&token, &body, "client", NOW - 1), Err(TokenError::Stale));
    // What was verified under keys that are gone is verified again.
    issuer.verifier.replace_keys(Jwks::default(), last + 1);
    assert_eq!(issuer.verifier.verify(&token, &body, "client", last + 1), Err(TokenError::UnknownKey));
}

/// Orders of a good and a bad token that share all but one part, so that what one leaves behind could serve the other.
#[test]
fn a47_a_verified_token_vouches_for_no_other() {
    let mut issuer = Issuer::new();
    let (mut tried, mut accepted, mut refused_good) = (0, 0, 0);
    let rounds = size(2_000, 100_000);
    for round in 0..rounds as u64 {
        let mut body = body();
        body.iat += round;
        let good = issuer.token(&body, "client");
        let (message, signature) = good.rsplit_once('.').unwrap();
        let swapped = encode(&claims(&body, "client", Issuer::NAME, API, NOW + 61));
        let mut other = body.clone();
        other.ttl += 1;
        let bad = match round % 3 {
            0 => format!("{message}.{}", Base64UrlUnpadded::encode_string(&[1; 64])),
            1 => format!("{}.{swapped}.{signature}", encode(HEADER)),
            _ => issuer.token(&other, "client"),
        };
        let mut is_accepted = |token: &str| issuer.verifier.verify(token, &body, "client", NOW).is_ok();
        // bad → bad, bad → good, good → bad, and the good one again, which is now remembered.
        for (token, is_good) in [(&bad, false), (&bad, false), (&good, true), (&bad, false), (&good, true)] {
            tried += 1;
            match (is_accepted(token), is_good) {
                (true, false) => accepted += 1,
                (false, true) => refused_good += 1,
                _ => {}
            }
        }
    }
    let row = Row::new("A47");
    row.exactly("tokens shown, five in a round of every order", tried, 5 * rounds);
    row.exactly("verified tokens refused", refused_good, 0);
    row.exactly("unverified tokens accepted", accepted, 0);
}

const HEADER: &str = r#"{"alg":"ES256","typ":"okc+jwt","kid":"1"}"#;
