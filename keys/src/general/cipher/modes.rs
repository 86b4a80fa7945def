//! The modes of AES, computed by AWS-LC, and what is built on them.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_128_GCM_SIV, AES_256_GCM, AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::super::{Failed, Mode};
use crate::{Label, hkdf_expand, hkdf_extract};

pub(super) fn encrypt(mode: Mode, secret: &[u8], aad: &[u8], data: &[u8]) -> Result<Vec<u8>, Failed> {
    match mode {
        Mode::Gcm | Mode::GcmSiv => {
            let nonce = random::<NONCE_BYTES>()?;
            seal(mode, secret, &nonce, aad, data)
        }
        Mode::CtrHmac => {
            let keys = CtrKeys::derive(secret);
            let start = random::<IV_BYTES>()?;
            let mut sealed = Vec::with_capacity(IV_BYTES + data.len() + MAC_BYTES);
            sealed.extend_from_slice(&start);
            sealed.extend_from_slice(data);
            ctr(&keys.cipher, start, &mut sealed[IV_BYTES..])?;
            let tag = tag(keys.mac.as_ref(), aad, &sealed, Length::First)?;
            sealed.extend_from_slice(&tag);
            Ok(sealed)
        }
        Mode::CbcHmac => {
            let (mac_key, cipher_key) = cbc_keys(secret)?;
            let start = random::<IV_BYTES>()?;
            let padding = IV_BYTES - data.len() % IV_BYTES;
            let mut sealed = Vec::with_capacity(IV_BYTES + data.len() + padding + CBC_TAG_BYTES);
            sealed.extend_from_slice(&start);
            sealed.extend_from_slice(data);
            sealed.resize(sealed.len() + padding, padding as u8);
            cbc_encrypt(cipher_key, start, &mut sealed[IV_BYTES..])?;
            let tag = tag(mac_key, aad, &sealed, Length::Last)?;
            sealed.extend_from_slice(&tag[..CBC_TAG_BYTES]);
            Ok(sealed)
        }
    }
}

pub(super) fn decrypt(
    mode: Mode,
    secret: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    match mode {
        Mode::Gcm | Mode::GcmSiv => open(mode, secret, aad, sealed),
        Mode::CtrHmac => {
            let keys = CtrKeys::derive(secret);
            let (authenticated, found) = sealed.split_last_chunk::<MAC_BYTES>().ok_or(Failed::Refused)?;
            let (start, ciphertext) = authenticated.split_first_chunk().ok_or(Failed::Refused)?;
            check(&tag(keys.mac.as_ref(), aad, authenticated, Length::First)?, found)?;
            let mut opened = Zeroizing::new(ciphertext.to_vec());
            ctr(&keys.cipher, *start, &mut opened)?;
            Ok(opened)
        }
        Mode::CbcHmac => {
            let (mac_key, cipher_key) = cbc_keys(secret)?;
            let (authenticated, found) = sealed.split_last_chunk::<CBC_TAG_BYTES>().ok_or(Failed::Refused)?;
            let (start, ciphertext) = authenticated.split_first_chunk().ok_or(Failed::Refused)?;
            check(&tag(mac_key, aad, authenticated, Length::Last)?[..CBC_TAG_BYTES], found)?;
            if ciphertext.is_empty() || ciphertext.len() % IV_BYTES != 0 {
                return Err(Failed::Refused);
            }
            let mut opened = Zeroizing::new(ciphertext.to_vec());
            cbc_decrypt(cipher_key, *start, &mut opened)?;
            // Authentic by now: whoever made this padding has the key.
            let padding = usize::from(opened.last().copied().unwrap_or_default());
            let kept = opened.len().checked_sub(padding).filter(|_| (1..=IV_BYTES).contains(&padding));
            let kept = kept.filter(|kept| opened[*kept..].iter().all(|byte| usize::from(*byte) == padding));
            opened.truncate(kept.ok_or(Failed::Refused)?);
            Ok(opened)
        }
    }
}

/// The two keys of [`Mode::CtrHmac`], derived from one of either length.
struct CtrKeys {
    cipher: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
}

impl CtrKeys {
    fn derive(secret: &[u8]) -> Self {
        let root = hkdf_extract(&[], secret);
        let (mut cipher, mut mac) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        hkdf_expand(root.as_bytes(), &Label::new("key/ctr-hmac/cipher"), cipher.as_mut());
        hkdf_expand(root.as_bytes(), &Label::new("key/ctr-hmac/mac"), mac.as_mut());
        Self { cipher, mac }
    }
}

/// The key of the MAC, and that of the cipher: RFC 7518 §5.2.2.1.
fn cbc_keys(secret: &[u8]) -> Result<(&[u8], &[u8; 16]), Failed> {
    let (mac_key, cipher_key) = secret.split_last_chunk::<16>().ok_or(Failed::Unfit)?;
    if mac_key.len() == 16 { Ok((mac_key, cipher_key)) } else { Err(Failed::Unfit) }
}

