//! The PEM of a P-256 public key: one form, and no parser.
//!
//! Everything in the file but the 64 bytes of the point is constant, so a key is read by comparing. What differs in
//! any byte, curve parameters spelt out, a compressed point, another curve, other line ends, does not compare equal.
//!
//! Specification: docs/protocol.md §5.2; RFC 5480, RFC 7468.

/// The length of the PEM.
pub const PEM_BYTES: usize = 178;

/// The PEM of the uncompressed point `point`.
pub(super) fn encode(point: &[u8; POINT_BYTES]) -> Vec<u8> {
    let mut der = [0; DER_BYTES];
    der[..HEAD.len()].copy_from_slice(HEAD);
    der[HEAD.len()..].copy_from_slice(point);
    let mut pem = Vec::with_capacity(PEM_BYTES);
    pem.extend_from_slice(BEGIN);
    for line in der.chunks(DER_BYTES_A_LINE) {
        base64(line, &mut pem);
        pem.push(b'\n');
    }
    pem.extend_from_slice(END);
    pem
}

/// The uncompressed point in `pem`, not yet known to lie on the curve; `None` if a byte is not as [`encode`] puts it.
pub(super) fn decode(pem: &[u8]) -> Option<[u8; POINT_BYTES]> {
    let body = pem.strip_prefix(BEGIN)?.strip_suffix(END)?;
    let mut der = Vec::with_capacity(DER_BYTES);
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        from_base64(line, &mut der)?;
    }
    let point = der.strip_prefix(HEAD)?.try_into().ok()?;
    // One meaning, one text: other breaks, and bits that the padding hides, end here.
    (encode(&point) == pem).then_some(point)
}

fn base64(bytes: &[u8], text: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0, |group, byte| group << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[group >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
}

fn from_base64(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    for quad in text.chunks(4) {
        let digits = quad.iter().take_while(|digit| **digit != b'=').count();
        let value = |digit: &u8| ALPHABET.iter().position(|letter| letter == digit);
        let mut group = 0;
        for digit in quad.get(..digits)? {
            group = group << 6 | value(digit)?;
        }
        group <<= 6 * (4 - digits);
        let [_, decoded @ ..] = u32::try_from(group).ok()?.to_be_bytes();
        bytes.extend_from_slice(decoded.get(..digits.checked_sub(1)?)?);
    }
    Some(())
}

/// The length of an uncompressed point.
pub(super) const POINT_BYTES: usize = 65;

/// A SubjectPublicKeyInfo of a named curve, up to its point: id-ecPublicKey, prime256v1, 66 bytes of bit string.
const HEAD: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const DER_BYTES: usize = 91;

/// 64 digits a line.
const DER_BYTES_A_LINE: usize = 48;

const BEGIN: &[u8] = b"-----BEGIN PUBLIC KEY-----\n";
const END: &[u8] = b"-----END PUBLIC KEY-----\n";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_text_and_it_is_read() {
        let point = std::array::from_fn(|at| if at == 0 { 4 } else { at as u8 });
        let pem = encode(&point);
        assert_eq!(pem.len(), PEM_BYTES);
        assert_eq!(decode(&pem), Some(point));
        for at in 0..pem.len() {
            let mut changed = pem.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_none_or(|other| other != point), "byte {at}");
        }
    }
}
