//! The key file: one line that names the key's usage, then its PKCS#8 form in PEM.
//!
//! Decoding accepts exactly what encoding writes, byte for byte, so a file has one meaning.
//!
//! Specification: RFC 8410 §7, RFC 7468 §10.

use pkcs8::{LineEnding, SecretDocument};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::PrivateKey;
use crate::{KeyUsage, StoreError};

/// More than any key file has.
pub(super) const FILE_BYTES_MAX: u64 = 1024;

/// The text of the file of `key`.
pub(super) fn encode(key: &PrivateKey) -> Result<Zeroizing<String>, StoreError> {
    let prefix = prefix(key.usage);
    let mut der = Zeroizing::new([0; DER_BYTES]);
    der[..prefix.len()].copy_from_slice(&prefix);
    der[prefix.len()..].copy_from_slice(key.secret.as_ref());
    let pem = SecretDocument::try_from(der.as_slice())
        .and_then(|document| document.to_pem(PEM_LABEL, LineEnding::LF))
        .map_err(|_| StoreError::Malformed("PKCS#8"))?;
    // The capacity is exact, so that the text never moves and leaves a copy behind.
    let usage = key.usage.name();
    let length = FIRST_LINE.len() + usage.len() + 1 + pem.len();
    let mut text = Zeroizing::new(String::with_capacity(length));
    for part in [FIRST_LINE, usage, "\n", &pem] {
        text.push_str(part);
    }
    Ok(text)
}

/// The key in the file with this content.
pub(super) fn decode(content: &[u8]) -> Result<PrivateKey, StoreError> {
    let text = std::str::from_utf8(content).map_err(|_| StoreError::Malformed("not a text"))?;
    let (usage, pem) = text
        .strip_prefix(FIRST_LINE)
        .and_then(|rest| rest.split_once('\n'))
        .ok_or(StoreError::Malformed("first line"))?;
    let usage = KeyUsage::parse(usage).filter(|usage| usage.general().is_none());
    let usage = usage.ok_or(StoreError::Malformed("unknown usage"))?;
    let (label, document) = SecretDocument::from_pem(pem).map_err(|_| StoreError::Malformed("PEM"))?;
    let secret = document.as_bytes().strip_prefix(&prefix(usage));
    let secret = secret.and_then(|secret| <&[u8; 32]>::try_from(secret).ok());
    let (PEM_LABEL, Some(secret)) = (label, secret) else {
        return Err(StoreError::Malformed("PKCS#8"));
    };
    let key = PrivateKey::new(usage, secret);
    if !bool::from(encode(&key)?.as_bytes().ct_eq(content)) {
        return Err(StoreError::Malformed("not written by this version"));
    }
    Ok(key)
}

/// `PrivateKeyInfo { version 0, algorithm 1.3.101.n, privateKey OCTET STRING of an OCTET STRING of 32 bytes }` up to
/// those bytes, where n is 110 for X25519 and 112 for Ed25519.
fn prefix(usage: KeyUsage) -> [u8; DER_BYTES - 32] {
    let algorithm = if usage.agrees() { 110 } else { 112 };
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, algorithm, 0x04, 0x22, 0x04, 0x20]
}

const DER_BYTES: usize = 48;
const FIRST_LINE: &str = "onward development key, not protected: ";
const PEM_LABEL: &str = "PRIVATE KEY";

#[cfg(test)]
mod tests {
    use super::*;

    /// The private key of RFC 8410 §10.3.
    const RFC_8410: &str = "onward development key, not protected: identity\n\
        -----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn the_key_of_rfc_8410_is_read_with_its_public_key() {
        let key = decode(RFC_8410.as_bytes()).unwrap();
        assert_eq!(key.usage, KeyUsage::Identity);
        assert_eq!(
            hex::encode(key.public.as_bytes()),
            "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
        );
        assert_eq!(encode(&key).unwrap().as_str(), RFC_8410);
    }

    #[test]
    fn the_files_are_pkcs8_for_other_readers() {
        for usage in KeyUsage::ALL {
            let text = encode(&PrivateKey::new(usage, &[7; 32])).unwrap();
            let (_, pem) = text.split_once('\n').unwrap();
            let (_, document) = SecretDocument::from_pem(pem).unwrap();
            let info: pkcs8::PrivateKeyInfoRef<'_> = document.decode_msg().unwrap();
            let number = if usage.agrees() { 110 } else { 112 };
            assert_eq!(info.algorithm.oid.to_string(), format!("1.3.101.{number}"), "{usage}");
            assert_eq!(info.private_key.as_bytes(), [&[0x04, 0x20], &[7; 32][..]].concat());
            assert!(text.len() as u64 <= FILE_BYTES_MAX);
        }
    }

    #[test]
    fn anything_but_the_exact_text_is_malformed() {
        for changed in [
            RFC_8410.replacen("onward", "Onward", 1),
            RFC_8410.replacen("identity", "everything", 1),
            RFC_8410.replacen("identity", "channel-static", 1),
            RFC_8410.replacen("PRIVATE KEY", "PUBLIC KEY", 2),
            RFC_8410.replacen("BCIEIN", "BCMEIN", 1),
            RFC_8410.replace('\n', "\r\n"),
            format!("{RFC_8410}\n"),
            RFC_8410[..RFC_8410.len() - 1].to_owned(),
            RFC_8410[..90].to_owned(),
            String::new(),
        ] {
            let decoded = decode(changed.as_bytes());
            assert!(matches!(decoded, Err(StoreError::Malformed(_))), "{changed}");
        }
        assert!(matches!(decode(b"\xff\xfe"), Err(StoreError::Malformed(_))));
    }
}
