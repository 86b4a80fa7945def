//! HPKE from outside: against another implementation, between the backends, and against whoever changes a byte.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::convert::Infallible;

use onward_keys::{Backend, HpkeSuite, InvalidPublicKey, Unauthentic};
use rand_core::{TryCryptoRng, TryRng};
use serde::Deserialize;

/// A random source that gives `next` and counts it up.
struct Counting([u8; 32]);

impl TryRng for Counting {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only bytes are drawn")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only bytes are drawn")
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> Result<(), Infallible> {
        output.copy_from_slice(&self.0[..output.len()]);
        self.0[31] = self.0[31].wrapping_add(1);
        Ok(())
    }
}

impl TryCryptoRng for Counting {}

/// A sealing by pyhpke, all in hexadecimal; `data/hpke_pyhpke.py` made it.
#[derive(Deserialize)]
struct Recorded {
    private: String,
    public: String,
    ephemeral: String,
    info: String,
    aad: String,
    plaintext: String,
    enc: String,
    ct: String,
}

/// What pyhpke sealed opens here. What is sealed here with the same ephemeral key is the same bytes, which pyhpke opened.
#[test]
fn what_pyhpke_seals_opens_and_what_is_sealed_here_opens_there() {
    let recorded: Vec<Recorded> = serde_json::from_str(include_str!("data/hpke_pyhpke.json")).unwrap();
    let bytes = |text: &str| hex::decode(text).unwrap();
    let array = |text: &str| <[u8; 32]>::try_from(bytes(text)).unwrap();
    let suite = HpkeSuite::P256Aes256Gcm;
    for &backend in Backend::available() {
        let mut agreed = 0;
        for row in &recorded {
            let (private, info, aad) = (array(&row.private), bytes(&row.info), bytes(&row.aad));
            let (enc, ct, plaintext) = (bytes(&row.enc), bytes(&row.ct), bytes(&row.plaintext));
            assert_eq!(suite.public_key(backend, &private).unwrap(), bytes(&row.public));
            let opened = suite.open(backend, &private, &enc, (&info, &aad), &ct).unwrap();
            assert_eq!(*opened, plaintext);
            let random = &mut Counting(array(&row.ephemeral));
            let sealed = suite.seal(backend, &bytes(&row.public), (&info, &aad), &plaintext, random).unwrap();
            assert_eq!((sealed.enc, sealed.ct), (enc, ct));
            agreed += 1;
        }
        assert_eq!(agreed, 10, "{backend:?}");
    }
}

#[test]
fn what_one_backend_seals_every_backend_opens() {
    for suite in SUITES {
        for &sealer in Backend::available() {
            let mut random = Counting([7; 32]);
            let private = suite.generate(&mut random);
            let public = suite.public_key(sealer, private.as_bytes()).unwrap();
            assert_eq!(public.len(), suite.public_key_bytes());
            let sealed = suite.seal(sealer, &public, (b"info", b"aad"), b"4711", &mut random).unwrap();
            assert_eq!(sealed.enc.len(), suite.encapsulated_bytes());
            for &opener in Backend::available() {
                assert_eq!(suite.public_key(opener, private.as_bytes()).unwrap(), public);
                let opened =
                    suite.open(opener, private.as_bytes(), &sealed.enc, (b"info", b"aad"), &sealed.ct);
                assert_eq!(*opened.unwrap(), b"4711");
            }
        }
    }
}

#[test]
fn a_changed_byte_anywhere_does_not_open() {
    let backend = Backend::best();
    for suite in SUITES {
        let mut random = Counting([7; 32]);
        let private = suite.generate(&mut random);
        let public = suite.public_key(backend, private.as_bytes()).unwrap();
        let sealed = suite.seal(backend, &public, (b"info", b"aad"), b"4711", &mut random).unwrap();
        let opens = |enc: &[u8], info: &[u8], aad: &[u8], ct: &[u8]| {
            suite.open(backend, private.as_bytes(), enc, (info, aad), ct)
        };
        for at in 0..sealed.enc.len() {
            let mut enc = sealed.enc.clone();
            enc[at] ^= 1;
            assert_eq!(opens(&enc, b"info", b"aad", &sealed.ct).unwrap_err(), Unauthentic, "{suite:?} {at}");
        }
        for at in 0..sealed.ct.len() {
            let mut ct = sealed.ct.clone();
            ct[at] ^= 1;
            assert!(opens(&sealed.enc, b"info", b"aad", &ct).is_err(), "{suite:?} {at}");
        }
        assert!(opens(&sealed.enc, b"inf0", b"aad", &sealed.ct).is_err());
        assert!(opens(&sealed.enc, b"info", b"aab", &sealed.ct).is_err());
        assert!(opens(&sealed.enc[1..], b"info", b"aad", &sealed.ct).is_err());
        assert!(opens(&sealed.enc, b"info", b"aad", &sealed.ct[..15]).is_err());
    }
}

#[test]
fn nothing_is_sealed_to_what_is_no_key() {
    for &backend in Backend::available() {
        for suite in SUITES {
            let mut random = Counting([7; 32]);
            let private = suite.generate(&mut random);
            let public = suite.public_key(backend, private.as_bytes()).unwrap();
            let mut refused = |public: &[u8]| {
                let sealed = suite.seal(backend, public, (b"", b""), b"4711", &mut random);
                assert_eq!(sealed.unwrap_err(), InvalidPublicKey, "{backend:?} {suite:?}");
            };
            refused(&public[1..]);
            refused(&[&public[..], &[0]].concat());
            refused(&vec![0; public.len()]);
            refused(&vec![0xff; public.len()]);
            if suite == HpkeSuite::P256Aes256Gcm {
                let mut off_curve = public.clone();
                off_curve[64] ^= 1;
                refused(&off_curve);
                let mut hybrid = public.clone();
                hybrid[0] = 6 | (public[64] & 1);
                refused(&hybrid);
                assert!(suite.public_key(backend, &[0xff; 32]).is_err(), "beyond the group's order");
            }
        }
    }
}

const SUITES: [HpkeSuite; 2] = [HpkeSuite::P256Aes256Gcm, HpkeSuite::XWingChaCha20Poly1305];
