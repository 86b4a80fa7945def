//! Hash, MAC and key derivation: BLAKE2s-256 in its three forms.
//!
//! There is one implementation for all backends: AWS-LC has no keyed BLAKE2s, and these run on handshakes and
//! structures, not on bulk data.
//!
//! Specification: docs/protocol.md §0 (primitives); RFC 7693, RFC 5869.

use blake2::digest::{FixedOutput as _, KeyInit as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac256, Digest as _};
use hkdf::SimpleHkdf;
use zeroize::Zeroize as _;

use crate::{Label, SharedSecret, Unauthentic};

/// H: BLAKE2s-256 of `message`.
#[must_use]
pub fn hash(message: &[u8]) -> [u8; 32] {
    Blake2s256::digest(message).into()
}

/// SHA-256 of `message`, for the formats of others.
#[must_use]
pub fn sha256(message: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(message).into()
}

/// MAC: keyed BLAKE2s-256 of `message`, 32 bytes.
#[must_use]
pub fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    keyed(key, message).finalize_fixed().into()
}

/// Checks the MAC of `message` in constant time.
///
/// # Errors
/// [`Unauthentic`] when `tag` is not [`mac`] of `message` under `key`.
pub fn mac_verify(key: &[u8; 32], message: &[u8], tag: &[u8; 32]) -> Result<(), Unauthentic> {
    keyed(key, message).verify(tag.into()).map_err(|_| Unauthentic)
}

/// HKDF-Extract over HMAC-BLAKE2s-256: the pseudorandom key of `input` under `salt` (any lengths).
#[must_use]
pub fn hkdf_extract(salt: &[u8], input: &[u8]) -> SharedSecret {
    let (mut key, _) = SimpleHkdf::<Blake2s256>::extract(Some(salt), input);
    let secret = SharedSecret::new(key.as_ref());
    key.zeroize();
    secret
}

/// HKDF-Expand over HMAC-BLAKE2s-256: fills `output` from `key` for the purpose named by `info`.
///
/// # Panics
/// When `output` is longer than 8 160 bytes (255 blocks), which RFC 5869 does not define.
pub fn hkdf_expand(key: &[u8; 32], info: &Label, output: &mut [u8]) {
    expand(key, &info.encode(), output);
}

fn keyed(key: &[u8; 32], message: &[u8]) -> Blake2sMac256 {
    let mut mac = Blake2sMac256::new(key.into());
    mac.update(message);
    mac
}

fn expand(key: &[u8; 32], info: &[u8], output: &mut [u8]) {
    assert!(output.len() <= EXPAND_BYTES_MAX, "HKDF-Expand of more than {EXPAND_BYTES_MAX} bytes");
    let expanded = SimpleHkdf::<Blake2s256>::from_prk(key).map(|hkdf| hkdf.expand(info, output));
    // The key is exactly one hash long and the length is checked above: the two reasons to fail.
    assert!(matches!(expanded, Ok(Ok(()))), "HKDF-Expand failed");
}

