//! Tokens: proof that whoever sent an INIT also receives what goes back to it, without any state.
//!
//! `token = ts (8) || MAC(K_epoch, L("udp/token", ip, port, cid_i, ts))`. The time is the listener's own
//! and nobody else's; the keys are made here and never leave.
//!
//! Specification: docs/protocol.md §2.2.

use std::net::SocketAddr;
use std::time::Duration;

use onward_keys::{Label, SharedSecret, mac, mac_verify};

use super::datagram::{Cid, Token};

/// How long a token holds.
const VALID: Duration = Duration::from_secs(30);
/// How long tokens are made with one key, which then holds once as long.
const EPOCH: Duration = Duration::from_secs(120);

/// The keys of the current epoch and of the one before.
pub(crate) struct Tokens {
    began: Duration,
    current: SharedSecret,
    previous: Option<SharedSecret>,
}

impl Tokens {
    /// Keys that begin now; `random` is asked twice for each key.
    pub(crate) fn new(now: Duration, random: &mut dyn FnMut() -> u128) -> Self {
        Self { began: now, current: fresh(random), previous: None }
    }

    /// Begins a new epoch when its time has come. A key of before the previous epoch is erased.
    pub(crate) fn rotate(&mut self, now: Duration, random: &mut dyn FnMut() -> u128) {
        let age = now.saturating_sub(self.began);
        if age < EPOCH {
            return;
        }
        let ended = std::mem::replace(&mut self.current, fresh(random));
        self.previous = (age < 2 * EPOCH).then_some(ended);
        self.began = now;
    }

    /// A token for whoever is at `from` and calls itself `initiator`.
    pub(crate) fn make(&self, now: Duration, from: SocketAddr, initiator: Cid) -> Token {
        let time = now.as_secs();
        let mut token = [0; 40];
        token[..8].copy_from_slice(&time.to_be_bytes());
        token[8..].copy_from_slice(&mac(self.current.as_bytes(), &statement(from, initiator, time)));
        token
    }

    /// Whether `token` was made here, for this address and initiator, at most 30 s ago.
    pub(crate) fn verify(&self, now: Duration, from: SocketAddr, initiator: Cid, token: &Token) -> bool {
        let Some((time, tag)) = token.split_first_chunk::<8>() else { return false };
        let Ok(tag) = <&[u8; 32]>::try_from(tag) else { return false };
        let time = u64::from_be_bytes(*time);
        let is_recent = now.as_secs().checked_sub(time).is_some_and(|age| age <= VALID.as_secs());
        let statement = statement(from, initiator, time);
        let mut keys = [Some(&self.current), self.previous.as_ref()].into_iter().flatten();
        is_recent && keys.any(|key| mac_verify(key.as_bytes(), &statement, tag).is_ok())
    }
}

fn fresh(random: &mut dyn FnMut() -> u128) -> SharedSecret {
    let mut bytes = [0; 32];
    for half in bytes.chunks_exact_mut(16) {
        half.copy_from_slice(&random().to_be_bytes());
    }
    let secret = SharedSecret::new(&bytes);
    // What the key was made from must not outlive it on the stack.
    std::hint::black_box(&mut bytes).fill(0);
    secret
}

fn statement(from: SocketAddr, initiator: Cid, time: u64) -> Vec<u8> {
    let label = Label::new("udp/token");
    let label = match from.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => label.bytes(&ip.octets()),
        std::net::IpAddr::V6(ip) => label.bytes(&ip.octets()),
    };
    label.uint(u64::from(from.port())).bytes(&initiator.to_bytes()).uint(time).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> impl FnMut() -> u128 {
        let mut next = 1_u128;
        move || {
            next = next.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).wrapping_add(1);
            next
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cid(number: u64) -> Cid {
        Cid::new(number).unwrap()
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn n2_4_a_token_holds_for_its_address_port_and_initiator_only() {
        let tokens = Tokens::new(at(0), &mut random());
        let token = tokens.make(at(5), from("10.0.0.1:9"), cid(7));
        assert!(tokens.verify(at(5), from("10.0.0.1:9"), cid(7), &token));
        assert!(tokens.verify(at(5), from("[::ffff:10.0.0.1]:9"), cid(7), &token), "the same address");
        assert!(!tokens.verify(at(5), from("10.0.0.2:9"), cid(7), &token), "other address");
        assert!(!tokens.verify(at(5), from("10.0.0.1:8"), cid(7), &token), "other port");
        assert!(!tokens.verify(at(5), from("10.0.0.1:9"), cid(8), &token), "other initiator");
        let elsewhere = Tokens::new(at(0), &mut || 4);
        assert!(!elsewhere.verify(at(5), from("10.0.0.1:9"), cid(7), &token), "other node");
        for byte in 0..token.len() {
            let mut changed = token;
            changed[byte] ^= 1;
            assert!(!tokens.verify(at(5), from("10.0.0.1:9"), cid(7), &changed), "byte {byte}");
        }
    }

    #[test]
    fn n2_4_a_token_holds_for_30_s() {
        let tokens = Tokens::new(at(0), &mut random());
        let token = tokens.make(at(5), from("10.0.0.1:9"), cid(7));
        assert!(tokens.verify(at(35), from("10.0.0.1:9"), cid(7), &token));
        assert!(!tokens.verify(at(36), from("10.0.0.1:9"), cid(7), &token));
        assert!(!tokens.verify(at(4), from("10.0.0.1:9"), cid(7), &token), "from the future");
    }

    #[test]
    fn n2_4_a_token_outlives_one_rotation_and_not_two() {
        let mut random = random();
        let address = from("10.0.0.1:9");
        let mut tokens = Tokens::new(at(0), &mut random);
        let token = tokens.make(at(119), address, cid(7));
        tokens.rotate(at(120), &mut random);
        assert!(tokens.verify(at(120), address, cid(7), &token), "one rotation");
        tokens.rotate(at(240), &mut random);
        // The age alone would refuse it by now; the key is gone as well.
        assert!(!tokens.verify(at(119), address, cid(7), &token), "two rotations");
        let token = tokens.make(at(241), address, cid(7));
        tokens.rotate(at(1000), &mut random);
        assert!(!tokens.verify(at(241), address, cid(7), &token), "a gap counts as two");
    }
}
