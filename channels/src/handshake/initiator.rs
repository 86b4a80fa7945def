//! The initiator's side of a handshake.
//!
//! Specification: docs/protocol.md §3.4.

use std::sync::Arc;

use crate::handshake::{HandshakeConfig, Input, Output};
use crate::identity::Identifier;
use crate::mode::{Mode, Suite};
use crate::{ChannelError, Now};

/// A handshake this end started. Poll it at once: the first message is waiting.
#[derive(Debug)]
pub struct Initiator {}

impl Initiator {
    /// Starts a handshake; `random` is 32 fresh random bytes, used for nothing else.
    ///
    /// With `to`, the channel is bound: only that identifier can answer. Without, whoever the trust policy accepts.
    ///
    /// # Errors
    /// [`ChannelError::Misuse`] for `to` being this end itself, or an `app` or payload that is too long.
    pub fn new(
        now: Now,
        config: Arc<HandshakeConfig>,
        mode: Mode,
        suite: Suite,
        to: Option<Identifier>,
        random: [u8; 32],
    ) -> Result<Self, ChannelError>;

    /// Takes one input. Never fails: what is not valid is dropped.
    pub fn handle(&mut self, now: Now, input: Input<'_>);

    /// What to do next; after every [`Self::handle`] poll until [`Output::Wait`] or the end.
    pub fn poll(&mut self) -> Output;
}