/// Where the length of the associated data stands among what is authenticated.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Length {
    /// In front, in bytes: [`Mode::CtrHmac`].
    First,
    /// At the end, in bits: [`Mode::CbcHmac`].
    Last,
}

fn tag(key: &[u8], aad: &[u8], sealed: &[u8], length: Length) -> Result<[u8; MAC_BYTES], Failed> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Failed::Unfit)?;
    if length == Length::First {
        mac.update(&(aad.len() as u64).to_be_bytes());
    }
    mac.update(aad);
    mac.update(sealed);
    if length == Length::Last {
        mac.update(&(8 * aad.len() as u64).to_be_bytes());
    }
    Ok(mac.finalize().into_bytes().into())
}

fn check(expected: &[u8], found: &[u8]) -> Result<(), Failed> {
    if expected.ct_eq(found).into() { Ok(()) } else { Err(Failed::Refused) }
}

fn random<const N: usize>() -> Result<[u8; N], Failed> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Failed::System)?;
    Ok(bytes)
}

fn aead_key(mode: Mode, secret: &[u8]) -> Result<LessSafeKey, Failed> {
    let algorithm = match (mode, secret.len()) {
        (Mode::Gcm, 16) => &AES_128_GCM,
        (Mode::Gcm, 32) => &AES_256_GCM,
        (Mode::GcmSiv, 16) => &AES_128_GCM_SIV,
        (Mode::GcmSiv, 32) => &AES_256_GCM_SIV,
        _ => return Err(Failed::Unfit),
    };
    Ok(LessSafeKey::new(UnboundKey::new(algorithm, secret).map_err(|_| Failed::Unfit)?))
}

fn seal(
    mode: Mode,
    secret: &[u8],
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &[u8],
) -> Result<Vec<u8>, Failed> {
    let key = aead_key(mode, secret)?;
    let mut sealed = Vec::with_capacity(NONCE_BYTES + data.len() + key.algorithm().tag_len());
    sealed.extend_from_slice(nonce);
    sealed.extend_from_slice(data);
    let text = &mut sealed[NONCE_BYTES..];
    let tag = key.seal_in_place_separate_tag(Nonce::from(nonce), Aad::from(aad), text);
    sealed.extend_from_slice(tag.map_err(|_| Failed::System)?.as_ref());
    Ok(sealed)
}

fn open(mode: Mode, secret: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let key = aead_key(mode, secret)?;
    let (nonce, text) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Failed::Refused)?;
    let mut opened = Zeroizing::new(text.to_vec());
    let text = key.open_in_place(Nonce::from(nonce), Aad::from(aad), &mut opened);
    let length = text.map_err(|_| Failed::Refused)?.len();
    opened.truncate(length);
    Ok(opened)
}

/// Counts from `start` with AES-256: encrypts and decrypts.
fn ctr(key: &[u8; 32], start: [u8; IV_BYTES], text: &mut [u8]) -> Result<(), Failed> {
    let key = UnboundCipherKey::new(&AES_256, key).map_err(|_| Failed::System)?;
    let key = EncryptingKey::ctr(key).map_err(|_| Failed::System)?;
    let context = EncryptionContext::Iv128(FixedLength::from(start));
    key.less_safe_encrypt(text, context).map(|_| ()).map_err(|_| Failed::System)
}

fn cbc_encrypt(key: &[u8; 16], start: [u8; IV_BYTES], text: &mut [u8]) -> Result<(), Failed> {
    let key = UnboundCipherKey::new(&AES_128, key).map_err(|_| Failed::System)?;
    let key = EncryptingKey::cbc(key).map_err(|_| Failed::System)?;
    let context = EncryptionContext::Iv128(FixedLength::from(start));
    key.less_safe_encrypt(text, context).map(|_| ()).map_err(|_| Failed::System)
}

fn cbc_decrypt(key: &[u8; 16], start: [u8; IV_BYTES], text: &mut [u8]) -> Result<(), Failed> {
    let key = UnboundCipherKey::new(&AES_128, key).map_err(|_| Failed::System)?;
    let key = DecryptingKey::cbc(key).map_err(|_| Failed::System)?;
    let context = DecryptionContext::Iv128(FixedLength::from(start));
    key.decrypt(text, context).map(|_| ()).map_err(|_| Failed::System)
}

const NONCE_BYTES: usize = 12;
const IV_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
const CBC_TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3686 §6, test vector 7, whose counter block is nonce, vector and counter.
    #[test]
    fn the_counter_mode_agrees_with_rfc_3686() {
        let key: [u8; 32] = array("776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c104");
        let start: [u8; 16] = array("00000060db5672c97aa8f0b200000001");
        let mut text = *b"Single block msg";
        ctr(&key, start, &mut text).unwrap();
        assert_eq!(hex::encode(text), "145ad01dbf824ec7560863dc71e3e0c0");
    }

    fn array<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }
}
