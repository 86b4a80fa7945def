//! Exchanges as their parties see them, and as whoever lies between would like them.
#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "exchange/fixture.rs"]
mod fixture;

#[path = "exchange/attacks.rs"]
mod attacks;
#[path = "exchange/composition.rs"]
mod composition;
#[path = "exchange/flows.rs"]
mod flows;
#[path = "exchange/pem.rs"]
mod pem;
#[path = "exchange/pins.rs"]
mod pins;
#[path = "exchange/tokens.rs"]
mod tokens;
