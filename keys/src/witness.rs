//! In a build for tests: which secrets there were, so that a test can search memory for them.
//!
//! Behind the feature `witness`, which no product turns on. What is kept is masked, so that the list itself is no
//! place where a secret can be found.

use std::sync::{Mutex, PoisonError};

/// What a secret was used for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Use {
    /// Agreed, derived or shared before: a [`crate::SharedSecret`].
    Shared,
    /// A cipher's key.
    Cipher,
    /// The private half of an X25519 key.
    Agreement,
    /// A key that secrets are wrapped under.
    Wrapping,
    /// A secret that was wrapped.
    Wrapped,
}

/// A secret that was in use, masked with [`MASK`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Noted {
    /// What it was used for.
    pub used: Use,
    /// Every byte of it, xor [`MASK`].
    pub masked: [u8; 32],
}

/// With what each byte of a noted secret is masked.
pub const MASK: u8 = 0xa5;

static NOTED: Mutex<Vec<Noted>> = Mutex::new(Vec::new());

pub(crate) fn note(used: Use, secret: &[u8; 32]) {
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    noted.push(Noted { used, masked: secret.map(|byte| byte ^ MASK) });
}

/// Takes all that was noted.
pub fn take() -> Vec<Noted> {
    std::mem::take(&mut NOTED.lock().unwrap_or_else(PoisonError::into_inner))
}
