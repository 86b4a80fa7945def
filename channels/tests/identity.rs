//! Identities as a stranger presents them: what is accepted, and above all what is not.
#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "identity/fixture.rs"]
mod fixture;

#[path = "identity/credential.rs"]
mod credential;
#[path = "identity/history.rs"]
mod history;
#[path = "identity/known.rs"]
mod known;
#[path = "identity/payload.rs"]
mod payload;
#[path = "identity/stored.rs"]
mod stored;
#[path = "identity/times.rs"]
mod times;