/// 255 blocks of 32 bytes (RFC 5869 §2.3).
const EXPAND_BYTES_MAX: usize = 255 * 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7693 appendix E: a hash over the hashes, plain and keyed, of inputs of many lengths. Here for the one output
    /// length this crate has; the expected value was computed with the BLAKE2s of CPython's hashlib.
    #[test]
    fn blake2s_agrees_with_the_self_test_of_rfc_7693_at_full_length() {
        let mut all = Vec::new();
        for length in [0, 3, 64, 65, 255, 1024] {
            let input = sequence(length);
            all.extend(hash(&input));
            let key = sequence(32).try_into().unwrap();
            all.extend(mac(&key, &input));
        }
        assert_eq!(hex::encode(hash(&all)), SELF_TEST);
    }

    #[test]
    fn blake2s_agrees_with_rfc_7693_appendix_b() {
        assert_eq!(
            hex::encode(hash(b"abc")),
            "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
        );
    }

    /// The first and last keyed vectors published with BLAKE2 (`blake2-kat`).
    #[test]
    fn the_mac_is_keyed_blake2s() {
        let key = std::array::from_fn(|at| at as u8);
        let longest: Vec<u8> = (0..255).collect();
        assert_eq!(
            hex::encode(mac(&key, b"")),
            "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"
        );
        assert_eq!(
            hex::encode(mac(&key, &longest)),
            "3fb735061abc519dfe979e54c1ee5bfad0a9d858b3315bad34bde999efd724dd"
        );
    }

    #[test]
    fn a_mac_verifies_only_under_its_key_over_its_message() {
        let tag = mac(&[1; 32], b"message");
        assert_eq!(mac_verify(&[1; 32], b"message", &tag), Ok(()));
        assert_eq!(mac_verify(&[2; 32], b"message", &tag), Err(Unauthentic));
        assert_eq!(mac_verify(&[1; 32], b"massage", &tag), Err(Unauthentic));
        for at in 0..32 {
            let mut changed = tag;
            changed[at] ^= 1;
            assert_eq!(mac_verify(&[1; 32], b"message", &changed), Err(Unauthentic));
        }
    }

    /// The inputs of RFC 5869 appendices A.1 to A.3; the outputs, for BLAKE2s, were computed with CPython's hashlib.
    #[test]
    fn hkdf_agrees_with_an_independent_implementation() {
        let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
        let cases = [
            (
                vec![0x0b; 22],
                range(0x00, 0x0c),
                range(0xf0, 0xf9),
                "57e878130679f9ea85900980b52df2643d043b82f290eb7dd62175dbb04cca4e",
                "1472c31f2ff768c71b19f8803683ee3b13c1a5fb3ea59c0c3bf0d44a4a40dcd4329d9cd85bbe35a1b3e7",
            ),
            (
                range(0x00, 0x4f),
                range(0x60, 0xaf),
                range(0xb0, 0xff),
                "67ba3b32417ecf634cce8b62ef78dd621c3d5c6f40615b7fa6759a5c54c13745",
                "9a4d17a2953c7331fecfb23ff13578c4758b4f5ebaac2dae59dd0d2c8457e2f0075434cf17d98cadf4fcfdcd6d\
                 818a3f4f99679d3265bd9da9955b901661a974b146aa7e89fbdcc114e6de28b28b38b87c51",
            ),
            (
                vec![0x0b; 22],
                vec![],
                vec![],
                "ca62915d4a8508e2c993341d6cd4221d9152f2582c263e0335c6cfab4ebf1937",
                "064c0f0b9d9148a2e5ac797e5ef23d1b39b422f1ec37b57b45065ff2b607527143b9b9f8ba59db392663",
            ),
        ];
        for (input, salt, info, extracted, expanded) in cases {
            let key = hkdf_extract(&salt, &input);
            assert_eq!(hex::encode(key.as_bytes()), extracted);
            let mut output = vec![0; expanded.len() / 2];
            expand(key.as_bytes(), &info, &mut output);
            assert_eq!(hex::encode(output), expanded);
        }
    }

    #[test]
    fn labels_separate_what_is_expanded() {
        let expanded = |info: &Label| {
            let mut output = [0; 64];
            hkdf_expand(&[7; 32], info, &mut output);
            output
        };
        let mut raw = [0; 64];
        expand(&[7; 32], &Label::new("export").encode(), &mut raw);
        assert_eq!(expanded(&Label::new("export")), raw);
        assert_ne!(expanded(&Label::new("export")), expanded(&Label::new("hs")));
    }

    #[test]
    fn expansion_goes_to_255_blocks() {
        let mut output = vec![0; EXPAND_BYTES_MAX];
        hkdf_expand(&[7; 32], &Label::new("long"), &mut output);
        assert_ne!(output[EXPAND_BYTES_MAX - 32..], [0; 32]);
    }

    #[test]
    #[should_panic(expected = "HKDF-Expand of more than 8160 bytes")]
    fn expansion_beyond_255_blocks_panics() {
        hkdf_expand(&[7; 32], &Label::new("long"), &mut vec![0; EXPAND_BYTES_MAX + 1]);
    }

    /// The deterministic sequence of RFC 7693 appendix E, seeded with its length.
    fn sequence(length: u32) -> Vec<u8> {
        let (mut a, mut b) = (0xDEAD_4BAD_u32.wrapping_mul(length), 1_u32);
        let next = |_| {
            let sum = a.wrapping_add(b);
            (a, b) = (b, sum);
            (sum >> 24) as u8
        };
        (0..length).map(next).collect()
    }

    const SELF_TEST: &str = "caf4e0cc2111755c0b9672541eb947406ea171d4b62cb363cf80ab560214d804";
}
