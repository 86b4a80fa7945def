//! The entry for fuzzing what travels: any bytes, no panic, one encoding per value.

use super::{Ciphertext, Direction, DisposableKey, KeyBody, KeyObject, Sealed, Terms, open, pem};

/// Gives `data` to every decoder, and to opening what decodes; says whether anything did.
///
/// # Panics
/// When something decodes that does not encode to `data` again, or something opens that nobody sealed.
pub fn objects(data: &[u8]) -> bool {
    let mut decoded = false;
    if let Some(point) = pem::decode(data) {
        assert!(pem::encode(&point) == data, "a key has two texts");
        decoded = true;
    }
    if let Ok(body) = KeyBody::decode(data) {
        assert!(body.encode() == data, "a body has two encodings");
        decoded = true;
    }
    if let Ok(object) = KeyObject::decode(data) {
        assert!(object.encode() == data, "an object has two encodings");
        decoded = true;
    }
    if let Ok(sealed) = Sealed::decode(data) {
        assert!(sealed.encode() == data, "a sealed message has two encodings");
        assert!(!opens(&sealed), "nobody sealed to this key");
        decoded = true;
    }
    decoded
}

/// Whether `sealed` opens with a key that nobody was given.
fn opens(sealed: &Sealed) -> bool {
    let Sealed { policy, key_id, ciphertext: Ciphertext { enc, ct }, signer: _ } = sealed;
    let terms = Terms {
        policy: *policy,
        body_hash: [0; 32],
        direction: Direction::AnswerToMe,
        sealer: None,
        ctx: [0; 32],
        schema: None,
    };
    let private = onward_keys::hash(key_id.as_bytes());
    DisposableKey::from_private(*policy, &private).is_ok()
        && open(&terms, &private, enc.as_deref(), ct).is_ok()
}
