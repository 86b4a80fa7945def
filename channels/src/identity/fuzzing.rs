//! The entry for fuzzing the decoders of signed structures: any bytes, no panic, one encoding per value.

use super::{
    Attestation, Credential, History, IdPayload, Identity, IdentityChange, KeyAttest, KnownHistories, Trust,
    VerifiedHistory,
};
use crate::signed::{BODY_BYTES_MAX, Signed};
use crate::strict;

/// Gives `data` to every decoder, and to verification what decodes; says whether anything did.
///
/// # Panics
/// When something decodes that does not encode to `data` again: two byte strings would then mean the same.
pub fn identity(data: &[u8]) -> bool {
    let mut decoded = same(data, Signed::decode(data).ok().map(|signed| signed.encode()));
    decoded |= same(data, History::decode(data).ok().map(|history| history.encode()));
    decoded |= same(data, Attestation::decode(data).ok().map(|attestation| attestation.encode()));
    decoded |= same(data, Identity::decode(data).ok().map(|identity| identity.encode()));
    decoded |= same(
        data,
        strict::decode(data, BODY_BYTES_MAX).ok().map(|body: IdentityChange| strict::encode(&body)),
    );
    decoded |=
        same(data, strict::decode(data, BODY_BYTES_MAX).ok().map(|body: KeyAttest| strict::encode(&body)));
    decoded |=
        same(data, strict::decode(data, BODY_BYTES_MAX).ok().map(|body: Credential| strict::encode(&body)));
    if let Ok(text) = str::from_utf8(data) {
        let read = VerifiedHistory::from_text(text).map(|history| history.to_text());
        decoded |= read.is_ok();
        assert!(read.is_err() || read.ok().as_deref() == Some(&text_with_plain_line_ends(text)));
    }
    if let Ok(payload) = IdPayload::decode(data) {
        decoded |= same(data, Some(payload.encode()));
        let attest = payload.attestation().attest().clone();
        let in_use = (attest.purpose, attest.key.as_slice());
        // The result depends on whether the signatures are good; only that there is one matters here.
        let _ = payload.verify(in_use, None, attest.iat, &Trust::dangerously_any(), &KnownHistories::new(1));
    }
    decoded
}

/// Whether `data` was decoded; then `encoded` is the same bytes.
fn same(data: &[u8], encoded: Option<Vec<u8>>) -> bool {
    let Some(encoded) = encoded else { return false };
    assert!(encoded == data, "decoded bytes encode to other bytes");
    true
}

fn text_with_plain_line_ends(text: &str) -> String {
    text.lines().flat_map(|line| [line, "\n"]).collect()
}
