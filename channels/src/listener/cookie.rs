//! Cookies: proof that whoever sent a first message also receives what goes back to it, without any state.
//!
//! `cookie = epoch (8, big endian) || MAC(K_epoch, L("ch/cookie", hsid, H(noise), flow, epoch))`; an epoch is 120 s of
//! the driver's clock, and the cookies of one earlier epoch still hold.
//!
//! Specification: docs/protocol.md §3.4.

use std::time::Duration;

use onward_keys::{Label, SharedSecret, hash, mac, mac_verify};

use crate::Now;
use crate::handshake::message::Cookie;
use crate::random::SeededRandom;

/// The keys of the current epoch and of the one before.
#[derive(Default)]
pub(super) struct CookieKeys {
    current: Option<EpochKey>,
    previous: Option<EpochKey>,
}

struct EpochKey {
    epoch: u64,
    key: SharedSecret,
}

impl CookieKeys {
    /// Begins a new epoch when its time has come. A key of before the previous epoch is erased.
    pub(super) fn rotate(&mut self, now: Now, random: &mut SeededRandom) {
        let epoch = now.mono.as_secs() / EPOCH.as_secs();
        if self.current.as_ref().is_some_and(|current| current.epoch == epoch) {
            return;
        }
        let key = SharedSecret::new(&zeroize::Zeroizing::new(random.bytes()));
        self.previous =
            self.current.replace(EpochKey { epoch, key }).filter(|previous| previous.epoch + 1 == epoch);
    }

    /// A cookie of the current epoch; `None` before the first [`Self::rotate`].
    pub(super) fn make(&self, hsid: [u8; 16], noise: &[u8], flow: u128) -> Option<Cookie> {
        let EpochKey { epoch, key } = self.current.as_ref()?;
        let mut cookie = [0; 40];
        cookie[..8].copy_from_slice(&epoch.to_be_bytes());
        cookie[8..].copy_from_slice(&mac(key.as_bytes(), &statement(hsid, noise, flow, *epoch)));
        Some(cookie)
    }

    /// Whether `cookie` was made for exactly this message on this flow, in this epoch or the one before.
    pub(super) fn verify(&self, cookie: &Cookie, hsid: [u8; 16], noise: &[u8], flow: u128) -> bool {
        let Some((epoch, tag)) = cookie.split_first_chunk() else {
            return false;
        };
        let epoch = u64::from_be_bytes(*epoch);
        let Ok(tag) = <&[u8; 32]>::try_from(tag) else {
            return false;
        };
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(|of| of.epoch == epoch)
            .any(|of| mac_verify(of.key.as_bytes(), &statement(hsid, noise, flow, epoch), tag).is_ok())
    }
}

fn statement(hsid: [u8; 16], noise: &[u8], flow: u128, epoch: u64) -> Vec<u8> {
    Label::new("ch/cookie").bytes(&hsid).bytes(&hash(noise)).bytes(&flow.to_be_bytes()).uint(epoch).encode()
}

const EPOCH: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), unix: 0 }
    }

    #[test]
    fn n3_10_a_cookie_holds_for_its_message_flow_and_epochs_only() {
        let mut random = SeededRandom::new(&[4; 32]);
        let mut keys = CookieKeys::default();
        assert!(keys.make([1; 16], b"noise", 7).is_none());
        keys.rotate(at(10), &mut random);
        let cookie = keys.make([1; 16], b"noise", 7).unwrap();
        assert!(keys.verify(&cookie, [1; 16], b"noise", 7));
        assert!(!keys.verify(&cookie, [2; 16], b"noise", 7), "other hsid");
        assert!(!keys.verify(&cookie, [1; 16], b"other", 7), "other message");
        assert!(!keys.verify(&cookie, [1; 16], b"noise", 8), "other flow");
        for at in 0..cookie.len() {
            let mut changed = cookie;
            changed[at] ^= 1;
            assert!(!keys.verify(&changed, [1; 16], b"noise", 7), "byte {at}");
        }
        keys.rotate(at(130), &mut random);
        assert!(keys.verify(&cookie, [1; 16], b"noise", 7), "one epoch later");
        keys.rotate(at(250), &mut random);
        assert!(!keys.verify(&cookie, [1; 16], b"noise", 7), "two epochs later");
        let cookie = keys.make([1; 16], b"noise", 7).unwrap();
        keys.rotate(at(1000), &mut random);
        assert!(!keys.verify(&cookie, [1; 16], b"noise", 7), "after a gap");
    }
}
